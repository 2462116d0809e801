//! Platforms, as `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

/// What an image runs on, in the words of Go's GOOS and GOARCH, as the OCI image
/// specification asks.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Linux on an architecture in Go's words (`amd64`, `arm64`).
    pub fn linux(architecture: &str) -> Result<Self> {
        format!("linux/{architecture}").parse()
    }

    /// From its parts, as documents have them.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Result<Self> {
        let variant = variant.filter(|variant| !variant.is_empty());
        for word in [os, architecture].into_iter().chain(variant) {
            let fits = (1..=32).contains(&word.len())
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
            if !fits {
                return Err(Error::new(
                    Kind::Input,
                    format!("`{}` is not part of a platform's name", word.escape_debug()),
                )
                .hint("a platform is `os/architecture[/variant]`, such as `linux/amd64`"));
            }
        }
        // `arm64` and `arm64/v8` are the same by the OCI image specification.
        let variant = variant.filter(|variant| !(architecture == "arm64" && *variant == "v8"));
        Ok(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split('/').collect();
        match words.as_slice() {
            [os, architecture] => Platform::new(os, architecture, None),
            [os, architecture, variant] => Platform::new(os, architecture, Some(variant)),
            _ => Err(Error::new(
                Kind::Input,
                format!("`{}` is not a platform", text.escape_debug()),
            )
            .hint("a platform is `os/architecture[/variant]`, such as `linux/amd64`")),
        }
    }
}

impl serde::Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_words_between_slashes() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        assert_eq!(
            "linux/arm64/v8".parse::<Platform>().unwrap(),
            Platform::linux("arm64").unwrap()
        );
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/a/b/c",
            "linux/../x",
            "linux/a b",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
