//! Cluster images that others begin with or include.

use std::collections::BTreeMap;

use super::images::Images;
use super::summary::{Layer, Origin};
use crate::error::{Error, Kind, Result};
use crate::oci::image::{self, Rootfs};
use crate::oci::{ClusterImage, Platform, Reference};

/// Labels that describe the image that they are in, and no other.
const DESCRIPTION: &str = "org.opencontainers.image.";

/// Labels by which chasi decides what to do; two images must not disagree.
const MEANING: &str = "dev.chasi.";

/// The rootfs of an image that is being put together.
#[derive(Debug, Default)]
pub struct Assembled {
    /// The layers, lowest first.
    pub layers: Vec<image::Layer>,
    /// The same, for the report.
    pub told: Vec<Layer>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// For each label its values and the images that they came from.
    labels: BTreeMap<String, Vec<(String, String)>>,
}

impl Assembled {
    /// Takes a base image over, whole.
    pub fn base(
        &mut self,
        image: &ClusterImage,
        name: &Reference,
        platform: &Platform,
        images: &mut Images,
    ) -> Result<()> {
        self.take(image, name, platform, images, |_| true)
    }

    /// Takes an included image over: everything but what describes itself.
    pub fn include(
        &mut self,
        image: &ClusterImage,
        name: &Reference,
        platform: &Platform,
        images: &mut Images,
    ) -> Result<()> {
        self.take(image, name, platform, images, |label| {
            !label.starts_with(DESCRIPTION)
        })
    }

    fn take(
        &mut self,
        image: &ClusterImage,
        name: &Reference,
        platform: &Platform,
        images: &mut Images,
        is_taken: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let from = name.familiar();
        let rootfs = rootfs(image, &from, platform)?;
        for layer in &rootfs.layers {
            // Two images with a common base bring its layers once.
            if self
                .layers
                .iter()
                .any(|earlier| earlier.diff_id == layer.diff_id)
            {
                continue;
            }
            self.layers.push(layer.clone());
            self.told.push(Layer {
                kind: layer.kind,
                digest: layer.blob.digest,
                diff_id: layer.diff_id,
                size: layer.blob.size,
                unpacked: None,
                origin: Origin::Included(from.clone()),
            });
        }
        self.env.extend(rootfs.env.clone());
        for (label, value) in rootfs.labels.iter().filter(|(label, _)| is_taken(label)) {
            let values = self.labels.entry(label.clone()).or_default();
            values.push((value.clone(), from.clone()));
        }
        images.include(&image.images, &from)
    }

    /// The labels: the Kubefile's own, and of each other one the last value.
    pub fn labels(&self, own: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        let mut labels = own.clone();
        for (label, values) in &self.labels {
            let Some(((last, by), earlier)) = values.split_last() else {
                continue;
            };
            if own.contains_key(label) {
                continue;
            }
            if label.starts_with(MEANING)
                && let Some((other, of)) = earlier.iter().find(|(value, _)| value != last)
            {
                return Err(Error::new(
                    Kind::Input,
                    format!("the label `{label}` is `{other}` in `{of}` and `{last}` in `{by}`"),
                )
                .hint(format!(
                    "the images do not go together; if they do, say so with `LABEL {label}={last}`"
                )));
            }
            labels.insert(label.clone(), last.clone());
        }
        Ok(labels)
    }
}

fn rootfs<'a>(image: &'a ClusterImage, name: &str, platform: &Platform) -> Result<&'a Rootfs> {
    image.rootfs(platform).ok_or_else(|| {
        let has: Vec<String> = image
            .rootfs
            .iter()
            .map(|rootfs| format!("`{}`", rootfs.platform))
            .collect();
        Error::new(
            Kind::NotFound,
            format!("`{name}` has nothing for `{platform}`"),
        )
        .because(format!("it was built for {}", has.join(", ")))
        .hint(format!("build it with `--platform {platform}`"))
    })
}
