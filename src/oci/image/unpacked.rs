//! How large the layers of a cluster image are without compression: what a host needs
//! room for.
//!
//! No document says it, so each layer is read to its end once. What was found out is
//! kept beside the store's blobs, by digest, and is only ever a saving: without it, or
//! when it cannot be understood, the layers are read again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;

use super::ClusterImage;
use crate::digest::Digest;
use crate::error::Result;
use crate::event::Context;
use crate::file;
use crate::oci::layer::{self, Limits};
use crate::oci::{Blob, Store};

/// The largest file of sizes that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Sizes without compression, in bytes, by the digests of the blobs.
pub type Sizes = BTreeMap<Digest, u64>;

impl ClusterImage {
    /// The sizes of all layers, those of the hosts' programs and those of the
    /// container images. Reads layers whose size is not known yet, several at once.
    pub fn unpacked_sizes(&self, context: &Context, store: &Store) -> Result<Sizes> {
        let known = read(store);
        let sizes: Sizes = self
            .layers()
            .into_par_iter()
            .map(|blob| {
                context.check_cancelled()?;
                let size = match known.get(&blob.digest) {
                    Some(size) => *size,
                    None => layer::unpacked_size(store.open_blob(blob)?, &Limits::default())?,
                };
                Ok((blob.digest, size))
            })
            .collect::<Result<_>>()?;
        if sizes.keys().any(|digest| !known.contains_key(digest)) {
            // Who cannot write here reads them again the next time.
            let _ = write(store, known.into_iter().chain(sizes.clone()).collect());
        }
        Ok(sizes)
    }

    fn layers(&self) -> Vec<&Blob> {
        let programs = self.rootfs.iter().flat_map(|rootfs| &rootfs.layers);
        let contained = self.images.iter().flat_map(|image| &image.blobs);
        let mut layers: Vec<&Blob> = programs
            .map(|layer| &layer.blob)
            .chain(contained.filter(|blob| blob.is_layer()))
            .collect();
        layers.sort();
        layers.dedup();
        layers
    }
}

impl Blob {
    /// Whether it is a layer of a container image, by its media type: OCI's and
    /// Docker's have a word of their own for it.
    pub fn is_layer(&self) -> bool {
        self.media_type.contains(".layer.") || self.media_type.contains(".diff.tar")
    }
}

fn path(store: &Store) -> PathBuf {
    store.root().join(".chasi/sizes.json")
}

fn read(store: &Store) -> Sizes {
    use std::io::Read as _;
    let read = || -> Option<Sizes> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path(store)).ok()?;
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    read().unwrap_or_default()
}

/// Of blobs that are there: others are forgotten.
fn write(store: &Store, mut sizes: Sizes) -> Result<()> {
    sizes.retain(|digest, _| store.path_of(digest).exists());
    let text = serde_json::to_vec(&sizes).unwrap_or_default();
    file::write(&path(store), &text, 0o644)
}
