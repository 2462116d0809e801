//! Types that are written as text: how they are made from it, why they are not,
//! and how they are serialised. Such a value is checked when it is made and cannot
//! be wrong afterwards.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Snippet;

/// Why a text is not what it should be: a sentence that names the text and says
/// what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    /// `message` is a sentence without a final period.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Invalid(message.into())
    }
}

impl From<Invalid> for crate::error::Error {
    fn from(invalid: Invalid) -> Self {
        crate::error::Error::new(crate::error::Kind::Input, invalid.0)
    }
}

/// A text that a person wrote, as it may be shown.
#[derive(Debug)]
pub(super) struct Source {
    /// What the file is called.
    pub(super) path: String,
    /// Its text, with `*` for what may be a secret.
    pub(super) text: String,
}

/// A place in a text that a person wrote, kept for what can only be checked when
/// more than the text is known.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) source: Arc<Source>,
    pub(super) span: Range<usize>,
}

impl Place {
    /// It for an error.
    pub fn snippet(&self) -> Snippet {
        Snippet {
            path: self.source.path.clone(),
            text: self.source.text.clone(),
            span: self.span.clone(),
            label: String::new(),
        }
    }
}

/// Makes a checked text type out of a check.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:path, $description:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::spec::text::Invalid;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $check(text)?;
                Ok($name(text.to_owned()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        $crate::spec::text::textual!($name, $description);
    };
}

/// Serialisation, deserialisation and schema of a type that is written as text.
macro_rules! textual {
    ($name:ident, $description:literal) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}

pub(super) use {checked_text, textual};
