//! What every host is to be: the Clusterfile, the cluster image and the hosts'
//! facts, worked out to recipes and identities. Pure.

mod address;
mod content;
mod etcd;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

pub(super) use self::address::node_addresses;
use self::content::{context, files, hosts_block};
use self::etcd::etcd_starts;
use super::access::PluginSecrets;
use super::hooks;
use crate::digest::Digest;
use crate::distro::kubeadm::etcd_version::{self, Stays};
use crate::distro::kubeadm::{self, config, server};
use crate::distro::{self, EtcdMember, EtcdStart, EtcdState, Role};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::host::Recipe;
use crate::host::facts::Facts;
use crate::host::hook::{Hook, Peer, Secrets, Surroundings};
use crate::kube::{NodeState, Taint, Way};
use crate::oci::image::{LABEL_DISTRIBUTION, LABEL_KUBERNETES, Rootfs};
use crate::oci::{ClusterImage, Platform};
use crate::spec;
use crate::spec::cluster::{HostKey, NodeAddresses, Swap};
use crate::spec::plugin::{Phase, PluginName};

/// The taint of a control plane that runs no ordinary pods, and the label of
/// every control plane
/// (kubernetes.io/docs/reference/labels-annotations-taints).
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// What the cluster is to be.
#[derive(Clone, Debug)]
pub struct Desired {
    /// What was asked for of the cluster as a whole.
    pub cluster: distro::Cluster,
    /// The image's name as the user wrote it.
    pub image: String,
    /// The image's digest.
    pub digest: Digest,
    /// Identity of the cluster's own objects.
    pub objects: Digest,
    /// Whether the cluster's DNS passes questions on to the hosts' name servers:
    /// only when all hosts have some, or CoreDNS would not start on the others.
    pub dns_forward: bool,
    /// The hosts that answered, in the Clusterfile's order.
    pub hosts: Vec<DesiredHost>,
}

/// What a host is to be.
#[derive(Clone, Debug)]
pub struct DesiredHost {
    /// What the distribution needs to know.
    pub node: distro::Host,
    /// What its generation is made from.
    pub recipe: Recipe,
    /// The recipe's identity.
    pub identity: Digest,
    /// kubeadm's configuration; empty on workers.
    pub config: String,
    /// References of the container images that it needs.
    pub images: Vec<String>,
    /// Labels that chasi sets on the node.
    pub labels: BTreeMap<String, String>,
    /// Taints that chasi sets on the node.
    pub taints: Vec<Taint>,
    /// The way into the host, which chasi notes at the node.
    pub way: Way,
    /// Whether its etcd is added to a cluster that exists.
    pub joins_etcd: bool,
    /// Its etcd, where it stays although the image brings an older one.
    pub etcd_stays: Option<Stays>,
    /// The names and addresses in its API server's certificate; none on workers.
    pub server_names: BTreeSet<String>,
    /// Settings that are no files.
    pub settings: crate::host::setting::Settings,
    /// Its plugins, in the order in which they run.
    pub hooks: Vec<Hook>,
    /// Their secrets.
    pub secrets: BTreeMap<PluginName, Secrets>,
}

impl DesiredHost {
    /// Whether a node has these labels and taints already, none that chasi gave it
    /// earlier, and the way into its host.
    pub fn metadata_is(&self, node: &NodeState) -> bool {
        let wanted = |key: &String| self.labels.contains_key(key);
        self.labels
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
            && node.own_labels.iter().all(wanted)
            && self.taints.iter().all(|taint| node.taints.contains(taint))
            && node
                .own_taints
                .iter()
                .all(|taint| self.taints.contains(taint))
            && node.way.as_ref() == Some(&self.way)
    }
}

impl DesiredHost {
    /// What a plugin is told at a phase.
    pub fn hook(&self, plugin: &PluginName, phase: Phase) -> Result<&Hook> {
        let is = |hook: &&Hook| hook.plugin.name == *plugin && hook.phase == phase;
        self.hooks.iter().find(is).ok_or_else(|| {
            Error::new(
                Kind::Failed,
                format!("the plan names the plugin `{plugin}`, which is not to run"),
            )
        })
    }
}

/// A host, with what is known of it.
pub struct Known<'a> {
    /// What was asked for.
    pub host: &'a spec::cluster::Host,
    /// What it is.
    pub facts: &'a Facts,
    /// How its etcd started for the first time, when it did.
    pub etcd: Option<EtcdStart>,
    /// The manifest that its etcd runs by.
    pub etcd_manifest: Option<&'a str>,
    /// Whether etcd has data on it.
    pub etcd_data: bool,
}

/// Works out what the cluster is to be. `members` are those of its etcd; none when
/// it cannot be asked, or is not there yet.
pub fn desired(
    (cluster, secrets): (&spec::Cluster, &PluginSecrets),
    image: &ClusterImage,
    known: &[Known],
    members: &[EtcdMember],
) -> Result<Desired> {
    let mut nodes = Vec::with_capacity(known.len());
    for one in known {
        nodes.push((one, rootfs(cluster, image, one)?, node(cluster, one)?));
    }
    let Some((_, first_rootfs, _)) = nodes.first() else {
        return Err(Error::new(
            Kind::Unreachable,
            "no host of the cluster can be reached",
        ));
    };
    let shared = shared(cluster, image, first_rootfs)?;
    let etcd = etcd_starts(&nodes, members);
    let servers = servers(cluster, &nodes, &etcd);
    let common = Common {
        cluster,
        secrets,
        image,
        shared: &shared,
        servers: &servers,
        surroundings: surroundings(cluster, &shared, &nodes),
    };
    let mut hosts = Vec::with_capacity(nodes.len());
    for (one, rootfs, node) in &nodes {
        let start = etcd.get(&node.name);
        hosts.push(host(&common, one, rootfs, node, start)?);
    }
    let dns_forward = known
        .iter()
        .all(|one| !one.facts.name_servers.servers.is_empty());
    let objects = objects_identity(&shared, image, &hosts, dns_forward)?;
    Ok(Desired {
        cluster: shared,
        image: cluster.image.to_string(),
        digest: image.digest,
        objects,
        dns_forward,
        hosts,
    })
}

fn rootfs<'a>(
    cluster: &spec::Cluster,
    image: &'a ClusterImage,
    known: &Known,
) -> Result<&'a Rootfs> {
    let platform = Platform::linux(&known.facts.architecture)?;
    image.rootfs(&platform).ok_or_else(|| {
        Error::new(
            Kind::Check,
            format!("the image `{}` has no part for {platform}", cluster.image),
        )
        .on_host(known.host.name.to_string())
        .hint(format!("build it with `--platform {platform}` as well"))
    })
}

fn label<'a>(cluster: &spec::Cluster, rootfs: &'a Rootfs, name: &str) -> Result<&'a str> {
    rootfs.labels.get(name).map(String::as_str).ok_or_else(|| {
        Error::new(
            Kind::Input,
            format!(
                "the image `{}` has no label `{name}`, so it installs no Kubernetes",
                cluster.image
            ),
        )
        .hint("include a Kubernetes image in it: `INCLUDE chasi/kubernetes:…` in its Kubefile")
    })
}

fn shared(
    cluster: &spec::Cluster,
    image: &ClusterImage,
    rootfs: &Rootfs,
) -> Result<distro::Cluster> {
    let distribution = label(cluster, rootfs, LABEL_DISTRIBUTION)?;
    if distribution != "kubeadm" {
        return Err(Error::new(
            Kind::Input,
            format!("the image `{}` is of the distribution `{distribution}`, which this chasi does not know", cluster.image),
        )
        .hint("this version of chasi runs images of the distribution `kubeadm`"));
    }
    let sandbox_image = image
        .images
        .iter()
        .map(|image| image.reference.to_string())
        .find(|reference| reference.contains("/pause:"))
        .ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("the image `{}` brings no pause image", cluster.image),
            )
            .hint("add `IMAGE registry.k8s.io/pause:…` to its Kubefile")
        })?;
    let mut names: Vec<String> = Vec::new();
    names.extend(
        cluster
            .kubernetes
            .api_server_cert_sans
            .iter()
            .map(ToString::to_string),
    );
    names.extend(
        cluster
            .control_plane_endpoint
            .iter()
            .map(|endpoint| endpoint.address.to_string()),
    );
    // All of them: a host that is off must not change what the others are to be.
    names.extend(
        cluster
            .hosts
            .control_planes()
            .map(|host| host.address.to_string()),
    );
    Ok(distro::Cluster {
        name: cluster.name.to_string(),
        version: label(cluster, rootfs, LABEL_KUBERNETES)?
            .trim_start_matches('v')
            .to_owned(),
        pod_cidrs: cluster
            .network
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect(),
        service_cidrs: cluster
            .network
            .service_cidrs
            .iter()
            .map(ToString::to_string)
            .collect(),
        dns_domain: cluster.network.dns_domain.to_string(),
        certificate_hours: cluster.kubernetes.certificate_validity.hours(),
        ca_hours: cluster.kubernetes.ca_validity.hours(),
        api_server_names: names,
        documents: documents(cluster),
        sandbox_image,
    })
}

fn documents(cluster: &spec::Cluster) -> Vec<Value> {
    let documents = &cluster.kubeadm;
    let gates: BTreeMap<String, bool> = cluster
        .kubernetes
        .feature_gates
        .iter()
        .map(|(gate, on)| (gate.to_string(), *on))
        .collect();
    [
        ("ClusterConfiguration", &documents.cluster),
        ("InitConfiguration", &documents.init),
        ("KubeletConfiguration", &documents.kubelet),
        ("KubeProxyConfiguration", &documents.kube_proxy),
    ]
    .into_iter()
    .map(|(kind, fields)| {
        let mut document = Value::Object(fields.clone());
        document["kind"] = json!(kind);
        let takes_gates = matches!(kind, "KubeletConfiguration" | "KubeProxyConfiguration");
        if takes_gates && !gates.is_empty() {
            document["featureGates"] = json!(gates);
        }
        document
    })
    .collect()
}

fn role(host: &spec::cluster::Host) -> Role {
    match host.roles.is_control_plane() {
        true => Role::ControlPlane,
        false => Role::Worker,
    }
}

fn node(cluster: &spec::Cluster, known: &Known) -> Result<distro::Host> {
    let host = known.host;
    let cgroup_version = known.facts.cgroup.version;
    let asked = cluster
        .kubeadm
        .kubelet
        .get("cgroupDriver")
        .and_then(Value::as_str);
    let driver = if cgroup_version == 1 {
        "cgroupfs"
    } else {
        "systemd"
    };
    Ok(distro::Host {
        name: host.name.to_string(),
        node_ips: node_addresses(host, known.facts)?,
        role: role(host),
        taints: taints(host),
        cgroup_driver: asked.unwrap_or(driver).to_owned(),
        cgroup_version,
        conntrack_writable: known.facts.conntrack_writable,
        resolv_conf: known.facts.name_servers.file.clone(),
        swap: cluster.settings.swap == Swap::Keep,
    })
}

/// The taints that a host's node gets.
pub(super) fn taints(host: &spec::cluster::Host) -> Vec<Taint> {
    let mut taints: Vec<Taint> = host
        .taints
        .iter()
        .map(|taint| Taint {
            key: taint.key.to_string(),
            value: taint.value.to_string(),
            effect: taint.effect.to_string(),
        })
        .collect();
    if !host.roles.is_worker() {
        taints.push(Taint {
            key: CONTROL_PLANE.into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        });
    }
    taints
}

/// The API servers of all control planes, also of those that do not answer now:
/// a host that is off must not change what the others are to be.
fn servers(
    cluster: &spec::Cluster,
    nodes: &[(&Known, &Rootfs, distro::Host)],
    etcd: &BTreeMap<String, EtcdStart>,
) -> Vec<SocketAddr> {
    let node_ip = |name: &str| {
        let reached = nodes.iter().find(|(_, _, node)| node.name == name);
        let members = || etcd.values().flat_map(|start| &start.members);
        reached.map(|(_, _, node)| node.node_ip()).or_else(|| {
            members()
                .find(|(member, _)| member == name)
                .map(|(_, ip)| *ip)
        })
    };
    cluster
        .hosts
        .control_planes()
        .filter_map(|host| match &host.node_addresses {
            NodeAddresses::Given(addresses) => addresses.first().copied(),
            _ => node_ip(host.name.as_str()),
        })
        .map(|address| SocketAddr::new(address, distro::API_PORT))
        .collect()
}

/// What is the same for all hosts.
struct Common<'a> {
    cluster: &'a spec::Cluster,
    secrets: &'a PluginSecrets,
    image: &'a ClusterImage,
    shared: &'a distro::Cluster,
    servers: &'a [SocketAddr],
    surroundings: Surroundings,
}

/// The cluster, as plugins are told. Of a host that does not answer now, what the
/// Clusterfile says is known.
fn surroundings(
    cluster: &spec::Cluster,
    shared: &distro::Cluster,
    nodes: &[(&Known, &Rootfs, distro::Host)],
) -> Surroundings {
    let peer = |host: &spec::cluster::Host| {
        let reached = nodes
            .iter()
            .find(|(_, _, node)| node.name == host.name.as_str());
        match (reached, &host.node_addresses) {
            (Some((_, _, node)), _) => Some(hooks::peer(node)),
            (None, NodeAddresses::Given(addresses)) => Some(Peer {
                name: host.name.to_string(),
                role: hooks::role(role(host)).to_owned(),
                addresses: addresses.clone(),
            }),
            (None, _) => None,
        }
    };
    Surroundings {
        name: shared.name.clone(),
        version: shared.version.clone(),
        pod_cidrs: shared.pod_cidrs.clone(),
        service_cidrs: shared.service_cidrs.clone(),
        nodes: cluster.hosts.iter().filter_map(peer).collect(),
    }
}

fn host(
    common: &Common,
    known: &Known,
    rootfs: &Rootfs,
    node: &distro::Host,
    etcd: Option<&EtcdStart>,
) -> Result<DesiredHost> {
    let Common {
        cluster,
        image,
        shared,
        servers,
        ..
    } = *common;
    let config = match node.role {
        Role::ControlPlane => config::kubeadm(shared, node)?,
        Role::Worker => String::new(),
    };
    let mut source = etcd
        .map(|etcd| json!({ "config": config, "etcd": etcd }))
        .unwrap_or(Value::Null);
    let references: Vec<String> = image
        .images
        .iter()
        .map(|image| image.reference.to_string())
        .collect();
    let manifest = known.etcd_manifest.filter(|_| etcd.is_some());
    let etcd_stays =
        manifest.and_then(|text| etcd_version::stays(text, references.iter().map(String::as_str)));
    if let (Some(_), Some(manifest)) = (&etcd_stays, manifest) {
        source["etcd_manifest"] = json!(manifest);
    }
    let recipe = Recipe {
        image: image.digest,
        platform: rootfs.platform.clone(),
        kubernetes: Some(shared.version.clone()),
        layers: rootfs.layers.clone(),
        context: context(cluster, shared, known, rootfs, node),
        files: files(cluster, shared, node, servers)?,
        blocks: vec![hosts_block(cluster, shared)?],
        directories: Vec::new(),
        source,
    };
    let (hooks, secrets) = hooks::of(
        (cluster, common.secrets),
        known.host,
        rootfs,
        &hooks::subject(known.host, node)?,
        &common.surroundings,
    )?;
    let images = references
        .into_iter()
        .filter(|reference| {
            node.role == Role::ControlPlane || !kubeadm::is_control_plane_image(reference)
        })
        .collect();
    Ok(DesiredHost {
        identity: recipe.identity()?,
        recipe,
        config,
        images,
        labels: labels(known.host),
        taints: node.taints.clone(),
        way: way(known.host),
        etcd_stays,
        joins_etcd: etcd.is_some_and(|etcd| etcd.state == EtcdState::Existing),
        server_names: match node.role {
            Role::ControlPlane => server::wanted(shared, node),
            Role::Worker => BTreeSet::new(),
        },
        settings: settings(cluster, known.host),
        hooks,
        secrets,
        node: node.clone(),
    })
}

/// The labels that a host's node gets.
pub(super) fn labels(host: &spec::cluster::Host) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = host
        .labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    if host.roles.is_control_plane() {
        labels.insert(CONTROL_PLANE.into(), String::new());
    }
    if host.roles.is_worker() {
        labels.insert("node-role.kubernetes.io/worker".into(), String::new());
    }
    labels
}

/// The way into a host, without anything secret.
pub(super) fn way(host: &spec::cluster::Host) -> Way {
    let login = &host.ssh.login;
    Way {
        address: host.address.to_string(),
        port: login.port,
        user: login.user.to_string(),
        host_key: match &login.host_key {
            HostKey::Fingerprint(fingerprint) => Some(fingerprint.to_string()),
            HostKey::KnownHosts(_) => None,
        },
    }
}

fn settings(cluster: &spec::Cluster, host: &spec::cluster::Host) -> crate::host::setting::Settings {
    crate::host::setting::Settings {
        hostname: cluster.settings.set_hostname.then(|| host.name.to_string()),
        swap_off: cluster.settings.swap == Swap::Off,
    }
}

/// What must be the same for the cluster's own objects to need no change.
fn objects_identity(
    shared: &distro::Cluster,
    image: &ClusterImage,
    hosts: &[DesiredHost],
    dns_forward: bool,
) -> Result<Digest> {
    let first = hosts
        .iter()
        .find(|host| host.node.role == Role::ControlPlane)
        .ok_or_else(|| {
            Error::new(
                Kind::Unreachable,
                "no control plane of the cluster can be reached",
            )
            .hint("`chasi run` needs at least the first control plane")
        })?;
    let mut value = json!({
        "format": 1,
        "image": image.digest,
        "configuration": config::cluster_identity(shared, &first.node),
        "dns_forward": dns_forward,
        "settings": first.recipe.context["cluster"],
    });
    value.sort_all_objects();
    let bytes = serde_json::to_vec(&value).or_err(
        Kind::Failed,
        || "cannot write the cluster's settings as JSON",
    )?;
    Ok(Digest::of(bytes))
}
