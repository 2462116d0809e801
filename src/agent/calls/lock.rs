//! Requests about the cluster's lock, see [`ClusterLock`](crate::agent::ClusterLock).

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};

/// What a control-plane host remembers of the cluster's lock. The format of
/// `cluster/lock` in chasi's directory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The version of this format: 1.
    pub version: u32,
    /// The run that holds the lock, or held it last.
    pub run: String,
    /// Who started that run, and where: `user@machine`.
    pub who: String,
    /// Since when.
    pub since: jiff::Timestamp,
    /// Grows with every holder.
    pub fence: u64,
    /// Whether it is held.
    pub held: bool,
}

impl std::fmt::Display for LockRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        write!(f, "run {} of {} (since {since})", self.run, self.who)
    }
}

/// What a host remembers of the cluster's lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadLock {}

/// The answer to [`ReadLock`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LockState {
    /// The record, on a host that has one.
    pub record: Option<LockRecord>,
    /// The highest fence that ever entered this host.
    pub fence: u64,
}

impl Call for ReadLock {
    type Reply = LockState;
    const NAME: &'static str = "read-lock";
    const EFFECT: Effect = Effect::Reads;
}

/// Writes the record to a control-plane host. Refused when the host has seen a
/// higher fence, or the same one in another run's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteLock {
    /// What to write.
    pub record: LockRecord,
}

impl Call for WriteLock {
    type Reply = ();
    const NAME: &'static str = "write-lock";
    const EFFECT: Effect = Effect::Changes;
}

/// Lets the holder of the cluster's lock in: from now on, runs with a lower fence
/// are refused on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnterFence {
    /// The holder's fence.
    pub fence: u64,
}

impl Call for EnterFence {
    type Reply = ();
    const NAME: &'static str = "enter-fence";
    const EFFECT: Effect = Effect::Changes;
}
