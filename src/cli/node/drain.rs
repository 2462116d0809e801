//! `chasi node drain` and `chasi node uncordon`.

use super::super::cluster::Known;
use super::super::{Format, Shell};
use super::Moving;
use crate::cluster::nodes;
use crate::error::Result;

/// Move the pods of nodes to other nodes, as `kubectl drain` does.
///
/// What can never succeed is told before the first pod moves. While it waits, it
/// names what it waits for; given up, it lets the nodes take pods again.
#[derive(clap::Args)]
pub struct Args {
    /// The nodes; all are drained at the same time.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Leave pods of DaemonSets where they are.
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Delete pods that nothing makes anew.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    moving: Moving,
    #[command(flatten)]
    known: Known,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Drains.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let options = self.moving.options(self.force, self.ignore_daemonsets);
        let work = nodes::drain(shell.context(), &request, &self.nodes, &options);
        let drained = shell.block_on(work)?;
        match self.format {
            Format::Json => shell.json(&drained),
            Format::Table => shell.result(&format!(
                "{} drained, {} pods moved. `chasi node uncordon {}` lets pods come back.\n",
                self.nodes.join(", "),
                drained.moved.len(),
                self.nodes.join(" ")
            )),
        }
    }
}

/// Let nodes take pods again.
#[derive(clap::Args)]
pub struct UncordonArgs {
    /// The nodes.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    known: Known,
}

impl UncordonArgs {
    /// Uncordons.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let work = nodes::uncordon(shell.context(), &request, &self.nodes);
        shell.block_on(work)?;
        shell.result(&format!("{} takes pods.\n", self.nodes.join(", ")))
    }
}
