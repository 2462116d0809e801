//! What a Kubefile means for one platform: names are parsed, files that list
//! images are read. Nothing is fetched yet.

use std::path::Path;
use std::sync::Arc;

use super::Request;
use super::context::Context;
use super::images::Wanted;
use crate::error::{Error, Kind, Result, ResultExt, Snippet};
use crate::event;
use crate::oci::image::LayerKind;
use crate::oci::{Platform, Reference};
use crate::spec::kubefile::{Arguments, Kubefile, Layer, Recipe, Section, Spanned, nearest};

/// A Kubefile for one platform.
#[derive(Debug)]
pub struct Plan {
    /// Where files come from.
    pub context: Arc<Context>,
    /// The cluster image to begin with.
    pub base: Option<Spanned<Reference>>,
    /// What follows, in order.
    pub parts: Vec<Part>,
    /// Container images that the Kubefile names.
    pub images: Vec<Wanted>,
    /// The recipe's environment and labels.
    pub recipe: Recipe,
}

/// What adds layers.
#[derive(Debug)]
pub enum Part {
    /// A layer of this Kubefile.
    Layer(LayerKind, Layer),
    /// An included cluster image.
    Include(Spanned<Reference>),
}

impl Plan {
    /// Makes the plan. Reads files of the context, so it blocks.
    pub fn make(request: &Request, kubefile: &Kubefile, platform: &Platform) -> Result<Self> {
        let mut recipe = kubefile.evaluate(&Arguments {
            values: request.arguments.clone(),
            os: platform.os().to_owned(),
            architecture: platform.architecture().to_owned(),
        })?;
        let own = [&request.kubefile, &request.lock_file];
        let own: Vec<String> = own
            .into_iter()
            .filter_map(|path| below(&request.context, path))
            .collect();
        let context = Context::open(&request.context, &own)?;
        let names = Names { kubefile };
        let base = recipe
            .base
            .as_ref()
            .map(|base| names.reference(base))
            .transpose()?;
        let sections = std::mem::take(&mut recipe.sections);
        let parts = sections
            .into_iter()
            .map(|section| names.part(section))
            .collect::<Result<_>>()?;
        let images = names.images(&recipe, &context)?;
        Ok(Plan {
            context: Arc::new(context),
            base,
            parts,
            images,
            recipe,
        })
    }
}

/// The path of a file in the context, if it is in it.
fn below(context: &Path, file: &Path) -> Option<String> {
    // The file need not exist, its directory must.
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let file = directory.canonicalize().ok()?.join(file.file_name()?);
    let path = file.strip_prefix(context.canonicalize().ok()?).ok()?;
    path.to_str().map(str::to_owned)
}

/// Parses names and points errors at them.
struct Names<'a> {
    kubefile: &'a Kubefile,
}

impl Names<'_> {
    fn reference(&self, text: &Spanned<String>) -> Result<Spanned<Reference>> {
        let reference = text
            .value
            .parse()
            .map_err(|error: Error| error.at(self.kubefile.place(text.span.clone(), "")))?;
        Ok(Spanned::new(reference, text.span.clone()))
    }

    fn part(&self, section: Section) -> Result<Part> {
        let layer = match section {
            Section::Include(image) => return self.reference(&image).map(Part::Include),
            Section::Layer(layer) => layer,
        };
        let kind = layer.kind.value.parse().map_err(|error: Error| {
            let error = match nearest(&layer.kind.value, LayerKind::ALL.map(LayerKind::name)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            };
            error.at(self.kubefile.place(layer.kind.span.clone(), ""))
        })?;
        Ok(Part::Layer(kind, layer))
    }

    fn images(&self, recipe: &Recipe, context: &Context) -> Result<Vec<Wanted>> {
        let mut images = Vec::new();
        for image in &recipe.images {
            let place = self.kubefile.place(image.span.clone(), "");
            images.push(Wanted {
                reference: self.reference(image)?.value,
                by: format!("{}:{}", place.path, place.line_column().0),
                place: Some(place),
            });
        }
        for file in &recipe.image_files {
            let text = context
                .read_text(&file.value)
                .map_err(|error| error.at(self.kubefile.place(file.span.clone(), "")))?;
            images.extend(listed(&context.shown(&file.value), &text)?);
        }
        Ok(images)
    }
}

/// The references in a file: one a line; empty lines and what follows a `#` mean
/// nothing.
fn listed(path: &str, text: &str) -> Result<Vec<Wanted>> {
    let mut images = Vec::new();
    let mut offset = 0;
    for (index, raw) in text.split_inclusive('\n').enumerate() {
        let start = offset + (raw.len() - raw.trim_start().len());
        offset += raw.len();
        let name = raw.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        let place = Snippet {
            path: path.to_owned(),
            text: text.to_owned(),
            span: start..start + name.len(),
            label: String::new(),
        };
        images.push(Wanted {
            reference: name
                .parse()
                .map_err(|error: Error| error.at(place.clone()))?,
            by: format!("{path}:{}", index + 1),
            place: Some(place),
        });
    }
    if images.is_empty() {
        return Err(Error::new(Kind::Input, format!("`{path}` lists no images"))
            .hint("write one reference a line, such as `registry.k8s.io/pause:3.10.1`"));
    }
    Ok(images)
}

/// Runs blocking work off the reactor. When the caller is dropped, because another
/// part of the build failed, the work's context is cancelled, and it ends soon.
pub async fn blocking<T: Send + 'static>(
    events: &event::Context,
    work: impl FnOnce(&event::Context) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut own = events.clone();
    own.cancel = events.cancel.child_token();
    let _end = own.cancel.clone().drop_guard();
    tokio::task::spawn_blocking(move || work(&own))
        .await
        .or_err(Kind::Failed, || "the build ended abruptly")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_images_has_comments_and_errors_point_into_it() {
        let images = listed(
            "images.txt",
            "# all\n\n  busybox:1 # small\nquay.io/a/b:2\n",
        )
        .unwrap();
        let found: Vec<_> = images
            .iter()
            .map(|image| (image.reference.to_string(), image.by.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("docker.io/library/busybox:1".to_owned(), "images.txt:3"),
                ("quay.io/a/b:2".to_owned(), "images.txt:4"),
            ]
        );
        let error = listed("images.txt", "a\n  B:x\n").unwrap_err();
        let snippet = error.snippet().unwrap();
        assert_eq!(
            (snippet.line_column(), &snippet.text[snippet.span.clone()]),
            ((2, 3), "B:x")
        );
        assert!(listed("images.txt", "# none\n").is_err());
    }

    #[test]
    fn the_kubefile_is_found_in_the_context_however_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let context = directory.path();
        std::fs::create_dir(context.join("a")).unwrap();
        assert_eq!(
            below(context, &context.join("a/../Kubefile")).as_deref(),
            Some("Kubefile")
        );
        assert_eq!(below(&context.join("a"), &context.join("Kubefile")), None);
        assert_eq!(below(context, &context.join("a/K")).as_deref(), Some("a/K"));
    }
}
