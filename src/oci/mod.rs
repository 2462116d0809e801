//! Container and cluster images by the OCI specifications: references, the
//! store, layers, cluster images, and the registry client.
//!
//! Everything that comes from outside (a registry, an archive, a layout, a
//! layer) is hostile until it has been parsed here: documents are bounded in
//! size, count and depth, content is compared with its digest, and only SHA-256
//! is accepted. What this room writes is deterministic: the same input gives the
//! same bytes, whoever writes them, wherever and whenever.

pub mod archive;
pub mod auth;
mod document;
pub mod http;
pub mod image;
pub mod layer;
pub mod mirror;
pub mod reference;
pub mod registry;
pub mod store;

use crate::digest::Digest;

pub use document::{MAX_DESCRIPTORS, MAX_DOCUMENT};
pub use image::{ClusterImage, ContainerImage, Platform};
pub use reference::Reference;
pub use store::Store;

/// The media types that chasi writes or understands.
pub mod media {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// The empty JSON object, `{}`.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// A layer: a tar archive, compressed by zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's multi-platform list, schema 2.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest, schema 1: refused, its digest does not name its bytes.
    pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
    /// The artifact type of a cluster image's index.
    pub const CLUSTER: &str = "application/vnd.chasi.cluster.v1";
    /// The artifact type of the manifest that carries one container image.
    pub const CONTAINER_IMAGE: &str = "application/vnd.chasi.container-image.v1";

    /// Whether a document of this type lists manifests.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_LIST)
    }

    /// Whether a document of this type lists a configuration and layers.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }
}

/// The annotations that chasi writes.
pub mod annotation {
    /// On a layer's descriptor: what kind of layer it is.
    pub const LAYER_KIND: &str = "dev.chasi.layer.kind";
    /// On a container image's manifest and descriptor: its reference, fully
    /// qualified.
    pub const IMAGE_REFERENCE: &str = "dev.chasi.image.reference";
    /// On a descriptor in a layout's `index.json`: the name of the image.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
}

/// A piece of content: what it is, its name, and its size.
#[derive(
    Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blob {
    /// The media type.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// The number of bytes.
    pub size: u64,
}

impl Blob {
    /// The blob that `bytes` are.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Blob {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        }
    }

    /// Whether it is an index or a manifest.
    pub(crate) fn is_document(&self) -> bool {
        media::is_index(&self.media_type) || media::is_manifest(&self.media_type)
    }

    /// Whether two descriptors can both be true of one content: the same digest
    /// and size, and both or none of them a document. Media types of layers may
    /// differ, because Docker and OCI have different words for the same thing.
    pub(crate) fn agrees(&self, other: &Blob) -> bool {
        self.digest == other.digest
            && self.size == other.size
            && self.is_document() == other.is_document()
    }
}
