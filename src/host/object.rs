//! The object store: one file for each content, mode, owner and set of extended
//! attributes.
//!
//! ```text
//! objects/<aa>/<62 more hex digits>   an object, named by the digest of its File
//! objects/incoming/                   objects that are being written
//! ```
//!
//! Invariants:
//! - An object's name is the digest of what its [`File`] says: the
//!   digest of its content, its mode, its owner and its attributes.
//! - A name is given only after content and attributes were written and synced.
//!   Names themselves are durable when a generation that has them is.
//! - An object is never written again: generations share it by hard links. Its
//!   modification time is always [`MODIFIED`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Timespec, Timestamps, XattrFlags};
use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use super::Root;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::oci::layer::Meta;

/// When every object was last modified, in seconds since 1970. Not zero, which
/// some programs take for "unknown".
pub const MODIFIED: i64 = 1;

/// What is read and written at once, in bytes.
const CHUNK: usize = 256 << 10;

/// What an object is. Equal files are one object.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The digest of its content.
    pub content: Digest,
    /// The number of bytes.
    pub size: u64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// The owner's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
    /// Extended attributes, their values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

impl File {
    fn new(content: Digest, size: u64, meta: &Meta) -> Self {
        let encode = |(name, value): (&String, &Vec<u8>)| (name.clone(), STANDARD.encode(value));
        File {
            content,
            size,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            xattrs: meta.xattrs.iter().map(encode).collect(),
        }
    }

    /// The object's name.
    pub fn id(&self) -> Digest {
        let File {
            content,
            size,
            mode,
            uid,
            gid,
            xattrs,
        } = self;
        let mut text = format!("{content} {size} {mode:o} {uid} {gid}\n");
        for (name, value) in xattrs {
            // With their lengths, so that no two sets have one text.
            text.push_str(&format!("{} {name} {} {value}\n", name.len(), value.len()));
        }
        Digest::of(text)
    }

    /// Gives an open file this mode, owner and these attributes, in the order in
    /// which none undoes another.
    pub(super) fn dress(&self, file: &fs::File) -> std::io::Result<()> {
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (self.uid, self.gid) {
            std::os::unix::fs::fchown(file, Some(self.uid), Some(self.gid))?;
        }
        for (name, value) in &self.xattrs {
            let value = STANDARD.decode(value).map_err(std::io::Error::other)?;
            rustix::fs::fsetxattr(file, name.as_str(), &value, XattrFlags::empty())?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// A host's objects.
#[derive(Clone, Debug)]
pub struct Objects {
    root: Root,
}

impl Objects {
    /// Opens the objects of a host; makes the directory if there is none.
    pub fn open(root: &Root) -> Result<Self> {
        let objects = Objects { root: root.clone() };
        let incoming = objects.incoming();
        if !incoming.is_dir() {
            root.allow("create", &incoming)?;
            file::create_directories(&objects.directory())?;
            fs::create_dir_all(&incoming).or_err(Kind::System, || {
                format!("cannot create the directory `{}`", incoming.display())
            })?;
        }
        Ok(objects)
    }

    fn directory(&self) -> PathBuf {
        self.root.state("objects")
    }

    fn incoming(&self) -> PathBuf {
        self.directory().join("incoming")
    }

    /// Where an object is, or would be.
    pub fn path(&self, id: &Digest) -> PathBuf {
        let hex = id.hex();
        self.directory().join(&hex[..2]).join(&hex[2..])
    }

    /// Whether the object is there, by its name, size, mode and owner. Content is
    /// compared with its digest when an object is written, and by
    /// [`Objects::check`].
    pub fn contains(&self, file: &File) -> bool {
        fs::symlink_metadata(self.path(&file.id())).is_ok_and(|found| {
            found.is_file()
                && found.len() == file.size
                && found.mode() & 0o7777 == file.mode
                && (found.uid(), found.gid()) == (file.uid, file.gid)
        })
    }

    /// Begins to add objects.
    pub fn batch(&self) -> Batch {
        Batch {
            objects: self.clone(),
            written: HashMap::new(),
        }
    }

    /// Removes an object that is not what its name says, so that it is written anew.
    pub(super) fn discard(&self, id: &Digest) -> Result<()> {
        let path = self.path(id);
        self.root.allow("remove", &path)?;
        file::remove(&path)
    }

    /// Removes what interrupted writers left. Only for the one who may change the
    /// host.
    pub(super) fn clear_incoming(&self) -> Result<()> {
        for path in list(&self.incoming())? {
            self.root.allow("remove", &path)?;
            fs::remove_file(&path).or_err(Kind::System, || {
                format!("cannot remove `{}`", path.display())
            })?;
        }
        Ok(())
    }

    fn shards(&self) -> Result<Vec<PathBuf>> {
        let is_shard = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 2);
        Ok(list(&self.directory())?
            .into_iter()
            .filter(is_shard)
            .collect())
    }

    /// Removes all objects but those in `keep`.
    pub fn sweep(&self, keep: &HashSet<Digest>) -> Result<Swept> {
        let mut swept = Swept::default();
        for shard in self.shards()? {
            for path in list(&shard)? {
                if id_of(&path).is_some_and(|id| keep.contains(&id)) {
                    continue;
                }
                let size = fs::symlink_metadata(&path).map_or(0, |found| found.len());
                self.root.allow("remove", &path)?;
                fs::remove_file(&path).or_err(Kind::System, || {
                    format!("cannot remove `{}`", path.display())
                })?;
                swept.objects += 1;
                swept.bytes += size;
            }
        }
        Ok(swept)
    }

    /// Reads every object and compares it with its name. Returns what is damaged.
    pub fn check(&self, ctx: &Context) -> Result<Vec<Damage>> {
        let mut damaged = Vec::new();
        for shard in self.shards()? {
            for path in list(&shard)? {
                ctx.check_cancelled()?;
                let found = describe(&path)?;
                if id_of(&path) != Some(found.id()) {
                    damaged.push(Damage { path, found });
                }
            }
        }
        Ok(damaged)
    }
}

/// What [`Objects::sweep`] removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Objects.
    pub objects: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// An object that is not what its name says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub found: File,
}

/// Objects that are made durable together; dropped before [`Batch::finish`], none
/// of them is added.
#[derive(Debug)]
pub struct Batch {
    objects: Objects,
    written: HashMap<Digest, TempPath>,
}

impl Batch {
    /// Adds an object, unless it is there. An error while reading `content` has
    /// the kind [`Kind::Integrity`].
    pub fn add(&mut self, meta: &Meta, content: impl Read) -> Result<File> {
        let incoming = self.objects.incoming();
        let failed = || format!("cannot write into `{}`", incoming.display());
        self.objects.root.allow("create", &incoming)?;
        let mut temporary = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&incoming)
            .or_err(Kind::System, failed)?;
        let (content, size) = copy(content, |chunk| {
            self.objects.root.pass("write", &incoming)?;
            temporary.write_all(chunk)
        })
        .map_err(|error| match error {
            CopyError::Read(cause) => {
                Error::new(Kind::Integrity, "cannot read the content").because(cause)
            }
            CopyError::Write(cause) => Error::new(Kind::System, failed()).because(cause),
        })?;
        let file = File::new(content, size, meta);
        let id = file.id();
        if self.written.contains_key(&id) || self.objects.contains(&file) {
            return Ok(file);
        }
        let time = Timespec {
            tv_sec: MODIFIED,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        file.dress(temporary.as_file())
            .and_then(|()| Ok(rustix::fs::futimens(temporary.as_file(), &times)?))
            .or_err(Kind::System, failed)?;
        self.written.insert(id, temporary.into_temp_path());
        Ok(file)
    }

    /// Makes the objects durable, and gives them their names, which become durable
    /// with the generation.
    pub fn finish(self) -> Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let root = &self.objects.root;
        let incoming = self.objects.incoming();
        let failed = || format!("cannot sync `{}`", incoming.display());
        root.allow("sync", &incoming)?;
        // One sync of the file system, where a sync a file would be thousands.
        let directory = fs::File::open(&incoming).or_err(Kind::System, failed)?;
        rustix::fs::syncfs(&directory).or_err(Kind::System, failed)?;
        for (id, temporary) in self.written {
            let path = self.objects.path(&id);
            if let Some(shard) = path.parent().filter(|shard| !shard.is_dir()) {
                root.allow("create", shard)?;
                // Another layer may have made it since.
                fs::create_dir_all(shard).or_err(Kind::System, || {
                    format!("cannot create the directory `{}`", shard.display())
                })?;
            }
            root.allow("rename", &path)?;
            temporary.persist(&path).or_err(Kind::System, || {
                format!("cannot write `{}`", path.display())
            })?;
        }
        Ok(())
    }
}

enum CopyError {
    Read(std::io::Error),
    Write(std::io::Error),
}

fn copy(
    content: impl Read,
    mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::result::Result<(Digest, u64), CopyError> {
    let mut content = Hashing::new(content);
    let mut chunk = vec![0; CHUNK];
    loop {
        match content.read(&mut chunk).map_err(CopyError::Read)? {
            0 => break,
            count => write(&chunk[..count]).map_err(CopyError::Write)?,
        }
    }
    let (_, digest, length) = content.finish();
    Ok((digest, length))
}

/// What a regular file is, read whole. Of the extended attributes, those that
/// objects can have.
pub(super) fn describe(path: &Path) -> Result<File> {
    let attempt = || -> std::io::Result<File> {
        let mut file = Hashing::new(fs::File::open(path)?);
        let mut chunk = vec![0; CHUNK];
        while file.read(&mut chunk)? > 0 {}
        let (file, content, size) = file.finish();
        let found = file.metadata()?;
        let mut xattrs = BTreeMap::new();
        for (name, value) in super::xattr::read(path)? {
            if name == "security.capability" || name.starts_with("user.") {
                xattrs.insert(name, value);
            }
        }
        Ok(File::new(
            content,
            size,
            &Meta {
                mode: found.mode() & 0o7777,
                uid: found.uid(),
                gid: found.gid(),
                xattrs,
            },
        ))
    };
    attempt().or_err(Kind::System, || format!("cannot read `{}`", path.display()))
}

fn id_of(path: &Path) -> Option<Digest> {
    let shard = path.parent()?.file_name()?.to_str()?;
    format!("sha256:{shard}{}", path.file_name()?.to_str()?)
        .parse()
        .ok()
}

/// The paths of a directory's entries, sorted; none if there is no directory.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let attempt = || -> std::io::Result<Vec<PathBuf>> {
        match fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => {
                let mut paths = entries?
                    .map(|entry| Ok(entry?.path()))
                    .collect::<std::io::Result<Vec<_>>>()?;
                paths.sort();
                Ok(paths)
            }
        }
    };
    attempt().or_err(Kind::System, || {
        format!("cannot list `{}`", directory.display())
    })
}
