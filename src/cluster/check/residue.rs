//! What an earlier cluster left on a host that is to be bare.

use super::outcome::{Outcome, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::Subject;
use crate::distro::kubeadm::teardown::INTERFACES;
use crate::host::facts::Known;

const PRE: &[Phase] = &[Phase::Pre];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "residue.etcd",
        "there is no data of an etcd that chasi does not know",
        "`/var/lib/etcd`, on hosts that are not chasi's yet",
        etcd,
    )
    .at(PRE)
    .never_ignored("the data of that etcd would be mixed with the new cluster's, or lost"),
    Check::of_host(
        "residue.kubernetes",
        "no earlier cluster left anything",
        "directories of Kubernetes and of container runtimes, on hosts that are not chasi's yet",
        kubernetes,
    )
    .at(PRE),
    Check::of_host(
        "residue.runtime",
        "no other container runtime or Kubernetes runs",
        "running processes, on hosts that are not chasi's yet",
        runtime,
    )
    .at(PRE),
    Check::of_host(
        "residue.interfaces",
        "no pod network of an earlier cluster is there",
        "network interfaces, on hosts that are not chasi's yet",
        interfaces,
    )
    .at(PRE),
    Check::of_host(
        "residue.rules",
        "no packet-filter rules of an earlier cluster are there",
        "chains of kube-proxy, kubelet and pod networks, on hosts that are not chasi's yet",
        rules,
    )
    .warning()
    .at(PRE)
    .needing(&[Need::Filter]),
];

const MANAGED: &str = "the host is chasi's already";
const ETCD: &str = "/var/lib/etcd";

fn etcd(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable(MANAGED);
    }
    if !subject.facts().residue.iter().any(|path| path == ETCD) {
        return passed("no data");
    }
    wrong(
        "`/var/lib/etcd` holds data",
        "no data of an etcd",
        "if nobody needs it, move it away: `mv /var/lib/etcd /var/lib/etcd.old`",
    )
}

fn kubernetes(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable(MANAGED);
    }
    let left: Vec<&str> = subject
        .facts()
        .residue
        .iter()
        .map(String::as_str)
        .filter(|path| *path != ETCD)
        .collect();
    if left.is_empty() {
        return passed("nothing");
    }
    wrong(
        format!("an earlier cluster left {}", left.join(", ")),
        "a host without Kubernetes",
        "remove it with the tool that installed it, for instance `kubeadm reset`, then remove these directories",
    )
}

fn runtime(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable(MANAGED);
    }
    let running: Vec<&str> = subject
        .facts()
        .processes
        .iter()
        .map(|process| process.name.as_str())
        .collect();
    if running.is_empty() {
        return passed("none");
    }
    wrong(
        format!("{} runs already", running.join(" and ")),
        "no container runtime: the image brings its own",
        format!(
            "stop and disable it: `systemctl disable --now {}`",
            running.join(" ")
        ),
    )
}

/// Whether pod networks and kube-proxy make interfaces of this name.
pub(super) fn is_of_cluster(interface: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["cali", "cilium_", "lxc", "tunl"];
    INTERFACES.contains(&interface)
        || BEGINNINGS.iter().any(|start| interface.starts_with(start))
        // The ends of pods' links, as the CNI's bridge plugin names them.
        || (interface.len() == 12
            && interface
                .strip_prefix("veth")
                .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_hexdigit())))
}

fn interfaces(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable(MANAGED);
    }
    // It appears by itself when its module is loaded.
    let left: Vec<&str> = subject
        .facts()
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .filter(|name| is_of_cluster(name) && *name != "tunl0")
        .collect();
    if left.is_empty() {
        return passed("none");
    }
    wrong(
        format!("an earlier cluster left the interfaces {}", left.join(", ")),
        "no interface of a pod network",
        format!(
            "`ip link delete {}`, for each; or restart the host",
            left.first().unwrap_or(&"cni0")
        ),
    )
}

fn rules(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable(MANAGED);
    }
    let filter = match &subject.measured.filter {
        Known::Is(filter) if filter.told_by.is_empty() => {
            return unknown("the host has neither `nft` nor `iptables-save`, which list the rules");
        }
        Known::Is(filter) => filter,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    match filter.cluster_chains {
        0 => passed(format!("none ({})", filter.told_by.join(", "))),
        count => wrong(
            format!("there are {count} packet-filter chains of an earlier cluster"),
            "none",
            "restart the host; or take away all rules with `nft flush ruleset`, if none of them are yours",
        ),
    }
}
