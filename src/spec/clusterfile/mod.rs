//! Reading a Clusterfile: YAML text to [`Cluster`].
//!
//! The way: `tree` parses the text with positions and bounds; each document goes
//! by its `apiVersion` and `kind` to `chasi` (our own kind, whose `shape` is also
//! the JSON Schema), `sealer`, or `kubeadm`; all of them fill one `draft`, which
//! checks that everything fits together. Whatever is wrong is collected in
//! `problem` and becomes one error that points to every place.

mod access;
mod addresses;
mod arguments;
mod chasi;
mod decode;
mod draft;
pub mod edit;
mod kubeadm;
mod kubeadm_rules;
mod plugins;
mod problem;
mod schema;
mod sealer;
mod shape;
mod tree;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use arguments::Arguments;
pub use problem::Warning;

pub(super) use decode::decode;
pub(super) use problem::{Problem, Problems, nearest};
pub(super) use tree::{Node, documents};

use self::access::{Places, Reader};
use self::tree::Value;
use super::cluster::Cluster;
use crate::error::{Error, Kind, Result, ResultExt};

/// The largest Clusterfile that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// A Clusterfile that makes sense.
#[derive(Clone, Debug)]
pub struct Clusterfile {
    /// What it asks for.
    pub cluster: Cluster,
    /// What a person should know about it.
    pub warnings: Vec<Warning>,
}

impl Clusterfile {
    /// Reads a file. Relative paths in it start at its directory, `~/` at `home`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such file, [`Kind::Input`] when it is
    /// wrong, with every place that is.
    pub fn read(path: &Path, home: Option<&Path>) -> Result<Self> {
        use std::io::Read;
        let name = path.display().to_string();
        let open = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::System,
            };
            Error::new(kind, format!("cannot read `{name}`"))
                .because(error)
                .hint("`-f` names the Clusterfile; `Clusterfile.example` in chasi's sources shows one")
        };
        let file = std::fs::File::open(path).map_err(open)?;
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(open)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(
                Error::new(Kind::Input, format!("`{name}` is larger than 1 MiB"))
                    .hint("is it a Clusterfile?"),
            );
        }
        let text = String::from_utf8(bytes)
            .or_err(Kind::Input, || format!("`{name}` is not text in UTF-8"))?;
        Clusterfile::parse(&name, &text, home)
    }

    /// As [`Clusterfile::read`], for a text that is already there. `path` is used
    /// in messages and for the directory that relative paths start at.
    pub fn parse(path: &str, text: &str, home: Option<&Path>) -> Result<Self> {
        let problems = Problems::new(path, text);
        let places = Places {
            base: Path::new(path).parent().unwrap_or(Path::new("")),
            home,
        };
        let documents = documents(&problems);
        let cluster = if problems.is_empty() {
            read_documents(&documents, places, &problems)
        } else {
            None
        };
        let warnings = problems.finish()?;
        match cluster {
            Some(cluster) => Ok(Clusterfile { cluster, warnings }),
            None => Err(Error::new(
                Kind::Input,
                format!("`{path}` describes no cluster"),
            )),
        }
    }
}

/// The documents of a file, by what they are.
#[derive(Default)]
struct Documents<'a> {
    cluster: Option<(&'a Node, Origin)>,
    configs: Vec<&'a Node>,
    kubeadm: Vec<(kubeadm::Kind, &'a Node)>,
}

/// Whose kind of cluster it is.
#[derive(Clone, Copy)]
enum Origin {
    Chasi,
    Sealer,
}

fn read_documents(
    documents: &[Node],
    places: Places<'_>,
    problems: &Problems<'_>,
) -> Option<Cluster> {
    let reader = Reader { places, problems };
    let mut sorted = Documents::default();
    for document in documents {
        sort(document, &mut sorted, problems);
    }
    let Some((document, origin)) = sorted.cluster else {
        if problems.is_empty() {
            problems.add(
                Problem::new(0..0, "the file describes no cluster")
                    .hint("write a document of kind `Cluster`, as `Clusterfile.example` has it"),
            );
        }
        return None;
    };
    let draft = match origin {
        Origin::Chasi => {
            let shape: shape::Document = decode(document, problems)?;
            chasi::draft(&shape, &reader)
        }
        Origin::Sealer => {
            let shape: sealer::Document = decode(document, problems)?;
            sealer::draft(&shape, &reader)
        }
    };
    let overrides: Vec<_> = sorted
        .configs
        .iter()
        .filter_map(|document| sealer::config(&decode(document, problems)?, problems))
        .collect();
    let mut draft = draft?;
    draft.overrides = overrides;
    for (kind, document) in sorted.kubeadm {
        kubeadm::read(kind, document, &mut draft, problems);
    }
    draft.finish(problems)
}

/// All kinds that a file may have.
const KINDS: [&str; 2] = ["Cluster", "Config"];

fn sort<'a>(document: &'a Node, sorted: &mut Documents<'a>, problems: &Problems<'_>) {
    if !matches!(document.value, Value::Map(_)) {
        let what = document.describe();
        let message = format!("expected a mapping with `apiVersion` and `kind`, found {what}");
        return problems.say(&document.span, message);
    }
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Node::as_text)
            .unwrap_or_default()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    let group = version.split('/').next().unwrap_or_default();
    let is_sealer = group.starts_with("sealer.");
    if let Some(known) = kubeadm::Kind::of(kind) {
        if sorted.kubeadm.iter().any(|(other, _)| *other == known) {
            problems.say(
                &document.span,
                format!("a second document of kind `{kind}`"),
            );
        }
        return sorted.kubeadm.push((known, document));
    }
    match (version, kind) {
        (shape::API_VERSION, "Cluster") => one(document, Origin::Chasi, sorted, problems),
        ("sealer.cloud/v2", "Cluster") => one(document, Origin::Sealer, sorted, problems),
        (_, "Config") if is_sealer => sorted.configs.push(document),
        (_, "Plugin") if is_sealer => sealer::refuse_plugin(document, problems),
        (_, "Application") if is_sealer => unsupported(
            document,
            "sealer's applications are not supported",
            "put the manifests into the cluster image, below `chasi/manifests`",
            problems,
        ),
        (_, "Cluster") => {
            let node = document.get("apiVersion");
            let span = node.map_or(&document.span, |node| &node.span);
            let hint = format!(
                "write `{}`; of sealer's, `sealer.cloud/v2` is read",
                shape::API_VERSION
            );
            let message = match node {
                Some(_) => format!("a cluster of version `{version}` cannot be read"),
                None => "`apiVersion` is missing".to_owned(),
            };
            problems.add(Problem::new(span.clone(), message).hint(hint));
        }
        (_, "") => problems.say(&document.span, "`kind` is missing"),
        _ => {
            let known = KINDS.into_iter().chain(kubeadm::Kind::NAMES);
            let hint = match nearest(kind, known.clone()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!(
                    "known are {}",
                    known
                        .map(|kind| format!("`{kind}`"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            };
            unsupported(document, &format!("unknown kind `{kind}`"), &hint, problems);
        }
    }
}

fn one<'a>(
    document: &'a Node,
    origin: Origin,
    sorted: &mut Documents<'a>,
    problems: &Problems<'_>,
) {
    if sorted.cluster.is_some() {
        let hint = "write one file for each cluster";
        return unsupported(
            document,
            "a second cluster in the same file",
            hint,
            problems,
        );
    }
    sorted.cluster = Some((document, origin));
}

fn unsupported(document: &Node, message: &str, hint: &str, problems: &Problems<'_>) {
    let span = document
        .get("kind")
        .map_or(&document.span, |node| &node.span);
    problems.add(Problem::new(span.clone(), message).hint(hint));
}
