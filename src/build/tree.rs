//! The files of one layer before they are written: what goes where, by whose
//! instruction, and what may not.
//!
//! Invariants of a [`Tree`]: paths are sorted; every parent of an entry is a
//! directory and has an entry of its own; nothing is outside `usr/`, `opt/`,
//! `etc/` and `chasi/`; every file has a digest. So a tree alone says all that a
//! layer will be, and its digest is the layer's key in the cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::manifests;
use super::stamps::Hashed;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::layer::{EntryPath, Meta};

/// The directories that an image may have at its top, and what they are for.
const TOP: [&str; 4] = ["usr", "opt", "etc", "chasi"];

/// The directories that chasi reads below `chasi/`.
const OWN: [&str; 3] = ["manifests", "hooks", "charts"];

/// The entries of a layer.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<EntryPath, Entry>,
}

/// An entry of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Permissions and owner.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link and its target, as it was found.
    Link(String),
    /// A file.
    File(FileNode),
}

/// A file of a layer.
#[derive(Clone, Debug)]
pub struct FileNode {
    /// Bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// Where its content is.
    pub content: Content,
}

/// Where the content of a file is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file of the context, by its path in it.
    Context {
        /// The path below the context.
        path: String,
        /// What was known of it when it was hashed.
        hashed: Hashed,
    },
    /// A file of the cache.
    Cache(PathBuf),
}

impl Tree {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = (&EntryPath, &Entry)> {
        self.entries.iter()
    }

    /// The entry at a path.
    pub fn get(&self, path: &str) -> Option<(&EntryPath, &Entry)> {
        self.entries.get_key_value(path)
    }

    /// Adds an entry. A file or link takes the place of an earlier file or link,
    /// a directory gives an earlier one its permissions. The error names no
    /// place; the caller knows it.
    pub fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        let path: EntryPath = path.parse()?;
        check_place(&path, &entry.node)?;
        self.add_parents(&path)?;
        let is_directory = |entry: &Entry| matches!(entry.node, Node::Directory);
        if let Some(earlier) = self.entries.get(&path)
            && is_directory(earlier) != is_directory(&entry)
        {
            let (what, other) = match is_directory(earlier) {
                true => ("a directory", "a file"),
                false => ("a file", "a directory"),
            };
            return Err(Error::new(
                Kind::Input,
                format!("`{path}` is {what} of this layer already and cannot become {other}"),
            )
            .hint("end a destination with `/` to put a file into a directory"));
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    fn add_parents(&mut self, path: &EntryPath) -> Result<()> {
        for parent in std::iter::successors(path.parent(), EntryPath::parent) {
            match self.entries.get(&parent).map(|entry| &entry.node) {
                Some(Node::Directory) => break,
                Some(Node::Link(target)) => {
                    return Err(Error::new(
                        Kind::Input,
                        format!("`{path}` lies behind the symbolic link `{parent}` to `{target}`"),
                    )
                    .hint("put the file where the link points to"));
                }
                Some(Node::File(_)) => {
                    return Err(Error::new(
                        Kind::Input,
                        format!("`{path}` lies below `{parent}`, which is a file of this layer"),
                    )
                    .hint("end the destination of that file with `/`, or choose another name"));
                }
                None => {
                    self.entries.insert(
                        parent,
                        Entry {
                            meta: Meta::new(0o755),
                            node: Node::Directory,
                        },
                    );
                }
            }
        }
        Ok(())
    }
}

/// Refuses what no host would know what to do with.
fn check_place(path: &EntryPath, node: &Node) -> Result<()> {
    let refuse = |message: String, hint: String| Err(Error::new(Kind::Input, message).hint(hint));
    let names: Vec<&str> = path.as_str().split('/').collect();
    let top = names[0];
    if names.iter().any(|name| name.starts_with(".wh.")) {
        return refuse(
            format!("`{path}` would remove a file of the layers below"),
            "names that begin with `.wh.` mean that in an image; rename the file".into(),
        );
    }
    if !TOP.contains(&top) {
        return refuse(
            format!("`{path}` cannot be in a cluster image"),
            match top {
                "bin" | "sbin" | "lib" | "lib64" => {
                    format!("programs live below `usr/`: put it at `usr/{path}`")
                }
                "manifests" | "charts" | "hooks" => format!("put it at `chasi/{path}`"),
                _ => "an image has `usr/` and `opt/` (programs), `etc/` (settings) and `chasi/` (manifests, charts, hooks) \
                      at its top; what a program keeps in `/var` it makes itself"
                    .into(),
            },
        );
    }
    if names.len() == 1 && !matches!(node, Node::Directory) {
        return refuse(
            format!("`{path}` must be a directory"),
            format!("end the destination with `/`: `{path}/`"),
        );
    }
    if top == "chasi" && names.len() > 1 && !OWN.contains(&names[1]) {
        return refuse(
            format!("chasi knows no `{path}`"),
            "below `chasi/` are `manifests/` (applied to the cluster), `charts/` and `hooks/`"
                .into(),
        );
    }
    if path.as_str().starts_with(manifests::DIRECTORY)
        && !matches!(node, Node::Directory)
        && !manifests::is_manifest(path.as_str())
    {
        return refuse(
            format!("`{path}` would never be applied"),
            "only `*.yaml` and `*.yaml.j2` directly in `chasi/manifests/` are: rename the file, or leave it out".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: Node) -> Entry {
        Entry {
            meta: Meta::new(0o644),
            node,
        }
    }

    fn file() -> Entry {
        entry(Node::File(FileNode {
            size: 1,
            digest: Digest::of("x"),
            content: Content::Cache(PathBuf::new()),
        }))
    }

    #[test]
    fn parents_come_by_themselves_and_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.add("usr/local/bin/b", file()).unwrap();
        tree.add("etc/a", file()).unwrap();
        let paths: Vec<_> = tree.entries().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "etc",
                "etc/a",
                "usr",
                "usr/local",
                "usr/local/bin",
                "usr/local/bin/b"
            ]
        );
    }

    #[test]
    fn what_comes_later_replaces_and_a_directory_keeps_its_content() {
        let mut tree = Tree::default();
        tree.add("etc/d/a", file()).unwrap();
        let mut directory = entry(Node::Directory);
        directory.meta.mode = 0o700;
        tree.add("etc/d", directory).unwrap();
        tree.add("etc/d/a", entry(Node::Link("b".into()))).unwrap();
        let found: Vec<_> = tree
            .entries()
            .map(|(path, entry)| (path.as_str(), entry.meta.mode))
            .collect();
        assert_eq!(
            found,
            [("etc", 0o755), ("etc/d", 0o700), ("etc/d/a", 0o644)]
        );
        assert!(matches!(
            tree.entries().last().unwrap().1.node,
            Node::Link(_)
        ));
    }

    #[test]
    fn what_has_no_place_is_refused_with_a_remedy() {
        let mut all = String::new();
        let mut refuse = |path: &str, entry: Entry| {
            let mut tree = Tree::default();
            tree.add("opt/file", file()).unwrap();
            tree.add("opt/link", self::entry(Node::Link("/etc".into())))
                .unwrap();
            tree.add("opt/directory/x", file()).unwrap();
            let error = tree.add(path, entry).unwrap_err();
            all.push_str(&format!(
                "{error}\n  hint: {}\n",
                error.hints().join("\n  hint: ")
            ));
        };
        for path in [
            "bin/sh",
            "manifests/a.yaml",
            "var/lib/x",
            "README.md",
            "usr",
            "etc/.wh.passwd",
            "chasi/image.yaml",
            "chasi/manifests/a.yml",
            "chasi/manifests/deep/a.yaml",
            "opt/file/x",
            "opt/link/x",
            "opt/directory",
        ] {
            refuse(path, file());
        }
        refuse("opt/file", entry(Node::Directory));
        insta::assert_snapshot!(all);
    }
}
