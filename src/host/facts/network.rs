//! Addresses, routes, name servers and listeners.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Process, Source, process};
use crate::host::switch::block;

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses, without link-local ones.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
}

/// A default route.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// By which interface.
    pub interface: String,
    /// By which router; none where the network itself is everything.
    pub gateway: Option<IpAddr>,
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// The lower the better.
    pub metric: u32,
}

/// A route that is not the default one.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    /// By which interface.
    pub interface: String,
    /// The network's first address.
    pub network: IpAddr,
    /// The length of its prefix, in bits.
    pub prefix: u8,
}

/// Who answers questions for names.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct NameServers {
    /// The servers that a pod can ask as well: none is on loopback.
    pub servers: Vec<IpAddr>,
    /// The file that has them.
    pub file: Option<String>,
    /// Whether `/etc/resolv.conf` names a server on loopback, such as that of
    /// systemd-resolved.
    pub stub: bool,
}

/// What `/etc/hosts` says of a name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HostsLine {
    /// The address.
    pub address: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// Someone who listens on a TCP port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// On which address; unspecified is all of them.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Who it is, where that can be seen.
    pub process: Option<Process>,
}

pub(super) fn interfaces(source: &Source) -> Vec<Interface> {
    let mut addresses: BTreeMap<String, Vec<Address>> = BTreeMap::new();
    // The kernel tells addresses of this process's own network only.
    if source.root.is_live() {
        for found in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            if let Some(address) = address(&found).filter(|address| !is_link_local(address.ip)) {
                addresses
                    .entry(found.interface_name)
                    .or_default()
                    .push(address);
            }
        }
    }
    source
        .names("/sys/class/net")
        .into_iter()
        .filter(|name| name != "lo")
        .map(|name| {
            let text = |file: &str| source.text(&format!("/sys/class/net/{name}/{file}"));
            let flags = text("flags")
                .and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
            Interface {
                // IFF_UP, netdevice(7)
                up: flags.is_some_and(|flags| flags & 1 == 1),
                mtu: text("mtu").and_then(|mtu| mtu.parse().ok()),
                mac: text("address").filter(|mac| !mac.is_empty()),
                addresses: addresses.remove(&name).unwrap_or_default(),
                name,
            }
        })
        .collect()
}

fn address(found: &nix::ifaddrs::InterfaceAddress) -> Option<Address> {
    let (address, mask) = (found.address?, found.netmask?);
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        let prefix = u32::from(mask.ip()).count_ones();
        return Some(Address {
            ip: address.ip().into(),
            prefix: prefix.try_into().ok()?,
        });
    }
    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    let prefix = u128::from(mask.ip()).count_ones();
    Some(Address {
        ip: address.ip().into(),
        prefix: prefix.try_into().ok()?,
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// How many routes are told at most; a host with a full table of the internet has
/// more, and none of them decides anything here.
const MOST_ROUTES: usize = 4096;

/// The default routes, the preferred one first, and where else routes lead.
pub(super) fn routes(source: &Source) -> (Vec<Route>, Vec<Destination>) {
    let ipv4 = source.text("/proc/net/route").unwrap_or_default();
    let ipv6 = source.text("/proc/net/ipv6_route").unwrap_or_default();
    let (mut defaults, mut others) = (Vec::new(), Vec::new());
    let all = ipv4
        .lines()
        .skip(1)
        .filter_map(route4)
        .chain(ipv6.lines().filter_map(route6));
    for (network, prefix, route) in all {
        match (prefix, network) {
            (0, _) => defaults.push(route),
            // Link-local and multicast routes are on every interface.
            (_, IpAddr::V6(network))
                if network.is_unicast_link_local() || network.is_multicast() => {}
            _ if others.len() == MOST_ROUTES => {}
            (prefix, network) => others.push(Destination {
                interface: route.interface,
                network,
                prefix,
            }),
        }
    }
    defaults.sort_by_key(|route| (route.ipv6, route.metric));
    (defaults, others)
}

/// RTF_UP (linux/route.h).
const UP: u32 = 1;
/// RTF_REJECT: a route that leads nowhere.
const REJECT: u32 = 0x200;

/// Interface, destination, gateway, flags, two counters, metric, mask; addresses as
/// the machine's own 32-bit numbers in hex.
fn route4(line: &str) -> Option<(IpAddr, u8, Route)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [
        interface,
        destination,
        gateway,
        flags,
        _,
        _,
        metric,
        mask,
        ..,
    ] = words.as_slice()
    else {
        return None;
    };
    let hex = |word: &str| u32::from_str_radix(word, 16).ok();
    let flags = hex(flags)?;
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
    let route = Route {
        interface: (*interface).to_owned(),
        gateway: (!gateway.is_unspecified()).then_some(gateway.into()),
        ipv6: false,
        metric: metric.parse().ok()?,
    };
    let network = Ipv4Addr::from(hex(destination)?.to_ne_bytes());
    let prefix = hex(mask)?.count_ones().try_into().ok()?;
    Some((network.into(), prefix, route))
}

/// Destination, its prefix, source, its prefix, gateway, metric, two counters,
/// flags, interface; all in hex, addresses byte by byte.
fn route6(line: &str) -> Option<(IpAddr, u8, Route)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [
        destination,
        prefix,
        _,
        _,
        gateway,
        metric,
        _,
        _,
        flags,
        interface,
    ] = words.as_slice()
    else {
        return None;
    };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    if flags & UP == 0 || flags & REJECT != 0 || *interface == "lo" {
        return None;
    }
    let address = |word: &str| Some(Ipv6Addr::from(u128::from_str_radix(word, 16).ok()?));
    let gateway = address(gateway)?;
    let route = Route {
        interface: (*interface).to_owned(),
        gateway: (!gateway.is_unspecified()).then_some(gateway.into()),
        ipv6: true,
        metric: u32::from_str_radix(metric, 16).ok()?,
    };
    let prefix = u8::from_str_radix(prefix, 16).ok()?;
    Some((address(destination)?.into(), prefix, route))
}

pub(super) fn name_servers(source: &Source) -> NameServers {
    let mut found = NameServers::default();
    // Behind systemd-resolved's address on loopback are the real ones.
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = source.text(file).unwrap_or_default();
        let server = |line: &str| {
            let mut words = line.split_whitespace();
            let address = words
                .next()
                .filter(|word| *word == "nameserver")
                .and(words.next())?;
            address.split('%').next()?.parse::<IpAddr>().ok()
        };
        let (stubs, servers): (Vec<_>, Vec<_>) = text
            .lines()
            .filter_map(server)
            .partition(|address| address.is_loopback());
        found.stub |= !stubs.is_empty();
        if !servers.is_empty() {
            found.servers = servers;
            found.file = Some(file.to_owned());
            break;
        }
    }
    found
}

/// How many lines of `/etc/hosts` are told at most.
const MOST_HOSTS_LINES: usize = 1024;

/// What `/etc/hosts` says, without the block that chasi keeps there.
pub(super) fn hosts_file(source: &Source) -> Option<Vec<HostsLine>> {
    let text = source.text("/etc/hosts")?;
    let text = block::without(&text).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some(HostsLine {
            address: words.next()?.split('%').next()?.parse().ok()?,
            names: words.map(str::to_owned).collect(),
        })
    };
    Some(
        text.lines()
            .filter_map(line)
            .take(MOST_HOSTS_LINES)
            .collect(),
    )
}

/// Who listens on TCP ports, and who has UDP ports open for anybody.
pub(super) fn listeners(source: &Source) -> (Vec<Listener>, Vec<Listener>) {
    let owners: HashMap<u64, Process> = process::sockets(source);
    let tcp = ["/proc/net/tcp", "/proc/net/tcp6"];
    let udp = ["/proc/net/udp", "/proc/net/udp6"];
    (
        sockets(source, &tcp, LISTEN, &owners),
        sockets(source, &udp, UNCONNECTED, &owners),
    )
}

fn sockets(
    source: &Source,
    files: &[&str],
    state: &str,
    owners: &HashMap<u64, Process>,
) -> Vec<Listener> {
    let mut listeners: Vec<_> = files
        .iter()
        .flat_map(|file| {
            source
                .bytes(file)
                .unwrap_or_default()
                .lines()
                .filter_map(|line| listening(line, state))
                .collect::<Vec<_>>()
        })
        .map(|(address, port, socket)| Listener {
            address,
            port,
            process: owners.get(&socket).cloned(),
        })
        .collect();
    listeners.sort_by_key(|listener| (listener.port, listener.address));
    listeners
}

/// TCP_LISTEN (net/tcp_states.h).
const LISTEN: &str = "0A";
/// TCP_CLOSE, which the kernel says of a UDP socket without another end.
const UNCONNECTED: &str = "07";

/// Number, local address, remote address, state, four words, the socket's number;
/// an address is 32-bit numbers of the machine's own in hex, and `:PORT`.
fn listening(line: &str, state: &str) -> Option<(IpAddr, u16, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    if words.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let address = match address.len() {
        8 => IpAddr::from(word(0)?.to_ne_bytes()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((
        address,
        u16::from_str_radix(port, 16).ok()?,
        words.get(9)?.parse().ok()?,
    ))
}
