//! Plugins on a host: run at the phases of its life, remembered, undone.
//!
//! ```text
//! hooks/applied.json   what ran here and lasts, and what is to run later, in order
//! hooks/NAME/          the plugin's own: what it needs to undo what it did
//! ```
//!
//! Invariants:
//! - A plugin runs out of a generation, and only when every file of its directory
//!   there has the digest that the generation's manifest says.
//! - Before one changes anything, that it begins is in the journal, and it is in
//!   `applied.json`: what was interrupted is undone when the host is left.
//! - What is remembered is enough to run it again and to undo it: the generation is
//!   kept as long as something of it is remembered.
//! - Secrets are no part of a [`Hook`]. A plugin reads them on its input; a salted
//!   digest of them is remembered, and so `undo` and what runs later go without.
//! - What a plugin says is hostile: bounded, one JSON object with known fields.

mod process;
mod record;
mod secret;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Root;
use super::generation;
use super::journal::{Journal, Operation};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};
use crate::spec::plugin::{Manifest, Phase, PluginName, Settings};

pub use process::Reply;
pub(super) use record::generations;
pub use record::{Applied, applied};
pub use secret::{Secret, Secrets};

/// A plugin at a phase of this host's life, with everything that it is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// What it says of itself.
    pub plugin: Manifest,
    /// When it runs.
    pub phase: Phase,
    /// All of its settings but the secrets.
    pub settings: Settings,
    /// The host.
    pub host: Subject,
    /// The cluster.
    pub cluster: Surroundings,
}

/// The host, as a plugin is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its name in the cluster.
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: String,
    /// Its addresses in the cluster, the primary first.
    pub addresses: Vec<IpAddr>,
    /// The port that SSH reaches it on.
    pub ssh_port: u16,
    /// The ports of the cluster that somebody listens on there.
    pub ports: Vec<Port>,
}

/// The cluster, as a plugin is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Its name.
    pub name: String,
    /// The Kubernetes version.
    pub version: String,
    /// Where pods get their addresses.
    pub pod_cidrs: Vec<String>,
    /// Where services get theirs.
    pub service_cidrs: Vec<String>,
    /// All its hosts whose addresses are known.
    pub nodes: Vec<Peer>,
}

/// Another host of the cluster, or the same.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: String,
    /// Its addresses in the cluster.
    pub addresses: Vec<IpAddr>,
}

/// A port of the cluster.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The first number.
    pub first: u16,
    /// The last number; nearly always the same.
    pub last: u16,
    /// Who has to reach it: `control-planes`, `nodes`, `pods`, `outside`; nobody
    /// but the host itself where this is empty.
    pub from: Vec<String>,
    /// Who listens.
    pub what: String,
}

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// To tell whether there is something to do, and to change nothing.
    Check,
    /// To do it.
    Apply,
    /// To take it back.
    Undo,
}

impl Verb {
    /// Its name for plugins.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Check => "check",
            Verb::Apply => "apply",
            Verb::Undo => "undo",
        }
    }
}

/// Whether there is something to do for a hook, and why. Changes nothing.
pub fn due(
    root: &Root,
    identity: &Digest,
    hook: &Hook,
    secrets: &Secrets,
    ctx: &Context,
) -> Result<Option<String>> {
    let Some(number) = generation::find(root, identity)? else {
        return Ok(Some("the image is not on the host yet".to_owned()));
    };
    let before = record::find(root, &hook.plugin.name, hook.phase)?;
    let Some(before) = before.filter(|one| one.is_done) else {
        return Ok(Some("it has not run here yet".to_owned()));
    };
    if before.generation != number || before.hook.plugin != hook.plugin {
        return Ok(Some("the image is another one".to_owned()));
    }
    if before.hook.settings != hook.settings {
        return Ok(Some("its settings are others".to_owned()));
    }
    if !hook.phase.lasts() {
        return Ok(None);
    }
    if !secret::are_known(&before.secrets, secrets) {
        return Ok(Some("a secret of it is another one".to_owned()));
    }
    let answer = process::run(root, number, (hook, secrets), Verb::Check, ctx);
    Ok(match answer {
        Ok(reply) if !reply.changed => None,
        Ok(reply) => Some(reply.message),
        // Whether that is in the way, applying it tells, on this host alone.
        Err(error) => Some(error.to_string()),
    })
}

/// Runs a plugin of a staged generation, and remembers it. In a phase in which it
/// does something once, it is only remembered, for [`moment`].
pub fn apply(
    root: &Root,
    journal: &Journal,
    identity: &Digest,
    (hook, secrets): (&Hook, &Secrets),
    ctx: &Context,
) -> Result<Reply> {
    let number = generation::find(root, identity)?.ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!("the generation {} has not been staged", identity.short()),
        )
        .hint("run the same command again")
    })?;
    process::verify(root, number, hook)?;
    let mut applied = Applied {
        generation: number,
        hook: hook.clone(),
        secrets: BTreeMap::new(),
        is_done: false,
    };
    if !hook.phase.lasts() {
        applied.is_done = true;
        record::put(root, applied)?;
        return Ok(Reply::default());
    }
    applied.secrets = secret::seal(secrets)?;
    record::put(root, applied.clone())?;
    let reply = journaled(journal, hook, Verb::Apply, || {
        process::run(root, number, (hook, secrets), Verb::Apply, ctx)
    })?;
    applied.is_done = true;
    record::put(root, applied)?;
    tell(ctx, hook, &reply);
    Ok(reply)
}

/// Whether something is to run at this moment.
pub fn awaits(root: &Root, phase: Phase) -> Result<bool> {
    let is_meant = |one: &Applied| one.hook.phase == phase && !phase.lasts();
    Ok(applied(root)?.iter().any(is_meant))
}

/// Runs what is to run at this moment.
pub fn moment(root: &Root, journal: &Journal, phase: Phase, ctx: &Context) -> Result<()> {
    for one in applied(root)? {
        if one.hook.phase != phase || phase.lasts() {
            continue;
        }
        let reply = journaled(journal, &one.hook, Verb::Apply, || {
            let told = (&one.hook, &Secrets::new());
            process::run(root, one.generation, told, Verb::Apply, ctx)
        })?;
        tell(ctx, &one.hook, &reply);
    }
    Ok(())
}

/// Undoes what one plugin did, unless that is to be left, and forgets it. Returns
/// what stays.
pub fn undo(
    root: &Root,
    journal: &Journal,
    (plugin, phase): (&PluginName, Phase),
    leave: bool,
    ctx: &Context,
) -> Result<Option<String>> {
    let Some(one) = record::find(root, plugin, phase)? else {
        return Ok(None);
    };
    let mut note = None;
    if phase.lasts() && (leave || !one.hook.plugin.undo) {
        let why = match one.hook.plugin.undo {
            true => "as was asked",
            false => "because it knows no way back",
        };
        note = Some(format!(
            "what the plugin `{plugin}` did stays, {why}: {}",
            one.hook.plugin.description
        ));
    } else if phase.lasts() {
        let reply = journaled(journal, &one.hook, Verb::Undo, || {
            let told = (&one.hook, &Secrets::new());
            process::run(root, one.generation, told, Verb::Undo, ctx)
        })?;
        tell(ctx, &one.hook, &reply);
    }
    record::remove(root, plugin, phase)?;
    Ok(note)
}

/// Undoes everything of the phases that `is_meant`, the last first. Returns what
/// could not be undone.
pub fn undo_all(
    root: &Root,
    journal: &Journal,
    is_meant: impl Fn(Phase) -> bool,
    ctx: &Context,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for one in applied(root)?.iter().rev() {
        if one.hook.phase.lasts() && is_meant(one.hook.phase) {
            let which = (&one.hook.plugin.name, one.hook.phase);
            notes.extend(undo(root, journal, which, false, ctx)?);
        }
    }
    Ok(notes)
}

/// Forgets a plugin, and leaves what it did. Whether there was something to forget.
pub fn forget(root: &Root, plugin: &PluginName) -> Result<bool> {
    let phases: Vec<Phase> = applied(root)?
        .iter()
        .filter(|one| one.hook.plugin.name == *plugin)
        .map(|one| one.hook.phase)
        .collect();
    for phase in &phases {
        record::remove(root, plugin, *phase)?;
    }
    Ok(!phases.is_empty())
}

fn journaled<T>(
    journal: &Journal,
    hook: &Hook,
    verb: Verb,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (plugin, phase) = (&hook.plugin.name, hook.phase);
    let step = format!("{} the plugin `{plugin}` ({phase})", verb.name());
    let begun = journal.begin(Operation::Step { step })?;
    match work() {
        Ok(value) => {
            journal.commit(begun)?;
            Ok(value)
        }
        Err(error) => {
            journal.abandon(begun, error.message())?;
            Err(error)
        }
    }
}

/// What a plugin has to say to a person.
fn tell(ctx: &Context, hook: &Hook, reply: &Reply) {
    for note in &reply.notes {
        ctx.emit(Event::Note {
            host: None,
            text: format!("`{}`: {note}", hook.plugin.name),
        });
    }
}
