//! What each host's network is like, as far as it can tell by itself.

use std::net::IpAddr;

use super::outcome::{Outcome, Place, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Phase};
use super::residue::is_of_cluster;
use super::site::{Site, Subject};
use crate::cluster::desired::node_addresses;
use crate::distro::ports::{self, Protocol};
use crate::distro::{ENDPOINT_PORT, Role};
use crate::host::facts::Listener;
use crate::spec::cluster::NodeAddresses;
use crate::spec::network::Cidr;

const PRE: &[Phase] = &[Phase::Pre];
const BEFORE: &[Phase] = &[Phase::Pre, Phase::Upgrade];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "network.node-address",
        "the host has the address that its node is to have",
        "`nodeIPs` of the Clusterfile, against the host's interfaces",
        node_address,
    ),
    Check::of_host(
        "network.default-route",
        "the host has a default route",
        "the host's routes",
        default_route,
    )
    .warning(),
    Check::of_host(
        "network.ports",
        "the ports that the cluster needs are free",
        "who listens on the host, against the ports of its role",
        free_ports,
    )
    .at(PRE),
    Check::of_host(
        "network.overlap",
        "no host has an address in the pods' or the Services' networks",
        "the host's addresses, against `network` of the Clusterfile",
        overlap,
    )
    .at(BEFORE),
    Check::of_host(
        "network.routes",
        "no route leads into the pods' or the Services' networks",
        "the host's routes, against `network` of the Clusterfile",
        routes,
    )
    .at(BEFORE),
    Check::of_site(
        "network.node-cidr",
        "the pods' network has room for the hosts, and one more",
        "`network.podCIDRs` and `nodeCIDRMaskSizes`, against the number of hosts",
        node_cidr,
    )
    .warning()
    .at(BEFORE),
    Check::of_host(
        "network.resolver",
        "the host has a name server that pods can ask",
        "resolv.conf; a stub on loopback would ask itself",
        resolver,
    )
    .warning(),
    Check::of_host(
        "network.hosts-file",
        "`/etc/hosts` says what the Clusterfile says",
        "`/etc/hosts`, without chasi's own lines",
        hosts_file,
    ),
    Check::of_host(
        "network.proxy",
        "no proxy stands between the cluster's parts",
        "proxy variables of the system and its services, and what they except",
        proxy,
    )
    .warning(),
    Check::of_host(
        "network.firewall",
        "no firewall service changes rules beside the cluster's",
        "firewalld and ufw",
        firewall,
    )
    .warning(),
];

pub(super) fn role(subject: &Subject) -> Role {
    match subject.control_plane() {
        true => Role::ControlPlane,
        false => Role::Worker,
    }
}

fn node_address(subject: &Subject) -> Outcome {
    match node_addresses(subject.host, subject.facts()) {
        Ok(addresses) => passed(list(&addresses)),
        Err(error) => wrong(
            error.to_string(),
            "an address of the host's own",
            error.hints().first().cloned().unwrap_or_default(),
        ),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn default_route(subject: &Subject) -> Outcome {
    match subject.facts().default_routes.first() {
        Some(route) => passed(match route.gateway {
            Some(gateway) => format!("by {gateway} ({})", route.interface),
            None => route.interface.clone(),
        }),
        None => wrong(
            "the host has no default route",
            "one, even where it leads nowhere: without it programs on the host cannot reach Services",
            "`ip route add default dev eth0` with the name of the right interface, and the same in the network's configuration",
        ),
    }
}

fn free_ports(subject: &Subject) -> Outcome {
    if subject.managed() {
        return not_applicable("the host is chasi's already");
    }
    let facts = subject.facts();
    let mut taken: Vec<(Protocol, &Listener)> = Vec::new();
    let single = ports::of(role(subject)).filter_map(|port| Some((port.single()?, port.protocol)));
    for (number, protocol) in single {
        let listeners = match protocol {
            Protocol::Tcp => &facts.listeners,
            Protocol::Udp => &facts.udp_listeners,
        };
        let found = listeners.iter().find(|listener| listener.port == number);
        taken.extend(found.map(|listener| (protocol, listener)));
    }
    taken.sort_by_key(|(_, listener)| listener.port);
    let Some((protocol, first)) = taken.first() else {
        return passed("all are free");
    };
    let shown: Vec<String> = taken
        .iter()
        .map(|(_, listener)| match &listener.process {
            Some(process) => format!(
                "{} is in use by `{}` ({})",
                listener.port, process.name, process.id
            ),
            None => format!("{} is in use", listener.port),
        })
        .collect();
    wrong(
        format!("port {}", shown.join(", port ")),
        "a free port",
        format!(
            "`ss -{}lnp 'sport = :{}'` on the host shows by whom; stop that program",
            match protocol {
                Protocol::Tcp => 't',
                Protocol::Udp => 'u',
            },
            first.port
        ),
    )
}

fn networks<'a>(subject: &'a Subject) -> impl Iterator<Item = &'a Cidr> {
    let network = &subject.site.cluster.network;
    network.pod_cidrs.iter().chain(&network.service_cidrs)
}

const OTHER: &str = "choose other `network.podCIDRs` or `network.serviceCIDRs` in the Clusterfile";

fn overlap(subject: &Subject) -> Outcome {
    let own: Vec<IpAddr> = subject
        .facts()
        .interfaces
        .iter()
        // Once there is a cluster, its own interfaces are there too.
        .filter(|interface| !subject.managed() || !is_of_cluster(&interface.name))
        .flat_map(|interface| interface.addresses.iter().map(|address| address.ip))
        .collect();
    for network in networks(subject) {
        if let Some(address) = own.iter().find(|address| network.contains(**address)) {
            return wrong(
                format!("its address {address} lies in the cluster's network {network}"),
                "pod and Service networks that no host has addresses in",
                OTHER,
            );
        }
    }
    passed(list(&own))
}

fn routes(subject: &Subject) -> Outcome {
    let facts = subject.facts();
    let own = |name: &str| subject.managed() && is_of_cluster(name);
    for network in networks(subject) {
        let found = facts
            .destinations
            .iter()
            .filter(|route| !own(&route.interface))
            .find(|route| {
                let shorter = route.prefix.min(network.prefix());
                format!("{}/{}", route.network, route.prefix)
                    .parse::<Cidr>()
                    .is_ok_and(|route| route.overlaps(network))
                    && shorter > 0
            });
        if let Some(route) = found {
            return wrong(
                format!(
                    "its route to {}/{} by `{}` overlaps the cluster's network {network}",
                    route.network, route.prefix, route.interface
                ),
                "pod and Service networks that no route leads to",
                OTHER,
            );
        }
    }
    passed(format!("{} routes, none of them", facts.destinations.len()))
}

fn node_cidr(site: &Site) -> Vec<(Place, Outcome)> {
    let network = &site.cluster.network;
    let hosts = site.cluster.hosts.len() as u128;
    let judge = |cidr: &Cidr| {
        let mask = network.node_cidr_mask_sizes.of(cidr.family());
        let rooms = 1_u128
            .checked_shl(u32::from(mask.saturating_sub(cidr.prefix())))
            .unwrap_or(u128::MAX);
        let seen = format!("{cidr} has {rooms} networks of /{mask} for {hosts} hosts");
        match rooms > hosts {
            true => passed(seen),
            false => wrong(
                seen,
                "one more than there are hosts: one that replaces another joins before that goes",
                "choose a larger `network.podCIDRs`, or a longer `nodeCIDRMaskSizes`, before the cluster is installed",
            ),
        }
    };
    network
        .pod_cidrs
        .iter()
        .map(|cidr| (Place::Cluster {}, judge(cidr)))
        .collect()
}

fn resolver(subject: &Subject) -> Outcome {
    let servers = &subject.facts().name_servers;
    match (&servers.file, servers.stub) {
        (Some(file), stub) => passed(format!(
            "{} of `{file}`{}",
            list(&servers.servers),
            if stub { ", behind a stub" } else { "" }
        )),
        (None, true) => wrong(
            "resolv.conf names nothing but a stub on loopback",
            "the servers that the stub asks: pods that asked the stub would ask themselves",
            "name real servers in /etc/resolv.conf, or let systemd-resolved write /run/systemd/resolve/resolv.conf",
        ),
        (None, false) => wrong(
            "the host has no name server",
            "one, if pods are to find names outside the cluster",
            "name one in /etc/resolv.conf; without, the cluster's DNS knows its own names only",
        ),
    }
}

fn hosts_file(subject: &Subject) -> Outcome {
    let Some(lines) = &subject.facts().hosts_file else {
        return unknown("`/etc/hosts` cannot be read");
    };
    let localhost = lines.iter().any(|line| {
        line.address.is_loopback() && line.names.iter().any(|name| name == "localhost")
    });
    if !localhost {
        return wrong(
            "`/etc/hosts` does not say what `localhost` is",
            "`127.0.0.1 localhost`",
            "add the line `127.0.0.1 localhost` to /etc/hosts",
        );
    }
    for host in &subject.site.cluster.hosts {
        let NodeAddresses::Given(addresses) = &host.node_addresses else {
            continue;
        };
        let other = lines.iter().find(|line| {
            let names_it = line.names.iter().any(|name| name == host.name.as_str());
            // Debian gives a host's own name to 127.0.1.1.
            names_it && !line.address.is_loopback() && !addresses.contains(&line.address)
        });
        if let Some(line) = other {
            return wrong(
                format!("`/etc/hosts` says that `{}` is {}", host.name, line.address),
                format!("{}, as in the Clusterfile", list(addresses)),
                "remove that line from /etc/hosts: chasi adds its own",
            );
        }
    }
    passed(format!("{} lines", lines.len()))
}

fn proxy(subject: &Subject) -> Outcome {
    let Some(proxy) = subject.facts().proxies.first() else {
        return passed("none");
    };
    let network = &subject.site.cluster.network;
    let mut wanted: Vec<String> = network
        .pod_cidrs
        .iter()
        .chain(&network.service_cidrs)
        .map(ToString::to_string)
        .collect();
    wanted.push(".chasi.internal".to_owned());
    let excepted: Vec<&str> = proxy.except.split([',', ' ']).map(str::trim).collect();
    wanted.retain(|name| {
        let bare = name.trim_start_matches('.');
        !excepted
            .iter()
            .any(|except| *except == "*" || except.trim_start_matches('.') == bare)
    });
    if wanted.is_empty() {
        return passed(format!("`{}` excepts the cluster", proxy.file));
    }
    wrong(
        format!(
            "`{}` in `{}` does not except {}",
            proxy.variable,
            proxy.file,
            wanted.join(", ")
        ),
        "a `NO_PROXY` with the cluster's networks and names: what goes to the API by a proxy does not arrive",
        format!("add `{}` to `NO_PROXY` in {}", wanted.join(","), proxy.file),
    )
}

fn firewall(subject: &Subject) -> Outcome {
    let running = &subject.facts().firewalls;
    if running.is_empty() {
        return passed("none");
    }
    wrong(
        format!("{} is in use", running.join(" and ")),
        "none, or one that opens the cluster's ports: `network.reach` measures whether it does",
        format!(
            "`systemctl disable --now {}`, or open the ports of docs/checks.md; the balancer's port {ENDPOINT_PORT} stays local",
            running.join(" ")
        ),
    )
}
