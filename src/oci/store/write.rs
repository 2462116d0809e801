//! Writing to the store.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempPath};

use super::{BLOBS, INCOMING, OWN, Store};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::oci::{Blob, Reference};

/// How long a writer waits for `prune` to end; it only lists and unlinks.
const PATIENCE: Duration = Duration::from_secs(60);

/// The right to write to a store. While it lives, nothing is removed from the
/// store: not what it wrote, not what it found there. Many can exist at once, in
/// one process and in several; a clone is the same right.
#[derive(Clone, Debug)]
pub struct Hold {
    store: Store,
    /// Locked shared; closing the file ends the lock, also when the process dies.
    _lock: Arc<File>,
}

impl Deref for Hold {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Takes the right to write. Waits up to a minute for a `prune` to end.
    pub fn hold(&self) -> Result<Hold> {
        let lock = self.open_blobs_lock()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock_shared() {
                Ok(()) => break,
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        Kind::Locked,
                        format!(
                            "the store `{}` is being pruned by another process",
                            self.root.display()
                        ),
                    )
                    .hint("wait for it to end and try again"));
                }
                Err(std::fs::TryLockError::Error(cause)) => {
                    return Err(self.cannot_lock(cause));
                }
            }
        }
        Ok(Hold {
            store: self.clone(),
            _lock: Arc::new(lock),
        })
    }

    /// The right to remove blobs: `None` while anyone has a [`Hold`].
    pub(super) fn exclusive(&self) -> Result<Option<File>> {
        let lock = self.open_blobs_lock()?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(cause)) => Err(self.cannot_lock(cause)),
        }
    }

    fn blobs_lock(&self) -> PathBuf {
        self.root.join(OWN).join("blobs.lock")
    }

    fn open_blobs_lock(&self) -> Result<File> {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.blobs_lock())
            .map_err(|cause| self.cannot_lock(cause))
    }

    fn cannot_lock(&self, cause: io::Error) -> Error {
        Error::new(
            Kind::System,
            format!("cannot lock `{}`", self.blobs_lock().display()),
        )
        .because(cause)
    }
}

impl Hold {
    /// Begins a blob.
    pub fn writer(&self) -> Result<BlobWriter> {
        Ok(BlobWriter {
            store: self.store.clone(),
            content: Hashing::new(self.temporary()?),
        })
    }

    /// A file for a blob that is being written.
    pub(super) fn temporary(&self) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(self.root.join(INCOMING))
            .or_err(Kind::System, || {
                format!("cannot write to the store `{}`", self.root.display())
            })
    }

    /// Writes a small blob whole.
    pub fn put(&self, media_type: &str, content: &[u8]) -> Result<Blob> {
        let blob = Blob::of(media_type, content);
        let mut writer = self.writer()?;
        writer.write_all(content).or_err(Kind::System, || {
            format!("cannot write to the store `{}`", self.root.display())
        })?;
        writer.commit_as(&blob)?;
        Ok(blob)
    }

    /// Begins a batch of blobs that are synced together.
    pub fn batch(&self) -> Batch {
        Batch {
            store: self.store.clone(),
            written: Vec::new(),
        }
    }

    /// Gives content a name, in place of what had the name before. Everything
    /// that the content refers to must be in the store. The reference must have a
    /// tag; its digest, if it has one, must be that of the content.
    pub fn tag(&self, reference: &Reference, blob: &Blob) -> Result<()> {
        if reference.tag().is_none() {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "`{}` has no tag, so it cannot name an image in the store",
                    reference.familiar()
                ),
            )
            .hint("write `:tag` behind it"));
        }
        if reference
            .digest()
            .is_some_and(|digest| digest != blob.digest)
        {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "`{}` cannot name the image {}",
                    reference.familiar(),
                    blob.digest
                ),
            ));
        }
        if let Some(missing) = self.reachable(blob)?.missing.first() {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "`{}` is incomplete: the {} {} is missing",
                    reference.familiar(),
                    missing.media_type,
                    missing.digest
                ),
            ));
        }
        self.set_tag(&reference.without_digest(), blob)
    }
}

/// A blob that is being written. Dropped before it is committed, it leaves
/// nothing behind.
pub struct BlobWriter {
    store: Store,
    content: Hashing<NamedTempFile>,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.flush()
    }
}

impl BlobWriter {
    /// How many bytes have been written.
    pub fn written(&self) -> u64 {
        self.content.length()
    }

    /// Ends a blob whose digest and size are known only now, and makes it durable.
    pub fn commit(self, media_type: &str) -> Result<Blob> {
        let store = self.store.clone();
        let (file, written) = self.finish()?;
        let blob = Blob {
            media_type: media_type.to_owned(),
            digest: written.digest,
            size: written.size,
        };
        keep(&store, file, written)?;
        Ok(blob)
    }

    /// Ends a blob and makes it durable, if its digest and its size are those of
    /// `expected`. Fails with [`Kind::Integrity`] otherwise.
    pub fn commit_as(self, expected: &Blob) -> Result<()> {
        let store = self.store.clone();
        let (file, written) = self.finish_as(expected)?;
        keep(&store, file, written)
    }

    /// As [`BlobWriter::commit_as`], but the blob appears in the store when the
    /// batch ends.
    pub fn commit_in(self, batch: &mut Batch, expected: &Blob) -> Result<()> {
        // Only the path is kept: a batch may have more blobs than files can be open.
        let (_, written) = self.finish_as(expected)?;
        batch.written.push(written);
        Ok(())
    }

    fn finish_as(self, expected: &Blob) -> Result<(File, Written)> {
        let what = format!("{} {}", expected.media_type, expected.digest);
        let (file, written) = self.finish()?;
        if written.size != expected.size {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {what} has {} bytes, expected {}",
                    written.size, expected.size
                ),
            ));
        }
        if written.digest != expected.digest {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the content of the {what} has the digest {}",
                    written.digest
                ),
            ));
        }
        Ok((file, written))
    }

    fn finish(self) -> Result<(File, Written)> {
        let (mut temporary, digest, size) = self.content.finish();
        temporary.flush().or_err(Kind::System, || {
            format!("cannot write to the store `{}`", self.store.root.display())
        })?;
        let (file, path) = temporary.into_parts();
        Ok((file, Written { path, digest, size }))
    }
}

fn keep(store: &Store, file: File, written: Written) -> Result<()> {
    file.sync_all().or_err(Kind::System, || {
        format!("cannot write the blob {}", written.digest)
    })?;
    written.rename(store)?;
    store.sync_blobs()
}

/// A whole blob that does not have its name yet.
#[derive(Debug)]
pub(super) struct Written {
    pub path: TempPath,
    pub digest: Digest,
    pub size: u64,
}

impl Written {
    /// Also when the name exists: if that file has been damaged, it is repaired.
    fn rename(self, store: &Store) -> Result<()> {
        let path = store.path_of(&self.digest);
        self.path.persist(&path).or_err(Kind::System, || {
            format!("cannot write the blob `{}`", path.display())
        })
    }
}

impl Store {
    fn sync_blobs(&self) -> Result<()> {
        let blobs = self.root.join(BLOBS);
        file::sync_directory(&blobs).or_err(Kind::System, || {
            format!("cannot sync `{}`", blobs.display())
        })
    }
}

/// Many blobs that are made durable by one sync. They appear in the store when
/// the batch ends; dropped before that, nothing of it appears.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    written: Vec<Written>,
}

impl Batch {
    pub(super) fn push(&mut self, written: Written) {
        self.written.push(written);
    }

    /// Syncs, and gives every blob its name.
    pub fn finish(self) -> Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let incoming = self.store.root.join(INCOMING);
        let sync = || -> io::Result<()> {
            // Incoming and blobs are on one file system, because renaming must work.
            Ok(rustix::fs::syncfs(File::open(&incoming)?)?)
        };
        sync().or_err(Kind::System, || {
            format!("cannot sync `{}`", incoming.display())
        })?;
        for written in self.written {
            written.rename(&self.store)?;
        }
        self.store.sync_blobs()
    }
}
