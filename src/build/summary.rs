//! What a build tells in the end.

use std::path::PathBuf;

use serde::Serialize;

use super::manifests::Unseen;
use crate::digest::Digest;
use crate::oci::image::LayerKind;
use crate::oci::{Platform, Reference};

/// What was built. Its JSON is the result of `chasi build --format json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The image's name.
    pub reference: Reference,
    /// The image's digest.
    pub digest: Digest,
    /// The size of all its blobs, in bytes.
    pub size: u64,
    /// What goes onto hosts.
    pub rootfs: Vec<Rootfs>,
    /// The container images, by reference.
    pub images: Vec<Image>,
    /// Where images may be named that could not be seen.
    pub unseen: Vec<Unseen>,
    /// The lock file.
    pub lock_file: PathBuf,
    /// How long it took.
    pub seconds: f64,
}

/// What goes onto hosts of one platform.
#[derive(Clone, Debug, Serialize)]
pub struct Rootfs {
    /// The platform.
    pub platform: Platform,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer. A layer of the Kubefile is several of these when it is large.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// What it is for.
    pub kind: LayerKind,
    /// The digest of the compressed archive.
    pub digest: Digest,
    /// The digest of the archive without compression.
    pub diff_id: Digest,
    /// Bytes, compressed.
    pub size: u64,
    /// Bytes without compression, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpacked: Option<u64>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a layer came from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It was written by this build.
    Built,
    /// An earlier build wrote the same one.
    Cached,
    /// It belongs to a base or included image of this name.
    Included(String),
}

/// A container image.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// The name that pods use.
    pub reference: Reference,
    /// What it resolved to.
    pub digest: Digest,
    /// The size of its blobs, in bytes.
    pub size: u64,
    /// Who names it.
    pub named_by: Vec<String>,
}
