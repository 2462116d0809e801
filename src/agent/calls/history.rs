//! Requests about what was done to a cluster, and by whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;
use crate::kube::Taint;
use crate::oci::Blob;

/// A run that changed something: a line of `cluster/history.jsonl` in chasi's directory
/// on control planes, and one before it, as [`RunOutcome::Unfinished`], when it begins:
/// the last line of a run counts. Fields may be added, none is renamed or removed. No
/// secret is in it: of the Clusterfile, which can hold some, only the digest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The version of this format: 2 with a revision, 1 without.
    pub version: u32,
    /// The run's identifier, as in logs and journals.
    pub run: String,
    /// Who started it, and where: `user@machine`.
    pub who: String,
    /// When it ended.
    pub when: jiff::Timestamp,
    /// What was typed: `run`, `upgrade`, `rollback`, `node add` and the like.
    pub command: String,
    /// The digest of the cluster image.
    pub image: Digest,
    /// The Kubernetes version in it.
    pub kubernetes: String,
    /// The checks that found something, or could not look, and were ignored.
    pub ignored: Vec<String>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What the cluster was after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

/// What a cluster was after a run: what a rollback can go back to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number, from 1 on, the same on all control planes.
    pub number: u32,
    /// Of a rollback: the revision that it went back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u32>,
    /// The cluster image, as the Clusterfile named it.
    pub reference: String,
    /// Its index.
    pub index: Blob,
    /// Identity of the cluster's own objects that belong to it.
    pub objects: Digest,
    /// The digest of the Clusterfile, whatever image it names.
    pub clusterfile: Digest,
    /// The hosts that could be asked at its end, by name.
    pub hosts: BTreeMap<String, RevisionHost>,
}

/// What a host was after a run.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RevisionHost {
    /// The generation of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Digest>,
    /// The generation of its control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<Digest>,
    /// The labels that chasi gave its node.
    pub labels: BTreeMap<String, String>,
    /// The taints that chasi gave its node.
    pub taints: Vec<Taint>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// All of it was done.
    Done,
    /// Some hosts were left out, or failed.
    Partial,
    /// It failed.
    Failed,
    /// It has begun, and nothing was heard of its end: it is under way, or was
    /// interrupted.
    Unfinished,
}

/// Adds a run to the history of this control plane, or what has become of it. Does
/// nothing when that is there already, or when chasi has nothing on the host.
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
