//! A lab's networks on the machine: bridges, what may pass, and the condition of
//! each link.
//!
//! Hosts reach each other and the machine, nothing else: there is no address
//! translation, and a routing rule makes every other destination unreachable,
//! also where the machine forwards packets for somebody else. All of it is named
//! after the lab's [`Number`], so removing needs no memory of what was made.

use std::fmt::Write as _;
use std::path::Path;

use super::link::{FULL_MTU, Link};
use super::process::Process;
use super::state::{Host, Number, State};
use crate::command::{Command, Output};
use crate::error::{Error, Kind, Result};

/// Makes the lab's bridges with the machine's addresses. Whatever stands there
/// already is not ours: an error.
pub fn up(number: Number, nics: u8) -> Result<()> {
    for nic in 0..nics {
        let bridge = number.bridge(nic);
        ip(["link", "add", &bridge, "type", "bridge"])?;
        // A bridge whose MTU was changed once keeps it when that of a port is lowered;
        // setting what it has already is not a change.
        for mtu in [FULL_MTU - 1, FULL_MTU] {
            ip(["link", "set", &bridge, "mtu", &mtu.to_string(), "up"])?;
        }
        ip([
            "addr",
            "add",
            &format!("{}/24", number.ipv4(nic, 1)),
            "dev",
            &bridge,
        ])?;
        if ipv6_available() {
            let address = format!("{}/64", number.ipv6(nic, 1));
            ip(["addr", "add", &address, "dev", &bridge, "nodad"])?;
        }
        for family in families() {
            ip([family, "rule", "add"]
                .into_iter()
                .chain(rule(number, &bridge).each()))?;
        }
        if bridged_packets_are_filtered() {
            iptables("-I", &bridge)?;
        }
    }
    Ok(())
}

/// Removes everything that [`up`] and [`apply`] make, whatever is there of it.
pub fn down(number: Number) -> Result<()> {
    for nic in 0..2 {
        let bridge = number.bridge(nic);
        for family in families() {
            let delete = || {
                Command::new("ip")
                    .args(
                        [family, "rule", "del"]
                            .into_iter()
                            .chain(rule(number, &bridge).each()),
                    )
                    .output()
            };
            // An interrupted run may have left more than one.
            while delete()?.code == Some(0) {}
        }
        if on_path("iptables") {
            while iptables_output("-D", &bridge)?.code == Some(0) {}
        }
        if Path::new("/sys/class/net").join(&bridge).exists() {
            ip(["link", "del", &bridge])?;
        }
    }
    if on_path("nft") {
        let table = ["table", "bridge", &number.label()].map(str::to_owned);
        if Command::new("nft").arg("list").args(&table).output()?.code == Some(0) {
            Command::new("nft").arg("delete").args(&table).run()?;
        }
    }
    Ok(())
}

/// Puts the second and further interfaces of a host that just started on their
/// bridges; systemd-nspawn does it for the first one only.
pub fn attach(number: Number, host: &Host) -> Result<()> {
    for nic in 1..host.links.len() as u8 {
        let port = host.port(number, nic);
        ip(["link", "set", &port, "master", &number.bridge(nic), "up"])?;
    }
    Ok(())
}

/// Whether all of a host's ports are there.
pub fn ports_exist(number: Number, host: &Host) -> bool {
    (0..host.links.len() as u8).all(|nic| {
        Path::new("/sys/class/net")
            .join(host.port(number, nic))
            .exists()
    })
}

/// Makes the links of a running host what its state says. `init` is its process 1.
pub fn apply(number: Number, host: &Host, init: Process) -> Result<()> {
    for (nic, link) in (0u8..).zip(&host.links) {
        let port = host.port(number, nic);
        let inside = format!("host{nic}");
        let mtu = link.mtu.map_or(FULL_MTU, |mtu| mtu.0).to_string();
        ip(["link", "set", &port, "mtu", &mtu])?;
        within(init, "ip", ["link", "set", &inside, "mtu", &mtu]).run()?;
        let shape = shape(*link);
        shape(Command::new("tc"), &port)?;
        shape(within(init, "tc", [""; 0]), &inside)?;
        ip(["link", "set", &port, if link.cut { "down" } else { "up" }])?;
    }
    Ok(())
}

/// Limits what an interface sends, or takes the limit away.
fn shape(link: Link) -> impl Fn(Command, &str) -> Result<()> {
    move |tc, interface| {
        let Some(rate) = link.rate else {
            // It fails when there is no limit, which is as well.
            tc.args(["qdisc", "del", "dev", interface, "root"])
                .output()?;
            return Ok(());
        };
        // The burst holds what the rate lets through in 10 ms, and one packet at least.
        let burst = (rate.0 / 8 / 100).max(2 * u64::from(FULL_MTU));
        tc.args(["qdisc", "replace", "dev", interface, "root", "tbf"])
            .args([
                "rate",
                &format!("{}bit", rate.0),
                "burst",
                &burst.to_string(),
            ])
            .args(["latency", "200ms"])
            .run()?;
        Ok(())
    }
}

/// Makes the losses of all links of a lab what its state says, in one step.
pub fn apply_losses(state: &State) -> Result<()> {
    let losses = state
        .hosts
        .iter()
        .any(|host| host.links.iter().any(|link| link.loss.is_some()));
    if !losses && !on_path("nft") {
        return Ok(());
    }
    nft(&losses_table(state)).map_err(|error| {
        if on_path("nft") {
            return error;
        }
        Error::new(Kind::System, "losing packets needs the program `nft`")
            .hint("apt-get install nftables")
    })
}

/// A [`Loss`] of everything.
const ALL: u16 = 10_000;

/// The firewall table that loses frames as they come into the bridge from a port
/// and as they leave it for one.
fn losses_table(state: &State) -> String {
    let label = state.number.label();
    let mut text = format!("add table bridge {label}\ndelete table bridge {label}\n");
    let lossy: Vec<_> = state
        .hosts
        .iter()
        .flat_map(|host| {
            (0u8..)
                .zip(&host.links)
                .map(move |(nic, link)| (host, nic, link))
        })
        .filter_map(|(host, nic, link)| Some((host.port(state.number, nic), link.loss?.0)))
        .collect();
    if lossy.is_empty() {
        return text;
    }
    let _ = writeln!(text, "table bridge {label} {{");
    for (hook, direction) in [("prerouting", "iifname"), ("postrouting", "oifname")] {
        let _ = writeln!(
            text,
            "  chain {hook} {{ type filter hook {hook} priority 0;"
        );
        for (port, loss) in &lossy {
            // nft takes no number that is beyond the range, also where it means all.
            let share = match *loss {
                ALL => String::new(),
                loss => format!("numgen random mod {ALL} < {loss} "),
            };
            let _ = writeln!(text, "    {direction} \"{port}\" {share}drop");
        }
        let _ = writeln!(text, "  }}");
    }
    text.push_str("}\n");
    text
}

/// A program of the machine's, run in a host's network namespace: it works
/// whatever the host has or does.
fn within<'a>(
    init: Process,
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Command {
    Command::new("nsenter")
        .args(["--target", &init.pid.to_string(), "--net", "--", program])
        .args(arguments)
}

/// The routing rule that keeps hosts from the rest of the world. Addresses of
/// the machine itself are looked up before any rule of ours.
struct Rule(Vec<String>);

fn rule(number: Number, bridge: &str) -> Rule {
    let preference = (20_000 + u32::from(number.0)).to_string();
    Rule(
        ["pref", &preference, "iif", bridge, "unreachable"]
            .map(str::to_owned)
            .to_vec(),
    )
}

impl Rule {
    fn each(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

fn families() -> impl Iterator<Item = &'static str> {
    std::iter::once("-4").chain(ipv6_available().then_some("-6"))
}

fn ipv6_available() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .is_ok_and(|disabled| disabled.trim() == "0")
}

/// Whether iptables rules of the machine apply between ports of a bridge: then
/// a policy such as Docker's would keep hosts from each other.
fn bridged_packets_are_filtered() -> bool {
    let set = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    let active = set.is_ok_and(|value| value.trim() == "1");
    active && on_path("iptables") && {
        let policy = Command::new("iptables")
            .args(["-w", "-S", "FORWARD"])
            .output();
        policy.is_ok_and(|output| {
            let rules = String::from_utf8_lossy(&output.stdout).into_owned();
            // Without any rule and with the usual policy there is nothing to except.
            rules.lines().any(|line| line != "-P FORWARD ACCEPT")
        })
    }
}

fn iptables(action: &str, bridge: &str) -> Result<()> {
    iptables_command(action, bridge).run().map(drop)
}

fn iptables_output(action: &str, bridge: &str) -> Result<Output> {
    iptables_command(action, bridge).output()
}

fn iptables_command(action: &str, bridge: &str) -> Command {
    Command::new("iptables")
        .args(["-w", action, "FORWARD", "-i", bridge, "-o", bridge])
        .args(["-m", "comment", "--comment", "chasi lab", "-j", "ACCEPT"])
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    Command::new("ip").args(arguments).run().map(drop)
}

fn nft(rules: &str) -> Result<()> {
    Command::new("nft")
        .args(["-f", "-"])
        .input(rules)
        .run()
        .map(drop)
}

/// Whether a program is in one of the directories where administrators'
/// programs are.
pub fn on_path(program: &str) -> bool {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .any(|directory| Path::new(directory).join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::link::Loss;

    fn state(losses: &[Option<Loss>]) -> State {
        let mut state = State::new("a".parse().unwrap(), String::new(), Number(77), 1);
        state.hosts = (1u8..)
            .zip(losses)
            .map(|(index, loss)| Host {
                name: format!("node-{index}"),
                index,
                process: None,
                fingerprint: String::new(),
                links: vec![Link {
                    loss: *loss,
                    ..Link::default()
                }],
            })
            .collect();
        state
    }

    #[test]
    fn losses_replace_the_whole_table_in_one_transaction() {
        insta::assert_snapshot!(losses_table(&state(&[None, Some(Loss(1250))])), @r#"
        add table bridge chasi-lab-77
        delete table bridge chasi-lab-77
        table bridge chasi-lab-77 {
          chain prerouting { type filter hook prerouting priority 0;
            iifname "vb-chasi77-2" numgen random mod 10000 < 1250 drop
          }
          chain postrouting { type filter hook postrouting priority 0;
            oifname "vb-chasi77-2" numgen random mod 10000 < 1250 drop
          }
        }
        "#);
        let all = losses_table(&state(&[Some(Loss(ALL))]));
        assert!(all.contains("iifname \"vb-chasi77-1\" drop\n"), "{all}");
        let none = losses_table(&state(&[None, None]));
        assert_eq!(
            none,
            "add table bridge chasi-lab-77\ndelete table bridge chasi-lab-77\n"
        );
    }
}
