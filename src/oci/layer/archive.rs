//! The archive below a layer: decompression, bounds, and tar headers with their
//! extensions (POSIX ustar and PAX, GNU long names). What an entry means is the
//! reader's business.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{EntryType, Header};

use super::read::Limits;
use super::{Meta, pax};
use crate::digest::{Digest, Hashing};

const BLOCK: u64 = 512;
/// Below this size the compression ratio says nothing.
const RATIO_FREE: u64 = 64 << 20;
/// The largest extended header: two paths and extended attributes.
const MAX_EXTENSION: u64 = 1 << 20;
/// The largest size that the header's own field can say.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// Why an archive cannot be read on.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is not what it should be.
    Said(String),
    /// The bytes could not be had.
    Failed(io::Error),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Problem::Said(text)
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        Problem::Said(text.to_owned())
    }
}

impl From<io::Error> for Problem {
    fn from(cause: io::Error) -> Self {
        Problem::Failed(cause)
    }
}

/// A header with its extensions applied, nothing checked but its form.
pub(super) struct Raw {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) meta: Meta,
}

pub(super) struct Archive<R: Read> {
    stream: Hashing<Bounded<R>>,
    /// Bytes of the current entry that were not read yet, and what fills its last
    /// block.
    content: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn open(source: R, limits: &Limits) -> io::Result<Self> {
        Ok(Archive {
            stream: Hashing::new(Bounded::open(source, limits)?),
            content: 0,
            padding: 0,
            ended: false,
        })
    }

    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let count = self.stream.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends within a file",
            ));
        }
        self.content -= count as u64;
        Ok(count)
    }

    /// The next entry, or `None` at the end of the archive.
    pub(super) fn next_header(&mut self) -> Result<Option<Raw>, Problem> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.read_header()? else {
                if extensions.any {
                    return Err("the archive ends after an extended header".into());
                }
                return Ok(None);
            };
            let size = size_of(&header)?;
            self.content = size;
            self.padding = size.next_multiple_of(BLOCK) - size;
            match header.entry_type() {
                EntryType::XHeader => extensions.pax(&self.extension()?)?,
                EntryType::XGlobalHeader => check_global(&self.extension()?)?,
                EntryType::GNULongName => extensions.path = Some(until_nul(self.extension()?)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(self.extension()?)),
                kind => return self.entry(kind, &header, extensions).map(Some),
            }
            extensions.any = true;
        }
    }

    fn entry(
        &mut self,
        kind: EntryType,
        header: &Header,
        extensions: Extensions,
    ) -> Result<Raw, Problem> {
        let own = size_of(header)?;
        let size = match extensions.size {
            // Whoever writes a size that does not fit writes zero in its field. Any other
            // difference would let two programs see two archives.
            Some(size) if size == own || (own == 0 && size > MAX_OCTAL_SIZE) => size,
            Some(_) => return Err("the two sizes of the entry differ".into()),
            None => own,
        };
        self.content = size;
        self.padding = size
            .checked_next_multiple_of(BLOCK)
            .ok_or("the size is too large")?
            - size;
        let old = header.as_old();
        let id = |extended: Option<u32>, field: &[u8], own: fn(&Header) -> io::Result<u64>| {
            match extended {
                Some(id) => Ok(id),
                None => u32::try_from(or_zero(field, || own(header))?)
                    .map_err(|_| Problem::from("an owner's id is too large")),
            }
        };
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        // Archives from before POSIX mark directories by the slash alone.
        let kind = match kind {
            EntryType::Regular if path.ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        Ok(Raw {
            kind,
            path,
            link: link.unwrap_or_default(),
            size,
            meta: Meta {
                mode: (or_zero(&old.mode, || header.mode().map(u64::from))? & 0o7777) as u32,
                uid: id(extensions.uid, &old.uid, Header::uid)?,
                gid: id(extensions.gid, &old.gid, Header::gid)?,
                xattrs: extensions.xattrs,
            },
        })
    }

    /// Goes to the next header.
    fn skip(&mut self) -> Result<(), Problem> {
        let rest = self
            .content
            .checked_add(self.padding)
            .ok_or("the size is too large")?;
        (self.content, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.stream).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err("the archive ends within an entry".into());
        }
        Ok(())
    }

    /// `None` at the end mark, or at the end of an archive without one.
    fn read_header(&mut self) -> Result<Option<Header>, Problem> {
        let mut header = Header::new_old();
        if self.ended {
            return Ok(None);
        }
        let bytes = header.as_mut_bytes();
        let mut filled = 0;
        while filled < bytes.len() {
            match self.stream.read(&mut bytes[filled..])? {
                0 if filled == 0 => break,
                0 => return Err("the archive ends within a header".into()),
                count => filled += count,
            }
        }
        if bytes.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        if header.cksum()? != sum {
            return Err("a header's checksum is wrong".into());
        }
        Ok(Some(header))
    }

    fn extension(&mut self) -> Result<Vec<u8>, Problem> {
        if self.content > MAX_EXTENSION {
            return Err(format!("an extended header is larger than {MAX_EXTENSION} bytes").into());
        }
        let mut data = vec![0; usize::try_from(self.content).unwrap_or_default()];
        self.stream.read_exact(&mut data)?;
        self.content = 0;
        Ok(data)
    }

    /// Reads what follows the end mark: nothing but zeros.
    pub(super) fn drain(&mut self) -> Result<(), Problem> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                return Err("there is something behind the end of the archive".into());
            }
        }
    }

    /// The digest of all that was read.
    pub(super) fn into_digest(self) -> Digest {
        self.stream.finish().1
    }
}

fn size_of(header: &Header) -> io::Result<u64> {
    or_zero(&header.as_old().size, || header.entry_size())
}

/// Some programs leave a number that does not matter empty.
fn or_zero(field: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    parse()
}

/// What extended headers say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

const XATTR: &str = "SCHILY.xattr.";

impl Extensions {
    fn pax(&mut self, data: &[u8]) -> Result<(), Problem> {
        for (key, value) in pax::parse(data)? {
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "size" => self.size = Some(number(key, value)?),
                "uid" => self.uid = Some(number(key, value)?),
                "gid" => self.gid = Some(number(key, value)?),
                key if key.starts_with("GNU.sparse.") => {
                    return Err("sparse files are refused".into());
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        self.xattr(name, value)?;
                    }
                    // Times, names of owners and comments mean nothing here.
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &str, value: &[u8]) -> Result<(), Problem> {
        match name {
            // Labels belong to the host's policy, not to an archive.
            "security.selinux" => {}
            name if name == "security.capability" || name.starts_with("user.") => {
                self.xattrs.insert(name.to_owned(), value.to_vec());
            }
            name => {
                return Err(format!(
                    "the extended attribute `{}` is refused",
                    name.escape_debug()
                )
                .into());
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &[u8]) -> Result<T, Problem> {
    std::str::from_utf8(value)
        .ok()
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("the PAX record `{key}` is not a number").into())
}

/// A global header may comment, as git's does, but not change entries.
fn check_global(data: &[u8]) -> Result<(), Problem> {
    match pax::parse(data)?.iter().find(|(key, _)| *key != "comment") {
        Some((key, _)) => {
            Err(format!("the global PAX record `{}` is refused", key.escape_debug()).into())
        }
        None => Ok(()),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// How large an archive is without compression, in bytes. Reads all of it.
pub(super) fn unpacked_size(source: impl Read, limits: &Limits) -> io::Result<u64> {
    let mut archive = Bounded::open(source, limits)?;
    let mut buffer = vec![0; 256 << 10];
    while archive.read(&mut buffer)? > 0 {}
    Ok(archive.produced)
}

/// The archive without compression, within the limits.
struct Bounded<R: Read> {
    decoder: Decoder<R>,
    /// How many bytes were read from the source.
    compressed: Arc<AtomicU64>,
    produced: u64,
    total_size: u64,
    ratio: u64,
}

type Source<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<R>>>;

enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Source<R>>>),
}

impl<R: Read> Bounded<R> {
    fn open(source: R, limits: &Limits) -> io::Result<Self> {
        let compressed = Arc::new(AtomicU64::new(0));
        let mut source = Counted {
            source,
            count: compressed.clone(),
        };
        let mut magic = Vec::new();
        (&mut source).take(4).read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
        let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
        let source = BufReader::with_capacity(256 << 10, Cursor::new(magic).chain(source));
        let decoder = if is_gzip {
            Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
        } else if is_zstd {
            Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
        } else {
            Decoder::Plain(source)
        };
        Ok(Bounded {
            decoder,
            compressed,
            produced: 0,
            total_size: limits.total_size,
            ratio: limits.ratio,
        })
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.produced += count as u64;
        if self.produced > self.total_size {
            return Err(io::Error::other(format!(
                "the archive is larger than {} bytes",
                self.total_size
            )));
        }
        let compressed = self.compressed.load(Ordering::Relaxed).max(1);
        if self.produced > RATIO_FREE && self.produced / compressed > self.ratio {
            return Err(io::Error::other(format!(
                "the archive is compressed more than {} times, as only bombs are",
                self.ratio
            )));
        }
        Ok(count)
    }
}

struct Counted<R> {
    source: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
