//! `chasi push`: sending a cluster image to a registry.

use super::store::{self, Which};
use super::{Format, Shell, config};
use crate::error::{Error, Kind, Result};
use crate::oci::{Reference, registry};

/// Send a cluster image from the store to a registry
#[derive(clap::Args)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "IMAGE")]
    image: Which,
    /// The name to push it under, when it is not its own
    #[arg(value_name = "NAME")]
    name: Option<Reference>,
    /// Go to TO instead of FROM, a prefix of references (repeatable)
    #[arg(long = "mirror", value_name = "FROM=TO")]
    mirrors: Vec<String>,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Pushes the image.
    pub fn run(self, shell: &Shell) -> Result<()> {
        // Held, so that nothing is pruned while it is sent.
        let hold = store::open()?.hold()?;
        let (own, blob) = self.image.find(&hold)?;
        let name = match (self.name, &self.image) {
            (Some(name), _) => name,
            (None, Which::Name(_)) => own,
            (None, Which::Digest(_)) => {
                return Err(Error::new(Kind::Usage, "it is not clear under which name to push")
                    .hint("write the name behind the digest: `chasi push sha256:… registry.example.com/demo:1`"));
            }
        };
        let client = registry::Client::new(config::network(&self.mirrors)?);
        shell.block_on(client.push(shell.context(), &hold, &blob, &name))?;
        match self.format {
            Format::Json => shell.json(&serde_json::json!({
                "reference": name,
                "digest": blob.digest,
            })),
            Format::Table => {
                shell.result(&format!("pushed {}, {}\n", name.familiar(), blob.digest))
            }
        }
    }
}
