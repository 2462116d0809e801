//! File systems, as far as chasi and Kubernetes put something there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use super::Source;

/// The file system that a path is in, or would be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Its number; paths with the same share their space.
    pub device: u64,
    /// Its size in bytes.
    pub size: u64,
    /// What can still be written, in bytes.
    pub free: u64,
    /// How many files can still be made; none where there is no limit.
    pub free_files: Option<u64>,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// Whether programs in it cannot be run.
    pub noexec: bool,
    /// How many files it can have in all; none where there is no limit.
    pub files: Option<u64>,
    /// Its type, such as `ext4`; none when it is one that is not known here.
    pub kind: Option<String>,
    /// Whether a directory tells what its entries are, which overlayfs needs (d_type
    /// of readdir(3)); none when no entry could be looked at.
    pub tells_types: Option<bool>,
}

/// Types of file systems by the number that the kernel gives them
/// (linux/magic.h, and statfs(2)).
const KINDS: [(u64, &str); 14] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x794c_7630, "overlay"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x7371_7368, "squashfs"),
];

const PATHS: [&str; 8] = [
    "/",
    "/etc",
    "/opt",
    "/usr/local/bin",
    "/var/lib/chasi",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
];

pub(super) fn disks(source: &Source) -> BTreeMap<String, Disk> {
    PATHS
        .iter()
        .filter_map(|path| Some(((*path).to_owned(), disk(&source.path(path))?)))
        .collect()
}

fn disk(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|path| path.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(Disk {
        device: there.metadata().ok()?.dev(),
        size: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        // btrfs and others make inodes as they need them, and say zero of zero.
        free_files: (found.f_files > 0).then_some(found.f_favail),
        read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        noexec: found.f_flag.contains(StatVfsMountFlags::NOEXEC),
        files: (found.f_files > 0).then_some(found.f_files),
        kind: kind(there),
        tells_types: tells_types(there),
    })
}

fn kind(path: &Path) -> Option<String> {
    let magic = u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()?;
    let (_, name) = KINDS.iter().find(|(number, _)| *number == magic)?;
    Some((*name).to_owned())
}

/// Looks at the first entry of the directory, or of the first one above it, in the
/// same file system, that has any.
fn tells_types(path: &Path) -> Option<bool> {
    let device = path.metadata().ok()?.dev();
    path.ancestors()
        .take_while(|path| path.metadata().is_ok_and(|found| found.dev() == device))
        .find_map(|path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
            let mut entries = rustix::fs::Dir::new(directory).ok()?.flatten();
            let entry =
                entries.find(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))?;
            Some(entry.file_type() != FileType::Unknown)
        })
}
