//! Loading images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::layer::{Limits, Node, Reader};
use crate::oci::store::{self, BLOBS, Batch, Hold, INDEX_FILE, Index, LAYOUT_FILE};
use crate::oci::{Blob, ClusterImage, Reference, Store};

/// Under this name containerd keeps the whole reference; the standard annotation
/// then holds the tag alone.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where images are loaded from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A tar archive, also one compressed by gzip or zstd.
    File(PathBuf),
    /// A directory that is an OCI image layout.
    Directory(PathBuf),
}

/// A cluster image that was loaded.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Loaded {
    /// Its name in the store.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
}

/// Loads all images of a layout. Everything is checked before the first name is
/// given. `name` is for a layout with one image, in place of the name in it.
pub fn load(
    ctx: &Context,
    hold: &Hold,
    source: &Source,
    name: Option<&Reference>,
) -> Result<Vec<Loaded>> {
    let (path, index) = match source {
        Source::File(path) => (path, unpack(ctx, hold, path)?),
        Source::Directory(path) => (path, copy(ctx, hold, path)?),
    };
    let images = named(&index, path, name)?;
    let known = hold.tags()?;
    for (name, root) in &images {
        ctx.check_cancelled()?;
        if known.iter().any(|(_, blob)| blob == root) {
            continue;
        }
        let incomplete = |blob: &Blob| {
            Error::new(
                Kind::Integrity,
                format!(
                    "`{}` is incomplete in `{}`: the {} {} is missing",
                    name.familiar(),
                    path.display(),
                    blob.media_type,
                    blob.digest
                ),
            )
        };
        if let Some(missing) = hold.reachable(root)?.missing.first() {
            return Err(incomplete(missing));
        }
        ClusterImage::open(hold, root)?.check_layers(ctx, hold, &Limits::default())?;
    }
    for (name, root) in &images {
        hold.tag(name, root)?;
    }
    let loaded = images.into_iter().map(|(reference, root)| Loaded {
        reference,
        digest: root.digest,
    });
    Ok(loaded.collect())
}

/// The images in the index with their names.
fn named(index: &Index, path: &Path, name: Option<&Reference>) -> Result<Vec<(Reference, Blob)>> {
    let entries = index.entries();
    let place = path.display();
    if entries.is_empty() {
        return Err(Error::new(
            Kind::Input,
            format!("there is no image in `{place}`"),
        ));
    }
    if let Some(name) = name {
        let [(_, descriptor)] = entries.as_slice() else {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "there are {} images in `{place}`, so one name is not enough",
                    entries.len()
                ),
            )
            .hint("leave out `--name`"));
        };
        return Ok(vec![(name.clone(), document::blob(descriptor)?)]);
    }
    let mut images = Vec::new();
    for (own, descriptor) in entries {
        let full = descriptor
            .annotations()
            .as_ref()
            .and_then(|all| all.get(CONTAINERD_NAME));
        let name = full.map(String::as_str).or(own);
        // A word alone is a tag that skopeo was given, not a name.
        let name = name
            .filter(|name| name.contains(['/', ':']))
            .and_then(|name| name.parse::<Reference>().ok())
            .filter(|name| name.tag().is_some());
        let name = name.ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("the image {} in `{place}` has no name", descriptor.digest()),
            )
            .hint("give it one by `--name`")
        })?;
        images.push((name, document::blob(descriptor)?));
    }
    Ok(images)
}

/// Copies the blobs of another layout; returns its index.
fn copy(ctx: &Context, hold: &Hold, path: &Path) -> Result<Index> {
    let source = Store::open(path)?;
    let index = source.read_index()?;
    let mut batch = hold.batch();
    let mut meter = Meter {
        ctx,
        done: 0,
        total: None,
    };
    for (_, descriptor) in index.entries() {
        let root = document::blob(descriptor)?;
        let reachable = source.reachable(&root)?;
        for blob in reachable.contents.iter().chain(&reachable.documents) {
            if !hold.contains(blob) {
                let mut writer = hold.writer()?;
                meter.pour(&mut source.open_blob(blob)?, &mut writer, &blob.digest)?;
                writer.commit_in(&mut batch, blob)?;
            }
        }
    }
    batch.finish()?;
    Ok(index)
}

/// Unpacks the blobs of an archive; returns its index.
fn unpack(ctx: &Context, hold: &Hold, path: &Path) -> Result<Index> {
    let shown = format!("`{}`", path.display());
    let cannot_open = || format!("cannot open {shown}");
    let file = File::open(path).or_err(Kind::Input, cannot_open)?;
    let total = Some(file.metadata().or_err(Kind::Input, cannot_open)?.len());
    // An archive holds many layers, each of which has limits of its own.
    let limits = Limits {
        file_size: 1 << 40,
        total_size: 8 << 40,
        ..Limits::default()
    };
    let source = io::BufReader::with_capacity(1 << 20, file);
    let mut archive = Reader::new(source, &shown, limits)?;
    let mut batch = hold.batch();
    let mut meter = Meter {
        ctx,
        done: 0,
        total,
    };
    let (mut layout, mut index) = (None, None);
    while let Some(entry) = archive.next_entry()? {
        let size = match entry.node {
            Node::File { size, .. } => size,
            Node::Directory { .. } => continue,
            _ => {
                return Err(Error::new(
                    Kind::Integrity,
                    format!(
                        "{shown}: `{}` is neither a file nor a directory",
                        entry.path
                    ),
                ));
            }
        };
        match entry.path.as_str() {
            LAYOUT_FILE => layout = Some(read_small(&mut archive, size, &shown)?),
            INDEX_FILE => index = Some(read_small(&mut archive, size, &shown)?),
            // What is not a blob of SHA-256 belongs to another format, such as docker's.
            name => {
                if let Some(digest) = blob_named(name) {
                    let media_type = "blob".into();
                    let blob = Blob {
                        media_type,
                        digest,
                        size,
                    };
                    unpack_blob(&mut meter, hold, &mut archive, &blob, &mut batch)?;
                }
            }
        }
    }
    archive.finish()?;
    let missing = |name: &str| {
        Error::new(
            Kind::Input,
            format!("{shown} is not an OCI image layout: it has no file `{name}`"),
        )
        .hint("`skopeo copy docker-archive:FILE oci-archive:OTHER` converts docker's archives")
    };
    store::check_layout(&layout.ok_or_else(|| missing(LAYOUT_FILE))?, &shown)?;
    let index = index.ok_or_else(|| missing(INDEX_FILE))?;
    let index = Index::parse(&index, &format!("`{INDEX_FILE}` in {shown}"))?;
    batch.finish()?;
    Ok(index)
}

fn blob_named(path: &str) -> Option<Digest> {
    let hex = path.strip_prefix(BLOBS)?.strip_prefix('/')?;
    format!("sha256:{hex}").parse().ok()
}

fn unpack_blob(
    meter: &mut Meter,
    hold: &Hold,
    archive: &mut Reader<impl Read>,
    blob: &Blob,
    batch: &mut Batch,
) -> Result<()> {
    if hold.contains(blob) {
        meter.done += blob.size;
        return Ok(());
    }
    let mut writer = hold.writer()?;
    meter.pour(&mut archive.content(), &mut writer, &blob.digest)?;
    writer.commit_in(batch, blob)
}

fn read_small(archive: &mut Reader<impl Read>, size: u64, shown: &str) -> Result<Vec<u8>> {
    if size > MAX_DOCUMENT {
        return Err(Error::new(
            Kind::Integrity,
            format!("{shown}: a document is larger than {MAX_DOCUMENT} bytes"),
        ));
    }
    let mut content = Vec::new();
    archive
        .content()
        .read_to_end(&mut content)
        .or_err(Kind::Integrity, || format!("cannot read {shown}"))?;
    Ok(content)
}

/// Tells how many bytes were loaded.
struct Meter<'a> {
    ctx: &'a Context,
    done: u64,
    total: Option<u64>,
}

impl Meter<'_> {
    /// Copies a blob's bytes.
    fn pour(&mut self, from: &mut impl Read, to: &mut impl Write, digest: &Digest) -> Result<()> {
        let failed = || format!("cannot load the blob {digest}");
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.ctx.check_cancelled()?;
            let count = from.read(&mut buffer).map_err(|cause| {
                // What the archive's reader refuses has no number of the system's.
                let is_refusal = matches!(
                    cause.kind(),
                    io::ErrorKind::Other
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::InvalidData
                );
                let kind = if is_refusal {
                    Kind::Integrity
                } else {
                    Kind::System
                };
                Error::new(kind, failed()).because(cause)
            })?;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..count])
                .or_err(Kind::System, failed)?;
            self.done += count as u64;
            self.ctx.emit(Event::Progress {
                host: None,
                item: "load".into(),
                done: self.done,
                total: self.total,
            });
        }
    }
}
