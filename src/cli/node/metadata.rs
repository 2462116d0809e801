//! `chasi node label` and `chasi node taint`: what the Clusterfile says of nodes.

use super::super::Shell;
use super::super::cluster::Known;
use super::known_hosts;
use crate::cluster::nodes;
use crate::error::Result;

/// Which nodes.
#[derive(clap::Args)]
pub struct Args {
    /// The nodes; all of the Clusterfile when none is named.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    known: Known,
}

impl Args {
    /// Sets them.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        known_hosts(&chosen, &self.nodes)?;
        let request = chosen.look(shell)?;
        let work = nodes::set_metadata(shell.context(), &request, &self.nodes);
        let done = shell.block_on(work)?;
        shell.result(&format!(
            "{}: labels and taints are those of the Clusterfile.\n",
            done.join(", ")
        ))
    }
}
