//! `chasi boot`: the step that a host runs before its container runtime and
//! kubelet start. People do not type it, but may.

use super::Shell;
use crate::error::Result;
use crate::host::Root;
use crate::host::boot::{self, Boot};

/// Complete or undo a switch of generations that was interrupted on this host.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    /// Settles what was interrupted, and says what it was.
    pub fn run(self, shell: &Shell) -> Result<()> {
        match boot::run(&Root::host()?)? {
            Boot::AgentInCharge => shell
                .context()
                .note("an agent is in charge of this host, and settles things itself"),
            Boot::Settled(settled) => {
                for one in settled {
                    shell.context().note(format!(
                        "{:?} of the run {}: {:?}",
                        one.operation, one.run, one.outcome
                    ));
                }
            }
        }
        Ok(())
    }
}
