//! Removing what nothing refers to.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BLOBS, INCOMING, Store};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Pruned {
    /// Blobs that no name leads to.
    pub blobs: u64,
    /// Files that an interrupted writer left.
    pub temporary_files: u64,
    /// The size of both, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes the blobs that no name leads to and what interrupted writers left.
    /// With `dry_run` it only counts. Fails with [`Kind::Locked`] while anyone
    /// writes to the store, and removes nothing when a document is damaged.
    pub fn prune(&self, ctx: &Context, dry_run: bool) -> Result<Pruned> {
        let Some(_lock) = self.exclusive()? else {
            return Err(Error::new(
                Kind::Locked,
                format!(
                    "another process writes to the store `{}`",
                    self.root.display()
                ),
            )
            .hint("wait for builds, pulls and loads to end and try again"));
        };
        let referenced = self.referenced()?;
        let mut pruned = Pruned::default();
        for path in list(&self.root.join(INCOMING))? {
            pruned.temporary_files += 1;
            pruned.bytes += remove(&path, dry_run)?;
        }
        pruned.bytes += self.remove_unfinished_names(&mut pruned.temporary_files, dry_run)?;
        for path in list(&self.root.join(BLOBS))? {
            ctx.check_cancelled()?;
            let digest = path
                .file_name()
                .and_then(|name| format!("sha256:{}", name.to_str()?).parse().ok());
            // A file that is not a blob is not ours to remove; fsck reports it.
            if digest.is_some_and(|digest| !referenced.contains(&digest)) {
                pruned.blobs += 1;
                pruned.bytes += remove(&path, dry_run)?;
            }
        }
        if !dry_run {
            let blobs = self.root.join(BLOBS);
            file::sync_directory(&blobs).or_err(Kind::System, || {
                format!("cannot sync `{}`", blobs.display())
            })?;
        }
        Ok(pruned)
    }
}

impl Store {
    /// Removes what an interrupted writer of the index left.
    fn remove_unfinished_names(&self, count: &mut u64, dry_run: bool) -> Result<u64> {
        let _lock = self.lock_index()?;
        let mut bytes = 0;
        for path in list(&self.root)? {
            if file::is_temporary(&path) {
                *count += 1;
                bytes += remove(&path, dry_run)?;
            }
        }
        Ok(bytes)
    }
}

/// The paths of a directory's entries, sorted.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let attempt = || {
        let mut paths = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok::<_, std::io::Error>(paths)
    };
    attempt().or_err(Kind::System, || {
        format!("cannot list `{}`", directory.display())
    })
}

fn remove(path: &Path, dry_run: bool) -> Result<u64> {
    let attempt = || {
        let size = path.symlink_metadata()?.len();
        if !dry_run {
            fs::remove_file(path)?;
        }
        Ok::<_, std::io::Error>(size)
    };
    attempt().or_err(Kind::System, || {
        format!("cannot remove `{}`", path.display())
    })
}
