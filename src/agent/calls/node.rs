//! Requests about nodes that come and go: draining, the node's object.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::kube::drain::{Drained, Options, Simulation};

/// What draining some nodes at the same time would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SimulateDrain {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The nodes.
    pub nodes: Vec<String>,
    /// How they would be drained.
    pub options: Options,
}

impl Call for SimulateDrain {
    type Reply = Simulation;
    const NAME: &'static str = "simulate-drain";
    const EFFECT: Effect = Effect::Reads;
}

/// Drains nodes, all at the same time. Takes as long as its options allow; ended
/// with the connection, it makes the nodes take pods again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The nodes.
    pub nodes: Vec<String>,
    /// How.
    pub options: Options,
    /// The run, to be noted at the nodes.
    pub run: String,
}

impl Call for Drain {
    type Reply = Drained;
    const NAME: &'static str = "drain";
    const EFFECT: Effect = Effect::Changes;
}

/// Makes a node take pods again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uncordon {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The node.
    pub node: String,
}

impl Call for Uncordon {
    type Reply = ();
    const NAME: &'static str = "uncordon";
    const EFFECT: Effect = Effect::Changes;
}

/// Waits until a node is ready with a kubelet of a version, and so are the system's
/// pods on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AwaitNode {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The node.
    pub node: String,
    /// The Kubernetes version, without `v`.
    pub version: String,
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for AwaitNode {
    type Reply = ();
    const NAME: &'static str = "await-node";
    const EFFECT: Effect = Effect::Reads;
}

/// Removes a node's object from the API; one that is not there is removed already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteNode {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// The node.
    pub node: String,
}

impl Call for DeleteNode {
    type Reply = ();
    const NAME: &'static str = "delete-node";
    const EFFECT: Effect = Effect::Changes;
}
