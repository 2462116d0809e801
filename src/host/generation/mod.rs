//! Generations: what a host can be switched to.
//!
//! ```text
//! generations/N/tree/           what the image holds, as hard links into objects/
//! generations/N/manifest.json   what it is, and what a switch makes of it
//! generations/N/damaged         it was found to be, and is never switched to again
//! generations/staging/          one that is being made
//! layers/<diff id>.json         what a layer unpacked to, so that it is done once
//! control-plane, node           -> generations/N/tree
//! ```
//!
//! Invariants:
//! - `generations/N` appears by one rename, whole and synced, and is never
//!   changed again, but for the mark that it is damaged.
//! - A manifest says all that a switch needs to know; the recipe is in it for
//!   comparison and for people.
//! - A generation that a switch points to, that a pending switch came from or goes
//!   to, or that holds a plugin that did something, is never removed.

mod layers;
mod place;
mod stage;
mod tree;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hook;
use super::journal::{self, Operation};
use super::object::{self, Objects, Swept, list};
use super::recipe::Recipe;
use super::{Part, Root};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::oci::layer::EntryPath;

pub(super) use place::UNITS;
pub use stage::{Staged, stage};

/// The largest manifest, in bytes.
const LARGEST: u64 = 256 << 20;
/// The format of manifests that this version writes, and the newest it reads.
const FORMAT: u32 = 1;

/// What a generation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this document.
    pub format: u32,
    /// The identity of the recipe.
    pub identity: Digest,
    /// What it was made from.
    pub recipe: Recipe,
    /// What is in the tree.
    pub tree: BTreeMap<EntryPath, Node>,
    /// What a switch makes on the host, by path on the host.
    pub host: BTreeMap<EntryPath, Placed>,
    /// The units that start with the host.
    pub units: Vec<String>,
}

/// An entry of a tree.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Node {
    /// A hard link to an object.
    File(object::File),
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
    /// A directory.
    Directory(Directory),
}

/// Permissions and owner of a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Directory {
    /// Permission bits.
    pub mode: u32,
    /// The owner's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl Directory {
    /// Owned by root, and open to everyone's reading.
    pub const OPEN: Directory = Directory {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
}

/// What a switch makes at a path of the host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Placed {
    /// A link to a program, which stays in the tree.
    Program {
        /// Where it is in the tree.
        tree: EntryPath,
    },
    /// A file of its own, a copy of the one at the same path of the tree.
    File(object::File),
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
    /// A marked block in a file that others own too.
    Block {
        /// The lines between the marks.
        content: String,
    },
    /// A directory, made if there is none.
    Directory(Directory),
}

impl Manifest {
    /// What one part of it places on the host. The directories of static pods
    /// belong to both: whichever part needs one first makes it.
    pub fn of_part(&self, part: Part) -> impl Iterator<Item = (&EntryPath, &Placed)> {
        let belongs = move |(path, placed): &(&EntryPath, &Placed)| match placed {
            Placed::Directory(_) if part == Part::ControlPlane => self.is_above_static_pods(path),
            Placed::Directory(_) => true,
            _ => Part::of(path) == part,
        };
        self.host.iter().filter(belongs)
    }

    fn is_above_static_pods(&self, path: &EntryPath) -> bool {
        let below = format!("{path}/");
        self.host
            .iter()
            .filter(|(_, placed)| !matches!(placed, Placed::Directory(_)))
            .any(|(other, _)| {
                Part::of(other) == Part::ControlPlane && other.as_str().starts_with(&below)
            })
    }

    /// The ids of its objects.
    fn objects(&self) -> impl Iterator<Item = Digest> {
        self.tree.values().filter_map(|node| match node {
            Node::File(file) => Some(file.id()),
            _ => None,
        })
    }
}

/// What is known of a generation without its entries.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its number.
    pub number: u64,
    /// The identity of its recipe.
    pub identity: Digest,
    /// The cluster image.
    pub image: Digest,
    /// The Kubernetes version.
    pub kubernetes: Option<String>,
}

fn directory(root: &Root) -> PathBuf {
    root.state("generations")
}

fn directory_of(root: &Root, number: u64) -> PathBuf {
    directory(root).join(number.to_string())
}

/// Where the tree of a generation is.
pub fn tree(root: &Root, number: u64) -> PathBuf {
    directory_of(root, number).join("tree")
}

/// What a switch's symbolic link holds when it points to a generation.
pub(super) fn link_target(number: u64) -> String {
    format!("generations/{number}/tree")
}

/// The generation that a switch points to; none before the first switch.
pub fn current(root: &Root, part: Part) -> Result<Option<u64>> {
    let path = root.state(part.name());
    let target = match fs::read_link(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        target => target.or_err(Kind::System, || {
            format!("cannot read the link `{}`", path.display())
        })?,
    };
    let number = target
        .to_str()
        .and_then(|target| target.strip_prefix("generations/")?.strip_suffix("/tree"))
        .and_then(|number| number.parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Error::new(
            Kind::Integrity,
            format!(
                "`{}` points to `{}`, which is not a generation",
                path.display(),
                target.display()
            ),
        )),
    }
}

/// The numbers of all generations, ascending.
pub fn numbers(root: &Root) -> Result<Vec<u64>> {
    let number = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
    let mut numbers: Vec<u64> = list(&directory(root))?
        .into_iter()
        .filter_map(number)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// All generations, the oldest first.
pub fn summaries(root: &Root) -> Result<Vec<Summary>> {
    numbers(root)?
        .into_iter()
        .map(|number| {
            let manifest = load(root, number)?;
            Ok(Summary {
                number,
                identity: manifest.identity,
                image: manifest.recipe.image,
                kubernetes: manifest.recipe.kubernetes,
            })
        })
        .collect()
}

/// Reads the manifest of a generation.
pub fn load(root: &Root, number: u64) -> Result<Manifest> {
    let path = directory_of(root, number).join("manifest.json");
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(
                Kind::NotFound,
                format!("there is no generation {number} on this host"),
            ));
        }
        file => file.or_err(Kind::System, || format!("cannot open `{}`", path.display()))?,
    };
    let mut text = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut text)
        .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = || format!("the manifest `{}` cannot be read", path.display());
    let version: Version = serde_json::from_slice(&text).or_err(Kind::Integrity, damaged)?;
    if version.format > FORMAT {
        return Err(Error::new(
            Kind::Failed,
            format!("generation {number} was made by a newer chasi (format {}, this one reads {FORMAT})", version.format),
        )
        .hint("use the chasi that made it, or a newer one"));
    }
    serde_json::from_slice(&text).or_err(Kind::Integrity, damaged)
}

/// The generation with this identity, if the host has it undamaged.
pub fn find(root: &Root, identity: &Digest) -> Result<Option<u64>> {
    for number in numbers(root)?.into_iter().rev() {
        if !is_damaged(root, number) && load(root, number)?.identity == *identity {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

fn damage_mark(root: &Root, number: u64) -> PathBuf {
    directory_of(root, number).join("damaged")
}

/// Whether the generation was found to be damaged: then it counts as not staged.
pub fn is_damaged(root: &Root, number: u64) -> bool {
    damage_mark(root, number).exists()
}

/// Compares what a switch would bring into use with its digest: the programs and
/// files of a generation that are not those of the generation in use. When one is
/// damaged, its object is thrown away and the generation marked, so that staging
/// makes both anew.
pub fn verify(root: &Root, part: Part, number: u64) -> Result<()> {
    let old = match current(root, part)? {
        Some(old) if old == number => return Ok(()),
        old => old.map(|old| load(root, old)).transpose()?,
    };
    let manifest = load(root, number)?;
    let used: HashSet<Digest> = old.iter().flat_map(Manifest::objects).collect();
    for (path, placed) in &manifest.host {
        let source = match placed {
            Placed::Program { tree } => tree,
            Placed::File(_) => path,
            _ => continue,
        };
        let Some(Node::File(expected)) = manifest.tree.get(source) else {
            continue;
        };
        let place = tree(root, number).join(source);
        if used.contains(&expected.id())
            || object::describe(&place).is_ok_and(|found| found == *expected)
        {
            continue;
        }
        let mark = damage_mark(root, number);
        root.allow("write", &mark)?;
        file::write(&mark, source.as_str().as_bytes(), 0o600)?;
        Objects::open(root)?.discard(&expected.id())?;
        return Err(Error::new(
            Kind::Integrity,
            format!(
                "`{}` is damaged: it is no longer what was staged",
                place.display()
            ),
        )
        .hint("run the same command again: what is damaged is made anew; if it happens again, the host's disk may be failing, `dmesg` says more"));
    }
    Ok(())
}

/// Removes generations that are not to be kept, and the objects and layers that
/// only they had. Kept are the last three, the one before the last change of the
/// Kubernetes version, and those in use. Only for the one who may change the host.
pub fn prune(root: &Root) -> Result<Swept> {
    // What an interrupted staging or pruning left has the objects of generations
    // that are gone.
    stage::remove_tree(root, &directory(root).join("staging"))?;
    Objects::open(root)?.clear_incoming()?;
    let all = summaries(root)?;
    let in_use = in_use(root)?;
    for number in expendable(&all)
        .into_iter()
        .filter(|number| !in_use.contains(number))
    {
        remove(root, number)?;
    }
    sweep(root)
}

fn expendable(all: &[Summary]) -> Vec<u64> {
    let last_three = all.len().saturating_sub(3);
    let before_change = all
        .windows(2)
        .rposition(|pair| pair[0].kubernetes != pair[1].kubernetes);
    all.iter()
        .enumerate()
        .filter(|(at, _)| *at < last_three && Some(*at) != before_change)
        .map(|(_, summary)| summary.number)
        .collect()
}

/// Generations that a switch points to, that a pending switch concerns, or whose
/// plugins did something.
fn in_use(root: &Root) -> Result<HashSet<u64>> {
    let mut used = HashSet::new();
    for part in Part::ALL {
        used.extend(current(root, part)?);
    }
    // The way back of what plugins did.
    used.extend(hook::generations(root)?);
    for pending in journal::pending(root)? {
        if let Operation::Switch { from, to, .. } = pending.operation {
            used.extend(from.into_iter().chain(to));
        }
    }
    Ok(used)
}

/// Removes one generation. Its objects stay until [`prune`].
pub fn remove(root: &Root, number: u64) -> Result<()> {
    if in_use(root)?.contains(&number) {
        return Err(Error::new(
            Kind::Failed,
            format!("generation {number} is in use"),
        ));
    }
    let path = directory_of(root, number);
    // First the name that makes it a generation: half of one is none.
    let doomed = directory(root).join("staging");
    stage::remove_tree(root, &doomed)?;
    root.allow("rename", &path)?;
    fs::rename(&path, &doomed)
        .and_then(|()| file::sync_directory(&directory(root)))
        .or_err(Kind::System, || {
            format!("cannot remove `{}`", path.display())
        })?;
    stage::remove_tree(root, &doomed)
}

/// Removes objects and unpacked layers that no generation has.
fn sweep(root: &Root) -> Result<Swept> {
    let mut objects = HashSet::new();
    let mut used = HashSet::new();
    for number in numbers(root)? {
        let manifest = load(root, number)?;
        objects.extend(manifest.objects());
        used.extend(manifest.recipe.layers.iter().map(|layer| layer.diff_id));
    }
    objects.extend(layers::retain(root, &used)?);
    Objects::open(root)?.sweep(&objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(versions: &[&str]) -> Vec<Summary> {
        versions
            .iter()
            .zip(1..)
            .map(|(version, number)| Summary {
                number,
                identity: Digest::of(number.to_string()),
                image: Digest::of(version),
                kubernetes: Some((*version).to_owned()),
            })
            .collect()
    }

    #[test]
    fn the_last_three_and_the_one_before_the_last_change_are_kept() {
        assert_eq!(expendable(&all(&["1.33", "1.33", "1.34"])), [0; 0]);
        assert_eq!(expendable(&all(&["1.33", "1.33", "1.33", "1.33"])), [1]);
        assert_eq!(
            expendable(&all(&["1.33", "1.33", "1.34", "1.34", "1.34", "1.34"])),
            [1, 3]
        );
        assert_eq!(
            expendable(&all(&["1.32", "1.33", "1.34", "1.34", "1.34", "1.34"])),
            [1, 3]
        );
        assert_eq!(
            expendable(&all(&["1.32", "1.33", "1.33", "1.33", "1.33"])),
            [2]
        );
    }
}
