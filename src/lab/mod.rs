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
mod key;
mod link;
mod machine;
mod network;
mod nspawn;
mod process;
mod state;
mod tree;

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

pub use clusterfile::Clusterfile;
pub use link::{Link, Loss, Mtu, Rate};
pub use state::{MOST_HOSTS, Name, Places};
pub use tree::ADMIN_PASSWORD;

use cgroup::Groups;
use key::Pair;
use machine::Machine;
use process::Process;
use state::{Host, Lock, Number, State};

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

/// What happens to a running host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It runs.
    On,
    /// It does not.
    Off,
}

/// What is worth showing of a host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its addresses in the first network: where SSH answers.
    pub addresses: Vec<IpAddr>,
    /// Its addresses in the second network, if it has one.
    pub second_addresses: Vec<IpAddr>,
    /// Whether it runs.
    pub power: Power,
    /// Its process 1, as the machine numbers it.
    pub init: Option<u32>,
    /// The fingerprint of its SSH host key.
    pub host_key: String,
    /// The condition of each of its links.
    pub links: Vec<Link>,
    /// Where its disk is on the machine.
    pub root: PathBuf,
}

/// How it is with a lab.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It is there.
    Up,
    /// `up` or `down` is at work, or was interrupted.
    Incomplete,
    /// The machine was rebooted, the process that it was for is gone, or none of
    /// its hosts runs any more and nobody switched them off.
    Stale,
}

/// What is worth showing of a lab.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// Its name.
    pub name: Name,
    /// How it is.
    pub condition: Condition,
    /// The user to log in as, among others.
    pub user: String,
    /// The private key that lets in.
    pub identity_file: PathBuf,
    /// The hosts' keys.
    pub known_hosts: PathBuf,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
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
        ])?;
        let groups = Groups::detect()?;
        let tree = tree::prepare(context, &places.cache, request.mirror.as_deref())?;
        let mut lab = Lab::enter(places, request, groups)?;
        let result = lab.build(context, request, &tree);
        match result {
            Ok(()) => Ok(lab),
            Err(error) => Err(match lab.remove(context) {
                Ok(()) => error,
                Err(_) => error.hint(format!("chasi lab down --name {}", request.name)),
            }),
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
        let mut known_hosts = String::new();
        for (index, key) in (1u8..).zip(&keys) {
            let host = Host {
                name: format!("node-{index}"),
                index,
                process: None,
                fingerprint: key.fingerprint.clone(),
                links: vec![Link::default(); usize::from(request.nics)],
            };
            for address in addresses(number, &host) {
                known_hosts.push_str(&format!("{address} {}\n", key.public));
            }
            self.state.hosts.push(host);
        }
        file::write(&self.known_hosts(), known_hosts.as_bytes(), 0o644)?;
        self.state.write(&self.directory)?;
        let prepare = |host: &Host, key: &Pair| -> Result<()> {
            let root = self.host_directory(host).join("root");
            file::create_directories(&self.host_directory(host))?;
            context.check_cancelled()?;
            tree::copy(tree, &root)?;
            tree::Identity {
                number,
                host,
                host_key: key,
                login: &login.public,
            }
            .write(&root)
        };
        parallel(self.state.hosts.iter().zip(&keys), |(host, key)| {
            prepare(host, key)
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
            return Ok(false);
        }
        let lock = Lock::take(&directory)?;
        let state = match State::read(&directory)? {
            Some(state) => state,
            // Interrupted before its state was written: only a number can be there.
            None => {
                let boot = state::boot_id()?;
                let number = Machine::lock(&places.run)?.number(&directory);
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
        let machine = Machine::lock(&self.places.run)?;
        // Of another boot nothing is left, and the number may be another lab's by now.
        let ours = machine.number(&self.directory) == Some(number);
        drop(machine);
        self.state.complete = false;
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

    /// What is worth showing of a lab; `None` when it was removed meanwhile.
    pub fn status(places: &Places, name: &Name) -> Result<Option<LabStatus>> {
        let directory = places.state.join(name.as_str());
        if !directory.exists() {
            return Ok(None);
        }
        match State::read(&directory)? {
            Some(state) => {
                let groups = Groups::detect()?;
                let lab = Lab {
                    places: places.clone(),
                    directory,
                    state,
                    groups,
                    lock: None,
                };
                lab.describe().map(Some)
            }
            None => Ok(Some(LabStatus {
                name: name.clone(),
                condition: Condition::Incomplete,
                user: "root".into(),
                identity_file: directory.join("id_ed25519"),
                known_hosts: directory.join("known_hosts"),
                hosts: Vec::new(),
            })),
        }
    }

    /// What is worth showing of this lab.
    pub fn describe(&self) -> Result<LabStatus> {
        let hosts: Vec<_> = self
            .state
            .hosts
            .iter()
            .map(|host| self.host_status(host))
            .collect();
        Ok(LabStatus {
            name: self.state.name.clone(),
            condition: self.condition()?,
            user: "root".into(),
            identity_file: self.identity_file(),
            known_hosts: self.known_hosts(),
            hosts,
        })
    }

    fn host_status(&self, host: &Host) -> HostStatus {
        let init = self.init(host);
        let of_nic = |nic| {
            let (number, last) = (self.state.number, host.last());
            vec![number.ipv4(nic, last).into(), number.ipv6(nic, last).into()]
        };
        HostStatus {
            name: host.name.clone(),
            addresses: of_nic(0),
            second_addresses: if host.links.len() > 1 {
                of_nic(1)
            } else {
                Vec::new()
            },
            power: if init.is_some() {
                Power::On
            } else {
                Power::Off
            },
            init: init.map(|process| process.pid),
            host_key: host.fingerprint.clone(),
            links: host.links.clone(),
            root: self.host_directory(host).join("root"),
        }
    }

    fn condition(&self) -> Result<Condition> {
        if !self.same_boot()? || self.state.owner.is_some_and(|owner| !owner.alive()) {
            return Ok(Condition::Stale);
        }
        if !self.state.complete {
            return Ok(Condition::Incomplete);
        }
        // A host that somebody switched off has no process on record.
        let recorded: Vec<_> = self
            .state
            .hosts
            .iter()
            .filter_map(|host| host.process)
            .collect();
        let abandoned = !recorded.is_empty() && !recorded.iter().any(|process| process.alive());
        Ok(if abandoned {
            Condition::Stale
        } else {
            Condition::Up
        })
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

    /// A command to run on a host as root, without SSH.
    pub fn command(&self, host: &str, arguments: &[OsString]) -> Result<std::process::Command> {
        require_root()?;
        let host = self.state.host(host)?;
        let init = self.init(host).ok_or_else(|| self.is_off(host))?;
        nspawn::command(&self.groups, init, arguments)
    }

    /// The OpenSSH client's command line for a host.
    pub fn ssh(&self, host: &str, user: &str) -> Result<std::process::Command> {
        let host = self.state.host(host)?;
        self.init(host).ok_or_else(|| self.is_off(host))?;
        nspawn::require(&[("ssh", "openssh-client")])?;
        let option = |name: &str, path: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(path);
            option
        };
        let mut ssh = std::process::Command::new("ssh");
        // The user's own configuration is about other hosts.
        ssh.args([
            "-F",
            "none",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .arg("-o")
        .arg(option("IdentityFile", &self.identity_file()))
        .arg("-o")
        .arg(option("UserKnownHostsFile", &self.known_hosts()))
        .arg(format!("{user}@{}", self.state.number.ipv4(0, host.last())));
        Ok(ssh)
    }

    fn is_off(&self, host: &Host) -> Error {
        Error::new(Kind::Unreachable, "the host is off")
            .on_host(&host.name)
            .hint(format!(
                "chasi lab start {} --name {}",
                host.name, self.state.name
            ))
    }

    /// Crashes hosts.
    pub fn kill(&mut self, hosts: &[String]) -> Result<()> {
        self.change(hosts, |lab, host| {
            nspawn::kill(
                &lab.groups,
                lab.state.number,
                host,
                &lab.host_directory(host),
            )?;
            Ok(None)
        })
    }

    /// Powers hosts off cleanly.
    pub fn power_off(
        &mut self,
        context: &Context,
        hosts: &[String],
        timeout: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        self.change(hosts, |lab, host| {
            nspawn::power_off(context, &lab.groups, lab.state.number, host, deadline)?;
            Ok(None)
        })
    }

    /// Boots hosts that are off, with their disks as they are, and waits until
    /// they can be reached. Those that run are left alone.
    pub fn start(&mut self, context: &Context, hosts: &[String], timeout: Duration) -> Result<()> {
        if !self.same_boot()? {
            return Err(Error::new(
                Kind::Failed,
                format!(
                    "lab `{}` did not survive the machine's reboot",
                    self.state.name
                ),
            )
            .hint(format!("chasi lab down --name {}", self.state.name)));
        }
        let mut off = Vec::new();
        for name in hosts {
            if self.init(self.state.host(name)?).is_none() {
                off.push(name.clone());
            }
        }
        self.boot(context, &off, timeout)
    }

    /// Replaces the disks of hosts by fresh ones and boots them. Names,
    /// addresses and keys stay.
    pub fn reset(&mut self, context: &Context, hosts: &[String], timeout: Duration) -> Result<()> {
        let tree = tree::prepare(context, &self.places.cache, None)?;
        let public = self.directory.join("id_ed25519.pub");
        let login = fs::read_to_string(&public).or_err(Kind::System, || {
            format!("cannot read `{}`", public.display())
        })?;
        self.kill(hosts)?;
        let number = self.state.number;
        let renew = |host: &Host| -> Result<()> {
            let root = self.host_directory(host).join("root");
            let host_key = Pair::read(&root.join("etc/ssh/ssh_host_ed25519_key"))?;
            tree::copy(&tree, &root)?;
            tree::Identity {
                number,
                host,
                host_key: &host_key,
                login: login.trim_end(),
            }
            .write(&root)
        };
        let chosen: Vec<_> = hosts
            .iter()
            .map(|name| self.state.host(name))
            .collect::<Result<_>>()?;
        parallel(chosen, renew)?;
        self.boot(context, hosts, timeout)
    }

    /// Boots hosts that are off, all at once, and waits for them.
    fn boot(&mut self, context: &Context, names: &[String], timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        network::apply_losses(&self.state)?;
        self.change(names, |lab, host| {
            context.check_cancelled()?;
            let directory = lab.host_directory(host);
            nspawn::start(&lab.groups, lab.state.number, host, &directory).map(Some)
        })?;
        let hosts: Vec<_> = names
            .iter()
            .map(|name| self.state.host(name))
            .collect::<Result<_>>()?;
        parallel(hosts, |host| {
            let Some(supervisor) = host.process.filter(|_| !host.links[0].cut) else {
                return Ok(());
            };
            let address = SocketAddr::new(self.state.number.ipv4(0, host.last()).into(), 22);
            let console = self.host_directory(host).join("console.log");
            context.step_blocking(Some(&host.name), "boot", || {
                nspawn::wait_for_ssh(context, address, supervisor, &console, deadline)
                    .map_err(|error| error.on_host(&host.name))
            })
        })
    }

    /// Changes the condition of a host's links: the one with index `nic`, or all.
    pub fn set_link(
        &mut self,
        host: &str,
        nic: Option<u8>,
        change: impl Fn(&mut Link),
    ) -> Result<()> {
        self.state.host(host)?;
        if let Some(host) = self
            .state
            .hosts
            .iter_mut()
            .find(|candidate| candidate.name == host)
        {
            let count = host.links.len();
            match nic.map(usize::from) {
                None => host.links.iter_mut().for_each(change),
                Some(nic) => change(host.links.get_mut(nic).ok_or_else(|| {
                    Error::new(Kind::Usage, format!("there is no interface {}", nic + 1))
                        .on_host(&host.name)
                        .hint(format!(
                            "It has {count}; `chasi lab up --nics 2` makes two."
                        ))
                })?),
            }
        }
        self.state.write(&self.directory)?;
        network::apply_losses(&self.state)?;
        let host = self.state.host(host)?;
        match self.init(host) {
            Some(init) => network::apply(self.state.number, host, init)
                .map_err(|error| error.on_host(&host.name)),
            // It comes true when the host starts.
            None => Ok(()),
        }
    }

    /// Does something to several hosts at once and records their processes, also
    /// when it failed for some.
    fn change(
        &mut self,
        names: &[String],
        action: impl Fn(&Lab, &Host) -> Result<Option<Process>> + Sync,
    ) -> Result<()> {
        debug_assert!(self.lock.is_some());
        let hosts: Vec<_> = names
            .iter()
            .map(|name| self.state.host(name))
            .collect::<Result<_>>()?;
        let results: Vec<_> = std::thread::scope(|scope| {
            let lab = &*self;
            let action = &action;
            let running: Vec<_> = hosts
                .iter()
                .map(|host| (host.index, scope.spawn(move || action(lab, host))))
                .collect();
            running
                .into_iter()
                .map(|(index, thread)| (index, join(thread)))
                .collect()
        });
        let mut outcome = Ok(());
        for (index, result) in results {
            let host = self.state.hosts.iter_mut().find(|host| host.index == index);
            match (result, host) {
                (Ok(process), Some(host)) => host.process = process,
                (Err(error), _) if outcome.is_ok() => outcome = Err(error),
                _ => {}
            }
        }
        self.state.write(&self.directory)?;
        outcome
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
