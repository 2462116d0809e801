//! Requests about the Kubernetes distribution of a host: keys, credentials, the
//! container runtime's images, the cluster's own objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::digest::Digest;
use crate::distro::kubeadm::credential::{Membership, Request, Server, Signed};
use crate::distro::kubeadm::pki::Authorities;
use crate::kube::{NodeState, ObjectName, PodState, Taint, Way};

/// What the distribution has on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DistroState {}

/// The answer to [`DistroState`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HostDistroState {
    /// The digest of the cluster's CA certificate, once the keys of a control
    /// plane are whole here.
    pub pki: Option<Digest>,
    /// The names and addresses in the API server's certificate.
    pub server_names: Option<BTreeSet<String>>,
    /// Whether kubelet has its credential.
    pub credential: bool,
    /// Which cluster's node the host is.
    pub member: Option<Membership>,
    /// Whether etcd has data here.
    pub etcd_data: bool,
    /// Whether kubelet runs.
    pub kubelet_active: bool,
    /// References of the images in the container runtime; `None` when it cannot
    /// be asked.
    pub images: Option<Vec<String>>,
    /// Identity of the cluster's own objects that were applied last, as recorded
    /// on this host.
    pub objects: Option<Digest>,
    /// The backup that the cluster is being made from, on a control plane.
    pub restoring: Option<Digest>,
}

impl Call for DistroState {
    type Reply = HostDistroState;
    const NAME: &'static str = "distro-state";
    const EFFECT: Effect = Effect::Reads;
}

/// Makes the keys and certificates of a control plane, under new authorities or
/// the given ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MakePki {
    /// kubeadm's configuration for this host.
    pub config: String,
    /// The authorities of the cluster; none on its first control plane.
    pub authorities: Option<Authorities>,
}

impl Call for MakePki {
    type Reply = ();
    const NAME: &'static str = "make-pki";
    const EFFECT: Effect = Effect::Changes;
}

/// Signs the API server's certificate anew, for the same key, with other names in
/// it. The server takes it up by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignServer {
    /// The names and addresses.
    pub names: BTreeSet<String>,
    /// How long it is valid, in hours.
    pub hours: u32,
}

impl Call for SignServer {
    type Reply = ();
    const NAME: &'static str = "sign-server";
    const EFFECT: Effect = Effect::Changes;
}

/// Reads the authorities of the cluster, to give them to another control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadAuthorities {}

impl Call for ReadAuthorities {
    type Reply = Authorities;
    const NAME: &'static str = "read-authorities";
    const EFFECT: Effect = Effect::Reads;
}

/// Makes a key for kubelet and a request for its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestCredential {
    /// The node's name.
    pub node: String,
}

impl Call for RequestCredential {
    type Reply = Request;
    const NAME: &'static str = "request-credential";
    const EFFECT: Effect = Effect::Changes;
}

/// Signs kubelets' requests with the cluster's CA.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignCredentials {
    /// The requests.
    pub requests: Vec<Request>,
    /// How long the certificates are valid, in hours.
    pub hours: u32,
}

impl Call for SignCredentials {
    type Reply = Vec<Signed>;
    const NAME: &'static str = "sign-credentials";
    const EFFECT: Effect = Effect::Reads;
}

/// Installs kubelet's credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstallCredential {
    /// What the control plane signed.
    pub signed: Signed,
    /// The cluster's name.
    pub cluster: String,
    /// Where kubelet finds an API server.
    pub server: Server,
}

impl Call for InstallCredential {
    type Reply = ();
    const NAME: &'static str = "install-credential";
    const EFFECT: Effect = Effect::Changes;
}

/// Brings container images from the host's own registry into the runtime,
/// unpacked and safe from garbage collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullImages {
    /// The references.
    pub references: Vec<String>,
}

impl Call for PullImages {
    type Reply = ();
    const NAME: &'static str = "pull-images";
    const EFFECT: Effect = Effect::Changes;
}

/// Waits until the API server at an address of this host is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitApi {
    /// The host's node address.
    pub address: IpAddr,
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for WaitApi {
    type Reply = ();
    const NAME: &'static str = "wait-api";
    const EFFECT: Effect = Effect::Reads;
}

/// Waits until the control plane on this host is that of its generation, and ready:
/// each of its static pods, and the API server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AwaitControlPlane {
    /// The host's node address.
    pub address: IpAddr,
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for AwaitControlPlane {
    type Reply = ();
    const NAME: &'static str = "await-control-plane";
    const EFFECT: Effect = Effect::Reads;
}

/// Waits until kubelet on this host runs and calls itself healthy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AwaitKubelet {
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for AwaitKubelet {
    type Reply = ();
    const NAME: &'static str = "await-kubelet";
    const EFFECT: Effect = Effect::Reads;
}

/// Applies the cluster's own objects: kubeadm's addons and configuration, the
/// permissions of nodes, and the manifests of the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyObjects {
    /// The host's node address, where the API server is.
    pub address: IpAddr,
    /// Identity of what is applied, to be recorded.
    pub identity: Digest,
    /// The generation that they are made from, which is staged here.
    pub generation: Digest,
    /// Whether the cluster's DNS passes questions on to the hosts' name servers.
    pub dns_forward: bool,
    /// Objects that are deleted afterwards, unless they were applied, or hold others or
    /// data.
    pub surplus: Vec<ObjectName>,
}

impl Call for ApplyObjects {
    type Reply = ();
    const NAME: &'static str = "apply-objects";
    const EFFECT: Effect = Effect::Changes;
}

/// Records on a control plane which objects were applied, and by which run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordObjects {
    /// Identity of what was applied.
    pub identity: Digest,
    /// The objects.
    pub objects: Vec<ObjectName>,
}

impl Call for RecordObjects {
    type Reply = ();
    const NAME: &'static str = "record-objects";
    const EFFECT: Effect = Effect::Changes;
}

/// Reads from a control plane which objects were applied last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadObjects {}

impl Call for ReadObjects {
    type Reply = Vec<ObjectName>;
    const NAME: &'static str = "read-objects";
    const EFFECT: Effect = Effect::Reads;
}

/// What the API says of the cluster's nodes and of the pods in some namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// The host's node address, where the API server is.
    pub address: IpAddr,
    /// Namespaces whose pods to list; those of recorded objects when empty.
    pub namespaces: Vec<String>,
}

/// The answer to [`ClusterState`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterReport {
    /// All nodes.
    pub nodes: Vec<NodeState>,
    /// The pods.
    pub pods: Vec<PodState>,
}

impl Call for ClusterState {
    type Reply = ClusterReport;
    const NAME: &'static str = "cluster-state";
    const EFFECT: Effect = Effect::Reads;
}

/// Gives a node the labels and taints of the Clusterfile, once it has registered, and
/// notes the way into its host at it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetNode {
    /// The host's node address, where the API server is.
    pub address: IpAddr,
    /// The node's name.
    pub node: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// The way into its host.
    pub way: Way,
    /// How long to wait for the node to register, in seconds.
    pub seconds: u64,
}

impl Call for SetNode {
    type Reply = ();
    const NAME: &'static str = "set-node";
    const EFFECT: Effect = Effect::Changes;
}

/// Reads the administrator's kubeconfig.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadKubeconfig {}

/// A kubeconfig with an administrator's key. Not shown in debug output.
#[derive(Clone, Serialize, Deserialize)]
pub struct AdminKubeconfig {
    /// The text.
    pub text: String,
}

impl std::fmt::Debug for AdminKubeconfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKubeconfig(secret)")
    }
}

impl Call for ReadKubeconfig {
    type Reply = AdminKubeconfig;
    const NAME: &'static str = "read-kubeconfig";
    const EFFECT: Effect = Effect::Reads;
}
