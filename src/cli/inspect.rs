//! `chasi inspect`: what an image is made of.

use super::images::human_size;
use super::store::{self, Which};
use super::{Format, Shell};
use crate::error::Result;
use crate::oci::ClusterImage;
use crate::oci::image::Rootfs;
use crate::spec::plugin::{self, Manifest};

/// Show what a cluster image is made of
#[derive(clap::Args)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "IMAGE")]
    image: Which,
    /// How to write it
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

#[derive(serde::Serialize)]
struct Description<'a> {
    reference: String,
    #[serde(flatten)]
    image: &'a ClusterImage,
    /// Bytes of all blobs.
    size: u64,
}

impl Args {
    /// Shows the image.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = store::open()?;
        let (name, blob) = self.image.find(&store)?;
        let image = ClusterImage::open(&store, &blob)?;
        match self.format {
            Format::Json => shell.json(&Description {
                reference: name.to_string(),
                size: image.size(),
                image: &image,
            }),
            Format::Table => {
                let head = format!(
                    "image      {name}\ndigest     {}\nsize       {}\n",
                    image.digest,
                    human_size(image.size())
                );
                shell.result(&(head + &text(&image)))
            }
        }
    }
}

fn text(image: &ClusterImage) -> String {
    let mut text: String = image.rootfs.iter().map(rootfs).collect();
    if !image.images.is_empty() {
        text.push_str("\ncontainer images\n");
    }
    for container in &image.images {
        let size = container.blobs.iter().map(|blob| blob.size).sum();
        text.push_str(&format!(
            "  {}  {}  {}\n",
            container.root.digest.short(),
            human_size(size),
            container.reference.familiar()
        ));
    }
    text
}

fn rootfs(rootfs: &Rootfs) -> String {
    let mut text = format!("\nplatform   {}\n", rootfs.platform);
    for (name, value) in &rootfs.labels {
        let plugin = name.strip_prefix(plugin::LABEL);
        if let Some(Ok(plugin)) = plugin.map(|name| Manifest::from_label(name, value)) {
            let (name, does) = (&plugin.name, &plugin.description);
            text.push_str(&format!("  plugin   {name}: {does}\n"));
            continue;
        }
        text.push_str(&format!("  label    {name}={}\n", value.escape_debug()));
    }
    for (name, value) in &rootfs.env {
        text.push_str(&format!("  env      {name}={}\n", value.escape_debug()));
    }
    for layer in &rootfs.layers {
        text.push_str(&format!(
            "  layer    {}  {}  {}\n",
            layer.blob.digest.short(),
            human_size(layer.blob.size),
            layer.kind
        ));
    }
    text
}
