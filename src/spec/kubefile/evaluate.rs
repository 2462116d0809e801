//! From instructions to a recipe: variables are replaced, and what depends on
//! their values is checked. Nothing outside the text is looked at.

use std::collections::BTreeMap;
use std::ops::Range;

use super::answers::nearest;
use super::values::{checksum, destination, mode, owner, url};
use super::words::{Flaw, Part, Spanned, Word};
use super::{Instruction, Transfer};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result as ErrorResult};

/// The longest word, in bytes, after its variables are replaced: variables that
/// double each other must not exhaust memory.
const LONGEST: usize = 64 << 10;

/// The most leading directories that `--strip` takes off.
const STRIP: usize = 100;

/// The variables that chasi sets.
const PREDEFINED: [&str; 3] = ["TARGETARCH", "TARGETOS", "TARGETPLATFORM"];

/// What a Kubefile is evaluated with.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Values for `ARG`, by name.
    pub values: BTreeMap<String, String>,
    /// The operating system to build for, such as `linux`.
    pub os: String,
    /// The architecture to build for, such as `amd64`.
    pub architecture: String,
}

/// What a Kubefile asks for, without variables.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The reference of the image to begin with; `None` is `scratch`.
    pub base: Option<Spanned<String>>,
    /// Layers and included images, in order.
    pub sections: Vec<Section>,
    /// References of container images.
    pub images: Vec<Spanned<String>>,
    /// Files of the context that list such references.
    pub image_files: Vec<Spanned<String>>,
    /// Environment variables; a later one replaces an earlier one.
    pub environment: BTreeMap<String, String>,
    /// Labels; a later one replaces an earlier one.
    pub labels: BTreeMap<String, String>,
}

/// What adds layers.
#[derive(Clone, Debug)]
pub enum Section {
    /// A layer of this Kubefile.
    Layer(Layer),
    /// The reference of a cluster image whose content is taken over.
    Include(Spanned<String>),
}

/// A layer: files from somewhere, in order; a later one replaces an earlier one.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What it is for, and the place of its `LAYER`.
    pub kind: Spanned<String>,
    /// Where its files come from.
    pub steps: Vec<Step>,
}

/// Files from one source.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where they come from.
    pub source: Spanned<Source>,
    /// How many leading directories of an archive's entries to take off, when the
    /// source is an archive to unpack.
    pub unpack: Option<usize>,
    /// Where they go.
    pub destination: Spanned<Destination>,
    /// Modes and owners.
    pub placing: Placing,
}

/// Where files come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// Files of the context.
    Files {
        /// A path below the context, or a pattern when `glob`; characters that
        /// mean themselves are then escaped with `\`.
        pattern: String,
        /// Whether it is a pattern.
        glob: bool,
    },
    /// A download.
    Url {
        /// An `http` or `https` URL without credentials.
        url: String,
        /// What it must be.
        checksum: Option<Checksum>,
    },
}

/// What a download must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// Its digest.
    Digest(Digest),
    /// The URL of a file with its digest.
    Url(String),
}

/// Where files go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// The path below the image's root, without `.`, `..`, doubled and leading
    /// slashes; empty for the root itself.
    pub path: String,
    /// Whether it names a directory to put files into, rather than the file.
    pub directory: bool,
}

/// Modes and owners; `None` normalises: files 0755 when anyone may execute them,
/// otherwise 0644, directories 0755, owner 0:0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Placing {
    /// The permission bits of files. Directories can also be searched by whom
    /// they can be read by.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
}

/// Checks that every value given has an `ARG`.
pub fn check_names(
    instructions: &[Spanned<Instruction>],
    arguments: &Arguments,
) -> ErrorResult<()> {
    let declared: Vec<&str> = instructions
        .iter()
        .filter_map(|instruction| match &instruction.value {
            Instruction::Arg { declarations } => Some(declarations),
            _ => None,
        })
        .flatten()
        .map(|(name, _)| name.value.as_str())
        .collect();
    for name in arguments.values.keys().map(String::as_str) {
        let error = |message: String| Err(Error::new(Kind::Usage, message));
        if PREDEFINED.contains(&name) {
            return error(format!("`{name}` cannot be set")).map_err(|error: Error| {
                error.hint("it follows from `--platform OS/ARCHITECTURE`")
            });
        }
        if !declared.contains(&name) {
            return error(format!("the Kubefile has no `ARG {name}`")).map_err(|error: Error| {
                error.hint(match nearest(name, declared.iter().copied()) {
                    Some(near) => format!("did you mean `--build-arg {near}=…`?"),
                    None => format!("add `ARG {name}` to the Kubefile, or leave the argument out"),
                })
            });
        }
    }
    Ok(())
}

/// Evaluates instructions whose order was checked by the parser.
pub fn evaluate(
    instructions: &[Spanned<Instruction>],
    arguments: &Arguments,
) -> Result<Recipe, Flaw> {
    let Arguments {
        os, architecture, ..
    } = arguments;
    let values = [
        architecture.clone(),
        os.clone(),
        format!("{os}/{architecture}"),
    ];
    let mut scope = Scope {
        given: &arguments.values,
        variables: PREDEFINED
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), Some(value)))
            .collect(),
    };
    let mut recipe = Recipe {
        base: None,
        sections: Vec::new(),
        images: Vec::new(),
        image_files: Vec::new(),
        environment: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    for instruction in instructions {
        recipe.take(&instruction.value, &mut scope)?;
    }
    Ok(recipe)
}

impl Recipe {
    fn take(&mut self, instruction: &Instruction, scope: &mut Scope) -> Result<(), Flaw> {
        match instruction {
            Instruction::From { image } => {
                let image = scope.filled(image)?;
                self.base = (image.value != "scratch").then_some(image);
            }
            Instruction::Arg { declarations } => scope.declare(declarations)?,
            Instruction::Env { pairs } => {
                for (name, value) in pairs {
                    let value = scope.text(value)?.value;
                    scope
                        .variables
                        .insert(name.value.clone(), Some(value.clone()));
                    self.environment.insert(name.value.clone(), value);
                }
            }
            Instruction::Label { pairs } => {
                for (name, value) in pairs {
                    self.labels
                        .insert(name.value.clone(), scope.text(value)?.value);
                }
            }
            Instruction::Layer { kind } => self.sections.push(Section::Layer(Layer {
                kind: scope.filled(kind)?,
                steps: Vec::new(),
            })),
            Instruction::Transfer(transfer) => {
                let steps = transfer.steps(scope)?;
                if let Some(Section::Layer(layer)) = self.sections.last_mut() {
                    layer.steps.extend(steps);
                }
            }
            Instruction::Image { references } => {
                for reference in references {
                    self.images.push(scope.filled(reference)?);
                }
            }
            Instruction::Images { files } => {
                for file in files {
                    self.image_files.push(scope.filled(file)?);
                }
            }
            Instruction::Include { images } => {
                for image in images {
                    self.sections.push(Section::Include(scope.filled(image)?));
                }
            }
        }
        Ok(())
    }
}

impl Transfer {
    fn steps(&self, scope: &Scope) -> Result<Vec<Step>, Flaw> {
        let placing = Placing {
            mode: self
                .chmod
                .as_ref()
                .map(|word| mode(scope.text(word)?))
                .transpose()?,
            owner: self
                .chown
                .as_ref()
                .map(|word| owner(scope.text(word)?))
                .transpose()?,
        };
        let unpack = self.unpack(scope)?;
        let checksum = match self.add.as_ref().and_then(|add| add.checksum.as_ref()) {
            Some(word) => Some(Spanned::new(
                checksum(scope.text(word)?)?,
                word.span.clone(),
            )),
            None => None,
        };
        let destination = destination(scope.text(&self.destination)?)?;
        let sources = self
            .sources
            .iter()
            .map(|word| self.source(scope.expand(word)?, word.span.clone(), checksum.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        self.check_destination(&sources, unpack, &destination)?;
        Ok(sources
            .into_iter()
            .map(|source| Step {
                source,
                unpack,
                destination: destination.clone(),
                placing,
            })
            .collect())
    }

    fn unpack(&self, scope: &Scope) -> Result<Option<usize>, Flaw> {
        let Some(add) = &self.add else {
            return Ok(None);
        };
        let Some(word) = &add.strip else {
            return Ok(add.unpack.then_some(0));
        };
        if !add.unpack {
            return Err(Flaw::new(
                "`--strip` takes directories off an archive's entries",
                word.span.clone(),
                "add `--unpack`, or take `--strip` out",
            ));
        }
        let text = scope.text(word)?;
        match text.value.parse::<usize>() {
            Ok(count) if count <= STRIP => Ok(Some(count)),
            _ => Err(Flaw::new(
                format!("`{}` is not a number of directories", text.value),
                text.span,
                format!("write a number from 0 to {STRIP}, such as `--strip=1`"),
            )),
        }
    }

    fn source(
        &self,
        word: Expanded,
        span: Range<usize>,
        checksum: Option<&Spanned<Checksum>>,
    ) -> Result<Spanned<Source>, Flaw> {
        let scheme = word
            .text
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.is_some() && self.add.is_none() {
            return Err(Flaw::new(
                "`COPY` takes files of the context",
                span,
                "download with `ADD`",
            ));
        }
        let source = match scheme.as_deref() {
            Some("http" | "https") => Source::Url {
                url: url(&word.text, &span)?,
                checksum: checksum.map(|checksum| checksum.value.clone()),
            },
            Some(other) => {
                return Err(Flaw::new(
                    format!("`ADD` cannot fetch by `{other}`"),
                    span,
                    "write an `https://` or `http://` URL",
                ));
            }
            None => {
                if let Some(checksum) = checksum {
                    return Err(Flaw::new(
                        "`--checksum` is for downloads",
                        checksum.span.clone(),
                        "take it out: files of the context are hashed anyhow",
                    ));
                }
                word.files(&span)?
            }
        };
        if let (Source::Url { .. }, Some(Checksum::Digest(_)), true) = (
            &source,
            checksum.map(|checksum| &checksum.value),
            self.sources.len() > 1,
        ) {
            return Err(Flaw::new(
                "one digest for several downloads",
                span,
                "write an `ADD` for each, or name a checksum file: `--checksum=URL`",
            ));
        }
        Ok(Spanned::new(source, span))
    }

    /// Several files need a directory to go to.
    fn check_destination(
        &self,
        sources: &[Spanned<Source>],
        unpack: Option<usize>,
        destination: &Spanned<Destination>,
    ) -> Result<(), Flaw> {
        let many = sources.len() > 1
            || sources
                .iter()
                .any(|source| matches!(&source.value, Source::Files { glob: true, .. }));
        if many && unpack.is_none() && !destination.value.directory {
            return Err(Flaw::new(
                "several files cannot all become this one",
                destination.span.clone(),
                format!(
                    "end the directory's name with a slash: `{}/`",
                    destination.value.path
                ),
            ));
        }
        Ok(())
    }
}

/// The variables at one point of the file.
struct Scope<'a> {
    given: &'a BTreeMap<String, String>,
    /// A name without a value was declared and nobody gave it one.
    variables: BTreeMap<String, Option<String>>,
}

/// A word after its variables are replaced.
#[derive(Default)]
struct Expanded {
    text: String,
    /// The same, quoted characters escaped where they would mean something in a
    /// pattern.
    pattern: String,
    /// Whether an unquoted character means something in a pattern.
    glob: bool,
}

impl Expanded {
    fn push(&mut self, text: &str, quoted: bool) {
        self.text.push_str(text);
        for character in text.chars() {
            let special = matches!(character, '*' | '?' | '[');
            if character == '\\' || (special && quoted) {
                self.pattern.push('\\');
            }
            self.glob |= special && !quoted;
            self.pattern.push(character);
        }
    }

    fn files(self, span: &Range<usize>) -> Result<Source, Flaw> {
        let pattern = if self.glob { &self.pattern } else { &self.text };
        let mut components = pattern.split('/');
        if components.any(|component| component == "..") {
            return Err(Flaw::new(
                "a source must lie in the context",
                span.clone(),
                "copy the file into the context, or build with a directory further up",
            ));
        }
        let kept: Vec<&str> = pattern
            .split('/')
            .filter(|component| !component.is_empty() && *component != ".")
            .collect();
        if kept.is_empty() && self.text.is_empty() {
            return Err(Flaw::new(
                "the source is empty",
                span.clone(),
                "write `.` for the whole context",
            ));
        }
        Ok(Source::Files {
            pattern: kept.join("/"),
            glob: self.glob,
        })
    }
}

impl Scope<'_> {
    fn declare(
        &mut self,
        declarations: &[(Spanned<String>, Option<Spanned<Word>>)],
    ) -> Result<(), Flaw> {
        for (name, default) in declarations {
            if PREDEFINED.contains(&name.value.as_str()) {
                if default.is_some() {
                    return Err(Flaw::new(
                        format!("`{}` cannot be set", name.value),
                        name.span.clone(),
                        "it follows from `--platform OS/ARCHITECTURE`",
                    ));
                }
                continue;
            }
            let value = match (self.given.get(&name.value), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.text(default)?.value),
                (None, None) => self.variables.get(&name.value).cloned().flatten(),
            };
            self.variables.insert(name.value.clone(), value);
        }
        Ok(())
    }

    fn expand(&self, word: &Spanned<Word>) -> Result<Expanded, Flaw> {
        let mut expanded = Expanded::default();
        self.expand_into(&word.value, false, &word.span, &mut expanded)?;
        Ok(expanded)
    }

    fn expand_into(
        &self,
        word: &Word,
        outer: bool,
        span: &Range<usize>,
        expanded: &mut Expanded,
    ) -> Result<(), Flaw> {
        for part in &word.parts {
            match part {
                Part::Literal { text, quoted } => expanded.push(text, outer || *quoted),
                Part::Variable {
                    name,
                    default,
                    quoted,
                } => {
                    let quoted = outer || *quoted;
                    let value = self.variables.get(&name.value).and_then(Option::as_deref);
                    match (value, default) {
                        (Some(value), None) => expanded.push(value, quoted),
                        (Some(value), Some(_)) if !value.is_empty() => expanded.push(value, quoted),
                        (_, Some(default)) => self.expand_into(default, quoted, span, expanded)?,
                        (None, None) => return Err(self.unset(name)),
                    }
                }
            }
            if expanded.text.len() > LONGEST {
                return Err(Flaw::new(
                    format!("this becomes longer than {LONGEST} bytes"),
                    span.clone(),
                    "shorten the variables in it",
                ));
            }
        }
        Ok(())
    }

    fn text(&self, word: &Spanned<Word>) -> Result<Spanned<String>, Flaw> {
        Ok(Spanned::new(self.expand(word)?.text, word.span.clone()))
    }

    /// The text of a word that must not be empty.
    fn filled(&self, word: &Spanned<Word>) -> Result<Spanned<String>, Flaw> {
        let text = self.text(word)?;
        if text.value.is_empty() {
            return Err(Flaw::new(
                "this is empty",
                text.span,
                "write a name, or give the variable a value",
            ));
        }
        Ok(text)
    }

    fn unset(&self, name: &Spanned<String>) -> Flaw {
        let known = self.variables.keys().map(String::as_str);
        let hint = if self.variables.contains_key(&name.value) {
            format!(
                "give it with `--build-arg {0}=VALUE`, or a default with `ARG {0}=VALUE`",
                name.value
            )
        } else if let Some(near) = nearest(&name.value, known) {
            format!("did you mean `${{{near}}}`?")
        } else {
            format!("define it above with `ARG {}=VALUE`", name.value)
        };
        Flaw::new(
            format!("`{}` has no value", name.value),
            name.span.clone(),
            hint,
        )
    }
}
