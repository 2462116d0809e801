//! `chasi save`: images as a file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::store::{self, Which};
use super::{Format, Shell};
use crate::error::Result;
use crate::oci::archive::{self, Target};

/// Save cluster images as an OCI archive
#[derive(clap::Args)]
pub struct Args {
    /// The images, by name or digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Which>,
    /// The archive, or a directory when it ends in `/`
    #[arg(short, long, value_name = "FILE")]
    output: OsString,
    /// How to write the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Saves the images.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let hold = store::open()?.hold()?;
        let images = self
            .images
            .iter()
            .map(|image| image.find(&hold))
            .collect::<Result<Vec<_>>>()?;
        let is_directory = self.output.as_encoded_bytes().ends_with(b"/");
        let path = PathBuf::from(self.output);
        let target = match is_directory {
            true => Target::Directory(path.clone()),
            false => Target::File(path.clone()),
        };
        shell.blocking(|ctx| archive::save(ctx, &hold, &images, &target))?;
        match self.format {
            Format::Json => {
                let saved: Vec<_> = images
                    .iter()
                    .map(|(name, root)| serde_json::json!({"reference": name, "digest": root.digest}))
                    .collect();
                shell.json(&serde_json::json!({"output": path, "images": saved}))
            }
            Format::Table => {
                let saved: String = images
                    .iter()
                    .map(|(name, root)| format!("saved {}, {}\n", name.familiar(), root.digest))
                    .collect();
                shell.result(&saved)
            }
        }
    }
}
