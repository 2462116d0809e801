//! The cluster image, read whole and checked before anyone uses a part of it.
//!
//! Format (`docs/architecture.md`): an OCI image index with the artifact type
//! `application/vnd.chasi.cluster.v1`. It lists
//! - a rootfs manifest for each platform: an image manifest with an image
//!   configuration and zstd layers, each layer with the annotation
//!   `dev.chasi.layer.kind`;
//! - an artifact manifest for each container image that the cluster runs, whose
//!   layers are that image's own documents and layers, byte for byte. The first
//!   is the root: what the reference resolved to.
//!
//! Invariants of a [`ClusterImage`]: a platform and a reference occur once; every
//! layer has a kind and a diff id; a container image's blobs are exactly those
//! that its root leads to, except whole manifests of platforms that were left
//! out.

mod build;
mod open;
mod platform;
mod program;
mod unpacked;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::str::FromStr;

use rayon::prelude::*;

use super::layer::{Limits, Reader};
use super::{Blob, Reference, Store};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::event::Context;

pub use build::Builder;
pub(crate) use open::check_type;
pub use platform::Platform;
pub use unpacked::Sizes;

/// The label that says which distribution the image installs.
pub const LABEL_DISTRIBUTION: &str = "dev.chasi.distribution";
/// The label that says which Kubernetes version the image installs.
pub const LABEL_KUBERNETES: &str = "dev.chasi.kubernetes.version";

/// A cluster image. Opened by [`ClusterImage::open`], written by [`Builder`].
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct ClusterImage {
    /// The digest of the index: the image's identity.
    pub digest: Digest,
    /// The index.
    pub index: Blob,
    /// What goes onto hosts, one for each platform, sorted by platform.
    pub rootfs: Vec<Rootfs>,
    /// The container images, sorted by reference.
    pub images: Vec<ContainerImage>,
}

/// What goes onto hosts of one platform.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Rootfs {
    /// The hosts' platform.
    pub platform: Platform,
    /// The image manifest.
    pub manifest: Blob,
    /// The image configuration.
    pub config: Blob,
    /// What the image says of itself.
    pub labels: BTreeMap<String, String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of a rootfs.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The compressed archive.
    pub blob: Blob,
    /// The digest of the archive without compression: the layer's identity.
    pub diff_id: Digest,
    /// What the layer is for.
    pub kind: LayerKind,
}

/// A container image that the cluster runs.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerImage {
    /// The name that pods use, fully qualified.
    pub reference: Reference,
    /// The artifact manifest that carries the image.
    pub manifest: Blob,
    /// What the reference stands for: an index, a list or a manifest.
    pub root: Blob,
    /// The root and everything that it leads to, the root first.
    pub blobs: Vec<Blob>,
}

/// What a layer is for.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// The operating system's programs and settings.
    Os,
    /// The container runtime.
    Runtime,
    /// Kubernetes itself.
    Kubernetes,
    /// Virtual clusters.
    Vcluster,
    /// The pod network.
    Cni,
    /// Storage.
    Csi,
    /// Tools for operators.
    Toolchain,
    /// Services for the whole cluster.
    Addon,
    /// Applications.
    App,
}

impl LayerKind {
    /// All kinds.
    pub const ALL: [LayerKind; 9] = [
        LayerKind::Os,
        LayerKind::Runtime,
        LayerKind::Kubernetes,
        LayerKind::Vcluster,
        LayerKind::Cni,
        LayerKind::Csi,
        LayerKind::Toolchain,
        LayerKind::Addon,
        LayerKind::App,
    ];

    /// The kind's name, as in a Kubefile and in the annotation.
    pub fn name(self) -> &'static str {
        match self {
            LayerKind::Os => "os",
            LayerKind::Runtime => "runtime",
            LayerKind::Kubernetes => "kubernetes",
            LayerKind::Vcluster => "vcluster",
            LayerKind::Cni => "cni",
            LayerKind::Csi => "csi",
            LayerKind::Toolchain => "toolchain",
            LayerKind::Addon => "addon",
            LayerKind::App => "app",
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LayerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        LayerKind::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                let names = LayerKind::ALL.map(LayerKind::name).join("`, `");
                Error::new(Kind::Input, format!("`{text}` is not a kind of layer"))
                    .hint(format!("the kinds are `{names}`"))
            })
    }
}

impl Layer {
    /// Opens the layer to read it; [`layer::Reader::finish`] fails unless it is
    /// what its diff id says.
    ///
    /// [`layer::Reader::finish`]: super::layer::Reader::finish
    pub fn read(&self, store: &Store, limits: Limits) -> Result<Reader<File>> {
        let name = format!("layer {} ({})", self.blob.digest, self.kind);
        Ok(Reader::new(store.open_blob(&self.blob)?, name, limits)?.expecting(self.diff_id))
    }
}

impl ClusterImage {
    /// The rootfs for a platform.
    pub fn rootfs(&self, platform: &Platform) -> Option<&Rootfs> {
        self.rootfs
            .iter()
            .find(|rootfs| rootfs.platform == *platform)
    }

    /// All blobs that make up the image, each once, the index last: every
    /// document comes after what it refers to, so an interrupted transfer in this
    /// order never leaves a document without its content.
    pub fn blobs(&self) -> Vec<Blob> {
        let mut blobs = Vec::new();
        for rootfs in &self.rootfs {
            blobs.extend(rootfs.layers.iter().map(|layer| layer.blob.clone()));
            blobs.extend([rootfs.config.clone(), rootfs.manifest.clone()]);
        }
        for image in &self.images {
            blobs.extend(image.blobs.iter().rev().cloned());
            blobs.extend([Blob::of(super::media::EMPTY, b"{}"), image.manifest.clone()]);
        }
        blobs.push(self.index.clone());
        let mut seen = HashSet::new();
        blobs.retain(|blob| seen.insert(blob.digest));
        blobs
    }

    /// Reads every layer to its end and checks all entries and the diff ids, as a
    /// host will. The layers are read in parallel.
    pub fn check_layers(&self, ctx: &Context, store: &Store, limits: &Limits) -> Result<()> {
        let layers: HashSet<&Layer> = self
            .rootfs
            .iter()
            .flat_map(|rootfs| &rootfs.layers)
            .collect();
        layers.into_par_iter().try_for_each(|layer| {
            ctx.check_cancelled()?;
            layer.read(store, limits.clone())?.finish()?;
            Ok(())
        })
    }

    /// The size of all blobs together, in bytes.
    pub fn size(&self) -> u64 {
        self.blobs().iter().map(|blob| blob.size).sum()
    }
}

#[cfg(test)]
mod tests;
