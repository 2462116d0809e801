//! The tree of a generation before it is made: layers put over each other.

use std::collections::BTreeMap;

use super::layers::{Unpacked, UnpackedNode};
use super::{Directory, Node};
use crate::error::{Error, Kind, Result};
use crate::oci::layer::EntryPath;

/// Where an image's files may go.
const TOPS: [&str; 4] = ["chasi", "etc", "opt", "usr"];

/// Entries by path; everything above an entry is a directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    entries: BTreeMap<EntryPath, Node>,
}

impl Tree {
    pub(super) fn entries(&self) -> &BTreeMap<EntryPath, Node> {
        &self.entries
    }

    pub(super) fn into_entries(self) -> BTreeMap<EntryPath, Node> {
        self.entries
    }

    /// Puts a layer over what is there: first it hides, then it adds, wherever in
    /// the layer the whiteouts stand (OCI image specification, "Whiteouts").
    pub(super) fn apply(&mut self, layer: &Unpacked) -> Result<()> {
        for entry in &layer.entries {
            match entry.node {
                UnpackedNode::Whiteout => self.remove(&entry.path),
                UnpackedNode::OpaqueDirectory => self.remove_below(&entry.path),
                _ => {}
            }
        }
        for entry in &layer.entries {
            let node = match &entry.node {
                UnpackedNode::File(file) => Node::File(file.clone()),
                UnpackedNode::Link { target } => Node::Link {
                    target: checked(&entry.path, target)?,
                },
                UnpackedNode::Directory(directory) => Node::Directory(*directory),
                UnpackedNode::Whiteout | UnpackedNode::OpaqueDirectory => continue,
            };
            self.put(&entry.path, node)?;
        }
        Ok(())
    }

    /// Adds an entry, in place of what is there.
    pub(super) fn put(&mut self, path: &EntryPath, node: Node) -> Result<()> {
        let top = path.as_str().split('/').next().unwrap_or_default();
        let is_top = path.as_str() == top;
        if !TOPS.contains(&top) || (is_top && !matches!(node, Node::Directory(_))) {
            return Err(refuse(
                path,
                "is not below `usr/`, `opt/`, `etc/` or `chasi/`",
            ));
        }
        self.enter_parents(path)?;
        match (self.entries.get(path), &node) {
            (Some(Node::Directory(_)), Node::Directory(_)) | (None, _) => {}
            (Some(Node::Directory(_)), _) => self.remove(path),
            (Some(_), _) => {}
        }
        self.entries.insert(path.clone(), node);
        Ok(())
    }

    /// What a path goes through must be directories: a link that a layer below made
    /// must not lead an entry astray.
    fn enter_parents(&mut self, path: &EntryPath) -> Result<()> {
        for parent in std::iter::successors(path.parent(), EntryPath::parent) {
            match self.entries.get(&parent) {
                Some(Node::Directory(_)) => return Ok(()),
                Some(Node::Link { .. }) => {
                    return Err(refuse(
                        path,
                        &format!("goes through the symbolic link `{parent}`"),
                    ));
                }
                Some(Node::File(_)) => {
                    return Err(refuse(path, &format!("goes through the file `{parent}`")));
                }
                None => {
                    self.entries
                        .insert(parent, Node::Directory(Directory::OPEN));
                }
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &EntryPath) {
        self.entries.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, path: &EntryPath) {
        let prefix = format!("{path}/");
        let below: Vec<_> = self
            .entries
            .range::<str, _>((
                std::ops::Bound::Excluded(prefix.as_str()),
                std::ops::Bound::Unbounded,
            ))
            .take_while(|(path, _)| path.as_str().starts_with(&prefix))
            .map(|(path, _)| path.clone())
            .collect();
        for path in below {
            self.entries.remove(&path);
        }
    }
}

/// A target that climbs out of the image means another file in the tree of a
/// generation than it says.
fn checked(path: &EntryPath, target: &str) -> Result<String> {
    if target.starts_with('/') {
        return Ok(target.to_owned());
    }
    let mut depth = path.as_str().matches('/').count();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if depth == 0 => {
                return Err(refuse(
                    path,
                    &format!("points out of the image: `{target}`"),
                ));
            }
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    Ok(target.to_owned())
}

fn refuse(path: &EntryPath, problem: &str) -> Error {
    Error::new(Kind::Integrity, format!("the image's `{path}` {problem}"))
        .hint("build the image anew without it; `chasi inspect` shows its layers")
}

#[cfg(test)]
mod tests {
    use super::super::layers::UnpackedEntry;
    use super::*;
    use crate::digest::Digest;
    use crate::host::object::File;

    fn path(text: &str) -> EntryPath {
        text.parse().unwrap()
    }

    fn file(content: &str) -> UnpackedNode {
        UnpackedNode::File(File {
            content: Digest::of(content),
            size: content.len() as u64,
            mode: 0o644,
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
        })
    }

    fn link(target: &str) -> UnpackedNode {
        UnpackedNode::Link {
            target: target.into(),
        }
    }

    fn layer(entries: Vec<(&str, UnpackedNode)>) -> Unpacked {
        Unpacked {
            entries: entries
                .into_iter()
                .map(|(text, node)| UnpackedEntry {
                    path: path(text),
                    node,
                })
                .collect(),
        }
    }

    fn merged(layers: Vec<Unpacked>) -> Result<Vec<String>> {
        let mut tree = Tree::default();
        for layer in &layers {
            tree.apply(layer)?;
        }
        Ok(tree.entries.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
        let below = || {
            layer(vec![
                ("etc/a/x", file("1")),
                ("etc/a/y", file("2")),
                ("etc/b", file("3")),
                ("etc/ab", file("4")),
            ])
        };
        let over = layer(vec![
            ("etc/b", UnpackedNode::Whiteout),
            ("etc/b", file("5")),
            ("etc/a", UnpackedNode::Whiteout),
        ]);
        assert_eq!(
            merged(vec![below(), over]).unwrap(),
            ["etc", "etc/ab", "etc/b"]
        );
        let over = layer(vec![
            ("etc/a/z", file("5")),
            ("etc/a", UnpackedNode::OpaqueDirectory),
        ]);
        assert_eq!(
            merged(vec![below(), over]).unwrap(),
            ["etc", "etc/a", "etc/a/z", "etc/ab", "etc/b"]
        );
    }

    #[test]
    fn a_file_over_a_directory_removes_what_was_in_it() {
        let below = layer(vec![("etc/a/x", file("1"))]);
        let over = layer(vec![("etc/a", file("2"))]);
        assert_eq!(merged(vec![below, over]).unwrap(), ["etc", "etc/a"]);
    }

    #[test]
    fn what_leaves_the_image_is_refused() {
        let cases = [
            (
                vec![
                    layer(vec![("etc/a", link("/"))]),
                    layer(vec![("etc/a/x", file("1"))]),
                ],
                "goes through the symbolic link `etc/a`",
            ),
            (
                vec![
                    layer(vec![("etc/a", file("1"))]),
                    layer(vec![("etc/a/x", file("1"))]),
                ],
                "goes through the file `etc/a`",
            ),
            (
                vec![layer(vec![("root/.ssh/authorized_keys", file("1"))])],
                "is not below",
            ),
            (vec![layer(vec![("etc", link("/etc"))])], "is not below"),
            (vec![layer(vec![("opt", file("1"))])], "is not below"),
            (
                vec![layer(vec![("usr/a/b", link("../../../etc/shadow"))])],
                "points out of the image",
            ),
            (
                vec![layer(vec![("usr/a/b", link("c/../../../../x"))])],
                "points out of the image",
            ),
        ];
        for (layers, problem) in cases {
            let error = merged(layers).unwrap_err();
            assert_eq!(error.kind(), Kind::Integrity);
            assert!(error.message().contains(problem), "{error}");
        }
        merged(vec![layer(vec![
            ("usr/a/b", link("../../etc/x")),
            ("usr/c", link("/etc/x")),
        ])])
        .unwrap();
    }
}
