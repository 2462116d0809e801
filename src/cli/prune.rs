//! `chasi prune`: removing what nothing refers to.

use super::images::human_size;
use super::{Format, Shell, store};
use crate::error::Result;

/// Remove content that no image in the store needs
#[derive(clap::Args)]
pub struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Removes what nothing refers to.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = store::open()?;
        let pruned = shell.blocking(|ctx| store.prune(ctx, self.dry_run))?;
        match self.format {
            Format::Json => shell.json(&pruned),
            Format::Table => {
                let verb = if self.dry_run {
                    "would remove"
                } else {
                    "removed"
                };
                shell.result(&format!(
                    "{verb} {} blobs and {} unfinished files, {}\n",
                    pruned.blobs,
                    pruned.temporary_files,
                    human_size(pruned.bytes)
                ))
            }
        }
    }
}
