//! What can be done to the hosts of a lab once it is up.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::key::Pair;
use super::process::Process;
use super::state::Host;
use super::{HOST_KEY, Lab, Link, join, network, nspawn, parallel, require_root, tree};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

impl Lab {
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
        let renew = |host: &Host| -> Result<()> {
            let directory = self.host_directory(host);
            let host_key = Pair::read(&directory.join(HOST_KEY))?;
            let identity = tree::Identity {
                number: self.state.number,
                host,
                host_key: &host_key,
                login: login.trim_end(),
            };
            tree::make_disk(&tree, &directory, &identity).map_err(|error| error.on_host(&host.name))
        };
        let chosen: Vec<_> = hosts
            .iter()
            .map(|name| self.state.host(name))
            .collect::<Result<_>>()?;
        parallel(chosen, renew)?;
        self.boot(context, hosts, timeout)
    }

    /// Boots hosts that are off, all at once, and waits for them.
    pub(super) fn boot(
        &mut self,
        context: &Context,
        names: &[String],
        timeout: Duration,
    ) -> Result<()> {
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
            let Some(supervisor) = host.process else {
                return Ok(());
            };
            let uncut = host.links.first().filter(|link| !link.cut);
            let address =
                uncut.map(|_| SocketAddr::new(self.state.number.ipv4(0, host.last()).into(), 22));
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
