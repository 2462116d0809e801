//! What was asked for: a cluster, its hosts, and how it is to be. This is what
//! the rest of chasi works from; where it was written (a Clusterfile of chasi's
//! or of sealer's, the command line) no longer matters.
//!
//! Invariants, kept because only this room makes these values:
//! - at least one host is a control plane; no two hosts share a name, or an
//!   address and port, or a node IP;
//! - pod and service networks have the same families in the same order and do
//!   not overlap; every host has room for its node network;
//! - no secret is in here unless the user wrote it in clear, and then
//!   [`ClearText`] keeps it out of every message.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::certificate::{CertificateName, Fingerprint, Validity};
use super::name::{
    ClusterName, EnvironmentName, FeatureGate, HostName, ImageName, LabelKey, LabelValue,
    ModuleName, SysctlName, UserName,
};
use super::network::{Address, Cidr, Domain, Endpoint, Family, InterfaceName};
use super::plugin::{PluginName, SettingName, SettingValue};
use super::text::{Invalid, Place};

/// A cluster as it was asked for.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The cluster image to run.
    pub image: ImageName,
    /// Its hosts.
    pub hosts: Hosts,
    /// Pod and service networks.
    pub network: Network,
    /// What Kubernetes itself is told.
    pub kubernetes: Kubernetes,
    /// A name or address outside the cluster that leads to its API servers, for
    /// kubeconfigs and certificates. Hosts never use it.
    pub control_plane_endpoint: Option<Endpoint>,
    /// What every host is told.
    pub settings: Settings,
    /// The registry on each host.
    pub registry: Registry,
    /// Variables for the templates of the image, for every host.
    pub env: Environment,
    /// kubeadm's own documents, with nothing in them that chasi decides.
    pub kubeadm: KubeadmDocuments,
    /// Files of the image that the Clusterfile replaces.
    pub overrides: Vec<FileOverride>,
    /// Plugins of the image, in the order in which they run.
    pub plugins: Vec<Plugin>,
}

/// Variables for templates.
pub type Environment = BTreeMap<EnvironmentName, EnvironmentValue>;

/// The value of a variable. Sealer's lists are kept as lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvironmentValue {
    /// One text.
    One(String),
    /// Several, in the order in which they were written.
    Many(Vec<String>),
}

/// The hosts of a cluster, in the order in which they were written.
#[derive(Clone, Debug)]
pub struct Hosts(Vec<Host>);

impl Hosts {
    /// `hosts` must satisfy the invariants of this module.
    pub(super) fn new(hosts: Vec<Host>) -> Self {
        Hosts(hosts)
    }

    /// All hosts.
    pub fn iter(&self) -> std::slice::Iter<'_, Host> {
        self.0.iter()
    }

    /// How many there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is always a host")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The hosts that run a control plane; at least one.
    pub fn control_planes(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().filter(|host| host.roles.is_control_plane())
    }

    /// The names of the hosts that run a control plane.
    pub fn control_plane_names(&self) -> impl Iterator<Item = &str> {
        self.control_planes().map(|host| host.name.as_str())
    }

    /// Some of the hosts; none when no control plane would be among them.
    pub fn only(&self, keep: impl Fn(&Host) -> bool) -> Option<Hosts> {
        let kept: Vec<Host> = self.iter().filter(|host| keep(host)).cloned().collect();
        let stands = kept.iter().any(|host| host.roles.is_control_plane());
        stands.then_some(Hosts(kept))
    }

    /// The host of that name.
    pub fn get(&self, name: &str) -> Option<&Host> {
        self.0.iter().find(|host| host.name.as_str() == name)
    }
}

impl<'a> IntoIterator for &'a Hosts {
    type Item = &'a Host;
    type IntoIter = std::slice::Iter<'a, Host>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, which is also the name of its Kubernetes node.
    pub name: HostName,
    /// Where SSH reaches it.
    pub address: Address,
    /// Where the other hosts reach it.
    pub node_addresses: NodeAddresses,
    /// What it does in the cluster.
    pub roles: Roles,
    /// Labels of its node.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Taints of its node, besides the one that a control plane has.
    pub taints: Vec<Taint>,
    /// How to get into it.
    pub ssh: Ssh,
    /// Variables for templates, over those of the cluster.
    pub env: Environment,
}

/// The addresses that a node has in the cluster: for etcd, certificates, kubelet
/// and the pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeAddresses {
    /// These: one, or one of each family with the primary first.
    Given(Vec<IpAddr>),
    /// The global addresses of this interface.
    Interface(InterfaceName),
    /// The source address of the host's default route.
    DefaultRoute,
}

/// What a host does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Roles {
    /// Runs pods.
    Worker,
    /// Runs etcd and the API server, and no ordinary pods.
    ControlPlane,
    /// Runs both: a control plane without its taint.
    ControlPlaneAndWorker,
}

impl Roles {
    /// Whether it runs a control plane.
    pub fn is_control_plane(self) -> bool {
        self != Roles::Worker
    }

    /// Whether ordinary pods run there.
    pub fn is_worker(self) -> bool {
        self != Roles::ControlPlane
    }
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: LabelKey,
    /// Its value; may be empty.
    pub value: LabelValue,
    /// What it does to pods that do not tolerate it.
    pub effect: Effect,
}

impl fmt::Display for Taint {
    /// As `kubectl taint` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)?;
        if !self.value.as_str().is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect)
    }
}

impl FromStr for Taint {
    type Err = Invalid;

    /// From `key=value:Effect` or `key:Effect`, as `kubectl taint` takes it.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || {
            Invalid::new(format!(
                "`{text}` is not a taint: `key=value:Effect`, the effect one of `NoSchedule`, \
                 `PreferNoSchedule`, `NoExecute`"
            ))
        };
        let (left, effect) = text.rsplit_once(':').ok_or_else(refuse)?;
        let (key, value) = left.split_once('=').unwrap_or((left, ""));
        Ok(Taint {
            key: key.parse()?,
            value: value.parse()?,
            effect: match effect {
                "NoSchedule" => Effect::NoSchedule,
                "PreferNoSchedule" => Effect::PreferNoSchedule,
                "NoExecute" => Effect::NoExecute,
                _ => return Err(refuse()),
            },
        })
    }
}

/// What a taint does to pods that do not tolerate it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Effect {
    /// They are not scheduled there.
    NoSchedule,
    /// They are scheduled there only when there is no other place.
    PreferNoSchedule,
    /// They are evicted from there.
    NoExecute,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::NoSchedule => "NoSchedule",
            Effect::PreferNoSchedule => "PreferNoSchedule",
            Effect::NoExecute => "NoExecute",
        })
    }
}

/// How to get into a host by SSH, and how to become root there.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// Where and as whom.
    pub login: Login,
    /// How that user becomes root.
    pub privilege: Privilege,
    /// A host to go through.
    pub jump: Option<Jump>,
}

/// A host to go through to reach another one.
#[derive(Clone, Debug)]
pub struct Jump {
    /// Where it is.
    pub address: Address,
    /// As whom.
    pub login: Login,
}

/// As whom to log in to a host, what with, and how to know that it is the right
/// host.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: UserName,
    /// The port of the SSH server.
    pub port: u16,
    /// Private keys.
    pub identities: Identities,
    /// What decrypts the private keys, when they are encrypted.
    pub passphrase: Option<SecretSource>,
    /// Whether the keys of a running ssh-agent are tried.
    pub agent: bool,
    /// The password.
    pub password: Option<SecretSource>,
    /// How the host's key is verified.
    pub host_key: HostKey,
}

/// Files of private keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identities {
    /// The user's usual ones; any of them may be missing.
    Usual(Vec<PathBuf>),
    /// Those that were named; each must exist.
    Named(Vec<PathBuf>),
}

/// How a host's key is verified. There is no way not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKey {
    /// It has this fingerprint.
    Fingerprint(Fingerprint),
    /// One of these files lists it; any of them may be missing.
    KnownHosts(Vec<PathBuf>),
}

/// How the user who logs in becomes root.
#[derive(Clone, Debug)]
pub enum Privilege {
    /// It is root.
    Root,
    /// By `sudo`, with a password when there is one.
    Sudo(Option<SecretSource>),
}

/// Where a secret comes from.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SecretSource {
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable of the process that runs chasi.
    Environment(EnvironmentName),
    /// The Clusterfile itself. Only sealer's kind of Clusterfile can do that.
    Clear(ClearText),
}

/// A secret that was written in clear. It is never shown.
#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
pub struct ClearText(String);

impl ClearText {
    pub(super) fn new(text: String) -> Self {
        ClearText(text)
    }

    /// The secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClearText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Pod and service networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Where pods get their addresses: one network, or one of each family with
    /// the primary first.
    pub pod_cidrs: Vec<Cidr>,
    /// Where services get theirs: the same families in the same order.
    pub service_cidrs: Vec<Cidr>,
    /// The cluster's DNS domain.
    pub dns_domain: Domain,
    /// The prefix of the part of the pod network that each node gets.
    pub node_cidr_mask_sizes: MaskSizes,
}

impl Network {
    /// The families, primary first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.pod_cidrs.iter().map(Cidr::family)
    }
}

/// A prefix for each family, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskSizes {
    /// For IPv4.
    pub ipv4: u8,
    /// For IPv6.
    pub ipv6: u8,
}

impl Default for MaskSizes {
    /// The controller manager's own defaults.
    fn default() -> Self {
        MaskSizes { ipv4: 24, ipv6: 64 }
    }
}

impl MaskSizes {
    /// The prefix for a family.
    pub fn of(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// What Kubernetes itself is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubernetes {
    /// How long certificates of components are valid.
    pub certificate_validity: Validity,
    /// How long the certificates of the authorities are valid; not shorter.
    pub ca_validity: Validity,
    /// More names and addresses for the API server's certificate.
    pub api_server_cert_sans: Vec<CertificateName>,
    /// Feature gates of all components.
    pub feature_gates: BTreeMap<FeatureGate, bool>,
}

/// What every host is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Kernel parameters, besides those that Kubernetes needs.
    pub sysctls: BTreeMap<SysctlName, String>,
    /// Kernel modules to load, besides those that Kubernetes needs.
    pub modules: Vec<ModuleName>,
    /// What happens to swap.
    pub swap: Swap,
    /// More entries for `/etc/hosts`.
    pub hosts: Vec<HostsEntry>,
    /// Whether a host gets the name that it has in the Clusterfile.
    pub set_hostname: bool,
}

/// What happens to swap on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// It is turned off, as kubelet wants it by default.
    Off,
    /// It stays, and kubelet is told to start nevertheless.
    Keep,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsEntry {
    /// The address.
    pub ip: IpAddr,
    /// Its names; at least one.
    pub names: Vec<Domain>,
}

/// The registry on each host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// Whether an image that the cluster image does not have may be pulled from
    /// where its reference says.
    pub fall_through: bool,
}

/// kubeadm's own documents, each without `apiVersion` and `kind`, in the shape of
/// `kubeadm.k8s.io/v1beta4`, `kubelet.config.k8s.io/v1beta1` and
/// `kubeproxy.config.k8s.io/v1alpha1`. chasi's settings go over them: what chasi
/// decides was refused when the file was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeadmDocuments {
    /// `ClusterConfiguration`.
    pub cluster: serde_json::Map<String, serde_json::Value>,
    /// `InitConfiguration`, for every host that joins too.
    pub init: serde_json::Map<String, serde_json::Value>,
    /// `KubeletConfiguration`.
    pub kubelet: serde_json::Map<String, serde_json::Value>,
    /// `KubeProxyConfiguration`.
    pub kube_proxy: serde_json::Map<String, serde_json::Value>,
}

/// A plugin of the image that is turned on or off. What settings it takes, its
/// manifest says, so they are checked when the image is known.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its name.
    pub name: PluginName,
    /// Whether it runs.
    pub enabled: bool,
    /// The hosts that this is about; none: all. No host has two of one plugin.
    pub hosts: Option<Vec<HostName>>,
    /// Settings.
    pub settings: BTreeMap<SettingName, SaidSetting>,
    /// Where it was said.
    pub place: Place,
}

/// The value of a setting, and where it was said.
#[derive(Clone, Debug)]
pub struct SaidSetting {
    /// The value.
    pub value: Said,
    /// Where it was said.
    pub place: Place,
}

/// What is said of a setting.
#[derive(Clone, Debug)]
pub enum Said {
    /// Its value.
    Value(SettingValue),
    /// Where a secret comes from.
    Secret(SecretSource),
}

/// A file of the image that the Clusterfile replaces: sealer's `Config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOverride {
    /// The path in the image, relative to its root, without `..`.
    pub path: String,
    /// What takes the file's place.
    pub data: String,
}
