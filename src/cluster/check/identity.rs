//! Whether each host is who it should be, and nobody else.

use super::outcome::{Outcome, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Phase};
use super::site::Subject;
use crate::host::facts::{Facts, Known};

const BEFORE: &[Phase] = &[Phase::Pre, Phase::Upgrade];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "identity.node",
        "the host belongs to no other cluster, and is no other node",
        "what kubelet's credential says",
        node,
    )
    .never_ignored("the node of the other cluster, with all its data, would be overwritten"),
    Check::of_host(
        "identity.hostname",
        "the host's name is valid, and no other host has it",
        "the kernel's host name",
        hostname,
    )
    .warning(),
    Check::of_host(
        "system.machine-id",
        "the host has a machine-id of its own",
        "`/etc/machine-id` of all hosts",
        machine_id,
    ),
    Check::of_host(
        "identity.product-uuid",
        "the machine has a UUID of its own",
        "`/sys/class/dmi/id/product_uuid` of all hosts",
        product_uuid,
    )
    .warning()
    .at(BEFORE),
    Check::of_host(
        "identity.mac",
        "no other host has its hardware addresses",
        "the network interfaces of all hosts that are up",
        mac,
    ),
];

/// A node cannot change its name, nor its cluster.
fn node(subject: &Subject) -> Outcome {
    let Some(member) = &subject.report.distro.member else {
        return passed("a node of no cluster");
    };
    let (cluster, node) = (subject.site.cluster.name.to_string(), subject.name());
    if member.cluster == cluster && member.node == node {
        return passed("this node of this cluster");
    }
    wrong(
        format!(
            "the host is the node `{}` of the cluster `{}`",
            member.node, member.cluster
        ),
        format!("a bare host, or the node `{node}` of the cluster `{cluster}`"),
        format!(
            "correct the Clusterfile's names; or take the other cluster off its hosts, with all its data: `chasi delete -c {}`",
            member.cluster
        ),
    )
}

/// RFC 1123, section 2.1, in small letters, as Kubernetes wants the names of nodes.
fn is_valid(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn hostname(subject: &Subject) -> Outcome {
    let name = &subject.facts().hostname;
    if subject.site.cluster.settings.set_hostname {
        return not_applicable("chasi sets it (`settings.setHostname`)");
    }
    if name.is_empty() {
        return unknown("the kernel does not tell the host's name");
    }
    let hint = format!(
        "`hostnamectl set-hostname {}`, or `settings.setHostname: true` in the Clusterfile",
        subject.name()
    );
    if name == "localhost" || !is_valid(&name.to_lowercase()) {
        return wrong(
            format!("the host is called `{name}`"),
            "a name of letters, digits and `-` (RFC 1123)",
            hint,
        );
    }
    match subject.twin(|facts| Some(facts.hostname.clone())) {
        Some(twin) => wrong(
            format!("`{twin}` is called `{name}` too"),
            "a name of its own",
            hint,
        ),
        None => passed(name.as_str()),
    }
}

fn machine_id(subject: &Subject) -> Outcome {
    if subject.facts().machine_id.is_none() {
        return wrong(
            "it has no machine-id",
            "a machine-id of its own",
            "`systemd-machine-id-setup`",
        );
    }
    match subject.twin(|facts| facts.machine_id.clone()) {
        Some(twin) => wrong(
            format!("its machine-id is that of `{twin}` too"),
            "a machine-id of its own",
            "on one of them: `rm /etc/machine-id && systemd-machine-id-setup`, then restart it",
        ),
        None => passed("its own"),
    }
}

fn uuid_of(facts: &Facts) -> Option<String> {
    match &facts.product_uuid {
        Known::Is(uuid) => Some(uuid.clone()),
        Known::Unknown(_) => None,
    }
}

fn product_uuid(subject: &Subject) -> Outcome {
    if let Known::Unknown(why) = &subject.facts().product_uuid {
        return unknown(why.as_str());
    }
    // Hosts that share a kernel see the UUID of the one machine below them.
    if let Some(container) = &subject.facts().container {
        return unknown(format!(
            "the host is a container ({container}), and sees the UUID of the machine below"
        ));
    }
    match subject.twin(uuid_of) {
        Some(twin) => wrong(
            format!("its product UUID is that of `{twin}` too"),
            "a UUID of its own: Kubernetes and storage drivers tell machines apart by it",
            "give the clone a new UUID in the hypervisor's settings",
        ),
        None => passed("its own"),
    }
}

/// Addresses of interfaces that are up and have addresses, but are not the
/// cluster's own.
fn macs(facts: &Facts) -> Vec<&str> {
    facts
        .interfaces
        .iter()
        .filter(|interface| interface.up && !interface.addresses.is_empty())
        .filter(|interface| !super::residue::is_of_cluster(&interface.name))
        .filter_map(|interface| interface.mac.as_deref())
        .filter(|mac| *mac != "00:00:00:00:00:00")
        .collect()
}

fn mac(subject: &Subject) -> Outcome {
    let own = macs(subject.facts());
    if own.is_empty() {
        return unknown("no interface that is up tells a hardware address");
    }
    let twin = subject
        .site
        .entered()
        .take_while(|other| other.name() != subject.name())
        .find_map(|other| {
            let shared = own.iter().find(|mac| macs(other.facts()).contains(mac))?;
            Some((other.name().to_owned(), (*shared).to_owned()))
        });
    match twin {
        Some((twin, mac)) => wrong(
            format!("its hardware address {mac} is that of `{twin}` too"),
            "a hardware address of its own",
            "give the clone's network card a new MAC in the hypervisor's settings",
        ),
        None => passed(own.join(", ")),
    }
}
