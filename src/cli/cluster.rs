//! Which cluster a command is about, and how to reach it.
//!
//! `chasi run` notes where a cluster's Clusterfile is, or the arguments that were
//! given in its place, under the cluster's name; other commands find the cluster
//! again by `-c NAME`, or without it when only one is known. The note holds no
//! secret, and everything in it can be given again by hand.

mod edit;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use edit::Edit;

use super::Shell;
use super::node::Access;
use super::{config, store};
use crate::agent::calls::history::Revision;
use crate::cluster::access::{Environment, plugin_secrets, targets};
use crate::cluster::check::{self, Phase, Selection};
use crate::cluster::connect::{LeftOut, Visitor};
use crate::cluster::image::{Running, running};
use crate::cluster::plan::Pace;
use crate::cluster::run::Request;
use crate::cluster::{delete, removal, status};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::kube::drain::Options;
use crate::oci::{Blob, ClusterImage, Reference, Store};
use crate::remote::Target;
use crate::spec::clusterfile::Arguments;
use crate::spec::{Cluster, Clusterfile, Invalid};

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
    /// The digest of the description, whatever image it names.
    pub digest: Digest,
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
        let text = std::fs::read_to_string(&absolute).or_err(Kind::System, || {
            format!("cannot read `{}`", absolute.display())
        })?;
        Ok(Chosen {
            source: Source::Clusterfile(absolute),
            clusterfile,
            digest: edit::digest(&path.display().to_string(), &text, home.as_deref()),
        })
    }

    /// The cluster that arguments describe.
    pub fn from_arguments(shell: &Shell, image: &str, hosts: &HostArgs) -> Result<Self> {
        let home = config::home();
        let clusterfile = Clusterfile::from_arguments(&arguments(image, hosts, home.as_deref()))?;
        for warning in &clusterfile.warnings {
            shell.context().warn(warning.message.clone());
        }
        Chosen::of_arguments(image, hosts, clusterfile)
    }

    fn of_arguments(image: &str, hosts: &HostArgs, clusterfile: Clusterfile) -> Result<Self> {
        let source = Source::Arguments {
            image: image.to_owned(),
            hosts: hosts.clone(),
        };
        let text = serde_json::to_vec(hosts).or_err(
            Kind::Failed,
            || "cannot write down how the cluster is described",
        )?;
        Ok(Chosen {
            source,
            clusterfile,
            digest: Digest::of(text),
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

    /// What describes it: a name, and a text.
    pub fn described(&self) -> Result<(String, String)> {
        match &self.source {
            Source::Clusterfile(path) => {
                let text = std::fs::read_to_string(path)
                    .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
                Ok(("Clusterfile".to_owned(), text))
            }
            Source::Arguments { .. } => {
                let text = serde_json::to_string_pretty(&self.source).or_err(
                    Kind::Failed,
                    || "cannot write down where the cluster is described",
                )?;
                Ok(("arguments.json".to_owned(), text))
            }
        }
    }

    /// How to reach the hosts.
    pub fn targets(&self) -> Result<Vec<Target>> {
        targets(&self.clusterfile.cluster, &environment())
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

    /// As [`Chosen::request`], for who changes the list of hosts and nothing else: with
    /// the image that the cluster runs, which is fetched from its hosts when it is not
    /// here.
    pub async fn request_as_it_runs(
        &self,
        shell: &Shell,
        dry_run: bool,
        selection: Selection,
    ) -> Result<(Request, Running)> {
        let store = store::open()?;
        let named: Reference = self.clusterfile.cluster.image.to_string().parse()?;
        let looked = self.look(shell)?;
        let running = running(shell.context(), &looked, &store, &named).await?;
        let mut cluster = self.clusterfile.cluster.clone();
        if running.reference != named {
            let name = running.reference.familiar();
            shell.context().warn(format!(
                "the cluster runs `{name}`, and the Clusterfile names `{}`: nothing is changed of that, `chasi run` does it",
                cluster.image
            ));
            let wrong = |cause: Invalid| Error::new(Kind::Failed, cause.to_string());
            cluster.image = name.parse().map_err(wrong)?;
        }
        let wanted = (cluster, store, running.index.clone());
        let mut request = self.request_for(shell, wanted, dry_run, selection)?;
        request.command = "node";
        Ok((request, running))
    }

    /// A request to bring the cluster back to a revision, whose image is in the store.
    pub fn request_back(
        &self,
        shell: &Shell,
        store: Store,
        revision: &Revision,
        dry_run: bool,
        selection: Selection,
    ) -> Result<Request> {
        let wrong = |cause: Invalid| Error::new(Kind::Failed, cause.to_string());
        let mut cluster = self.clusterfile.cluster.clone();
        cluster.image = revision.reference.parse().map_err(wrong)?;
        let wanted = (cluster, store, revision.index.clone());
        let mut request = self.request_for(shell, wanted, dry_run, selection)?;
        request.command = "rollback";
        request.back = Some(revision.clone());
        Ok(request)
    }

    /// A request to bring the cluster to what was asked for.
    pub fn request(&self, shell: &Shell, dry_run: bool, selection: Selection) -> Result<Request> {
        let store = store::open()?;
        let index = self.image(&store)?;
        let wanted = (self.clusterfile.cluster.clone(), store, index);
        self.request_for(shell, wanted, dry_run, selection)
    }

    /// A request for a cluster with an image, which is in the store.
    fn request_for(
        &self,
        shell: &Shell,
        (cluster, store, index): (Cluster, Store, Blob),
        dry_run: bool,
        selection: Selection,
    ) -> Result<Request> {
        Ok(Request {
            targets: self.targets()?,
            secrets: plugin_secrets(&cluster, &environment())?,
            cluster,
            store,
            index,
            visitor: visitor(shell)?,
            dry_run,
            selection,
            leave_plugins: Vec::new(),
            pace: Pace::default(),
            drain: Options {
                ignore_daemonsets: true,
                ..Options::default()
            },
            command: "run",
            clusterfile: self.digest,
            back: None,
            restore: None,
        })
    }
}

/// What of the environment of this process matters for reaching hosts.
fn environment() -> Environment<'static> {
    Environment {
        variable: &|name| std::env::var(name).ok(),
        agent: std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
    }
}

impl Chosen {
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

/// The user who runs chasi.
pub fn user() -> String {
    std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| format!("uid{}", rustix::process::getuid().as_raw()))
}

/// Who runs chasi, and where.
fn who() -> String {
    let user = user();
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
