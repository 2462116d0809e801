//! The two parts of a generation, each with a switch of its own.

use serde::{Deserialize, Serialize};

use crate::oci::layer::EntryPath;

/// Which of the two switches something belongs to: all API servers of a cluster
/// move before any kubelet does.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Static pods.
    ControlPlane,
    /// Everything else.
    Node,
}

/// Where kubelet looks for static pods.
const STATIC_PODS: &str = "etc/kubernetes/manifests/";

impl Part {
    /// Both, in the order in which they switch.
    pub const ALL: [Part; 2] = [Part::ControlPlane, Part::Node];

    /// The name of the symbolic link in chasi's directory that is this switch.
    pub fn name(self) -> &'static str {
        match self {
            Part::ControlPlane => "control-plane",
            Part::Node => "node",
        }
    }

    /// The part that a file of the host belongs to.
    pub fn of(path: &EntryPath) -> Self {
        if path.as_str().starts_with(STATIC_PODS) {
            Part::ControlPlane
        } else {
            Part::Node
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Part::ControlPlane => Part::Node,
            Part::Node => Part::ControlPlane,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
