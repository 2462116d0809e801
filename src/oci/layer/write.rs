//! Writing a layer, reproducibly.
//!
//! The bytes are a function of the entries alone: ustar headers with time zero
//! and without names of owners, PAX records only for what such a header cannot
//! say, zstd at a fixed level with a fixed job size. zstd gives the same bytes
//! with one worker as with many, but other bytes without workers, so there is
//! always at least one.

use std::io::{self, Read, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tar::{EntryType, Header};
use zstd::zstd_safe::CParameter;

use super::{EntryPath, Meta, pax};
use crate::digest::{Digest, Hashing};

const BLOCK: u64 = 512;
const LEVEL: i32 = 3;
const JOB_SIZE: u32 = 4 << 20;
const OVERLAP: u32 = 6;
/// What is handed to the compressor and the hasher at once, in bytes.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the hasher.
const QUEUE: usize = 32;
/// The largest id that a ustar header can say.
const MAX_OCTAL_ID: u32 = 0o777_7777;
/// The largest size that a ustar header can say.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// Writes an archive, compresses it and computes its digest, each on threads of
/// its own. Entries must come in the order of their paths.
pub struct Writer<W: Write> {
    out: zstd::Encoder<'static, W>,
    hasher: Hasher,
    chunk: Vec<u8>,
    last: Option<EntryPath>,
}

/// A finished archive.
#[derive(Debug)]
pub struct Written<W> {
    /// What it was written to.
    pub out: W,
    /// The digest of the archive without compression.
    pub diff_id: Digest,
    /// The size of the archive without compression, in bytes.
    pub size: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive with a number of compressing threads, at least one. The
    /// number does not change the bytes.
    pub fn new(out: W, workers: u32) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(out, LEVEL)?;
        out.set_parameter(CParameter::NbWorkers(workers.clamp(1, 64)))?;
        out.set_parameter(CParameter::JobSize(JOB_SIZE))?;
        out.set_parameter(CParameter::OverlapSizeLog(OVERLAP))?;
        Ok(Writer {
            out,
            hasher: Hasher::start()?,
            chunk: Vec::with_capacity(CHUNK),
            last: None,
        })
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &EntryPath, meta: &Meta) -> io::Result<()> {
        self.header(path, EntryType::Directory, meta, 0, "")
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &EntryPath, meta: &Meta, target: &str) -> io::Result<()> {
        self.header(path, EntryType::Symlink, meta, 0, target)
    }

    /// Adds a file. Fails when `content` does not have exactly `size` bytes.
    pub fn file(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        self.header(path, EntryType::Regular, meta, size, "")?;
        // One byte more, to see that the content is longer.
        let copied = io::copy(&mut content.take(size.saturating_add(1)), &mut Bytes(self))?;
        if copied != size {
            return Err(io::Error::other(format!(
                "`{path}` changed its size while it was read"
            )));
        }
        self.pad(size)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<Written<W>> {
        self.push(&[0; 2 * BLOCK as usize])?;
        self.pass_on()?;
        let (diff_id, size) = self.hasher.finish()?;
        Ok(Written {
            out: self.out.finish()?,
            diff_id,
            size,
        })
    }

    fn header(
        &mut self,
        path: &EntryPath,
        kind: EntryType,
        meta: &Meta,
        size: u64,
        link: &str,
    ) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(io::Error::other(format!("`{path}` does not come in order")));
        }
        self.last = Some(path.clone());
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(meta.mode & 0o7777);
        let name = match kind {
            EntryType::Directory => format!("{path}/"),
            _ => path.to_string(),
        };
        if !set_name(&mut header, name.as_bytes()) {
            pax::push(&mut records, "path", name.as_bytes());
        }
        if let Some(ustar) = header.as_ustar_mut()
            && !fill(&mut ustar.linkname, link.as_bytes())
        {
            pax::push(&mut records, "linkpath", link.as_bytes());
        }
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                pax::push(&mut records, key, value.to_string().as_bytes());
                return 0;
            }
            value
        };
        header.set_size(number("size", size, MAX_OCTAL_SIZE));
        header.set_uid(number("uid", meta.uid.into(), MAX_OCTAL_ID.into()));
        header.set_gid(number("gid", meta.gid.into(), MAX_OCTAL_ID.into()));
        for (key, value) in &meta.xattrs {
            pax::push(&mut records, &format!("SCHILY.xattr.{key}"), value);
        }
        self.extended_header(&records)?;
        header.set_cksum();
        self.push(header.as_bytes())
    }

    fn extended_header(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        set_name(&mut header, b"PaxHeaders");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.push(header.as_bytes())?;
        self.push(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK) - size;
        self.push(&[0; BLOCK as usize][..usize::try_from(padding).unwrap_or_default()])
    }

    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.chunk)?;
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.hasher.push(full)
    }
}

/// The content of a file as a writer.
struct Bytes<'a, W: Write>(&'a mut Writer<W>);

impl<W: Write> Write for Bytes<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills a field of a header, or only as much as fits.
fn fill(field: &mut [u8], value: &[u8]) -> bool {
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
    count == value.len()
}

/// Sets the name, divided at a slash if it must be. `false` when it does not fit;
/// the header then has the first part of it.
fn set_name(header: &mut Header, name: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else {
        return false;
    };
    let divide = |at: &usize| {
        name[*at] == b'/' && *at > 0 && *at <= ustar.prefix.len() && at + 1 < name.len()
    };
    if name.len() > ustar.name.len()
        && let Some(at) = (name.len() - ustar.name.len() - 1..name.len()).find(divide)
    {
        return fill(&mut ustar.prefix, &name[..at]) && fill(&mut ustar.name, &name[at + 1..]);
    }
    fill(&mut ustar.name, name)
}

/// Computes the digest on a thread of its own.
struct Hasher {
    chunks: SyncSender<Vec<u8>>,
    thread: JoinHandle<(Digest, u64)>,
}

impl Hasher {
    fn start() -> io::Result<Self> {
        let (chunks, received) = sync_channel::<Vec<u8>>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("diff-id".into())
            .spawn(move || {
                let mut hashing = Hashing::new(io::sink());
                for chunk in received {
                    // A sink takes everything.
                    let _ = hashing.write_all(&chunk);
                }
                let (_, digest, length) = hashing.finish();
                (digest, length)
            })?;
        Ok(Hasher { chunks, thread })
    }

    fn push(&self, chunk: Vec<u8>) -> io::Result<()> {
        self.chunks
            .send(chunk)
            .map_err(|_| io::Error::other("the hashing thread has ended"))
    }

    fn finish(self) -> io::Result<(Digest, u64)> {
        drop(self.chunks);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the hashing thread has panicked"))
    }
}
