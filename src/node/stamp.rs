//! Whether a file has changed since it was read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one version of a file from another. Files here are replaced by a
/// rename (`crate::file`), so a new version has another inode or time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The file's present version, or `None` when it cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            // The change time also moves when only the name was replaced.
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_another_stamp_even_at_the_same_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        assert_eq!(Stamp::of(&path), None);
        crate::file::write(&path, b"one", 0o644).unwrap();
        let first = Stamp::of(&path);
        assert!(first.is_some());
        assert_eq!(Stamp::of(&path), first);
        crate::file::write(&path, b"two", 0o644).unwrap();
        assert_ne!(Stamp::of(&path), first);
    }
}
