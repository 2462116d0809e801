//! `chasi status`: what a cluster is now.

use super::cluster::Known;
use super::table::Table;
use super::{Format, Shell};
use crate::cluster::status::{self, Status};
use crate::error::Result;

/// Show a cluster's hosts and what is not as it should be.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Asks the hosts and prints what they say.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let status = shell.block_on(status::status(shell.context(), &request))?;
        match self.format {
            Format::Json => shell.json(&status),
            Format::Table => shell.result(&describe(&status)),
        }
    }
}

fn describe(status: &Status) -> String {
    let mut table = Table::new(["NODE", "STATE", "ROLES", "VERSION", "GENERATION", "PROBLEM"]);
    for node in &status.nodes {
        table.row([
            node.name.as_str(),
            if node.ready { "Ready" } else { "NotReady" },
            &node.roles.join(","),
            &node.version,
            node.generation.as_deref().unwrap_or("-"),
            node.problem.as_deref().unwrap_or(""),
        ]);
    }
    let mut text = table.to_string();
    for pod in &status.unready_pods {
        text.push_str(&format!("not ready: {pod}\n"));
    }
    text
}
