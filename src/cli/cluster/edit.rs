//! The list of a cluster's hosts, and its image, edited: in the text of its
//! Clusterfile, or in the arguments that were given in its place.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::super::{Shell, config};
use super::{Chosen, HostArgs, Source, arguments};
use crate::cluster::nodes::find_unlisted;
use crate::cluster::unlisted::Unlisted;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::spec::clusterfile::edit::{Edited, NewHost, edit, set_image};
use crate::spec::name::ImageName;
use crate::spec::patch::patch;
use crate::spec::{Clusterfile, Host, Invalid};

/// A cluster whose description is to change.
pub struct Edit {
    /// The cluster as it is to be.
    pub chosen: Chosen,
    /// The difference, as a unified diff; empty when there is none.
    pub patch: String,
    /// The file, and its new text.
    file: Option<(PathBuf, String)>,
}

impl Edit {
    /// Writes the change where the cluster is described: the Clusterfile, or the
    /// note of what was given in its place. The file's mode stays.
    pub fn write(&self) -> Result<()> {
        let Some((path, text)) = &self.file else {
            return self.chosen.remember();
        };
        // A link stays one.
        let path = std::fs::canonicalize(path)
            .or_err(Kind::System, || format!("cannot find `{}`", path.display()))?;
        let mode = std::fs::metadata(&path)
            .or_err(Kind::System, || {
                format!("cannot look at `{}`", path.display())
            })?
            .permissions()
            .mode();
        file::write(&path, text.as_bytes(), mode & 0o7777)
    }

    /// What is said of it, written or not.
    pub fn tell(&self, written: bool) -> String {
        let place = match &self.file {
            Some((path, _)) => format!("`{}`", path.display()),
            None => "the arguments of `chasi run`".to_owned(),
        };
        match (self.patch.is_empty(), written) {
            (true, _) => String::new(),
            (false, true) => format!("\n{place} was changed:\n{}", self.patch),
            (false, false) => format!(
                "\nThis belongs into {place}; `--write` writes it:\n{}",
                self.patch
            ),
        }
    }
}

impl Chosen {
    /// The cluster without some hosts and with new ones. A new one that is there
    /// already, at the same address, is no change.
    pub fn edited(&self, gone: &[&str], new: &[NewHost]) -> Result<Edit> {
        let hosts = &self.clusterfile.cluster.hosts;
        let is_there = |one: &&NewHost| {
            hosts.iter().any(|host| {
                host.address == one.address
                    && host.roles == one.roles
                    && one.name.as_ref().is_none_or(|name| *name == host.name)
            })
        };
        let new: Vec<NewHost> = new.iter().filter(|one| !is_there(one)).cloned().collect();
        let home = config::home();
        match &self.source {
            Source::Clusterfile(path) => self.edited_file(path, |name, text| {
                edit(name, text, home.as_deref(), gone, &new)
            }),
            Source::Arguments { image, hosts } => self.edited_arguments(image, hosts, gone, &new),
        }
    }

    /// The cluster with another image.
    pub fn with_image(&self, image: &ImageName) -> Result<Edit> {
        let home = config::home();
        match &self.source {
            Source::Clusterfile(path) => self.edited_file(path, |name, text| {
                set_image(name, text, home.as_deref(), image)
            }),
            Source::Arguments { image: was, hosts } => {
                with_arguments((was, hosts), (image.as_str(), hosts))
            }
        }
    }

    fn edited_file(
        &self,
        path: &Path,
        change: impl FnOnce(&str, &str) -> Result<Edited>,
    ) -> Result<Edit> {
        let name = path.display().to_string();
        let before = std::fs::read_to_string(path)
            .or_err(Kind::System, || format!("cannot read `{name}`"))?;
        let edited = change(&name, &before)?;
        Ok(Edit {
            patch: patch(&name, &before, &edited.text),
            chosen: Chosen {
                source: self.source.clone(),
                clusterfile: edited.clusterfile,
                digest: digest(&name, &edited.text, config::home().as_deref()),
            },
            file: Some((path.to_owned(), edited.text)),
        })
    }

    /// The cluster with nodes that it does not name any more: entered as noted at them,
    /// and otherwise as the other hosts.
    pub fn with_unlisted(&self, nodes: &[Unlisted]) -> Result<Chosen> {
        // Arguments have no names, and one way into all hosts.
        let is_file = matches!(self.source, Source::Clusterfile(_));
        let new = nodes.iter().map(|one| {
            let wrong = |cause: Invalid| {
                Error::new(
                    Kind::Input,
                    format!("the node `{}` cannot be entered", one.name),
                )
                .because(cause.to_string())
            };
            let way = one.way.as_ref().filter(|_| is_file);
            let key = way.and_then(|way| way.host_key.as_deref());
            let user = way.map(|way| way.user.parse()).transpose();
            Ok(NewHost {
                name: match is_file {
                    true => Some(one.name.parse().map_err(wrong)?),
                    false => None,
                },
                address: one.address.parse().map_err(wrong)?,
                roles: one.roles,
                user: user.map_err(wrong)?,
                port: way.map(|way| way.port),
                identity_file: None,
                host_key: key.map(str::parse).transpose().map_err(wrong)?,
            })
        });
        let with = self.edited(&[], &new.collect::<Result<Vec<_>>>()?)?.chosen;
        let hosts = &with.clusterfile.cluster.hosts;
        match nodes.iter().find(|one| hosts.get(&one.name).is_none()) {
            None => Ok(with),
            Some(one) => Err(Error::new(
                Kind::Input,
                format!(
                    "the node `{}` has another name in this cluster's description",
                    one.name
                ),
            )
            .hint(format!(
                "write a Clusterfile that has a host `{}` at {}",
                one.name, one.address
            ))),
        }
    }

    /// The cluster with all of these hosts: those that it does not name any more are
    /// asked for in the cluster itself.
    pub async fn with_named(&self, shell: &Shell, names: &[String]) -> Result<Chosen> {
        let hosts = &self.clusterfile.cluster.hosts;
        if names.iter().all(|name| hosts.get(name).is_some()) {
            return Ok(self.clone());
        }
        let mut found = find_unlisted(shell.context(), &self.look(shell)?).await?;
        found.retain(|one| names.contains(&one.name));
        self.with_unlisted(&found)
    }

    fn edited_arguments(
        &self,
        image: &str,
        hosts: &HostArgs,
        gone: &[&str],
        new: &[NewHost],
    ) -> Result<Edit> {
        let own = new.iter().find(|host| {
            host.name.is_some()
                || host.user.is_some()
                || host.port.is_some()
                || host.identity_file.is_some()
                || host.host_key.is_some()
        });
        if let Some(host) = own {
            return Err(Error::new(
                Kind::Usage,
                "a cluster without a Clusterfile has no names, and one way into all hosts",
            )
            .hint(format!("give the address alone: `{}`", host.address))
            .hint("or write a Clusterfile, and then `-f Clusterfile`"));
        }
        let all = &self.clusterfile.cluster.hosts;
        let stays = |host: &&Host| !gone.contains(&host.name.as_str());
        let mut after = HostArgs {
            masters: String::new(),
            nodes: String::new(),
            ..hosts.clone()
        };
        let staying = all
            .iter()
            .filter(stays)
            .map(|host| (host.roles, host.address.to_string()));
        let coming = new
            .iter()
            .map(|host| (host.roles, host.address.to_string()));
        for (roles, address) in staying.chain(coming) {
            let list = match roles.is_control_plane() {
                true => &mut after.masters,
                false => &mut after.nodes,
            };
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&address);
        }
        with_arguments((image, hosts), (image, &after))
    }
}

/// The digest of a Clusterfile, which is the same whatever image it names.
pub(super) fn digest(name: &str, text: &str, home: Option<&Path>) -> Digest {
    let any = "chasi/any:1".parse().ok();
    let without = any.and_then(|image| set_image(name, text, home, &image).ok());
    Digest::of(without.map_or_else(|| text.to_owned(), |edited| edited.text))
}

/// A cluster without a Clusterfile: its image and hosts as they were given, and as
/// they would be.
fn with_arguments(before: (&str, &HostArgs), after: (&str, &HostArgs)) -> Result<Edit> {
    let home = config::home();
    let (image, hosts) = after;
    let clusterfile = Clusterfile::from_arguments(&arguments(image, hosts, home.as_deref()))?;
    let line = |(image, hosts): (&str, &HostArgs)| {
        format!(
            "chasi run {image} --masters {} --nodes {}\n",
            hosts.masters, hosts.nodes
        )
    };
    Ok(Edit {
        patch: patch("chasi run", &line(before), &line(after)),
        chosen: Chosen::of_arguments(image, hosts, clusterfile)?,
        file: None,
    })
}
