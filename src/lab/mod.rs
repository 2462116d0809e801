//! Throwaway hosts on this machine, for trying chasi and for its tests.
//!
//! A lab is a few Debian hosts, systemd-nspawn containers on a bridge, that can be
//! reached over SSH like any others, and crashed, switched off and cut off as no
//! others can. `docs/lab.md` is the user's page.
//!
//! Invariants:
//! - Nothing is made before it is written down where `down` finds it: the number in
//!   the machine's record (`machine`), from which all names follow, then the lab's
//!   own state (`state`).
//! - Everything that a host runs is in its control groups (`cgroup`), so ending a
//!   host never depends on remembered process ids.
//! - `down` may be interrupted and repeated at any point, and an `up` that fails or
//!   is interrupted does what `down` does.

mod cgroup;
mod clusterfile;
mod hosts;
mod key;
mod link;
mod machine;
mod network;
mod nspawn;
mod process;
mod state;
mod status;
mod tree;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

pub use clusterfile::Clusterfile;
pub use link::{Link, Loss, Mtu, Rate};
pub use state::{MOST_HOSTS, Name, Places};
pub use status::{Condition, HostStatus, LabStatus, Power};
pub use tree::ADMIN_PASSWORD;

use cgroup::Groups;
use key::Pair;
use machine::Machine;
use process::Process;
use state::{Host, Lock, Number, State};

/// A host's key in its directory.
const HOST_KEY: &str = "ssh_host_ed25519_key";

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The lab's name.
    pub name: Name,
    /// How many hosts, 1 to [`MOST_HOSTS`].
    pub hosts: u8,
    /// How many interfaces each of them has, 1 or 2.
    pub nics: u8,
    /// A process: once it is gone, the lab counts as stale.
    pub owner: Option<u32>,
    /// Where Debian's packages come from, if not from Debian.
    pub mirror: Option<String>,
    /// How long the hosts may take to boot.
    pub timeout: Duration,
}

/// A lab. Changes hold its lock.
pub struct Lab {
    places: Places,
    directory: PathBuf,
    state: State,
    groups: Groups,
    lock: Option<Lock>,
}

impl Lab {
    /// Makes a lab and waits until every host can be reached. Needs root.
    pub fn up(context: &Context, places: &Places, request: &Request) -> Result<Lab> {
        require_root()?;
        nspawn::require(&[
            ("systemd-nspawn", "systemd-container"),
            ("ip", "iproute2"),
            ("tc", "iproute2"),
            ("nsenter", "util-linux"),
            ("setsid", "util-linux"),
            ("setpriv", "util-linux"),
        ])?;
        let groups = Groups::detect()?;
        let tree = tree::prepare(context, &places.cache, request.mirror.as_deref())?;
        let mut lab = Lab::enter(places, request, groups)?;
        let result = lab.build(context, request, &tree);
        match result {
            Ok(()) => Ok(lab),
            Err(error) => {
                // A program that Ctrl-C ended as well fails with another error.
                let error = context.check_cancelled().err().unwrap_or(error);
                Err(match lab.remove(context) {
                    Ok(()) => error,
                    Err(_) => error.hint(format!("chasi lab down --name {}", request.name)),
                })
            }
        }
    }

    /// Makes the directory and takes a number.
    fn enter(places: &Places, request: &Request, groups: Groups) -> Result<Lab> {
        let name = &request.name;
        let directory = places.state.join(name.as_str());
        file::create_directories(&places.state)?;
        fs::create_dir(&directory).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Failed, format!("there is a lab `{name}` already"))
                    .hint(format!("chasi lab down --name {name}"))
            }
            _ => Error::new(
                Kind::System,
                format!("cannot make `{}`", directory.display()),
            )
            .because(cause),
        })?;
        let lock = Lock::take(&directory)?;
        let number = Machine::lock(&places.run).and_then(|mut machine| machine.enter(&directory));
        let number = number.inspect_err(|_| {
            let _ = fs::remove_dir(&directory);
        })?;
        let mut state = State::new(name.clone(), state::boot_id()?, number, request.nics);
        state.owner = request.owner.and_then(Process::with_id);
        Ok(Lab {
            places: places.clone(),
            directory,
            state,
            groups,
            lock: Some(lock),
        })
    }

    fn build(&mut self, context: &Context, request: &Request, tree: &Path) -> Result<()> {
        self.state.write(&self.directory)?;
        let number = self.state.number;
        network::up(number, request.nics)?;
        let login = Pair::generate()?;
        file::write(&self.identity_file(), login.private.as_bytes(), 0o600)?;
        let public = format!("{}\n", login.public);
        file::write(
            &self.directory.join("id_ed25519.pub"),
            public.as_bytes(),
            0o644,
        )?;
        let keys: Vec<Pair> = (0..request.hosts)
            .map(|_| Pair::generate())
            .collect::<Result<_>>()?;
        self.state.hosts = (1u8..)
            .zip(&keys)
            .map(|(index, key)| Host {
                name: format!("node-{index}"),
                index,
                process: None,
                fingerprint: key.fingerprint.clone(),
                links: vec![Link::default(); usize::from(request.nics)],
            })
            .collect();
        let known_hosts: String = (self.state.hosts.iter().zip(&keys))
            .flat_map(|(host, key)| addresses(number, host).map(|address| (address, &key.public)))
            .map(|(address, key)| format!("{address} {key}\n"))
            .collect();
        file::write(&self.known_hosts(), known_hosts.as_bytes(), 0o644)?;
        self.state.write(&self.directory)?;
        let disk = |host: &Host, key: &Pair| -> Result<()> {
            context.check_cancelled()?;
            let directory = self.host_directory(host);
            file::create_directories(&directory)?;
            file::write(&directory.join(HOST_KEY), key.private.as_bytes(), 0o600)?;
            let login = &login.public;
            let identity = tree::Identity {
                number,
                host,
                host_key: key,
                login,
            };
            tree::make_disk(tree, &directory, &identity)
        };
        parallel(self.state.hosts.iter().zip(&keys), |(host, key)| {
            disk(host, key)
        })?;
        let names: Vec<_> = self
            .state
            .hosts
            .iter()
            .map(|host| host.name.clone())
            .collect();
        self.boot(context, &names, request.timeout)?;
        self.state.complete = true;
        self.state.write(&self.directory)
    }

    /// Opens a lab, for looking at it or running something on its hosts.
    pub fn open(places: &Places, name: &Name) -> Result<Lab> {
        let directory = places.state.join(name.as_str());
        let state = State::read(&directory)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no lab `{name}`"))
                .hint("`chasi lab list` shows what there is, `chasi lab up` makes one.")
        })?;
        Ok(Lab {
            places: places.clone(),
            directory,
            state,
            groups: Groups::detect()?,
            lock: None,
        })
    }

    /// Opens a lab for changing it. Needs root.
    pub fn open_locked(places: &Places, name: &Name) -> Result<Lab> {
        require_root()?;
        // Once without the lock, for the better error.
        let lab = Lab::open(places, name)?;
        let lock = Lock::take(&lab.directory)?;
        Ok(Lab {
            lock: Some(lock),
            ..Lab::open(places, name)?
        })
    }

    /// Removes a lab and all that was made for it. No such lab is fine: then
    /// `false`. Needs root.
    pub fn down(context: &Context, places: &Places, name: &Name) -> Result<bool> {
        require_root()?;
        let directory = places.state.join(name.as_str());
        if !directory.exists() {
            if machine::number(&places.run, &directory)?.is_none() {
                return Ok(false);
            }
            // Somebody removed it by hand, and everything else still stands.
            file::create_directories(&directory)?;
        }
        let lock = Lock::take(&directory)?;
        let read = State::read(&directory).unwrap_or_else(|error| {
            // What can be removed does not depend on it.
            context.warn(error.message());
            None
        });
        let state = match read {
            Some(state) => state,
            // Interrupted before its state was written: only a number can be there.
            None => {
                let boot = state::boot_id()?;
                let number = machine::number(&places.run, &directory)?;
                State::new(name.clone(), boot, number.unwrap_or(Number(0)), 0)
            }
        };
        let groups = Groups::detect()?;
        let mut lab = Lab {
            places: places.clone(),
            directory,
            state,
            groups,
            lock: Some(lock),
        };
        lab.remove(context)?;
        Ok(true)
    }

    fn remove(&mut self, context: &Context) -> Result<()> {
        let number = self.state.number;
        // Of another boot nothing is left, and the number may be another lab's by now.
        let ours = machine::number(&self.places.run, &self.directory)? == Some(number);
        self.state.complete = false;
        self.state.maker = Process::with_id(std::process::id());
        if self.directory.join("lab.json").exists() {
            self.state.write(&self.directory)?;
        }
        if ours {
            context.step_blocking(
                None,
                format!("stop the hosts of lab {}", self.state.name),
                || {
                    parallel(&self.state.hosts, |host| {
                        nspawn::kill(&self.groups, number, host, &self.host_directory(host))
                    })?;
                    self.groups.remove_lab(number)?;
                    network::down(number)
                },
            )?;
        }
        tree::remove(&self.directory.join("hosts"))?;
        Machine::lock(&self.places.run)?.leave(&self.directory)?;
        tree::remove(&self.directory)?;
        // The directories of all labs, and of chasi, go with the last one.
        if fs::remove_dir(&self.places.state).is_ok() {
            let _ = self.places.state.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    /// The names of all labs, in order.
    pub fn names(places: &Places) -> Result<Vec<Name>> {
        let entries = match fs::read_dir(&places.state) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).or_err(Kind::System, || {
                    format!("cannot read `{}`", places.state.display())
                });
            }
        };
        let mut names: Vec<Name> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    fn same_boot(&self) -> Result<bool> {
        Ok(state::boot_id()? == self.state.boot)
    }

    /// The private key that lets in as `root`, `admin` or `ops`.
    pub fn identity_file(&self) -> PathBuf {
        self.directory.join("id_ed25519")
    }

    /// A known_hosts file with the hosts' keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    fn host_directory(&self, host: &Host) -> PathBuf {
        self.directory.join("hosts").join(&host.name)
    }

    /// Process 1 of a host, if it runs.
    fn init(&self, host: &Host) -> Option<Process> {
        if !self.same_boot().unwrap_or(false) {
            return None;
        }
        nspawn::init(host.process?)
    }
}

/// All addresses of a host.
fn addresses(number: Number, host: &Host) -> impl Iterator<Item = IpAddr> {
    let last = host.last();
    (0..host.links.len() as u8)
        .flat_map(move |nic| [number.ipv4(nic, last).into(), number.ipv6(nic, last).into()])
}

/// Does something for each item at once; the first error counts.
fn parallel<T: Send>(
    items: impl IntoIterator<Item = T>,
    action: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let action = &action;
        let running: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(move || action(item)))
            .collect();
        let results: Vec<_> = running.into_iter().map(join).collect();
        results.into_iter().collect()
    })
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a thread panicked")))
}

fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "a lab needs root").hint("Put `sudo` before the command."))
}
