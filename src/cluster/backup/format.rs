//! The file that a backup is.
//!
//! `CLUSTER_TIME_KUBERNETES_DIGEST.tar.zst`, and `.age` behind it when it is encrypted
//! (age-encryption.org/v1): a tar that any tool unpacks. DIGEST is the first half of
//! the SHA-256 of the whole file, so that a copy can be judged without its key. In it,
//! in this order:
//! - `backup.json`: a [`Manifest`], which names every other entry with its digest and
//!   its size;
//! - `cluster/…`: the Clusterfile, the keys (`cluster/pki/…`), what chasi keeps on the
//!   hosts (`cluster/hosts/HOST/…`);
//! - `etcd.db`: etcd's snapshot.
//!
//! Nothing of a backup counts before all of it was read and compared. Whatever a file
//! holds, reading it takes a bounded amount of memory, and nothing is written by a name
//! that stands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::key::{Identities, Recipients};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::layer::{Entry as ArchiveEntry, EntryPath, Limits, Meta, Node, Reader, Writer};

/// The version of the format.
const VERSION: u32 = 1;
const MANIFEST: &str = "backup.json";
const SNAPSHOT: &str = "etcd.db";
/// Where all entries but the two are.
const SMALL: &str = "cluster/";
/// The largest of these entries, and all of them together, in bytes.
const LARGEST_SMALL: u64 = 16 << 20;
const LARGEST_SMALL_SUM: u64 = 256 << 20;
/// How many entries a backup may have.
const MOST_ENTRIES: usize = 20_000;
/// How age's files begin.
const AGE: &[u8] = b"age-encryption.org/v1\n";
/// What stands before the last line of age's header, and how long the header may be.
const AGE_END: &[u8] = b"\n--- ";
const AGE_HEADER: u64 = 64 << 10;
/// How many digits of the digest are in the name.
const DIGITS: usize = 32;
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// etcd's data compresses by more than files do, when much of it was removed.
const LIMITS: Limits = Limits {
    entries: MOST_ENTRIES as u64,
    file_size: 64 << 30,
    total_size: 65 << 30,
    ratio: 20_000,
};

/// What a backup says of itself. Fields may be added, none is renamed or removed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format: 1.
    pub version: u32,
    /// The version of the chasi that made it.
    pub chasi: String,
    /// The cluster's name.
    pub cluster: String,
    /// When it was made.
    pub when: Timestamp,
    /// The digest of the cluster image.
    pub image: Digest,
    /// What the image was called.
    pub reference: String,
    /// The Kubernetes version.
    pub kubernetes: String,
    /// etcd's version.
    pub etcd: String,
    /// etcd's revision: the snapshot has at least that.
    pub revision: u64,
    /// All other entries, in their order.
    pub entries: Vec<Entry>,
}

/// An entry of a backup.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path.
    pub path: String,
    /// The digest of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Everything but the snapshot: paths below `cluster/`, and what is in them.
pub(super) type Small = BTreeMap<String, Vec<u8>>;

impl Manifest {
    /// Adds the entries.
    pub(super) fn with(mut self, small: &Small, digest: Digest, bytes: u64) -> Self {
        self.version = VERSION;
        self.entries = small
            .iter()
            .map(|(path, content)| Entry {
                path: format!("{SMALL}{path}"),
                digest: Digest::of(content),
                size: content.len() as u64,
            })
            .collect();
        self.entries.push(Entry {
            path: SNAPSHOT.to_owned(),
            digest,
            size: bytes,
        });
        self
    }

    /// The snapshot of etcd.
    pub(super) fn snapshot(&self) -> Result<&Entry> {
        let last = self.entries.last();
        last.filter(|entry| entry.path == SNAPSHOT)
            .ok_or_else(|| wrong("it has no snapshot of etcd"))
    }

    /// Fails when it is not what this version of chasi writes and reads.
    fn check(&self) -> Result<()> {
        if self.version != VERSION {
            let message = format!("the backup has version {} of the format", self.version);
            return Err(Error::new(Kind::Input, message).hint(format!(
                "use the version of chasi that made it: {}",
                self.chasi
            )));
        }
        let snapshot = self.snapshot()?;
        let small = &self.entries[..self.entries.len() - 1];
        let mut seen = BTreeSet::new();
        let mut sum = 0_u64;
        for entry in small {
            let path: EntryPath = entry.path.parse()?;
            let is_new = seen.insert(path.clone());
            sum = sum.saturating_add(entry.size);
            let is_sound = is_new
                && path.as_str() == entry.path
                && entry.path.starts_with(SMALL)
                && entry.size <= LARGEST_SMALL
                && sum <= LARGEST_SMALL_SUM;
            if !is_sound {
                return Err(wrong(format!(
                    "its manifest has the entry `{}`",
                    entry.path.escape_debug()
                )));
            }
        }
        if small.len() >= MOST_ENTRIES || snapshot.size > LIMITS.file_size {
            return Err(wrong("it is larger than a backup can be"));
        }
        Ok(())
    }
}

fn wrong(what: impl fmt::Display) -> Error {
    Error::new(Kind::Integrity, format!("this is no whole backup: {what}"))
        .hint("`chasi backup list DIRECTORY` shows which backups there are whole")
}

/// Writes a backup, with the snapshot as it comes.
///
/// # Errors
/// `InvalidData` when the snapshot is not what the manifest says.
pub(super) fn write<W: Write>(
    out: W,
    manifest: &Manifest,
    small: &Small,
    snapshot: impl Read,
    recipients: &Recipients,
) -> io::Result<W> {
    match recipients.encryptor()? {
        None => archive(out, manifest, small, snapshot),
        Some(encryptor) => {
            archive(encryptor.wrap_output(out)?, manifest, small, snapshot)?.finish()
        }
    }
}

fn archive<W: Write>(
    out: W,
    manifest: &Manifest,
    small: &Small,
    snapshot: impl Read,
) -> io::Result<W> {
    let meta = Meta::new(0o600);
    let path = |text: &str| text.parse::<EntryPath>().map_err(io::Error::other);
    let mut writer = Writer::new(out, 1)?;
    let text = serde_json::to_vec_pretty(manifest)?;
    writer.file(&path(MANIFEST)?, &meta, text.len() as u64, &text[..])?;
    for (name, content) in small {
        let path = path(&format!("{SMALL}{name}"))?;
        writer.file(&path, &meta, content.len() as u64, &content[..])?;
    }
    let expected = manifest.snapshot().map_err(io::Error::other)?;
    let mut snapshot = Hashing::new(snapshot);
    writer.file(&path(SNAPSHOT)?, &meta, expected.size, &mut snapshot)?;
    let (_, digest, _) = snapshot.finish();
    if digest != expected.digest {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "etcd's snapshot is not what its digest says",
        ));
    }
    Ok(writer.finish()?.out)
}

/// A backup that was read to its end and is whole.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The digest of the manifest, which stands for all of it.
    pub identity: Digest,
    /// Everything but the snapshot.
    pub small: Small,
}

/// Reads a backup to its end. What was written to `snapshot` counts only when this
/// succeeds.
///
/// # Errors
/// [`Kind::Integrity`] when it is not whole; [`Kind::Input`] when it is encrypted, and
/// none of the identities fits.
pub(super) fn read(
    source: impl Read,
    identities: &Identities,
    snapshot: &mut impl Write,
) -> Result<Whole> {
    let mut source = BufReader::with_capacity(1 << 20, source);
    let mut head = Vec::new();
    source
        .by_ref()
        .take(AGE_HEADER)
        .read_to_end(&mut head)
        .or_err(Kind::System, || "the backup cannot be read")?;
    if !head.starts_with(AGE) {
        return unpack(head.chain(source), snapshot);
    }
    let is_bounded = head.windows(AGE_END.len()).any(|part| part == AGE_END);
    if !is_bounded {
        return Err(wrong("its header does not end"));
    }
    unpack(identities.decrypt(head.chain(source))?, snapshot)
}

fn unpack(source: impl Read, snapshot: &mut impl Write) -> Result<Whole> {
    let damaged = |cause: Error| wrong("it is damaged or was cut").because(cause);
    let mut reader = Reader::new(source, "backup", LIMITS).map_err(damaged)?;
    let next = |reader: &mut Reader<_>| -> Result<Option<(String, u64)>> {
        match reader.next_entry().map_err(damaged)? {
            None => Ok(None),
            Some(ArchiveEntry {
                path,
                node: Node::File { size, .. },
            }) => Ok(Some((path.as_str().to_owned(), size))),
            Some(entry) => Err(wrong(format!("`{}` is no file", entry.path))),
        }
    };
    let text = match next(&mut reader)? {
        Some((path, size)) if path == MANIFEST && size <= LARGEST_SMALL => {
            let mut text = Vec::new();
            let read = reader.content().read_to_end(&mut text);
            read.or_err(Kind::Integrity, || "the manifest cannot be read")
                .map_err(damaged)?;
            text
        }
        _ => return Err(wrong("it does not begin with its manifest")),
    };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|_| wrong("its manifest cannot be understood"))?;
    manifest.check()?;
    let mut small = Small::new();
    for expected in &manifest.entries {
        let found = next(&mut reader)?;
        if found != Some((expected.path.clone(), expected.size)) {
            return Err(wrong(format!(
                "`{}` is not where it should be",
                expected.path
            )));
        }
        let digest = match expected.path.strip_prefix(SMALL) {
            Some(name) => {
                let mut content = Vec::new();
                copy(reader.content(), &mut content).map_err(damaged)?;
                let digest = Digest::of(&content);
                small.insert(name.to_owned(), content);
                digest
            }
            None => copy(reader.content(), snapshot).map_err(damaged)?,
        };
        if digest != expected.digest {
            return Err(wrong(format!(
                "`{}` does not match its digest",
                expected.path
            )));
        }
    }
    if next(&mut reader)?.is_some() {
        return Err(wrong("it has more than its manifest says"));
    }
    reader.finish().map_err(damaged)?;
    Ok(Whole {
        identity: Digest::of(&text),
        manifest,
        small,
    })
}

/// Copies, and gives the digest of what passed.
fn copy(content: impl Read, out: &mut impl Write) -> Result<Digest> {
    let mut content = Hashing::new(content);
    io::copy(&mut content, out).or_err(Kind::Integrity, || "an entry cannot be read")?;
    Ok(content.finish().1)
}

/// What the name of a backup says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Name {
    /// The cluster.
    pub cluster: String,
    /// When it was made, to the second.
    pub when: Timestamp,
    /// The Kubernetes version.
    pub kubernetes: String,
    /// The first half of the digest of the file, in hex.
    pub digest: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

impl Name {
    /// The name of a backup whose file has this digest.
    pub fn of(manifest: &Manifest, digest: &Digest, encrypted: bool) -> Self {
        Name {
            cluster: manifest.cluster.clone(),
            when: manifest.when,
            kubernetes: manifest.kubernetes.clone(),
            digest: digest.hex()[..DIGITS].to_owned(),
            encrypted,
        }
    }

    /// Whether a file with this digest is the one that was named.
    pub fn fits(&self, digest: &Digest) -> bool {
        digest.hex().starts_with(&self.digest)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.encrypted { ".age" } else { "" };
        write!(
            f,
            "{}_{}_{}_{}.tar.zst{end}",
            self.cluster,
            self.when.strftime(TIME),
            self.kubernetes,
            self.digest
        )
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rest, encrypted) = match text.strip_suffix(".age") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let rest = rest.strip_suffix(".tar.zst").ok_or(())?;
        let parts: Vec<&str> = rest.split('_').collect();
        let [cluster, when, kubernetes, digest] = parts[..] else {
            return Err(());
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let is_sound = !cluster.is_empty()
            && cluster.len() <= 63
            && kubernetes.len() <= 63
            && [cluster, kubernetes]
                .iter()
                .all(|part| part.chars().all(plain))
            && digest.len() == DIGITS
            && digest.chars().all(is_hex);
        let when = jiff::fmt::strtime::parse(TIME, when)
            .and_then(|parsed| parsed.to_datetime())
            .and_then(|time| time.to_zoned(TimeZone::UTC));
        match when {
            Ok(when) if is_sound => Ok(Name {
                cluster: cluster.to_owned(),
                when: when.timestamp(),
                kubernetes: kubernetes.to_owned(),
                digest: digest.to_owned(),
                encrypted,
            }),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests;
