//! The path of an entry.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

/// The longest path, in bytes; Linux' PATH_MAX.
const MAX_PATH: usize = 4096;
/// The longest name, in bytes; Linux' NAME_MAX.
const MAX_NAME: usize = 255;
/// The deepest path, in names. Deeper trees are attacks on recursive programs.
const MAX_DEPTH: usize = 128;

/// A path below a layer's root, normalised: UTF-8, relative, not empty, without
/// `.`, `..`, doubled or trailing slashes, and without control characters. Ordered
/// by bytes, so a directory comes before what is in it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EntryPath(String);

impl EntryPath {
    /// The path as text, such as `usr/bin/kubelet`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directory that the entry is in; `None` for one at the top.
    pub fn parent(&self) -> Option<EntryPath> {
        self.0
            .rsplit_once('/')
            .map(|(parent, _)| EntryPath(parent.to_owned()))
    }

    /// Normalises a path of an archive: `./a//b/` is `a/b`, and the archive's
    /// root, such as `./`, is `None`. An absolute path and one that climbs are
    /// refused, not repaired.
    pub(super) fn from_archive(path: &[u8]) -> Result<Option<EntryPath>, String> {
        let path = std::str::from_utf8(path).map_err(|_| "the path is not UTF-8".to_owned())?;
        if path.starts_with('/') {
            return Err("the path is absolute".into());
        }
        let names: Vec<_> = path
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .collect();
        if names.is_empty() {
            return match path {
                "" => Err("the path is empty".into()),
                _ => Ok(None),
            };
        }
        let path = names.join("/");
        check(&path)?;
        Ok(Some(EntryPath(path)))
    }
}

fn check(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("the path is longer than {MAX_PATH} bytes"));
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character".into());
    }
    let mut depth = 0;
    for name in path.split('/') {
        depth += 1;
        match name {
            "" => return Err("the path is empty, absolute, or has an empty name".into()),
            "." | ".." => return Err(format!("the path has a `{name}`")),
            name if name.len() > MAX_NAME => {
                return Err(format!("the path has a name of more than {MAX_NAME} bytes"));
            }
            _ => {}
        }
    }
    if depth > MAX_DEPTH {
        return Err(format!("the path is more than {MAX_DEPTH} names deep"));
    }
    Ok(())
}

impl FromStr for EntryPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check(text).map_err(|problem| {
            Error::new(
                Kind::Input,
                format!("`{}` cannot be in a layer: {problem}", text.escape_debug()),
            )
        })?;
        Ok(EntryPath(text.to_owned()))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for EntryPath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl std::borrow::Borrow<str> for EntryPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for EntryPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for EntryPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
