//! `chasi backup`: backups of clusters, and clusters made from them.

mod create;
mod list;
mod place;
mod restore;

use clap::Subcommand;

use super::Shell;
use crate::error::Result;

/// Back up a cluster, list backups, and make a cluster from one.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(create::Args),
    List(list::Args),
    Restore(restore::Args),
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        match &self.command {
            Command::List(_) => true,
            Command::Create(_) => false,
            Command::Restore(args) => args.only_looks(),
        }
    }

    /// Does what was asked for.
    pub fn run(self, shell: &Shell) -> Result<()> {
        match self.command {
            Command::Create(args) => args.run(shell),
            Command::List(args) => args.run(shell),
            Command::Restore(args) => args.run(shell),
        }
    }
}
