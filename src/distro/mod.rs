//! Kubernetes distributions: how one is configured, started and joined, and what
//! belongs to its health. kubeadm is the one there is; k3s has its place beside
//! it. Nothing above this room knows which one a cluster runs.
//!
//! Half of it is pure and runs in the controller: from what was asked for
//! ([`Cluster`], [`Host`]) to the files of a generation. The other half runs in
//! the agent, on the host, and uses the programs of the staged generation.

pub mod kubeadm;
pub mod ports;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Port of the node-local balancer, and so of the control plane's endpoint.
pub const ENDPOINT_PORT: u16 = 6444;
/// Port of every API server.
pub const API_PORT: u16 = 6443;
/// Port of the node-local registry.
pub const REGISTRY_PORT: u16 = 6500;

/// What was asked for of the cluster as a whole.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// The Kubernetes version without `v`, such as `1.34.4`.
    pub version: String,
    /// CIDRs of pods, one a family.
    pub pod_cidrs: Vec<String>,
    /// CIDRs of Services, one a family.
    pub service_cidrs: Vec<String>,
    /// The cluster's DNS domain.
    pub dns_domain: String,
    /// How long certificates are valid, in hours.
    pub certificate_hours: u32,
    /// How long the CAs are valid, in hours.
    pub ca_hours: u32,
    /// Names and addresses in the API servers' certificates, beyond each host's
    /// own.
    pub api_server_names: Vec<String>,
    /// kubeadm documents of the user's, to be merged under chasi's settings.
    pub documents: Vec<serde_json::Value>,
    /// The reference of the image that holds a pod's sandbox.
    pub sandbox_image: String,
}

/// The name under which every host of a cluster reaches its API servers, see
/// `docs/architecture.md`.
pub fn endpoint(cluster: &str) -> String {
    format!("api.{cluster}.chasi.internal")
}

impl Cluster {
    /// The name under which every host reaches the API servers, see
    /// `docs/architecture.md`.
    pub fn endpoint(&self) -> String {
        endpoint(&self.name)
    }

    /// The address of the cluster's DNS Service: the tenth of the first Service
    /// CIDR, as kubeadm has it (`GetDNSIP` in cmd/kubeadm/app/constants).
    pub fn dns_address(&self) -> Option<IpAddr> {
        let network: IpAddr = self
            .service_cidrs
            .first()?
            .split('/')
            .next()?
            .parse()
            .ok()?;
        Some(match network {
            IpAddr::V4(network) => IpAddr::V4((u32::from(network).checked_add(10)?).into()),
            IpAddr::V6(network) => IpAddr::V6((u128::from(network).checked_add(10)?).into()),
        })
    }
}

/// What a host does in the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd and the control plane.
    ControlPlane,
    /// Runs work only.
    Worker,
}

/// What was asked for of one host, and what is known of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The node's name.
    pub name: String,
    /// The node's addresses, one a family, the first one the node's own in etcd
    /// and certificates.
    pub node_ips: Vec<IpAddr>,
    /// What it does.
    pub role: Role,
    /// `key=value:Effect` of each taint that it registers with.
    pub taints: Vec<crate::kube::Taint>,
    /// `systemd` or `cgroupfs`.
    pub cgroup_driver: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Whether the host lets its conntrack table be sized.
    pub conntrack_writable: bool,
    /// The resolv.conf with real name servers, when it is not `/etc/resolv.conf`.
    pub resolv_conf: Option<String>,
    /// Whether swap stays on.
    pub swap: bool,
}

impl Host {
    /// The first of its addresses. A host without one is not a [`Host`]: the
    /// planner refuses it.
    pub fn node_ip(&self) -> IpAddr {
        self.node_ips
            .first()
            .copied()
            .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }
}

/// How an etcd member starts for the first time; ignored by etcd afterwards.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct EtcdStart {
    /// The members: name and address of each.
    pub members: Vec<(String, IpAddr)>,
    /// Whether these members form a new cluster, or join one.
    pub state: EtcdState,
}

/// etcd's `--initial-cluster-state`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtcdState {
    /// The members form a new cluster.
    New,
    /// The cluster is there.
    Existing,
}

/// A member of the cluster's etcd, as etcd itself knows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// etcd's number for it, which the API takes as text.
    pub id: String,
    /// Its name, which is its node's; empty until it has started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub address: Option<IpAddr>,
    /// Whether it has ever started.
    pub started: bool,
    /// Whether it only learns: it does not vote, and the others do not need it.
    pub learner: bool,
    /// Whether it answers now.
    pub healthy: bool,
}

/// A file that a distribution adds to a host's generation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Where it goes, from the root, without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: String,
}
