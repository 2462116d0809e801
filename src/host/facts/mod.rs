//! What a host is: everything that checks, plans and templates ask for.
//!
//! Facts are only looked at, never made: gathering them changes nothing, needs no
//! lock, and asks no program that may not be there. What cannot be known is
//! `None` or empty, never an error.

mod disk;
mod kernel;
mod managed;
mod network;
mod process;
mod proxy;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Root;
use crate::error::Result;

pub use disk::Disk;
pub use kernel::{Cgroup, Feature, Security, Swap};
pub use managed::{Managed, PartState};
pub use network::{Address, Destination, HostsLine, Interface, Listener, NameServers, Route};
pub use process::Process;
pub use proxy::Proxy;

/// What a host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// How the kernel calls the host.
    pub hostname: String,
    /// The content of `/etc/machine-id`; clones of one machine share it.
    pub machine_id: Option<String>,
    /// What the firmware calls the machine; clones may share it.
    pub product_uuid: Known<String>,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// From os-release(5).
    pub os: Os,
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// How processes are grouped.
    pub cgroup: Cgroup,
    /// Whether systemd is the init system.
    pub systemd: bool,
    /// What the host is confined in, such as `systemd-nspawn` or `docker`; none on
    /// a machine, virtual or not.
    pub container: Option<String>,
    /// Swap that is in use.
    pub swap: Vec<Swap>,
    /// Mandatory access control.
    pub security: Security,
    /// Network interfaces, without loopback.
    pub interfaces: Vec<Interface>,
    /// Default routes, the preferred one first.
    pub default_routes: Vec<Route>,
    /// Where other routes lead: at most 4096 of them.
    pub destinations: Vec<Destination>,
    /// Who answers questions for names.
    pub name_servers: NameServers,
    /// What `/etc/hosts` says beside what chasi put there; none when there is no such
    /// file. At most 1024 lines.
    pub hosts_file: Option<Vec<HostsLine>>,
    /// Where programs are told to go through a proxy.
    pub proxies: Vec<Proxy>,
    /// Programs that manage the host's packet filter and are in use.
    pub firewalls: Vec<String>,
    /// File systems, by the paths that matter.
    pub disks: BTreeMap<String, Disk>,
    /// TCP ports that someone listens on.
    pub listeners: Vec<Listener>,
    /// UDP ports that someone has open for anybody. Those of the kernel itself, such
    /// as VXLAN's, are not among them.
    pub udp_listeners: Vec<Listener>,
    /// The host's clock when facts were gathered, in nanoseconds since 1970.
    pub clock: i64,
    /// The program that keeps the clock right.
    pub clock_keeper: Option<String>,
    /// Whether nothing on the host can lower an `oom_score_adj`, not even root.
    pub restrict_oom_score_adj: bool,
    /// Whether the size of the conntrack table can be set.
    pub conntrack_writable: bool,
    /// Where programs are; those that are not there are left out.
    pub commands: BTreeMap<String, String>,
    /// What the kernel can do.
    pub features: BTreeMap<String, Feature>,
    /// Directories of Kubernetes and container runtimes that hold something.
    pub residue: Vec<String>,
    /// Programs of Kubernetes and container runtimes that run.
    pub processes: Vec<Process>,
    /// What chasi has made of it.
    pub managed: Managed,
}

/// What a plugin is told of a host: what of the facts takes no time.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Brief {
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// From os-release(5).
    pub os: Os,
    /// The kernel's release.
    pub kernel: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// What the host is confined in; none on a machine.
    pub container: Option<String>,
}

impl Brief {
    /// Looks at the host.
    pub fn gather(root: &Root) -> Brief {
        let source = Source { root };
        Brief {
            architecture: architecture(),
            os: os(&source),
            kernel: source
                .text("/proc/sys/kernel/osrelease")
                .unwrap_or_default(),
            cpus: kernel::cpus(&source),
            memory: kernel::memory(&source),
            cgroup_version: kernel::cgroup(&source).version,
            container: kernel::container(&source),
        }
    }
}

/// A value, or why there is none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known<T> {
    /// What it is.
    Is(T),
    /// Why it is not known.
    Unknown(String),
}

/// The operating system.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Os {
    /// `debian`, `rhel`, ….
    pub id: String,
    /// `12`, `9.4`, ….
    pub version: String,
    /// For people.
    pub name: String,
}

/// Directories that hold something where Kubernetes or a container runtime is, or
/// was.
const RESIDUE: [&str; 9] = [
    "/etc/kubernetes",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/rancher",
    "/etc/cni/net.d",
    "/var/lib/cni",
];

/// Programs that checks ask for.
const COMMANDS: [&str; 18] = [
    "apparmor_parser",
    "blkid",
    "conntrack",
    "ethtool",
    "findmnt",
    "ip",
    "ip6tables",
    "ipset",
    "iptables",
    "modprobe",
    "mount",
    "nft",
    "socat",
    "sysctl",
    "systemctl",
    "systemd-run",
    "tar",
    "umount",
];

/// Where programs are looked for, as login shells do.
const PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

impl Facts {
    /// Looks at the host.
    pub fn gather(root: &Root) -> Result<Facts> {
        let source = Source { root };
        let kernel = source
            .text("/proc/sys/kernel/osrelease")
            .unwrap_or_default();
        let container = kernel::container(&source);
        let (default_routes, destinations) = network::routes(&source);
        let (listeners, udp_listeners) = network::listeners(&source);
        Ok(Facts {
            hostname: source.text("/proc/sys/kernel/hostname").unwrap_or_default(),
            machine_id: source.text("/etc/machine-id").filter(|id| !id.is_empty()),
            product_uuid: product_uuid(&source),
            architecture: architecture(),
            os: os(&source),
            cpus: kernel::cpus(&source),
            memory: kernel::memory(&source),
            cgroup: kernel::cgroup(&source),
            systemd: source.path("/run/systemd/system").is_dir(),
            swap: kernel::swap(&source),
            security: kernel::security(&source),
            interfaces: network::interfaces(&source),
            default_routes,
            destinations,
            name_servers: network::name_servers(&source),
            hosts_file: network::hosts_file(&source),
            proxies: proxy::proxies(&source),
            firewalls: process::firewalls(&source),
            disks: disk::disks(&source),
            listeners,
            udp_listeners,
            clock: jiff::Timestamp::now()
                .as_nanosecond()
                .try_into()
                .unwrap_or(i64::MAX),
            clock_keeper: kernel::clock_keeper(&source),
            restrict_oom_score_adj: kernel::restrict_oom_score_adj(&source),
            conntrack_writable: kernel::conntrack_writable(&source, container.as_deref()),
            commands: commands(&source),
            features: kernel::features(&source, &kernel),
            residue: residue(&source),
            processes: process::of_kubernetes(&source),
            managed: managed::managed(root)?,
            container,
            kernel,
        })
    }
}

/// The host's files, as facts read them.
struct Source<'a> {
    root: &'a Root,
}

/// No file that facts read is larger, in bytes.
const LARGEST: u64 = 8 << 20;

impl Source<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.root.outside(path)
    }

    /// A small file, without white space around it.
    fn text(&self, path: &str) -> Option<String> {
        Some(self.bytes(path)?.trim().to_owned())
    }

    fn bytes(&self, path: &str) -> Option<String> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        fs::File::open(self.path(path))
            .ok()?
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a directory, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

fn architecture() -> String {
    let machine = rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned();
    match machine.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i586" | "i386" => "386",
        other => other,
    }
    .to_owned()
}

fn product_uuid(source: &Source) -> Known<String> {
    const FILE: &str = "/sys/class/dmi/id/product_uuid";
    match fs::read_to_string(source.path(FILE)) {
        Ok(text) => Known::Is(text.trim().to_lowercase()),
        Err(error) => Known::Unknown(format!("`{FILE}` cannot be read: {error}")),
    }
}

fn os(source: &Source) -> Os {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| source.text(path));
    let text = text.unwrap_or_default();
    let value = |key: &str| {
        let of_key = |line: &str| {
            Some(
                line.strip_prefix(key)?
                    .strip_prefix('=')?
                    .trim_matches(['"', '\''])
                    .to_owned(),
            )
        };
        text.lines().find_map(of_key).unwrap_or_default()
    };
    Os {
        id: value("ID"),
        version: value("VERSION_ID"),
        name: value("PRETTY_NAME"),
    }
}

fn commands(source: &Source) -> BTreeMap<String, String> {
    let find = |name: &str| {
        let is_program = |path: &String| {
            let found = fs::metadata(source.path(path));
            found.is_ok_and(|found| {
                found.is_file() && std::os::unix::fs::MetadataExt::mode(&found) & 0o111 != 0
            })
        };
        PATH.iter()
            .map(|directory| format!("{directory}/{name}"))
            .find(is_program)
    };
    COMMANDS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), find(name)?)))
        .collect()
}

fn residue(source: &Source) -> Vec<String> {
    let holds_something = |path: &&&str| has_content(&source.path(path));
    RESIDUE
        .iter()
        .filter(holds_something)
        .map(|path| (*path).to_owned())
        .collect()
}

/// Whether there is a file anywhere below; empty directories are nothing.
fn has_content(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_content(&entry.path()),
        _ => true,
    })
}

#[cfg(test)]
mod tests;
