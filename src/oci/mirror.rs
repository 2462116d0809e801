//! Mirrors: where to go instead.
//!
//! A rule replaces a prefix. `FROM` is the prefix of a URL when it has a scheme
//! (`https://dl.k8s.io`), and otherwise that of an image reference, from the
//! registry on (`registry.k8s.io`, `docker.io/library`). The longest prefix that
//! ends at a `/` wins; there is no second try elsewhere. What an image is called
//! does not change, only where it comes from.

use super::Reference;
use crate::error::{Error, Kind, Result};

/// Rules, the longest prefix first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mirrors {
    urls: Vec<(String, String)>,
    references: Vec<(String, Location)>,
}

/// Where an image is fetched from or sent to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Location {
    /// The host, with its port if there is one.
    pub host: String,
    /// The path on the host below `/v2/`; as a rule's target it may be empty.
    pub repository: String,
    /// Whether plain HTTP was asked for.
    pub plain_http: bool,
}

impl Mirrors {
    /// No rules.
    pub fn new() -> Self {
        Mirrors::default()
    }

    /// Adds a rule `FROM=TO`, as on the command line.
    pub fn add_rule(&mut self, rule: &str) -> Result<()> {
        let (from, to) = rule.split_once('=').ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{rule}` is not a mirror"))
                .hint("a mirror is `FROM=TO`, such as `docker.io=registry.example.com/hub`")
        })?;
        self.add(from, to)
    }

    /// Adds a rule. A later one with the same `from` replaces the earlier one.
    pub fn add(&mut self, from: &str, to: &str) -> Result<()> {
        let from = from.trim_end_matches('/');
        let to = to.trim_end_matches('/');
        let refuse = |what: &str| {
            Error::new(Kind::Input, format!("the mirror from `{from}` to `{to}` cannot be used: {what}"))
                .hint("both are URLs, or both are prefixes of image references; `http://` before the second asks for plain HTTP")
        };
        if from.is_empty() || to.is_empty() {
            return Err(refuse("a part is empty"));
        }
        if from.contains("://") {
            if !is_url(from) || !is_url(to) {
                return Err(refuse(
                    "it has a scheme, so both must be `http://` or `https://` URLs",
                ));
            }
            replace(&mut self.urls, from, to.to_owned());
        } else {
            let location =
                location(to).ok_or_else(|| refuse("the second is not a registry with a path"))?;
            // Two more words make a prefix a reference that docker would not complete.
            let prefix: Reference = format!("{from}/x/x")
                .parse()
                .map_err(|_| refuse("the first is not a registry with a path"))?;
            let prefix = prefix.name();
            let prefix = prefix.strip_suffix("/x/x").unwrap_or(&prefix);
            replace(&mut self.references, prefix, location);
        }
        Ok(())
    }

    /// Where a URL's content is.
    pub fn url(&self, url: &str) -> String {
        for (from, to) in &self.urls {
            if let Some(rest) = below(url, from) {
                return format!("{to}{rest}");
            }
        }
        url.to_owned()
    }

    /// Where an image is.
    pub fn location(&self, reference: &Reference) -> Location {
        let name = reference.name();
        for (from, to) in &self.references {
            if let Some(rest) = below(&name, from) {
                let repository = format!("{}{rest}", to.repository);
                return Location {
                    repository: repository.trim_start_matches('/').to_owned(),
                    ..to.clone()
                };
            }
        }
        Location {
            host: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            plain_http: false,
        }
    }
}

fn replace<T>(rules: &mut Vec<(String, T)>, from: &str, to: T) {
    rules.retain(|(earlier, _)| earlier != from);
    rules.push((from.to_owned(), to));
    rules.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
}

/// What follows the prefix, if `text` is it or is below it.
fn below<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace)
    })
}

fn location(to: &str) -> Option<Location> {
    let (plain_http, rest) = match to.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        Some(_) => return None,
        None => (false, to),
    };
    // A target always begins with a host, also one that looks like a repository.
    let host = rest.split('/').next().unwrap_or_default();
    let probe: Reference = format!("{}/x", rest.replacen(host, "host.invalid", 1))
        .parse()
        .ok()?;
    let host_is_valid = format!("{host}:1/x").parse::<Reference>().is_ok()
        || format!("{host}/x").parse::<Reference>().is_ok();
    if !host_is_valid {
        return None;
    }
    let repository = probe.repository().strip_suffix("/x").unwrap_or_default();
    Some(Location {
        host: host.to_owned(),
        repository: repository.to_owned(),
        plain_http,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(rules: &[&str]) -> Mirrors {
        let mut mirrors = Mirrors::new();
        for rule in rules {
            mirrors.add_rule(rule).unwrap();
        }
        mirrors
    }

    #[test]
    fn the_longest_prefix_that_ends_at_a_slash_wins() {
        let mirrors = mirrors(&[
            "docker.io=http://127.0.0.1:5000/hub",
            "docker.io/library=official.example.com",
            "registry.k8s.io=https://mirror.example.com:8443/k8s/io/",
            "docker.io/library/busybox=localhost:5001/bb",
        ]);
        for (reference, host, repository, plain_http) in [
            ("a/b:1", "127.0.0.1:5000", "hub/a/b", true),
            ("debian", "official.example.com", "debian", false),
            ("busybox:1.37", "localhost:5001", "bb", false),
            ("busybox2", "official.example.com", "busybox2", false),
            ("libraryx/a", "127.0.0.1:5000", "hub/libraryx/a", true),
            (
                "registry.k8s.io/coredns/coredns:v1",
                "mirror.example.com:8443",
                "k8s/io/coredns/coredns",
                false,
            ),
            (
                "registry.k8s.io.evil.com/x",
                "registry.k8s.io.evil.com",
                "x",
                false,
            ),
            ("quay.io/a", "quay.io", "a", false),
        ] {
            let expected = Location {
                host: host.into(),
                repository: repository.into(),
                plain_http,
            };
            assert_eq!(
                mirrors.location(&reference.parse().unwrap()),
                expected,
                "{reference}"
            );
        }
    }

    #[test]
    fn urls_are_replaced_too() {
        let mirrors = mirrors(&[
            "https://dl.k8s.io=http://127.0.0.1:1234/dl.k8s.io",
            "https://dl.k8s.io/ci/=https://ci.example.com",
        ]);
        for (url, expected) in [
            (
                "https://dl.k8s.io/v1/kubectl",
                "http://127.0.0.1:1234/dl.k8s.io/v1/kubectl",
            ),
            ("https://dl.k8s.io", "http://127.0.0.1:1234/dl.k8s.io"),
            (
                "https://dl.k8s.io?x=1",
                "http://127.0.0.1:1234/dl.k8s.io?x=1",
            ),
            ("https://dl.k8s.io/ci/x", "https://ci.example.com/x"),
            (
                "https://dl.k8s.io.evil.com/x",
                "https://dl.k8s.io.evil.com/x",
            ),
            ("http://dl.k8s.io/x", "http://dl.k8s.io/x"),
        ] {
            assert_eq!(mirrors.url(url), expected);
        }
    }

    #[test]
    fn a_later_rule_replaces_an_earlier_one() {
        let mirrors = mirrors(&["quay.io=a.example.com", "quay.io/=b.example.com"]);
        assert_eq!(
            mirrors.location(&"quay.io/x/y".parse().unwrap()).host,
            "b.example.com"
        );
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for rule in [
            "docker.io",
            "=x",
            "x=",
            "https://a=b.example.com",
            "a.b=ftp://c",
            "a.b=http:///x",
            "A B=c.d",
            "a.b=c.d/X Y",
            "https://a=http://",
            "a.b=http://c.d/../e",
        ] {
            assert!(Mirrors::new().add_rule(rule).is_err(), "{rule}");
        }
    }
}
