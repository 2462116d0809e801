//! What a request to the registry asks for: the paths of the OCI distribution
//! specification, in two spellings.
//!
//! containerd, told to use the registry as a mirror, sends
//! `/v2/<repository>/…?ns=<registry>` (`core/remotes/docker/resolver.go`).
//! Other clients put the original registry first: `/v2/<registry>/<repository>/…`.

use std::fmt;

use crate::digest::Digest;
use crate::oci::Reference;

/// Longer paths and name spaces cannot name anything: a name has at most 255
/// characters, a tag 128.
const LONGEST: usize = 512;

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Whether this is a registry at all: `/v2/`.
    Version,
    /// A manifest or an index by the name that it had in its registry.
    Tagged(Reference),
    /// A manifest or an index by its digest, in the repository that the
    /// reference names.
    Manifest(Reference, Digest),
    /// Any content by its digest, in the repository that the reference names.
    Blob(Reference, Digest),
    /// The tags of the repository that the reference names.
    Tags(Reference),
}

/// Why a request cannot be understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// No path of the specification.
    Path,
    /// The repository is not one.
    Name,
    /// The tag is not one.
    Tag,
    /// The digest is not a SHA-256 digest.
    Digest,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Path => "no such path",
            Malformed::Name => "this is not a repository",
            Malformed::Tag => "this is not a tag",
            Malformed::Digest => "this is not a SHA-256 digest",
        })
    }
}

impl Target {
    /// Understands a request's path and query.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, Malformed> {
        let rest = path.strip_prefix("/v2").ok_or(Malformed::Path)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Target::Version);
        }
        let rest = rest.strip_prefix('/').ok_or(Malformed::Path)?;
        if rest.len() > LONGEST {
            return Err(Malformed::Name);
        }
        let namespace = namespace(query)?;
        let (rest, last) = rest.rsplit_once('/').ok_or(Malformed::Path)?;
        let (name, kind) = rest.rsplit_once('/').ok_or(Malformed::Path)?;
        let name = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        // The digest that follows keeps the parser from adding `:latest`, and
        // from seeing a port's colon as the beginning of a tag.
        let repository = || -> Result<Reference, Malformed> {
            let any = Digest::of("");
            format!("{name}@{any}")
                .parse::<Reference>()
                .ok()
                .filter(|reference| reference.tag().is_none())
                .ok_or(Malformed::Name)
        };
        let digest = || last.parse::<Digest>().map_err(|_| Malformed::Digest);
        match (kind, last) {
            ("tags", "list") => Ok(Target::Tags(repository()?)),
            ("blobs", _) => Ok(Target::Blob(repository()?, digest()?)),
            ("manifests", _) if last.contains(':') => {
                Ok(Target::Manifest(repository()?, digest()?))
            }
            ("manifests", _) => {
                repository()?;
                let tagged: Reference = format!("{name}:{last}")
                    .parse()
                    .map_err(|_| Malformed::Tag)?;
                Ok(Target::Tagged(tagged))
            }
            _ => Err(Malformed::Path),
        }
    }
}

/// The original registry, when the client sends it apart.
fn namespace(query: Option<&str>) -> Result<Option<String>, Malformed> {
    let query = query.unwrap_or_default();
    if query.len() > LONGEST {
        return Err(Malformed::Name);
    }
    let found = form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "ns")
        .map(|(_, value)| value.into_owned());
    match found {
        Some(namespace) if namespace.contains(['/', '@']) => Err(Malformed::Name),
        found => Ok(found.filter(|namespace| !namespace.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(target: &str) -> Result<Target, Malformed> {
        match target.split_once('?') {
            Some((path, query)) => Target::parse(path, Some(query)),
            None => Target::parse(target, None),
        }
    }

    #[test]
    fn containerds_and_plain_requests_ask_for_the_same() {
        let digest = Digest::of("x");
        let reference: Reference = "localhost:5000/a/b:1.0".parse().unwrap();
        for target in [
            "/v2/a/b/manifests/1.0?ns=localhost%3A5000",
            "/v2/localhost:5000/a/b/manifests/1.0",
        ] {
            assert_eq!(
                parse(target),
                Ok(Target::Tagged(reference.clone())),
                "{target}"
            );
        }
        for target in [
            format!("/v2/pause/blobs/{digest}?ns=registry.k8s.io&x=y"),
            format!("/v2/registry.k8s.io/pause/blobs/{digest}"),
        ] {
            let Ok(Target::Blob(repository, found)) = parse(&target) else {
                panic!("{target}");
            };
            assert_eq!(
                (repository.name().as_str(), found),
                ("registry.k8s.io/pause", digest)
            );
        }
    }

    #[test]
    fn names_of_docker_io_are_completed() {
        for target in [
            "/v2/library/busybox/manifests/1.37?ns=docker.io",
            "/v2/docker.io/library/busybox/manifests/1.37",
            "/v2/docker.io/busybox/manifests/1.37",
        ] {
            let reference = "busybox:1.37".parse().unwrap();
            assert_eq!(parse(target), Ok(Target::Tagged(reference)), "{target}");
        }
    }

    #[test]
    fn the_other_paths_of_the_specification() {
        assert_eq!(parse("/v2"), Ok(Target::Version));
        assert_eq!(parse("/v2/"), Ok(Target::Version));
        let digest = Digest::of("x");
        assert!(matches!(
            parse(&format!("/v2/a.b/c/manifests/{digest}")),
            Ok(Target::Manifest(_, found)) if found == digest
        ));
        // A repository may be called as a part of a path is.
        let Ok(Target::Tags(repository)) = parse("/v2/a.b/tags/manifests/tags/list") else {
            panic!();
        };
        assert_eq!(repository.repository(), "tags/manifests");
    }

    #[test]
    fn what_cannot_be_understood_says_which_part() {
        let long = "a".repeat(600);
        for (target, problem) in [
            ("", Malformed::Path),
            ("/", Malformed::Path),
            ("/v1/", Malformed::Path),
            ("/v22/a/manifests/1", Malformed::Path),
            ("/v2//", Malformed::Path),
            ("/v2/a", Malformed::Path),
            ("/v2/manifests/1", Malformed::Path),
            ("/v2/a/uploads/1", Malformed::Path),
            ("/v2/a/blobs/uploads/", Malformed::Path),
            ("/v2//manifests/1", Malformed::Name),
            ("/v2/../../etc/manifests/passwd", Malformed::Name),
            ("/v2/a%2fb/manifests/1", Malformed::Name),
            ("/v2/a@b/manifests/1", Malformed::Name),
            ("/v2/a:b/manifests/1", Malformed::Name),
            ("/v2/a/manifests/1?ns=b.c/d", Malformed::Name),
            ("/v2/a/manifests/1?ns=%00", Malformed::Name),
            ("/v2/a/manifests/", Malformed::Tag),
            ("/v2/a/manifests/-1", Malformed::Tag),
            ("/v2/a/manifests/1%00", Malformed::Tag),
            ("/v2/a/manifests/sha256:00", Malformed::Digest),
            ("/v2/a/manifests/sha512:00", Malformed::Digest),
            ("/v2/a/blobs/latest", Malformed::Digest),
            (&format!("/v2/{long}/manifests/1"), Malformed::Name),
            (&format!("/v2/a/manifests/1?ns={long}"), Malformed::Name),
        ] {
            assert_eq!(parse(target), Err(problem), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_the_parser_panic(path in "/v2/[ -~]{0,60}", query in ".{0,40}") {
            let _ = Target::parse(&path, Some(&query));
        }
    }
}
