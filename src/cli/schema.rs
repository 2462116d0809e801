//! `chasi schema`: the JSON Schema of the Clusterfile.

use super::Shell;
use crate::error::Result;
use crate::spec::Clusterfile;

/// Print the JSON Schema of the Clusterfile, for editors
///
/// An editor with a YAML language server then completes and checks a Clusterfile
/// while it is written:
///
///   chasi schema > clusterfile.schema.json
///   # yaml-language-server: $schema=clusterfile.schema.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {}

impl Args {
    /// Writes the schema to standard output.
    pub fn run(self, shell: &Shell) -> Result<()> {
        shell.json(&Clusterfile::schema())
    }
}
