//! `chasi load`: images from a file.

use std::path::PathBuf;

use super::{Format, Shell, store};
use crate::error::Result;
use crate::oci::Reference;
use crate::oci::archive::{self, Source};

/// Load cluster images from an OCI archive or layout into the store
#[derive(clap::Args)]
pub struct Args {
    /// The archive, or a directory that is an OCI image layout
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// The image's name, in place of the one that it has there
    #[arg(long, value_name = "NAME")]
    name: Option<Reference>,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Loads the images.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let hold = store::open()?.hold()?;
        let source = match self.input.is_dir() {
            true => Source::Directory(self.input),
            false => Source::File(self.input),
        };
        let loaded =
            shell.blocking(|ctx| archive::load(ctx, &hold, &source, self.name.as_ref()))?;
        match self.format {
            Format::Json => shell.json(&loaded),
            Format::Table => {
                let text: String = loaded
                    .iter()
                    .map(|image| {
                        format!("loaded {}, {}\n", image.reference.familiar(), image.digest)
                    })
                    .collect();
                shell.result(&text)
            }
        }
    }
}
