//! `chasi node add`: hosts that join a cluster.

use std::path::PathBuf;

use super::super::cluster::Known;
use super::super::consent::Consent;
use super::super::{Shell, run};
use crate::cluster::check::Selection;
use crate::error::{Error, Kind, Result};
use crate::spec::Roles;
use crate::spec::certificate::Fingerprint;
use crate::spec::clusterfile::edit::NewHost;
use crate::spec::name::UserName;

/// Add hosts to a cluster, with the image that it runs: it is taken from the cluster's
/// hosts when it is not here.
///
/// It is what `chasi run` does with a Clusterfile that has these hosts too. The
/// change to the Clusterfile is printed, or made with `--write`. A host that
/// something is wrong with does not hold up the others.
#[derive(clap::Args)]
pub struct Args {
    /// The hosts: `NAME=ADDRESS`, or an address alone where the Clusterfile has no
    /// names.
    #[arg(required = true, value_name = "NAME=ADDRESS")]
    hosts: Vec<String>,
    /// What they become.
    #[arg(long, value_enum, default_value = "worker")]
    role: Role,
    #[command(flatten)]
    access: Access,
    /// What these checks find does not hinder it: ids of `docs/checks.md`, or names of
    /// areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    #[command(flatten)]
    known: Known,
    /// Write the change into the Clusterfile.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What a host becomes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Role {
    /// It runs pods.
    Worker,
    /// It runs etcd and the API server, and no ordinary pods.
    ControlPlane,
    /// It runs both.
    Both,
}

impl Role {
    fn roles(self) -> Roles {
        match self {
            Role::Worker => Roles::Worker,
            Role::ControlPlane => Roles::ControlPlane,
            Role::Both => Roles::ControlPlaneAndWorker,
        }
    }
}

/// How to get into new hosts, where it is not as into the others.
#[derive(clap::Args)]
pub struct Access {
    /// The user to log in as, when it is another than for the other hosts.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The port of their SSH servers.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// A private key to log in with.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The fingerprint of the host's key, `SHA256:…`, when no known-hosts file has it.
    #[arg(long, value_name = "FINGERPRINT")]
    pub host_key: Option<String>,
}

impl Access {
    /// A host as it was typed.
    pub fn host(&self, typed: &str, roles: Roles) -> Result<NewHost> {
        let (name, address) = match typed.split_once('=') {
            Some((name, address)) => (Some(name), address),
            None => (None, typed),
        };
        let wrong = |cause: String| {
            Error::new(Kind::Usage, format!("`{typed}` is no host"))
                .because(cause)
                .hint("a host is written `NAME=ADDRESS`, such as `worker-3=10.0.0.13`")
        };
        let invalid = |cause: crate::spec::Invalid| wrong(cause.to_string());
        let user = self.user.as_deref().map(str::parse::<UserName>);
        let key = self.host_key.as_deref().map(str::parse::<Fingerprint>);
        Ok(NewHost {
            name: name.map(str::parse).transpose().map_err(invalid)?,
            address: address.parse().map_err(invalid)?,
            roles,
            user: user.transpose().map_err(invalid)?,
            port: self.port,
            identity_file: self.key.as_ref().map(|path| path.display().to_string()),
            host_key: key.transpose().map_err(invalid)?,
        })
    }
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Prepares, asks, applies.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let hosts = self
            .hosts
            .iter()
            .map(|typed| self.access.host(typed, self.role.roles()))
            .collect::<Result<Vec<_>>>()?;
        let edit = chosen.edited(&[], &hosts)?;
        let selection = Selection::new(&[], &self.ignore)?;
        shell.block_on(async {
            let chosen = &edit.chosen;
            let asked = chosen.request_as_it_runs(shell, self.consent.dry_run, selection);
            // The image stays while it is needed.
            let (request, _running) = asked.await?;
            let with = run::With::Edit(&edit, self.write);
            run::apply(shell, &self.consent, request, chosen, with).await
        })
    }
}
