//! `chasi images`: what is in the store.

use comfy_table::{Table, presets};

use super::{Format, Shell, store};
use crate::error::{Error, Result};
use crate::oci::image::{LABEL_DISTRIBUTION, LABEL_KUBERNETES};
use crate::oci::{Blob, ClusterImage, Reference, Store};

/// List the cluster images in the store
#[derive(clap::Args)]
pub struct Args {
    /// How to write the list
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

#[derive(serde::Serialize)]
struct Row {
    reference: String,
    digest: String,
    /// Bytes of all blobs; images share blobs.
    size: Option<u64>,
    distribution: Option<String>,
    kubernetes: Option<String>,
    platforms: Vec<String>,
    container_images: usize,
    /// Why the image cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Args {
    /// Lists the images.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let store = store::open()?;
        let rows: Vec<_> = store
            .tags()?
            .into_iter()
            .map(|(name, blob)| row(&store, &name, &blob))
            .collect();
        match self.format {
            Format::Json => shell.json(&rows),
            Format::Table => shell.result(&table(&rows)),
        }
    }
}

/// One damaged image does not hide the others.
fn row(store: &Store, name: &Reference, blob: &Blob) -> Row {
    let image = ClusterImage::open(store, blob);
    let problem = image.as_ref().err().map(Error::to_string);
    let image = image.ok();
    let label = |label: &str| image.as_ref()?.rootfs.first()?.labels.get(label).cloned();
    Row {
        reference: name.familiar(),
        digest: blob.digest.to_string(),
        size: image.as_ref().map(ClusterImage::size),
        distribution: label(LABEL_DISTRIBUTION),
        kubernetes: label(LABEL_KUBERNETES),
        platforms: image
            .iter()
            .flat_map(|image| &image.rootfs)
            .map(|rootfs| rootfs.platform.to_string())
            .collect(),
        container_images: image.as_ref().map_or(0, |image| image.images.len()),
        problem,
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "IMAGE",
        "DIGEST",
        "KUBERNETES",
        "PLATFORMS",
        "IMAGES",
        "SIZE",
    ]);
    for row in rows {
        let short = row
            .digest
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let size = match row.size {
            Some(size) => human_size(size),
            None => "damaged".to_owned(),
        };
        table.add_row([
            row.reference.clone(),
            short,
            row.kubernetes.clone().unwrap_or_else(|| "-".into()),
            row.platforms.join(","),
            row.container_images.to_string(),
            size,
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

/// A number of bytes as people read it: `531.2 MB`, by powers of 1000.
pub fn human_size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit < units.len() - 1 {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::human_size;

    #[test]
    fn sizes_are_rounded_to_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (531_200_000, "531.2 MB"),
            (5_000_000_000_000_000, "5000.0 TB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
