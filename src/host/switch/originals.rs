//! `originals/`: what stood at a managed path before chasi came, at the same path
//! below it, with content, mode, owner, extended attributes and time.
//!
//! Invariant: outside a pending switch, there is an original at a path only while
//! the current generation manages the path.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, XattrFlags};

use super::change;
use super::found::Found;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::host::{Root, object, xattr};
use crate::oci::layer::EntryPath;

pub(super) fn path(root: &Root, path: &EntryPath) -> PathBuf {
    root.state("originals").join(path)
}

/// The original at a path; [`Found::Nothing`] if there was nothing.
pub(super) fn find(root: &Root, entry: &EntryPath) -> Result<Found> {
    Found::at(&path(root, entry))
}

/// Keeps what stands at `place`, in place of what was kept before; if nothing
/// stands there, nothing is kept.
pub(super) fn save(
    root: &Root,
    entry: &EntryPath,
    place: &Path,
    batch: &mut file::Batch,
) -> Result<()> {
    let kept = path(root, entry);
    if Found::at(place)? == Found::Nothing {
        return forget(root, entry, batch);
    }
    let top = root.state("originals");
    if !top.is_dir() {
        root.allow("create", &top)?;
        // What was not for everyone's eyes must not become so.
        batch.create_directory(&top, 0o700)?;
    }
    if let Some(parent) = kept.parent() {
        root.allow("create", parent)?;
        file::create_directories(parent)?;
    }
    copy(root, place, &kept, batch)
}

/// Puts the original back in its place. It is still kept.
pub(super) fn restore(
    root: &Root,
    entry: &EntryPath,
    place: &Path,
    batch: &mut file::Batch,
) -> Result<()> {
    copy(root, &path(root, entry), place, batch)
}

/// Keeps the original no longer.
pub(super) fn forget(root: &Root, entry: &EntryPath, batch: &mut file::Batch) -> Result<()> {
    let kept = path(root, entry);
    if fs::symlink_metadata(&kept).is_ok() {
        root.allow("remove", &kept)?;
        batch.remove(&kept)?;
    }
    Ok(())
}

/// Removes what a crash left among the originals.
pub(super) fn remove_temporary(root: &Root) -> Result<()> {
    let mut directories = vec![root.state("originals")];
    while let Some(directory) = directories.pop() {
        change::remove_temporary_in(root, &directory)?;
        let below = object::list(&directory)?.into_iter();
        directories.extend(
            below.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())),
        );
    }
    Ok(())
}

/// Copies a file or a link with everything that belongs to it.
fn copy(root: &Root, from: &Path, to: &Path, batch: &mut file::Batch) -> Result<()> {
    let failed = || format!("cannot copy `{}` to `{}`", from.display(), to.display());
    let metadata = fs::symlink_metadata(from).or_err(Kind::System, failed)?;
    root.allow("write", to)?;
    if metadata.file_type().is_symlink() {
        let target = fs::read_link(from).or_err(Kind::System, failed)?;
        let owner = (Some(metadata.uid()), Some(metadata.gid()));
        return batch.link_of(to, &target, owner);
    }
    if !metadata.is_file() {
        return Err(Error::new(
            Kind::Check,
            format!("`{}` is not a file", from.display()),
        ));
    }
    let attributes = xattr::read(from).or_err(Kind::System, failed)?;
    batch.replace(to, metadata.mode() & 0o7777, |copy| {
        root.pass("write on", to)?;
        io::copy(&mut fs::File::open(from)?, copy)?;
        std::os::unix::fs::fchown(&*copy, Some(metadata.uid()), Some(metadata.gid()))?;
        for (name, value) in &attributes {
            rustix::fs::fsetxattr(&*copy, name.as_str(), value, XattrFlags::empty())?;
        }
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time(metadata.atime(), metadata.atime_nsec()),
            last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
        };
        Ok(rustix::fs::futimens(&*copy, &times)?)
    })?;
    Ok(())
}
