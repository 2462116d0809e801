//! What the host's packet filter drops and rejects, as its own tools tell it: nft(8)
//! where it is there, and iptables-save(8) with both families.
//!
//! A list of suspects, not a simulation: rules that drop or reject, and chains that do
//! so by policy. Whether packets pass is measured, not read.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::command::Command;

/// How many rules are told at most.
const MOST: usize = 200;
/// How much of one tool's output is read, in bytes.
const LARGEST: usize = 8 << 20;
/// How the chains of kube-proxy, kubelet and CNI plugins begin: they drop and reject
/// for reasons of their own.
const CLUSTERS: [&str; 4] = ["KUBE-", "FLANNEL-", "CNI-", "cali-"];

/// What a host's packet filter drops and rejects.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// The tools that told it; none when there is no tool, or none that worked.
    pub told_by: Vec<String>,
    /// Rules and policies that drop or reject, without those of a cluster. At most
    /// 200.
    pub rules: Vec<Rule>,
    /// How many chains of a cluster there are.
    pub cluster_chains: u32,
}

/// A rule, or a chain's policy, that drops or rejects.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Which packets come by its chain.
    pub hook: Hook,
    /// The table and the chain, such as `inet filter input`.
    pub place: String,
    /// The rule as the tool writes it, with nft's handle.
    pub text: String,
    /// What it applies to.
    pub matches: Match,
}

/// Which packets come by a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Those that come to the host.
    Input,
    /// Those that leave it.
    Output,
    /// Others, or those that another chain sends there.
    Other,
}

/// What a rule applies to, as far as that is understood.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// Packets to these ports, of this protocol or of any.
    Ports {
        /// TCP, UDP, or both.
        protocol: Option<Protocol>,
        /// The ports.
        ports: Vec<RangeInclusive<u16>>,
    },
    /// Packets that no port decides over.
    Anything,
    /// What no rule decided over.
    Policy,
}

impl Rule {
    /// Whether it names this port.
    pub fn names(&self, asked: Protocol, port: u16) -> bool {
        match &self.matches {
            Match::Ports { protocol, ports } => {
                protocol.is_none_or(|protocol| protocol == asked)
                    && ports.iter().any(|ports| ports.contains(&port))
            }
            Match::Anything | Match::Policy => false,
        }
    }
}

/// Reads the packet filter of this host. Blocks.
pub fn read() -> Filter {
    let mut filter = Filter::default();
    let ask = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).run().ok()?;
        let text = &output.stdout[..output.stdout.len().min(LARGEST)];
        Some(String::from_utf8_lossy(text).into_owned())
    };
    if let Some(text) = ask("nft", &["-a", "-n", "list", "ruleset"]) {
        filter.told_by.push("nft".to_owned());
        nft(&text, &mut filter);
    }
    for (program, family) in [("iptables-save", "ip"), ("ip6tables-save", "ip6")] {
        if let Some(text) = ask(program, &[]) {
            filter.told_by.push(program.to_owned());
            iptables(&text, family, &mut filter);
        }
    }
    filter.rules.truncate(MOST);
    filter
}

fn is_of_cluster(chain: &str) -> bool {
    CLUSTERS.iter().any(|start| chain.starts_with(start))
}

fn hook(name: &str) -> Hook {
    match name.to_ascii_lowercase().as_str() {
        // Before the host's own input there is prerouting.
        "input" | "prerouting" | "ingress" => Hook::Input,
        "output" | "postrouting" => Hook::Output,
        _ => Hook::Other,
    }
}

/// `nft -a -n list ruleset`: tables with chains with rules, one a line.
fn nft(text: &str, filter: &mut Filter) {
    let (mut table, mut chain, mut at) = ("", "", Hook::Other);
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, ..] => {
                let end = family.as_ptr() as usize - line.as_ptr() as usize;
                table = &line[end..end + family.len() + 1 + name.len()];
            }
            ["chain", name, ..] => {
                (chain, at) = (name, Hook::Other);
                filter.cluster_chains += u32::from(is_of_cluster(name));
            }
            ["type", ..] => {
                let named = words.iter().position(|word| *word == "hook");
                at = named
                    .and_then(|named| words.get(named + 1))
                    .map_or(Hook::Other, |name| hook(name));
                if line.contains("policy drop") {
                    push(filter, at, table, chain, "policy drop", Match::Policy);
                }
            }
            words if words.contains(&"drop") || words.contains(&"reject") => {
                if let Some(matches) = nft_match(words).filter(|_| !is_of_cluster(chain)) {
                    push(filter, at, table, chain, line, matches);
                }
            }
            _ => {}
        }
    }
}

fn push(filter: &mut Filter, hook: Hook, table: &str, chain: &str, text: &str, matches: Match) {
    // An iptables that writes nftables' rules is told by both.
    let place = format!("{table} {chain}");
    let same = |rule: &Rule| rule.place.eq_ignore_ascii_case(&place) && rule.matches == matches;
    if filter.rules.len() < MOST && !filter.rules.iter().any(same) {
        filter.rules.push(Rule {
            hook,
            place,
            text: text.to_owned(),
            matches,
        });
    }
}

/// What a rule of nft that drops applies to; none where that concerns no port.
fn nft_match(words: &[&str]) -> Option<Match> {
    // What it says behind the verdict is how it rejects.
    let verdict = |word: &&str| matches!(*word, "drop" | "reject");
    let words = words.split(verdict).next().unwrap_or_default();
    let line = words.join(" ");
    let harmless = [
        "ct state invalid",
        "icmp",
        "iifname \"lo\"",
        "iif \"lo\"",
        "arp ",
    ];
    if harmless.iter().any(|part| line.contains(part)) {
        return None;
    }
    let protocol = match () {
        () if line.contains("tcp") && !line.contains("udp") => Some(Protocol::Tcp),
        () if line.contains("udp") && !line.contains("tcp") => Some(Protocol::Udp),
        () => None,
    };
    let Some(at) = words.iter().position(|word| *word == "dport") else {
        // What is about the ports that packets come from decides over answers.
        return match protocol {
            _ if words.contains(&"sport") => None,
            Some(_) => Some(Match::Ports {
                protocol,
                ports: vec![0..=u16::MAX],
            }),
            None => Some(Match::Anything),
        };
    };
    let rest = &words[at + 1..];
    let (negated, rest) = match rest {
        ["!=", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let values = match rest {
        ["{", rest @ ..] => rest.split(|word| *word == "}").next().unwrap_or_default(),
        rest => rest.get(..1).unwrap_or_default(),
    };
    let listed = ranges(values.iter().flat_map(|word| word.split(',')), '-');
    let ports = match negated {
        true => others(&listed),
        false => listed,
    };
    Some(Match::Ports { protocol, ports })
}

/// Ports and ranges of them. Names of sets and of services are passed over.
fn ranges<'a>(words: impl Iterator<Item = &'a str>, dash: char) -> Vec<RangeInclusive<u16>> {
    words
        .filter_map(|word| {
            let (first, last) = word.split_once(dash).unwrap_or((word, word));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

/// All ports that are not in these ranges.
fn others(ranges: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| *range.start());
    let mut found = Vec::new();
    let mut next = Some(0_u16);
    for range in sorted {
        let Some(first) = next else { break };
        if let Some(last) = range.start().checked_sub(1).filter(|last| *last >= first) {
            found.push(first..=last);
        }
        next = range.end().checked_add(1).map(|after| after.max(first));
    }
    found.extend(next.map(|first| first..=u16::MAX));
    found
}

/// `iptables-save`: `*table`, `:CHAIN POLICY`, `-A CHAIN …`.
fn iptables(text: &str, family: &str, filter: &mut Filter) {
    let mut table = String::new();
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name] if name.starts_with('*') => table = format!("{family} {}", &name[1..]),
            [chain, policy, ..] if chain.starts_with(':') => {
                let chain = &chain[1..];
                // Those of nft have been counted; counting twice does not matter.
                filter.cluster_chains += u32::from(is_of_cluster(chain));
                if *policy == "DROP" {
                    push(
                        filter,
                        hook(chain),
                        &table,
                        chain,
                        "policy DROP",
                        Match::Policy,
                    );
                }
            }
            ["-A", chain, rest @ ..] if !is_of_cluster(chain) => {
                if let Some(matches) = iptables_match(rest) {
                    push(filter, hook(chain), &table, chain, line, matches);
                }
            }
            _ => {}
        }
    }
}

/// What a rule of iptables applies to, if it drops or rejects; none where that
/// concerns no port.
fn iptables_match(words: &[&str]) -> Option<Match> {
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    if !matches!(after("-j")?, "DROP" | "REJECT") {
        return None;
    }
    let invalid = after("--ctstate").or(after("--state")) == Some("INVALID");
    let loopback = after("-i") == Some("lo");
    let protocol = match after("-p") {
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        None | Some("all") => None,
        Some(_) => return None,
    };
    if invalid || loopback {
        return None;
    }
    match after("--dport").or(after("--dports")) {
        Some(list) => Some(Match::Ports {
            protocol,
            ports: ranges(list.split(','), ':'),
        }),
        None if after("--sport").is_some() => None,
        None if protocol.is_some() => Some(Match::Ports {
            protocol,
            ports: vec![0..=u16::MAX],
        }),
        None => Some(Match::Anything),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NFT: &str = r#"
table inet filter { # handle 1
	chain input { # handle 2
		type filter hook input priority 0; policy drop;
		ct state invalid drop # handle 3
		ct state established,related accept # handle 4
		tcp dport { 22, 6443, 2379-2380 } accept # handle 5
		tcp dport 10250 drop # handle 6
		udp dport { 8472, 51820-51821 } reject with icmpx port-unreachable # handle 7
	}
	chain strict {
		tcp dport != { 22, 80-90 } counter packets 1 bytes 60 drop # handle 8
		ip saddr 10.0.0.9 drop # handle 9
	}
	chain output { # handle 10
		type filter hook output priority 0; policy accept;
		meta l4proto udp drop # handle 11
	}
}
table ip nat {
	chain KUBE-SERVICES {
		ip daddr 10.96.0.1 tcp dport 443 reject
	}
}
"#;

    fn parsed(nft_text: &str, iptables_text: &str) -> Filter {
        let mut filter = Filter::default();
        nft(nft_text, &mut filter);
        iptables(iptables_text, "ip", &mut filter);
        filter
    }

    fn suspects(filter: &Filter, protocol: Protocol, port: u16) -> Vec<&str> {
        filter
            .rules
            .iter()
            .filter(|rule| rule.names(protocol, port))
            .map(|rule| rule.text.as_str())
            .collect()
    }

    #[test]
    fn rules_of_nft_are_understood() {
        let filter = parsed(NFT, "");
        let [drop, not_listed] = suspects(&filter, Protocol::Tcp, 10_250)[..] else {
            panic!("{filter:?}");
        };
        assert_eq!(drop, "tcp dport 10250 drop # handle 6");
        assert!(not_listed.contains("!= { 22"), "{not_listed}");
        assert_eq!(suspects(&filter, Protocol::Tcp, 85).len(), 0);
        assert_eq!(suspects(&filter, Protocol::Udp, 51_821).len(), 2);
        let policy = &filter.rules[0];
        assert_eq!(
            (policy.hook, policy.place.as_str(), &policy.matches),
            (Hook::Input, "inet filter input", &Match::Policy)
        );
        let general = filter
            .rules
            .iter()
            .find(|rule| rule.matches == Match::Anything);
        assert_eq!(general.unwrap().text, "ip saddr 10.0.0.9 drop # handle 9");
        assert_eq!(filter.cluster_chains, 1);
        assert!(
            suspects(&filter, Protocol::Tcp, 443)
                .iter()
                .all(|rule| !rule.contains("daddr"))
        );
    }

    #[test]
    fn rules_of_iptables_are_understood() {
        let filter = parsed(
            "",
            "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n\
             -A INPUT -i lo -j DROP\n\
             -A INPUT -p tcp -m tcp --dport 10250 -j REJECT --reject-with icmp-port-unreachable\n\
             -A INPUT -p udp -m multiport --dports 53,8000:9000 -j DROP\n\
             -A INPUT -p icmp -j DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        );
        assert_eq!(suspects(&filter, Protocol::Tcp, 10_250).len(), 1);
        assert_eq!(suspects(&filter, Protocol::Udp, 8_472).len(), 1);
        assert_eq!(suspects(&filter, Protocol::Tcp, 22).len(), 0);
        assert_eq!(filter.rules.len(), 3);
        assert_eq!(filter.rules[0].place, "ip filter INPUT");
        assert_eq!(filter.cluster_chains, 1);
    }

    #[test]
    fn nonsense_is_passed_over() {
        for text in [
            "table",
            "table x",
            "chain",
            "type hook",
            "drop",
            "tcp dport drop",
            "*",
            ":",
            "-A",
        ] {
            parsed(text, text);
        }
        assert_eq!(others(&[]), [0..=u16::MAX]);
        assert_eq!(others(&[0..=u16::MAX]), []);
        assert_eq!(others(&[5..=9, 7..=8]), [0..=4, 10..=u16::MAX]);
    }
}
