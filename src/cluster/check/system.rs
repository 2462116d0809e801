//! The operating system, the kernel, and their clocks.

use super::outcome::{Outcome, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::Subject;
use crate::host::facts::{Feature, Known};
use crate::spec;

const BEFORE: &[Phase] = &[Phase::Pre, Phase::Upgrade];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "system.os",
        "the operating system is one that chasi knows",
        "os-release(5)",
        os,
    )
    .warning()
    .at(BEFORE),
    Check::of_host(
        "system.init",
        "systemd is process 1",
        "`/run/systemd/system`",
        init,
    ),
    Check::of_host(
        "system.cgroups",
        "control groups can limit processor, memory and processes",
        "the controllers that the kernel offers",
        cgroups,
    ),
    Check::of_host(
        "system.cgroup-version",
        "control groups are of version 2",
        "what is mounted at `/sys/fs/cgroup`",
        cgroup_version,
    )
    .warning()
    .at(BEFORE),
    Check::of_host("system.swap", "swap is off", "`/proc/swaps`", swap)
        .warning()
        .at(&[Phase::Pre, Phase::Post]),
    Check::of_host(
        "system.noexec",
        "programs can run from chasi's directory",
        "how the file system of `/var/lib/chasi` is mounted",
        noexec,
    ),
    Check::of_host(
        "system.commands",
        "the programs of the host's own that are needed are there",
        "the usual directories of programs",
        commands,
    )
    .at(BEFORE),
    Check::of_host(
        "system.security",
        "SELinux and AppArmor let containers run",
        "their states, and `apparmor_parser`",
        security,
    )
    .at(BEFORE),
    Check::of_host(
        "system.clock",
        "the hosts' clocks agree",
        "each host's clock, asked for with the time that the question took",
        clock,
    )
    .needing(&[Need::Clock]),
    Check::of_host(
        "system.time-sync",
        "something keeps the clock right",
        "running time services",
        time_sync,
    )
    .warning(),
    Check::of_host(
        "kernel.version",
        "the kernel is not too old",
        "the kernel's release",
        kernel,
    )
    .at(BEFORE),
    Check::of_host(
        "kernel.overlay",
        "the kernel has what containers and their networks need",
        "overlay and br_netfilter: loaded, built in, or as modules",
        overlay,
    )
    .at(BEFORE),
    Check::of_host(
        "kernel.modules",
        "the kernel has what Services and pod networks need",
        "nf_conntrack, nf_tables, veth and vxlan: loaded, built in, or as modules",
        modules,
    )
    .warning()
    .at(BEFORE),
];

/// Families of distributions on which systemd, the paths and the tools are what
/// chasi expects: `ID` of os-release.
const KNOWN: [&str; 19] = [
    "almalinux",
    "amzn",
    "anolis",
    "centos",
    "debian",
    "fedora",
    "kylin",
    "ol",
    "openEuler",
    "openeuler",
    "opensuse-leap",
    "opensuse-tumbleweed",
    "rhel",
    "rocky",
    "sle_hpc",
    "sles",
    "ubuntu",
    "uos",
    "uniontech",
];

fn os(subject: &Subject) -> Outcome {
    let os = &subject.facts().os;
    if os.id.is_empty() {
        return unknown("`/etc/os-release` cannot be read");
    }
    let shown = match os.name.is_empty() {
        true => format!("{} {}", os.id, os.version),
        false => os.name.clone(),
    };
    if KNOWN.contains(&os.id.as_str()) {
        return passed(shown);
    }
    wrong(
        shown,
        "a distribution of the families of Debian, Red Hat or SUSE",
        "try it on one host first: `chasi run` says what does not work",
    )
}

fn init(subject: &Subject) -> Outcome {
    if subject.facts().systemd {
        return passed("systemd");
    }
    wrong(
        "the host was not started by systemd",
        "systemd as process 1",
        "use a distribution with systemd; containers without it cannot be hosts",
    )
}

fn cgroups(subject: &Subject) -> Outcome {
    let missing: Vec<&str> = ["cpu", "cpuset", "memory", "pids"]
        .into_iter()
        .filter(|name| !subject.facts().cgroup.controllers.contains(*name))
        .collect();
    if missing.is_empty() {
        return passed("cpu, cpuset, memory and pids");
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

fn cgroup_version(subject: &Subject) -> Outcome {
    match subject.facts().cgroup.version {
        2 => passed("they are of version 2"),
        version => wrong(
            format!("control groups are of version {version}"),
            "version 2: kubelets from Kubernetes 1.35 on refuse version 1 unless told otherwise",
            "add `systemd.unified_cgroup_hierarchy=1` to the kernel's command line, then restart the host",
        ),
    }
}

fn swap(subject: &Subject) -> Outcome {
    let devices = &subject.facts().swap;
    if subject.site.cluster.settings.swap == spec::cluster::Swap::Keep {
        return not_applicable("`settings.swap: keep` keeps it");
    }
    if devices.is_empty() {
        return passed("off");
    }
    wrong(
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

fn noexec(subject: &Subject) -> Outcome {
    match super::resources::state_disk(subject.facts()) {
        None => unknown("the file system of `/var/lib/chasi` cannot be looked at"),
        Some((_, disk)) if disk.noexec => wrong(
            "`/var/lib/chasi` lies on a file system that is mounted noexec",
            "a file system that programs can run from",
            "remount it: `mount -o remount,exec /var`, and mend /etc/fstab",
        ),
        Some((path, _)) => passed(format!("`{path}` is mounted exec")),
    }
}

fn commands(subject: &Subject) -> Outcome {
    let mut needed = vec!["mount", "systemctl", "systemd-run", "umount"];
    // In a container the kernel's modules are not the host's to load.
    if subject.facts().container.is_none() {
        needed.push("modprobe");
    }
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|name| !subject.facts().commands.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return passed(needed.join(", "));
    }
    wrong(
        format!("the host has no `{}`", missing.join("` and no `")),
        format!("`{}`", needed.join("`, `")),
        "install them: the packages are `util-linux`, `kmod` and `systemd`",
    )
}

fn security(subject: &Subject) -> Outcome {
    let security = &subject.facts().security;
    if security.selinux.as_deref() == Some("enforcing") {
        return wrong(
            "SELinux is enforcing",
            "SELinux permissive or off: the image's containers have no labels",
            "`setenforce 0`, and `SELINUX=permissive` in /etc/selinux/config",
        );
    }
    let parser = subject.facts().commands.contains_key("apparmor_parser");
    if security.apparmor && !parser {
        return wrong(
            "AppArmor is on, and there is no `apparmor_parser`",
            "both or neither: the runtime cannot load its profile, and no container starts",
            "`apt-get install apparmor`, or your distribution's package of that name",
        );
    }
    passed(match (&security.selinux, security.apparmor) {
        (Some(state), _) => format!("SELinux is {state}"),
        (None, true) => "AppArmor is on".to_owned(),
        (None, false) => "neither is on".to_owned(),
    })
}

/// Clocks further apart than this break certificates and leases, and make logs
/// useless; in nanoseconds.
const SKEW: i64 = 10_000_000_000;

/// Compared with the first host whose clock is known.
fn clock(subject: &Subject) -> Outcome {
    let own = match &subject.measured.clock {
        Known::Is(clock) => clock,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    let first = subject
        .site
        .hosts
        .iter()
        .find_map(|host| match &host.clock {
            Known::Is(clock) => Some((host.host.name.as_str(), clock)),
            Known::Unknown(_) => None,
        });
    let Some((name, first)) = first.filter(|(name, _)| *name != subject.name()) else {
        return passed("the others are compared with it");
    };
    let apart = own.ahead.saturating_sub(first.ahead).saturating_abs();
    let doubt = own.doubt.saturating_add(first.doubt);
    let milliseconds = apart / 1_000_000;
    let seen = format!(
        "{milliseconds} ms from that of `{name}`, give or take {} ms",
        doubt / 1_000_000 + 1
    );
    match (apart.saturating_sub(doubt) > SKEW, doubt > SKEW) {
        (true, _) => wrong(
            format!(
                "its clock is {} s away from that of `{name}`",
                apart / 1_000_000_000
            ),
            format!("at most {} s", SKEW / 1_000_000_000),
            "set it: `timedatectl set-time`, or start a time service",
        ),
        (false, true) => unknown(seen),
        (false, false) => passed(seen),
    }
}

fn time_sync(subject: &Subject) -> Outcome {
    if let Some(keeper) = &subject.facts().clock_keeper {
        return passed(keeper.as_str());
    }
    if let Some(container) = &subject.facts().container {
        return not_applicable(format!(
            "a container ({container}) has the clock of the machine below"
        ));
    }
    wrong(
        "no time service runs, or it has not found the time yet",
        "chrony, ntpd or systemd-timesyncd, in step",
        "`timedatectl set-ntp true`, or install chrony and name your own server in its configuration",
    )
}

/// The oldest kernel: the oldest with long-term support when the Kubernetes versions
/// that chasi installs came out.
const KERNEL: (u32, u32) = (4, 19);

fn kernel(subject: &Subject) -> Outcome {
    let release = &subject.facts().kernel;
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return unknown(format!("the kernel calls itself `{release}`"));
    };
    if (major, minor) >= KERNEL {
        return passed(release.as_str());
    }
    wrong(
        format!("the kernel is {release}"),
        format!("at least {}.{}", KERNEL.0, KERNEL.1),
        "install a newer kernel of your distribution, then restart the host",
    )
}

/// What the kernel says of features: those that it lacks, and those that it does not
/// tell of.
fn features(subject: &Subject, names: &[&str], hint: &str) -> Outcome {
    let are = |feature: Option<Feature>| -> Vec<&str> {
        names
            .iter()
            .copied()
            .filter(|name| subject.facts().features.get(*name).copied() == feature)
            .collect()
    };
    let absent = are(Some(Feature::Absent));
    if !absent.is_empty() {
        return wrong(
            format!("the kernel has no {}", absent.join(" and no ")),
            format!("{}, built in or as modules", names.join(" and ")),
            hint,
        );
    }
    let silent = [are(Some(Feature::Unknown)), are(None)].concat();
    if !silent.is_empty() {
        return unknown(format!(
            "the kernel does not tell whether it has {}, and there are no modules to look at",
            silent.join(", ")
        ));
    }
    passed(names.join(", "))
}

const MODULES: &str =
    "install the kernel's modules package, for instance `linux-modules-extra-$(uname -r)`";

fn overlay(subject: &Subject) -> Outcome {
    features(subject, &["overlay", "br_netfilter"], MODULES)
}

fn modules(subject: &Subject) -> Outcome {
    let mut names = vec!["nf_conntrack", "nf_tables", "veth"];
    if subject.site.has_vxlan() {
        names.push("vxlan");
    }
    features(subject, &names, MODULES)
}
