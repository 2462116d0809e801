//! The content of a layer before it is written: a set of entries, put in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{EntryPath, Meta, Writer};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::image::{Layer, LayerKind};
use crate::oci::media;
use crate::oci::store::Hold;

/// The entries of a layer to be written.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<EntryPath, Node>,
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file that does not change until the layer is written.
    File {
        /// Its path on this machine.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

#[derive(Clone, Debug)]
enum Node {
    Directory(Meta),
    Symlink(Meta, String),
    File(Meta, Source),
    /// Another name of the file at this path.
    Hardlink(EntryPath),
}

impl Source {
    /// A file on this machine, with its size as of now.
    pub fn file(path: &Path) -> Result<Self> {
        let metadata = path
            .metadata()
            .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
        if !metadata.is_file() {
            return Err(Error::new(
                Kind::Input,
                format!("`{}` is not a regular file", path.display()),
            ));
        }
        Ok(Source::File {
            path: path.to_owned(),
            size: metadata.len(),
        })
    }
}

impl Tree {
    /// Nothing.
    pub fn new() -> Self {
        Tree::default()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The paths of all entries, in order.
    pub fn paths(&self) -> impl Iterator<Item = &EntryPath> {
        self.entries.keys()
    }

    /// Adds a directory, or sets the permissions of one that is there.
    pub fn directory(&mut self, path: EntryPath, meta: Meta) -> Result<()> {
        self.enter_parents(&path)?;
        match self.entries.get(&path) {
            None | Some(Node::Directory(_)) => {
                self.entries.insert(path, Node::Directory(meta));
                Ok(())
            }
            Some(_) => Err(conflict(&path, "is there already and is not a directory")),
        }
    }

    /// Adds a file, in place of a file or link that is there.
    pub fn file(&mut self, path: EntryPath, meta: Meta, source: Source) -> Result<()> {
        self.enter(path, Node::File(meta, source))
    }

    /// Adds a symbolic link, in place of a file or link that is there.
    pub fn symlink(&mut self, path: EntryPath, meta: Meta, target: String) -> Result<()> {
        self.enter(path, Node::Symlink(meta, target))
    }

    /// Adds another name for a file that is there.
    pub fn hardlink(&mut self, path: EntryPath, target: &EntryPath) -> Result<()> {
        let target = match self.entries.get(target) {
            Some(Node::File(..)) => target.clone(),
            Some(Node::Hardlink(first)) => first.clone(),
            _ => {
                return Err(conflict(
                    target,
                    "is not a file, so it cannot have another name",
                ));
            }
        };
        if path == target {
            return Ok(());
        }
        self.enter(path, Node::Hardlink(target))
    }

    fn enter(&mut self, path: EntryPath, node: Node) -> Result<()> {
        self.enter_parents(&path)?;
        match self.entries.get(&path) {
            Some(Node::Directory(_)) => return Err(conflict(&path, "is a directory already")),
            Some(Node::File(..)) => self.hand_over(&path),
            _ => {}
        }
        self.entries.insert(path, node);
        Ok(())
    }

    /// A file that is replaced stays under its other names.
    fn hand_over(&mut self, path: &EntryPath) {
        let is_other = |node: &Node| matches!(node, Node::Hardlink(target) if target == path);
        let mut others = self
            .entries
            .iter()
            .filter(|(_, node)| is_other(node))
            .map(|(other, _)| other.clone());
        let Some(heir) = others.next() else { return };
        let rest: Vec<_> = others.collect();
        for other in rest {
            self.entries.insert(other, Node::Hardlink(heir.clone()));
        }
        if let Some(file) = self.entries.remove(path) {
            self.entries.insert(heir, file);
        }
    }

    fn enter_parents(&mut self, path: &EntryPath) -> Result<()> {
        let parents: Vec<_> = std::iter::successors(path.parent(), EntryPath::parent)
            .take_while(|parent| !matches!(self.entries.get(parent), Some(Node::Directory(_))))
            .collect();
        if let Some(parent) = parents
            .iter()
            .find(|parent| self.entries.contains_key(*parent))
        {
            return Err(conflict(
                path,
                &format!("cannot be in `{parent}`, which is not a directory"),
            ));
        }
        let made = parents
            .into_iter()
            .map(|parent| (parent, Node::Directory(Meta::new(0o755))));
        self.entries.extend(made);
        Ok(())
    }

    /// Writes the layer into a store.
    pub fn write(&self, hold: &Hold, kind: LayerKind) -> Result<Layer> {
        let failed = || format!("cannot write the layer `{kind}`");
        let mut writer = Writer::new(hold.writer()?).or_err(Kind::System, failed)?;
        self.write_entries(&mut writer)?;
        let written = writer.finish().or_err(Kind::System, failed)?;
        Ok(Layer {
            blob: written.out.commit(media::LAYER_ZSTD)?,
            diff_id: written.diff_id,
            kind,
        })
    }

    /// Writes the entries in order.
    pub fn write_entries<W: std::io::Write>(&self, writer: &mut Writer<W>) -> Result<()> {
        // Of a file's names, the first in order carries the content.
        let mut carriers: BTreeMap<&EntryPath, &EntryPath> = BTreeMap::new();
        for (path, node) in &self.entries {
            let failed = || format!("cannot write `{path}` into the layer");
            let file = match node {
                Node::Directory(meta) => {
                    writer.directory(path, meta).or_err(Kind::System, failed)?;
                    continue;
                }
                Node::Symlink(meta, target) => {
                    writer
                        .symlink(path, meta, target)
                        .or_err(Kind::System, failed)?;
                    continue;
                }
                Node::File(..) => path,
                Node::Hardlink(target) => target,
            };
            let Some(Node::File(meta, source)) = self.entries.get(file) else {
                return Err(conflict(
                    path,
                    "is another name for a file that is not there",
                ));
            };
            match carriers.get(file) {
                Some(carrier) => writer
                    .hardlink(path, meta, carrier)
                    .or_err(Kind::System, failed)?,
                None => {
                    carriers.insert(file, path);
                    write_file(writer, path, meta, source)?;
                }
            }
        }
        Ok(())
    }
}

fn write_file<W: std::io::Write>(
    writer: &mut Writer<W>,
    path: &EntryPath,
    meta: &Meta,
    source: &Source,
) -> Result<()> {
    let (size, content): (u64, Box<dyn Read + '_>) = match source {
        Source::Bytes(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
        Source::File { path, size } => {
            let file = File::open(path)
                .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
            (
                *size,
                Box::new(std::io::BufReader::with_capacity(256 << 10, file)),
            )
        }
    };
    writer
        .file(path, meta, size, content)
        .or_err(Kind::System, || {
            format!("cannot write `{path}` into the layer")
        })
}

fn conflict(path: &EntryPath, problem: &str) -> Error {
    Error::new(Kind::Input, format!("`{path}` {problem}"))
}
