//! What builds keep for later builds, beside the store and never part of it.
//!
//! ```text
//! stamps/<context>.json      digests of a context's files (`stamps`)
//! layers/<key>.json          what a piece of a layer became (`layers`)
//! downloads/<digest>         what was downloaded, by its digest (`download`)
//! urls/<URL>.json            what a URL gave the last time, and its validators
//! partial/<URL>              a download that was interrupted, and its lock
//! archives/<digest>.json     what is in an archive (`archive`)
//! files/<aa>/<digest>        files of archives
//! incoming/                  what is being written
//! ```
//!
//! A name in angle brackets is the SHA-256 of what it stands for. Everything
//! here can be removed at any time but while a build runs, and nothing here is
//! believed: content is compared with its digest when it is used, records that
//! cannot be read do not exist. Files appear by renaming and are not synced; a
//! crash costs at most doing the work again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The largest record that is read, in bytes: a listing of a million entries.
const RECORD_LIMIT: u64 = 1 << 30;

/// How much is copied at once.
const BUFFER: usize = 256 << 10;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long something stays that no build uses.
const KEPT: Duration = Duration::from_secs(60 * 24 * 3600);

/// The directory of the caches.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache, and makes it first if there is none.
    pub fn open(root: &Path) -> Result<Self> {
        for name in [
            "stamps",
            "layers",
            "downloads",
            "urls",
            "partial",
            "archives",
            "files",
            "incoming",
        ] {
            file::create_directories(&root.join(name))?;
        }
        Ok(Cache {
            root: root.to_owned(),
        })
    }

    /// Where the digests of a context's files lie, by its absolute path.
    pub fn stamps(&self, context: &Path) -> PathBuf {
        let name = Digest::of(context.as_os_str().as_encoded_bytes()).hex();
        self.root.join("stamps").join(format!("{name}.json"))
    }

    /// Where a download lies, or would lie.
    pub fn download(&self, digest: &Digest) -> PathBuf {
        self.root.join("downloads").join(digest.hex())
    }

    /// Where a file of an archive lies, or would lie.
    pub fn file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("files").join(&hex[..2]).join(hex)
    }

    /// Where the download of a URL lies while it is not whole.
    pub fn partial(&self, url: &str) -> PathBuf {
        self.root.join("partial").join(Digest::of(url).hex())
    }

    /// Whether a file of the cache has the size that it should have, and remembers
    /// that it was used.
    pub fn has(&self, path: &Path, size: u64) -> bool {
        let Ok(metadata) = path.metadata() else {
            return false;
        };
        let whole = metadata.is_file() && metadata.len() == size;
        if whole {
            touch(path, &metadata);
        }
        whole
    }

    /// A record; `None` when there is none that can be read.
    pub fn read_record<T: DeserializeOwned>(&self, kind: &str, name: &Digest) -> Option<T> {
        let file = File::open(self.record(kind, name)).ok()?;
        let mut bytes = Vec::new();
        (&file).take(RECORD_LIMIT).read_to_end(&mut bytes).ok()?;
        let record = serde_json::from_slice(&bytes).ok()?;
        if let Ok(metadata) = file.metadata() {
            touch(&self.record(kind, name), &metadata);
        }
        Some(record)
    }

    /// Keeps a record.
    pub fn write_record(&self, kind: &str, name: &Digest, record: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .or_err(Kind::Failed, || "cannot write a record of the cache")?;
        let mut incoming = self.incoming()?;
        incoming
            .write_all(&bytes)
            .map_err(|cause| self.cannot_write(cause))?;
        incoming
            .persist(self.record(kind, name))
            .map_err(|failed| self.cannot_write(failed.error))?;
        Ok(())
    }

    fn record(&self, kind: &str, name: &Digest) -> PathBuf {
        self.root.join(kind).join(format!("{}.json", name.hex()))
    }

    /// Keeps a file of an archive and tells its digest. An error of `content` is
    /// one of integrity and should name the archive.
    pub fn keep_file(&self, mut content: impl Read) -> Result<(Digest, u64)> {
        let mut writer = Hashing::new(self.incoming()?);
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = content
                .read(&mut buffer)
                .map_err(|cause| Error::new(Kind::Integrity, cause.to_string()))?;
            if count == 0 {
                break;
            }
            writer
                .write_all(&buffer[..count])
                .map_err(|cause| self.cannot_write(cause))?;
        }
        let (incoming, digest, size) = writer.finish();
        let path = self.file(&digest);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|cause| self.cannot_write(cause))?;
        }
        incoming
            .persist(&path)
            .map_err(|failed| self.cannot_write(failed.error))?;
        Ok((digest, size))
    }

    fn incoming(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(self.root.join("incoming")).map_err(|cause| self.cannot_write(cause))
    }

    /// An error about writing here.
    pub fn cannot_write(&self, cause: io::Error) -> Error {
        Error::new(
            Kind::System,
            format!("cannot write to the cache `{}`", self.root.display()),
        )
        .because(cause)
    }

    /// Removes a file whose content is not what its name says.
    pub fn damaged(&self, path: &Path) -> Error {
        let error = Error::new(Kind::Integrity, format!("`{}` was damaged", path.display()));
        match fs::remove_file(path) {
            Ok(()) => error.hint("it has been removed; build again"),
            Err(_) => error.hint("remove it and build again"),
        }
    }

    /// Removes what was not used for 60 days and what killed builds left.
    pub fn sweep(&self) {
        for (name, depth) in [
            ("stamps", 0),
            ("layers", 0),
            ("downloads", 0),
            ("urls", 0),
            ("archives", 0),
            ("files", 1),
        ] {
            sweep(&self.root.join(name), depth, KEPT);
        }
        sweep(&self.root.join("partial"), 0, KEPT);
        sweep(&self.root.join("incoming"), 0, DAY);
    }
}

/// Remembers that a file was used, once a day: it only decides when the file may
/// be removed.
fn touch(path: &Path, metadata: &fs::Metadata) {
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| modified.elapsed().ok());
    if age.is_some_and(|age| age > DAY)
        && let Ok(file) = File::open(path)
    {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes old files. A file that cannot be removed is left: it is only a cache.
fn sweep(directory: &Path, depth: usize, kept: Duration) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth > 0 {
            sweep(&entry.path(), depth - 1, kept);
            continue;
        }
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > kept) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_by_their_digest() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (digest, size) = cache.keep_file(&b"abc"[..]).unwrap();
        assert_eq!((digest, size), (Digest::of("abc"), 3));
        assert_eq!(fs::read(cache.file(&digest)).unwrap(), b"abc");
        assert!(cache.has(&cache.file(&digest), 3));
        assert!(!cache.has(&cache.file(&digest), 4));
        assert!(!cache.has(&cache.file(&Digest::of("")), 0));
    }

    #[test]
    fn a_damaged_record_does_not_exist() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let name = Digest::of("x");
        assert_eq!(cache.read_record::<Vec<u8>>("layers", &name), None);
        cache.write_record("layers", &name, &[1, 2]).unwrap();
        assert_eq!(cache.read_record("layers", &name), Some(vec![1, 2]));
        fs::write(cache.record("layers", &name), "[1,").unwrap();
        assert_eq!(cache.read_record::<Vec<u8>>("layers", &name), None);
    }

    #[test]
    fn only_what_is_old_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (old, _) = cache.keep_file(&b"old"[..]).unwrap();
        let (new, _) = cache.keep_file(&b"new"[..]).unwrap();
        let (used, _) = cache.keep_file(&b"used"[..]).unwrap();
        let long_ago = SystemTime::now() - 2 * KEPT;
        for digest in [old, used] {
            File::open(cache.file(&digest))
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
        assert!(cache.has(&cache.file(&used), 4));
        cache.sweep();
        let left = |digest| cache.file(&digest).exists();
        assert_eq!((left(old), left(new), left(used)), (false, true, true));
    }
}
