//! Which cluster a command is about, and how to reach it.
//!
//! `chasi run` notes where a cluster's Clusterfile is, or the arguments that were
//! given in its place, under the cluster's name; other commands find the cluster
//! again by `-c NAME`, or without it when only one is known. The note holds no
//! secret, and everything in it can be given again by hand.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Shell;
use super::node::Access;
use super::{config, store};
use crate::cluster::access::{Environment, targets};
use crate::cluster::check::{self, Phase, Selection};
use crate::cluster::connect::{LeftOut, Visitor};
use crate::cluster::nodes::find_unlisted;
use crate::cluster::run::Request;
use crate::cluster::unlisted::Unlisted;
use crate::cluster::{delete, removal, status};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::kube::drain::Options;
use crate::oci::{Blob, ClusterImage, Reference, Store};
use crate::remote::Target;
use crate::spec::clusterfile::Arguments;
use crate::spec::clusterfile::edit::{NewHost, edit};
use crate::spec::patch::patch;
use crate::spec::{Clusterfile, Host, Invalid};

/// Hosts that are given on the command line, in place of a Clusterfile.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct HostArgs {
    /// Addresses of control planes, with commas; `10.0.0.2-10.0.0.4` is a range.
    #[arg(
        long,
        value_name = "ADDRESSES",
        conflicts_with = "file",
        default_value = ""
    )]
    masters: String,
    /// Addresses of workers, likewise.
    #[arg(
        long,
        value_name = "ADDRESSES",
        conflicts_with = "file",
        default_value = ""
    )]
    nodes: String,
    /// The cluster's name.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    name: Option<String>,
    /// The user to log in as.
    #[arg(long, value_name = "USER", conflicts_with = "file")]
    user: Option<String>,
    /// The port of the SSH servers.
    #[arg(long, value_name = "PORT", conflicts_with = "file")]
    port: Option<u16>,
    /// A private key to log in with; may be given several times.
    #[arg(long = "key", value_name = "FILE", conflicts_with = "file")]
    keys: Vec<PathBuf>,
    /// A file whose first line is the user's password.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    password_file: Option<PathBuf>,
}

impl HostArgs {
    /// One host, which the other commands have no name for.
    pub fn one(address: &str, access: &Access) -> Self {
        HostArgs {
            masters: address.to_owned(),
            user: access.user.clone(),
            port: access.port,
            keys: access.key.iter().cloned().collect(),
            ..HostArgs::default()
        }
    }
}

/// Where a cluster was described.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// In a file.
    Clusterfile(PathBuf),
    /// On the command line.
    Arguments { image: String, hosts: HostArgs },
}

/// The cluster that a command is about.
#[derive(Clone)]
pub struct Chosen {
    source: Source,
    /// What was asked for.
    pub clusterfile: Clusterfile,
}

/// How to name a known cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Known {
    /// The cluster's name; needed when several are known.
    #[arg(short, long, value_name = "NAME", conflicts_with = "file")]
    cluster: Option<String>,
    /// The cluster's Clusterfile, for a cluster that is not known here.
    #[arg(short, long, value_name = "CLUSTERFILE")]
    file: Option<PathBuf>,
}

impl Known {
    /// Finds the cluster.
    pub fn choose(&self, shell: &Shell) -> Result<Chosen> {
        match (&self.file, &self.cluster) {
            (Some(file), _) => Chosen::from_file(shell, file),
            (None, Some(name)) => Chosen::known(shell, name),
            (None, None) => {
                let names = known_names()?;
                match names.as_slice() {
                    [only] => Chosen::known(shell, only),
                    [] => Err(Error::new(Kind::NotFound, "no cluster is known here")
                        .hint("name its Clusterfile: `-f Clusterfile`")),
                    several => Err(Error::new(Kind::Usage, "several clusters are known here")
                        .hint(format!(
                            "name one of them: `-c {}`",
                            several.join("`, `-c ")
                        ))),
                }
            }
        }
    }
}

impl Chosen {
    /// The cluster that a file describes.
    pub fn from_file(shell: &Shell, path: &Path) -> Result<Self> {
        let home = config::home();
        let clusterfile = Clusterfile::read(path, home.as_deref())?;
        for warning in &clusterfile.warnings {
            shell.context().warn(format!(
                "{}:{}: {}",
                path.display(),
                warning.line,
                warning.message
            ));
        }
        let absolute = std::path::absolute(path).or_err(Kind::System, || {
            format!("cannot find out where `{}` is", path.display())
        })?;
        Ok(Chosen {
            source: Source::Clusterfile(absolute),
            clusterfile,
        })
    }

    /// The cluster that arguments describe.
    pub fn from_arguments(shell: &Shell, image: &str, hosts: &HostArgs) -> Result<Self> {
        let home = config::home();
        let clusterfile = Clusterfile::from_arguments(&arguments(image, hosts, home.as_deref()))?;
        for warning in &clusterfile.warnings {
            shell.context().warn(warning.message.clone());
        }
        Ok(Chosen {
            source: Source::Arguments {
                image: image.to_owned(),
                hosts: hosts.clone(),
            },
            clusterfile,
        })
    }

    fn known(shell: &Shell, name: &str) -> Result<Self> {
        let path = note_path(name)?;
        let bytes = std::fs::read(&path).map_err(|_| {
            let known = known_names().unwrap_or_default();
            let hint = match known.is_empty() {
                true => "name its Clusterfile: `-f Clusterfile`".to_owned(),
                false => format!("known are: `{}`", known.join("`, `")),
            };
            Error::new(
                Kind::NotFound,
                format!("the cluster `{name}` is not known here"),
            )
            .hint(hint)
        })?;
        let source: Source = serde_json::from_slice(&bytes)
            .or_err(Kind::Input, || format!("`{}` is damaged", path.display()))?;
        match &source {
            Source::Clusterfile(file) => Chosen::from_file(shell, file),
            Source::Arguments { image, hosts } => Chosen::from_arguments(shell, image, hosts),
        }
    }

    /// The cluster's name.
    pub fn name(&self) -> String {
        self.clusterfile.cluster.name.to_string()
    }

    /// Notes where the cluster is described.
    pub fn remember(&self) -> Result<()> {
        let path = note_path(&self.name())?;
        if let Some(directory) = path.parent() {
            file::create_directories(directory)?;
        }
        let text = serde_json::to_vec_pretty(&self.source).or_err(
            Kind::Failed,
            || "cannot write down where the cluster is described",
        )?;
        file::write(&path, &text, 0o600)
    }

    /// How to reach the hosts.
    pub fn targets(&self) -> Result<Vec<Target>> {
        let environment = Environment {
            variable: &|name| std::env::var(name).ok(),
            agent: std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        };
        targets(&self.clusterfile.cluster, &environment)
    }

    /// The image in the local store.
    fn image(&self, store: &Store) -> Result<Blob> {
        let name = self.clusterfile.cluster.image.to_string();
        let reference: Reference = name.parse()?;
        store.resolve(&reference).map_err(|error| {
            error.hint(format!(
                "fetch it with `chasi pull {name}`, or build it with `chasi build -t {name} .`"
            ))
        })
    }

    /// A request to look at the cluster.
    pub fn look(&self, shell: &Shell) -> Result<status::Request> {
        Ok(status::Request {
            targets: self.targets()?,
            cluster: self.clusterfile.cluster.clone(),
            visitor: visitor(shell)?,
        })
    }

    /// A request to take the cluster off its hosts.
    pub fn delete(&self, shell: &Shell, dry_run: bool) -> Result<delete::Request> {
        Ok(delete::Request {
            targets: self.targets()?,
            cluster: self.clusterfile.cluster.clone(),
            visitor: visitor(shell)?,
            dry_run,
            leave_plugins: Vec::new(),
        })
    }

    /// Forgets where the cluster was described.
    pub fn forget(&self) -> Result<()> {
        file::remove(&note_path(&self.name())?)
    }

    /// A request to check the cluster, with this image or that of the Clusterfile. An
    /// image that is not here is something that checks say.
    pub fn check(
        &self,
        shell: &Shell,
        phase: Phase,
        image: Option<&str>,
        selection: Selection,
    ) -> Result<check::Request> {
        let mut cluster = self.clusterfile.cluster.clone();
        if let Some(image) = image {
            cluster.image = image
                .parse()
                .map_err(|error| Error::new(Kind::Usage, format!("{error}")))?;
        }
        let name = cluster.image.to_string();
        let open = || {
            let store = store::open()?;
            let index = store.resolve(&name.parse::<Reference>()?)?;
            Ok((ClusterImage::open(&store, &index)?, store))
        };
        let image = open().map_err(|error: Error| {
            format!(
                "the image `{name}` is not to be had here: {error}; `chasi pull {name}` fetches it"
            )
        });
        Ok(check::Request {
            targets: self.targets()?,
            cluster,
            visitor: visitor(shell)?,
            image,
            phase,
            selection,
        })
    }

    /// A request to bring the cluster to what was asked for.
    pub fn request(&self, shell: &Shell, dry_run: bool, selection: Selection) -> Result<Request> {
        let store = store::open()?;
        let index = self.image(&store)?;
        Ok(Request {
            targets: self.targets()?,
            cluster: self.clusterfile.cluster.clone(),
            store,
            index,
            visitor: visitor(shell)?,
            dry_run,
            selection,
        })
    }
}

/// A cluster whose list of hosts is to change.
pub struct Edit {
    /// The cluster with the new list.
    pub chosen: Chosen,
    /// The difference, as a unified diff; empty when there is none.
    pub patch: String,
    /// The file, and its new text.
    file: Option<(PathBuf, String)>,
}

impl Edit {
    /// Writes the new list where the cluster is described: the Clusterfile, or the
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
            Source::Clusterfile(path) => {
                let name = path.display().to_string();
                let before = std::fs::read_to_string(path)
                    .or_err(Kind::System, || format!("cannot read `{name}`"))?;
                let edited = edit(&name, &before, home.as_deref(), gone, &new)?;
                Ok(Edit {
                    patch: patch(&name, &before, &edited.text),
                    chosen: Chosen {
                        source: self.source.clone(),
                        clusterfile: edited.clusterfile,
                    },
                    file: Some((path.clone(), edited.text)),
                })
            }
            Source::Arguments { image, hosts } => self.edited_arguments(image, hosts, gone, &new),
        }
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
        let home = config::home();
        let clusterfile = Clusterfile::from_arguments(&arguments(image, &after, home.as_deref()))?;
        let line = |hosts: &HostArgs| {
            format!(
                "chasi run {image} --masters {} --nodes {}\n",
                hosts.masters, hosts.nodes
            )
        };
        Ok(Edit {
            patch: patch("chasi run", &line(hosts), &line(&after)),
            chosen: Chosen {
                source: Source::Arguments {
                    image: image.to_owned(),
                    hosts: after,
                },
                clusterfile,
            },
            file: None,
        })
    }

    /// A request to take nodes out of the cluster.
    pub fn removal(
        &self,
        shell: &Shell,
        names: &[String],
        force: bool,
        drain: Options,
        dry_run: bool,
    ) -> Result<removal::Request> {
        Ok(removal::Request {
            targets: self.targets()?,
            cluster: self.clusterfile.cluster.clone(),
            visitor: visitor(shell)?,
            names: names.to_vec(),
            force,
            arriving: Vec::new(),
            drain,
            dry_run,
        })
    }
}

fn arguments<'a>(image: &'a str, hosts: &'a HostArgs, home: Option<&'a Path>) -> Arguments<'a> {
    Arguments {
        image,
        name: hosts.name.as_deref(),
        masters: &hosts.masters,
        nodes: &hosts.nodes,
        user: hosts.user.as_deref(),
        port: hosts.port,
        identity_files: hosts.keys.clone(),
        password_file: hosts.password_file.clone(),
        home,
    }
}

/// Fails when hosts were left out, and says why and how to go on.
pub fn not_done(left_out: &[LeftOut]) -> Result<()> {
    if left_out.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = left_out.iter().map(|one| one.host.as_str()).collect();
    let error = Error::new(Kind::Partial, format!("not done: {}", names.join(", ")))
        .hint("when that is mended, run the same command again: it does the rest");
    Err(left_out
        .iter()
        .fold(error, |error, one| error.and(one.error())))
}

/// A person said no.
pub fn refused() -> Error {
    Error::new(
        Kind::Interrupted,
        "nothing was changed: this was not confirmed",
    )
    .hint("answer `y`, or give `--yes` to be asked nothing")
}

fn visitor(shell: &Shell) -> Result<Visitor> {
    Ok(Visitor {
        run: shell.run_id().to_owned(),
        who: who(),
        program: program()?,
    })
}

/// Who runs chasi, and where.
fn who() -> String {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| format!("uid{}", rustix::process::getuid().as_raw()));
    let machine = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{user}@{machine}")
}

/// This program's own file.
fn program() -> Result<PathBuf> {
    std::env::current_exe().or_err(Kind::System, || "cannot find chasi's own program file")
}

fn notes() -> Result<PathBuf> {
    Ok(config::state()?.join("clusters"))
}

fn note_path(name: &str) -> Result<PathBuf> {
    Ok(notes()?.join(format!("{name}.json")))
}

fn known_names() -> Result<Vec<String>> {
    let directory = notes()?;
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".json")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}
