//! Which of a host's addresses are its node's.

use std::net::IpAddr;

use crate::error::{Error, Kind, Result};
use crate::host::facts::Facts;
use crate::spec;
use crate::spec::cluster::NodeAddresses;

/// The addresses that the Clusterfile means, the primary first.
pub(in crate::cluster) fn node_addresses(
    host: &spec::cluster::Host,
    facts: &Facts,
) -> Result<Vec<IpAddr>> {
    let missing = |what: String, hint: &str| {
        Err(Error::new(Kind::Check, what)
            .on_host(host.name.to_string())
            .hint(hint))
    };
    let hint = "set `nodeIPs` of the host in the Clusterfile; `ip -brief address` on the host lists what it has";
    match &host.node_addresses {
        NodeAddresses::Given(addresses) => {
            let absent = addresses
                .iter()
                .find(|address| !has_address(facts, **address));
            match absent {
                Some(address) => missing(
                    format!("the host does not have the address {address}"),
                    hint,
                ),
                None => Ok(addresses.clone()),
            }
        }
        NodeAddresses::Interface(name) => {
            let addresses = addresses_of(facts, name.as_str());
            if addresses.is_empty() {
                return missing(
                    format!("the interface `{name}` has no global address"),
                    hint,
                );
            }
            Ok(addresses)
        }
        NodeAddresses::DefaultRoute => {
            let addresses = default_address(facts);
            if addresses.is_empty() {
                return missing(
                    "the host has no default route to choose the node's address by".into(),
                    hint,
                );
            }
            Ok(addresses)
        }
    }
}

fn has_address(facts: &Facts, address: IpAddr) -> bool {
    facts
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .any(|own| own.ip == address)
}

/// One global address of each family of an interface, IPv4 first.
fn addresses_of(facts: &Facts, name: &str) -> Vec<IpAddr> {
    let own = || {
        facts
            .interfaces
            .iter()
            .filter(|interface| interface.name == name)
            .flat_map(|interface| &interface.addresses)
            .map(|address| address.ip)
            .filter(|ip| !is_link_local(ip))
    };
    own()
        .find(IpAddr::is_ipv4)
        .into_iter()
        .chain(own().find(IpAddr::is_ipv6))
        .collect()
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The address of the interface by which the host reaches others.
fn default_address(facts: &Facts) -> Vec<IpAddr> {
    facts
        .default_routes
        .first()
        .map(|route| {
            addresses_of(facts, &route.interface)
                .into_iter()
                .take(1)
                .collect()
        })
        .unwrap_or_default()
}
