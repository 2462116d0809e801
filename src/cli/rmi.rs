//! `chasi rmi`: removing names, and what only they led to.

use super::images::human_size;
use super::{Format, Shell, store};
use crate::error::{Kind, Result};
use crate::oci::Reference;
use crate::oci::store::Pruned;

/// Remove images from the store
#[derive(clap::Args)]
pub struct Args {
    /// The images' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Reference>,
    /// Remove the names only; `chasi prune` removes the content later
    #[arg(long)]
    keep_content: bool,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Removes the names, and then what nothing refers to any more.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = store::open()?;
        // All or none: a wrong name must not leave half of the work done.
        for name in &self.names {
            store.resolve(name)?;
        }
        for name in &self.names {
            store.untag(name)?;
        }
        let mut pruned = Pruned::default();
        if !self.keep_content {
            match shell.blocking(|ctx| store.prune(ctx, false)) {
                Ok(done) => pruned = done,
                // The names are gone, as was asked for; the content can wait.
                Err(error) if error.kind() == Kind::Locked => {
                    shell
                        .context()
                        .warn(format!("{error}; `chasi prune` removes the content later"));
                }
                Err(error) => return Err(error),
            }
        }
        match self.format {
            Format::Json => {
                shell.json(&serde_json::json!({"removed": self.names, "pruned": pruned}))
            }
            Format::Table => {
                let names: String = self
                    .names
                    .iter()
                    .map(|name| format!("removed {}\n", name.familiar()))
                    .collect();
                shell.result(&format!("{names}freed {}\n", human_size(pruned.bytes)))
            }
        }
    }
}
