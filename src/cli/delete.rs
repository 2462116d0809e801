//! `chasi delete`: take a cluster off its hosts.

use super::Shell;
use super::cluster::{Chosen, Known};
use super::consent::{Consent, Shown};
use crate::cluster::delete::{self, Plan, Report};
use crate::error::Result;
use crate::spec::plugin::PluginName;

/// Take a cluster off its hosts, with all its data, and leave them as they were
/// before chasi came.
///
/// Running it again does what is left, such as a host that could not be reached.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// A plugin that is not undone: what it did on the hosts stays. For one whose way
    /// back fails.
    #[arg(long, value_name = "PLUGIN")]
    leave_plugin: Vec<PluginName>,
    #[command(flatten)]
    consent: Consent,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Looks, asks, deletes.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let mut request = chosen.delete(shell, self.consent.dry_run)?;
        request.leave_plugins.clone_from(&self.leave_plugin);
        shell.block_on(async {
            let context = shell.context();
            let prepared = delete::prepare(context, request).await?;
            let plan = prepared.plan.clone();
            let shown = Shown {
                text: &describe(&plan),
                patch: String::new(),
                value: &plan,
            };
            let question = format!("Delete cluster `{}` and all its data?", chosen.name());
            let question = Some(question.as_str()).filter(|_| !plan.hosts.is_empty());
            match self
                .consent
                .decide(shell, prepared, &shown, question)
                .await?
            {
                None => Ok(()),
                Some(prepared) => {
                    let report = prepared.apply(context).await?;
                    self.conclude(shell, &chosen, &report)
                }
            }
        })
    }

    fn conclude(&self, shell: &Shell, chosen: &Chosen, report: &Report) -> Result<()> {
        if report.left_out.is_empty() {
            chosen.forget()?;
        }
        self.consent.print(shell, report, || summary(report))?;
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
    for (host, stays) in &plan.stays {
        for one in stays {
            text += &format!("stays on {host}: what the plugin {one}\n");
        }
    }
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
