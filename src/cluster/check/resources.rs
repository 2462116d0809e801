//! Processors, memory and disks.

use std::path::Path;

use super::outcome::{Outcome, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::Subject;
use crate::cluster::plan::size;
use crate::host::facts::{Disk, Facts, Known};
use crate::oci::Platform;

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
        "the image's blobs and layers, against what is free at `/var/lib`",
        disk,
    )
    .at(BEFORE)
    .needing(&[Need::Image]),
];

/// Memory below which kubeadm's control plane does not hold together, and below
/// which a worker does not: kubeadm's `ControlPlaneMem` is 1700 MB.
const CONTROL_PLANE_MEMORY: u64 = 1_700_000_000;
const WORKER_MEMORY: u64 = 700_000_000;
/// kubeadm's `ControlPlaneNumCPU`.
const CONTROL_PLANE_CPUS: u32 = 2;
/// What unpacked programs and container images take, as a multiple of their
/// compressed size: measured 2.6 to 3.4 for Go programs and Debian trees.
const UNPACKED: u64 = 4;

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
    let image = match &subject.site.image {
        Known::Is(image) => image,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    if subject.managed() {
        return super::outcome::not_applicable("the host has an image already");
    }
    let rootfs = Platform::linux(&subject.facts().architecture)
        .ok()
        .and_then(|platform| image.rootfs(&platform));
    let Some(rootfs) = rootfs else {
        return unknown("the image has no part for the host's architecture");
    };
    let compressed: u64 = rootfs.layers.iter().map(|layer| layer.blob.size).sum();
    let needed = image.size() * UNPACKED + compressed;
    let Some((path, disk)) = state_disk(subject.facts()) else {
        return unknown("the file system of `/var/lib/chasi` cannot be looked at");
    };
    if disk.free >= needed {
        return passed(format!("{} of {} free", size(needed), size(disk.free)));
    }
    wrong(
        format!("{} free where `{path}` lies", size(disk.free)),
        format!("{} for the image, unpacked", size(needed)),
        "free some space, or mount a larger file system at /var/lib",
    )
}

/// The file system of chasi's state, by the longest path that leads there.
pub(super) fn state_disk(facts: &Facts) -> Option<(&String, &Disk)> {
    facts
        .disks
        .iter()
        .filter(|(path, _)| Path::new("/var/lib/chasi").starts_with(path))
        .max_by_key(|(path, _)| path.len())
}
