//! From a layer's steps to its tree: files are found, hashed, unpacked from
//! archives, and put where they go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use super::archive::{self, Listed, ListedNode};
use super::cache::Cache;
use super::context::{Context, Found, Node as FoundNode, Selected, Stamp, join};
use super::download::{Download, name_of};
use super::manifests::{self, Report};
use super::plugins;
use super::stamps::{Hashed, Stamps};
use super::templates;
use super::tree::{Content, Entry, FileNode, Node, Tree};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event;
use crate::oci::layer::Meta;
use crate::spec::kubefile::{Kubefile, Layer, Placing, Source, Step};

/// What is needed to assemble trees. Blocks: nothing of it belongs on the reactor.
pub struct Assembly<'a> {
    /// Where to tell, and whether to stop.
    pub events: &'a event::Context,
    /// For the places of errors.
    pub kubefile: &'a Kubefile,
    /// Where files come from.
    pub context: &'a Context,
    /// Digests that are known.
    pub stamps: &'a Stamps,
    /// Where files of archives go.
    pub cache: &'a Cache,
}

/// What a step's source turned out to be.
enum Input {
    /// Files of the context.
    Files(Vec<(Selected, Vec<Option<Hashed>>)>),
    /// A download.
    Download(Download),
}

impl Assembly<'_> {
    /// Makes the trees of layers. `downloads` has, for each layer and step, what
    /// was downloaded for it.
    pub fn trees(
        &self,
        layers: &[&Layer],
        downloads: &[Vec<Option<Download>>],
    ) -> Result<Vec<Tree>> {
        let inputs = self.inputs(layers, downloads)?;
        let mut trees = Vec::with_capacity(layers.len());
        for (layer, inputs) in layers.iter().zip(inputs) {
            let mut tree = Tree::default();
            for (step, input) in layer.steps.iter().zip(inputs) {
                self.events.check_cancelled()?;
                self.step(&mut tree, step, input)
                    .map_err(|error| self.locate(error, step))?;
            }
            if tree.is_empty() {
                return Err(Error::new(
                    Kind::Input,
                    format!("the layer `{}` has no files", layer.kind.value),
                )
                .at(self.kubefile.place(layer.kind.span.clone(), ""))
                .hint("add `COPY` or `ADD` below it, or take `LAYER` out"));
            }
            trees.push(tree);
        }
        Ok(trees)
    }

    /// Finds and hashes the files of all layers at once.
    fn inputs(
        &self,
        layers: &[&Layer],
        downloads: &[Vec<Option<Download>>],
    ) -> Result<Vec<Vec<Input>>> {
        let mut selected = Vec::new();
        for (layer, downloads) in layers.iter().zip(downloads) {
            for (step, download) in layer.steps.iter().zip(downloads) {
                selected.push(match (&step.source.value, download) {
                    (_, Some(download)) => Err(download.clone()),
                    (Source::Files { pattern, glob }, None) => Ok(self
                        .context
                        .select(pattern, *glob)
                        .map_err(|error| self.locate(error, step))?),
                    (Source::Url { url, .. }, None) => {
                        return Err(Error::new(
                            Kind::Failed,
                            format!("`{url}` was not downloaded"),
                        ));
                    }
                });
            }
        }
        let found = selected
            .iter()
            .flatten()
            .flatten()
            .flat_map(|selected| &selected.found);
        let files: Vec<(&str, Stamp)> = found.filter_map(file_of).collect();
        let mut hashes = self
            .stamps
            .hash(self.events, self.context, &files)?
            .into_iter();
        let mut inputs = selected.into_iter().map(|selected| match selected {
            Err(download) => Input::Download(download),
            Ok(selected) => Input::Files(
                selected
                    .into_iter()
                    .map(|selected| {
                        let of = |found| file_of(found).and_then(|_| hashes.next());
                        let hashed = selected.found.iter().map(of).collect();
                        (selected, hashed)
                    })
                    .collect(),
            ),
        });
        Ok(layers
            .iter()
            .map(|layer| inputs.by_ref().take(layer.steps.len()).collect())
            .collect())
    }

    fn step(&self, tree: &mut Tree, step: &Step, input: Input) -> Result<()> {
        match (input, step.unpack) {
            (Input::Files(selected), None) => {
                for (selected, hashes) in &selected {
                    self.add_selected(tree, step, selected, hashes)?;
                }
                Ok(())
            }
            (Input::Files(selected), Some(strip)) => {
                for (selected, hashes) in &selected {
                    let [Some(hashed)] = hashes.as_slice() else {
                        return Err(Error::new(Kind::Input, "only an archive can be unpacked")
                            .hint("name a file, or take `--unpack` out"));
                    };
                    let path = &selected.found[0].path;
                    let open = || Ok(self.context.open_file(path)?.0);
                    let listing =
                        archive::list(self.events, self.cache, &hashed.digest, path, open)?;
                    self.add_listing(tree, step, &listing.entries, strip)?;
                }
                Ok(())
            }
            (Input::Download(download), None) => self.add_download(tree, step, &download),
            (Input::Download(download), Some(strip)) => {
                let Source::Url { url, .. } = &step.source.value else {
                    return Ok(());
                };
                let open = || {
                    File::open(&download.path).or_err(Kind::System, || {
                        format!("cannot read `{}`", download.path.display())
                    })
                };
                let listing = archive::list(self.events, self.cache, &download.digest, url, open)?;
                self.add_listing(tree, step, &listing.entries, strip)
            }
        }
    }

    fn add_selected(
        &self,
        tree: &mut Tree,
        step: &Step,
        selected: &Selected,
        hashes: &[Option<Hashed>],
    ) -> Result<()> {
        let destination = &step.destination.value;
        let base = match selected.directory || !destination.directory {
            true => destination.path.clone(),
            false => join(&destination.path, &selected.name),
        };
        if selected.directory && !base.is_empty() {
            tree.add(&base, entry(step, Node::Directory, false))?;
        }
        for (found, hashed) in selected.found.iter().zip(hashes) {
            let (node, executable) = match (&found.node, hashed) {
                (FoundNode::Directory, _) => (Node::Directory, false),
                (FoundNode::Link(target), _) => (Node::Link(target.clone()), false),
                (FoundNode::File { executable, .. }, Some(hashed)) => {
                    (file(found, hashed), *executable)
                }
                (FoundNode::File { .. }, None) => continue,
            };
            tree.add(&join(&base, &found.below), entry(step, node, executable))?;
        }
        Ok(())
    }

    fn add_download(&self, tree: &mut Tree, step: &Step, download: &Download) -> Result<()> {
        let Source::Url { url, .. } = &step.source.value else {
            return Ok(());
        };
        let destination = &step.destination.value;
        let path = match (destination.directory, name_of(url)) {
            (false, _) => destination.path.clone(),
            (true, "") => {
                return Err(
                    Error::new(Kind::Input, format!("`{url}` has no name at its end")).hint(
                        format!("write the file's whole path: `{}/NAME`", destination.path),
                    ),
                );
            }
            (true, name) => join(&destination.path, name),
        };
        let node = Node::File(FileNode {
            size: download.size,
            digest: download.digest,
            content: Content::Cache(download.path.clone()),
        });
        tree.add(&path, entry(step, node, false))
    }

    fn add_listing(
        &self,
        tree: &mut Tree,
        step: &Step,
        entries: &[Listed],
        strip: usize,
    ) -> Result<()> {
        let mut any = false;
        for listed in entries {
            let rest = listed.path.splitn(strip + 1, '/').nth(strip);
            let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
                continue;
            };
            any = true;
            let path = join(&step.destination.value.path, rest);
            let (node, executable, xattrs) = match &listed.node {
                ListedNode::Directory => (Node::Directory, false, Default::default()),
                ListedNode::Link(target) => (Node::Link(target.clone()), false, Default::default()),
                ListedNode::File(file) => {
                    let node = Node::File(FileNode {
                        size: file.size,
                        digest: file.digest,
                        content: Content::Cache(self.cache.file(&file.digest)),
                    });
                    (node, file.executable, file.xattrs.clone())
                }
            };
            let mut entry = entry(step, node, executable);
            entry.meta.xattrs = xattrs;
            tree.add(&path, entry)?;
        }
        if !any {
            return Err(Error::new(Kind::Input, "nothing of the archive is left")
                .hint("take fewer directories off with `--strip`"));
        }
        Ok(())
    }

    /// Reads the Kubernetes objects and checks the templates in a tree.
    pub fn read_texts(&self, tree: &Tree, report: &mut Report) -> Result<()> {
        for (path, entry) in tree.entries() {
            let Node::File(file) = &entry.node else {
                continue;
            };
            let path = path.as_str();
            let (manifest, template) = (manifests::is_manifest(path), templates::is_template(path));
            if !manifest && !template {
                continue;
            }
            let shown = self.shown(path, file);
            let limit = if template {
                templates::LIMIT
            } else {
                manifests::LIMIT
            };
            let text = self.text(file, &shown, limit)?;
            if template {
                templates::check(&shown, &text)?;
            }
            if manifest {
                report.read(path, &shown, &text)?;
            }
        }
        Ok(())
    }

    /// The labels that the plugins of a tree make.
    pub fn plugins(&self, tree: &Tree) -> Result<BTreeMap<String, String>> {
        plugins::labels(tree, |path, file, limit| {
            let shown = self.shown(path, file);
            let text = self.text(file, &shown, limit)?;
            Ok((shown, text))
        })
    }

    /// What messages call a file.
    fn shown(&self, path: &str, file: &FileNode) -> String {
        match &file.content {
            Content::Context { path, .. } => self.context.shown(path),
            Content::Cache(_) => path.to_owned(),
        }
    }

    fn text(&self, file: &FileNode, shown: &str, limit: u64) -> Result<String> {
        let cannot = || format!("cannot read `{shown}` as text");
        if file.size > limit {
            return Err(Error::new(Kind::Input, cannot())
                .because(format!("it is larger than {limit} bytes")));
        }
        let open = match &file.content {
            Content::Context { path, .. } => self.context.open_file(path)?.0,
            Content::Cache(path) => File::open(path).or_err(Kind::System, cannot)?,
        };
        let mut text = String::new();
        open.take(limit)
            .read_to_string(&mut text)
            .or_err(Kind::Input, cannot)?;
        Ok(text)
    }

    /// Points an error at the step, unless it points somewhere already.
    fn locate(&self, error: Error, step: &Step) -> Error {
        match error.snippet() {
            Some(_) => error,
            None => error.at(self.kubefile.place(step.source.span.clone(), "")),
        }
    }
}

fn file_of(found: &Found) -> Option<(&str, Stamp)> {
    match &found.node {
        FoundNode::File { stamp, .. } => Some((found.path.as_str(), *stamp)),
        FoundNode::Directory | FoundNode::Link(_) => None,
    }
}

fn file(found: &Found, hashed: &Hashed) -> Node {
    Node::File(FileNode {
        size: hashed.stamp.size,
        digest: hashed.digest,
        content: Content::Context {
            path: found.path.clone(),
            hashed: *hashed,
        },
    })
}

fn entry(step: &Step, node: Node, executable: bool) -> Entry {
    let Placing { mode, owner } = step.placing;
    let mode = match (&node, mode) {
        (Node::Link(_), _) => 0o777,
        // Who can read a directory can also search it.
        (Node::Directory, Some(mode)) => mode | (mode & 0o444) >> 2,
        (Node::Directory, None) => 0o755,
        (Node::File(_), Some(mode)) => mode,
        (Node::File(_), None) if executable => 0o755,
        (Node::File(_), None) => 0o644,
    };
    let (uid, gid) = owner.unwrap_or_default();
    Entry {
        meta: Meta {
            uid,
            gid,
            ..Meta::new(mode)
        },
        node,
    }
}
