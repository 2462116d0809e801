//! How a layer is split into pieces, each of which becomes a layer of the image.
//!
//! When one file of a large layer changes, only its piece is written, compressed,
//! pushed and copied again. Where the cuts are must therefore depend on little:
//! a large file is a piece of its own; the others, in the order of their paths,
//! are cut behind a file whose path, hashed, says so, with a probability that
//! grows with its size. So a changed file moves at most the cut behind itself,
//! and a new or removed one those of its own piece.
//!
//! The rule is part of what makes builds reproducible: another rule makes other
//! images of the same Kubefile.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest as _, Sha256};

use super::tree::{Entry, Node, Tree};
use crate::oci::layer::EntryPath;

/// The size that pieces have on average, at least, in bytes.
const SIZE: u64 = 16 << 20;

/// About how many pieces a layer has at most; larger layers have larger pieces.
const COUNT: u64 = 256;

/// A piece: entries in order, with the directories that they lie in.
pub type Piece<'a> = BTreeMap<&'a EntryPath, &'a Entry>;

/// Splits a tree. Every file, link and empty directory is in one piece; other
/// directories are in each piece that has something of theirs. An empty tree has
/// no pieces.
pub fn split(tree: &Tree) -> Vec<Piece<'_>> {
    let size = piece_size(tree.entries().map(|(_, entry)| length(entry)).sum());
    let mut pieces = Vec::new();
    let mut current = Piece::new();
    for (path, entry) in leaves(tree) {
        let length = length(entry);
        if length >= size {
            let mut alone = Piece::new();
            add(&mut alone, tree, path, entry);
            pieces.push(alone);
            continue;
        }
        add(&mut current, tree, path, entry);
        if cuts_behind(path, length, size) {
            pieces.push(std::mem::take(&mut current));
        }
    }
    if !current.is_empty() {
        pieces.push(current);
    }
    pieces
}

/// What has nothing below itself.
fn leaves(tree: &Tree) -> impl Iterator<Item = (&EntryPath, &Entry)> {
    let parents: HashSet<EntryPath> = tree
        .entries()
        .filter_map(|(path, _)| path.parent())
        .collect();
    tree.entries()
        .filter(move |(path, _)| !parents.contains(*path))
}

fn add<'a>(piece: &mut Piece<'a>, tree: &'a Tree, path: &'a EntryPath, entry: &'a Entry) {
    piece.insert(path, entry);
    for parent in std::iter::successors(path.parent(), EntryPath::parent) {
        match tree.get(parent.as_str()) {
            Some((path, entry)) if !piece.contains_key(path) => piece.insert(path, entry),
            _ => break,
        };
    }
}

/// A power of two, so that it rarely changes when a tree grows.
fn piece_size(total: u64) -> u64 {
    SIZE.max((total / COUNT).next_power_of_two())
}

fn length(entry: &Entry) -> u64 {
    match &entry.node {
        Node::File(file) => file.size,
        Node::Directory | Node::Link(_) => 0,
    }
}

/// True for `length` of `size` paths.
fn cuts_behind(path: &EntryPath, length: u64, size: u64) -> bool {
    let hash = Sha256::digest(path.as_str());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u128::from(u64::from_be_bytes(first)) * u128::from(size) < u128::from(length) << 64
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::tree::{Content, FileNode};
    use super::*;
    use crate::digest::Digest;
    use crate::oci::layer::Meta;

    fn tree(files: impl IntoIterator<Item = (String, u64)>) -> Tree {
        let mut tree = Tree::default();
        for (path, size) in files {
            let node = Node::File(FileNode {
                size,
                digest: Digest::of(&path),
                content: Content::Cache(PathBuf::new()),
            });
            let entry = Entry {
                meta: Meta::new(0o644),
                node,
            };
            tree.add(&path, entry).unwrap();
        }
        tree
    }

    fn shapes(tree: &Tree) -> Vec<Vec<(String, u64)>> {
        split(tree)
            .iter()
            .map(|piece| {
                let files = piece.iter().filter(|(_, entry)| length(entry) > 0);
                files
                    .map(|(path, entry)| (path.to_string(), length(entry)))
                    .collect()
            })
            .collect()
    }

    fn many() -> Vec<(String, u64)> {
        (0..4000)
            .map(|index| (format!("usr/d{}/f{index}", index % 7), 100_000 + index))
            .collect()
    }

    #[test]
    fn every_entry_is_in_a_piece_with_its_parents_and_files_in_one_only() {
        let mut tree = tree(many());
        let directory = Entry {
            meta: Meta::new(0o755),
            node: Node::Directory,
        };
        tree.add("opt/empty", directory).unwrap();
        let mut seen = BTreeMap::new();
        for piece in split(&tree) {
            for (path, entry) in &piece {
                assert!(
                    path.parent()
                        .is_none_or(|parent| piece.contains_key(&parent))
                );
                let count = seen.entry(path.to_string()).or_insert(0);
                *count += 1;
                assert!(
                    *count == 1 || matches!(entry.node, Node::Directory),
                    "{path}"
                );
            }
        }
        assert_eq!(seen.len(), tree.entries().count());
        assert_eq!(seen["opt/empty"], 1);
    }

    #[test]
    fn pieces_are_neither_many_nor_large() {
        let shapes = shapes(&tree(many()));
        assert!((15..=40).contains(&shapes.len()), "{}", shapes.len());
        let large = tree((0..2000).map(|index| (format!("usr/{index}"), 64 << 20)));
        assert!(
            (100..=600).contains(&split(&large).len()),
            "{}",
            split(&large).len()
        );
        assert!(split(&Tree::default()).is_empty());
    }

    #[test]
    fn a_large_file_is_alone() {
        let mut files = many();
        files.push(("usr/d3/kubelet".into(), 60 << 20));
        let shapes = shapes(&tree(files));
        assert!(shapes.contains(&vec![("usr/d3/kubelet".into(), 60 << 20)]));
    }

    #[test]
    fn a_change_moves_few_cuts() {
        let before = shapes(&tree(many()));
        let differing = |files: Vec<(String, u64)>| {
            let after = shapes(&tree(files));
            after.iter().filter(|piece| !before.contains(piece)).count()
        };
        for index in [0, 1234, 3999] {
            let mut files = many();
            files[index].1 += 50_000;
            assert!(differing(files) <= 2);
            let mut files = many();
            files.remove(index);
            assert!(differing(files) <= 2);
            let mut files = many();
            files.push((format!("usr/d3/new{index}"), 90_000));
            assert!(differing(files) <= 2);
        }
    }
}
