//! What a program can leave on a host: files, processes, mounts, interfaces, routes,
//! packet-filter rules, listening ports, control groups, units, kernel parameters.
//! What the comparison leaves out is listed here, with the reason, and nowhere else.

use std::collections::BTreeSet;
use std::process::Command;

use crate::lab::{Lab, succeed};
use crate::site::HOSTS;

/// Paths, or beginnings of paths, that are not looked at.
const PATHS: [(&str, &str); 12] = [
    ("/proc", "the kernel's; its parameters are compared below"),
    ("/sys", "the kernel's; control groups are compared below"),
    ("/dev", "devices of a container"),
    ("/tmp", "in memory, and this script's own"),
    ("/etc/machine-id", "made at the first boot of each new disk"),
    ("/var/log", "logs stay: they say what happened"),
    ("/run/log", "likewise"),
    ("/run/motd.dynamic", "written by a login"),
    ("/run/user", "made by a login"),
    (
        "/run/systemd",
        "systemd's own account of what it runs, which is compared as units",
    ),
    ("/var/lib/systemd", "time stamps and seeds of systemd's"),
    ("/var/tmp/systemd-private", "named anew at each boot"),
];

/// Names of processes that are not looked at.
const PROCESSES: [(&str, &str); 8] = [
    (
        "(sd-pam)",
        "root's service manager stays for seconds after a login",
    ),
    ("systemd", "likewise; there is always another one"),
    ("sshd", "of logins that end"),
    (
        "systemd-hostnam",
        "ends by itself when nobody asks for the host's name",
    ),
    ("systemd-timedat", "likewise"),
    ("sh", "this script"),
    ("ps", "this script"),
    ("sort", "this script"),
];

/// Units that are not looked at.
const UNITS: [(&str, &str); 8] = [
    (
        "network-online.target",
        "reached once something waits for the network; stays so",
    ),
    (
        "network-pre.target",
        "reached once something comes before the network, such as a firewall; stays so",
    ),
    ("session-", "a login"),
    ("user@", "a login"),
    ("user-", "a login"),
    ("run-user-", "a login"),
    (
        "run-credentials-",
        "systemd's own mounts around a service that starts; it may notice one late",
    ),
    ("systemd-", "timers and one-time services of systemd's own"),
];

/// Kernel parameters of the network that are not looked at; the others belong to the
/// machine, and `chasi lab down` puts them back.
const PARAMETERS: [(&str, &str); 1] = [(
    "net.netfilter.nf_conntrack_count",
    "no parameter: the number of connections that are known, which are forgotten in time",
)];

/// What is on all hosts, a line each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at all hosts of the shared site.
    pub fn of(lab: &Lab) -> Traces {
        Traces::on(lab, &HOSTS)
    }

    /// Looks at hosts.
    pub fn on(lab: &Lab, hosts: &[&str]) -> Traces {
        let mut lines = BTreeSet::new();
        for host in hosts {
            let mut add = |kind: &str, text: &str| {
                lines.extend(text.lines().map(|line| format!("{host} {kind}: {line}")));
            };
            add("file", &lab.sh(host, &files()));
            add(
                "process",
                &leave_out(&lab.sh(host, "ps -eo comm= | sort -u"), &PROCESSES),
            );
            add(
                "mount",
                &lab.sh(
                    host,
                    "awk '{ print $5, $9 }' /proc/self/mountinfo | grep -v ^/run/user",
                ),
            );
            add(
                "interface",
                &lab.sh(
                    host,
                    "ip -oneline link | awk '{ sub(/@.*/, \"\", $2); print $2 }'",
                ),
            );
            add("route", &lab.sh(host, "ip route; ip rule; ip -6 rule"));
            add(
                "port",
                &lab.sh(
                    host,
                    "ss --listening --tcp --udp --numeric --no-header | awk '{ print $1, $5 }'",
                ),
            );
            add(
                "group",
                &leave_out(
                    &lab.sh(
                        host,
                        "cd /sys/fs/cgroup && find . -type d | sed 's|.*/||' | sort -u",
                    ),
                    &UNITS,
                ),
            );
            add("unit", &leave_out(&lab.sh(host, "systemctl list-units --all --plain --no-legend | awk '{ print $1, $2, $3, $4 }'"), &UNITS));
            add(
                "unit file",
                &lab.sh(host, "systemctl list-unit-files --no-legend"),
            );
            let parameters = lab.sh(host, "sysctl --all 2>/dev/null | grep '^net[.]'");
            add("parameter", &leave_out(&parameters, &PARAMETERS));
            add("rule", &rules(lab, host));
        }
        Traces(lines)
    }

    /// What is known of these hosts alone.
    pub fn only(&self, hosts: &[&str]) -> Traces {
        let is_theirs = |line: &&String| {
            hosts.iter().any(|host| {
                line.strip_prefix(host)
                    .is_some_and(|rest| rest.starts_with(' '))
            })
        };
        Traces(self.0.iter().filter(is_theirs).cloned().collect())
    }

    /// What is there now and was not, and what is gone.
    pub fn differences(&self, now: &Traces) -> Vec<String> {
        let new = now.0.difference(&self.0).map(|line| format!("+ {line}"));
        let gone = self.0.difference(&now.0).map(|line| format!("- {line}"));
        new.chain(gone).collect()
    }
}

fn leave_out(text: &str, left_out: &[(&str, &str)]) -> String {
    text.lines()
        .filter(|line| !left_out.iter().any(|(name, _)| line.starts_with(name)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// A script that lists all files, with the content of those that are not the
/// distribution's programs.
fn files() -> String {
    let pruned: Vec<String> = PATHS
        .iter()
        .map(|(path, _)| format!("-path '{path}*'"))
        .collect();
    format!(
        "find / \\( {} \\) -prune -o -printf '%p %y %m %u:%g %l\\n'; \
         find /etc /opt /usr/local /var/lib /root \\( {0} \\) -prune -o -type f -exec sha256sum {{}} +",
        pruned.join(" -o ")
    )
}

/// The packet filter, seen from the machine: bare hosts have no program for it. An
/// empty table, which iptables cannot remove, filters nothing.
fn rules(lab: &Lab, host: &str) -> String {
    let init = lab.host(host)["init"].to_string();
    let rules = succeed(Command::new("nsenter").args([
        "--target",
        &init,
        "--net",
        "nft",
        "--stateless",
        "list",
        "ruleset",
    ]));
    rules
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "}" && !line.starts_with("table "))
        .flat_map(|line| [line, "\n"])
        .collect()
}
