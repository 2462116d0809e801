//! `chasi node reset`: a host back to bare.

use super::super::cluster::{Chosen, HostArgs, Known};
use super::super::consent::{Consent, Shown};
use super::super::{Shell, cluster};
use super::known_hosts;
use crate::cluster::nodes::{self, Reset};
use crate::error::{Error, Kind, Result};

/// Put a host back as it was before chasi came, whatever became of its cluster.
///
/// A host that is still a node of a cluster that works is refused: `chasi node
/// delete` takes it out first.
#[derive(clap::Args)]
pub struct Args {
    /// The host, as the Clusterfile names it.
    #[arg(value_name = "NODE", required_unless_present = "address")]
    node: Option<String>,
    /// The host's address, when no Clusterfile has it.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["node", "cluster", "file"])]
    address: Option<String>,
    /// Also when its cluster knows it as a node, as one does that was deleted as dead
    /// and came back: the node's object goes too. Not with a member of its etcd.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    access: super::Access,
    #[command(flatten)]
    known: Known,
    #[command(flatten)]
    consent: Consent,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Looks, asks, resets.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let (chosen, name) = match (&self.address, &self.node) {
            (Some(address), _) => {
                let hosts = HostArgs::one(address, &self.access);
                // No image is run on a host that is reset.
                let chosen = Chosen::from_arguments(shell, "chasi/none:0", &hosts)?;
                let first = chosen.clusterfile.cluster.hosts.iter().next();
                let name = first.map(|host| host.name.to_string());
                (chosen, name.unwrap_or_default())
            }
            (None, Some(name)) => {
                let chosen = self.known.choose(shell)?;
                known_hosts(&chosen, std::slice::from_ref(name))?;
                (chosen, name.clone())
            }
            (None, None) => return Err(Error::new(Kind::Usage, "no host was named")),
        };
        let request = chosen.look(shell)?;
        shell.block_on(async {
            let prepared =
                nodes::prepare_reset(shell.context(), request, &name, self.force).await?;
            let plan = prepared.plan.clone();
            let shown = Shown {
                text: &describe(&name, &plan),
                patch: String::new(),
                value: &plan,
            };
            let question = format!("Put `{name}` back as it was?");
            let question = Some(question.as_str()).filter(|_| plan.managed || plan.forgotten);
            let decided = self
                .consent
                .decide(shell, prepared, &shown, question)
                .await?;
            let Some(prepared) = decided else {
                return Ok(());
            };
            let left = prepared.apply(shell.context()).await?;
            cluster::not_done(&left.left_out)?;
            let text = || format!("`{name}` is as it was before chasi came.\n");
            self.consent.print(shell, &left, text)
        })
    }
}

fn describe(name: &str, plan: &Reset) -> String {
    let forgotten = match plan.forgotten {
        true => format!("The cluster forgets the node `{name}`.\n"),
        false => String::new(),
    };
    let host = match (plan.managed, &plan.cluster) {
        (false, _) => format!("Nothing to do: nothing of chasi's is on `{name}`.\n"),
        (true, Some(cluster)) => format!(
            "Everything of cluster `{cluster}` goes from `{name}`, with its data; the host then is as it was before.\n"
        ),
        (true, None) => format!("`{name}` is put back as it was before chasi came.\n"),
    };
    host + &forgotten
}
