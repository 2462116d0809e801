//! `chasi completion`: completion scripts for shells.

use super::Shell;
use crate::error::Result;

/// Print a completion script for a shell.
#[derive(clap::Args)]
pub struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Args {
    /// Writes the script to standard output.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "chasi", &mut script);
        shell.result(&String::from_utf8_lossy(&script))
    }
}
