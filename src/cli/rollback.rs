//! `chasi rollback`: a cluster becomes what it was at an earlier revision.

use super::cluster::{Chosen, Known};
use super::consent::Consent;
use super::rolling::Rolling;
use super::run::With;
use super::{Shell, run, store};
use crate::cluster::check::Selection;
use crate::cluster::rollback::{Target, Wanted, find};
use crate::error::{Error, Kind, Result};
use crate::spec::Invalid;

/// Bring a cluster back to an earlier revision while it is in use.
///
/// The nodes go back first, workers before control planes: drained, changed, ready
/// again. Then the control planes, one after the other, and then the cluster's own
/// objects. What was written to the API meanwhile stays. What an upgrade that failed
/// has not changed is not touched; running it again does the rest.
#[derive(clap::Args)]
pub struct Args {
    /// The revision, as `chasi history` lists it; the one before when none is given.
    #[arg(long, value_name = "N")]
    to: Option<u32>,
    #[command(flatten)]
    rolling: Rolling,
    /// What these checks find does not hinder it: ids of `docs/checks.md`, or names of
    /// areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    #[command(flatten)]
    known: Known,
    /// Write the revision's image into the Clusterfile.
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

    /// Prepares, asks, applies.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let back = Back {
            rolling: &self.rolling,
            ignore: &self.ignore,
            write: self.write,
            consent: &self.consent,
        };
        let wanted = match self.to {
            Some(number) => Wanted::Number(number),
            None => Wanted::Before,
        };
        shell.block_on(async {
            let store = store::open()?;
            let request = chosen.look(shell)?;
            match find(shell.context(), &request, &store, wanted).await? {
                Some(target) => back.go(shell, &chosen, &target, shell.run_id()).await,
                None => Ok(()),
            }
        })
    }
}

/// How to go back.
struct Back<'a> {
    rolling: &'a Rolling,
    ignore: &'a [String],
    write: bool,
    consent: &'a Consent,
}

impl Back<'_> {
    async fn go(&self, shell: &Shell, chosen: &Chosen, target: &Target, run: &str) -> Result<()> {
        let revision = &target.revision;
        let wrong = |cause: Invalid| Error::new(Kind::Failed, cause.to_string());
        let image = revision.reference.parse().map_err(wrong)?;
        let edit = chosen.with_image(&image)?;
        let selection = Selection::new(&[], self.ignore)?;
        let dry_run = self.consent.dry_run;
        let wanted = &edit.chosen;
        let mut request =
            wanted.request_back(shell, store::open()?, revision, dry_run, selection)?;
        request.visitor.run = run.to_owned();
        request.pace = self.rolling.pace();
        request.drain = self.rolling.drain();
        if wanted.digest != revision.clusterfile {
            shell.context().warn(format!(
                "the Clusterfile is not what it was at revision {}: the next `chasi run` goes on to what it says",
                revision.number
            ));
        }
        let with = With::Edit(&edit, self.write);
        run::apply(shell, self.consent, request, wanted, with).await
    }
}

/// After an upgrade that failed: brings the cluster back to what it was, when anything
/// was changed. Gives the failure back, with what has become of it.
pub async fn undo(
    shell: &Shell,
    (rolling, ignore, write, consent): (&Rolling, &[String], bool, &Consent),
    known: &Known,
    failure: Error,
) -> Error {
    if failure.kind() == Kind::Interrupted || shell.context().cancel.is_cancelled() {
        return failure;
    }
    let back = Back {
        rolling,
        ignore,
        write,
        consent: &consent.agreed(),
    };
    let run = format!("{}-back", shell.run_id());
    let work = async {
        // As it is now: the upgrade may have written into it.
        let chosen = known.choose(shell)?;
        let store = store::open()?;
        let request = chosen.look(shell)?;
        let wanted = Wanted::BeforeFailed(shell.run_id());
        let Some(target) = find(shell.context(), &request, &store, wanted).await? else {
            return Ok(None);
        };
        shell.context().warn(format!(
            "the upgrade failed, and the cluster goes back to revision {}: {failure}",
            target.revision.number
        ));
        back.go(shell, &chosen, &target, &run).await?;
        Ok(Some(target.revision.number))
    };
    match work.await {
        Ok(None) => failure,
        Ok(Some(number)) => failure.hint(format!(
            "the cluster was rolled back to revision {number}; mend the cause, then run the same command again"
        )),
        Err(error) => failure
            .and(error)
            .hint("the cluster was not rolled back wholly; `chasi rollback` does the rest"),
    }
}
