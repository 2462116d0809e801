//! What a blob refers to, and what that refers to.

use std::collections::{HashMap, HashSet};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::{Blob, media};

/// An index in an index in an index is refused.
const MAX_DEPTH: usize = 4;

/// More blobs than any image has.
const MAX_BLOBS: usize = 100_000;

/// The blobs that belong to a root.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// Those in the store; every blob before those that refer to it, each once.
    /// The root is the last.
    pub(crate) present: Vec<Blob>,
    /// Those not in the store, or there with another size.
    pub(crate) missing: Vec<Blob>,
}

impl Store {
    /// Follows indexes and manifests from `root`. Layers, also those that carry
    /// other documents, are not looked into. Fails when a document is damaged.
    pub(crate) fn reachable(&self, root: &Blob) -> Result<Reachable> {
        let mut walk = Walk {
            store: self,
            seen: HashMap::new(),
            reachable: Reachable::default(),
        };
        walk.visit(root, 0)?;
        Ok(walk.reachable)
    }

    /// The digests of all blobs that any name leads to.
    pub(super) fn referenced(&self) -> Result<HashSet<Digest>> {
        let mut walk = Walk {
            store: self,
            seen: HashMap::new(),
            reachable: Reachable::default(),
        };
        for (_, descriptor) in self.read_index()?.entries() {
            walk.visit(&document::blob(descriptor)?, 0)?;
        }
        Ok(walk.seen.into_keys().collect())
    }
}

struct Walk<'a> {
    store: &'a Store,
    seen: HashMap<Digest, Blob>,
    reachable: Reachable,
}

impl Walk<'_> {
    fn visit(&mut self, blob: &Blob, depth: usize) -> Result<()> {
        if let Some(earlier) = self.seen.get(&blob.digest) {
            if earlier.agrees(blob) {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "{} is described in two ways: as `{}` with {} bytes, and as `{}` with {} bytes",
                    blob.digest, earlier.media_type, earlier.size, blob.media_type, blob.size
                ),
            ));
        }
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {} {} is nested too deeply",
                    blob.media_type, blob.digest
                ),
            ));
        }
        if self.seen.len() >= MAX_BLOBS {
            return Err(Error::new(
                Kind::Integrity,
                format!("there are more than {MAX_BLOBS} blobs in one image"),
            ));
        }
        self.seen.insert(blob.digest, blob.clone());
        if !self.store.contains(blob) {
            self.reachable.missing.push(blob.clone());
            return Ok(());
        }
        for child in self.store.children(blob)? {
            self.visit(&child, depth + 1)?;
        }
        self.reachable.present.push(blob.clone());
        Ok(())
    }
}

impl Store {
    /// What an index or a manifest lists; nothing for other content.
    pub(crate) fn children(&self, blob: &Blob) -> Result<Vec<Blob>> {
        let what = format!("the {} {}", blob.media_type, blob.digest);
        if media::is_index(&blob.media_type) {
            let index = document::parse_index(&self.read_verified(blob, MAX_DOCUMENT)?, &what)?;
            index.manifests().iter().map(document::blob).collect()
        } else if media::is_manifest(&blob.media_type) {
            let manifest =
                document::parse_manifest(&self.read_verified(blob, MAX_DOCUMENT)?, &what)?;
            std::iter::once(manifest.config())
                .chain(manifest.layers())
                .map(document::blob)
                .collect()
        } else {
            Ok(Vec::new())
        }
    }
}
