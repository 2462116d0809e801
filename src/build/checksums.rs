//! Checksum files, as projects publish them beside what they release.
//!
//! Understood are a file that holds a SHA-256 and nothing else; lines of
//! `sha256sum` (`HASH  NAME`, `HASH *NAME`), where `NAME` may have directories
//! before it; and lines of BSD's `sha256` (`SHA256 (NAME) = HASH`). Other lines,
//! such as those of a PGP signature around them, are skipped.

use crate::digest::Digest;

/// The digest that the file's text has for `name`. The error continues the
/// sentence "the checksum file X …".
pub fn find(text: &str, name: &str) -> Result<Digest, String> {
    let lines = || text.lines().filter_map(line);
    let mut named = lines().filter(|(_, other)| other.rsplit('/').next() == Some(name));
    if let Some((digest, _)) = named.next() {
        return match named.all(|(other, _)| other == digest) {
            true => Ok(digest),
            false => Err(format!("has several checksums for `{name}`")),
        };
    }
    let mut words = text.split_whitespace();
    match (words.next().and_then(digest), words.next()) {
        (Some(digest), None) => Ok(digest),
        _ if lines().next().is_some() => Err(format!("has no line for `{name}`")),
        _ => Err("has no SHA-256".to_owned()),
    }
}

fn line(line: &str) -> Option<(Digest, &str)> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("SHA256 (") {
        let (name, hash) = rest.rsplit_once(") = ")?;
        return Some((digest(hash)?, name));
    }
    let (hash, name) = line.split_once([' ', '\t'])?;
    let name = name.trim_start();
    Some((digest(hash)?, name.strip_prefix('*').unwrap_or(name)))
}

fn digest(hash: &str) -> Option<Digest> {
    let hash = hash.strip_prefix("sha256:").unwrap_or(hash);
    format!("sha256:{}", hash.to_ascii_lowercase()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_understood() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let (ha, hb) = (a.hex(), b.hex());
        for (text, name, expected) in [
            (ha.clone(), "x", a),
            (format!("{ha}\n"), "x", a),
            (format!("{a}\n"), "x", a),
            (format!("{}\n", ha.to_uppercase()), "x", a),
            (format!("{ha}  y\n{hb}  x\n"), "x", b),
            (format!("{ha} *./dist/x\n"), "x", a),
            (format!("{ha}\tx"), "x", a),
            (format!("SHA256 (y) = {ha}\nSHA256 (x) = {hb}\n"), "x", b),
            (format!("{ha}  a b\n"), "a b", a),
            (
                format!(
                    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{ha}  x\n-----BEGIN PGP SIGNATURE-----\n"
                ),
                "x",
                a,
            ),
        ] {
            assert_eq!(find(&text, name), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let (ha, hb) = (Digest::of("a").hex(), Digest::of("b").hex());
        for (text, expected) in [
            (String::new(), "has no SHA-256"),
            ("<html>not found</html>".to_owned(), "has no SHA-256"),
            (format!("{ha}{hb}  x\n"), "has no SHA-256"),
            (format!("{ha}  y\n"), "has no line for `x`"),
            (
                format!("{ha}  x\n{hb}  x\n"),
                "has several checksums for `x`",
            ),
        ] {
            assert_eq!(find(&text, "x"), Err(expected.to_owned()), "{text}");
        }
    }
}
