//! A blob that is put together from parts that come in any order.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tempfile::TempPath;

use super::write::Written;
use super::{Batch, Hold};
use crate::digest::Hashing;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::Blob;

/// A blob that is put together from parts that come in any order, from several
/// threads. Dropped before it is committed, it leaves nothing behind.
#[derive(Debug)]
pub struct Assembly {
    expected: Blob,
    file: File,
    /// The file's name; gone once it is committed.
    path: Mutex<Option<TempPath>>,
    verified: AtomicBool,
}

impl Hold {
    /// Begins a blob whose parts come in any order.
    pub fn assemble(&self, expected: &Blob) -> Result<Assembly> {
        let (file, path) = self.temporary()?.into_parts();
        Ok(Assembly {
            expected: expected.clone(),
            file,
            path: Mutex::new(Some(path)),
            verified: AtomicBool::new(false),
        })
    }
}

impl Assembly {
    /// What it is to become.
    pub fn blob(&self) -> &Blob {
        &self.expected
    }

    /// Writes a part. Fails with [`Kind::Integrity`] beyond the blob's end.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.expected.size) {
            let message = format!(
                "a part of the blob {} goes beyond its end",
                self.expected.digest
            );
            return Err(Error::new(Kind::Integrity, message));
        }
        self.verified.store(false, Ordering::Release);
        self.file
            .write_all_at(bytes, offset)
            .or_err(Kind::System, || self.cannot("write"))
    }

    /// The file as far as it was written, for reading at an offset. It stays
    /// readable when the blob is committed.
    pub fn file(&self) -> Result<File> {
        self.file
            .try_clone()
            .or_err(Kind::System, || self.cannot("read"))
    }

    /// Compares the content with what is expected: once, when nothing is written
    /// afterwards.
    pub fn verify(&self) -> Result<()> {
        if self.verified.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut content = Hashing::new(std::io::sink());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = self
                .file
                .read_at(&mut buffer, content.length())
                .or_err(Kind::System, || self.cannot("read"))?;
            if count == 0 {
                break;
            }
            std::io::Write::write_all(&mut content, &buffer[..count])
                .or_err(Kind::System, || self.cannot("read"))?;
        }
        let (_, digest, size) = content.finish();
        if (digest, size) != (self.expected.digest, self.expected.size) {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the {} {} was put together to {size} bytes with the digest {digest}",
                    self.expected.media_type, self.expected.digest
                ),
            ));
        }
        self.verified.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends the blob, if its content is what was expected. It appears in the store
    /// when the batch ends. Nothing may be written any more.
    pub fn commit_in(&self, batch: &mut Batch) -> Result<()> {
        self.verify()?;
        let Some(path) = self
            .path
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return Ok(());
        };
        batch.push(Written {
            path,
            digest: self.expected.digest,
            size: self.expected.size,
        });
        Ok(())
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} the blob {}", self.expected.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Store;

    #[test]
    fn parts_make_a_blob_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let blob = Blob::of("text/plain", b"hello world");
        let hold = store.hold().unwrap();
        let assembly = hold.assemble(&blob).unwrap();
        assembly.write_at(6, b"world").unwrap();
        assembly.write_at(0, b"hello ").unwrap();
        let mut middle = [0; 3];
        assembly
            .file()
            .unwrap()
            .read_exact_at(&mut middle, 4)
            .unwrap();
        assert_eq!(&middle, b"o w");
        let mut batch = hold.batch();
        assembly.commit_in(&mut batch).unwrap();
        assert!(!store.contains(&blob));
        batch.finish().unwrap();
        assert!(store.contains(&blob));
    }

    #[test]
    fn what_is_incomplete_or_too_long_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let blob = Blob::of("text/plain", b"hello");
        let hold = store.hold().unwrap();
        let assembly = hold.assemble(&blob).unwrap();
        for (offset, bytes) in [(3, &b"lo!"[..]), (6, b""), (u64::MAX, b"x")] {
            assert_eq!(
                assembly.write_at(offset, bytes).unwrap_err().kind(),
                Kind::Integrity
            );
        }
        assembly.write_at(0, b"hell").unwrap();
        let mut batch = hold.batch();
        assert_eq!(
            assembly.commit_in(&mut batch).unwrap_err().kind(),
            Kind::Integrity
        );
        batch.finish().unwrap();
        drop(assembly);
        assert!(!store.contains(&blob));
        let incoming = std::fs::read_dir(directory.path().join(".chasi/incoming")).unwrap();
        assert_eq!(incoming.count(), 0);
    }
}
