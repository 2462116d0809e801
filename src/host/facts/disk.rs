//! File systems, as far as chasi and Kubernetes put something there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
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
}

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
    })
}
