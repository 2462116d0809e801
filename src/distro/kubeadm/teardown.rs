//! Taking Kubernetes off a host: its processes, mounts, interfaces, packet-filter
//! rules and data. Every step looks at what is there and takes away what is left,
//! so it can be repeated after a crash, on a host where half of it never came to
//! be, and on one where nothing is left.
//!
//! What belongs to a generation (programs, units, configuration) is not touched
//! here: the host room takes that back afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};

/// How long killed processes may take to disappear.
const DYING: Duration = Duration::from_secs(30);

/// Directories that Kubernetes, its runtime and the pod network keep their data
/// and state in. Removed whole.
const DIRECTORIES: [&str; 18] = [
    "/etc/kubernetes",
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/calico",
    "/run/cilium",
    "/run/containerd",
    "/run/flannel",
    "/run/kubernetes",
    "/run/nri",
    "/usr/libexec/kubernetes",
    "/var/lib/calico",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// Directories that Kubernetes makes where a pod mounts them and the host has none,
/// and those of sockets that systemd removes. Removed when they are empty.
const EMPTIED: [&str; 6] = [
    "/etc/ssl/certs",
    "/etc/ssl",
    "/run/chasi",
    "/run/netns",
    "/usr/lib/modules",
    "/usr/share/ca-certificates",
];

/// Kernel parameters that kubelet and kube-proxy set by themselves
/// (`pkg/kubelet/cm/container_manager_linux.go`, `pkg/proxy/conntrack` and
/// `cmd/kube-proxy/app/conntrack.go` of Kubernetes).
const PARAMETERS: [&str; 11] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Files that are left beside them.
const FILES: [&str; 1] = ["/run/xtables.lock"];

/// Interfaces that pod networks and kube-proxy make.
pub const INTERFACES: [&str; 9] = [
    "cni0",
    "cilium_host",
    "cilium_net",
    "cilium_vxlan",
    "flannel.1",
    "flannel-v6.1",
    "kube-bridge",
    "kube-ipvs0",
    "vxlan.calico",
];

/// How the names of packet-filter chains begin that kube-proxy, kubelet, CNI
/// plugins and pod networks make.
pub const CHAINS: [&str; 6] = [
    "KUBE-",
    "FLANNEL-",
    "CNI-",
    "CNI-HOSTPORT",
    "cali-",
    "CILIUM_",
];

/// What to look at before Kubernetes comes to a host.
pub fn traces() -> (Vec<&'static str>, &'static [&'static str]) {
    ([&DIRECTORIES[..], &EMPTIED].concat(), &PARAMETERS)
}

/// Takes Kubernetes off this host. `state` is chasi's own directory, from which
/// the programs run; `tree` holds the packet-filter tools of the image. Of
/// the directories of [`traces`], those in `theirs` stay.
pub fn teardown(
    context: &Context,
    state: &Path,
    tree: &Path,
    theirs: &BTreeSet<PathBuf>,
) -> Result<()> {
    let steps: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("stop the services", &stop_services),
        ("end the pods", &|| end_processes(state)),
        ("release the mounts", &unmount),
        ("remove the pod network", &|| remove_network(tree)),
        ("remove the data", &|| remove_data(theirs)),
    ];
    for (name, step) in steps {
        context.emit(Event::Detail {
            host: None,
            text: name.to_owned(),
        });
        step()?;
    }
    Ok(())
}

fn stop_services() -> Result<()> {
    // A unit that does not exist is stopped already.
    for unit in ["kubelet.service", "containerd.service"] {
        Command::new("systemctl").args(["stop", unit]).output()?;
    }
    Ok(())
}

/// Kills what runs in pods, and what runs from chasi's generations: the runtime's
/// shims outlive the runtime.
fn end_processes(state: &Path) -> Result<()> {
    let generations = state.join("generations");
    let end = Instant::now() + DYING;
    loop {
        let alive = victims(&generations)?;
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::new(
                Kind::Failed,
                format!("{} processes of the cluster do not end: {alive:?}", alive.len()),
            )
            .hint("they wait for a disk or a network file system; restart the host, then run `chasi delete` again"));
        }
        for pid in alive {
            if let Some(pid) = Pid::from_raw(pid) {
                // One that is gone meanwhile is what we want.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn victims(generations: &Path) -> Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    let entries = fs::read_dir("/proc").or_err(Kind::System, || "cannot list processes")?;
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let in_pod = cgroup.lines().any(|line| line.contains("/kubepods"));
        // A zombie has no program any more and cannot be killed.
        let zombie = exe.as_os_str().is_empty();
        if (in_pod && !zombie) || exe.starts_with(generations) {
            pids.insert(pid);
        }
    }
    Ok(pids)
}

/// Mount points of pods, containers and their network name spaces, the deepest
/// first.
fn unmount() -> Result<()> {
    const BELOW: [&str; 5] = [
        "/run/containerd/",
        "/run/netns/cni-",
        "/var/lib/containerd/",
        "/var/lib/kubelet/",
        "/var/run/netns/cni-",
    ];
    let table =
        fs::read_to_string("/proc/self/mountinfo").or_err(Kind::System, || "cannot list mounts")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| BELOW.iter().any(|prefix| point.starts_with(prefix)));
    // The kernel lists mounts in the order in which they were made.
    let points: Vec<String> = points.collect();
    for point in points.iter().rev() {
        match rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => {
                return Err(error).or_err(Kind::System, || format!("cannot unmount `{point}`"));
            }
        }
        if Path::new(point)
            .parent()
            .is_some_and(|parent| parent.ends_with("netns"))
        {
            let _ = fs::remove_file(point);
        }
    }
    Ok(())
}

/// Undoes the octal escapes of `/proc/self/mountinfo` (proc(5)).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn remove_network(tree: &Path) -> Result<()> {
    for name in INTERFACES {
        if Path::new("/sys/class/net").join(name).exists() {
            Command::new("ip").args(["link", "delete", name]).run()?;
        }
    }
    for family in ["iptables", "ip6tables"] {
        clean_rules(tree, family)?;
    }
    Ok(())
}

/// Takes the chains of Kubernetes, and the rules that lead to them, out of the
/// packet filter, and leaves everything else.
fn clean_rules(tree: &Path, family: &str) -> Result<()> {
    let Some(program) = tool(tree, family) else {
        return Ok(());
    };
    let save = tool(tree, &format!("{family}-save"));
    let restore = tool(tree, &format!("{family}-restore"));
    let (Some(save), Some(restore)) = (save, restore) else {
        return Ok(());
    };
    let before = Command::new(&save).run()?.stdout;
    let before = String::from_utf8_lossy(&before);
    let ours = |line: &str| {
        line.split([' ', ':'])
            .any(|word| CHAINS.iter().any(|chain| word.starts_with(chain)))
            || line.contains("flanneld")
    };
    if !before.lines().any(ours) {
        return Ok(());
    }
    let kept: String = before
        .lines()
        .filter(|line| !ours(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    Command::new(&restore).input(kept).run()?;
    // Tables that hold nothing any more are as good as not there; with nftables
    // deleting the built-in chains makes them really go.
    for table in ["nat", "filter", "mangle", "raw", "security"] {
        let empty = Command::new(&program).args(["-t", table, "-S"]).output()?;
        let rules = String::from_utf8_lossy(&empty.stdout).into_owned();
        if empty.code == Some(0)
            && rules
                .lines()
                .all(|line| line.starts_with("-P") && line.ends_with("ACCEPT"))
        {
            Command::new(&program).args(["-t", table, "-X"]).output()?;
        }
    }
    Ok(())
}

/// The image's own packet-filter tool, or the host's.
fn tool(tree: &Path, name: &str) -> Option<PathBuf> {
    let own = tree.join("usr/local/bin").join(name);
    let places = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    std::iter::once(own)
        .chain(places.iter().map(|place| Path::new(place).join(name)))
        .find(|path| path.exists())
}

fn remove_data(theirs: &BTreeSet<PathBuf>) -> Result<()> {
    for path in ours(&DIRECTORIES, theirs) {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .or_err(Kind::System, || format!("cannot remove `{path}`"))
                    .map_err(|error| error.hint("is something mounted below it? `findmnt` tells"));
            }
            _ => {}
        }
    }
    for path in FILES {
        crate::file::remove(Path::new(path))?;
    }
    remove_cgroups(Path::new("/sys/fs/cgroup"), 0);
    Ok(())
}

/// The last traces, when the units are gone too: directories that are empty now.
/// Those in `theirs` stay.
pub fn remove_empty_directories(theirs: &BTreeSet<PathBuf>) {
    for path in ours(&EMPTIED, theirs) {
        // It fails where someone else has put something.
        let _ = fs::remove_dir(path);
    }
}

fn ours<'a>(paths: &'a [&str], theirs: &BTreeSet<PathBuf>) -> impl Iterator<Item = &'a str> {
    paths
        .iter()
        .copied()
        .filter(|path| !theirs.contains(Path::new(path)))
}

/// Empty control groups of pods. One that is busy stays; the processes in it are
/// not ours.
fn remove_cgroups(directory: &Path, depth: usize) {
    const DEEPEST: usize = 3;
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("kubepods") {
            remove_cgroup(&entry.path());
        } else if depth < DEEPEST {
            remove_cgroups(&entry.path(), depth + 1);
        }
    }
}

fn remove_cgroup(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
