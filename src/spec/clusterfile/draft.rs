//! A cluster that is being read: what was said, with its places, before it is
//! known whether it fits together. Every way to ask for a cluster fills a draft;
//! [`Draft::finish`] is the only way from there to a [`Cluster`].

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::Range;

use super::kubeadm;
use super::problem::{Problem, Problems};
use crate::spec::certificate::{CertificateName, Validity};
use crate::spec::cluster::{
    Cluster, Environment, FileOverride, Host, HostKey, Hosts, KubeadmDocuments, Kubernetes,
    MaskSizes, Network, NodeAddresses, Plugin, Registry, Settings, Swap,
};
use crate::spec::name::{ClusterName, FeatureGate, ImageName};
use crate::spec::network::{Address, Cidr, Domain, Endpoint, Family};

/// The default networks, by family.
const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// A value and where it was said.
#[derive(Clone, Debug)]
pub(super) struct Said<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> Said<T> {
    pub(super) fn new(value: T, span: &Range<usize>) -> Self {
        Said {
            value,
            span: span.clone(),
        }
    }
}

/// A host and the places of its parts.
pub(super) struct HostDraft {
    pub(super) host: Host,
    pub(super) name_span: Range<usize>,
    pub(super) address_span: Range<usize>,
    pub(super) node_span: Range<usize>,
}

/// What was said of a cluster.
pub(super) struct Draft {
    pub(super) name: ClusterName,
    pub(super) image: ImageName,
    pub(super) hosts: Said<Vec<HostDraft>>,
    pub(super) pod_cidrs: Option<Said<Vec<Said<Cidr>>>>,
    pub(super) service_cidrs: Option<Said<Vec<Said<Cidr>>>>,
    pub(super) dns_domain: Option<Said<Domain>>,
    pub(super) mask_ipv4: Option<Said<u8>>,
    pub(super) mask_ipv6: Option<Said<u8>>,
    pub(super) certificate_validity: Option<Said<Validity>>,
    pub(super) ca_validity: Option<Said<Validity>>,
    pub(super) cert_sans: Vec<CertificateName>,
    pub(super) feature_gates: BTreeMap<FeatureGate, bool>,
    pub(super) control_plane_endpoint: Option<Endpoint>,
    pub(super) settings: Settings,
    pub(super) registry: Registry,
    pub(super) env: Environment,
    pub(super) kubeadm: KubeadmDocuments,
    pub(super) overrides: Vec<FileOverride>,
    pub(super) plugins: Vec<Plugin>,
}

impl Draft {
    /// A draft of which nothing is said but its name, image and hosts.
    pub(super) fn new(name: ClusterName, image: ImageName, hosts: Said<Vec<HostDraft>>) -> Self {
        Draft {
            name,
            image,
            hosts,
            pod_cidrs: None,
            service_cidrs: None,
            dns_domain: None,
            mask_ipv4: None,
            mask_ipv6: None,
            certificate_validity: None,
            ca_validity: None,
            cert_sans: Vec::new(),
            feature_gates: BTreeMap::new(),
            control_plane_endpoint: None,
            settings: Settings {
                sysctls: BTreeMap::new(),
                modules: Vec::new(),
                swap: Swap::Off,
                hosts: Vec::new(),
                set_hostname: true,
            },
            registry: Registry {
                fall_through: false,
            },
            env: Environment::new(),
            kubeadm: KubeadmDocuments::default(),
            overrides: Vec::new(),
            plugins: Vec::new(),
        }
    }

    /// Checks that all of it fits together. What does not is added to
    /// `problems`; `None` means that there is no cluster without a repair.
    pub(super) fn finish(mut self, problems: &Problems<'_>) -> Option<Cluster> {
        check_hosts(&self.hosts, problems);
        let kubernetes = self.kubernetes(problems)?;
        let network = self.network(problems)?;
        check_addresses(&self.hosts.value, &network, problems);
        let families: Vec<_> = network.families().collect();
        kubeadm::complete(&mut self, &network.node_cidr_mask_sizes, &families);
        Some(Cluster {
            name: self.name,
            image: self.image,
            hosts: Hosts::new(
                self.hosts
                    .value
                    .into_iter()
                    .map(|draft| draft.host)
                    .collect(),
            ),
            network,
            kubernetes,
            control_plane_endpoint: self.control_plane_endpoint,
            settings: self.settings,
            registry: self.registry,
            env: self.env,
            kubeadm: self.kubeadm,
            overrides: self.overrides,
            plugins: self.plugins,
        })
    }

    fn kubernetes(&self, problems: &Problems<'_>) -> Option<Kubernetes> {
        let certificate = said_or(&self.certificate_validity, Validity::years(10));
        let ca = match &self.ca_validity {
            Some(ca) => ca.value,
            None => Validity::years(30).max(certificate),
        };
        if let Some(said) = self.ca_validity.as_ref().filter(|_| ca < certificate) {
            problems.add(
                Problem::new(
                    said.span.clone(),
                    format!("the authorities' certificates would end before those they sign, which are valid for {certificate}"),
                )
                .hint(format!("write at least `{certificate}`")),
            );
        }
        Some(Kubernetes {
            certificate_validity: certificate,
            ca_validity: ca,
            api_server_cert_sans: self.cert_sans.clone(),
            feature_gates: self.feature_gates.clone(),
        })
    }

    fn network(&self, problems: &Problems<'_>) -> Option<Network> {
        let (said_pods, said_services) = (self.pod_cidrs.as_ref(), self.service_cidrs.as_ref());
        let fallback = |other: Option<&Said<_>>| match other {
            Some(other) => other.span.clone(),
            None => self.hosts.span.clone(),
        };
        let (fallback_pods, fallback_services) = (fallback(said_services), fallback(said_pods));
        let pods = networks(
            said_pods,
            &POD_CIDRS,
            said_services,
            &fallback_pods,
            problems,
        )?;
        let services = networks(
            said_services,
            &SERVICE_CIDRS,
            said_pods,
            &fallback_services,
            problems,
        )?;
        let families = |networks: &[Said<Cidr>]| -> Vec<_> {
            networks
                .iter()
                .map(|network| network.value.family())
                .collect()
        };
        if families(&pods) != families(&services) {
            problems.add(
                Problem::new(
                    services[0].span.clone(),
                    "the service networks do not have the families of the pod networks",
                )
                .hint(format!(
                    "write them in this order: {}",
                    families(&pods)
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            );
        }
        for pod in &pods {
            for service in services
                .iter()
                .filter(|service| service.value.overlaps(&pod.value))
            {
                problems.say(
                    &service.span,
                    format!(
                        "the service network {} overlaps the pod network {}",
                        service.value, pod.value
                    ),
                );
            }
        }
        services
            .iter()
            .for_each(|service| check_service(service, problems));
        let defaults = MaskSizes::default();
        let sizes = MaskSizes {
            ipv4: said_or(&self.mask_ipv4, defaults.ipv4),
            ipv6: said_or(&self.mask_ipv6, defaults.ipv6),
        };
        for pod in &pods {
            let said = match pod.value.family() {
                Family::V4 => &self.mask_ipv4,
                Family::V6 => &self.mask_ipv6,
            };
            let span = said.as_ref().map_or(&pod.span, |said| &said.span);
            check_mask(pod, &sizes, self.hosts.value.len(), span, problems);
        }
        let plain =
            |networks: Vec<Said<Cidr>>| networks.into_iter().map(|said| said.value).collect();
        Some(Network {
            pod_cidrs: plain(pods),
            service_cidrs: plain(services),
            dns_domain: match &self.dns_domain {
                Some(domain) => domain.value.clone(),
                None => "cluster.local".parse().ok()?,
            },
            node_cidr_mask_sizes: sizes,
        })
    }
}

fn said_or<T: Copy>(said: &Option<Said<T>>, default: T) -> T {
    said.as_ref().map_or(default, |said| said.value)
}

/// The networks that were said, or the defaults in the families that `other`
/// has: who writes IPv6 pods and nothing of services wants IPv6 services.
fn networks(
    said: Option<&Said<Vec<Said<Cidr>>>>,
    defaults: &[&str; 2],
    other: Option<&Said<Vec<Said<Cidr>>>>,
    fallback: &Range<usize>,
    problems: &Problems<'_>,
) -> Option<Vec<Said<Cidr>>> {
    let Some(said) = said else {
        let [v4, v6] = defaults;
        let families = match other {
            Some(other) => other.value.iter().map(|said| said.value.family()).collect(),
            None => vec![Family::V4],
        };
        return families
            .into_iter()
            .map(|family| match family {
                Family::V4 => v4,
                Family::V6 => v6,
            })
            .map(|text| Some(Said::new(text.parse().ok()?, fallback)))
            .collect();
    };
    match said.value.as_slice() {
        [] => {
            problems.say(&said.span, "the list of networks is empty");
            return None;
        }
        [_] => {}
        [first, second] if first.value.family() != second.value.family() => {}
        [_, second] => problems.add(
            Problem::new(second.span.clone(), "two networks of the same family")
                .hint("give one, or one of each family"),
        ),
        [_, _, third, ..] => problems.add(
            Problem::new(third.span.clone(), "more than two networks")
                .hint("give one, or one of each family"),
        ),
    }
    Some(said.value.clone())
}

/// The API server takes at most 20 bits, kubeadm wants at least ten addresses
/// (`MinimumAddressesInServiceSubnet`).
fn check_service(service: &Said<Cidr>, problems: &Problems<'_>) {
    let bits = service.value.family().bits() - service.value.prefix();
    let total = service.value.family().bits();
    if bits > 20 {
        problems.add(
            Problem::new(
                service.span.clone(),
                format!("the service network {} is too large", service.value),
            )
            .hint(format!("use a prefix of at least /{}", total - 20)),
        );
    }
    if bits < 4 {
        problems.add(
            Problem::new(
                service.span.clone(),
                format!("the service network {} is too small", service.value),
            )
            .hint(format!("use a prefix of at most /{}", total - 4)),
        );
    }
}

/// The controller manager takes at most 16 bits between the pod network's prefix
/// and a node's (`pkg/controller/nodeipam/ipam/cidrset`).
fn check_mask(
    pod: &Said<Cidr>,
    sizes: &MaskSizes,
    hosts: usize,
    span: &Range<usize>,
    problems: &Problems<'_>,
) {
    let (family, prefix) = (pod.value.family(), pod.value.prefix());
    let mask = sizes.of(family);
    if mask > family.bits() {
        // Said where it was read.
        return;
    }
    if mask < prefix {
        problems.say(
            span,
            format!(
                "a node's /{mask} does not fit into the pod network {}",
                pod.value
            ),
        );
        return;
    }
    let bits = mask - prefix;
    if bits > 16 {
        problems.add(
            Problem::new(
                span.clone(),
                format!(
                    "more than 16 bits between the pod network {} and a node's /{mask}",
                    pod.value
                ),
            )
            .hint(format!("use a mask size of at most {}", prefix + 16)),
        );
    } else if hosts > 1 << bits {
        problems.add(
            Problem::new(
                span.clone(),
                format!(
                    "the pod network {} has room for {} nodes of /{mask}, there are {hosts} hosts",
                    pod.value,
                    1u32 << bits
                ),
            )
            .hint("use a larger pod network, or larger `nodeCIDRMaskSizes`"),
        );
    }
}

fn check_hosts(hosts: &Said<Vec<HostDraft>>, problems: &Problems<'_>) {
    let span = &hosts.span;
    let hosts = &hosts.value;
    let control_planes = hosts
        .iter()
        .filter(|draft| draft.host.roles.is_control_plane())
        .count();
    match control_planes {
        // Hosts that could not be read may have been control planes.
        0 if problems.is_empty() => problems.add(
            Problem::new(span.clone(), "no host is a control plane")
                .hint("give at least one host the role `control-plane`"),
        ),
        2 => problems.warn(
            span,
            "two control planes survive no failure: when one is lost, etcd has no majority",
        ),
        count if count > 0 && count % 2 == 0 => problems.warn(
            span,
            format!(
                "{count} control planes survive no more failures than {}",
                count - 1
            ),
        ),
        _ => {}
    }
    unique(hosts, problems, |draft| {
        let name = &draft.host.name;
        vec![(
            name.to_string(),
            format!("the name `{name}`"),
            &draft.name_span,
        )]
    });
    unique(hosts, problems, |draft| {
        let (address, port) = (&draft.host.address, draft.host.ssh.login.port);
        vec![(
            (address.to_string(), port),
            format!("the address `{address}`"),
            &draft.address_span,
        )]
    });
    unique(hosts, problems, |draft| match &draft.host.node_addresses {
        NodeAddresses::Given(ips) => ips
            .iter()
            .map(|ip| (*ip, format!("the node IP `{ip}`"), &draft.node_span))
            .collect(),
        _ => Vec::new(),
    });
    unique(hosts, problems, |draft| {
        match &draft.host.ssh.login.host_key {
            HostKey::Fingerprint(fingerprint) => vec![(
                fingerprint.to_string(),
                format!("the host key `{fingerprint}`"),
                &draft.name_span,
            )],
            HostKey::KnownHosts(_) => Vec::new(),
        }
    });
}

/// Says which hosts share something that only one can have.
fn unique<'h, K: Hash + Eq>(
    hosts: &'h [HostDraft],
    problems: &Problems<'_>,
    of: impl Fn(&'h HostDraft) -> Vec<(K, String, &'h Range<usize>)>,
) {
    let mut seen = HashMap::new();
    for draft in hosts {
        for (key, what, span) in of(draft) {
            if let Some(first) = seen.get(&key) {
                problems.say(span, format!("{what} belongs to host `{first}` already"));
            } else {
                seen.insert(key, &draft.host.name);
            }
        }
    }
}

fn check_addresses(hosts: &[HostDraft], network: &Network, problems: &Problems<'_>) {
    let inside = |ip: IpAddr, span: &Range<usize>| {
        let named = [
            ("pod", &network.pod_cidrs),
            ("service", &network.service_cidrs),
        ];
        for (what, networks) in named {
            if let Some(cidr) = networks.iter().find(|cidr| cidr.contains(ip)) {
                problems.say(span, format!("{ip} is inside the {what} network {cidr}"));
            }
        }
    };
    for draft in hosts {
        let NodeAddresses::Given(ips) = &draft.host.node_addresses else {
            if let Address::Ip(ip) = draft.host.address {
                inside(ip, &draft.address_span);
            }
            continue;
        };
        ips.iter().for_each(|ip| inside(*ip, &draft.node_span));
        for family in network.families() {
            if !ips.iter().any(|ip| Family::of(*ip) == family) {
                problems.add(
                    Problem::new(
                        draft.node_span.clone(),
                        format!(
                            "host `{}` has no {family} node IP, but the pod network is {family}",
                            draft.host.name
                        ),
                    )
                    .hint("add one to `nodeIPs`, or change `podCIDRs`"),
                );
            }
        }
    }
}
