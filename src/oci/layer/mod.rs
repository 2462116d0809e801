//! Layers: tar archives with a strict meaning.
//!
//! [`Writer`] makes them, reproducibly: entries in path order, no
//! times, PAX records only for what a plain header cannot say, zstd at a pinned
//! level with a fixed job size. [`Reader`] reads those of anyone, and yields only
//! entries that are safe to act on: no entry names a place outside, none goes
//! through a link, nothing is larger than the [`Limits`].
//!
//! A layer's identity is the digest of the archive without compression, its
//! `diff_id`.

mod archive;
mod path;
mod pax;
mod read;
mod write;

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::{Kind, Result, ResultExt};

pub use path::EntryPath;
pub use read::{Entry, Limits, Node, Reader};
pub use write::{Writer, Written};

/// How large a layer is without compression, in bytes, whoever made it. Reads all of
/// it, and looks at no entry.
pub fn unpacked_size(source: impl Read, limits: &Limits) -> Result<u64> {
    archive::unpacked_size(source, limits).or_err(Kind::Integrity, || "a layer cannot be unpacked")
}

/// Permissions, owner and extended attributes of an entry.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Meta {
    /// Permission bits with set-id and sticky bits: at most `0o7777`.
    pub mode: u32,
    /// The owner's numeric id.
    pub uid: u32,
    /// The group's numeric id.
    pub gid: u32,
    /// Extended attributes: `user.*` and `security.capability`.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    /// Owned by root, with these permission bits.
    pub fn new(mode: u32) -> Self {
        Meta {
            mode,
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
