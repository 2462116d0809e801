//! Layers, unpacked into objects once and remembered.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Directory;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::file;
use crate::host::Root;
use crate::host::object::{self, Objects, list};
use crate::oci::Store;
use crate::oci::image::Layer;
use crate::oci::layer::{self, EntryPath, Limits};

/// What a layer unpacked to: its entries in their order, files as objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unpacked {
    pub(super) entries: Vec<UnpackedEntry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UnpackedEntry {
    pub(super) path: EntryPath,
    #[serde(flatten)]
    pub(super) node: UnpackedNode,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum UnpackedNode {
    /// A file, or a hard link to one.
    File(object::File),
    Link {
        target: String,
    },
    Directory(Directory),
    Whiteout,
    OpaqueDirectory,
}

impl Unpacked {
    fn files(&self) -> impl Iterator<Item = &object::File> {
        self.entries.iter().filter_map(|entry| match &entry.node {
            UnpackedNode::File(file) => Some(file),
            _ => None,
        })
    }
}

fn directory(root: &Root) -> PathBuf {
    root.state("layers")
}

fn path_of(root: &Root, diff_id: &Digest) -> PathBuf {
    directory(root).join(format!("{}.json", diff_id.hex()))
}

/// Unpacks layers, several at once, and those that are known not at all.
pub(super) fn unpack_all(
    root: &Root,
    store: &Store,
    layers: &[Layer],
    ctx: &Context,
) -> Result<Vec<Unpacked>> {
    file::create_directories(&directory(root))?;
    let objects = Objects::open(root)?;
    layers
        .par_iter()
        .map(|layer| match known(root, &objects, layer)? {
            Some(unpacked) => Ok(unpacked),
            None => unpack(root, &objects, store, layer, ctx),
        })
        .collect()
}

/// What the layer unpacked to earlier, if all of it is still there.
fn known(root: &Root, objects: &Objects, layer: &Layer) -> Result<Option<Unpacked>> {
    let Some(unpacked) = read(root, &layer.diff_id)? else {
        return Ok(None);
    };
    let is_whole = unpacked.files().all(|file| objects.contains(file));
    Ok(is_whole.then_some(unpacked))
}

fn read(root: &Root, diff_id: &Digest) -> Result<Option<Unpacked>> {
    let path = path_of(root, diff_id);
    match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        file => {
            let file = file.or_err(Kind::System, || format!("cannot open `{}`", path.display()))?;
            // What cannot be read is unpacked again.
            Ok(serde_json::from_reader(BufReader::new(file)).ok())
        }
    }
}

fn unpack(
    root: &Root,
    objects: &Objects,
    store: &Store,
    layer: &Layer,
    ctx: &Context,
) -> Result<Unpacked> {
    let mut reader = layer.read(store, Limits::default())?;
    let mut batch = objects.batch();
    let mut entries = Vec::new();
    let mut files: HashMap<EntryPath, object::File> = HashMap::new();
    let mut bytes = 0;
    while let Some(entry) = reader.next_entry()? {
        ctx.check_cancelled()?;
        let node = match entry.node {
            layer::Node::File { meta, size } => {
                let file = batch
                    .add(&meta, reader.content())
                    .map_err(|error| in_layer(layer, &entry.path, error))?;
                bytes += size;
                tell(ctx, layer, bytes, None);
                files.insert(entry.path.clone(), file.clone());
                UnpackedNode::File(file)
            }
            layer::Node::Hardlink { target } => match files.get(&target).cloned() {
                Some(file) => {
                    files.insert(entry.path.clone(), file.clone());
                    UnpackedNode::File(file)
                }
                None => {
                    let cause = Error::new(
                        Kind::Integrity,
                        format!("the hard link's target `{target}` is not a file"),
                    );
                    return Err(in_layer(layer, &entry.path, cause));
                }
            },
            layer::Node::Directory { meta } => UnpackedNode::Directory(Directory {
                mode: meta.mode,
                uid: meta.uid,
                gid: meta.gid,
            }),
            layer::Node::Symlink { target, .. } => UnpackedNode::Link { target },
            layer::Node::Whiteout => UnpackedNode::Whiteout,
            layer::Node::OpaqueDirectory => UnpackedNode::OpaqueDirectory,
        };
        entries.push(UnpackedEntry {
            path: entry.path,
            node,
        });
    }
    // Until here the archive might be anything; from here it is what its digest says.
    reader.finish()?;
    tell(ctx, layer, bytes, Some(bytes));
    batch.finish()?;
    let unpacked = Unpacked { entries };
    let text = serde_json::to_vec(&unpacked).or_err(Kind::Failed, || "cannot describe a layer")?;
    let path = path_of(root, &layer.diff_id);
    root.allow("write", &path)?;
    // Not synced: what cannot be read is unpacked again.
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&text))
        .or_err(Kind::System, || {
            format!("cannot write `{}`", path.display())
        })?;
    Ok(unpacked)
}

fn in_layer(layer: &Layer, path: &EntryPath, cause: Error) -> Error {
    let kind = cause.kind();
    Error::new(
        kind,
        format!(
            "cannot unpack `{path}` of the layer {} ({})",
            layer.blob.digest, layer.kind
        ),
    )
    .because(cause)
}

/// How large a layer is when unpacked is known at its end.
fn tell(ctx: &Context, layer: &Layer, done: u64, total: Option<u64>) {
    ctx.emit(Event::Progress {
        host: None,
        item: format!("unpack layer {}", layer.kind),
        done,
        total,
    });
}

/// Forgets what other layers than `used` unpacked to. Returns the objects of
/// those that stay.
pub(super) fn retain(root: &Root, used: &HashSet<Digest>) -> Result<HashSet<Digest>> {
    let mut objects = HashSet::new();
    for path in list(&directory(root))? {
        let diff_id = path.file_name().and_then(|name| {
            format!("sha256:{}", name.to_str()?.strip_suffix(".json")?)
                .parse()
                .ok()
        });
        match diff_id.filter(|diff_id| used.contains(diff_id)) {
            Some(diff_id) => {
                let unpacked = read(root, &diff_id)?;
                objects.extend(
                    unpacked
                        .iter()
                        .flat_map(Unpacked::files)
                        .map(object::File::id),
                );
            }
            None => {
                root.allow("remove", &path)?;
                std::fs::remove_file(&path).or_err(Kind::System, || {
                    format!("cannot remove `{}`", path.display())
                })?;
            }
        }
    }
    Ok(objects)
}
