//! The one way to write a file that must survive a power cut: a temporary file in
//! the same directory, written whole, synced, renamed over the name, and the
//! directory synced. A reader sees the old content or the new, never a part.
//!
//! A [`Batch`] does the same for many names and syncs each directory once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Kind, Result, ResultExt};

/// The prefix of temporary names, six more characters follow. Lets a later run
/// recognise and remove what a crash left.
pub const TEMPORARY: &str = ".chasi-";

/// Writes `content` to `path` durably, with the given permission bits (such as
/// `0o644`). The directory must exist. On failure the old file is untouched.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace(path, mode, |file| file.write_all(content))
}

/// As [`write`], for content that is produced while it is written.
pub fn replace(
    path: &Path,
    mode: u32,
    produce: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    let mut batch = Batch::default();
    batch.replace(path, mode, produce)?;
    batch.finish()
}

/// Points the symbolic link `path` at `target` in one atomic, durable step,
/// whether or not it exists.
pub fn link(path: &Path, target: &Path) -> Result<()> {
    let mut batch = Batch::default();
    batch.link(path, target)?;
    batch.finish()
}

/// Removes a file or a symbolic link durably. Not existing is success.
pub fn remove(path: &Path) -> Result<()> {
    let mut batch = Batch::default();
    batch.remove(path)?;
    batch.finish()
}

/// Creates a directory and its parents, each synced into its own parent.
/// Existing ones are left as they are.
pub fn create_directories(path: &Path) -> Result<()> {
    fn one(path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) => sync_directory(parent(path)),
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }
    fn create(path: &Path) -> io::Result<()> {
        match one(path) {
            // A parent that is there now was made by somebody else since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !parent(path).is_dir() {
                    create(parent(path))?;
                }
                one(path)
            }
            made => made,
        }
    }
    create(path).or_err(Kind::System, || {
        format!("cannot create the directory `{}`", path.display())
    })
}

/// Many changes of names. Each is atomic at once, and the content of a file is
/// synced before it gets its name; the names themselves are durable when
/// [`Batch::finish`] has succeeded.
#[derive(Debug, Default)]
#[must_use = "names are durable only when the batch is finished"]
pub struct Batch {
    directories: BTreeSet<PathBuf>,
}

impl Batch {
    /// As [`replace`].
    pub fn replace(
        &mut self,
        path: &Path,
        mode: u32,
        produce: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<()> {
        let attempt = || -> io::Result<()> {
            let mut temporary = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .tempfile_in(parent(path))?;
            produce(temporary.as_file_mut())?;
            temporary
                .as_file()
                .set_permissions(fs::Permissions::from_mode(mode))?;
            temporary.as_file().sync_all()?;
            temporary.persist(path).map_err(|failed| failed.error)?;
            Ok(())
        };
        attempt().or_err(Kind::System, || {
            format!("cannot write `{}`", path.display())
        })?;
        self.touch(path);
        Ok(())
    }

    /// As [`link`].
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        self.link_of(path, target, (None, None))
    }

    /// As [`link`]; the link has its owner and group as soon as it has its name.
    pub fn link_of(
        &mut self,
        path: &Path,
        target: &Path,
        (uid, gid): (Option<u32>, Option<u32>),
    ) -> Result<()> {
        let attempt = || -> io::Result<()> {
            let temporary = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .make_in(parent(path), |name| {
                    std::os::unix::fs::symlink(target, name)
                })?;
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::lchown(temporary.path(), uid, gid)?;
            }
            temporary.persist(path).map_err(|failed| failed.error)?;
            Ok(())
        };
        attempt().or_err(Kind::System, || format!("cannot link `{}`", path.display()))?;
        self.touch(path);
        Ok(())
    }

    /// As [`remove`].
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Ok(()) => self.touch(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).or_err(Kind::System, || {
                    format!("cannot remove `{}`", path.display())
                });
            }
        }
        Ok(())
    }

    /// Creates one directory; its parent must exist. An existing one is left as it
    /// is.
    pub fn create_directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        // Never, not even for a moment, is it more open than it is to be.
        let attempt = || match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(error),
        };
        attempt().or_err(Kind::System, || {
            format!("cannot create the directory `{}`", path.display())
        })?;
        self.touch(path);
        // Its own mode and owner must be durable as well.
        self.directories.insert(path.to_owned());
        Ok(())
    }

    /// Removes a directory if it is empty. Not existing, and not being empty, are
    /// success.
    pub fn remove_empty_directory(&mut self, path: &Path) -> Result<()> {
        match fs::remove_dir(path) {
            Ok(()) => self.touch(path),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(error) => {
                return Err(error).or_err(Kind::System, || {
                    format!("cannot remove `{}`", path.display())
                });
            }
        }
        // What happened in it before no longer matters.
        self.directories.remove(path);
        Ok(())
    }

    /// Lets [`Batch::finish`] sync the directory of `path`, whose entry was changed
    /// in another way.
    pub fn touch(&mut self, path: &Path) {
        self.directories.insert(parent(path).to_owned());
    }

    /// Makes all changes durable.
    pub fn finish(self) -> Result<()> {
        for directory in &self.directories {
            match sync_directory(directory) {
                // Removed since, by a later change of the batch.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.or_err(Kind::System, || {
                    format!("cannot sync `{}`", directory.display())
                })?,
            }
        }
        Ok(())
    }
}

/// Whether this is a temporary file or link of this module, which an interrupted
/// writer left if nobody writes beside it now.
pub fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_ours = name
        .and_then(|name| name.strip_prefix(TEMPORARY))
        .is_some_and(|rest| rest.len() == 6);
    is_ours && fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_directory_can_be_made_is_an_error() {
        // The system answers as if the parent were missing.
        let error = create_directories(Path::new("/proc/x/y")).unwrap_err();
        assert!(error.message().contains("/proc/x/y"), "{error}");
    }

    #[test]
    fn writes_replace_whole_files_and_leave_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write(&path, b"one", 0o600).unwrap();
        let error = replace(&path, 0o600, |_| Err(io::Error::other("disk on fire"))).unwrap_err();
        assert_eq!(error.kind(), Kind::System);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_replaced_atomically() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("current");
        link(&path, Path::new("generations/1")).unwrap();
        link(&path, Path::new("generations/2")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("generations/2"));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
