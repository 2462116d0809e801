//! Processors, memory and disks.

use std::collections::BTreeSet;
use std::path::Path;

use super::outcome::{Outcome, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::Subject;
use crate::cluster::plan::size;
use crate::digest::Digest;
use crate::distro::kubeadm::is_control_plane_image;
use crate::host::facts::{Disk, Facts, Known};
use crate::oci::image::Sizes;
use crate::oci::{Blob, ClusterImage, Platform};

const BEFORE: &[Phase] = &[Phase::Pre, Phase::Upgrade];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "resources.cpu",
        "there are enough processors",
        "the processors that are online",
        cpu,
    )
    .at(BEFORE),
    Check::of_host(
        "resources.memory",
        "there is enough memory",
        "the kernel's `MemTotal`",
        memory,
    )
    .at(BEFORE),
    Check::of_host(
        "resources.disk",
        "the disk has room for the image",
        "what the host lacks of the image, its layers unpacked, and etcd's database once more, against what is free at `/var/lib`",
        disk,
    )
    .at(BEFORE)
    .needing(&[Need::Image, Need::Sizes]),
    Check::of_host(
        "resources.read-only",
        "chasi and Kubernetes can write where they have to",
        "the file systems of their directories",
        read_only,
    ),
    Check::of_host(
        "resources.filesystem",
        "what must survive a restart lies on a file system that does, and that containers can use",
        "the types of the file systems below `/var/lib`, and whether they tell what their entries are (d_type)",
        filesystem,
    ),
    Check::of_host(
        "resources.inodes",
        "the file systems have room for more files",
        "the inodes that are free",
        inodes,
    ),
    Check::of_host(
        "resources.eviction",
        "kubelet will not evict pods for want of space",
        "the space that is free, against kubelet's own threshold of 15 %",
        eviction,
    )
    .warning(),
    Check::of_host(
        "etcd.writes",
        "the disk is fast enough for etcd",
        "250 writes of 2300 bytes with fdatasync where `/var/lib/etcd` lies, for 1.5 s at most; on control planes",
        writes,
    )
    .warning()
    .needing(&[Need::Writes]),
];

/// Memory below which kubeadm's control plane does not hold together, and below
/// which a worker does not: kubeadm's `ControlPlaneMem` is 1700 MB.
const CONTROL_PLANE_MEMORY: u64 = 1_700_000_000;
const WORKER_MEMORY: u64 = 700_000_000;
/// kubeadm's `ControlPlaneNumCPU`.
const CONTROL_PLANE_CPUS: u32 = 2;
fn cpu(subject: &Subject) -> Outcome {
    let needed = match subject.control_plane() {
        true => CONTROL_PLANE_CPUS,
        false => 1,
    };
    match subject.facts().cpus {
        0 => unknown("the kernel does not tell which processors are online"),
        have if have >= needed => passed(format!("{have} processors")),
        have => wrong(
            format!("{have} processor"),
            format!("at least {needed}, for a control plane"),
            "give the host more processors, or another role",
        ),
    }
}

fn memory(subject: &Subject) -> Outcome {
    let needed = if subject.control_plane() {
        CONTROL_PLANE_MEMORY
    } else {
        WORKER_MEMORY
    };
    match subject.facts().memory {
        0 => unknown("`/proc/meminfo` cannot be read"),
        have if have >= needed => passed(size(have)),
        have => wrong(
            format!("{} of memory", size(have)),
            format!("at least {}", size(needed)),
            "give the host more memory, or another role",
        ),
    }
}

fn disk(subject: &Subject) -> Outcome {
    let (image, sizes, missing) = match (
        &subject.site.image,
        &subject.site.sizes,
        &subject.measured.missing,
    ) {
        (Known::Is(image), Known::Is(sizes), Known::Is(missing)) => (*image, sizes, missing),
        (Known::Unknown(why), ..) | (_, Known::Unknown(why), _) | (.., Known::Unknown(why)) => {
            return unknown(why.as_str());
        }
    };
    if missing.is_empty() {
        return passed("the host has all of the image");
    }
    let Some((path, disk)) = state_disk(subject.facts()) else {
        return unknown("the file system of `/var/lib/chasi` cannot be looked at");
    };
    let architecture = &subject.facts().architecture;
    let Some(needed) = needed(image, sizes, missing, architecture, subject.control_plane()) else {
        return unknown("the image has no part for the host's architecture");
    };
    // A way back needs the database as it was.
    let database = match &subject.measured.etcd {
        Known::Is(etcd) => etcd.size,
        Known::Unknown(_) => 0,
    };
    let needed = needed.saturating_add(database);
    if disk.free >= needed {
        return passed(format!("{} of {} free", size(needed), size(disk.free)));
    }
    wrong(
        format!("{} free where `{path}` lies", size(disk.free)),
        format!(
            "{} for the image, unpacked, beside what is there",
            size(needed)
        ),
        "free some space, or mount a larger file system at /var/lib",
    )
}

/// What staging takes in bytes: what the host lacks of the image as it comes, its
/// programs unpacked, and its container images once more in the runtime, as they come
/// and unpacked. What the host has stays, for a way back. None where the image has
/// nothing for the architecture.
fn needed(
    image: &ClusterImage,
    sizes: &Sizes,
    missing: &[Blob],
    architecture: &str,
    control_plane: bool,
) -> Option<u64> {
    let rootfs = image.rootfs(&Platform::linux(architecture).ok()?)?;
    let lacks: BTreeSet<Digest> = missing.iter().map(|blob| blob.digest).collect();
    let unpacked = |blob: &Blob| sizes.get(&blob.digest).copied().unwrap_or_default();
    let copied: u64 = missing.iter().map(|blob| blob.size).sum();
    let programs: u64 = rootfs
        .layers
        .iter()
        .filter(|layer| lacks.contains(&layer.blob.digest))
        .map(|layer| unpacked(&layer.blob))
        .sum();
    let contained: BTreeSet<&Blob> = image
        .images
        .iter()
        .filter(|image| control_plane || !is_control_plane_image(&image.reference.to_string()))
        .flat_map(|image| &image.blobs)
        .filter(|blob| lacks.contains(&blob.digest))
        .collect();
    let contained: u64 = contained
        .iter()
        .map(|blob| blob.size + unpacked(blob))
        .sum();
    Some(copied + programs + contained)
}

/// The file system of chasi's state, by the longest path that leads there.
pub(super) fn state_disk(facts: &Facts) -> Option<(&String, &Disk)> {
    facts
        .disks
        .iter()
        .filter(|(path, _)| Path::new("/var/lib/chasi").starts_with(path))
        .max_by_key(|(path, _)| path.len())
}

fn read_only(subject: &Subject) -> Outcome {
    let disks = &subject.facts().disks;
    if disks.is_empty() {
        return unknown("no file system can be looked at");
    }
    // Of an image-based system only these have to be written to.
    let written = ["/etc", "/opt", "/usr/local/bin"];
    let found = disks.iter().find(|(path, disk)| {
        disk.read_only && (path.starts_with("/var/") || written.contains(&path.as_str()))
    });
    match found {
        None => passed("all can be written to"),
        Some((path, _)) => wrong(
            format!("the file system of `{path}` is mounted read-only"),
            "one that can be written to",
            format!("`mount -o remount,rw {path}`; when the kernel did it, `dmesg` says why"),
        ),
    }
}

/// File systems that are gone after a restart.
const VOLATILE: [&str; 2] = ["ramfs", "tmpfs"];
/// File systems that containers' own file systems (overlayfs) cannot lie on.
const UNFIT: [&str; 6] = ["cifs", "fuse", "nfs", "overlay", "smb2", "squashfs"];

fn filesystem(subject: &Subject) -> Outcome {
    let below = subject
        .facts()
        .disks
        .iter()
        .filter(|(path, _)| path.starts_with("/var/lib/"));
    let mut kinds: Vec<&str> = Vec::new();
    let mut not_told = None;
    for (path, disk) in below {
        let kind = disk.kind.as_deref().unwrap_or("one that is not known here");
        if VOLATILE.contains(&kind) || UNFIT.contains(&kind) {
            let why = match VOLATILE.contains(&kind) {
                true => "one that is still there after a restart",
                false => "a local one, such as ext4 or xfs",
            };
            return wrong(
                format!("`{path}` lies on `{kind}`"),
                why,
                "mount a disk with ext4 or xfs at /var/lib",
            );
        }
        match disk.tells_types {
            Some(true) => {}
            Some(false) => {
                return wrong(
                    format!("the file system of `{path}` does not tell what its entries are"),
                    "d_type, which overlayfs needs",
                    "make the file system anew: `mkfs.xfs -n ftype=1`, or ext4",
                );
            }
            None => not_told = Some(path),
        }
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    match (kinds.is_empty(), not_told) {
        (true, _) => unknown("no file system below `/var/lib` can be looked at"),
        (false, Some(path)) => unknown(format!("there is nothing in `{path}` to see d_type by")),
        (false, None) => passed(kinds.join(", ")),
    }
}

/// kubelet's `nodefs.inodesFree` (pkg/kubelet/eviction), in percent.
const FREE_INODES: u64 = 5;
/// kubelet's `imagefs.available`, in percent; that of `nodefs` is lower.
const FREE_SPACE: u64 = 15;

fn inodes(subject: &Subject) -> Outcome {
    let Some((path, disk)) = state_disk(subject.facts()) else {
        return unknown("the file system of `/var/lib/chasi` cannot be looked at");
    };
    let (Some(free), Some(all)) = (disk.free_files, disk.files) else {
        return passed("the file system makes inodes as it needs them");
    };
    let percent = free.saturating_mul(100) / all.max(1);
    if percent >= FREE_INODES {
        return passed(format!("{percent} % are free"));
    }
    wrong(
        format!("{free} of {all} inodes are free where `{path}` lies"),
        format!("{FREE_INODES} %: below, kubelet evicts pods"),
        "`du --inodes -x -d3 /var | sort -n | tail` shows where the files are; remove some, or use a larger file system",
    )
}

fn eviction(subject: &Subject) -> Outcome {
    let Some((path, disk)) = state_disk(subject.facts()) else {
        return unknown("the file system of `/var/lib/chasi` cannot be looked at");
    };
    let percent = disk.free.saturating_mul(100) / disk.size.max(1);
    if percent >= FREE_SPACE {
        return passed(format!("{percent} % are free"));
    }
    wrong(
        format!(
            "{percent} % ({}) are free where `{path}` lies",
            size(disk.free)
        ),
        format!("{FREE_SPACE} %: below, kubelet removes images and evicts pods"),
        "free some space, or set `evictionHard` in `kubeadm.kubelet` of the Clusterfile",
    )
}

/// etcd.io/docs/v3.6/op-guide/hardware: the 99th percentile of fdatasync should be
/// below 10 ms; in microseconds.
const SLOW: u64 = 10_000;

fn writes(subject: &Subject) -> Outcome {
    if !subject.control_plane() {
        return super::outcome::not_applicable("no etcd runs there");
    }
    let writes = match &subject.measured.writes {
        Known::Is(writes) => writes,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    let milliseconds = |time: u64| format!("{}.{} ms", time / 1000, time % 1000 / 100);
    let seen = format!(
        "99 of 100 writes take up to {}, half of them {} ({} writes)",
        milliseconds(writes.p99),
        milliseconds(writes.median),
        writes.count
    );
    match writes.p99 <= SLOW {
        true => passed(seen),
        false => wrong(
            seen,
            "10 ms at most: slower disks make etcd elect leaders anew",
            "give /var/lib/etcd an SSD or NVMe of its own; on virtual machines look what else uses the disk",
        ),
    }
}
