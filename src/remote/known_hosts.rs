//! `known_hosts` as sshd(8), section "SSH_KNOWN_HOSTS FILE FORMAT", describes it:
//! `[@marker] hosts key-type base64-key [comment]`, where hosts is a
//! comma-separated list of patterns (`*`, `?`, `!`, `[host]:port`) or one
//! hashed name (`|1|salt|hash`, HMAC-SHA1).
//!
//! Stricter than OpenSSH: a line that names our host and cannot be understood is
//! an error, where OpenSSH skips it. A key that is revoked on any line is refused
//! whatever other lines say.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use russh::keys::PublicKey;
use sha1::Sha1;

use crate::error::{Error, Kind, Result, ResultExt};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

/// Where a line stands, for messages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// What the files say of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    keys: Vec<(PublicKey, Place)>,
    revoked: Vec<(PublicKey, Place)>,
    authorities: Vec<Place>,
}

/// What that means for the key that a host shows.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is listed.
    Trusted,
    /// The host is not listed, or only by an authority that chasi cannot use.
    Unknown {
        /// The first `@cert-authority` line that names the host.
        authority: Option<Place>,
    },
    /// The host is listed with other keys.
    Changed(Place),
    /// The key is listed as revoked.
    Revoked(Place),
}

impl Known {
    /// Reads what the files say of `host` at `port`. A file that does not exist
    /// says nothing.
    pub fn read(paths: &[PathBuf], host: &str, port: u16) -> Result<Known> {
        let mut known = Known::default();
        for path in paths {
            match std::fs::metadata(path) {
                Ok(metadata) if metadata.len() > LARGEST_FILE => {
                    let message = format!("`{}` is larger than 16 MiB", path.display());
                    return Err(Error::new(Kind::Input, message));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                _ => {}
            }
            let text = std::fs::read(path)
                .or_err(Kind::Input, || format!("cannot read `{}`", path.display()))?;
            known.add(path, &String::from_utf8_lossy(&text), host, port)?;
        }
        Ok(known)
    }

    fn add(&mut self, path: &Path, text: &str, host: &str, port: u16) -> Result<()> {
        // OpenSSH writes and looks up names in lower case.
        let name = match port {
            super::DEFAULT_PORT => host.to_ascii_lowercase(),
            port => format!("[{}]:{port}", host.to_ascii_lowercase()),
        };
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                path: path.to_owned(),
                line: index + 1,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.add_line(line, &name, place)?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &str, name: &str, place: Place) -> Result<()> {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next().unwrap_or_default();
        let (marker, hosts) = match first.strip_prefix('@') {
            Some(marker) => (Some(marker), fields.next().unwrap_or_default()),
            None => (None, first),
        };
        if !hosts_match(hosts, name) {
            return Ok(());
        }
        let key = match (fields.next(), fields.next()) {
            (Some(kind), Some(base64)) => parse_key(kind, base64, &place)?,
            _ => return Err(malformed(&place, "the key is missing")),
        };
        match marker {
            None => self.keys.push((key, place)),
            Some("revoked") => self.revoked.push((key, place)),
            Some("cert-authority") => self.authorities.push(place),
            Some(_) => return Err(malformed(&place, "the marker is unknown")),
        }
        Ok(())
    }

    /// Judges the key that the host shows.
    pub fn judge(&self, key: &PublicKey) -> Verdict {
        let find = |list: &[(PublicKey, Place)]| {
            list.iter()
                .find(|(listed, _)| listed.key_data() == key.key_data())
                .map(|(_, place)| place.clone())
        };
        if let Some(place) = find(&self.revoked) {
            return Verdict::Revoked(place);
        }
        if find(&self.keys).is_some() {
            return Verdict::Trusted;
        }
        match self.keys.first() {
            Some((_, place)) => Verdict::Changed(place.clone()),
            None => Verdict::Unknown {
                authority: self.authorities.first().cloned(),
            },
        }
    }

    /// The names of the key types that are listed for the host, so that it can
    /// be asked for one of those.
    pub fn key_types(&self) -> impl Iterator<Item = russh::keys::Algorithm> {
        self.keys.iter().map(|(key, _)| key.algorithm())
    }
}

fn malformed(place: &Place, what: &str) -> Error {
    Error::new(Kind::Input, format!("`{place}`: {what}"))
        .hint("correct or remove the line; it has the form `host key-type base64-key`")
}

fn parse_key(kind: &str, base64: &str, place: &Place) -> Result<PublicKey> {
    let bytes = BASE64
        .decode(base64)
        .map_err(|error| malformed(place, "the key is not base64").because(error))?;
    let key = russh::keys::key::parse_public_key(&bytes)
        .map_err(|error| malformed(place, "the key cannot be read").because(error))?;
    if key.algorithm().as_str() != kind {
        return Err(malformed(
            place,
            "the key is not of the type that the line says",
        ));
    }
    Ok(key)
}

/// Whether the list of patterns, or the hashed name, means `name`. A negated
/// pattern that matches wins over all others.
fn hosts_match(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        return hash_matches(hashed, name).unwrap_or(false);
    }
    let mut matched = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(negated) if pattern_matches(negated, name) => return false,
            Some(_) => {}
            None => matched |= pattern_matches(pattern, name),
        }
    }
    matched
}

fn hash_matches(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let (salt, hash) = (BASE64.decode(salt).ok()?, BASE64.decode(hash).ok()?);
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&hash).is_ok())
}

/// `*` is any text, `?` is any one character; case does not count. Linear in
/// memory and at most quadratic in time, whatever the pattern.
fn pattern_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go back to: behind the last `*`, and what it has swallowed so far.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((behind, swallowed)) => {
                    retry = Some((behind, swallowed + 1));
                    p = behind;
                    n = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2pr+Bfus1hvPof4Wb/plZCzSbqadHH0u+/f4ODtKnE";

    fn key(line: &str) -> PublicKey {
        PublicKey::from_openssh(line).unwrap()
    }

    fn read(text: &str, host: &str, port: u16) -> Result<Known> {
        let mut known = Known::default();
        known.add(Path::new("known_hosts"), text, host, port)?;
        Ok(known)
    }

    fn judge(text: &str, host: &str, port: u16) -> Verdict {
        read(text, host, port).unwrap().judge(&key(ED))
    }

    fn place(line: usize) -> Place {
        Place {
            path: "known_hosts".into(),
            line,
        }
    }

    #[test]
    fn plain_names_lists_and_ports() {
        assert_eq!(
            judge(&format!("a,10.0.0.1 {ED}"), "10.0.0.1", 22),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("# c\n\n A  {ED} me@home"), "a", 22),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("[a]:2222 {ED}"), "a", 2222),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("[fd00::1]:2222 {ED}"), "fd00::1", 2222),
            Verdict::Trusted
        );
        let unknown = Verdict::Unknown { authority: None };
        assert_eq!(judge(&format!("a {ED}"), "a", 2222), unknown);
        assert_eq!(judge(&format!("[a]:2222 {ED}"), "a", 22), unknown);
        assert_eq!(judge("", "a", 22), unknown);
    }

    #[test]
    fn wildcards_and_negation() {
        assert_eq!(
            judge(
                &format!("*.example.org,!x.example.org {ED}"),
                "y.example.org",
                22
            ),
            Verdict::Trusted
        );
        assert_ne!(
            judge(
                &format!("*.example.org,!x.example.org {ED}"),
                "x.example.org",
                22
            ),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("10.0.?.* {ED}"), "10.0.7.31", 22),
            Verdict::Trusted
        );
        assert!(!pattern_matches("10.0.?.*", "10.0.17.31"));
        assert!(pattern_matches("*a*b", "xxaxxab"));
        assert!(!pattern_matches("*a*b", "xxaxxabc"));
        assert!(!pattern_matches("", "a"));
    }

    #[test]
    fn a_pattern_made_to_take_long_does_not() {
        let pattern = "*a".repeat(2000) + "b";
        assert!(!pattern_matches(&pattern, &"a".repeat(4000)));
    }

    #[test]
    fn hashed_names() {
        for (name, host, port) in [("a", "a", 22), ("[a]:2222", "a", 2222)] {
            let salt = [7u8; 20];
            let mut mac = Hmac::<Sha1>::new_from_slice(&salt).unwrap();
            mac.update(name.as_bytes());
            let hash = BASE64.encode(mac.finalize().into_bytes());
            let line = format!("|1|{}|{hash} {ED}", BASE64.encode(salt));
            assert_eq!(judge(&line, host, port), Verdict::Trusted);
            assert_eq!(
                judge(&line, "b", port),
                Verdict::Unknown { authority: None }
            );
        }
        assert_eq!(
            judge(&format!("|1|x|y {ED}"), "a", 22),
            Verdict::Unknown { authority: None }
        );
    }

    #[test]
    fn one_of_several_keys_is_enough_and_a_different_one_is_a_change() {
        assert_eq!(
            judge(&format!("a {OTHER}\na {ED}"), "a", 22),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("b {ED}\na {OTHER}"), "a", 22),
            Verdict::Changed(place(2))
        );
    }

    #[test]
    fn revocation_wins() {
        assert_eq!(
            judge(&format!("a {ED}\n@revoked * {ED}"), "a", 22),
            Verdict::Revoked(place(2))
        );
    }

    #[test]
    fn an_authority_is_not_a_key() {
        let authority = Verdict::Unknown {
            authority: Some(place(1)),
        };
        assert_eq!(
            judge(&format!("@cert-authority * {ED}"), "a", 22),
            authority
        );
    }

    #[test]
    fn a_damaged_line_is_an_error_when_it_is_ours() {
        for line in [
            "a".to_owned(),
            "a ssh-ed25519".to_owned(),
            "a ssh-ed25519 !!!".to_owned(),
            "a ssh-ed25519 AAAA".to_owned(),
            ED.replacen("ssh-ed25519", "a ssh-rsa", 1),
            format!("@what a {ED}"),
        ] {
            let error = read(&line, "a", 22).unwrap_err();
            assert_eq!(error.kind(), Kind::Input, "{line}");
            assert!(error.message().starts_with("`known_hosts:1`"), "{line}");
            assert!(read(&line, "b", 22).is_ok(), "{line}");
        }
    }
}
