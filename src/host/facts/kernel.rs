//! What the kernel says of the machine and of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::Source;

/// How processes are grouped.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Cgroup {
    /// 1 (also where both are mounted) or 2.
    pub version: u8,
    /// What can be limited: `cpu`, `memory`, `pids`, ….
    pub controllers: BTreeSet<String>,
}

/// Swap that is in use.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// A device or a file.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// Mandatory access control.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// `enforcing` or `permissive`; none where SELinux is off.
    pub selinux: Option<String>,
    /// Whether AppArmor is on.
    pub apparmor: bool,
}

/// Whether the kernel can do something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// It is part of the kernel, or its module is loaded.
    Present,
    /// Its module is on the disk.
    Loadable,
    /// The kernel says that it does not have it.
    Absent,
    /// The kernel does not say, and there are no modules to look at.
    Unknown,
}

/// What checks ask for: the module, the option of the kernel's configuration, and
/// a path that is there when it works.
const FEATURES: [(&str, &str, &str); 7] = [
    ("overlay", "CONFIG_OVERLAY_FS", ""),
    (
        "br_netfilter",
        "CONFIG_BRIDGE_NETFILTER",
        "/proc/sys/net/bridge",
    ),
    ("vxlan", "CONFIG_VXLAN", ""),
    (
        "nf_conntrack",
        "CONFIG_NF_CONNTRACK",
        "/proc/sys/net/netfilter/nf_conntrack_max",
    ),
    ("nf_tables", "CONFIG_NF_TABLES", ""),
    ("ip_vs", "CONFIG_IP_VS", "/proc/net/ip_vs"),
    ("veth", "CONFIG_VETH", ""),
];

/// The bit of CAP_SYS_RESOURCE (capabilities(7), linux/capability.h).
const SYS_RESOURCE: u32 = 24;

pub(super) fn cpus(source: &Source) -> u32 {
    let text = source
        .text("/sys/devices/system/cpu/online")
        .unwrap_or_default();
    let count = |range: &str| -> Option<u32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (last.parse::<u32>().ok()? + 1).checked_sub(first.parse().ok()?)
    };
    text.split(',').filter_map(count).sum()
}

pub(super) fn memory(source: &Source) -> u64 {
    let text = source.text("/proc/meminfo").unwrap_or_default();
    let kibibytes = |line: &str| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    };
    text.lines().find_map(kibibytes).unwrap_or(0) * 1024
}

pub(super) fn cgroup(source: &Source) -> Cgroup {
    if let Some(controllers) = source.text("/sys/fs/cgroup/cgroup.controllers") {
        let controllers = controllers.split_whitespace().map(str::to_owned).collect();
        return Cgroup {
            version: 2,
            controllers,
        };
    }
    // A hierarchy with several controllers is mounted under the names of all.
    let names = source.names("/sys/fs/cgroup");
    let controllers = names
        .iter()
        .flat_map(|name| name.split(','))
        .filter(|name| !matches!(*name, "systemd" | "unified"))
        .map(str::to_owned)
        .collect();
    Cgroup {
        version: 1,
        controllers,
    }
}

pub(super) fn swap(source: &Source) -> Vec<Swap> {
    let text = source.text("/proc/swaps").unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        // Spaces in paths are written as \040 (proc(5)).
        let path = words.next()?.replace("\\040", " ");
        let size = words.nth(1)?.parse::<u64>().ok()?.saturating_mul(1024);
        Some(Swap { path, size })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

pub(super) fn security(source: &Source) -> Security {
    let selinux = source
        .text("/sys/fs/selinux/enforce")
        .map(|enforce| match enforce.as_str() {
            "1" => "enforcing".to_owned(),
            _ => "permissive".to_owned(),
        });
    let apparmor = source
        .text("/sys/module/apparmor/parameters/enabled")
        .as_deref()
        == Some("Y");
    Security { selinux, apparmor }
}

/// systemd writes down at boot what it is confined in (`/run/systemd/container`).
pub(super) fn container(source: &Source) -> Option<String> {
    source
        .text("/run/systemd/container")
        .filter(|container| !container.is_empty())
}

/// Lowering the value below one's own minimum needs CAP_SYS_RESOURCE (proc(5)); what
/// PID 1 lacks, nothing on the host has.
pub(super) fn restrict_oom_score_adj(source: &Source) -> bool {
    let status = source.text("/proc/1/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & (1 << SYS_RESOURCE) == 0)
}

/// Before the module is loaded, the file is not there; in a container it never
/// becomes writable, because the table belongs to the first network namespace.
pub(super) fn conntrack_writable(source: &Source, container: Option<&str>) -> bool {
    let path = source.path("/proc/sys/net/netfilter/nf_conntrack_max");
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => container.is_none(),
        Err(_) => false,
    }
}

pub(super) fn clock_keeper(source: &Source) -> Option<String> {
    if source.path("/run/systemd/timesync/synchronized").exists() {
        return Some("systemd-timesyncd".to_owned());
    }
    let keepers = ["chronyd", "ntpd", "ptp4l", "openntpd", "ntpsec"];
    let mut running = super::process::all(source);
    running
        .find(|process| keepers.contains(&process.name.as_str()))
        .map(|process| process.name)
}

pub(super) fn features(source: &Source, release: &str) -> BTreeMap<String, Feature> {
    let config = config(source, release);
    let modules = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .map(|directory| format!("{directory}/{release}"))
        .find(|directory| source.path(directory).is_dir());
    let listed = |list: &str, name: &str| {
        let text = modules
            .as_ref()
            .and_then(|modules| source.bytes(&format!("{modules}/{list}")))
            .unwrap_or_default();
        let file = format!("/{name}.ko");
        text.lines().any(|line| {
            line.split(':')
                .next()
                .is_some_and(|path| path.contains(&file))
        })
    };
    let filesystems = source.text("/proc/filesystems").unwrap_or_default();
    let find = |name: &str, option: &str, path: &str| {
        let works = source.path(&format!("/sys/module/{name}")).exists()
            || (!path.is_empty() && source.path(path).exists())
            || filesystems
                .lines()
                .any(|line| line.split_whitespace().last() == Some(name))
            || config.get(option).map(String::as_str) == Some("y");
        match (
            works || listed("modules.builtin", name),
            listed("modules.dep", name),
        ) {
            (true, _) => Feature::Present,
            (false, true) => Feature::Loadable,
            _ if modules.is_some() || (!config.is_empty() && !config.contains_key(option)) => {
                Feature::Absent
            }
            _ => Feature::Unknown,
        }
    };
    FEATURES
        .iter()
        .map(|(name, option, path)| ((*name).to_owned(), find(name, option, path)))
        .collect()
}

/// The options that the kernel was built with, where it tells.
fn config(source: &Source, release: &str) -> BTreeMap<String, String> {
    let unpacked = || {
        let mut text = String::new();
        let file = fs::File::open(source.path("/proc/config.gz")).ok()?;
        flate2::read::GzDecoder::new(file)
            .take(super::LARGEST)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    };
    let text = source
        .bytes(&format!("/boot/config-{release}"))
        .or_else(unpacked)
        .unwrap_or_default();
    let option = |line: &str| {
        let (name, value) = line.split_once('=')?;
        FEATURES
            .iter()
            .any(|(_, option, _)| *option == name)
            .then(|| (name.to_owned(), value.to_owned()))
    };
    let mut options: BTreeMap<_, _> = text.lines().filter_map(option).collect();
    // A configuration without any of them is still a configuration.
    if !text.is_empty() {
        options.insert(String::new(), String::new());
    }
    options
}
