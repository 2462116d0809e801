//! Requests about plugins: what ran, what there is to do, and to do it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;
use crate::host::hook::{Hook, Reply, Secrets};
use crate::spec::plugin::{Phase, PluginName};

/// What is remembered of plugins on the host, in the order in which they first ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadHooks {}

impl Call for ReadHooks {
    type Reply = Vec<Remembered>;
    const NAME: &'static str = "read-hooks";
    const EFFECT: Effect = Effect::Reads;
}

/// A plugin that is remembered for a phase.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its name.
    pub plugin: PluginName,
    /// The phase.
    pub phase: Phase,
    /// Whether it knows the way back.
    pub undo: bool,
    /// What it does.
    pub description: String,
}

/// For which of these there is something to do. Asks the plugins, which change
/// nothing then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckHooks {
    /// The generation that they are to run out of.
    pub identity: Digest,
    /// What is to run.
    pub hooks: Vec<Hook>,
    /// The secrets of those that have some.
    pub secrets: BTreeMap<PluginName, Secrets>,
}

impl Call for CheckHooks {
    /// For each of the hooks why there is something to do; none: nothing.
    type Reply = Vec<Option<String>>;
    const NAME: &'static str = "check-hooks";
    const EFFECT: Effect = Effect::Reads;
}

/// Runs a plugin out of a staged generation; one that is for a later moment is
/// remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyHook {
    /// The generation.
    pub identity: Digest,
    /// The plugin, and what it is told.
    pub hook: Hook,
    /// Its secrets.
    pub secrets: Secrets,
    /// The run, for the journal.
    pub run: String,
}

impl Call for ApplyHook {
    type Reply = Reply;
    const NAME: &'static str = "apply-hook";
    const EFFECT: Effect = Effect::Changes;
}

/// Undoes what a plugin did at a phase, and forgets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UndoHook {
    /// The plugin.
    pub plugin: PluginName,
    /// The phase.
    pub phase: Phase,
    /// Whether it is only forgotten: what it did stays.
    pub leave: bool,
    /// The run, for the journal.
    pub run: String,
}

impl Call for UndoHook {
    /// What stays.
    type Reply = Option<String>;
    const NAME: &'static str = "undo-hook";
    const EFFECT: Effect = Effect::Changes;
}

/// Runs what the host remembers for a moment, such as before a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunMoment {
    /// The moment.
    pub phase: Phase,
    /// The run, for the journal.
    pub run: String,
}

impl Call for RunMoment {
    type Reply = ();
    const NAME: &'static str = "run-moment";
    const EFFECT: Effect = Effect::Changes;
}

/// Forgets a plugin without undoing what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForgetHook {
    /// The plugin.
    pub plugin: PluginName,
}

impl Call for ForgetHook {
    /// Whether there was something to forget.
    type Reply = bool;
    const NAME: &'static str = "forget-hook";
    const EFFECT: Effect = Effect::Changes;
}
