//! Pieces of layers: their keys, their cache, and how they are written.
//!
//! A piece's key is the digest of everything that decides its bytes: the way
//! archives are written, and of each entry path, type, permissions, owner,
//! extended attributes and content. What the key led to is kept in the cache;
//! when the store still has that blob, the piece is not written again.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::context::{Context, Stamp};
use super::pieces::Piece;
use super::stamps::{self, Hashed};
use super::stoppable::Stoppable;
use super::tree::{Content, Entry, FileNode, Node};
use crate::digest::{Digest, Hashing};
use crate::error::{Kind, Result, ResultExt};
use crate::event::{self, Event};
use crate::oci::layer::{EntryPath, Writer};
use crate::oci::store::Hold;
use crate::oci::{Blob, media};

/// Changes whenever the bytes of a layer with the same entries may change.
const FORMAT: u32 = 1;

/// After so many bytes it is told how far writing is.
const TOLD: u64 = 8 << 20;

/// What a piece became.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The compressed archive.
    pub blob: Blob,
    /// The digest of the archive without compression.
    pub diff_id: Digest,
    /// The size of the archive without compression, in bytes.
    pub size: u64,
}

/// A piece in the store.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it became.
    pub written: Written,
    /// Whether it was in the cache.
    pub cached: bool,
}

/// What is needed to write pieces.
pub struct Layers<'a> {
    /// Where to tell, and whether to stop.
    pub events: &'a event::Context,
    /// Where files come from.
    pub context: &'a Context,
    /// What is known from earlier builds.
    pub cache: &'a Cache,
    /// Whether earlier results may be used.
    pub reuse: bool,
    /// Where blobs go.
    pub hold: &'a Hold,
}

impl Layers<'_> {
    /// Writes pieces in parallel, those that are not in the cache. The results are
    /// in the order of the pieces.
    pub fn write(&self, pieces: &[&Piece]) -> Result<Vec<Done>> {
        let workers = workers(pieces.len());
        let meter = Meter {
            events: self.events,
            done: AtomicU64::new(0),
            total: pieces.iter().map(|piece| size(piece)).sum(),
        };
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        // The largest first, or one that comes last keeps one core busy alone.
        order.sort_by_key(|index| std::cmp::Reverse(size(pieces[*index])));
        let mut done = order
            .into_par_iter()
            .with_max_len(1)
            .map(|index| Ok((index, self.piece(pieces[index], workers, &meter)?)))
            .collect::<Result<Vec<_>>>()?;
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, done)| done).collect())
    }

    fn piece(&self, piece: &Piece, workers: u32, meter: &Meter) -> Result<Done> {
        self.events.check_cancelled()?;
        let key = key(piece);
        if self.reuse
            && let Some(written) = self.cache.read_record::<Written>("layers", &key)
            && self.hold.contains(&written.blob)
        {
            meter.add(size(piece));
            return Ok(Done {
                written,
                cached: true,
            });
        }
        let written = self.write_piece(piece, workers, meter)?;
        self.cache.write_record("layers", &key, &written)?;
        Ok(Done {
            written,
            cached: false,
        })
    }

    fn write_piece(&self, piece: &Piece, workers: u32, meter: &Meter) -> Result<Written> {
        let failed = || "cannot write a layer";
        let mut writer = Writer::new(self.hold.writer()?, workers).or_err(Kind::System, failed)?;
        for (path, entry) in piece {
            self.events.check_cancelled()?;
            match &entry.node {
                Node::Directory => writer
                    .directory(path, &entry.meta)
                    .or_err(Kind::System, failed)?,
                Node::Link(target) => writer
                    .symlink(path, &entry.meta, target)
                    .or_err(Kind::System, failed)?,
                Node::File(file) => {
                    self.write_file(&mut writer, path, entry, file)?;
                    meter.add(file.size);
                }
            }
        }
        let written = writer.finish().or_err(Kind::System, failed)?;
        Ok(Written {
            blob: written.out.commit(media::LAYER_ZSTD)?,
            diff_id: written.diff_id,
            size: written.size,
        })
    }

    fn write_file<W: io::Write>(
        &self,
        writer: &mut Writer<W>,
        path: &EntryPath,
        entry: &Entry,
        file: &FileNode,
    ) -> Result<()> {
        let failed = || format!("cannot write `{path}` into a layer");
        let mut write = |content: &mut dyn Read| {
            let content = Stoppable {
                inner: content,
                events: self.events,
            };
            let outcome = writer.file(path, &entry.meta, file.size, content);
            self.events.check_cancelled()?;
            outcome.or_err(Kind::System, failed)
        };
        match &file.content {
            Content::Context {
                path: source,
                hashed,
            } => {
                let mut content = Unchanged::open(self.context, source, hashed)?;
                let outcome = write(&mut content);
                // What changed meanwhile explains every other failure.
                let same = content.finish(outcome.is_ok())?;
                match same {
                    true => outcome,
                    false => Err(stamps::changed(self.context, source)),
                }
            }
            Content::Cache(source) => {
                if !self.cache.has(source, file.size) {
                    return Err(self.cache.damaged(source));
                }
                let open = File::open(source).or_err(Kind::System, || {
                    format!("cannot read `{}`", source.display())
                })?;
                let mut content = Hashing::new(open);
                write(&mut content)?;
                match content.finish() {
                    (_, digest, _) if digest == file.digest => Ok(()),
                    _ => Err(self.cache.damaged(source)),
                }
            }
        }
    }
}

/// Tells how far writing is.
struct Meter<'a> {
    events: &'a event::Context,
    done: AtomicU64,
    total: u64,
}

impl Meter<'_> {
    /// Counts bytes, and tells of it every few megabytes.
    fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        if before / TOLD != (before + bytes) / TOLD {
            self.events.emit(Event::Progress {
                host: None,
                item: "layers".to_owned(),
                done: before + bytes,
                total: Some(self.total),
            });
        }
    }
}

/// Compressing threads for each of some pieces that are written at once.
fn workers(pieces: usize) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores / pieces.clamp(1, cores)).unwrap_or(1)
}

fn size(piece: &Piece) -> u64 {
    piece
        .values()
        .map(|entry| match &entry.node {
            Node::File(file) => file.size,
            Node::Directory | Node::Link(_) => 0,
        })
        .sum()
}

/// A file of the context that must still be what it was when it was hashed.
struct Unchanged {
    file: Watched,
    hashed: Hashed,
}

/// How a file is watched while it is read.
enum Watched {
    /// Its stamp proves that it is unchanged.
    ByStamp(File),
    /// It had been written to just before it was hashed, so its content counts.
    ByContent(Hashing<File>),
}

impl Unchanged {
    fn open(context: &Context, path: &str, hashed: &Hashed) -> Result<Self> {
        let (file, stamp) = context.open_file(path)?;
        if stamp != hashed.stamp {
            return Err(stamps::changed(context, path));
        }
        Ok(Unchanged {
            file: match hashed.settled {
                true => Watched::ByStamp(file),
                false => Watched::ByContent(Hashing::new(file)),
            },
            hashed: *hashed,
        })
    }

    /// Whether it did not change while it was read; its content counts only when it
    /// was read whole.
    fn finish(self, whole: bool) -> Result<bool> {
        let (file, same) = match self.file {
            Watched::ByStamp(file) => (file, true),
            Watched::ByContent(file) => {
                let (file, digest, length) = file.finish();
                (
                    file,
                    !whole || (digest, length) == (self.hashed.digest, self.hashed.stamp.size),
                )
            }
        };
        let after = Stamp::of_file(&file)
            .or_err(Kind::System, || "cannot look at a file of the context")?;
        Ok(same && after == self.hashed.stamp)
    }
}

impl Read for Unchanged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            Watched::ByStamp(file) => file.read(buffer),
            Watched::ByContent(file) => file.read(buffer),
        }
    }
}

/// The digest of all that decides a piece's bytes.
pub fn key(piece: &Piece) -> Digest {
    let mut hasher = Hashing::new(io::sink());
    // Writing to a sink cannot fail.
    let mut text = |bytes: &[u8]| {
        let _ = io::Write::write_all(&mut hasher, &(bytes.len() as u64).to_be_bytes());
        let _ = io::Write::write_all(&mut hasher, bytes);
    };
    text(b"chasi layer");
    text(&FORMAT.to_be_bytes());
    text(env!("CARGO_PKG_VERSION").as_bytes());
    text(zstd::zstd_safe::version_string().as_bytes());
    for (path, entry) in piece {
        text(path.as_str().as_bytes());
        for number in [entry.meta.mode, entry.meta.uid, entry.meta.gid] {
            text(&number.to_be_bytes());
        }
        text(&(entry.meta.xattrs.len() as u64).to_be_bytes());
        for (name, value) in &entry.meta.xattrs {
            text(name.as_bytes());
            text(value);
        }
        match &entry.node {
            Node::Directory => text(b"directory"),
            Node::Link(target) => {
                text(b"link");
                text(target.as_bytes());
            }
            Node::File(file) => {
                text(b"file");
                text(&file.size.to_be_bytes());
                text(file.digest.to_string().as_bytes());
            }
        }
    }
    hasher.finish().1
}
