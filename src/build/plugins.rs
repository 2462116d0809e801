//! Plugins that a layer brings: each is whole, and its manifest becomes a label of
//! the image.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Entry, FileNode, Node, Tree};
use crate::error::{Error, Kind, Result};
use crate::spec::plugin::{DIRECTORY, EXECUTABLE, LABEL, LIMIT, MANIFEST, Manifest};

/// Reads the manifests of a tree, and checks that each plugin has an executable.
/// `text` gives a file's content, at most so many bytes of it, and what messages
/// call it. Returns the labels.
pub fn labels(
    tree: &Tree,
    mut text: impl FnMut(&str, &FileNode, u64) -> Result<(String, String)>,
) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for name in names(tree)? {
        let directory = format!("{DIRECTORY}{name}");
        let file = |file: &str| {
            let (_, entry) = tree.get(&format!("{directory}/{file}"))?;
            match &entry.node {
                Node::File(file) => Some((entry, file)),
                _ => None,
            }
        };
        let Some((_, manifest)) = file(MANIFEST) else {
            return Err(Error::new(
                Kind::Input,
                format!("the plugin `{directory}` has no file `{MANIFEST}`"),
            )
            .hint("`plugins/README.md` in chasi's sources shows one"));
        };
        check_executable(&directory, file(EXECUTABLE).map(|(entry, _)| entry))?;
        let (shown, text) = text(&format!("{directory}/{MANIFEST}"), manifest, LIMIT)?;
        let manifest = Manifest::parse(&shown, &text)?;
        if manifest.name.as_str() != name {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "the plugin in `{directory}` calls itself `{}`",
                    manifest.name
                ),
            )
            .hint("give the directory the name that the manifest has"));
        }
        labels.insert(format!("{LABEL}{name}"), manifest.to_label()?);
    }
    Ok(labels)
}

/// The names of the directories of plugins.
fn names(tree: &Tree) -> Result<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for (path, entry) in tree.entries() {
        let Some(below) = path.as_str().strip_prefix(DIRECTORY) else {
            continue;
        };
        match (below.split_once('/'), &entry.node) {
            (Some((name, _)), _) => {
                names.insert(name);
            }
            (None, Node::Directory) => {}
            (None, _) => {
                return Err(Error::new(
                    Kind::Input,
                    format!("`{path}` would never run: a plugin is a directory"),
                )
                .hint(format!(
                    "put it at `{DIRECTORY}NAME/{EXECUTABLE}`, with a `{MANIFEST}` beside it"
                )));
            }
        }
    }
    Ok(names)
}

fn check_executable(directory: &str, entry: Option<&Entry>) -> Result<()> {
    let path = format!("{directory}/{EXECUTABLE}");
    match entry {
        None => Err(Error::new(
            Kind::Input,
            format!("the plugin `{directory}` has no file `{EXECUTABLE}`"),
        )
        .hint("that is its executable")),
        Some(entry) if entry.meta.mode & 0o111 != 0o111 => Err(Error::new(
            Kind::Input,
            format!("`{path}` is not executable"),
        )
        .hint("`chmod +x` it, or write `COPY --chmod=0755`")),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::build::tree::Content;
    use crate::digest::Digest;
    use crate::oci::layer::Meta;

    const MANIFEST_TEXT: &str = "apiVersion: chasi.dev/v1\nkind: Plugin\nname: a\n\
                                 description: does it\nphases: [after-host]\nundo: true\n";

    fn tree(files: &[(&str, u32)]) -> Tree {
        let mut tree = Tree::default();
        for (path, mode) in files {
            let node = Node::File(FileNode {
                size: 1,
                digest: Digest::of("x"),
                content: Content::Cache(PathBuf::new()),
            });
            let meta = Meta::new(*mode);
            tree.add(path, Entry { meta, node }).unwrap();
        }
        tree
    }

    fn read(files: &[(&str, u32)]) -> Result<BTreeMap<String, String>> {
        labels(&tree(files), |path, _, _| {
            Ok((path.to_owned(), MANIFEST_TEXT.to_owned()))
        })
    }

    #[test]
    fn a_manifest_becomes_a_label_that_is_read_back() {
        let labels = read(&[
            ("chasi/hooks/a/plugin.yaml", 0o644),
            ("chasi/hooks/a/run", 0o755),
            ("etc/x", 0o644),
        ])
        .unwrap();
        let text = &labels["dev.chasi.plugin.a"];
        assert_eq!(labels.len(), 1);
        assert_eq!(
            Manifest::from_label("a", text).unwrap(),
            Manifest::parse("x", MANIFEST_TEXT).unwrap()
        );
        assert!(Manifest::from_label("b", text).is_err());
    }

    #[test]
    fn what_would_not_run_is_refused_when_it_is_built() {
        let manifest = ("chasi/hooks/a/plugin.yaml", 0o644);
        for (files, expected) in [
            (&[manifest][..], "has no file `run`"),
            (&[("chasi/hooks/a/run", 0o755)], "has no file `plugin.yaml`"),
            (
                &[manifest, ("chasi/hooks/a/run", 0o644)],
                "is not executable",
            ),
            (&[("chasi/hooks/run", 0o755)], "a plugin is a directory"),
            (
                &[
                    ("chasi/hooks/b/plugin.yaml", 0o644),
                    ("chasi/hooks/b/run", 0o755),
                ],
                "calls itself `a`",
            ),
        ] {
            let error = read(files).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert_eq!(error.hints().len(), 1, "{error}");
        }
    }
}
