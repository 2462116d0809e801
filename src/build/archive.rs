//! Archives that `ADD --unpack` takes apart.
//!
//! An archive is read once: its files go into the cache by their digests, its
//! listing into a record by the archive's digest. A later build needs neither
//! the archive nor, when the layer is known, the files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::stoppable::Stoppable;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event;
use crate::oci::layer::{Limits, Node, Reader};

/// The version of the listing's format.
const VERSION: u32 = 1;

/// What is in an archive.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    version: u32,
    /// The entries, in the archive's order.
    pub entries: Vec<Listed>,
}

/// An entry of an archive.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The path in the archive.
    pub path: String,
    /// What it is.
    pub node: ListedNode,
}

/// What an entry of an archive is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListedNode {
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Link(String),
    /// A file.
    File(ListedFile),
}

/// A file of an archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListedFile {
    /// Bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// Whether anyone may execute it.
    pub executable: bool,
    /// Extended attributes, such as a program's capabilities.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What is in the archive whose digest is `digest`; `open` opens it, if it must
/// be read. `name` is what messages call it. All its files are in the cache
/// afterwards. Fails with [`Kind::Integrity`] when the archive has another digest.
pub fn list(
    events: &event::Context,
    cache: &Cache,
    digest: &Digest,
    name: &str,
    open: impl FnOnce() -> Result<File>,
) -> Result<Listing> {
    if let Some(listing) = cache.read_record::<Listing>("archives", digest)
        && listing.version == VERSION
        && listing
            .entries
            .iter()
            .all(|entry| is_kept(cache, &entry.node))
    {
        return Ok(listing);
    }
    let mut file = Hashing::new(Stoppable {
        inner: open()?,
        events,
    });
    let listing = read(events, cache, &mut file, name);
    events.check_cancelled()?;
    let listing = listing?;
    // What the reader had no use for counts as well.
    io::copy(&mut file, &mut io::sink())
        .or_err(Kind::System, || format!("cannot read the archive `{name}`"))?;
    let (_, found, _) = file.finish();
    if found != *digest {
        return Err(Error::new(
            Kind::Integrity,
            format!("the archive `{name}` has the digest {found}, expected {digest}"),
        )
        .hint("it was changed while the image was built, or the cache was damaged: remove it and build again"));
    }
    cache.write_record("archives", digest, &listing)?;
    Ok(listing)
}

fn is_kept(cache: &Cache, node: &ListedNode) -> bool {
    match node {
        ListedNode::File(file) => cache.has(&cache.file(&file.digest), file.size),
        ListedNode::Directory | ListedNode::Link(_) => true,
    }
}

fn read(
    events: &event::Context,
    cache: &Cache,
    mut file: impl Read,
    name: &str,
) -> Result<Listing> {
    let not_unpacked = |error: Error| {
        error.hint(
            "`--unpack` takes tar, tar.gz and tar.zst; leave it out to keep the file as it is",
        )
    };
    let magic = read_magic(&mut file, name)?;
    check_kind(&magic, name).map_err(not_unpacked)?;
    let whole = magic.as_slice().chain(file);
    let mut reader = Reader::new(whole, format!("the archive `{name}`"), Limits::default())
        .map_err(not_unpacked)?;
    let mut entries: Vec<Listed> = Vec::new();
    let mut files: HashMap<String, usize> = HashMap::new();
    while let Some(entry) = reader.next_entry().map_err(not_unpacked)? {
        events.check_cancelled()?;
        let path = entry.path.to_string();
        let node = match entry.node {
            Node::Directory { .. } => ListedNode::Directory,
            Node::Symlink { target, .. } => ListedNode::Link(target),
            Node::File { meta, .. } => {
                let (digest, size) = cache.keep_file(reader.content())?;
                files.insert(path.clone(), entries.len());
                ListedNode::File(ListedFile {
                    size,
                    digest,
                    executable: meta.mode & 0o111 != 0,
                    xattrs: meta.xattrs,
                })
            }
            Node::Hardlink { target } => {
                // The reader has seen that it names an earlier file.
                let Some(index) = files.get(target.as_str()).copied() else {
                    continue;
                };
                files.insert(path.clone(), index);
                entries[index].node.clone()
            }
            Node::Whiteout | Node::OpaqueDirectory => {
                return Err(Error::new(
                    Kind::Input,
                    format!("the archive `{name}` is a layer of an image: it removes `{path}`"),
                )
                .hint("take images over whole, with `INCLUDE`"));
            }
        };
        entries.push(Listed { path, node });
    }
    reader.finish().map_err(not_unpacked)?;
    Ok(Listing {
        version: VERSION,
        entries,
    })
}

/// The first bytes, which tell what kind of archive it is.
fn read_magic(file: &mut impl Read, name: &str) -> Result<Vec<u8>> {
    let mut magic = Vec::new();
    file.take(6)
        .read_to_end(&mut magic)
        .or_err(Kind::System, || format!("cannot read the archive `{name}`"))?;
    Ok(magic)
}

/// Says clearly what is not unpacked.
fn check_kind(magic: &[u8], name: &str) -> Result<()> {
    let kind = match magic {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'P', b'K', 3 | 5, ..] => "zip",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => return Ok(()),
    };
    Err(Error::new(
        Kind::Input,
        format!("`{name}` is a {kind} file, which chasi does not unpack"),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        cache: Cache,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let cache = Cache::open(&directory.path().join("cache")).unwrap();
            Fixture { directory, cache }
        }

        fn list(&self, content: &[u8]) -> Result<Listing> {
            let path = self.directory.path().join("archive");
            std::fs::write(&path, content).unwrap();
            let open = || File::open(&path).or_err(Kind::System, || "gone");
            let events = event::Context::silent();
            list(&events, &self.cache, &Digest::of(content), "a.tar", open)
        }
    }

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o4711);
        header.set_uid(1000);
        builder
            .append_data(&mut header, "./v1/bin/a", &b"abc"[..])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        builder
            .append_link(&mut header, "v1/bin/b", "v1/bin/a")
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "v1/c", "bin/a").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_is_listed_and_its_files_are_kept() {
        let fixture = Fixture::new();
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for content in [plain, gzip, zstd] {
            let listing = fixture.list(&content).unwrap();
            let paths: Vec<_> = listing
                .entries
                .iter()
                .map(|entry| entry.path.as_str())
                .collect();
            assert_eq!(paths, ["v1/bin/a", "v1/bin/b", "v1/c"]);
            for entry in &listing.entries[..2] {
                let ListedNode::File(file) = &entry.node else {
                    panic!("{entry:?}")
                };
                assert_eq!(
                    (file.digest, file.size, file.executable),
                    (Digest::of("abc"), 3, true)
                );
            }
            assert!(
                matches!(&listing.entries[2].node, ListedNode::Link(target) if target == "bin/a")
            );
        }
        assert_eq!(
            std::fs::read(fixture.cache.file(&Digest::of("abc"))).unwrap(),
            b"abc"
        );
    }

    #[test]
    fn a_known_archive_is_not_read_unless_a_file_of_it_is_gone() {
        let fixture = Fixture::new();
        let content = archive();
        let path = fixture.directory.path().join("archive");
        let listed = |path: PathBuf| {
            let open = || File::open(path).or_err(Kind::System, || "gone");
            let events = event::Context::silent();
            list(
                &events,
                &fixture.cache,
                &Digest::of(&content),
                "a.tar",
                open,
            )
        };
        fixture.list(&content).unwrap();
        assert_eq!(listed("/nowhere".into()).unwrap().entries.len(), 3);
        std::fs::remove_file(fixture.cache.file(&Digest::of("abc"))).unwrap();
        listed("/nowhere".into()).unwrap_err();
        listed(path).unwrap();
        assert!(fixture.cache.file(&Digest::of("abc")).exists());
    }

    #[test]
    fn an_archive_that_is_not_what_it_was_is_refused() {
        let fixture = Fixture::new();
        let path = fixture.directory.path().join("archive");
        std::fs::write(&path, archive()).unwrap();
        let open = || File::open(&path).or_err(Kind::System, || "gone");
        let events = event::Context::silent();
        let error = list(&events, &fixture.cache, &Digest::of("other"), "a.tar", open).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.message().contains(&Digest::of("other").to_string()));
    }

    #[test]
    fn what_is_not_an_archive_is_refused_with_a_remedy() {
        let fixture = Fixture::new();
        let mut truncated = archive();
        truncated.truncate(700);
        for content in [
            &b"\xfd7zXZ\0"[..],
            b"PK\x03\x04",
            b"BZh9",
            b"#!/bin/sh\n",
            b"\x1f\x8b\x08",
            &truncated,
        ] {
            let error = fixture.list(content).unwrap_err();
            assert!(error.message().contains("a.tar"), "{error:?}");
        }
        let error = fixture.list(b"#!/bin/sh\n").unwrap_err();
        assert!(error.hints()[0].contains("tar.gz"), "{error:?}");
    }
}
