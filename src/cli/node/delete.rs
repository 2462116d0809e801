//! `chasi node delete`: nodes that leave a cluster that stays.

use serde::Serialize;

use super::super::cluster::{Chosen, Edit, Known, not_done};
use super::super::consent::Consent;
use super::super::table::Table;
use super::super::{Shell, run};
use super::{Moving, known_hosts};
use crate::cluster::removal::{self, Plan, Report};
use crate::error::Result;
use crate::event::Event;

/// Drain nodes, take them out of the cluster, and leave their hosts as they were
/// before chasi came.
///
/// Refused when etcd would lose its majority, or when pods would have no place. The
/// change to the Clusterfile is printed, or made with `--write`; a node that it does
/// not name any more can be deleted as well. Running it again does what is left.
#[derive(clap::Args)]
pub struct Args {
    /// The nodes.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Delete nodes whose hosts are gone for good, and pods that nothing makes anew;
    /// when the dead ones had etcd's majority, make what is left of it a cluster of
    /// its own.
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

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Looks, asks, removes, and tells the others.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let hosts = &chosen.clusterfile.cluster.hosts;
        let listed = self.nodes.iter().map(String::as_str);
        let listed: Vec<&str> = listed.filter(|name| hosts.get(name).is_some()).collect();
        // Why none may be left is told better by who counts them.
        let edit = chosen.edited(&listed, &[]);
        let drain = self.moving.options(self.force, true);
        let dry_run = self.consent.dry_run;
        shell.block_on(async {
            let context = shell.context();
            let with = chosen.with_named(shell, &self.nodes).await?;
            known_hosts(&with, &self.nodes)?;
            let request = with.removal(shell, &self.nodes, self.force, drain, dry_run)?;
            let prepared = removal::prepare(context, request).await?;
            let edit = match edit {
                Ok(edit) => edit,
                Err(error) => {
                    prepared.abandon().await;
                    return Err(error);
                }
            };
            let plan = describe(&prepared.plan);
            if dry_run {
                let value = prepared.plan.clone();
                prepared.abandon().await;
                let text = || plan + &edit.tell(false);
                return self.consent.print(shell, &value, text);
            }
            context.emit(Event::Detail {
                host: None,
                text: plan.clone(),
            });
            let question = format!("Delete {}?", self.nodes.join(", "));
            if let Err(error) = self.consent.ask(shell, &plan, &question).await {
                prepared.abandon().await;
                return Err(error);
            }
            let report = prepared.apply(context).await?;
            settle(shell, &edit, self.write && report.left_out.is_empty()).await?;
            self.conclude(shell, &chosen, &edit, &report)
        })
    }

    fn conclude(&self, shell: &Shell, chosen: &Chosen, edit: &Edit, report: &Report) -> Result<()> {
        let summary = Summary {
            cluster: chosen.name(),
            report,
            patch: &edit.patch,
            written: self.write,
        };
        let text = || summary.text() + &edit.tell(self.write);
        self.consent.print(shell, &summary, text)?;
        not_done(&report.left_out)
    }
}

/// Writes the change when that is wanted, and brings the hosts that stay to what the
/// Clusterfile says without those that went.
pub async fn settle(shell: &Shell, edit: &Edit, write: bool) -> Result<()> {
    if write {
        edit.write()?;
    }
    run::follow(shell, &edit.chosen).await
}

/// What was done, for people and for programs.
#[derive(Serialize)]
struct Summary<'a> {
    cluster: String,
    #[serde(flatten)]
    report: &'a Report,
    /// What changes in the Clusterfile.
    patch: &'a str,
    /// Whether it was written.
    written: bool,
}

impl Summary<'_> {
    fn text(&self) -> String {
        let mut text = match self.report.removed.as_slice() {
            [] => String::new(),
            removed => format!("{} left cluster `{}`.\n", removed.join(", "), self.cluster),
        };
        for (host, files) in &self.report.kept {
            text += &format!(
                "kept on {host}, changed since chasi wrote them: {}\n",
                files.join(", ")
            );
        }
        text
    }
}

/// The plan for people.
pub fn describe(plan: &Plan) -> String {
    if plan.steps.is_empty() {
        return "Nothing to do: nothing of these nodes is left in the cluster.\n".to_owned();
    }
    let mut table = Table::new(["NODE", "WHAT"]);
    for step in &plan.steps {
        table.row([step.node.clone(), step.action.describe()]);
    }
    let mut text = format!("Cluster `{}`\n\n{table}", plan.cluster);
    for line in plan.quorum.iter().chain(&plan.doubts) {
        text += &format!("\n{line}");
    }
    if !plan.quorum.is_empty() || !plan.doubts.is_empty() {
        text.push('\n');
    }
    text
}
