//! Requests about a running cluster: what is damaged, and what would be in the way of
//! a change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::distro::kubeadm::etcd_health::EtcdHealth;
use crate::distro::kubeadm::expiry::Expiry;
use crate::kube::drain::Simulation;
use crate::kube::inspect::{DeprecatedApi, LocalVolume};
use crate::kube::{NodeState, PodState};

/// Something that was asked for, or why there was no answer.
pub type Told<T> = std::result::Result<T, String>;

/// Looks at a running cluster by way of the API server on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InspectCluster {
    /// The address of the API server on this host.
    pub address: IpAddr,
    /// Whether to simulate the drain of each node, which takes time.
    pub drains: bool,
}

/// The answer to [`InspectCluster`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterInspection {
    /// The API server's version, such as `v1.34.4`.
    pub version: Told<String>,
    /// All nodes.
    pub nodes: Told<Vec<NodeState>>,
    /// The pods of the system.
    pub pods: Told<Vec<PodState>>,
    /// Requests for certificates that nobody answered; at most 100.
    pub requests: Told<Vec<String>>,
    /// APIs in use that a later Kubernetes will not have; at most 100.
    pub deprecated: Told<Vec<DeprecatedApi>>,
    /// Volumes whose data are on one node; at most 100.
    pub volumes: Told<Vec<LocalVolume>>,
    /// What draining each node would do, by its name; without the pods that move. At
    /// most 200 nodes.
    pub drains: Told<BTreeMap<String, Simulation>>,
}

impl Call for InspectCluster {
    type Reply = ClusterInspection;
    const NAME: &'static str = "inspect-cluster";
    const EFFECT: Effect = Effect::Reads;
}

/// Asks the member of etcd on this host how it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InspectEtcd {
    /// Its address.
    pub address: IpAddr,
}

impl Call for InspectEtcd {
    type Reply = EtcdHealth;
    const NAME: &'static str = "inspect-etcd";
    const EFFECT: Effect = Effect::Reads;
}

/// Reads when the host's certificates end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadExpiries {}

impl Call for ReadExpiries {
    /// At most 200.
    type Reply = Vec<Expiry>;
    const NAME: &'static str = "read-expiries";
    const EFFECT: Effect = Effect::Reads;
}
