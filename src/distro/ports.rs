//! Which ports a cluster's hosts listen on, and who has to reach them: the one
//! table for the check of ports that must be free, for the matrix of who reaches
//! whom, and for a host's own firewall. Pure.
//!
//! Not in the table: SSH, whose port each host has for itself; and the ports that
//! the kernel picks when hosts pass parts of an image on to each other. Without the
//! latter a host gets everything from the controller.
//!
//! The numbers are Kubernetes' own (kubernetes.io/docs/reference/networking/ports-and-protocols),
//! kubeadm's (cmd/kubeadm/app/constants), flannel's (Documentation/backends.md) and
//! chasi's.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{API_PORT, ENDPOINT_PORT, REGISTRY_PORT, Role};

pub use crate::host::probe::Protocol;

/// Port of etcd for its clients.
pub const ETCD_CLIENT_PORT: u16 = 2379;
/// Port of etcd for the other members.
pub const ETCD_PEER_PORT: u16 = 2380;
/// Port of kubelet.
pub const KUBELET_PORT: u16 = 10_250;
/// UDP port of flannel's VXLAN: the kernel's own default, not IANA's 4789.
pub const VXLAN_PORT: u16 = 8472;

/// Who has to reach a port.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Every control plane.
    ControlPlanes,
    /// Every host of the cluster, control planes among them.
    Nodes,
    /// Pods, on the same host and on others.
    Pods,
    /// Whoever uses the cluster from outside.
    Outside,
}

/// On which hosts somebody listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listens {
    /// On control planes.
    ControlPlanes,
    /// On every host.
    Everywhere,
}

/// A port, or a range of them, and who has to reach it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Port {
    /// The ports; nearly always one.
    pub numbers: RangeInclusive<u16>,
    /// How packets to it are made.
    pub protocol: Protocol,
    /// On which hosts.
    pub listens: Listens,
    /// Who has to reach it; nobody but the host itself where this is empty.
    pub from: &'static [Peer],
    /// Who listens, in a few words.
    pub what: &'static str,
}

impl Port {
    /// The port, where it is one and no range.
    pub fn single(&self) -> Option<u16> {
        (self.numbers.start() == self.numbers.end()).then_some(*self.numbers.start())
    }

    /// Whether a host of this role listens there.
    pub fn is_of(&self, role: Role) -> bool {
        self.listens == Listens::Everywhere || role == Role::ControlPlane
    }

    /// Whether a host of this role has to reach it on other hosts.
    pub fn is_for(&self, role: Role) -> bool {
        self.from.contains(&Peer::Nodes)
            || (role == Role::ControlPlane && self.from.contains(&Peer::ControlPlanes))
    }
}

const fn port(
    number: u16,
    protocol: Protocol,
    listens: Listens,
    from: &'static [Peer],
    what: &'static str,
) -> Port {
    ports(number, number, protocol, listens, from, what)
}

const fn ports(
    first: u16,
    last: u16,
    protocol: Protocol,
    listens: Listens,
    from: &'static [Peer],
    what: &'static str,
) -> Port {
    Port {
        numbers: first..=last,
        protocol,
        listens,
        from,
        what,
    }
}

/// All ports.
pub const PORTS: [Port; 15] = {
    use Listens::{ControlPlanes as Some, Everywhere as All};
    use Peer::{ControlPlanes, Nodes, Outside, Pods};
    use Protocol::{Tcp, Udp};
    [
        port(API_PORT, Tcp, Some, &[Nodes, Pods, Outside], "API server"),
        port(ETCD_CLIENT_PORT, Tcp, Some, &[ControlPlanes], "etcd"),
        port(
            ETCD_PEER_PORT,
            Tcp,
            Some,
            &[ControlPlanes],
            "etcd's members",
        ),
        port(KUBELET_PORT, Tcp, All, &[ControlPlanes, Pods], "kubelet"),
        port(VXLAN_PORT, Udp, All, &[Nodes], "pod network (VXLAN)"),
        ports(
            30_000,
            32_767,
            Tcp,
            All,
            &[Outside],
            "Services of type NodePort",
        ),
        ports(
            30_000,
            32_767,
            Udp,
            All,
            &[Outside],
            "Services of type NodePort",
        ),
        port(2381, Tcp, Some, &[], "etcd's metrics"),
        port(10_257, Tcp, Some, &[], "controller manager"),
        port(10_259, Tcp, Some, &[], "scheduler"),
        port(10_248, Tcp, All, &[], "kubelet's health"),
        port(10_249, Tcp, All, &[], "kube-proxy's metrics"),
        port(10_256, Tcp, All, &[], "kube-proxy's health"),
        port(ENDPOINT_PORT, Tcp, All, &[], "balancer to the API servers"),
        port(REGISTRY_PORT, Tcp, All, &[], "registry"),
    ]
};

/// The ports that somebody listens on at a host of this role.
pub fn of(role: Role) -> impl Iterator<Item = &'static Port> {
    static ALL: [Port; 15] = PORTS;
    ALL.iter().filter(move |port| port.is_of(role))
}

/// The page of all ports, for `docs/ports.md`.
pub fn page() -> String {
    let mut text = String::from(
        "# Ports\n\n\
         What listens on a cluster's hosts, and who has to reach it. Firewalls between hosts, and on them, must let this through; `chasi check pre` measures whether they do.\n\n\
         | port | hosts | what | reached by |\n|---|---|---|---|\n",
    );
    for port in PORTS {
        let numbers = match port.single() {
            Some(number) => number.to_string(),
            None => format!("{}–{}", port.numbers.start(), port.numbers.end()),
        };
        let hosts = match port.listens {
            Listens::ControlPlanes => "control planes",
            Listens::Everywhere => "all",
        };
        let from: Vec<&str> = port
            .from
            .iter()
            .map(|peer| match peer {
                Peer::ControlPlanes => "control planes",
                Peer::Nodes => "all hosts",
                Peer::Pods => "pods",
                Peer::Outside => "users outside",
            })
            .collect();
        let from = match from.is_empty() {
            true => "the host itself".to_owned(),
            false => from.join(", "),
        };
        text.push_str(&format!(
            "| {numbers}/{} | {hosts} | {} | {from} |\n",
            port.protocol, port.what
        ));
    }
    text.push_str(
        "\nThe port of the SSH server is each host's own. While an image is copied, hosts pass parts of it on to each other at TCP ports that the kernel picks; where these are closed, each host gets everything from the controller.\n\n\
         This page is made from `src/distro/ports.rs`; `UPDATE_DOCS=1 cargo test --test cli` writes it.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(role: Role, wanted: impl Fn(&Port) -> bool) -> Vec<String> {
        of(role)
            .filter(|port| wanted(port))
            .filter_map(|port| Some(format!("{}/{}", port.single()?, port.protocol)))
            .collect()
    }

    #[test]
    fn roles_have_the_ports_that_kubernetes_documents() {
        let reached = |port: &Port| !port.from.is_empty();
        assert_eq!(
            numbers(Role::ControlPlane, reached),
            ["6443/tcp", "2379/tcp", "2380/tcp", "10250/tcp", "8472/udp"]
        );
        assert_eq!(numbers(Role::Worker, reached), ["10250/tcp", "8472/udp"]);
        let by_workers = |port: &Port| port.is_for(Role::Worker);
        assert_eq!(
            numbers(Role::ControlPlane, by_workers),
            ["6443/tcp", "8472/udp"]
        );
    }

    #[test]
    fn no_two_listen_on_one_port() {
        for (at, one) in PORTS.iter().enumerate() {
            for other in &PORTS[at + 1..] {
                let apart = one.protocol != other.protocol
                    || one.numbers.end() < other.numbers.start()
                    || other.numbers.end() < one.numbers.start();
                assert!(apart, "{one:?} and {other:?}");
            }
        }
    }
}
