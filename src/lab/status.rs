//! What is worth showing of labs, for tables and for programs.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::cgroup::Groups;
use super::process::Process;
use super::state::{Host, Lock, State};
use super::{Lab, Link, Name, Places};
use crate::error::Result;

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
    /// `up` or `down` is at work.
    Incomplete,
    /// Nobody uses it any more: the machine was rebooted, the process that it was
    /// for is gone, `up` or `down` was interrupted, or none of its hosts runs any
    /// more and nobody switched them off.
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
    /// The private key that lets in.
    pub identity_file: PathBuf,
    /// The hosts' keys.
    pub known_hosts: PathBuf,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
}

impl Lab {
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
                // Before its state is written only the lock tells whether somebody is at work.
                condition: match Lock::take(&directory) {
                    Ok(_) => Condition::Stale,
                    Err(_) => Condition::Incomplete,
                },
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
            let at_work = self.state.maker.is_some_and(Process::alive);
            return Ok(if at_work {
                Condition::Incomplete
            } else {
                Condition::Stale
            });
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
}
