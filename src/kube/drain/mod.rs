//! Draining a node: first a simulation, which is a pure function of a
//! [`Snapshot`] and changes nothing; then the real thing.
//!
//! The simulation says which pods must move, which stay and why, which keep the
//! drain from beginning, which PodDisruptionBudgets can never allow it, and whether
//! the other nodes have room. The real thing ([`drain`]) refuses what the
//! simulation refuses before the first pod moves, cordons the node, asks for
//! evictions until the pods are gone, and uncordons when it is given up.
//!
//! What it does with which pod, and the names of the options, are those of
//! `kubectl drain` (k8s.io/kubectl/pkg/drain/filters.go).

mod budget;
mod fit;
mod pods;
mod quantity;
mod room;
mod run;
mod simulate;
mod snapshot;

use serde::{Deserialize, Serialize};

pub use budget::{BudgetProblem, Verdict};
pub use pods::{Obstacle, PodName, Reason};
pub use room::{Homeless, Room};
pub(super) use run::DRAINED_BY;
pub use run::{Drained, drain, uncordon};
pub use simulate::{Blocked, Moving, Simulation, Skipped, simulate};
pub use snapshot::Snapshot;

/// How to drain; the names are those of `kubectl drain`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Whether pods of DaemonSets are left alone; without, they keep the drain from
    /// beginning.
    pub ignore_daemonsets: bool,
    /// Whether pods are moved that have data in an `emptyDir`, which is lost.
    pub delete_emptydir_data: bool,
    /// Whether pods are deleted that nothing makes anew.
    pub force: bool,
    /// How long each pod has to end, in seconds, in place of what it says itself.
    pub grace_period: Option<u32>,
    /// How long all of it may take, in seconds, 1 to 86400.
    pub timeout: u64,
}

impl Default for Options {
    /// As kubectl without options, but with a deadline of five minutes.
    fn default() -> Self {
        Options {
            ignore_daemonsets: false,
            delete_emptydir_data: false,
            force: false,
            grace_period: None,
            timeout: 300,
        }
    }
}
