//! `chasi delete`: take a cluster off its hosts.

use std::io::IsTerminal as _;

use super::cluster::{Chosen, Known};
use super::{Format, Shell};
use crate::cluster::delete::{self, Plan, Prepared, Report};
use crate::error::{Error, Kind, Result};

/// Take a cluster off its hosts, with all its data, and leave them as they were
/// before chasi came.
///
/// Running it again does what is left, such as a host that could not be reached.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// Show which hosts would be left, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before deleting.
    #[arg(short, long)]
    yes: bool,
    /// How to print the plan of a dry run, and the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.dry_run
    }

    /// Looks, asks, deletes.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let request = chosen.delete(shell, self.dry_run)?;
        shell.block_on(async {
            let context = shell.context();
            let prepared = delete::prepare(context, request).await?;
            if self.dry_run {
                let plan = prepared.plan.clone();
                prepared.abandon().await;
                return match self.format {
                    Format::Json => shell.json(&plan),
                    Format::Table => shell.result(&describe(&plan)),
                };
            }
            let prepared = self.confirm(shell, prepared).await?;
            let report = prepared.apply(context).await?;
            self.conclude(shell, &chosen, &report)
        })
    }

    async fn confirm(&self, shell: &Shell, prepared: Prepared) -> Result<Prepared> {
        if self.yes || prepared.plan.hosts.is_empty() {
            return Ok(prepared);
        }
        if !std::io::stdin().is_terminal() {
            prepared.abandon().await;
            return Err(
                Error::new(Kind::Usage, "nobody is there to confirm the deletion")
                    .hint("add `--yes` to delete without asking, or `--dry-run` to see what would be deleted"),
            );
        }
        shell.message(&describe(&prepared.plan));
        let question = format!(
            "Delete cluster `{}` and all its data?",
            prepared.plan.cluster
        );
        if shell.ask(&question).await {
            return Ok(prepared);
        }
        prepared.abandon().await;
        Err(super::cluster::refused())
    }

    fn conclude(&self, shell: &Shell, chosen: &Chosen, report: &Report) -> Result<()> {
        if report.left_out.is_empty() {
            chosen.forget()?;
        }
        match self.format {
            Format::Json => shell.json(report)?,
            Format::Table => shell.result(&summary(report))?,
        }
        super::cluster::not_done(&report.left_out)
    }
}

/// The plan for people.
fn describe(plan: &Plan) -> String {
    let mut text = match plan.hosts.as_slice() {
        [] => format!(
            "Nothing to do: no host holds anything of cluster `{}`.\n",
            plan.cluster
        ),
        hosts => format!(
            "Cluster `{}`, its pods and all its data go from these hosts, which then are as they were before:\n  {}\n",
            plan.cluster,
            hosts.join("\n  ")
        ),
    };
    if !plan.bare.is_empty() {
        text += &format!("nothing is left on: {}\n", plan.bare.join(", "));
    }
    for one in &plan.left_out {
        text += &format!("left out: {}: {}\n", one.host, one.reason);
    }
    text
}

fn summary(report: &Report) -> String {
    let mut text = match report.left_out.is_empty() {
        true => format!("Cluster `{}` is deleted.\n", report.cluster),
        false => format!("Cluster `{}` is deleted in part.\n", report.cluster),
    };
    for (host, files) in &report.kept {
        text += &format!(
            "kept on {host}, changed since chasi wrote them: {}\n",
            files.join(", ")
        );
    }
    text
}
