//! What must hold before anything is touched: everything without which an
//! install fails half-way.
//!
//! A check is an entry in [`CHECKS`]: a stable id, and a function from what is
//! known to findings. A finding says what was seen, what was expected, on which
//! host, and what to do. All checks run, and all findings are told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::desired::{Desired, DesiredHost};
use super::plan::size;
use crate::agent::calls::host::HostReport;
use crate::distro::Role;
use crate::error::{Error, Kind, Result};
use crate::host::facts::{Disk, Facts, Feature};
use crate::spec;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The run would fail: it is refused.
    Error,
    /// The run goes on, and somebody should know.
    Warning,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The check's stable id.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// The host.
    pub host: String,
    /// What was seen.
    pub seen: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (expected: {}) [{}]",
            self.host, self.seen, self.expected, self.check
        )
    }
}

/// One host, as a check sees it.
struct Subject<'a> {
    cluster: &'a spec::Cluster,
    host: &'a DesiredHost,
    report: &'a HostReport,
    all: &'a BTreeMap<String, HostReport>,
}

impl Subject<'_> {
    fn facts(&self) -> &Facts {
        &self.report.facts
    }

    /// Whether chasi manages this host already; then what a cluster leaves
    /// behind is expected to be there.
    fn managed(&self) -> bool {
        !self.report.facts.managed.parts.is_empty()
    }

    fn control_plane(&self) -> bool {
        self.host.node.role == Role::ControlPlane
    }
}

/// What a check says: seen, expected, hint. `None` when all is well.
struct Wrong {
    severity: Severity,
    seen: String,
    expected: String,
    hint: String,
}

fn wrong(
    seen: impl Into<String>,
    expected: impl Into<String>,
    hint: impl Into<String>,
) -> Option<Wrong> {
    Some(Wrong {
        severity: Severity::Error,
        seen: seen.into(),
        expected: expected.into(),
        hint: hint.into(),
    })
}

fn doubtful(
    seen: impl Into<String>,
    expected: impl Into<String>,
    hint: impl Into<String>,
) -> Option<Wrong> {
    wrong(seen, expected, hint).map(|wrong| Wrong {
        severity: Severity::Warning,
        ..wrong
    })
}

type Check = fn(&Subject) -> Option<Wrong>;

/// All checks, by id.
const CHECKS: [(&str, Check); 14] = [
    ("system.init", init),
    ("system.cgroups", cgroups),
    ("system.swap", swap),
    ("system.noexec", noexec),
    ("system.machine-id", machine_id),
    ("system.clock", clock),
    ("resources.memory", memory),
    ("resources.disk", disk),
    ("kernel.overlay", overlay),
    ("network.ports", ports),
    ("network.overlap", overlap),
    ("identity.node", identity),
    ("residue.kubernetes", residue),
    ("residue.runtime", runtime),
];

/// Memory below which kubeadm's control plane does not hold together, and below
/// which a worker does not: kubeadm's `ControlPlaneMem` is 1700 MB.
const CONTROL_PLANE_MEMORY: u64 = 1_700_000_000;
const WORKER_MEMORY: u64 = 700_000_000;
/// What unpacked programs and container images take, as a multiple of their
/// compressed size: measured 2.6 to 3.4 for Go programs and Debian trees.
const UNPACKED: u64 = 4;
/// Clocks further apart than this break certificates and leases, in seconds.
const SKEW: u64 = 60;

/// Runs all checks on all hosts that reported.
pub fn check(
    cluster: &spec::Cluster,
    desired: &Desired,
    reports: &BTreeMap<String, HostReport>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for host in &desired.hosts {
        let Some(report) = reports.get(&host.node.name) else {
            continue;
        };
        let subject = Subject {
            cluster,
            host,
            report,
            all: reports,
        };
        for (id, check) in CHECKS {
            if let Some(wrong) = check(&subject) {
                findings.push(Finding {
                    check: id.to_owned(),
                    severity: wrong.severity,
                    host: host.node.name.clone(),
                    seen: wrong.seen,
                    expected: wrong.expected,
                    hint: wrong.hint,
                });
            }
        }
    }
    findings
}

/// Ends the run when a check found an error; gives back the warnings.
pub fn refuse(findings: Vec<Finding>) -> Result<Vec<Finding>> {
    let errors: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    let Some(first) = errors.first() else {
        return Ok(findings);
    };
    let mut error = if errors.len() == 1 {
        Error::new(Kind::Check, format!("{} [{}]", first.seen, first.check))
            .on_host(first.host.clone())
            .because(format!("expected: {}", first.expected))
    } else {
        Error::new(Kind::Check, format!("{} checks failed", errors.len())).because(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        )
    };
    let mut hints: Vec<&str> = Vec::new();
    for finding in errors {
        if !hints.contains(&finding.hint.as_str()) {
            hints.push(&finding.hint);
        }
    }
    for hint in hints {
        error = error.hint(hint);
    }
    Err(error.hint("nothing has been changed on any host"))
}

fn init(subject: &Subject) -> Option<Wrong> {
    if subject.facts().systemd {
        return None;
    }
    wrong(
        "the host was not started by systemd",
        "systemd as process 1",
        "use a distribution with systemd; containers without it cannot be hosts",
    )
}

fn cgroups(subject: &Subject) -> Option<Wrong> {
    let missing: Vec<&str> = ["cpu", "cpuset", "memory", "pids"]
        .into_iter()
        .filter(|name| !subject.facts().cgroup.controllers.contains(*name))
        .collect();
    if missing.is_empty() {
        return None;
    }
    wrong(
        format!(
            "the control-group controllers {} are not available",
            missing.join(", ")
        ),
        "cpu, cpuset, memory and pids",
        "add `cgroup_enable=memory` to the kernel's command line, then restart the host",
    )
}

fn swap(subject: &Subject) -> Option<Wrong> {
    let devices = &subject.facts().swap;
    let keep = subject.cluster.settings.swap == spec::cluster::Swap::Keep;
    if devices.is_empty() || keep {
        return None;
    }
    doubtful(
        format!(
            "swap is on ({})",
            devices
                .iter()
                .map(|swap| swap.path.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ),
        "no swap",
        "chasi turns it off; `settings.swap: keep` in the Clusterfile keeps it",
    )
}

fn noexec(subject: &Subject) -> Option<Wrong> {
    if !state_disk(subject.facts()).is_some_and(|(_, disk)| disk.noexec) {
        return None;
    }
    wrong(
        "`/var/lib/chasi` lies on a file system that is mounted noexec",
        "a file system that programs can run from",
        "remount it: `mount -o remount,exec /var`, and mend /etc/fstab",
    )
}

fn machine_id(subject: &Subject) -> Option<Wrong> {
    let own = subject.facts().machine_id.as_ref()?;
    let twin = subject.all.iter().find(|(name, report)| {
        **name < subject.host.node.name && report.facts.machine_id.as_ref() == Some(own)
    })?;
    wrong(
        format!("its machine-id is that of `{}` too", twin.0),
        "a machine-id of its own",
        "on one of them: `rm /etc/machine-id && systemd-machine-id-setup`, then restart it",
    )
}

fn clock(subject: &Subject) -> Option<Wrong> {
    let first = subject.all.values().next()?;
    let skew = first.facts.clock.abs_diff(subject.facts().clock) / 1_000_000_000;
    if skew <= SKEW {
        return None;
    }
    wrong(
        format!("its clock is {skew} s away from that of another host"),
        format!("at most {SKEW} s"),
        "set it: `timedatectl set-time`, or start a time service",
    )
}

fn memory(subject: &Subject) -> Option<Wrong> {
    let needed = if subject.control_plane() {
        CONTROL_PLANE_MEMORY
    } else {
        WORKER_MEMORY
    };
    let have = subject.facts().memory;
    if have >= needed {
        return None;
    }
    wrong(
        format!("{} of memory", size(have)),
        format!("at least {}", size(needed)),
        "give the host more memory, or another role",
    )
}

fn disk(subject: &Subject) -> Option<Wrong> {
    let compressed: u64 = subject
        .host
        .recipe
        .layers
        .iter()
        .map(|layer| layer.blob.size)
        .sum();
    if subject.managed() {
        return None;
    }
    let needed = subject.host.image_size * UNPACKED + compressed;
    let (path, disk) = state_disk(subject.facts())?;
    let free = disk.free;
    if free >= needed {
        return None;
    }
    wrong(
        format!("{} free where `{path}` lies", size(free)),
        format!("{} for the image, unpacked", size(needed)),
        "free some space, or mount a larger file system at /var/lib",
    )
}

/// The file system of chasi's state, by the longest path that leads there.
fn state_disk(facts: &Facts) -> Option<(&String, &Disk)> {
    facts
        .disks
        .iter()
        .filter(|(path, _)| Path::new("/var/lib/chasi").starts_with(path))
        .max_by_key(|(path, _)| path.len())
}

fn overlay(subject: &Subject) -> Option<Wrong> {
    let missing: Vec<&str> = ["overlay", "br_netfilter"]
        .into_iter()
        .filter(|name| subject.facts().features.get(*name) == Some(&Feature::Absent))
        .collect();
    if missing.is_empty() {
        return None;
    }
    wrong(
        format!("the kernel has no {}", missing.join(" and no ")),
        "overlay and br_netfilter, built in or as modules",
        "install the kernel's modules package, for instance `linux-modules-extra-$(uname -r)`",
    )
}

fn ports(subject: &Subject) -> Option<Wrong> {
    if subject.managed() {
        return None;
    }
    let mut needed: Vec<u16> = vec![10_248, 10_250, 10_256, 6_444, 6_500];
    if subject.control_plane() {
        needed.extend([2_379, 2_380, 2_381, 6_443, 10_257, 10_259]);
    }
    let mut taken: Vec<u16> = needed
        .into_iter()
        .filter(|port| {
            subject
                .facts()
                .listeners
                .iter()
                .any(|listener| listener.port == *port)
        })
        .collect();
    taken.sort_unstable();
    if taken.is_empty() {
        return None;
    }
    let list = taken.iter().map(ToString::to_string).collect::<Vec<_>>();
    wrong(
        format!("port {} is in use", list.join(" and ")),
        "a free port",
        format!(
            "`ss -tlnp 'sport = :{}'` on the host shows by whom; stop that program",
            list.first().map_or("", String::as_str)
        ),
    )
}

fn overlap(subject: &Subject) -> Option<Wrong> {
    let networks = subject
        .cluster
        .network
        .pod_cidrs
        .iter()
        .chain(&subject.cluster.network.service_cidrs);
    for network in networks {
        if let Some(address) = subject
            .facts()
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(|address| address.ip))
            .find(|address| !subject.managed() && network.contains(*address))
        {
            return wrong(
                format!("its address {address} lies in the cluster's network {network}"),
                "pod and Service networks that no host has addresses in",
                "choose other `network.podCIDRs` or `network.serviceCIDRs` in the Clusterfile",
            );
        }
    }
    None
}

/// A node cannot change its name, nor its cluster.
fn identity(subject: &Subject) -> Option<Wrong> {
    let member = subject.report.distro.member.as_ref()?;
    let (cluster, node) = (subject.cluster.name.to_string(), &subject.host.node.name);
    if member.cluster == cluster && member.node == *node {
        return None;
    }
    wrong(
        format!(
            "the host is the node `{}` of the cluster `{}`",
            member.node, member.cluster
        ),
        format!("a bare host, or the node `{node}` of the cluster `{cluster}`"),
        format!(
            "correct the Clusterfile's names; or take the other cluster off its hosts, with all its data: `chasi delete -c {}`",
            member.cluster
        ),
    )
}

fn residue(subject: &Subject) -> Option<Wrong> {
    let left = &subject.facts().residue;
    if subject.managed() || left.is_empty() {
        return None;
    }
    wrong(
        format!("an earlier cluster left {}", left.join(", ")),
        "a host without Kubernetes",
        "remove it with the tool that installed it, for instance `kubeadm reset`, then remove these directories",
    )
}

fn runtime(subject: &Subject) -> Option<Wrong> {
    let running: Vec<&str> = subject
        .facts()
        .processes
        .iter()
        .map(|process| process.name.as_str())
        .collect();
    if subject.managed() || running.is_empty() {
        return None;
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
