//! The one way to write a file that must survive a power cut: a temporary file in
//! the same directory, written whole, synced, renamed over the name, and the
//! directory synced. A reader sees the old content or the new, never a part.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{Kind, Result, ResultExt};

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
    let attempt = || -> io::Result<()> {
        let directory = parent(path);
        // The name's prefix lets a later run recognise and remove what a crash left.
        let mut temporary = tempfile::Builder::new()
            .prefix(".chasi-")
            .tempfile_in(directory)?;
        produce(temporary.as_file_mut())?;
        temporary
            .as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|failed| failed.error)?;
        sync_directory(directory)
    };
    attempt().or_err(Kind::System, || {
        format!("cannot write `{}`", path.display())
    })
}

/// Points the symbolic link `path` at `target` in one atomic, durable step,
/// whether or not it exists.
pub fn link(path: &Path, target: &Path) -> Result<()> {
    let attempt = || -> io::Result<()> {
        let directory = parent(path);
        let temporary = tempfile::Builder::new()
            .prefix(".chasi-")
            .make_in(directory, |name| std::os::unix::fs::symlink(target, name))?;
        temporary.persist(path).map_err(|failed| failed.error)?;
        sync_directory(directory)
    };
    attempt().or_err(Kind::System, || format!("cannot link `{}`", path.display()))
}

/// Removes a file or a symbolic link durably. Not existing is success.
pub fn remove(path: &Path) -> Result<()> {
    let attempt = || -> io::Result<()> {
        match fs::remove_file(path) {
            Ok(()) => sync_directory(parent(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    };
    attempt().or_err(Kind::System, || {
        format!("cannot remove `{}`", path.display())
    })
}

/// Creates a directory and its parents, each synced into its own parent.
/// Existing ones are left as they are.
pub fn create_directories(path: &Path) -> Result<()> {
    fn create(path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) => sync_directory(parent(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(parent(path))?;
                create(path)
            }
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }
    create(path).or_err(Kind::System, || {
        format!("cannot create the directory `{}`", path.display())
    })
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
