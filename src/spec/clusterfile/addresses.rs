//! Lists of hosts as sealer has them: addresses without names, and ranges
//! `10.0.0.2-10.0.0.9`. The names are made from the addresses, so that they stay
//! the same when the list changes.

use std::net::IpAddr;
use std::ops::Range;

use super::draft::{HostDraft, Said};
use super::problem::{Problem, Problems};
use crate::spec::cluster::{Environment, Host, NodeAddresses, Roles, Ssh};
use crate::spec::name::HostName;
use crate::spec::network::Address;

/// How many addresses a range may have.
const LARGEST_RANGE: u128 = 1024;

/// The addresses that one item of a list stands for.
pub(super) fn expand(item: &Said<&str>, problems: &Problems<'_>) -> Vec<Said<Address>> {
    let text = item.value.trim();
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = ends else {
        return match text.parse::<Address>() {
            Ok(address) => vec![Said::new(address, &item.span)],
            Err(invalid) => {
                problems.say(&item.span, invalid.to_string());
                Vec::new()
            }
        };
    };
    match range(first, last) {
        Some(addresses) => addresses
            .map(|ip| Said::new(Address::Ip(ip), &item.span))
            .collect(),
        None => {
            problems.add(
                Problem::new(
                    item.span.clone(),
                    format!("`{text}` is not a range of addresses"),
                )
                .hint(format!(
                    "from the lower to the higher address of one family, at most {LARGEST_RANGE}"
                )),
            );
            Vec::new()
        }
    }
}

fn range(first: IpAddr, last: IpAddr) -> Option<Box<dyn Iterator<Item = IpAddr>>> {
    let right = |first: u128, last: u128| first <= last && last - first < LARGEST_RANGE;
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            right(first.into(), last.into())
                .then(|| Box::new((first..=last).map(|ip| IpAddr::V4(ip.into()))) as _)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            right(first, last)
                .then(|| Box::new((first..=last).map(|ip| IpAddr::V6(ip.into()))) as _)
        }
        _ => None,
    }
}

/// A host that has an address and nothing else of its own.
pub(super) fn draft(
    address: Said<Address>,
    roles: Roles,
    ssh: Ssh,
    problems: &Problems<'_>,
) -> Option<HostDraft> {
    let Said { value, span } = address;
    let Some(name) = name_of(&value) else {
        problems.add(
            Problem::new(
                span,
                format!("`{value}` is too long for the name of a host"),
            )
            .hint("use a Clusterfile, where the host can be given a name"),
        );
        return None;
    };
    Some(host(name, value, &span, roles, ssh))
}

fn host(
    name: HostName,
    address: Address,
    span: &Range<usize>,
    roles: Roles,
    ssh: Ssh,
) -> HostDraft {
    HostDraft {
        name_span: span.clone(),
        address_span: span.clone(),
        node_span: span.clone(),
        host: Host {
            name,
            node_addresses: match &address {
                Address::Ip(ip) => NodeAddresses::Given(vec![*ip]),
                Address::Name(_) => NodeAddresses::DefaultRoute,
            },
            address,
            roles,
            labels: Default::default(),
            taints: Vec::new(),
            ssh,
            env: Environment::new(),
        },
    }
}

/// `node-10-0-0-1`, `node-fd00-0-0-0-0-0-0-1`, or the DNS name itself.
fn name_of(address: &Address) -> Option<HostName> {
    let text = match address {
        Address::Ip(IpAddr::V4(ip)) => format!("node-{}", ip.to_string().replace('.', "-")),
        Address::Ip(IpAddr::V6(ip)) => {
            let parts: Vec<_> = ip
                .segments()
                .iter()
                .map(|part| format!("{part:x}"))
                .collect();
            format!("node-{}", parts.join("-"))
        }
        Address::Name(name) => name.to_string(),
    };
    text.parse().ok()
}
