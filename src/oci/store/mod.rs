//! The store: an OCI image layout that several processes use at once and that
//! survives a kill, a crash and a full disk at any point.
//!
//! ```text
//! oci-layout               written last when a store is created
//! index.json               the names; replaced whole, under index.lock
//! blobs/sha256/<hex>       content; a name here is always whole
//! .chasi/incoming/<name>   blobs that are being written
//! .chasi/index.lock        held exclusively while index.json is replaced
//! .chasi/blobs.lock        shared by writers, exclusive while blobs are removed
//! ```
//!
//! Invariants:
//! - A blob is written to `incoming`, hashed while written, synced, and then
//!   renamed. It is never written in place.
//! - Only a [`Hold`] can write blobs and names. It holds `blobs.lock` shared, so
//!   a blob that nothing refers to yet is safe from [`Store::prune`] until the
//!   hold is dropped.
//! - A name is given only to content that is whole: [`Hold::tag`] looks at every
//!   blob that the root refers to.
//! - Readers need no lock: both renames are atomic.

mod assembly;
mod fsck;
mod graph;
mod index;
mod prune;
mod write;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::document::MAX_DOCUMENT;
use super::{Blob, Reference};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

pub use assembly::Assembly;
pub use fsck::{CHECKS, Check, Finding};
pub(crate) use index::{INDEX_FILE, Index};
pub use prune::Pruned;
pub use write::{Batch, BlobWriter, Hold};

pub(crate) const LAYOUT_FILE: &str = "oci-layout";
pub(crate) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const BLOBS: &str = "blobs/sha256";
const OWN: &str = ".chasi";
const INCOMING: &str = ".chasi/incoming";

/// A store, on the controller or on a host.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, and makes it first if there is none.
    pub fn create(root: &Path) -> Result<Self> {
        let store = Store {
            root: root.to_owned(),
        };
        file::create_directories(&root.join(BLOBS))?;
        file::create_directories(&root.join(INCOMING))?;
        store.create_index()?;
        // Last: who finds this file finds everything else as well.
        if !root.join(LAYOUT_FILE).exists() {
            file::write(&root.join(LAYOUT_FILE), LAYOUT.as_bytes(), 0o644)?;
        }
        Store::open(root)
    }

    /// Opens the store, or any other OCI image layout, at `root`.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Store {
            root: root.to_owned(),
        };
        store.check_layout()?;
        Ok(store)
    }

    /// The store that should be at `root`, to be looked at by [`Store::fsck`]; it
    /// need not be one.
    pub fn at(root: &Path) -> Self {
        Store {
            root: root.to_owned(),
        }
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob lies, or would lie.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    /// Whether the store has the blob, with the right size. Content is compared
    /// with its digest when it is written and by [`Store::fsck`], not here.
    pub fn contains(&self, blob: &Blob) -> bool {
        self.path_of(&blob.digest)
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
    }

    /// Opens a blob to read it; its size has been checked, its content has not.
    /// Fails with [`Kind::NotFound`] when the store does not have it.
    pub fn open_blob(&self, blob: &Blob) -> Result<File> {
        let file = self.open_file(&format!("{BLOBS}/{}", blob.digest.hex()))?;
        let size = file
            .metadata()
            .or_err(Kind::System, || {
                format!("cannot look at the blob {}", blob.digest)
            })?
            .len();
        if size != blob.size {
            return Err(self.damaged(
                &blob.digest,
                format!("has {size} bytes, expected {}", blob.size),
            ));
        }
        Ok(file)
    }

    /// The content of a blob of at most `limit` bytes, compared with its digest.
    pub fn read_verified(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>> {
        if blob.size > limit {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {} {} has {} bytes, more than {limit}",
                    blob.media_type, blob.digest, blob.size
                ),
            ));
        }
        let mut content = Vec::new();
        self.open_blob(blob)?
            .take(limit)
            .read_to_end(&mut content)
            .or_err(Kind::System, || {
                format!("cannot read the blob {}", blob.digest)
            })?;
        if Digest::of(&content) != blob.digest {
            return Err(self.damaged(&blob.digest, "does not match its digest".into()));
        }
        Ok(content)
    }

    /// The index or manifest with this digest, if the store has it undamaged.
    pub(crate) fn find_document(&self, digest: &Digest) -> Result<Option<Blob>> {
        let size = match self.path_of(digest).symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_DOCUMENT => metadata.len(),
            _ => return Ok(None),
        };
        let mut blob = Blob {
            media_type: String::new(),
            digest: *digest,
            size,
        };
        let content = match self.read_verified(&blob, MAX_DOCUMENT) {
            Err(error) if error.kind() == Kind::Integrity => return Ok(None),
            content => content?,
        };
        blob.media_type = super::document::media_type_of(&content).unwrap_or_default();
        Ok(Some(blob).filter(Blob::is_document))
    }

    /// The names and what they stand for, sorted by name.
    pub fn tags(&self) -> Result<Vec<(Reference, Blob)>> {
        Ok(self.read_index()?.tags())
    }

    /// What a name stands for. A reference with a digest finds the content of
    /// that digest under any tag of the same repository.
    pub fn resolve(&self, reference: &Reference) -> Result<Blob> {
        let tags = self.tags()?;
        let found = tags.iter().find(|(name, blob)| match reference.digest() {
            Some(digest) => name.name() == reference.name() && blob.digest == digest,
            None => name == reference,
        });
        found.map(|(_, blob)| blob.clone()).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("there is no image `{}` in the store", reference.familiar()),
            )
            .hint("`chasi images` lists what is there, `chasi pull` fetches an image")
        })
    }

    fn check_layout(&self) -> Result<()> {
        let shown = format!("`{}`", self.root.display());
        let file = match self.open_file(LAYOUT_FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(not_a_layout(&shown, "it has no file `oci-layout`"));
            }
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(4096)
            .read_to_end(&mut text)
            .or_err(Kind::System, || {
                format!("cannot read `{}`", self.root.join(LAYOUT_FILE).display())
            })?;
        check_layout(&text, &shown)
    }

    /// Opens a regular file of the layout. A layout may come from anyone, so no
    /// symbolic link in it is followed and nothing else than a file is opened.
    fn open_file(&self, path: &str) -> Result<File> {
        let attempt = || -> std::io::Result<File> {
            let root = File::open(&self.root)?;
            let file: File = rustix::fs::openat2(
                root,
                path,
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )?
            .into();
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("it is not a regular file"));
            }
            Ok(file)
        };
        attempt().map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::System,
            };
            let path = self.root.join(path);
            Error::new(kind, format!("cannot open `{}`", path.display())).because(cause)
        })
    }

    pub(crate) fn damaged(&self, digest: &Digest, problem: String) -> Error {
        Error::new(
            Kind::Integrity,
            format!("the blob `{}` {problem}", self.path_of(digest).display()),
        )
        .hint("`chasi fsck` lists all damage; remove the file and pull or load the image again")
    }
}

/// Checks the content of an `oci-layout` file; `shown` names the layout.
pub(crate) fn check_layout(text: &[u8], shown: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = super::document::parse(text, "`oci-layout`")?;
    match layout.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        version => Err(not_a_layout(
            shown,
            &format!("version `{}` is not known", version.escape_debug()),
        )),
    }
}

fn not_a_layout(shown: &str, problem: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{shown} is not an OCI image layout: {problem}"),
    )
}

#[cfg(test)]
mod tests;
