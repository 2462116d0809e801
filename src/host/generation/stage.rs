//! Making a generation from a recipe. Nothing that is live is touched, and
//! whatever interrupts it leaves only what the next staging uses or removes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::tree::Tree;
use super::{
    Directory, FORMAT, Manifest, Node, current, directory, directory_of, find, layers, numbers,
    place,
};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::host::object::{Batch, Objects};
use crate::host::recipe::{ExtraFile, Recipe};
use crate::host::{Part, Root, template};
use crate::oci::Store;
use crate::oci::layer::{EntryPath, Meta};

/// Where templates are rendered. Anywhere else a file is what it is called.
const TEMPLATES: [&str; 2] = ["etc/", "chasi/manifests/"];

/// A generation that is whole on the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Staged {
    /// Its number.
    pub number: u64,
    /// The identity of its recipe.
    pub identity: Digest,
    /// Whether it was there already.
    pub reused: bool,
}

/// Makes a generation, or finds the one that this recipe made. Only for the one
/// who may change the host.
///
/// `produce` is given the tree when the image and the recipe's files are in it,
/// and returns further files; they must be a function of the tree and the recipe.
///
/// Fails with [`Kind::Integrity`] when a layer is not what its digest says or
/// reaches for what is not its own, with [`Kind::Input`] when a template cannot be
/// rendered.
pub fn stage(
    root: &Root,
    store: &Store,
    recipe: &Recipe,
    produce: impl FnOnce(&Path) -> Result<Vec<ExtraFile>>,
    ctx: &Context,
) -> Result<Staged> {
    let identity = recipe.identity()?;
    if let Some(number) = find(root, &identity)? {
        return Ok(Staged {
            number,
            identity,
            reused: true,
        });
    }
    let staging = Staging::begin(root)?;
    let unpacked = layers::unpack_all(root, store, &recipe.layers, ctx)?;
    let mut tree = Tree::default();
    for layer in &unpacked {
        tree.apply(layer)?;
    }
    staging.render(&mut tree, &recipe.context)?;
    staging.add_files(&mut tree, &recipe.files)?;
    staging.build(&tree)?;
    staging.extend(&mut tree, produce(&staging.tree())?)?;
    ctx.check_cancelled()?;
    let number = staging.finish(identity, recipe, tree)?;
    Ok(Staged {
        number,
        identity,
        reused: false,
    })
}

/// A generation that is being made.
struct Staging<'a> {
    root: &'a Root,
    objects: Objects,
    path: PathBuf,
}

impl<'a> Staging<'a> {
    /// Removes what an interrupted staging left, and begins anew.
    fn begin(root: &'a Root) -> Result<Self> {
        let objects = Objects::open(root)?;
        objects.clear_incoming()?;
        let path = directory(root).join("staging");
        remove_tree(root, &path)?;
        root.allow("create", &path)?;
        // Nothing of it is durable before all of it is, see `finish`.
        fs::create_dir_all(path.join("tree")).or_err(Kind::System, || {
            format!("cannot create the directory `{}`", path.display())
        })?;
        Ok(Staging {
            root,
            objects,
            path,
        })
    }

    fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Puts in the place of each template what it renders to.
    fn render(&self, tree: &mut Tree, context: &serde_json::Value) -> Result<()> {
        let mut batch = self.objects.batch();
        let templates: Vec<_> = tree
            .entries()
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(file)
                    if TEMPLATES
                        .iter()
                        .any(|place| path.as_str().starts_with(place)) =>
                {
                    let result: EntryPath =
                        path.as_str().strip_suffix(template::SUFFIX)?.parse().ok()?;
                    Some((path.clone(), result, file.clone()))
                }
                _ => None,
            })
            .collect();
        for (path, result, file) in templates {
            if tree.entries().contains_key(&result) {
                return Err(Error::new(
                    Kind::Input,
                    format!("the image has both `{path}` and `{result}`"),
                ));
            }
            let source = self.read(&file.id(), &path)?;
            let text = template::render(path.as_str(), &source, context)?;
            let meta = Meta {
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
                xattrs: BTreeMap::new(),
            };
            let rendered = batch.add(&meta, text.as_bytes())?;
            tree.remove(&path);
            tree.put(&result, Node::File(rendered))?;
        }
        batch.finish()
    }

    /// The content of an object that is text.
    fn read(&self, id: &Digest, path: &EntryPath) -> Result<String> {
        let object = self.objects.path(id);
        let size = object.metadata().map_or(0, |found| found.len());
        if size > template::LARGEST as u64 {
            return Err(Error::new(
                Kind::Input,
                format!("`{path}` is larger than {} bytes", template::LARGEST),
            ));
        }
        let content = fs::read(&object).or_err(Kind::System, || {
            format!("cannot read `{}`", object.display())
        })?;
        String::from_utf8(content).or_err(Kind::Input, || format!("`{path}` is not UTF-8 text"))
    }

    fn add_files(&self, tree: &mut Tree, files: &[ExtraFile]) -> Result<()> {
        let mut batch = self.objects.batch();
        for extra in files {
            add_file(&mut batch, tree, extra)?;
        }
        batch.finish()
    }

    /// Adds files to a tree that is built already.
    fn extend(&self, tree: &mut Tree, files: Vec<ExtraFile>) -> Result<()> {
        let before = tree.clone();
        self.add_files(tree, &files)?;
        for (path, node) in tree.entries() {
            match before.entries().get(path) {
                Some(old) if old == node => {}
                Some(_) => {
                    return Err(Error::new(
                        Kind::Input,
                        format!(
                            "`{path}` is a file of the image, and one that is made for the host"
                        ),
                    ));
                }
                None => self.build_entry(path, node)?,
            }
        }
        Ok(())
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        for (path, node) in tree.entries() {
            self.build_entry(path, node)?;
        }
        Ok(())
    }

    /// Makes one entry; its parent is there. Nothing on the way is followed if it is
    /// a link.
    fn build_entry(&self, path: &EntryPath, node: &Node) -> Result<()> {
        let attempt = || -> io::Result<()> {
            self.root.pass("create", &self.tree().join(path))?;
            let parent = self.open_parent(path)?;
            match node {
                Node::Directory(directory) => make_directory(&parent, path.name(), directory),
                Node::Link { target } => Ok(rustix::fs::symlinkat(
                    target.as_str(),
                    &parent,
                    path.name(),
                )?),
                Node::File(file) => {
                    let object = self.objects.path(&file.id());
                    Ok(rustix::fs::linkat(
                        rustix::fs::CWD,
                        &object,
                        &parent,
                        path.name(),
                        AtFlags::empty(),
                    )?)
                }
            }
        };
        attempt().or_err(Kind::System, || {
            format!("cannot make `{}`", self.tree().join(path).display())
        })
    }

    fn open_parent(&self, path: &EntryPath) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = rustix::fs::open(self.tree(), flags, Mode::empty())?;
        match path.parent() {
            None => Ok(tree),
            Some(parent) => Ok(rustix::fs::openat2(
                &tree,
                parent.as_str(),
                flags,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
            )?),
        }
    }

    /// Writes the manifest, syncs everything, and gives the generation its number.
    fn finish(&self, identity: Digest, recipe: &Recipe, tree: Tree) -> Result<u64> {
        let placement = place::place(tree.entries(), recipe, |path| {
            match tree.entries().get(path) {
                Some(Node::File(file)) => self.read(&file.id(), path),
                _ => Ok(String::new()),
            }
        })?;
        let manifest = Manifest {
            format: FORMAT,
            identity,
            recipe: recipe.clone(),
            tree: tree.into_entries(),
            host: placement.host,
            units: placement.units,
        };
        let text = serde_json::to_vec(&manifest)
            .or_err(Kind::Failed, || "cannot write a manifest as JSON")?;
        let path = self.path.join("manifest.json");
        self.root.allow("write", &path)?;
        // The recipe has what templates see, which is nobody else's business.
        fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&text))
            .or_err(Kind::System, || {
                format!("cannot write `{}`", path.display())
            })?;
        let failed = || format!("cannot sync `{}`", self.path.display());
        self.root.allow("sync", &self.path)?;
        let handle = fs::File::open(&self.path).or_err(Kind::System, failed)?;
        rustix::fs::syncfs(&handle).or_err(Kind::System, failed)?;
        let number = next_number(self.root)?;
        let place = directory_of(self.root, number);
        self.root.allow("rename", &place)?;
        fs::rename(&self.path, &place).or_err(Kind::System, || {
            format!("cannot make `{}`", place.display())
        })?;
        self.root.allow("sync", &place)?;
        file::sync_directory(&directory(self.root)).or_err(Kind::System, failed)?;
        Ok(number)
    }
}

fn add_file(batch: &mut Batch, tree: &mut Tree, extra: &ExtraFile) -> Result<()> {
    let file = batch.add(&Meta::new(extra.mode), extra.content.as_bytes())?;
    tree.put(&extra.path, Node::File(file))
}

fn make_directory(parent: &OwnedFd, name: &str, directory: &Directory) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    std::os::unix::fs::fchown(&made, Some(directory.uid), Some(directory.gid))?;
    Ok(rustix::fs::fchmod(
        &made,
        Mode::from_raw_mode(directory.mode),
    )?)
}

/// Greater than that of any generation that is there or that a switch points to.
fn next_number(root: &Root) -> Result<u64> {
    let mut last = numbers(root)?.last().copied();
    for part in Part::ALL {
        last = last.max(current(root, part)?);
    }
    Ok(last.map_or(1, |last| last + 1))
}

/// Removes a tree, if it is there. Links in it are not followed.
pub(super) fn remove_tree(root: &Root, path: &Path) -> Result<()> {
    root.allow("remove", path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.or_err(Kind::System, || {
            format!("cannot remove `{}`", path.display())
        }),
    }
}
