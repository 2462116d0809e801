//! `chasi pull`: fetching a cluster image from a registry.

use super::images::human_size;
use super::{Format, Shell, config, store};
use crate::error::{Error, Kind, Result};
use crate::oci::{Reference, registry};

/// Fetch a cluster image from a registry into the store
#[derive(clap::Args)]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Go to TO instead of FROM, a prefix of references (repeatable)
    #[arg(long = "mirror", value_name = "FROM=TO")]
    mirrors: Vec<String>,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Pulls the image.
    pub fn run(self, shell: &Shell) -> Result<()> {
        if self.image.tag().is_none() {
            return Err(
                Error::new(Kind::Usage, "the image would have no name in the store")
                    .hint("write a tag before the digest: `example.com/demo:1@sha256:…`"),
            );
        }
        let hold = store::open()?.hold()?;
        let client = registry::Client::new(config::network(&self.mirrors)?);
        let ctx = shell.context();
        let image = shell.block_on(client.pull(ctx, &hold, &self.image))?;
        match self.format {
            Format::Json => shell.json(&serde_json::json!({
                "reference": self.image,
                "digest": image.digest,
                "size": image.size(),
            })),
            Format::Table => shell.result(&format!(
                "pulled {}, {}, {}\n",
                self.image.familiar(),
                image.digest,
                human_size(image.size())
            )),
        }
    }
}
