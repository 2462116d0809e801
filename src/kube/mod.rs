//! Operations on the Kubernetes API: connecting with a kubeconfig, applying
//! objects, reading nodes and pods, draining nodes.
//!
//! Runs in the agent on a control-plane host, so that the controller needs
//! nothing but SSH. Every wait has a deadline and says what it waits for.
//! Objects are written by server-side apply under one field manager, so that
//! what others set in them stays theirs.

mod apply;
mod client;
pub mod drain;
pub mod inspect;
mod node;
mod pod;

pub use apply::{ObjectName, apply, delete_surplus, parse_objects};
pub use client::Connection;
pub use node::{NodeState, Taint, Way, delete as delete_node, nodes, set_metadata};
pub use pod::{PodState, Trouble, system_pods};

/// The name under which chasi owns fields of objects.
pub const FIELD_MANAGER: &str = "chasi";
