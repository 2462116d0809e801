//! The Kubefile: the recipe of a cluster image.
//!
//! ```text
//! # comment
//! ARG VERSION=v1.34.4
//! FROM scratch                         # or a cluster image
//! LABEL dev.chasi.kubernetes.version=${VERSION}
//! ENV MODE=production
//! LAYER kubernetes                     # opens a layer; what follows goes into it
//! COPY [--chmod=0755] [--chown=0:0] rootfs/ /
//! ADD [--checksum=sha256:…|--checksum=URL] [--unpack] [--strip=1] URL usr/bin/
//! IMAGE registry.k8s.io/pause:3.10.1   # container images that the cluster runs
//! IMAGES images.txt                    # the same, one a line
//! INCLUDE chasi/flannel:v0.28.4        # everything of another cluster image
//! ```
//!
//! The language is a Dockerfile's: one instruction a line, `\` at the end of a
//! line continues it, a line that begins with `#` is a comment, quotes keep
//! blanks together. `${NAME}` and `${NAME:-default}` are replaced everywhere but
//! in single quotes; unlike a Dockerfile's, a variable without a value is an
//! error. The first instruction is `FROM`; only `ARG` may stand before it, and
//! what it defines holds for the whole file.
//!
//! Two steps: [`Kubefile::parse`] turns text into instructions, [`Kubefile::evaluate`]
//! replaces variables and checks what depends on their values. Both are pure, and
//! every error of both points into the file.

mod answers;
mod evaluate;
mod instructions;
mod values;
mod words;

use std::fmt;
use std::ops::Range;

pub use answers::nearest;
pub use evaluate::{
    Arguments, Checksum, Destination, Layer, Placing, Recipe, Section, Source, Step,
};
pub use words::{Part, Spanned, Word};

use crate::error::{Error, Kind, Result, Snippet};
use words::Flaw;

/// The largest Kubefile that is read, in bytes.
pub const LIMIT: usize = 1 << 20;

/// A Kubefile that follows the grammar; its variables are not yet replaced.
#[derive(Clone, Debug)]
pub struct Kubefile {
    path: String,
    text: String,
    instructions: Vec<Spanned<Instruction>>,
}

/// `NAME=VALUE`.
pub type Pair = (Spanned<String>, Spanned<Word>);

/// One instruction as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Instruction {
    /// `FROM scratch` or `FROM IMAGE`.
    From {
        /// `scratch` or a reference.
        image: Spanned<Word>,
    },
    /// `ARG NAME[=DEFAULT]…`.
    Arg {
        /// Names and defaults.
        declarations: Vec<(Spanned<String>, Option<Spanned<Word>>)>,
    },
    /// `ENV NAME=VALUE…`.
    Env {
        /// Names and values.
        pairs: Vec<Pair>,
    },
    /// `LABEL NAME=VALUE…`.
    Label {
        /// Names and values.
        pairs: Vec<Pair>,
    },
    /// `LAYER KIND`.
    Layer {
        /// What the layer is for. Which kinds there are is not the grammar's.
        kind: Spanned<Word>,
    },
    /// `COPY` and `ADD`; which of them says what may be in them.
    Transfer(Transfer),
    /// `IMAGE REFERENCE…`.
    Image {
        /// References of container images.
        references: Vec<Spanned<Word>>,
    },
    /// `IMAGES FILE…`.
    Images {
        /// Files of the context that list references.
        files: Vec<Spanned<Word>>,
    },
    /// `INCLUDE IMAGE…`.
    Include {
        /// References of cluster images.
        images: Vec<Spanned<Word>>,
    },
}

/// `COPY` or `ADD`: flags, sources, destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transfer {
    /// `--chmod`.
    pub chmod: Option<Spanned<Word>>,
    /// `--chown`.
    pub chown: Option<Spanned<Word>>,
    /// What only `ADD` can.
    pub add: Option<AddFlags>,
    /// Files of the context, and for `ADD` also URLs; at least one.
    pub sources: Vec<Spanned<Word>>,
    /// Where they go.
    pub destination: Spanned<Word>,
}

/// The flags that only `ADD` takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddFlags {
    /// `--checksum`.
    pub checksum: Option<Spanned<Word>>,
    /// `--unpack`.
    pub unpack: bool,
    /// `--strip`.
    pub strip: Option<Spanned<Word>>,
}

impl Kubefile {
    /// Reads a Kubefile. `path` is what messages call it.
    pub fn parse(path: impl Into<String>, text: impl Into<String>) -> Result<Self> {
        let mut kubefile = Kubefile {
            path: path.into(),
            text: text.into(),
            instructions: Vec::new(),
        };
        if kubefile.text.len() > LIMIT {
            let message = format!("`{}` is larger than {LIMIT} bytes", kubefile.path);
            return Err(Error::new(Kind::Input, message)
                .hint("a Kubefile names files; their content belongs into the context"));
        }
        let instructions =
            instructions::parse(&kubefile.text).map_err(|flaw| kubefile.flawed(flaw))?;
        kubefile.instructions = instructions;
        Ok(kubefile)
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> &[Spanned<Instruction>] {
        &self.instructions
    }

    /// The path it was parsed with.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A place in this file, for an error about what stands there.
    pub fn place(&self, span: Range<usize>, label: impl Into<String>) -> Snippet {
        Snippet {
            path: self.path.clone(),
            text: self.text.clone(),
            span,
            label: label.into(),
        }
    }

    /// Replaces variables and checks their values.
    pub fn evaluate(&self, arguments: &Arguments) -> Result<Recipe> {
        evaluate::check_names(&self.instructions, arguments)?;
        evaluate::evaluate(&self.instructions, arguments).map_err(|flaw| self.flawed(flaw))
    }

    fn flawed(&self, flaw: Flaw) -> Error {
        Error::new(Kind::Input, flaw.message)
            .at(self.place(flaw.span, ""))
            .hint(flaw.hint)
    }
}

/// The file as it would be written without comments, one instruction a line.
impl fmt::Display for Kubefile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instructions
            .iter()
            .try_for_each(|instruction| writeln!(f, "{}", instruction.value))
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instruction::From { image } => write!(f, "FROM {}", Argument(&image.value)),
            Instruction::Arg { declarations } => {
                f.write_str("ARG")?;
                declarations
                    .iter()
                    .try_for_each(|(name, default)| match default {
                        Some(default) => write!(f, " {}={}", name.value, default.value),
                        None => write!(f, " {}", name.value),
                    })
            }
            Instruction::Env { pairs } => write_pairs(f, "ENV", pairs),
            Instruction::Label { pairs } => write_pairs(f, "LABEL", pairs),
            Instruction::Layer { kind } => write!(f, "LAYER {}", Argument(&kind.value)),
            Instruction::Transfer(transfer) => transfer.fmt(f),
            Instruction::Image { references } => write_words(f, "IMAGE", references),
            Instruction::Images { files } => write_words(f, "IMAGES", files),
            Instruction::Include { images } => write_words(f, "INCLUDE", images),
        }
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.add.is_some() { "ADD" } else { "COPY" })?;
        let add = self.add.as_ref();
        for (flag, value) in [
            ("chmod", self.chmod.as_ref()),
            ("chown", self.chown.as_ref()),
            ("checksum", add.and_then(|add| add.checksum.as_ref())),
            ("strip", add.and_then(|add| add.strip.as_ref())),
        ] {
            if let Some(value) = value {
                write!(f, " --{flag}={}", value.value)?;
            }
        }
        if add.is_some_and(|add| add.unpack) {
            f.write_str(" --unpack")?;
        }
        self.sources
            .iter()
            .chain([&self.destination])
            .try_for_each(|word| write!(f, " {}", Argument(&word.value)))
    }
}

/// A word that stands alone: quotes show that it exists when it is empty.
struct Argument<'a>(&'a Word);

impl fmt::Display for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.parts.is_empty() {
            return f.write_str("\"\"");
        }
        self.0.fmt(f)
    }
}

fn write_words(f: &mut fmt::Formatter<'_>, name: &str, words: &[Spanned<Word>]) -> fmt::Result {
    f.write_str(name)?;
    words
        .iter()
        .try_for_each(|word| write!(f, " {}", Argument(&word.value)))
}

fn write_pairs(f: &mut fmt::Formatter<'_>, name: &str, pairs: &[Pair]) -> fmt::Result {
    f.write_str(name)?;
    pairs
        .iter()
        .try_for_each(|(name, value)| write!(f, " {}={}", name.value, value.value))
}

#[cfg(test)]
mod tests;
