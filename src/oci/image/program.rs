//! A single file out of a container image, without a container runtime.

use std::io::{self, Write};

use oci_spec::image::ImageConfiguration;

use super::{ContainerImage, Platform};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::layer::{EntryPath, Limits, Node, Reader};
use crate::oci::{Blob, Store, media};

/// What a layer of a container image may at most be here.
const LIMITS: Limits = Limits {
    entries: 200_000,
    file_size: 1 << 30,
    total_size: 16 << 30,
    ratio: 1000,
};

impl ContainerImage {
    /// Writes the content of the file at `path` to `out`, from the topmost layer that
    /// has it. What was written counts only when this succeeds.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the image has no such file, [`Kind::Integrity`] when a
    /// layer is not what the image says.
    pub fn copy_file(
        &self,
        store: &Store,
        platform: &Platform,
        path: &EntryPath,
        out: &mut impl Write,
    ) -> Result<()> {
        let manifest = self.manifest_for(store, platform)?;
        let what = format!("the manifest of `{}`", self.reference);
        let manifest =
            document::parse_manifest(&store.read_verified(&manifest, MAX_DOCUMENT)?, &what)?;
        let config = document::blob(manifest.config())?;
        let what = format!("the configuration of `{}`", self.reference);
        let config: ImageConfiguration =
            document::parse(&store.read_verified(&config, MAX_DOCUMENT)?, &what)?;
        let diff_ids = config.rootfs().diff_ids();
        let layers = manifest.layers();
        if diff_ids.len() != layers.len() {
            return Err(Error::new(
                Kind::Integrity,
                format!("{what} does not fit its layers"),
            ));
        }
        for (layer, diff_id) in layers.iter().zip(diff_ids).rev() {
            let diff_id: Digest = diff_id.parse()?;
            if copy_from_layer(store, &document::blob(layer)?, diff_id, path, out)? {
                return Ok(());
            }
        }
        let message = format!("the container image `{}` has no `/{path}`", self.reference);
        Err(Error::new(Kind::NotFound, message))
    }

    /// The manifest of the image for a platform, among the blobs that are carried.
    fn manifest_for(&self, store: &Store, platform: &Platform) -> Result<Blob> {
        if !media::is_index(&self.root.media_type) {
            return Ok(self.root.clone());
        }
        let what = format!("the index of `{}`", self.reference);
        let index = document::parse_index(&store.read_verified(&self.root, MAX_DOCUMENT)?, &what)?;
        let found = index.manifests().iter().find(|descriptor| {
            descriptor.platform().as_ref().is_some_and(|found| {
                found.os().to_string() == platform.os()
                    && found.architecture().to_string() == platform.architecture()
            })
        });
        let found = found.map(document::blob).transpose()?;
        found
            .filter(|blob| {
                self.blobs
                    .iter()
                    .any(|carried| carried.digest == blob.digest)
            })
            .ok_or_else(|| {
                let message = format!(
                    "the container image `{}` is not there for {platform}",
                    self.reference
                );
                Error::new(Kind::NotFound, message)
            })
    }
}

/// Whether the layer has the file; its content is written then.
fn copy_from_layer(
    store: &Store,
    layer: &Blob,
    diff_id: Digest,
    path: &EntryPath,
    out: &mut impl Write,
) -> Result<bool> {
    let name = format!("layer {}", layer.digest);
    let mut reader = Reader::new(store.open_blob(layer)?, name, LIMITS)?.expecting(diff_id);
    let mut found = false;
    while let Some(entry) = reader.next_entry()? {
        if entry.path == *path && matches!(entry.node, Node::File { .. }) {
            io::copy(&mut reader.content(), out)
                .or_err(Kind::System, || format!("cannot unpack `/{path}`"))?;
            found = true;
        }
    }
    reader.finish()?;
    Ok(found)
}
