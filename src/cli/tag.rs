//! `chasi tag`: another name for an image.

use super::store::{self, Which};
use super::{Format, Shell};
use crate::error::Result;
use crate::oci::Reference;

/// Give an image in the store another name
#[derive(clap::Args)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "IMAGE")]
    image: Which,
    /// The new name; an image that has it loses it
    #[arg(value_name = "NAME")]
    name: Reference,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Sets the name.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = store::open()?;
        let hold = store.hold()?;
        let (_, blob) = self.image.find(&store)?;
        hold.tag(&self.name, &blob)?;
        match self.format {
            Format::Json => shell.json(&serde_json::json!({
                "reference": self.name,
                "digest": blob.digest,
            })),
            Format::Table => {
                shell.result(&format!("{} is {}\n", self.name.familiar(), blob.digest))
            }
        }
    }
}
