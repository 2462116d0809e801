//! `chasi backup restore`: a cluster from one file.

use std::path::PathBuf;

use super::super::Shell;
use super::super::cluster::Chosen;
use super::super::consent::Consent;
use super::super::run::{self, With};
use super::place::Way;
use crate::cluster::backup::{self, Identities};
use crate::cluster::check::Selection;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::remote::Secret;

/// The largest file of identities, in bytes.
const LARGEST: u64 = 64 << 10;

/// Make a cluster on fresh hosts from its image and a backup.
///
/// It is what `chasi run` does, with the keys and the data of the backup: objects,
/// tokens and kubeconfigs of the old cluster are valid in the new one. Running it again
/// is how one that was interrupted goes on. The hosts may have other addresses than
/// the old ones; nodes that the Clusterfile does not name are removed from the API.
#[derive(clap::Args)]
pub struct Args {
    /// The backup: a file, or `ssh://USER@HOST[:PORT]/FILE`.
    #[arg(value_name = "FILE")]
    backup: String,
    /// The Clusterfile.
    #[arg(short, long, value_name = "CLUSTERFILE")]
    file: PathBuf,
    /// The file with the private key of age, when the backup is encrypted.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    way: Way,
    /// What these checks find does not hinder it: ids of `docs/checks.md`, or names of
    /// areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    #[command(flatten)]
    consent: Consent,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Reads the backup, prepares, asks, applies.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = Chosen::from_file(shell, &self.file)?;
        let selection = Selection::new(&[], &self.ignore)?;
        let identities = self.identities(shell)?;
        let (place, name) = self.way.file(&self.backup)?;
        let mut request = chosen.request(shell, self.consent.dry_run, selection)?;
        shell.block_on(async {
            let opened = backup::open(shell.context(), &place, &name, identities);
            request.restore = Some(opened.await?);
            run::apply(shell, &self.consent, request, &chosen, With::Nothing).await
        })
    }

    fn identities(&self, shell: &Shell) -> Result<Identities> {
        let Some(path) = &self.identity else {
            return Ok(Identities::none());
        };
        let problem = || format!("cannot read `{}`", path.display());
        let size = std::fs::metadata(path).or_err(Kind::Input, problem)?.len();
        if size > LARGEST {
            let message = format!(
                "`{}` is too large to be a file of identities",
                path.display()
            );
            return Err(Error::new(Kind::Input, message));
        }
        let text = std::fs::read_to_string(path).or_err(Kind::Input, problem)?;
        for line in text
            .lines()
            .filter(|line| line.starts_with("AGE-SECRET-KEY-"))
        {
            shell.hide(line.trim());
        }
        Ok(Identities::new(Secret::new(text)))
    }
}
