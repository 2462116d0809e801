//! What is wrong with a file: collected while it is read, so that a person sees
//! all of it at once, and then made into one error that points into the file.

use std::cell::RefCell;
use std::ops::Range;

use crate::error::{Error, Kind, Snippet};

/// How many problems are kept. A file with more is of another kind altogether.
const KEPT: usize = 20;

/// Something wrong at a place.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    message: String,
    span: Range<usize>,
    label: String,
    hints: Vec<String>,
}

impl Problem {
    /// `message` follows the rules of [`Error::new`].
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Problem {
            message: message.into(),
            span,
            label: String::new(),
            hints: Vec::new(),
        }
    }

    /// What to say beside the marked part.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// A remedy.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
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
pub(super) struct Problems<'a> {
    path: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<(Range<usize>, String)>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        Problems {
            path,
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn add(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < KEPT {
            problems.push(problem);
        }
    }

    /// Adds a problem that needs neither label nor hint.
    pub(super) fn say(&self, span: &Range<usize>, message: impl Into<String>) {
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
    pub(super) fn finish(self) -> Result<Vec<Warning>, Error> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        let (path, text) = (self.path, self.text);
        let mut errors = problems
            .into_iter()
            .map(|problem| into_error(path, text, problem));
        if let Some(first) = errors.next() {
            return Err(errors.fold(first, Error::and));
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|(span, _)| span.start);
        Ok(warnings
            .into_iter()
            .map(|(span, message)| Warning {
                line: text.get(..span.start).unwrap_or(text).matches('\n').count() + 1,
                message,
            })
            .collect())
    }
}

fn into_error(path: &str, text: &str, problem: Problem) -> Error {
    let error = Error::new(Kind::Input, problem.message).at(Snippet {
        path: path.to_owned(),
        text: text.to_owned(),
        span: problem.span,
        label: problem.label,
    });
    problem.hints.into_iter().fold(error, Error::hint)
}

/// The known name that `name` was probably meant to be.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
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
