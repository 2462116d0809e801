//! What labs share on one machine: numbers, and kernel parameters.
//!
//! Hosts are containers, so a kernel parameter without a namespace that a
//! kubelet sets is set on the machine. The first lab writes down what was there,
//! the last one puts it back. The record is one file below `/run`, changed under
//! its lock, and belongs to one boot: after a reboot nothing of it is true any
//! more, and it is begun anew.
//!
//! ```text
//! RUN/machine.json   this module's `Record`
//! RUN/lock           flock while the record is read and changed
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::{Number, boot_id};
use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// Parameters that are put back. kubelet sets the first six
/// (`pkg/kubelet/cm/container_manager_linux.go`, `setupKernelTunables`); the rest
/// are what images for Kubernetes and systemd's own `sysctl.d` set most and what
/// this module raises. Parameters below `net` belong to a host's own namespace.
const PARAMETERS: &[&str] = &[
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/aio-max-nr",
    "fs/file-max",
    "fs/nr_open",
    "fs/protected_fifos",
    "fs/protected_hardlinks",
    "fs/protected_regular",
    "fs/protected_symlinks",
    "fs/suid_dumpable",
    "kernel/core_pattern",
    "kernel/core_uses_pid",
    "kernel/dmesg_restrict",
    "kernel/kptr_restrict",
    "kernel/perf_event_paranoid",
    "kernel/pid_max",
    "kernel/printk",
    "kernel/softlockup_panic",
    "kernel/sysrq",
    "kernel/threads-max",
    "kernel/unprivileged_bpf_disabled",
    "kernel/unprivileged_userns_clone",
    "kernel/yama/ptrace_scope",
    "net/core/bpf_jit_harden",
    "net/core/default_qdisc",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/nf_conntrack_max",
    "vm/dirty_background_ratio",
    "vm/dirty_ratio",
    "vm/max_map_count",
    "vm/min_free_kbytes",
    "vm/swappiness",
];

/// What several hosts on one kernel need at least.
const RAISED: &[(&str, u64)] = &[
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
];

/// The record of the machine.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    boot: String,
    /// What each parameter was before the first lab.
    parameters: BTreeMap<String, String>,
    /// Whose number is whose: number → the lab's directory.
    labs: BTreeMap<u8, PathBuf>,
}

const VERSION: u32 = 1;

impl Record {
    /// The record below `run`. One that cannot be read, or of another boot, says
    /// nothing true.
    fn read(run: &Path, boot: &str) -> Option<Record> {
        let text = fs::read(run.join("machine.json")).ok()?;
        serde_json::from_slice(&text)
            .ok()
            .filter(|record: &Record| record.version == VERSION && record.boot == boot)
    }
}

/// The number that the lab in `directory` has, if it has one. Looks without a lock
/// and leaves nothing behind.
pub fn number(run: &Path, directory: &Path) -> Result<Option<Number>> {
    let record = Record::read(run, &boot_id()?).unwrap_or_default();
    let mut labs = record.labs.iter();
    Ok(labs
        .find(|(_, lab)| *lab == directory)
        .map(|(number, _)| Number(*number)))
}

/// The record, locked.
pub struct Machine {
    run: PathBuf,
    parameters: PathBuf,
    record: Record,
    _lock: File,
}

impl Machine {
    /// Takes the lock, waiting for others, and reads the record. They hold it for
    /// moments only.
    pub fn lock(run: &Path) -> Result<Machine> {
        Machine::lock_with(run, Path::new("/proc/sys"))
    }

    fn lock_with(run: &Path, parameters: &Path) -> Result<Machine> {
        let lock = loop {
            file::create_directories(run)?;
            let path = run.join("lock");
            // The last lab removes the directory: then somebody else may hold a new one.
            match locked(&path)
                .or_err(Kind::System, || format!("cannot lock `{}`", path.display()))?
            {
                Some(lock) => break lock,
                None => continue,
            }
        };
        let boot = boot_id()?;
        let record = Record::read(run, &boot).unwrap_or_else(|| Record {
            version: VERSION,
            boot,
            ..Record::default()
        });
        Ok(Machine {
            run: run.to_owned(),
            parameters: parameters.to_owned(),
            record,
            _lock: lock,
        })
    }

    /// Gives the lab in `directory` a number whose networks the machine does not
    /// know yet, and writes the kernel parameters down if it is the first lab.
    pub fn enter(&mut self, directory: &Path) -> Result<Number> {
        self.forget_the_vanished();
        if self.record.labs.is_empty() {
            self.record.parameters = self.read_parameters();
        }
        let routes = routes()?;
        let number = Number::candidates()
            .find(|number| {
                !self.record.labs.contains_key(&number.0)
                    && !routes.iter().any(|route| route.overlaps(*number))
                    && !Path::new("/sys/class/net").join(number.bridge(0)).exists()
            })
            .ok_or_else(|| {
                Error::new(
                    Kind::System,
                    "no network `10.N.0.0/16` is free on this machine",
                )
                .hint("See `ip route` and `chasi lab list`.")
            })?;
        self.record.labs.insert(number.0, directory.to_owned());
        self.save()?;
        for (name, least) in RAISED {
            let current = self
                .record
                .parameters
                .get(*name)
                .and_then(|value| value.parse().ok());
            if current.is_some_and(|current: u64| current < *least) {
                self.set(name, &least.to_string())?;
            }
        }
        Ok(number)
    }

    /// Takes the lab's number back. When it was the last one, puts the kernel
    /// parameters back and removes the record.
    pub fn leave(mut self, directory: &Path) -> Result<()> {
        self.record.labs.retain(|_, lab| lab != directory);
        self.forget_the_vanished();
        if !self.record.labs.is_empty() {
            return self.save();
        }
        let put_back: Vec<_> = self
            .record
            .parameters
            .iter()
            .map(|(name, value)| self.set(name, value))
            .collect();
        file::remove(&self.run.join("machine.json"))?;
        // What killed processes were about to write.
        for entry in fs::read_dir(&self.run).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".chasi-") {
                file::remove(&entry.path())?;
            }
        }
        // What systemd-nspawn makes once and never removes.
        for empty in ["nspawn/propagate", "nspawn/locks", "nspawn"] {
            let _ = fs::remove_dir(Path::new("/run/systemd").join(empty));
        }
        file::remove(&self.run.join("lock"))?;
        // The parent may be shared with others; only what is empty goes.
        if fs::remove_dir(&self.run).is_ok() {
            let _ = self.run.parent().map(fs::remove_dir);
        }
        put_back.into_iter().collect()
    }

    /// Labs whose directory somebody removed by hand hold no number, unless their
    /// bridge still stands.
    fn forget_the_vanished(&mut self) {
        self.record.labs.retain(|number, lab| {
            lab.exists()
                || Path::new("/sys/class/net")
                    .join(Number(*number).bridge(0))
                    .exists()
        });
    }

    fn read_parameters(&self) -> BTreeMap<String, String> {
        PARAMETERS
            .iter()
            .filter_map(|name| {
                // What this kernel does not have cannot change.
                let value = fs::read_to_string(self.parameters.join(name)).ok()?;
                Some(((*name).to_owned(), value.trim().to_owned()))
            })
            .collect()
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.parameters.join(name);
        let current = fs::read_to_string(&path).unwrap_or_default();
        if current.trim() == value {
            return Ok(());
        }
        fs::write(&path, value).or_err(Kind::System, || {
            format!(
                "cannot set the kernel parameter `{}`",
                name.replace('/', ".")
            )
        })
    }

    fn save(&self) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.record)
            .or_err(Kind::Failed, || "cannot write the machine's record as JSON")?;
        text.push(b'\n');
        file::write(&self.run.join("machine.json"), &text, 0o600)
    }
}

/// Opens and locks a file; `None` when it was removed meanwhile.
fn locked(path: &Path) -> std::io::Result<Option<File>> {
    let gone = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let lock = match File::create(path) {
        Ok(lock) => lock,
        Err(error) => return gone(error),
    };
    lock.lock()?;
    match fs::metadata(path) {
        Ok(now) if now.ino() == lock.metadata()?.ino() => Ok(Some(lock)),
        Ok(_) => Ok(None),
        Err(error) => gone(error),
    }
}

/// A network that the machine has a route to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Route {
    address: IpAddr,
    length: u8,
}

impl Route {
    /// `10.0.0.0/8`, `10.0.0.1`, `fd00::/64`; not `default`, which overlaps all.
    fn parse(text: &str) -> Option<Route> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(full), |length| length.parse().ok())?;
        (length > 0 && length <= full).then_some(Route { address, length })
    }

    /// Whether it has addresses in common with a lab's networks.
    fn overlaps(self, number: Number) -> bool {
        match self.address {
            IpAddr::V4(address) => {
                let shared = 32 - u32::from(self.length.min(16));
                address.to_bits() >> shared == number.ipv4(0, 0).to_bits() >> shared
            }
            IpAddr::V6(address) => (0..2).any(|nic| {
                let shared = 128 - u32::from(self.length.min(64));
                address.to_bits() >> shared == number.ipv6(nic, 0).to_bits() >> shared
            }),
        }
    }
}

fn routes() -> Result<Vec<Route>> {
    #[derive(Deserialize)]
    struct Entry {
        dst: String,
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let output = Command::new("ip")
            .args(["-json", family, "route", "show", "table", "all"])
            .run()?;
        // A machine without IPv6 says nothing at all.
        if output.stdout.trim_ascii().is_empty() {
            continue;
        }
        let entries: Vec<Entry> = serde_json::from_slice(&output.stdout)
            .or_err(Kind::System, || "cannot understand what `ip route` says")?;
        routes.extend(entries.iter().filter_map(|entry| Route::parse(&entry.dst)));
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_overlap_when_either_holds_the_other() {
        let overlaps = |route: &str| Route::parse(route).unwrap().overlaps(Number(77));
        assert!(overlaps("10.77.0.0/24"));
        assert!(overlaps("10.77.200.1"));
        assert!(overlaps("10.0.0.0/8"));
        assert!(overlaps("fd63:6861:7369:77::/64"));
        assert!(!overlaps("10.78.0.0/16"));
        assert!(!overlaps("fd63:6861:7369:78::/64"));
        assert!(!overlaps("192.168.0.0/16"));
        assert_eq!(Route::parse("default"), None);
        assert_eq!(Route::parse("0.0.0.0/0"), None);
        assert_eq!(Route::parse("10.0.0.0/33"), None);
    }

    /// A stand-in for `/proc/sys`, a directory for the record, and two labs.
    struct Fixture {
        directory: tempfile::TempDir,
        labs: [PathBuf; 2],
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            for (name, value) in [
                ("kernel/panic", "1\n"),
                ("fs/inotify/max_user_instances", "128\n"),
            ] {
                let path = at("sys").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, value).unwrap();
            }
            let labs = [at("lab-a"), at("lab-b")];
            labs.iter().for_each(|lab| fs::create_dir(lab).unwrap());
            Fixture { directory, labs }
        }

        fn machine(&self) -> Machine {
            let path = self.directory.path();
            Machine::lock_with(&path.join("run"), &path.join("sys")).unwrap()
        }

        fn number(&self, lab: &Path) -> Option<Number> {
            number(&self.directory.path().join("run"), lab).unwrap()
        }

        fn parameter(&self, name: &str) -> String {
            let path = self.directory.path().join("sys").join(name);
            fs::read_to_string(path).unwrap().trim().to_owned()
        }
    }

    #[test]
    fn the_last_lab_puts_the_parameters_back_that_the_first_one_found() {
        let fixture = Fixture::new();
        let [a, b] = &fixture.labs;
        let first = fixture.machine().enter(a).unwrap();
        assert_eq!(fixture.parameter("fs/inotify/max_user_instances"), "8192");
        fs::write(fixture.directory.path().join("sys/kernel/panic"), "10\n").unwrap();
        let second = fixture.machine().enter(b).unwrap();
        assert_ne!(first, second);
        assert_eq!(fixture.number(a), Some(first));

        fixture.machine().leave(a).unwrap();
        assert_eq!(fixture.parameter("kernel/panic"), "10");
        assert_eq!(fixture.number(a), None);
        fixture.machine().leave(b).unwrap();
        assert_eq!(fixture.parameter("kernel/panic"), "1");
        assert_eq!(fixture.parameter("fs/inotify/max_user_instances"), "128");
        assert!(!fixture.directory.path().join("run").exists());
    }

    #[test]
    fn a_record_of_an_earlier_boot_is_forgotten() {
        let fixture = Fixture::new();
        let [a, b] = &fixture.labs;
        fixture.machine().enter(a).unwrap();
        let path = fixture.directory.path().join("run/machine.json");
        let mut record: Record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record.boot = "another".into();
        fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(fixture.number(a), None);
        fixture.machine().enter(b).unwrap();
        assert!(fixture.number(b).is_some());
    }

    #[test]
    fn a_lab_whose_directory_was_removed_by_hand_holds_no_number() {
        let fixture = Fixture::new();
        let [a, b] = &fixture.labs;
        let number = fixture.machine().enter(a).unwrap();
        fs::remove_dir(a).unwrap();
        assert_eq!(fixture.machine().enter(b).unwrap(), number);
    }
}
