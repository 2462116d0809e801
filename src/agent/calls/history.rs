//! Requests about what was done to a cluster, and by whom.

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;

/// A run that changed something: a line of `cluster/history.jsonl` in chasi's directory
/// on control planes. Fields may be added, none is renamed or removed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The version of this format: 1.
    pub version: u32,
    /// The run's identifier, as in logs and journals.
    pub run: String,
    /// Who started it, and where: `user@machine`.
    pub who: String,
    /// When it ended.
    pub when: jiff::Timestamp,
    /// What was typed, in one word: `run`.
    pub command: String,
    /// The digest of the cluster image.
    pub image: Digest,
    /// The Kubernetes version in it.
    pub kubernetes: String,
    /// The checks that found something, or could not look, and were ignored.
    pub ignored: Vec<String>,
    /// How it ended.
    pub outcome: RunOutcome,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// All of it was done.
    Done,
    /// Some hosts were left out, or failed.
    Partial,
    /// It failed, or was interrupted.
    Failed,
}

/// Adds a run to the history of this control plane. Does nothing when it is there
/// already, or when chasi has nothing on the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordRun {
    /// The run.
    pub entry: HistoryEntry,
}

impl Call for RecordRun {
    type Reply = ();
    const NAME: &'static str = "record-run";
    const EFFECT: Effect = Effect::Changes;
}

/// Reads the history of this control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadHistory {
    /// How many runs at most, the last ones; 1000 are the most.
    pub most: u32,
}

impl Call for ReadHistory {
    /// The oldest first.
    type Reply = Vec<HistoryEntry>;
    const NAME: &'static str = "read-history";
    const EFFECT: Effect = Effect::Reads;
}
