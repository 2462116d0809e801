//! What a check says, of what, and how it counts.

use std::fmt;

use serde::Serialize;

/// How bad it is when something is not as it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The work would fail: it is refused.
    Error,
    /// The work goes on, and somebody should know.
    Warning,
}

impl Severity {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// What a check says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// All is well.
    Passed {
        /// What was seen, in a few words.
        seen: String,
    },
    /// It is not as it should be.
    Wrong {
        /// What was seen.
        seen: String,
        /// What was expected.
        expected: String,
        /// What to do.
        hint: String,
    },
    /// It could not be looked at. Never counts as passed.
    Unknown {
        /// Why.
        why: String,
    },
    /// There is nothing to look at here.
    NotApplicable {
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// Its name in tables and in JSON.
    pub fn state(&self) -> &'static str {
        match self {
            Outcome::Passed { .. } => "passed",
            Outcome::Wrong { .. } => "wrong",
            Outcome::Unknown { .. } => "unknown",
            Outcome::NotApplicable { .. } => "not-applicable",
        }
    }

    /// Whether it is wrong, or may be.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Outcome::Wrong { .. } | Outcome::Unknown { .. })
    }
}

pub(super) fn passed(seen: impl Into<String>) -> Outcome {
    Outcome::Passed { seen: seen.into() }
}

pub(super) fn wrong(
    seen: impl Into<String>,
    expected: impl Into<String>,
    hint: impl Into<String>,
) -> Outcome {
    Outcome::Wrong {
        seen: seen.into(),
        expected: expected.into(),
        hint: hint.into(),
    }
}

pub(super) fn unknown(why: impl Into<String>) -> Outcome {
    Outcome::Unknown { why: why.into() }
}

pub(super) fn not_applicable(why: impl Into<String>) -> Outcome {
    Outcome::NotApplicable { why: why.into() }
}

/// What a check looked at.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// The cluster as a whole.
    Cluster {},
    /// A host.
    Host {
        /// Its name.
        host: String,
    },
    /// The way from one host to another.
    Between {
        /// The name of the one that sends.
        from: String,
        /// The name of the one that should receive.
        to: String,
    },
}

impl Place {
    /// A host.
    pub fn host(name: impl Into<String>) -> Self {
        Place::Host { host: name.into() }
    }

    /// The way from one host to another.
    pub fn between(from: impl Into<String>, to: impl Into<String>) -> Self {
        Place::Between {
            from: from.into(),
            to: to.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Cluster {} => f.write_str("the cluster"),
            Place::Host { host } => f.write_str(host),
            Place::Between { from, to } => write!(f, "{from} to {to}"),
        }
    }
}

/// What one check said of one place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The check's stable id.
    pub check: &'static str,
    /// How bad it is when it is wrong.
    pub severity: Severity,
    /// Whether somebody said that it does not count.
    pub ignored: bool,
    /// What was looked at.
    #[serde(flatten)]
    pub place: Place,
    /// What it says.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Finding {
    /// Whether the work must not go on.
    pub fn refuses(&self) -> bool {
        self.severity == Severity::Error && self.outcome.is_trouble() && !self.ignored
    }

    /// What it says, without the place: the same text for all places of which it is
    /// the same.
    pub fn says(&self) -> String {
        let text = match &self.outcome {
            Outcome::Passed { seen } => seen.clone(),
            Outcome::Wrong { seen, expected, .. } => format!("{seen} (expected: {expected})"),
            Outcome::Unknown { why } => format!("it could not be looked at: {why}"),
            Outcome::NotApplicable { why } => why.clone(),
        };
        format!("{text} [{}]", self.check)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.says())
    }
}
