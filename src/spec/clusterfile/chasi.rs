//! From the shape of chasi's kind `Cluster` to a draft.

use std::collections::BTreeMap;
use std::ops::Range;

use super::access::Reader;
use super::decode::At;
use super::draft::{Draft, HostDraft, Said};
use super::plugins;
use super::problem::{Problem, Problems};
use super::shape::{self, Role};
use crate::spec::cluster::{Environment, Host, HostsEntry, NodeAddresses, Roles, Ssh, Swap, Taint};
use crate::spec::name::{LabelKey, LabelValue};
use crate::spec::network::{Address, Cidr, Family};

/// Reads a document. `None` when something without which there is no cluster is
/// missing or wrong; that is among the problems.
pub(super) fn draft(document: &shape::Document, reader: &Reader<'_>) -> Option<Draft> {
    let problems = reader.problems;
    let spec = document.spec.get()?;
    let ssh = reader.cluster(spec.ssh.as_ref().and_then(At::get))?;
    let hosts = spec.hosts.get()?;
    check_cluster_host_key(spec, hosts.len(), problems);
    let hosts: Vec<_> = hosts
        .iter()
        .filter_map(|host| read_host(host.get()?, &ssh, reader))
        .collect();
    let name = document.metadata.get()?.name.get()?.clone();
    let image = spec.image.get()?.clone();
    let mut draft = Draft::new(name, image, Said::new(hosts, &spec.hosts.span));
    read_network(&mut draft, spec, problems);
    if let Some(kubernetes) = spec.kubernetes.as_ref().and_then(At::get) {
        draft.certificate_validity = said(&kubernetes.certificate_validity);
        draft.ca_validity = said(&kubernetes.ca_validity);
        draft.cert_sans = items(&kubernetes.api_server_cert_sans).cloned().collect();
        draft.feature_gates = value(&kubernetes.feature_gates)
            .cloned()
            .unwrap_or_default();
    }
    draft.control_plane_endpoint = value(&spec.control_plane_endpoint).cloned();
    if let Some(settings) = spec.settings.as_ref().and_then(At::get) {
        read_settings(&mut draft, settings, problems);
    }
    if let Some(registry) = spec.registry.as_ref().and_then(At::get) {
        draft.registry.fall_through = value(&registry.fall_through).copied().unwrap_or(false);
    }
    draft.env = environment(&spec.env);
    draft.plugins = plugins::read(&spec.plugins, &draft.hosts.value, reader.places, problems);
    Some(draft)
}

fn check_cluster_host_key(spec: &shape::Spec, hosts: usize, problems: &Problems<'_>) {
    let key = spec
        .ssh
        .as_ref()
        .and_then(At::get)
        .and_then(|ssh| ssh.host_key.as_ref());
    if let Some(key) = key.filter(|_| hosts > 1) {
        problems.add(
            Problem::new(key.span.clone(), "one host key for several hosts")
                .hint("write `hostKey` in the `ssh` of each host"),
        );
    }
}

fn read_host(host: &shape::Host, ssh: &Ssh, reader: &Reader<'_>) -> Option<HostDraft> {
    let problems = reader.problems;
    let ssh = match host.ssh.as_ref().and_then(At::get) {
        Some(over) => reader.over(ssh, over),
        None => ssh.clone(),
    };
    let roles = roles(&host.roles, problems);
    let taints: Vec<Taint> = items(&host.taints).map(|taint| taint.0.clone()).collect();
    check_labels(&host.labels, problems);
    check_taints(&host.taints, problems);
    let name = host.name.get()?.clone();
    let address = host.address.get()?.clone();
    let (node_addresses, node_span) = node_addresses(host, &address, problems);
    Some(HostDraft {
        name_span: host.name.span.clone(),
        address_span: host.address.span.clone(),
        node_span,
        host: Host {
            name,
            address,
            node_addresses,
            roles: roles?,
            labels: value(&host.labels).cloned().unwrap_or_default(),
            taints,
            ssh,
            env: environment(&host.env),
        },
    })
}

fn roles(said: &At<Vec<At<Role>>>, problems: &Problems<'_>) -> Option<Roles> {
    let roles = said.get()?;
    if roles.is_empty() {
        problems.add(
            Problem::new(said.span.clone(), "the host has no role")
                .hint("write `[control-plane]`, `[worker]`, or both"),
        );
        return None;
    }
    // One that could not be read makes the others meaningless.
    let roles: Vec<Role> = roles
        .iter()
        .map(|role| role.get().copied())
        .collect::<Option<_>>()?;
    Some(
        match (
            roles.contains(&Role::ControlPlane),
            roles.contains(&Role::Worker),
        ) {
            (true, true) => Roles::ControlPlaneAndWorker,
            (true, false) => Roles::ControlPlane,
            _ => Roles::Worker,
        },
    )
}

fn node_addresses(
    host: &shape::Host,
    address: &Address,
    problems: &Problems<'_>,
) -> (NodeAddresses, Range<usize>) {
    match (&host.node_ips, &host.node_interface) {
        (Some(_), Some(interface)) => {
            problems.add(
                Problem::new(interface.span.clone(), "both `nodeIPs` and `nodeInterface`")
                    .hint("keep one of the two"),
            );
            (NodeAddresses::DefaultRoute, interface.span.clone())
        }
        (None, Some(interface)) => (
            match interface.get() {
                Some(name) => NodeAddresses::Interface(name.clone()),
                None => NodeAddresses::DefaultRoute,
            },
            interface.span.clone(),
        ),
        (Some(said), None) => {
            let ips: Vec<_> = items(&host.node_ips).map(|ip| ip.0).collect();
            let one_of_each = match ips.as_slice() {
                [_] => true,
                [first, second] => Family::of(*first) != Family::of(*second),
                _ => false,
            };
            if !one_of_each
                && said
                    .get()
                    .is_some_and(|list| list.iter().all(|ip| ip.value.is_some()))
            {
                problems.say(&said.span, "expected one node IP, or one of each family");
            }
            (NodeAddresses::Given(ips), said.span.clone())
        }
        (None, None) => (
            match address {
                Address::Ip(ip) => NodeAddresses::Given(vec![*ip]),
                Address::Name(_) => NodeAddresses::DefaultRoute,
            },
            host.address.span.clone(),
        ),
    }
}

/// Labels that kubelet or chasi itself sets.
const OWNED_LABELS: [&str; 4] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node-role.kubernetes.io/control-plane",
];

pub(super) fn check_labels(
    said: &Option<At<BTreeMap<LabelKey, LabelValue>>>,
    problems: &Problems<'_>,
) {
    let Some((said, labels)) = said.as_ref().and_then(|said| Some((said, said.get()?))) else {
        return;
    };
    for key in labels.keys() {
        if OWNED_LABELS.contains(&key.as_str()) {
            problems.add(
                Problem::new(
                    said.span.clone(),
                    format!("the label `{key}` is set by Kubernetes and by chasi"),
                )
                .hint("remove it"),
            );
        }
    }
}

pub(super) fn check_taints(said: &Option<At<Vec<At<shape::Taint>>>>, problems: &Problems<'_>) {
    let Some(taints) = value(said) else {
        return;
    };
    for (index, said) in taints.iter().enumerate() {
        let Some(taint) = said.get() else { continue };
        // Kubernetes tells taints apart by key and effect.
        let same = |other: &&At<shape::Taint>| {
            other
                .get()
                .is_some_and(|other| other.0.key == taint.0.key && other.0.effect == taint.0.effect)
        };
        if taints.iter().take(index).any(|other| same(&other)) {
            problems.say(
                &said.span,
                format!(
                    "the taint `{}:{}` is given twice",
                    taint.0.key, taint.0.effect
                ),
            );
        }
    }
}

fn read_network(draft: &mut Draft, spec: &shape::Spec, problems: &Problems<'_>) {
    let Some(network) = spec.network.as_ref().and_then(At::get) else {
        return;
    };
    draft.pod_cidrs = cidrs(&network.pod_cidrs);
    draft.service_cidrs = cidrs(&network.service_cidrs);
    draft.dns_domain = said(&network.dns_domain);
    if let Some(sizes) = network.node_cidr_mask_sizes.as_ref().and_then(At::get) {
        draft.mask_ipv4 = said(&sizes.ipv4);
        draft.mask_ipv6 = said(&sizes.ipv6);
        for (size, bits) in [(&draft.mask_ipv4, 32), (&draft.mask_ipv6, 128)] {
            if let Some(size) = size.as_ref().filter(|size| size.value > bits) {
                problems.say(
                    &size.span,
                    format!("{} is more than {bits} bits", size.value),
                );
            }
        }
    }
}

fn read_settings(draft: &mut Draft, settings: &shape::Settings, problems: &Problems<'_>) {
    let target = &mut draft.settings;
    for (name, value) in value(&settings.sysctls).into_iter().flatten() {
        target.sysctls.insert(name.clone(), value.0.clone());
    }
    target.modules = items(&settings.modules).cloned().collect();
    target.swap = value(&settings.swap).copied().unwrap_or(Swap::Off);
    target.set_hostname = value(&settings.set_hostname).copied().unwrap_or(true);
    for entry in items(&settings.hosts) {
        target.hosts.extend(hosts_entry(entry, problems));
    }
}

/// A line of `/etc/hosts`.
pub(super) fn hosts_entry(
    entry: &shape::HostsEntry,
    problems: &Problems<'_>,
) -> Option<HostsEntry> {
    let said = entry.names.get()?;
    if said.is_empty() {
        problems.say(&entry.names.span, "the entry has no name");
    }
    Some(HostsEntry {
        ip: entry.ip.get()?.0,
        names: said.iter().filter_map(At::get).cloned().collect(),
    })
}

fn cidrs(said: &Option<At<Vec<At<Cidr>>>>) -> Option<Said<Vec<Said<Cidr>>>> {
    let said = said.as_ref()?;
    // With one unreadable, the rest cannot be judged.
    let networks = said
        .get()?
        .iter()
        .map(|cidr| Some(Said::new(*cidr.get()?, &cidr.span)))
        .collect::<Option<_>>()?;
    Some(Said::new(networks, &said.span))
}

fn environment(said: &Option<At<shape::Variables>>) -> Environment {
    value(said)
        .into_iter()
        .flatten()
        .map(|(name, variable)| (name.clone(), variable.0.clone()))
        .collect()
}

/// The value of a field, when it is there and right.
pub(super) fn value<T>(said: &Option<At<T>>) -> Option<&T> {
    said.as_ref()?.get()
}

fn said<T: Clone>(said: &Option<At<T>>) -> Option<Said<T>> {
    let said = said.as_ref()?;
    Some(Said::new(said.get()?.clone(), &said.span))
}

/// The right items of a list.
pub(super) fn items<T>(said: &Option<At<Vec<At<T>>>>) -> impl Iterator<Item = &T> {
    value(said).into_iter().flatten().filter_map(At::get)
}
