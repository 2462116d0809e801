//! `chasi certs`: the certificates of a cluster.

use clap::Subcommand;

use super::cluster::{Known, not_done};
use super::consent::{Consent, Shown};
use super::{Format, Shell, Table};
use crate::cluster::certs::{self, Certificate, Plan, Report, SOON_DAYS};
use crate::error::{Error, Kind, Result};

/// Show when the certificates of a cluster end, and renew them.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(CheckArgs),
    Renew(RenewArgs),
}

/// List all certificates on all hosts, the first to end first.
///
/// Exits with 4 when one ends within 30 days.
#[derive(clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    known: Known,
    /// How to print the list.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

/// Renew the certificates that end within 30 days.
///
/// They are signed anew by the cluster's authorities, for the same keys and names, and
/// are valid as long as the Clusterfile says. Hosts go one after the other, and each is
/// well before the next one begins. Pods are left alone.
#[derive(clap::Args)]
struct RenewArgs {
    #[command(flatten)]
    known: Known,
    /// Renew all of them, also those that end later.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        match &self.command {
            Command::Check(_) => true,
            Command::Renew(args) => args.consent.dry_run,
        }
    }

    /// Does what was asked for.
    pub fn run(self, shell: &Shell) -> Result<()> {
        match self.command {
            Command::Check(args) => args.run(shell),
            Command::Renew(args) => args.run(shell),
        }
    }
}

impl CheckArgs {
    fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let found = shell.block_on(certs::check(shell.context(), &request))?;
        match self.format {
            Format::Json => shell.json(&found)?,
            Format::Table => shell.result(&table(&found.certificates))?,
        }
        let soon = found.certificates.iter().filter(|one| one.ends_soon());
        let (renewed, authorities): (Vec<_>, Vec<_>) = soon.partition(|one| one.is_renewed());
        if !renewed.is_empty() || !authorities.is_empty() {
            let count = renewed.len() + authorities.len();
            let message = format!("{count} certificates end within {SOON_DAYS} days");
            let error = Error::new(Kind::Check, message);
            return Err(match renewed.is_empty() {
                false => error.hint("`chasi certs renew`"),
                true => {
                    error.hint("these are the cluster's authorities, which chasi does not renew")
                }
            });
        }
        not_done(&found.left_out)
    }
}

impl RenewArgs {
    fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        shell.block_on(async {
            let context = shell.context();
            let prepared = certs::prepare(context, request, self.all, self.consent.dry_run).await?;
            let plan = prepared.plan.clone();
            for one in &plan.authorities {
                context.warn(format!(
                    "{}: the authority `{}` ends in {} days, and is not renewed",
                    one.host,
                    one.path,
                    one.days.unwrap_or_default()
                ));
            }
            let shown = Shown {
                text: &describe(&plan),
                patch: String::new(),
                value: &plan,
            };
            let question = Some("Renew them?").filter(|_| !plan.certificates.is_empty());
            let decided = self.consent.decide(shell, prepared, &shown, question);
            let Some(prepared) = decided.await? else {
                return Ok(());
            };
            let report = prepared.apply(context).await?;
            self.consent.print(shell, &report, || summary(&report))?;
            not_done(&report.left_out)
        })
    }
}

fn table(certificates: &[Certificate]) -> String {
    let mut table = Table::new(["HOST", "CERTIFICATE", "SUBJECT", "EXPIRES", "DAYS"]);
    for one in certificates {
        let unread = || one.problem.clone().unwrap_or_else(|| "-".into());
        table.row([
            one.host.clone(),
            one.path.clone(),
            one.subject.clone(),
            one.expires
                .map_or_else(unread, |expires| expires.to_string()),
            one.days.map_or_else(|| "-".into(), |days| days.to_string()),
        ]);
    }
    table.to_string()
}

fn describe(plan: &Plan) -> String {
    let mut text = match plan.certificates.is_empty() {
        true => format!(
            "Nothing to do: no certificate of cluster `{}` ends within {SOON_DAYS} days.\n",
            plan.cluster
        ),
        false => format!(
            "These certificates of cluster `{}` are renewed, one host after the other:\n\n{}",
            plan.cluster,
            table(&plan.certificates)
        ),
    };
    for one in &plan.left_out {
        text += &format!("left out: {}: {}\n", one.host, one.reason);
    }
    text
}

fn summary(report: &Report) -> String {
    let count: usize = report.renewed.values().map(Vec::len).sum();
    if count == 0 {
        return format!(
            "Nothing to do: no certificate of cluster `{}` ends within {SOON_DAYS} days.\n",
            report.cluster
        );
    }
    let mut text = format!("{count} certificates were renewed.\n\n");
    let mut table = Table::new(["HOST", "CERTIFICATES"]);
    for (host, paths) in &report.renewed {
        table.row([host.clone(), paths.len().to_string()]);
    }
    text += &table.to_string();
    text
}
