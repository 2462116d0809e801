//! Requests about backups: what of a host belongs into one, and a cluster that is made
//! from one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;
use crate::distro::kubeadm::etcd_snapshot::Snapshot;
use crate::oci::Blob;

/// Takes a snapshot of etcd into a file on this host, for [`ReadSnapshot`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakeSnapshot {
    /// The address of the member on this host.
    pub via: IpAddr,
}

/// The answer to [`TakeSnapshot`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The file.
    pub snapshot: Snapshot,
    /// etcd's version.
    pub version: String,
    /// etcd's revision just before it; the snapshot has at least that.
    pub revision: u64,
}

impl Call for TakeSnapshot {
    type Reply = Taken;
    const NAME: &'static str = "take-snapshot";
    const EFFECT: Effect = Effect::Adds;
}

/// Reads the snapshot that was taken. Its content is the reply's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadSnapshot {
    /// What was taken.
    pub snapshot: Snapshot,
}

impl Call for ReadSnapshot {
    type Reply = ();
    const NAME: &'static str = "read-snapshot";
    const EFFECT: Effect = Effect::Reads;
}

/// Removes the snapshot that was taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropSnapshot {}

impl Call for DropSnapshot {
    type Reply = ();
    const NAME: &'static str = "drop-snapshot";
    const EFFECT: Effect = Effect::Adds;
}

/// Reads what chasi keeps on this host and a backup has: the recipes of the generations
/// in use, and what belongs to the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadKept {}

impl Call for ReadKept {
    /// Names and texts.
    type Reply = Vec<(String, String)>;
    const NAME: &'static str = "read-kept";
    const EFFECT: Effect = Effect::Reads;
}

/// Notes that the cluster is being made from a backup, and gives back its history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BeginRestore {
    /// The backup's identity.
    pub backup: Digest,
    /// The text of the history, where there is none here.
    pub history: Option<String>,
}

impl Call for BeginRestore {
    type Reply = ();
    const NAME: &'static str = "begin-restore";
    const EFFECT: Effect = Effect::Changes;
}

/// Receives a snapshot, which is the call's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutSnapshot {
    /// What it must be.
    pub snapshot: Snapshot,
}

impl Call for PutSnapshot {
    type Reply = ();
    const NAME: &'static str = "put-snapshot";
    const EFFECT: Effect = Effect::Adds;
}

/// Makes the data of this host's etcd from the snapshot that was put, unless there is
/// some. Its control plane must be staged, and not started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreEtcd {
    /// The member's name.
    pub name: String,
    /// The generation.
    pub identity: Digest,
    /// The cluster image's index.
    pub index: Blob,
    /// etcd's `--initial-cluster-token`.
    pub token: String,
}

impl Call for RestoreEtcd {
    type Reply = ();
    const NAME: &'static str = "restore-etcd";
    const EFFECT: Effect = Effect::Changes;
}

/// Ends what [`BeginRestore`] began: removes the objects of nodes that are not in the
/// cluster any more, and the note.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndRestore {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The nodes of the cluster.
    pub nodes: Vec<String>,
}

impl Call for EndRestore {
    /// The nodes whose objects were removed.
    type Reply = Vec<String>;
    const NAME: &'static str = "end-restore";
    const EFFECT: Effect = Effect::Changes;
}
