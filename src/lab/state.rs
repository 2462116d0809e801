//! What is known of a lab, kept in its directory.
//!
//! ```text
//! STATE/NAME/
//!   lab.json         this module's `State`; the last file to go
//!   id_ed25519       private key that every host lets in (and id_ed25519.pub)
//!   known_hosts      the hosts' keys
//!   hosts/HOST/root  the host's disk; root.new while it is made
//!   hosts/HOST/ssh_host_ed25519_key   its key, for a fresh disk
//!   hosts/HOST/console.log            what its process 1 said
//! ```
//! The directory itself is the lock: who changes a lab holds flock on it.
//! `lab.json` is written before what it describes is made, so that `down` can
//! remove whatever a crash left.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::link::Link;
use super::process::Process;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The version of `lab.json` that is written and read.
const VERSION: u32 = 1;

/// `lab.json` is a few kilobytes; more is not ours.
const LARGEST: u64 = 1 << 20;

/// The most hosts that a lab may have. Their addresses end in 11 to 42.
pub const MOST_HOSTS: u8 = 32;

/// Where a lab keeps things. The command line finds out.
#[derive(Clone, Debug)]
pub struct Places {
    /// A directory for the labs' own directories:
    /// `$XDG_STATE_HOME/chasi/lab`.
    pub state: PathBuf,
    /// Root trees, made once: `$XDG_CACHE_HOME/chasi/lab`.
    pub cache: PathBuf,
    /// What belongs to the machine and not to one lab or user:
    /// `/run/chasi/lab`.
    pub run: PathBuf,
}

/// The name of a lab.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase());
        let goes_on_well = text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if starts_well && goes_on_well && !text.ends_with('-') && text.len() <= 40 {
            return Ok(Name(text.to_owned()));
        }
        Err(
            Error::new(Kind::Usage, format!("`{text}` is not a name for a lab")).hint(
                "Use at most 40 lower-case letters, digits and hyphens, and begin with a letter.",
            ),
        )
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number that a lab has on its machine, and from which the names and
/// addresses of everything follow that it makes there: the networks
/// `10.NUMBER.0.0/24` and `fd63:6861:7369:NUMBER::/64` (`chasi` in ASCII), the
/// bridge, the control groups.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Number(pub u8);

impl Number {
    /// Numbers that may be given, in the order in which they are tried. Left
    /// out: 10.96.0.0/12 and 10.244.0.0/16, the usual networks of Services and
    /// pods, and what lies near the ends, which people like to use themselves.
    pub fn candidates() -> impl Iterator<Item = Number> {
        (64..=95).chain(112..=223).map(Number)
    }

    /// The bridge of a network; `nic` counts from 0.
    pub fn bridge(self, nic: u8) -> String {
        match nic {
            0 => format!("chasi{}", self.0),
            nic => format!("chasi{}-{nic}", self.0),
        }
    }

    /// The name of everything else that belongs to the lab: control group,
    /// firewall table.
    pub fn label(self) -> String {
        format!("chasi-lab-{}", self.0)
    }

    /// The address of the machine (`last` 1) or a host in a network.
    pub fn ipv4(self, nic: u8, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, nic, last)
    }

    /// As [`Number::ipv4`]. The digits of the fourth group are the decimal ones
    /// of the number, for people's eyes.
    pub fn ipv6(self, nic: u8, last: u8) -> Ipv6Addr {
        let decimal = |n: u8| u16::from_str_radix(&n.to_string(), 16).unwrap_or_default();
        Ipv6Addr::new(
            0xfd63,
            0x6861,
            0x7369,
            decimal(self.0) | u16::from(nic) << 12,
            0,
            0,
            0,
            decimal(last),
        )
    }
}

/// A host of a lab.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its host name.
    pub name: String,
    /// Its number within the lab, from 1.
    pub index: u8,
    /// The systemd-nspawn process of its last start.
    pub process: Option<Process>,
    /// The fingerprint of its SSH host key, `SHA256:…`.
    pub fingerprint: String,
    /// The condition of its network links, first interface first.
    pub links: Vec<Link>,
}

impl Host {
    /// The last part of its addresses.
    pub fn last(&self) -> u8 {
        self.index.saturating_add(10)
    }

    /// What systemd-nspawn calls it. Short, because its network port on the
    /// machine is called `vb-` and this, and 15 characters are the limit.
    pub fn machine(&self, number: Number) -> String {
        format!("chasi{}-{}", number.0, self.index)
    }

    /// The port on the bridge of an interface; `nic` counts from 0.
    pub fn port(&self, number: Number, nic: u8) -> String {
        match nic {
            0 => format!("vb-{}", self.machine(number)),
            nic => format!("v{nic}-{}", self.machine(number)),
        }
    }
}

/// All that is known of a lab.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Its name.
    pub name: Name,
    /// The boot of the machine it was made in: of an earlier one nothing is left
    /// but the directory.
    pub boot: String,
    /// Its number on the machine.
    pub number: Number,
    /// How many interfaces each host has.
    pub nics: u8,
    /// The process that the lab is for; when it is gone, the lab is stale.
    pub owner: Option<Process>,
    /// The process that makes or removes the lab just now, or did so last.
    #[serde(default)]
    pub maker: Option<Process>,
    /// Whether `up` came to its end, and `down` has not begun.
    pub complete: bool,
    /// The hosts, by index.
    pub hosts: Vec<Host>,
}

impl State {
    /// The state of a lab of which nothing has been made yet.
    pub fn new(name: Name, boot: String, number: Number, nics: u8) -> Self {
        State {
            version: VERSION,
            name,
            boot,
            number,
            nics,
            owner: None,
            maker: Process::with_id(std::process::id()),
            complete: false,
            hosts: Vec::new(),
        }
    }

    /// Reads the state in a lab's directory; `None` when there is none.
    pub fn read(directory: &Path) -> Result<Option<State>> {
        let path = directory.join("lab.json");
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).or_err(Kind::System, || unreadable(&path)),
        };
        if size > LARGEST {
            return Err(Error::new(Kind::Input, unreadable(&path)).because("it is too large"));
        }
        let text = fs::read(&path).or_err(Kind::System, || unreadable(&path))?;
        let state: State =
            serde_json::from_slice(&text).or_err(Kind::Input, || unreadable(&path))?;
        if state.version != VERSION {
            return Err(Error::new(Kind::Input, unreadable(&path)).because(format!(
                "it has version {}, and this chasi knows version {VERSION}",
                state.version
            )));
        }
        Ok(Some(state))
    }

    /// Writes the state durably.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)
            .or_err(Kind::Failed, || "cannot write the lab's state as JSON")?;
        text.push(b'\n');
        file::write(&directory.join("lab.json"), &text, 0o600)
    }

    /// The host with this name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
                Error::new(
                    Kind::NotFound,
                    format!("there is no host `{name}` in lab `{}`", self.name),
                )
                .hint(format!("Its hosts are {}.", names.join(", ")))
            })
    }
}

fn unreadable(path: &Path) -> String {
    format!("cannot read `{}`", path.display())
}

/// The lock on a lab, held until dropped.
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Takes the lock of a lab that exists; [`Kind::Locked`] when another
    /// process changes it just now.
    pub fn take(directory: &Path) -> Result<Lock> {
        let open = File::open(directory).or_err(Kind::NotFound, || {
            format!("there is no lab in `{}`", directory.display())
        })?;
        match open.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Kind::Locked,
                    format!(
                        "another process is changing the lab in `{}`",
                        directory.display()
                    ),
                )
                .hint("Wait until it has ended, or stop it with Ctrl-C."));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).or_err(Kind::System, || {
                    format!("cannot lock `{}`", directory.display())
                });
            }
        }
        // Between open and lock a `down` may have removed it, and an `up` made a new one.
        let same = || -> std::io::Result<bool> {
            let (ours, theirs) = (open.metadata()?, fs::metadata(directory)?);
            Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
        };
        if !same().unwrap_or(false) {
            return Err(Error::new(
                Kind::NotFound,
                format!("the lab in `{}` was just removed", directory.display()),
            ));
        }
        Ok(Lock { _directory: open })
    }
}

/// The running boot of the machine.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path)
        .or_err(Kind::System, || format!("cannot read `{path}`"))?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::new("a".parse().unwrap(), "boot".into(), Number(77), 1);
        state.hosts.push(Host {
            name: "node-1".into(),
            index: 1,
            process: Some(Process { pid: 4, started: 5 }),
            fingerprint: "SHA256:x".into(),
            links: vec![Link::default()],
        });
        state
    }

    #[test]
    fn what_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        assert!(State::read(directory.path()).unwrap().is_none());
        state().write(directory.path()).unwrap();
        let read = State::read(directory.path()).unwrap().unwrap();
        assert_eq!(
            read.host("node-1").unwrap().process,
            Some(Process { pid: 4, started: 5 })
        );
        let error = read.host("node-2").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.hints(), ["Its hosts are node-1."]);
    }

    #[test]
    fn a_state_of_another_version_or_shape_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut other = state();
        other.version = 2;
        other.write(directory.path()).unwrap();
        let error = State::read(directory.path()).unwrap_err();
        assert!(
            error
                .causes()
                .any(|cause| cause.to_string().contains("version 2"))
        );
        fs::write(directory.path().join("lab.json"), "{\"version\":1").unwrap();
        assert_eq!(
            State::read(directory.path()).unwrap_err().kind(),
            Kind::Input
        );
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in [
            "",
            "..",
            "a/b",
            "-a",
            "a-",
            "A",
            "1a",
            "a b",
            &"a".repeat(41),
        ] {
            assert_eq!(
                bad.parse::<Name>().unwrap_err().kind(),
                Kind::Usage,
                "{bad}"
            );
        }
        assert_eq!("a-1".parse::<Name>().unwrap().as_str(), "a-1");
    }

    #[test]
    fn interface_names_fit_the_kernels_limit() {
        let host = Host {
            index: MOST_HOSTS,
            ..state().hosts.remove(0)
        };
        for number in Number::candidates() {
            for nic in 0..2 {
                assert!(host.port(number, nic).len() <= 15);
                assert!(number.bridge(nic).len() <= 15);
            }
        }
    }

    #[test]
    fn addresses_show_the_number_in_decimal() {
        assert_eq!(Number(77).ipv4(1, 12).to_string(), "10.77.1.12");
        assert_eq!(Number(77).ipv6(0, 12).to_string(), "fd63:6861:7369:77::12");
        assert_eq!(
            Number(77).ipv6(1, 12).to_string(),
            "fd63:6861:7369:1077::12"
        );
    }

    #[test]
    fn two_do_not_hold_one_lock() {
        let directory = tempfile::tempdir().unwrap();
        let held = Lock::take(directory.path()).unwrap();
        assert_eq!(
            Lock::take(directory.path()).err().unwrap().kind(),
            Kind::Locked
        );
        drop(held);
        Lock::take(directory.path()).unwrap();
        let gone = directory.path().join("gone");
        assert_eq!(Lock::take(&gone).err().unwrap().kind(), Kind::NotFound);
    }
}
