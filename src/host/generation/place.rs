//! What a switch makes of a tree on the host, and which units start with it.

use std::collections::BTreeMap;

use super::{Directory, Node, Placed};
use crate::error::{Error, Kind, Result};
use crate::host::recipe::Recipe;
use crate::host::unit;
use crate::oci::layer::EntryPath;

/// Where the host's programs are found, and what of the image is put there; of
/// two with one name, the first.
const PROGRAMS: &str = "usr/local/bin";
const PROGRAM_SOURCES: [&str; 3] = [PROGRAMS, "usr/sbin", "usr/bin"];
/// Where systemd looks for units early, when links into another file system may
/// lead nowhere yet.
const UNIT_DIRECTORIES: [&str; 3] = [
    "usr/lib/systemd/",
    "usr/local/lib/systemd/",
    "usr/share/systemd/",
];
/// Where an image's units go.
pub(in crate::host) const UNITS: &str = "etc/systemd/system";

/// What a switch places, and the units that start with the host.
pub(super) struct Placement {
    pub(super) host: BTreeMap<EntryPath, Placed>,
    pub(super) units: Vec<String>,
}

/// `read` gives the content of a unit file of the tree.
pub(super) fn place(
    tree: &BTreeMap<EntryPath, Node>,
    recipe: &Recipe,
    mut read: impl FnMut(&EntryPath) -> Result<String>,
) -> Result<Placement> {
    let mut host = BTreeMap::new();
    let mut units = Vec::new();
    for (path, node) in tree {
        match path.as_str().split('/').next() {
            Some("usr" | "opt") if !matches!(node, Node::Directory(_)) => {
                place_program(tree, &mut host, path)?
            }
            Some("etc") => {
                host.insert(path.clone(), place_file(node));
                if is_unit(path) && matches!(node, Node::File(_)) {
                    enable(&mut host, &mut units, path.name(), &read(path)?)?;
                }
            }
            _ => {}
        }
    }
    for block in &recipe.blocks {
        let placed = Placed::Block {
            content: block.content.clone(),
        };
        if host.insert(block.path.clone(), placed).is_some() {
            return Err(refuse(
                &block.path,
                "is a file of the image, and a file that others own too",
            ));
        }
    }
    for directory in &recipe.directories {
        let placed = Placed::Directory(Directory {
            mode: directory.mode,
            ..Directory::OPEN
        });
        if !matches!(
            host.insert(directory.path.clone(), placed),
            None | Some(Placed::Directory(_))
        ) {
            return Err(refuse(&directory.path, "is a file and a directory"));
        }
    }
    add_parents(tree, &mut host)?;
    units.sort();
    Ok(Placement { host, units })
}

fn place_program(
    tree: &BTreeMap<EntryPath, Node>,
    host: &mut BTreeMap<EntryPath, Placed>,
    path: &EntryPath,
) -> Result<()> {
    if UNIT_DIRECTORIES
        .iter()
        .any(|directory| path.as_str().starts_with(directory))
    {
        return Err(
            refuse(path, "is a unit where it cannot be a file of its own")
                .hint(format!("put units below `{UNITS}/`")),
        );
    }
    let parent = path.parent();
    let parent = parent.as_ref().map_or("", EntryPath::as_str);
    let place = if PROGRAM_SOURCES.contains(&parent) {
        let first = PROGRAM_SOURCES
            .iter()
            .find(|source| tree.contains_key(format!("{source}/{}", path.name()).as_str()));
        if first.is_some_and(|first| *first != parent) {
            return Ok(());
        }
        format!("{PROGRAMS}/{}", path.name()).parse()?
    } else {
        path.clone()
    };
    host.insert(place, Placed::Program { tree: path.clone() });
    Ok(())
}

fn place_file(node: &Node) -> Placed {
    match node {
        Node::File(file) => Placed::File(file.clone()),
        Node::Link { target } => Placed::Link {
            target: target.clone(),
        },
        Node::Directory(directory) => Placed::Directory(*directory),
    }
}

fn is_unit(path: &EntryPath) -> bool {
    path.parent().is_some_and(|parent| parent.as_str() == UNITS) && unit::is_name(path.name())
}

/// Makes the links that `systemctl enable` would make.
fn enable(
    host: &mut BTreeMap<EntryPath, Placed>,
    units: &mut Vec<String>,
    name: &str,
    text: &str,
) -> Result<()> {
    let install = unit::Install::parse(text).map_err(|cause| {
        Error::new(Kind::Input, format!("the unit `{name}` cannot be enabled")).because(cause)
    })?;
    for place in install.links(name) {
        let target = format!("/{UNITS}/{name}");
        host.insert(format!("{UNITS}/{place}").parse()?, Placed::Link { target });
    }
    if install.starts() {
        units.push(name.to_owned());
    }
    Ok(())
}

fn add_parents(
    tree: &BTreeMap<EntryPath, Node>,
    host: &mut BTreeMap<EntryPath, Placed>,
) -> Result<()> {
    let paths: Vec<_> = host.keys().cloned().collect();
    for path in paths {
        for parent in std::iter::successors(path.parent(), EntryPath::parent) {
            match host.get(&parent) {
                Some(Placed::Directory(_)) => break,
                Some(_) => {
                    return Err(refuse(
                        &parent,
                        &format!("is a file, and `/{path}` is in it"),
                    ));
                }
                None => {}
            }
            let directory = match tree.get(&parent) {
                Some(Node::Directory(directory)) => *directory,
                _ => Directory::OPEN,
            };
            host.insert(parent, Placed::Directory(directory));
        }
    }
    Ok(())
}

fn refuse(path: &EntryPath, problem: &str) -> Error {
    Error::new(Kind::Input, format!("`/{path}` {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recipe::{Block, ExtraDirectory};
    use serde_json::Value;

    fn recipe() -> Recipe {
        Recipe {
            image: crate::digest::Digest::of("image"),
            platform: "linux/amd64".parse().unwrap(),
            kubernetes: None,
            layers: Vec::new(),
            context: Value::Null,
            files: Vec::new(),
            blocks: Vec::new(),
            directories: Vec::new(),
            source: Value::Null,
        }
    }

    fn tree(links: &[&str]) -> BTreeMap<EntryPath, Node> {
        let node = || Node::Link { target: "x".into() };
        links
            .iter()
            .map(|path| (path.parse().unwrap(), node()))
            .collect()
    }

    fn programs(links: &[&str]) -> Vec<(String, String)> {
        let placement = place(&tree(links), &recipe(), |_| Ok(String::new())).unwrap();
        let program = |(path, placed): (&EntryPath, &Placed)| match placed {
            Placed::Program { tree } => Some((path.to_string(), tree.to_string())),
            _ => None,
        };
        placement.host.iter().filter_map(program).collect()
    }

    #[test]
    fn programs_are_found_in_usr_local_bin_and_others_keep_their_place() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            programs(&[
                "usr/bin/a",
                "usr/sbin/a",
                "usr/sbin/b",
                "usr/local/bin/c",
                "usr/bin/d/e",
                "opt/cni/bin/f",
                "chasi/hooks/g"
            ]),
            [
                pair("opt/cni/bin/f", "opt/cni/bin/f"),
                pair("usr/bin/d/e", "usr/bin/d/e"),
                pair("usr/local/bin/a", "usr/sbin/a"),
                pair("usr/local/bin/b", "usr/sbin/b"),
                pair("usr/local/bin/c", "usr/local/bin/c"),
            ]
        );
    }

    #[test]
    fn everything_above_an_entry_is_a_directory() {
        let mut recipe = recipe();
        recipe.blocks.push(Block {
            path: "etc/hosts".parse().unwrap(),
            content: String::new(),
        });
        recipe.directories.push(ExtraDirectory {
            path: "var/x".parse().unwrap(),
            mode: 0o700,
        });
        let placement = place(&tree(&["opt/cni/bin/f"]), &recipe, |_| Ok(String::new())).unwrap();
        let directories: Vec<_> = placement
            .host
            .iter()
            .filter(|(_, placed)| matches!(placed, Placed::Directory(_)))
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(
            directories,
            ["etc", "opt", "opt/cni", "opt/cni/bin", "var", "var/x"]
        );
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        let units = tree(&["usr/lib/systemd/system/x.service"]);
        let error = place(&units, &recipe(), |_| Ok(String::new()))
            .err()
            .unwrap();
        assert_eq!(error.hints(), ["put units below `etc/systemd/system/`"]);
        let both = tree(&["usr/bin/x", "usr/local/bin/x/y"]);
        assert!(place(&both, &recipe(), |_| Ok(String::new())).is_err());
    }
}
