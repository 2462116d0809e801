//! Reading a layer of anyone's.

use std::collections::HashMap;
use std::io::{self, Read};

use tar::EntryType;

use super::archive::{Archive, Problem, Raw};
use super::{EntryPath, Meta};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// What a layer may at most be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of one file.
    pub file_size: u64,
    /// Bytes of the whole archive without compression.
    pub total_size: u64,
    /// Bytes without compression for each byte with it, once the archive is
    /// larger than 64 MiB. zstd makes about 30 000 of a bomb of zeros and rarely
    /// more than 20 of real files.
    pub ratio: u64,
}

impl Default for Limits {
    /// A million entries, 16 GiB a file, 64 GiB in all, a ratio of 1000.
    fn default() -> Self {
        Limits {
            entries: 1_000_000,
            file_size: 16 << 30,
            total_size: 64 << 30,
            ratio: 1000,
        }
    }
}

/// What the paths of a layer may take in memory, in bytes.
const MAX_PATH_BYTES: usize = 256 << 20;
/// The longest target of a symbolic link, in bytes; Linux' PATH_MAX.
const MAX_TARGET: usize = 4096;

/// An entry that is safe to act on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Where it goes.
    pub path: EntryPath,
    /// What it is.
    pub node: Node,
}

/// What an entry is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Node {
    /// A file; [`Reader::content`] gives its bytes until the next entry is asked
    /// for.
    File {
        /// Permissions and owner.
        meta: Meta,
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Directory {
        /// Permissions and owner.
        meta: Meta,
    },
    /// A symbolic link. The target is as the archive has it, and may point
    /// anywhere; no later entry of the layer goes through it.
    Symlink {
        /// Owner; the mode means nothing.
        meta: Meta,
        /// Where it points.
        target: String,
    },
    /// Another name of a file that came earlier in this layer.
    Hardlink {
        /// The file's path.
        target: EntryPath,
    },
    /// The path, in the layers below, is to be removed.
    Whiteout,
    /// Everything in this directory, in the layers below, is to be removed.
    OpaqueDirectory,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Seen {
    File,
    Directory,
    Symlink,
}

/// Reads a layer as a stream: plain, gzip or zstd, told apart by the first bytes.
///
/// What was read counts only when [`Reader::finish`] has succeeded: only then the
/// whole archive is known to be what its digest says.
pub struct Reader<R: Read> {
    name: String,
    limits: Limits,
    expected: Option<Digest>,
    archive: Archive<R>,
    current: String,
    entries: u64,
    path_bytes: usize,
    seen: HashMap<EntryPath, Seen>,
}

impl<R: Read> Reader<R> {
    /// Begins to read. `name` names the layer in errors, such as
    /// `layer sha256:… (cni)`.
    pub fn new(source: R, name: impl Into<String>, limits: Limits) -> Result<Self> {
        let name = name.into();
        let archive = Archive::open(source, &limits).map_err(|cause| {
            Error::new(Kind::Integrity, format!("{name}: cannot be read")).because(cause)
        })?;
        Ok(Reader {
            name,
            limits,
            expected: None,
            archive,
            current: String::new(),
            entries: 0,
            path_bytes: 0,
            seen: HashMap::new(),
        })
    }

    /// Lets [`Reader::finish`] fail unless the archive has this digest.
    pub fn expecting(mut self, diff_id: Digest) -> Self {
        self.expected = Some(diff_id);
        self
    }

    /// The next entry, or `None` at the end. After an error, nothing more can be
    /// read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            let next = self.archive.next_header();
            let Some(raw) = next.map_err(|problem| self.fail(problem))? else {
                return Ok(None);
            };
            self.current = String::from_utf8_lossy(&raw.path)
                .escape_debug()
                .to_string();
            self.entries += 1;
            if self.entries > self.limits.entries {
                let problem = format!("there are more than {} entries", self.limits.entries);
                return Err(self.fail(problem.into()));
            }
            let entry = self
                .check(raw)
                .map_err(|problem| self.fail(problem.into()))?;
            if let Some(entry) = entry {
                return Ok(Some(entry));
            }
        }
    }

    /// The bytes of the file that [`Reader::next_entry`] has just returned. Errors
    /// name the layer and the path.
    pub fn content(&mut self) -> impl Read {
        Content(self)
    }

    /// Checks what was not asked for yet, reads to the end of the archive, and
    /// returns its digest without compression. Fails with [`Kind::Integrity`] when
    /// that is not the one expected.
    pub fn finish(mut self) -> Result<Digest> {
        while self.next_entry()?.is_some() {}
        self.current = String::new();
        if let Err(problem) = self.archive.drain() {
            return Err(self.fail(problem));
        }
        let digest = self.archive.into_digest();
        match self.expected {
            Some(expected) if expected != digest => Err(Error::new(
                Kind::Integrity,
                format!(
                    "{}: its content has the digest {digest}, expected {expected}",
                    self.name
                ),
            )),
            _ => Ok(digest),
        }
    }

    fn fail(&self, problem: Problem) -> Error {
        let place = match self.current.as_str() {
            "" => self.name.clone(),
            path => format!("{}: `{path}`", self.name),
        };
        match problem {
            Problem::Said(text) => Error::new(Kind::Integrity, format!("{place}: {text}")),
            Problem::Failed(cause) => {
                Error::new(Kind::Integrity, format!("{place}: cannot be read")).because(cause)
            }
        }
    }

    /// `None` for the archive's root, which has no meaning.
    fn check(&mut self, raw: Raw) -> Result<Option<Entry>, String> {
        let Some(path) = EntryPath::from_archive(&raw.path)? else {
            return match raw.kind {
                EntryType::Directory => Ok(None),
                _ => Err("the archive's root is not a directory".into()),
            };
        };
        self.enter_parents(&path)?;
        let is_file = matches!(raw.kind, EntryType::Regular | EntryType::Continuous);
        if path.name().starts_with(".wh.") {
            if !is_file || raw.size > 0 {
                return Err("a whiteout is not an empty file".into());
            }
            return self.whiteout(&path).map(Some);
        }
        if !is_file && raw.size > 0 {
            return Err("an entry that is not a file has content".into());
        }
        let node = match raw.kind {
            _ if is_file && raw.size > self.limits.file_size => {
                return Err(format!(
                    "the file is larger than {} bytes",
                    self.limits.file_size
                ));
            }
            _ if is_file => Node::File {
                meta: raw.meta,
                size: raw.size,
            },
            EntryType::Directory => Node::Directory { meta: raw.meta },
            EntryType::Symlink => Node::Symlink {
                meta: raw.meta,
                target: symlink_target(raw.link)?,
            },
            EntryType::Link => Node::Hardlink {
                target: self.hardlink_target(&raw.link)?,
            },
            EntryType::Char | EntryType::Block => return Err("device files are refused".into()),
            EntryType::Fifo => return Err("named pipes are refused".into()),
            EntryType::GNUSparse => return Err("sparse files are refused".into()),
            other => {
                return Err(format!(
                    "entries of type {:?} are refused",
                    char::from(other.as_byte())
                ));
            }
        };
        self.enter(
            &path,
            match node {
                Node::Directory { .. } => Seen::Directory,
                Node::Symlink { .. } => Seen::Symlink,
                _ => Seen::File,
            },
        )?;
        Ok(Some(Entry { path, node }))
    }

    /// Everything above an entry is a directory from now on; if it was something
    /// else, the entry is refused.
    fn enter_parents(&mut self, path: &EntryPath) -> Result<(), String> {
        let parents: Vec<_> = std::iter::successors(path.parent(), EntryPath::parent).collect();
        for parent in parents.iter().rev() {
            match self.seen.get(parent) {
                Some(Seen::Directory) => {}
                Some(Seen::Symlink) => {
                    return Err(format!(
                        "the path goes through the symbolic link `{parent}`"
                    ));
                }
                Some(Seen::File) => {
                    return Err(format!("the path goes through the file `{parent}`"));
                }
                None => self.remember(parent, Seen::Directory)?,
            }
        }
        Ok(())
    }

    /// A path may come twice only as a directory.
    fn enter(&mut self, path: &EntryPath, now: Seen) -> Result<(), String> {
        match (self.seen.get(path), now) {
            (None, _) => self.remember(path, now),
            (Some(Seen::Directory), Seen::Directory) => Ok(()),
            (Some(_), _) => Err("the path comes twice".into()),
        }
    }

    fn remember(&mut self, path: &EntryPath, seen: Seen) -> Result<(), String> {
        self.path_bytes += path.as_str().len();
        if self.path_bytes > MAX_PATH_BYTES {
            return Err(format!(
                "the paths together are longer than {MAX_PATH_BYTES} bytes"
            ));
        }
        self.seen.insert(path.clone(), seen);
        Ok(())
    }

    fn hardlink_target(&self, link: &[u8]) -> Result<EntryPath, String> {
        let target = EntryPath::from_archive(link)
            .map_err(|problem| format!("the hard link's target is refused: {problem}"))?
            .ok_or("the hard link's target is the archive's root")?;
        match self.seen.get(&target) {
            Some(Seen::File) => Ok(target),
            _ => Err(format!(
                "the hard link's target `{target}` is not a file that came earlier in this layer"
            )),
        }
    }

    /// Whiteouts are about the layers below, wherever they stand in this one.
    fn whiteout(&mut self, path: &EntryPath) -> Result<Entry, String> {
        let parent = path.parent();
        let hidden = path.name().strip_prefix(".wh.").unwrap_or_default();
        if hidden == ".wh..opq" {
            let path = parent.ok_or("the archive's root cannot be opaque")?;
            return Ok(Entry {
                path,
                node: Node::OpaqueDirectory,
            });
        }
        if hidden.starts_with(".wh.") {
            return Err("the whiteout's name is reserved".into());
        }
        let removed = match &parent {
            Some(parent) => format!("{parent}/{hidden}"),
            None => hidden.to_owned(),
        };
        let path = removed
            .parse()
            .map_err(|error: Error| error.message().to_owned())?;
        Ok(Entry {
            path,
            node: Node::Whiteout,
        })
    }
}

struct Content<'a, R: Read>(&'a mut Reader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Content(reader) = self;
        reader.archive.read_content(buffer).map_err(|cause| {
            io::Error::new(
                cause.kind(),
                format!("{}: `{}`: {cause}", reader.name, reader.current),
            )
        })
    }
}

fn symlink_target(target: Vec<u8>) -> Result<String, String> {
    let target = String::from_utf8(target)
        .map_err(|_| "the symbolic link's target is not UTF-8".to_owned())?;
    if target.is_empty() || target.len() > MAX_TARGET || target.chars().any(char::is_control) {
        return Err(format!(
            "the symbolic link's target is empty, longer than {MAX_TARGET} bytes, or has control characters"
        ));
    }
    Ok(target)
}
