//! Saving images.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use oci_spec::image::{ImageIndexBuilder, MediaType};

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::file;
use crate::oci::store::{BLOBS, Hold, INDEX_FILE, LAYOUT, LAYOUT_FILE};
use crate::oci::{Blob, Reference, Store, annotation, document};

/// Where images are saved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A tar archive, written whole or not at all.
    File(PathBuf),
    /// A directory. It becomes a store, or is one already; what it has is not
    /// copied again.
    Directory(PathBuf),
}

/// Saves images under their names, with everything that belongs to them. `hold`
/// keeps the content in place meanwhile.
pub fn save(
    ctx: &Context,
    hold: &Hold,
    images: &[(Reference, Blob)],
    target: &Target,
) -> Result<()> {
    let mut blobs = BTreeMap::new();
    for (name, root) in images {
        let reachable = hold.reachable(root)?;
        if let Some(missing) = reachable.missing.first() {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "cannot save `{}`: the {} {} is missing in the store",
                    name.familiar(),
                    missing.media_type,
                    missing.digest
                ),
            )
            .hint("`chasi fsck` lists all damage"));
        }
        let all = reachable.contents.into_iter().chain(reachable.documents);
        blobs.extend(all.map(|blob| (blob.digest, blob)));
    }
    let mut meter = Meter {
        ctx,
        done: 0,
        total: blobs.values().map(|blob| blob.size).sum(),
    };
    match target {
        Target::Directory(path) => save_directory(&mut meter, hold, images, &blobs, path),
        Target::File(path) => {
            let mut failed = None;
            let written = file::replace(path, 0o644, |file| {
                save_archive(&mut meter, hold, images, &blobs, file).map_err(|error| {
                    let text = error.to_string();
                    failed = Some(error);
                    io::Error::other(text)
                })
            });
            // The error of the library says more than the one of the file.
            match failed {
                Some(error) => Err(error),
                None => written,
            }
        }
    }
}

struct Meter<'a> {
    ctx: &'a Context,
    done: u64,
    total: u64,
}

impl Meter<'_> {
    fn saved(&mut self, blob: &Blob) -> Result<()> {
        self.done += blob.size;
        self.ctx.emit(Event::Progress {
            host: None,
            item: "save".into(),
            done: self.done,
            total: Some(self.total),
        });
        self.ctx.check_cancelled()
    }
}

fn save_directory(
    meter: &mut Meter,
    hold: &Hold,
    images: &[(Reference, Blob)],
    blobs: &BTreeMap<Digest, Blob>,
    path: &std::path::Path,
) -> Result<()> {
    let target = Store::create(path)?.hold()?;
    for blob in blobs.values() {
        if !target.contains(blob) {
            let mut writer = target.writer()?;
            copy(hold, blob, &mut writer)?;
            writer.commit_as(blob)?;
        }
        meter.saved(blob)?;
    }
    for (name, root) in images {
        target.tag(name, root)?;
    }
    Ok(())
}

fn save_archive(
    meter: &mut Meter,
    hold: &Hold,
    images: &[(Reference, Blob)],
    blobs: &BTreeMap<Digest, Blob>,
    file: &mut File,
) -> Result<()> {
    let failed = || "cannot write the archive";
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    for (name, content) in [
        (LAYOUT_FILE, LAYOUT.as_bytes()),
        (INDEX_FILE, &index(images)?),
    ] {
        let header = header(name, content.len() as u64).or_err(Kind::System, failed)?;
        archive
            .append(&header, content)
            .or_err(Kind::System, failed)?;
    }
    for blob in blobs.values() {
        let name = format!("{BLOBS}/{}", blob.digest.hex());
        let header = header(&name, blob.size).or_err(Kind::System, failed)?;
        let mut content = Hashing::new(hold.open_blob(blob)?);
        archive
            .append(&header, &mut content)
            .or_err(Kind::System, failed)?;
        check(hold, blob, content)?;
        meter.saved(blob)?;
    }
    archive
        .into_inner()
        .and_then(|mut file| file.flush())
        .or_err(Kind::System, failed)
}

/// The header of a file: no times, no owners.
fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    // GNU's form can say sizes above 8 GiB without a second header.
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

/// The `index.json` of the archive, sorted by name.
fn index(images: &[(Reference, Blob)]) -> Result<Vec<u8>> {
    let mut manifests = BTreeMap::new();
    for (name, root) in images {
        let full = name.to_string();
        let mut descriptor = document::descriptor(root)?;
        descriptor.set_annotations(Some(HashMap::from([(
            annotation::REF_NAME.to_owned(),
            full.clone(),
        )])));
        manifests.insert(full, descriptor);
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests.into_values().collect::<Vec<_>>())
        .build()
        .or_err(Kind::Failed, || "cannot make the archive's index")?;
    document::canonical(&index)
}

fn copy(hold: &Hold, blob: &Blob, target: &mut impl Write) -> Result<()> {
    let mut content = Hashing::new(hold.open_blob(blob)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let failed = || format!("cannot save the blob {}", blob.digest);
        let count = content.read(&mut buffer).or_err(Kind::System, failed)?;
        if count == 0 {
            return check(hold, blob, content);
        }
        target
            .write_all(&buffer[..count])
            .or_err(Kind::System, failed)?;
    }
}

/// Damage in the store must not travel.
fn check(hold: &Hold, blob: &Blob, content: Hashing<File>) -> Result<()> {
    let (_, digest, size) = content.finish();
    if digest == blob.digest && size == blob.size {
        return Ok(());
    }
    Err(hold.damaged(&blob.digest, "does not match its digest".into()))
}
