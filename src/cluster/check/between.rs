//! What lies between hosts: who reaches whom, and how large packets may be.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::outcome::{Outcome, Place, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::{PathMeasured, Site, Way};
use crate::cluster::check::site::PortReached;
use crate::distro::ports::Protocol;
use crate::host::facts::Known;
use crate::host::probe::{Filter, Hook, Match, Opened, Path, Reached, Rule};

pub(super) const CHECKS: &[Check] = &[
    Check::of_site(
        "network.reach",
        "hosts reach each other on every port that their roles need",
        "listening on each host, and connecting or sending from the others: TCP and UDP, only where nobody listens yet; elsewhere connecting, and asking through the pod network",
        reach,
    )
    .needing(&[Need::Ways]),
    Check::of_site(
        "network.mtu",
        "the way between two hosts carries what their interfaces send",
        "packets that must not be taken apart, from the interface's MTU down",
        mtu,
    )
    .needing(&[Need::Ways]),
    Check::of_site(
        "network.vip",
        "nobody has the control plane's address yet",
        "asking by ARP for `controlPlaneEndpoint`, where it is an address in the hosts' network and none of theirs",
        vip,
    )
    .warning()
    .at(&[Phase::Pre])
    .needing(&[Need::Vip]),
];

/// What flannel's VXLAN adds to each packet: the headers of IP, UDP, VXLAN and the
/// inner Ethernet frame.
fn overhead(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => 50,
        IpAddr::V6(_) => 70,
    }
}

fn ways<'a>(site: &'a Site, judge: impl Fn(&'a Way) -> Outcome) -> Vec<(Place, Outcome)> {
    let ways = match &site.ways {
        Known::Is(ways) => ways,
        Known::Unknown(why) => return vec![(Place::Cluster {}, unknown(why.as_str()))],
    };
    let mut found: Vec<(Place, Outcome)> = site
        .hosts
        .iter()
        .filter(|host| host.report.is_err())
        .map(|host| {
            let place = Place::host(host.host.name.as_str());
            (place, unknown("the host cannot be entered"))
        })
        .collect();
    if ways.measured.is_empty() && found.is_empty() {
        let why = "there is only one host";
        return vec![(Place::Cluster {}, not_applicable(why))];
    }
    found.extend(ways.measured.iter().map(|way| {
        let place = Place::between(way.from.as_str(), way.to.as_str());
        (place, judge(way))
    }));
    found
}

fn reach(site: &Site) -> Vec<(Place, Outcome)> {
    ways(site, |way| reached(site, way))
}

/// How one port answered, judged.
enum Answer {
    Yes,
    No(&'static str),
    NotKnown(String),
    /// Nothing can be told before the host that asks is part of the pod network.
    NotYet,
}

fn answer(port: &PortReached, way: &Way) -> Answer {
    let reached = match &port.reached {
        Known::Is(reached) => reached,
        Known::Unknown(why) => return Answer::NotKnown(why.clone()),
    };
    match (&port.opened, reached, port.protocol) {
        (Opened::Closed(why), ..) => Answer::NotKnown(format!("it cannot be listened on: {why}")),
        // What carries the pods' packets uses this port.
        (Opened::Taken, _, Protocol::Udp) => match &way.overlay {
            Some(Known::Is(Path::Carries(_))) => Answer::Yes,
            Some(Known::Is(Path::Silent)) => {
                Answer::No("the pod network does not carry packets there")
            }
            Some(Known::Unknown(why)) => Answer::NotKnown(why.clone()),
            None => Answer::NotYet,
        },
        (_, Reached::Echoed | Reached::Accepted, _) => Answer::Yes,
        (Opened::Taken, Reached::Foreign, _) => Answer::Yes,
        (_, Reached::Refused, _) => Answer::No("refused"),
        (_, Reached::Silent, _) => Answer::No("no answer"),
        (_, Reached::Foreign, _) => Answer::No("somebody else answers"),
        (_, Reached::Unreachable(_), _) => Answer::No("there is no way to it"),
    }
}

fn shown(port: &PortReached) -> String {
    format!("{} {} ({})", port.protocol, port.address.port(), port.what)
}

fn reached(site: &Site, way: &Way) -> Outcome {
    let mut bad: Vec<(&PortReached, &str)> = Vec::new();
    let mut not_known: Vec<String> = Vec::new();
    let mut not_yet: Vec<String> = Vec::new();
    for port in &way.ports {
        match answer(port, way) {
            Answer::Yes => {}
            Answer::No(how) => bad.push((port, how)),
            Answer::NotKnown(why) => not_known.push(format!("{}: {why}", shown(port))),
            Answer::NotYet => not_yet.push(shown(port)),
        }
    }
    let Some((first, _)) = bad.first() else {
        if !not_known.is_empty() {
            return unknown(not_known.join("; "));
        }
        if !not_yet.is_empty() {
            return not_applicable(format!(
                "{}: somebody has the port open, and of a datagram nothing can be told before both are in the pod network",
                not_yet.join(", ")
            ));
        }
        let all: Vec<String> = way
            .ports
            .iter()
            .map(|port| format!("{} {}", port.protocol, port.address.port()))
            .collect();
        return passed(all.join(", "));
    };
    let silent = |path: &PathMeasured| matches!(path.found, Known::Is(Path::Silent));
    let nothing = bad.len() == way.ports.len()
        && !way.paths.is_empty()
        && way.paths.iter().all(silent)
        && bad
            .iter()
            .all(|(_, how)| *how == "no answer" || *how == "there is no way to it");
    let expected = "an answer on every port that their roles need";
    if nothing {
        return wrong(
            format!(
                "nothing arrives at {}: no port answers, and no echo request",
                first.address.ip()
            ),
            expected,
            format!(
                "`ping {}` on {}; look at the cables, the switches, VLANs and routes between the two",
                first.address.ip(),
                way.from
            ),
        );
    }
    let mut seen = String::new();
    let mut hint = None;
    for (port, how) in &bad {
        let separator = if seen.is_empty() { "" } else { "; " };
        // Writing to a String cannot fail.
        let _ = write!(seen, "{separator}{}: {how}", shown(port));
        let (why, advice) = culprit(site, way, port);
        let _ = write!(seen, ", {why}");
        hint.get_or_insert(advice);
    }
    wrong(seen, expected, hint.unwrap_or_default())
}

/// What is in the way to a port, as far as the packet filters of the two tell, and
/// what to do about it.
fn culprit(site: &Site, way: &Way, port: &PortReached) -> (String, String) {
    let sides = [(&way.to, Hook::Input), (&way.from, Hook::Output)];
    let filter = |name: &str| -> Option<&Filter> {
        let host = site
            .hosts
            .iter()
            .find(|host| host.host.name.as_str() == name)?;
        match &host.filter {
            Known::Is(filter) if !filter.told_by.is_empty() => Some(filter),
            _ => None,
        }
    };
    let suspects = |wanted: &dyn Fn(&Rule) -> bool| {
        sides.iter().find_map(|(name, hook)| {
            let rules = &filter(name)?.rules;
            let fits =
                |rule: &&Rule| (rule.hook == *hook || rule.hook == Hook::Other) && wanted(rule);
            Some((*name, rules.iter().find(fits)?))
        })
    };
    let number = port.address.port();
    let found = suspects(&|rule| rule.names(port.protocol, number))
        .or_else(|| suspects(&|rule| rule.matches == Match::Policy))
        .or_else(|| suspects(&|rule| rule.matches == Match::Anything));
    if let Some((name, rule)) = found {
        let may = match &rule.matches {
            Match::Ports { .. } => "drops or rejects it",
            Match::Anything | Match::Policy => "may drop it",
        };
        return (
            format!("`{name}` {may}: `{}` in `{}`", rule.text, rule.place),
            format!("on {name}: {}", remedy(rule, port)),
        );
    }
    let unread: Vec<&str> = sides
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| filter(name).is_none())
        .collect();
    let why = match unread.is_empty() {
        true => "and no packet filter of the two explains it: look between them".to_owned(),
        false => format!(
            "and the packet filter of {} cannot be read",
            unread.join(" and ")
        ),
    };
    let letter = match port.protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "u",
    };
    (
        why,
        format!(
            "`nc -vz{letter} {} {number}` on {}; open {} {number} in the firewalls and security groups between the two",
            port.address.ip(),
            way.from,
            port.protocol
        ),
    )
}

/// The command that lets the port through.
fn remedy(rule: &Rule, port: &PortReached) -> String {
    let number = port.address.port();
    if let Some(rest) = rule.text.strip_prefix("-A ") {
        let program = match rule.place.starts_with("ip6 ") {
            true => "ip6tables",
            false => "iptables",
        };
        return format!("`{program} -D {rest}`");
    }
    if let (Some((_, handle)), Match::Ports { .. }) =
        (rule.text.split_once("# handle "), &rule.matches)
    {
        return format!("`nft delete rule {} handle {handle}`", rule.place);
    }
    if rule.text == "policy DROP" {
        let chain = rule.place.split(' ').next_back().unwrap_or("INPUT");
        return format!(
            "`iptables -I {chain} -p {} --dport {number} -j ACCEPT`",
            port.protocol
        );
    }
    format!(
        "`nft insert rule {} {} dport {number} accept`",
        rule.place, port.protocol
    )
}

fn mtu(site: &Site) -> Vec<(Place, Outcome)> {
    ways(site, |way| {
        let mut good = Vec::new();
        let mut not_known = Vec::new();
        for path in &way.paths {
            match &path.found {
                Known::Is(Path::Carries(bytes)) if *bytes < path.wanted => {
                    return too_small(way, path, *bytes);
                }
                Known::Is(Path::Carries(bytes)) => good.push(format!("{bytes} bytes")),
                Known::Is(Path::Silent) => not_known.push(format!(
                    "{} answers no probe: neither echo requests nor, where it listens, datagrams",
                    path.address
                )),
                Known::Unknown(why) => not_known.push(why.clone()),
            }
        }
        match not_known.is_empty() {
            true if good.is_empty() => not_applicable("the two have no address of one family"),
            true => passed(good.join(", ")),
            false => unknown(not_known.join("; ")),
        }
    })
}

fn too_small(way: &Way, path: &PathMeasured, bytes: u16) -> Outcome {
    let inner = path.wanted.saturating_sub(overhead(path.address));
    wrong(
        format!(
            "packets of up to {bytes} bytes arrive, and the interface `{}` of {} sends up to {}",
            path.interface, way.from, path.wanted
        ),
        format!(
            "{} bytes: pods send up to {inner}, which VXLAN makes that large, and what is larger than {bytes} is lost",
            path.wanted
        ),
        format!(
            "raise the MTU of what lies between; or on every host `ip link set dev {} mtu {bytes}`, and the same in the network's configuration",
            path.interface
        ),
    )
}

fn vip(site: &Site) -> Vec<(Place, Outcome)> {
    use super::site::Vip;
    use crate::host::probe::Neighbour;
    let outcome = match &site.vip {
        Known::Unknown(why) => unknown(why.as_str()),
        Known::Is(Vip::None(why)) => not_applicable(*why),
        Known::Is(Vip::Asked {
            address, neighbour, ..
        }) => match neighbour {
            Neighbour::Nobody => passed(format!("nobody answers for {address}")),
            Neighbour::Answers(mac) => wrong(
                format!("{address} is answered by {mac}"),
                "nobody has it; unless a balancer of yours already does",
                format!(
                    "`ip neigh show {address}` and the switch's table show who has {mac}; take the address from it, or choose another one"
                ),
            ),
        },
    };
    let place = match &site.vip {
        Known::Is(Vip::Asked { from, .. }) => Place::host(from.as_str()),
        _ => Place::Cluster {},
    };
    vec![(place, outcome)]
}
