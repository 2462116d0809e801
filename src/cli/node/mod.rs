//! `chasi node`: nodes that come and go.

mod add;
mod delete;
mod drain;
mod list;
mod metadata;
mod replace;
mod reset;
mod unlisted;

use clap::Subcommand;

pub use add::Access;
pub use unlisted::{Departure, Unlisting};

use super::Shell;
use super::cluster::{Chosen, Known};
use super::consent::Consent;
use crate::cluster::removal;
use crate::error::{Error, Kind, Result};
use crate::kube::drain::Options;

/// Show, add, drain, delete, replace and reset nodes of a cluster.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Args),
    Add(add::Args),
    Delete(delete::Args),
    Drain(drain::Args),
    Uncordon(drain::UncordonArgs),
    Replace(replace::Args),
    Reset(reset::Args),
    /// Give nodes the labels and taints that the Clusterfile says.
    Label(metadata::Args),
    /// The same as `label`.
    Taint(metadata::Args),
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        match &self.command {
            Command::List(_) => true,
            Command::Add(args) => args.only_looks(),
            Command::Delete(args) => args.only_looks(),
            Command::Replace(args) => args.only_looks(),
            Command::Reset(args) => args.only_looks(),
            Command::Drain(_) | Command::Uncordon(_) => false,
            Command::Label(_) | Command::Taint(_) => false,
        }
    }

    /// Does what was asked for.
    pub fn run(self, shell: &Shell) -> Result<()> {
        match self.command {
            Command::List(args) => args.run(shell),
            Command::Add(args) => args.run(shell),
            Command::Delete(args) => args.run(shell),
            Command::Drain(args) => args.run(shell),
            Command::Uncordon(args) => args.run(shell),
            Command::Replace(args) => args.run(shell),
            Command::Reset(args) => args.run(shell),
            Command::Label(args) | Command::Taint(args) => args.run(shell),
        }
    }
}

/// How pods are moved, as `kubectl drain` names it.
#[derive(clap::Args)]
pub struct Moving {
    /// Move pods that have data in an `emptyDir`, which is lost.
    #[arg(long)]
    delete_emptydir_data: bool,
    /// How long each pod has to end, in place of what it says itself.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// How long it may take to move the pods of one node.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl Moving {
    /// The options of a drain.
    pub fn options(&self, force: bool, ignore_daemonsets: bool) -> Options {
        Options {
            ignore_daemonsets,
            delete_emptydir_data: self.delete_emptydir_data,
            force,
            grace_period: self.grace_period,
            timeout: self.timeout,
        }
    }
}

/// How nodes go from a cluster that stays.
#[derive(clap::Args)]
struct Going {
    /// The hosts are gone for good, and so are pods that nothing makes anew; when dead
    /// hosts had etcd's majority, what is left of it becomes a cluster of its own.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    moving: Moving,
    #[command(flatten)]
    known: Known,
    /// Write the change into the Clusterfile.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Going {
    /// A request to take these nodes out.
    fn request(
        &self,
        shell: &Shell,
        chosen: &Chosen,
        names: &[String],
    ) -> Result<removal::Request> {
        let drain = self.moving.options(self.force, true);
        chosen.removal(shell, names, self.force, drain, self.consent.dry_run)
    }
}

/// Fails when the Clusterfile has no such host.
fn known_hosts(chosen: &Chosen, names: &[String]) -> Result<()> {
    let hosts = &chosen.clusterfile.cluster.hosts;
    match names.iter().find(|name| hosts.get(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
            Err(
                Error::new(Kind::NotFound, format!("the cluster has no host `{name}`"))
                    .hint(format!("its hosts are {}", known.join(", "))),
            )
        }
    }
}
