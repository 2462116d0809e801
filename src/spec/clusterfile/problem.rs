//! What is wrong with a file: collected while it is read, so that a person sees
//! all of it at once, and then made into one error that points into the file.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Kind, Snippet};
use crate::spec::text::Source;

/// How many problems are kept. A file with more is of another kind altogether.
const KEPT: usize = 50;

/// Something wrong at a place.
#[derive(Clone, Debug)]
pub(in crate::spec) struct Problem {
    message: String,
    span: Range<usize>,
    hints: Vec<String>,
}

impl Problem {
    /// `message` follows the rules of [`Error::new`].
    pub(in crate::spec) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Problem {
            message: message.into(),
            span,
            hints: Vec::new(),
        }
    }

    /// A remedy.
    pub(in crate::spec) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Something that a person should know about a file that is not wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The line, counted from 1.
    pub line: usize,
    /// What it is.
    pub message: String,
}

/// A file and what was found in it.
pub(in crate::spec) struct Problems<'a> {
    path: &'a str,
    text: &'a str,
    kind: Kind,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<(Range<usize>, String)>>,
    source: OnceCell<Arc<Source>>,
}

impl<'a> Problems<'a> {
    pub(in crate::spec) fn new(path: &'a str, text: &'a str) -> Self {
        Problems {
            path,
            text,
            kind: Kind::Input,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            source: OnceCell::new(),
        }
    }

    /// The kind of the errors, when they are not about a file.
    pub(super) fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The file as it may be shown later, when it is known what else is wrong.
    pub(super) fn source(&self) -> Arc<Source> {
        Arc::clone(self.source.get_or_init(|| {
            Arc::new(Source {
                path: self.path.to_owned(),
                text: without_secrets(self.text),
            })
        }))
    }

    pub(in crate::spec) fn add(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < KEPT {
            problems.push(problem);
        }
    }

    /// Adds a problem that needs neither label nor hint.
    pub(in crate::spec) fn say(&self, span: &Range<usize>, message: impl Into<String>) {
        self.add(Problem::new(span.clone(), message));
    }

    pub(super) fn warn(&self, span: &Range<usize>, message: impl Into<String>) {
        self.warnings
            .borrow_mut()
            .push((span.clone(), message.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The error of all problems in the order of the file, or the warnings when
    /// there are none.
    pub(in crate::spec) fn finish(self) -> Result<Vec<Warning>, Error> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        let shown = without_secrets(self.text);
        let mut errors = problems.into_iter().map(|problem| {
            let error = Error::new(self.kind, problem.message).at(Snippet {
                path: self.path.to_owned(),
                text: shown.clone(),
                span: problem.span,
                label: String::new(),
            });
            problem.hints.into_iter().fold(error, Error::hint)
        });
        if let Some(first) = errors.next() {
            return Err(errors.fold(first, Error::and));
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|(span, _)| span.start);
        let line = |span: &Range<usize>| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            before.matches('\n').count() + 1
        };
        Ok(warnings
            .into_iter()
            .map(|(span, message)| Warning {
                line: line(&span),
                message,
            })
            .collect())
    }
}

/// The keys whose values are secrets: sealer's, and what people try.
const SECRET_KEYS: [&str; 4] = ["passwd:", "password:", "passphrase:", "token:"];

/// The text with `*` for what may be a secret, so that the line of an error can
/// be shown. Works on lines because the text may be no YAML at all; keeps every
/// byte offset.
fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // The indentation of a key whose secret goes on in the lines below.
    let mut below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indentation = line.len() - line.trim_start().len();
        if below.is_some_and(|of| indentation > of || line.trim().is_empty()) {
            hide(line, &mut shown);
            continue;
        }
        below = None;
        let lower = line.to_ascii_lowercase();
        let end = SECRET_KEYS
            .iter()
            .filter_map(|key| Some(lower.find(key)? + key.len()))
            .min();
        match end {
            Some(end) => {
                shown.push_str(&line[..end]);
                hide(&line[end..], &mut shown);
                below = Some(indentation);
            }
            None => shown.push_str(line),
        }
    }
    shown
}

fn hide(text: &str, shown: &mut String) {
    for character in text.chars() {
        match character {
            ' ' | '\n' | '\r' => shown.push(character),
            other => shown.extend(std::iter::repeat_n('*', other.len_utf8())),
        }
    }
}

/// The known name that `name` was probably meant to be.
pub(in crate::spec) fn nearest<'n>(
    name: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        // Up to a third of the letters may be wrong, or one is a part of the other.
        .filter(|(distance, candidate)| {
            *distance <= candidate.chars().count().max(3) / 3
                || (lower.len() > 3 && candidate.to_lowercase().starts_with(&lower))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
