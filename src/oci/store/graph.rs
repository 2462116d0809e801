//! What a blob refers to, and what that refers to.

use std::collections::{HashMap, HashSet};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::{Blob, media};

/// An index in an index in an index is refused.
const MAX_DEPTH: usize = 4;

/// The blobs that belong to a root, each once.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// Configurations and layers in the store.
    pub(crate) contents: Vec<Blob>,
    /// Indexes and manifests in the store, each after those that it lists; the
    /// root is the last.
    pub(crate) documents: Vec<Blob>,
    /// What is not in the store, or there with another size.
    pub(crate) missing: Vec<Blob>,
}

/// What a document lists.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// Indexes and manifests, which lead further.
    pub(crate) documents: Vec<Blob>,
    /// Configurations and layers. A layer may itself be a document that travels
    /// as content; it leads nowhere.
    pub(crate) contents: Vec<Blob>,
}

impl Store {
    /// Follows indexes and manifests from `root`. Fails when one is damaged.
    pub(crate) fn reachable(&self, root: &Blob) -> Result<Reachable> {
        let mut walk = Walk::new(self);
        walk.document(root, 0)?;
        Ok(walk.reachable)
    }

    /// The digests of all blobs that any name leads to. Fails when a document is
    /// damaged or missing, because then nobody knows what it led to.
    pub(super) fn referenced(&self) -> Result<HashSet<Digest>> {
        let mut walk = Walk::new(self);
        for (_, descriptor) in self.read_index()?.entries() {
            walk.document(&document::blob(descriptor)?, 0)?;
        }
        if let Some(missing) = walk
            .reachable
            .missing
            .iter()
            .find(|blob| blob.is_document())
        {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {} {} is missing or damaged",
                    missing.media_type, missing.digest
                ),
            )
            .hint("`chasi fsck` names the images that need it; pull, load or remove them"));
        }
        Ok(walk.seen.into_keys().collect())
    }

    /// What an index or a manifest lists; nothing for other content.
    pub(crate) fn children(&self, blob: &Blob) -> Result<Children> {
        let what = format!("the {} {}", blob.media_type, blob.digest);
        let read = || self.read_verified(blob, MAX_DOCUMENT);
        if media::is_index(&blob.media_type) {
            let index = document::parse_index(&read()?, &what)?;
            let listed = index.manifests().iter().map(document::blob);
            let (documents, contents) = listed
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .partition(Blob::is_document);
            Ok(Children {
                documents,
                contents,
            })
        } else if media::is_manifest(&blob.media_type) {
            let manifest = document::parse_manifest(&read()?, &what)?;
            let listed = std::iter::once(manifest.config()).chain(manifest.layers());
            Ok(Children {
                documents: Vec::new(),
                contents: listed.map(document::blob).collect::<Result<_>>()?,
            })
        } else {
            Ok(Children::default())
        }
    }
}

struct Walk<'a> {
    store: &'a Store,
    seen: HashMap<Digest, Blob>,
    opened: HashSet<Digest>,
    reachable: Reachable,
}

impl<'a> Walk<'a> {
    fn new(store: &'a Store) -> Self {
        Walk {
            store,
            seen: HashMap::new(),
            opened: HashSet::new(),
            reachable: Reachable::default(),
        }
    }

    fn document(&mut self, blob: &Blob, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {} {} is nested too deeply",
                    blob.media_type, blob.digest
                ),
            ));
        }
        let is_new = self.see(blob)?;
        if !self.opened.insert(blob.digest) {
            return Ok(());
        }
        if !self.store.contains(blob) {
            if is_new {
                self.reachable.missing.push(blob.clone());
            }
            return Ok(());
        }
        let children = self.store.children(blob)?;
        for content in children.contents {
            if self.see(&content)? {
                match self.store.contains(&content) {
                    true => self.reachable.contents.push(content),
                    false => self.reachable.missing.push(content),
                }
            }
        }
        for child in &children.documents {
            self.document(child, depth + 1)?;
        }
        self.reachable.documents.push(blob.clone());
        Ok(())
    }

    /// Whether the blob was not seen before.
    fn see(&mut self, blob: &Blob) -> Result<bool> {
        if let Some(earlier) = self.seen.get(&blob.digest) {
            if earlier.agrees(blob) {
                return Ok(false);
            }
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "{} is described in two ways: as `{}` with {} bytes, and as `{}` with {} bytes",
                    blob.digest, earlier.media_type, earlier.size, blob.media_type, blob.size
                ),
            ));
        }
        self.seen.insert(blob.digest, blob.clone());
        Ok(true)
    }
}
