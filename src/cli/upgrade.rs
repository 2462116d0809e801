//! `chasi upgrade`: a cluster gets another image, or what its Clusterfile says now.

use super::cluster::Known;
use super::consent::Consent;
use super::rolling::Rolling;
use super::run::With;
use super::{Shell, rollback, run};
use crate::cluster::check::Selection;
use crate::error::{Error, Kind, Result};

/// Bring a cluster to another image while it is in use.
///
/// Everything is on the hosts before the first one changes. Then the control planes
/// change, one after the other, and then the nodes: drained, changed, ready again.
/// What fails stops the upgrade where it is, and the cluster serves on; running it
/// again does the rest.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster image; the one that the Clusterfile names when none is given.
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    rolling: Rolling,
    /// What these checks find does not hinder it: ids of `docs/checks.md`, or names of
    /// areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    #[command(flatten)]
    known: Known,
    /// Write the image into the Clusterfile.
    #[arg(long)]
    write: bool,
    /// When it fails, bring the cluster back to what it was.
    #[arg(long)]
    rollback_on_failure: bool,
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
        let edit = match &self.image {
            None => None,
            Some(image) => {
                let image = image.parse().map_err(|cause: crate::spec::Invalid| {
                    Error::new(Kind::Usage, format!("`{image}` names no image"))
                        .because(cause.to_string())
                })?;
                Some(chosen.with_image(&image)?)
            }
        };
        let wanted = edit.as_ref().map_or(&chosen, |edit| &edit.chosen);
        let selection = Selection::new(&[], &self.ignore)?;
        let mut request = wanted.request(shell, self.consent.dry_run, selection)?;
        request.pace = self.rolling.pace();
        request.drain = self.rolling.drain();
        request.command = "upgrade";
        let with = match &edit {
            Some(edit) => With::Edit(edit, self.write),
            None => With::Nothing,
        };
        shell.block_on(async {
            let failure = match run::apply(shell, &self.consent, request, wanted, with).await {
                Err(failure) if self.rollback_on_failure => failure,
                result => return result,
            };
            let how = (&self.rolling, &self.ignore[..], self.write, &self.consent);
            Err(rollback::undo(shell, how, &self.known, failure).await)
        })
    }
}
