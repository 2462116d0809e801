//! A place for backups, as it is typed: a directory, or `ssh://USER@HOST[:PORT]/DIRECTORY`.

use std::path::{Path, PathBuf};

use super::super::cluster::user;
use super::super::config;
use crate::cluster::backup::Place;
use crate::error::{Error, Kind, Result};
use crate::remote::{Credential, DEFAULT_PORT, HostKeyPolicy, Sudo, Target};
use crate::spec::name::UserName;
use crate::spec::network::Address;

const SCHEME: &str = "ssh://";

/// How to get into the host of an `ssh://` place.
#[derive(Clone, Debug, clap::Args)]
pub struct Way {
    /// A private key to log in with, where the place is on another host; your usual
    /// keys and your ssh-agent when none is named.
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// The file that lists the key of that host [default: `~/.ssh/known_hosts` and
    /// `/etc/ssh/ssh_known_hosts`]
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
}

impl Way {
    /// The place that was typed.
    pub fn place(&self, typed: &str) -> Result<Place> {
        let Some(rest) = typed.strip_prefix(SCHEME) else {
            return Ok(Place::Directory(PathBuf::from(typed)));
        };
        let invalid = |cause: String| {
            Error::new(Kind::Usage, format!("`{typed}` is no place"))
                .because(cause)
                .hint("a place on another host is `ssh://USER@HOST[:PORT]/DIRECTORY`")
        };
        let (host, directory) = rest
            .split_once('/')
            .ok_or_else(|| invalid("there is no directory in it".into()))?;
        let (user_name, host) = match host.rsplit_once('@') {
            Some((user, host)) => (user.to_owned(), host),
            None => (user(), host),
        };
        let (address, port) = split_port(host).map_err(invalid)?;
        let said = |cause: crate::spec::Invalid| invalid(cause.to_string());
        let user_name: UserName = user_name.parse().map_err(said)?;
        let address: Address = address.parse().map_err(said)?;
        if directory.chars().any(char::is_control) {
            return Err(invalid("the directory has a control character".into()));
        }
        let target = Target {
            name: address.to_string(),
            address: address.to_string(),
            port,
            user: user_name.to_string(),
            credentials: self.credentials(),
            jump: None,
            host_key: HostKeyPolicy::KnownHosts(self.known_hosts()),
            sudo: Sudo::Never,
        };
        let directory = format!("/{}", directory.trim_end_matches('/'));
        Ok(Place::Remote(Box::new(target), directory))
    }

    /// The place and the name of a file that was typed.
    pub fn file(&self, typed: &str) -> Result<(Place, String)> {
        if typed.starts_with(SCHEME) {
            let (directory, name) = typed.rsplit_once('/').unwrap_or((typed, ""));
            return match name {
                "" => Err(Error::new(Kind::Usage, format!("`{typed}` names no file"))
                    .hint("`chasi backup list PLACE` shows which backups there are")),
                name => Ok((self.place(&format!("{directory}/"))?, name.to_owned())),
            };
        }
        let path = Path::new(typed);
        let name = path.file_name().filter(|_| path.is_file()).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no file `{typed}`"))
                .hint("`chasi backup list DIRECTORY` shows which backups there are")
        })?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = name.to_string_lossy().into_owned();
        Ok((Place::Directory(directory.to_owned()), name))
    }

    fn credentials(&self) -> Vec<Credential> {
        let agent = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
        let named = !self.ssh_key.is_empty();
        let files = match named {
            true => self.ssh_key.clone(),
            false => ["id_ed25519", "id_ecdsa", "id_rsa"]
                .iter()
                .filter_map(|name| Some(config::home()?.join(".ssh").join(name)))
                .filter(|path| path.exists())
                .collect(),
        };
        let keys = files.into_iter().map(|path| Credential::KeyFile {
            path,
            passphrase: None,
        });
        let agent = agent.filter(|_| !named).map(Credential::Agent);
        agent.into_iter().chain(keys).collect()
    }

    fn known_hosts(&self) -> Vec<PathBuf> {
        match &self.known_hosts {
            Some(path) => vec![path.clone()],
            None => config::home()
                .map(|home| home.join(".ssh/known_hosts"))
                .into_iter()
                .chain([PathBuf::from("/etc/ssh/ssh_known_hosts")])
                .collect(),
        }
    }
}

/// `10.0.0.1:22`, `[fd00::1]:22`, `host`.
fn split_port(host: &str) -> Result<(&str, u16), String> {
    let wrong = |port: &str| format!("`{port}` is no port");
    let number = |port: &str| port.parse::<u16>().map_err(|_| wrong(port));
    if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest
            .split_once(']')
            .ok_or_else(|| "a `]` is missing".to_owned())?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, number(port)?)),
            None if rest.is_empty() => Ok((address, DEFAULT_PORT)),
            None => Err(wrong(rest)),
        };
    }
    match host.split_once(':') {
        Some((address, port)) => Ok((address, number(port)?)),
        None => Ok((host, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        Way {
            ssh_key: vec!["/k".into()],
            known_hosts: Some("/h".into()),
        }
    }

    #[test]
    fn a_place_is_a_directory_or_one_on_another_host() {
        for (typed, expected) in [
            ("ssh://ops@10.0.0.1/backups/", "ops@10.0.0.1 22 /backups"),
            ("ssh://ops@box:2222/a b", "ops@box 2222 /a b"),
            ("ssh://ops@[fd00::1]:22/x", "ops@fd00::1 22 /x"),
        ] {
            let Place::Remote(target, directory) = way().place(typed).unwrap() else {
                panic!("{typed}");
            };
            let found = format!(
                "{}@{} {} {directory}",
                target.user, target.address, target.port
            );
            assert_eq!(found, expected);
        }
        assert!(matches!(
            way().place("backups").unwrap(),
            Place::Directory(_)
        ));
        for wrong in [
            "ssh://ops@10.0.0.1",
            "ssh://ops@10.0.0.1:x/y",
            "ssh://a b@h/x",
            "ssh://ops@[fd00::1/x",
        ] {
            let error = way().place(wrong).err().unwrap();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_one_of_a_place() {
        let (place, name) = way().file("ssh://ops@10.0.0.1/backups/x.tar.zst").unwrap();
        assert_eq!(name, "x.tar.zst");
        assert!(matches!(place, Place::Remote(_, directory) if directory == "/backups"));
        assert!(way().file("ssh://ops@10.0.0.1/backups/").is_err());
        let missing = way().file("/nowhere/x").err().unwrap();
        assert_eq!(missing.kind(), Kind::NotFound);
    }
}
