//! `chasi kubeconfig`: the administrator's credentials.

use std::path::PathBuf;

use super::Shell;
use super::cluster::Known;
use crate::cluster::status;
use crate::error::Result;
use crate::file;

/// Print the administrator's kubeconfig of a cluster.
///
/// Its server is the first control plane that answers, unless the Clusterfile
/// names a `controlPlaneEndpoint`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// Write it to this file, readable only by you, and not to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The server to name in it, such as `https://10.0.0.1:6443`.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

impl Args {
    /// Fetches it and prints it.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let work = status::kubeconfig(shell.context(), &request, self.server.as_deref());
        let text = shell.block_on(work)?;
        match &self.output {
            Some(path) => file::write(path, text.as_bytes(), 0o600),
            None => shell.result(&text),
        }
    }
}
