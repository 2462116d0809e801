//! `chasi node delete`: nodes that leave a cluster that stays.

use serde::Serialize;

use super::super::cluster::{Chosen, Edit, not_done};
use super::super::consent::Shown;
use super::super::table::Table;
use super::super::{Shell, run};
use super::{Going, known_hosts};
use crate::cluster::connect::Prepared as _;
use crate::cluster::removal::{self, Plan, Report};
use crate::error::Result;

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
    #[command(flatten)]
    going: Going,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.going.consent.dry_run
    }

    /// Looks, asks, removes, and tells the others.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.going.known.choose(shell)?;
        let hosts = &chosen.clusterfile.cluster.hosts;
        let listed = self.nodes.iter().map(String::as_str);
        let listed: Vec<&str> = listed.filter(|name| hosts.get(name).is_some()).collect();
        // Why none may be left is told better by who counts them.
        let edit = chosen.edited(&listed, &[]);
        let consent = &self.going.consent;
        shell.block_on(async {
            let context = shell.context();
            let with = chosen.with_named(shell, &self.nodes).await?;
            known_hosts(&with, &self.nodes)?;
            let request = self.going.request(shell, &with, &self.nodes)?;
            let prepared = removal::prepare(context, request).await?;
            let edit = match edit {
                Ok(edit) => edit,
                Err(error) => {
                    prepared.abandon().await;
                    return Err(error);
                }
            };
            let plan = prepared.plan.clone();
            let shown = Shown {
                text: &describe(&plan),
                patch: edit.tell(false),
                value: &plan,
            };
            let question = format!("Delete {}?", self.nodes.join(", "));
            let decided = consent.decide(shell, prepared, &shown, Some(&question));
            let Some(prepared) = decided.await? else {
                return Ok(());
            };
            let report = prepared.apply(context).await?;
            settle(shell, &edit, self.going.write && report.left_out.is_empty()).await?;
            self.conclude(shell, &chosen, &edit, &report)
        })
    }

    fn conclude(&self, shell: &Shell, chosen: &Chosen, edit: &Edit, report: &Report) -> Result<()> {
        let summary = Summary {
            cluster: chosen.name(),
            report,
            patch: &edit.patch,
            written: self.going.write,
        };
        let text = || summary.text() + &edit.tell(self.going.write);
        self.going.consent.print(shell, &summary, text)?;
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
    match plan.steps.is_empty() {
        true => "Nothing to do: nothing of these nodes is left in the cluster.\n".to_owned(),
        false => format!("Cluster `{}`\n\n{}", plan.cluster, steps(plan)),
    }
}

/// The steps of a plan, and what is to be said of them.
pub fn steps(plan: &Plan) -> String {
    let mut table = Table::new(["NODE", "WHAT"]);
    for step in &plan.steps {
        table.row([step.node.clone(), step.action.describe()]);
    }
    let mut text = table.to_string();
    for line in plan.quorum.iter().chain(&plan.doubts) {
        text += &format!("\n{line}");
    }
    if !plan.quorum.is_empty() || !plan.doubts.is_empty() {
        text.push('\n');
    }
    text
}
