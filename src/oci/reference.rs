//! Names of images, as docker and the distribution project write them:
//! `[registry/]repository[:tag][@digest]`.
//!
//! The grammar is that of github.com/distribution/reference; what it leaves
//! open is completed as docker does: no registry is `docker.io`, one word on
//! docker.io is below `library/`, neither tag nor digest is `:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

const DOCKER: &str = "docker.io";
const LATEST: &str = "latest";

/// A name of an image, complete: it has a registry, a repository, and a tag or a
/// digest or both.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host name or address, with its port if one was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry, such as `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Not `None` unless there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository at a digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same name without its digest; a reference without a tag gets `latest`.
    pub fn without_digest(&self) -> Self {
        let tag = self.tag.clone().unwrap_or_else(|| LATEST.to_owned());
        Reference {
            tag: Some(tag),
            digest: None,
            ..self.clone()
        }
    }

    /// What a person types: without what docker would complete.
    pub fn familiar(&self) -> String {
        let short = match self.repository.strip_prefix("library/") {
            Some(word) if !word.contains('/') => word,
            _ => &self.repository,
        };
        // `docker.io/localhost/a` must keep its registry, or `localhost` would become it.
        let completed = split_name(short).is_ok_and(|(registry, repository)| {
            registry == self.registry && repository == self.repository
        });
        let mut text = if completed {
            short.to_owned()
        } else {
            self.name()
        };
        match (&self.tag, &self.digest) {
            (Some(tag), None) if tag == LATEST => {}
            (tag, digest) => push_ends(&mut text, tag.as_deref(), *digest),
        }
        text
    }
}

fn push_ends(text: &mut String, tag: Option<&str>, digest: Option<Digest>) {
    if let Some(tag) = tag {
        text.push(':');
        text.push_str(tag);
    }
    if let Some(digest) = digest {
        text.push('@');
        text.push_str(&digest.to_string());
    }
}

impl fmt::Display for Reference {
    /// Fully qualified.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        push_ends(&mut text, self.tag(), self.digest);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|problem| {
            Error::new(
                Kind::Input,
                format!("`{}` is not an image reference: {problem}", text.escape_debug()),
            )
            .hint("a reference is `[registry/]repository[:tag][@sha256:digest]`, such as `registry.k8s.io/pause:3.10.1`")
        })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|error: Error| error.message().to_owned())?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, repository) = split_name(name)?;
    let tag = match (tag, &digest) {
        (None, None) => Some(LATEST.to_owned()),
        (tag, _) => tag,
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

fn split_name(name: &str) -> Result<(String, String), String> {
    if name.is_empty() {
        return Err("the repository is missing".into());
    }
    if name.len() == 64 && name.bytes().all(is_lower_hex) {
        return Err("64 hex digits look like a digest; write `sha256:` before them".into());
    }
    // As docker: the first word is a registry only when it cannot be a repository.
    let is_registry = |word: &str| {
        word.contains(['.', ':', '['])
            || word == "localhost"
            || word.bytes().any(|c| c.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
        _ => (DOCKER, name.to_owned()),
    };
    let registry = if registry == "index.docker.io" {
        DOCKER
    } else {
        registry
    };
    check_registry(registry)?;
    check_repository(&repository)?;
    let repository = if registry == DOCKER && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository
    };
    if registry.len() + 1 + repository.len() > 255 {
        return Err("the name is longer than 255 characters".into());
    }
    Ok((registry.to_owned(), repository))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let refuse = || Err(format!("`{}` is not a registry", registry.escape_debug()));
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                None,
                port.strip_prefix(':').or((!port.is_empty()).then_some("")),
            ),
            _ => return refuse(),
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return refuse();
    }
    // `u16::from_str` would accept a sign.
    if port.is_some_and(|port| {
        !port.bytes().all(|c| c.is_ascii_digit()) || port.parse::<u16>().is_err()
    }) {
        return refuse();
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<(), String> {
    for word in repository.split('/') {
        if !is_path_component(word) {
            return Err(format!(
                "`{}` is not a repository",
                repository.escape_debug()
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+ ( ( '.' | '_' | '__' | '-'+ ) [a-z0-9]+ )*`
fn is_path_component(word: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    word.starts_with(is_letter)
        && word.ends_with(is_letter)
        && word.split(is_letter).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
        })
}

fn check_tag(tag: &str) -> Result<String, String> {
    let mut bytes = tag.bytes();
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if tag.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|c| is_word(c) || c == b'.' || c == b'-')
    {
        return Ok(tag.to_owned());
    }
    Err(format!("`{}` is not a tag", tag.escape_debug()))
}

fn is_lower_hex(c: u8) -> bool {
    matches!(c, b'0'..=b'9' | b'a'..=b'f')
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_completed_as_docker_does() {
        for (typed, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox"),
            (
                "busybox:1.37",
                "docker.io/library/busybox:1.37",
                "busybox:1.37",
            ),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox",
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b"),
            ("a/b:x", "docker.io/a/b:x", "a/b:x"),
            ("localhost/a", "localhost/a:latest", "localhost/a"),
            (
                "localhost:5000/a:1",
                "localhost:5000/a:1",
                "localhost:5000/a:1",
            ),
            (
                "127.0.0.1:6500/a",
                "127.0.0.1:6500/a:latest",
                "127.0.0.1:6500/a",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"),
            ("[fd00::1]/a", "[fd00::1]/a:latest", "[fd00::1]/a"),
            (
                "registry.k8s.io/coredns/coredns:v1.12.1",
                "registry.k8s.io/coredns/coredns:v1.12.1",
                "registry.k8s.io/coredns/coredns:v1.12.1",
            ),
            (
                "docker.io/localhost/a",
                "docker.io/localhost/a:latest",
                "docker.io/localhost/a",
            ),
            (
                "docker.io/library/localhost",
                "docker.io/library/localhost:latest",
                "localhost",
            ),
            ("FOO/bar", "FOO/bar:latest", "FOO/bar"),
            (
                "a__b/c-----d/e.f_g",
                "docker.io/a__b/c-----d/e.f_g:latest",
                "a__b/c-----d/e.f_g",
            ),
        ] {
            let reference: Reference = typed.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{typed}");
            assert_eq!(reference.familiar(), familiar, "{typed}");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_tag_or_stands_beside_it() {
        let only: Reference = format!("quay.io/a/b@{DIGEST}").parse().unwrap();
        assert_eq!(only.tag(), None);
        assert_eq!(only.to_string(), format!("quay.io/a/b@{DIGEST}"));
        let both: Reference = format!("b:1@{DIGEST}").parse().unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.to_string(), format!("docker.io/library/b:1@{DIGEST}"));
        assert_eq!(both.familiar(), format!("b:1@{DIGEST}"));
        let latest: Reference = format!("b:latest@{DIGEST}").parse().unwrap();
        assert_eq!(latest.familiar(), format!("b:latest@{DIGEST}"));
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":1",
            "/a",
            "a/",
            "a//b",
            "A",
            "a/B",
            "a:",
            "a:-x",
            "a b",
            "a\0",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a@",
            "a@sha256:00",
            "a@md5:00",
            "a@sha256",
            "x.y:/a",
            "x.y:99999/a",
            "x.y:+80/a",
            "x..y/a",
            "-x.y/a",
            "[::1/a",
            "[::1]x/a",
            "[::1]:/a",
            "[zz]/a",
            "https://a/b",
            "a.b/",
            "ü",
            &long,
            &tag,
            &DIGEST[7..],
            &format!("a@{DIGEST}@{DIGEST}"),
            &format!("a@{DIGEST}:x"),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_full_and_the_familiar_form_mean_the_same(
            registry in "((([a-z0-9]{1,5}\\.[a-z]{2,3})|localhost)(:[1-9][0-9]{0,3})?/)?",
            repository in "[a-z0-9]{1,5}([_-][a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}([._-][a-z0-9]{1,4}){0,2}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let mut text = format!("{registry}{repository}");
            push_ends(&mut text, tag.as_deref(), digest.map(Digest::of));
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            }
        }
    }
}
