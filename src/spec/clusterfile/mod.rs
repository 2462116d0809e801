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
mod problem;
mod schema;
mod shape;
mod tree;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use arguments::Arguments;
pub use problem::Warning;

use self::access::{Places, Reader};
use self::problem::{Problem, Problems, nearest};
use self::tree::{Node, Value};
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
            Error::new(kind, format!("cannot read `{name}`")).because(error)
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
        let documents = tree::documents(&problems);
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

/// What a document is, by its `kind` and `apiVersion`.
enum DocumentKind {
    Cluster,
}

fn read_documents(
    documents: &[Node],
    places: Places<'_>,
    problems: &Problems<'_>,
) -> Option<Cluster> {
    let reader = Reader { places, problems };
    let mut cluster = None;
    for document in documents {
        match classify(document, problems)? {
            DocumentKind::Cluster => cluster = Some(document),
        }
    }
    let Some(document) = cluster else {
        problems.add(
            Problem::new(0..0, "the file describes no cluster").hint(
                "see `Clusterfile.example`, or `chasi run --help` for how to do without a file",
            ),
        );
        return None;
    };
    let shape: shape::Document = decode::decode(document, problems)?;
    chasi::draft(&shape, &reader)?.finish(problems)
}

fn classify(document: &Node, problems: &Problems<'_>) -> Option<DocumentKind> {
    if !matches!(document.value, Value::Map(_)) {
        problems.say(
            &document.span,
            format!(
                "expected a mapping with `apiVersion` and `kind`, found {}",
                document.describe()
            ),
        );
        return None;
    }
    let text = |name: &str| document.get(name).and_then(Node::as_text);
    match (text("apiVersion"), text("kind")) {
        (Some(shape::API_VERSION), Some("Cluster")) => Some(DocumentKind::Cluster),
        (_, kind) => {
            let span = document
                .get("kind")
                .map_or(&document.span, |node| &node.span);
            let problem = Problem::new(
                span.clone(),
                format!("unknown kind `{}`", kind.unwrap_or("")),
            );
            problems.add(match nearest(kind.unwrap_or(""), ["Cluster"]) {
                Some(known) => problem.hint(format!("did you mean `{known}`?")),
                None => problem,
            });
            None
        }
    }
}
