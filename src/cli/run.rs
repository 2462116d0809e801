//! `chasi run`: bring a cluster to what a Clusterfile says.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::cluster::Chosen;
use super::table::Table;
use super::{Format, Shell};
use crate::cluster::plan::Plan;
use crate::cluster::run::{self, Prepared, Report};
use crate::error::{Error, Kind, Result};

/// Install a cluster image on hosts, or bring a cluster to what its Clusterfile
/// says now.
///
/// Running it again is how a run that was interrupted, or that failed, goes on.
/// What is as it should be is not touched.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster image to run, when there is no Clusterfile.
    #[arg(
        value_name = "IMAGE",
        conflicts_with = "file",
        required_unless_present = "file"
    )]
    image: Option<String>,
    /// The Clusterfile.
    #[arg(short, long, value_name = "CLUSTERFILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    hosts: super::cluster::HostArgs,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before changing hosts.
    #[arg(short, long)]
    yes: bool,
    /// How to print the plan of a dry run, and the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Prepares, asks, applies.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = match (&self.file, &self.image) {
            (Some(file), _) => Chosen::from_file(shell, file)?,
            (None, Some(image)) => Chosen::from_arguments(shell, image, &self.hosts)?,
            (None, None) => {
                return Err(Error::new(
                    Kind::Usage,
                    "neither a Clusterfile nor an image was given",
                ));
            }
        };
        let request = chosen.request(self.dry_run)?;
        let remembered = chosen.clone();
        shell.block_on(async {
            let context = shell.context();
            let prepared = run::prepare(context, request).await?;
            for finding in &prepared.findings {
                context.warn(finding.to_string());
            }
            if self.dry_run {
                let plan = prepared.plan.clone();
                prepared.abandon().await;
                return match self.format {
                    Format::Json => shell.json(&plan),
                    Format::Table => shell.result(&describe(&plan)),
                };
            }
            let prepared = self.confirm(shell, prepared).await?;
            remembered.remember()?;
            let report = prepared.apply(context).await?;
            self.conclude(shell, &report)
        })
    }

    /// Asks before anything is changed, unless there is nothing to change.
    async fn confirm(&self, shell: &Shell, prepared: Prepared) -> Result<Prepared> {
        if self.yes || prepared.plan.is_empty() {
            return Ok(prepared);
        }
        if !std::io::stdin().is_terminal() {
            prepared.abandon().await;
            return Err(
                Error::new(Kind::Usage, "nobody is there to confirm the plan")
                    .hint("add `--yes` to apply it without asking, or `--dry-run` to see it"),
            );
        }
        shell.message(&describe(&prepared.plan));
        let sure = shell.ask("Apply this plan?");
        if sure {
            return Ok(prepared);
        }
        prepared.abandon().await;
        Err(Error::new(Kind::Interrupted, "nothing was changed"))
    }

    fn conclude(&self, shell: &Shell, report: &Report) -> Result<()> {
        match self.format {
            Format::Json => shell.json(report)?,
            Format::Table => shell.result(&summary(report))?,
        }
        super::cluster::not_done(&report.left_out)
    }
}

/// The plan for people.
fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Nothing to do: the hosts are as `{}` says.",
            plan.cluster
        );
    } else {
        let _ = writeln!(
            text,
            "Cluster {}: {} (Kubernetes {}, {})",
            plan.cluster,
            plan.image,
            plan.version,
            plan.digest.short()
        );
        for stage in &plan.stages {
            let _ = writeln!(text, "\n{}", stage.name);
            for step in &stage.steps {
                let mark = if step.undoable {
                    ""
                } else {
                    "  (cannot be undone)"
                };
                let _ = writeln!(text, "  {:<12} {}{mark}", step.host, step.action.describe());
            }
        }
    }
    for one in &plan.left_out {
        let _ = writeln!(text, "\nleft out: {}: {}", one.host, one.reason);
    }
    text
}

fn summary(report: &Report) -> String {
    let mut table = Table::new(["NODE", "STATE", "ROLES", "VERSION"]);
    for node in &report.state.nodes {
        let state = if node.ready { "Ready" } else { "NotReady" };
        table.row([
            node.name.clone(),
            state.into(),
            node.roles().join(","),
            node.version.clone(),
        ]);
    }
    let head = match report.steps {
        0 => format!(
            "Nothing to do: cluster `{}` is as its Clusterfile says.\n\n",
            report.cluster
        ),
        steps => format!(
            "Cluster `{}` is up: {steps} steps done.\n\n",
            report.cluster
        ),
    };
    head + &table.to_string()
}
