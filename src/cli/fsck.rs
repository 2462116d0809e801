//! `chasi fsck`: looking for damage.

use std::path::PathBuf;

use super::{Format, Shell, config};
use crate::error::{Error, Kind, Result};
use crate::oci::Store;
use crate::oci::store::CHECKS;

/// Look for damage in the store
///
/// Reads every byte. Exits with 0 when nothing is damaged, with 7 when something
/// is, and with another code when it could not look.
#[derive(clap::Args)]
pub struct Args {
    /// The store to look at instead of the user's
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// How to write the findings
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Runs all checks.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = match &self.store {
            Some(path) => Store::at(path),
            None => {
                let path = config::store()?;
                // Whether it can be opened is the first check, so a failure counts there.
                Store::create(&path).unwrap_or_else(|_| Store::at(&path))
            }
        };
        let findings = shell.blocking(|ctx| store.fsck(ctx))?;
        match self.format {
            Format::Json => {
                let checks: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
                shell.json(&serde_json::json!({"checks": checks, "findings": findings}))?;
            }
            Format::Table => {
                let found: String = findings
                    .iter()
                    .map(|finding| {
                        format!(
                            "{}: {}: {}; {}\n",
                            finding.check, finding.subject, finding.problem, finding.remedy
                        )
                    })
                    .collect();
                shell.result(&found)?;
            }
        }
        if findings.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Integrity,
            format!(
                "the store `{}` is damaged: {} findings",
                store.root().display(),
                findings.len()
            ),
        ))
    }
}
