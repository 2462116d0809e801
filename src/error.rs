//! The one error type of the library.
//!
//! Every failure that reaches a person says four things: what kind it is (which
//! decides the exit code), what happened (object and operation), where (a host,
//! a place in a file), and what to type next. Errors are values: the library
//! never prints them and never exits.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What kind of failure it is. Decides the process exit code, see
/// [`Kind::exit_code`], and is the `kind` field of JSON output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Something failed that no other kind describes.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A file that the user wrote is wrong.
    Input,
    /// A check failed, or a host is not to be entered; nothing has been changed.
    Check,
    /// Some hosts are done and some are not.
    Partial,
    /// Someone else holds the lock.
    Locked,
    /// Content does not match its digest, or is not what it claims to be.
    Integrity,
    /// What was asked for does not exist.
    NotFound,
    /// A host or registry cannot be reached, or a registry does not let us in.
    Unreachable,
    /// Disk full, permission denied and other failures of the local system.
    System,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted,
}

impl Kind {
    /// All kinds, in the order of their exit codes.
    pub const ALL: [Kind; 11] = [
        Kind::Failed,
        Kind::Usage,
        Kind::Input,
        Kind::Check,
        Kind::Partial,
        Kind::Locked,
        Kind::Integrity,
        Kind::NotFound,
        Kind::Unreachable,
        Kind::System,
        Kind::Interrupted,
    ];

    /// Its name in JSON and in `docs/exit-codes.md`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::Input => "input",
            Kind::Check => "check",
            Kind::Partial => "partial",
            Kind::Locked => "locked",
            Kind::Integrity => "integrity",
            Kind::NotFound => "not-found",
            Kind::Unreachable => "unreachable",
            Kind::System => "system",
            Kind::Interrupted => "interrupted",
        }
    }

    /// What it means and what to do, for `docs/exit-codes.md`.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Failed => "Something failed that no other kind describes. The message says what.",
            Kind::Usage => "The command line makes no sense. Nothing was done.",
            Kind::Input => {
                "A file that you wrote is wrong. The message points into it; nothing was done."
            }
            Kind::Check => {
                "A check of the hosts failed or could not look, or a host does not let us in or is not the one that was meant. Nothing was changed."
            }
            Kind::Partial => {
                "Some hosts are done and some are not. Running the same command again does the rest."
            }
            Kind::Locked => "Another run holds the lock. Wait for it, or look what it does.",
            Kind::Integrity => {
                "Content does not match its digest, or is not what it claims to be. It was not used."
            }
            Kind::NotFound => "What was asked for does not exist.",
            Kind::Unreachable => {
                "A host or a registry cannot be reached, or a registry does not let us in."
            }
            Kind::System => "The local system failed: disk full, permission denied and the like.",
            Kind::Interrupted => {
                "Stopped by Ctrl-C or SIGTERM at a consistent point. Running the same command again goes on."
            }
        }
    }

    /// The exit code of a process that ends with this kind of error. Part of the
    /// documented interface: `docs/exit-codes.md`.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Check => 4,
            Kind::Partial => 5,
            Kind::Locked => 6,
            Kind::Integrity => 7,
            Kind::NotFound => 8,
            Kind::Unreachable => 9,
            Kind::System => 10,
            Kind::Interrupted => 130,
        }
    }
}

/// A failure with everything a person needs to act on it.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: Kind,
    message: String,
    host: Option<String>,
    snippet: Option<Snippet>,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    others: Vec<Error>,
}

/// A place in a text that the user wrote, for errors that point into it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snippet {
    /// The file's path as the user gave it.
    pub path: String,
    /// The whole text of the file.
    pub text: String,
    /// Byte range of the offending part.
    pub span: std::ops::Range<usize>,
    /// What to say beside the marked part; may be empty.
    pub label: String,
}

impl Snippet {
    /// Line and column of the start of the span, both counted from 1; the column
    /// in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let start = self.span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error. `message` says what happened, in lower case, without a final
    /// period, with names in backticks.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                host: None,
                snippet: None,
                hints: Vec::new(),
                source: None,
                others: Vec::new(),
            }),
        }
    }

    /// Adds the cause. A remedy that the cause knows counts here too, unless this
    /// error has one of its own.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        if self.inner.hints.is_empty() {
            self.inner.hints = remedies(source.as_ref());
        }
        self.inner.source = Some(source);
        self
    }

    /// Adds a remedy: a full sentence, or a command that can be typed.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hints.push(hint.into());
        self
    }

    /// Says on which host it happened.
    pub fn on_host(mut self, host: impl Into<String>) -> Self {
        self.inner.host = Some(host.into());
        self
    }

    /// Points into a text of the user's.
    pub fn at(mut self, snippet: Snippet) -> Self {
        self.inner.snippet = Some(snippet);
        self
    }

    /// Adds another failure of the same work, for work that finds several at once.
    pub fn and(mut self, other: Error) -> Self {
        self.inner.others.push(other);
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// What happened, without cause, place and hints.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The host on which it happened.
    pub fn host(&self) -> Option<&str> {
        self.inner.host.as_deref()
    }

    /// The place in the user's text.
    pub fn snippet(&self) -> Option<&Snippet> {
        self.inner.snippet.as_ref()
    }

    /// The remedies.
    pub fn hints(&self) -> &[String] {
        &self.inner.hints
    }

    /// The failures that were found together with this one.
    pub fn others(&self) -> &[Error] {
        &self.inner.others
    }

    /// The causes, nearest first.
    pub fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(StdError::source(self), |&cause| cause.source())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("host", &self.inner.host)
            .field("hints", &self.inner.hints)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// What a cause says is to be done, or what is always to be done about it.
fn remedies(cause: &(dyn StdError + Send + Sync + 'static)) -> Vec<String> {
    if let Some(error) = cause.downcast_ref::<Error>() {
        return error.inner.hints.clone();
    }
    let full = cause.downcast_ref::<io::Error>().is_some_and(|cause| {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(cause.kind(), StorageFull | QuotaExceeded)
    });
    match full {
        true => vec![DISK_FULL.to_owned()],
        false => Vec::new(),
    }
}

/// What to do when there is no room for what is written.
const DISK_FULL: &str =
    "free some space (`df -h` and `df -i` tell where), then run the same command again";

/// Gives foreign errors a kind and a message that names the object.
pub trait ResultExt<T> {
    /// Wraps the error as the cause of a new one. The message is only made on
    /// failure.
    fn or_err<M: Into<String>>(self, kind: Kind, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn or_err<M: Into<String>>(self, kind: Kind, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|cause| Error::new(kind, message()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_counts_lines_and_characters_from_one() {
        let snippet = Snippet {
            path: "f".into(),
            text: "a\nüb: c\n".into(),
            span: 4..5,
            label: String::new(),
        };
        assert_eq!(snippet.line_column(), (2, 2));
    }

    #[test]
    fn a_full_disk_says_what_to_do_through_all_layers() {
        let write = || Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull));
        let below = write().or_err(Kind::System, || "cannot write").unwrap_err();
        assert_eq!(below.hints(), [DISK_FULL]);
        let above = Error::new(Kind::Failed, "cannot stage").because(below);
        assert_eq!(above.hints(), [DISK_FULL]);
        let own = Error::new(Kind::Failed, "no").hint("mine").because(above);
        assert_eq!(own.hints(), ["mine"]);
    }

    #[test]
    fn every_kind_has_its_own_code_and_its_name_in_json() {
        let codes: std::collections::BTreeSet<_> = Kind::ALL.map(Kind::exit_code).into();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn causes_are_listed_nearest_first() {
        let error = Error::new(Kind::Failed, "top")
            .because(Error::new(Kind::System, "middle").because(std::io::Error::other("bottom")));
        let causes: Vec<_> = error.causes().map(ToString::to_string).collect();
        assert_eq!(causes, ["middle", "bottom"]);
    }
}
