//! Values of flags and arguments, once their variables are replaced.

use std::ops::Range;

use super::evaluate::{Checksum, Destination};
use super::words::{Flaw, Spanned};

/// Permission bits, in octal.
pub fn mode(text: Spanned<String>) -> Result<u32, Flaw> {
    let digits = text.value.strip_prefix("0o").unwrap_or(&text.value);
    let octal = matches!(digits.len(), 3 | 4) && digits.bytes().all(|digit| digit.is_ascii_digit());
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        Ok(mode) if octal && mode <= 0o7777 => Err(Flaw::new(
            "set-user-id, set-group-id and sticky bits are not carried",
            text.span,
            format!("write `--chmod={:04o}`", mode & 0o777),
        )),
        _ => Err(Flaw::new(
            format!("`{}` is not a mode", text.value),
            text.span,
            "write three or four octal digits, such as `--chmod=0755`",
        )),
    }
}

/// `UID:GID`, or one number for both.
pub fn owner(text: Spanned<String>) -> Result<(u32, u32), Flaw> {
    let (user, group) = text
        .value
        .split_once(':')
        .unwrap_or((&text.value, &text.value));
    match (user.parse(), group.parse()) {
        (Ok(user), Ok(group)) => Ok((user, group)),
        _ => Err(Flaw::new(
            format!("`{}` is not an owner", text.value),
            text.span,
            "write numbers, `--chown=USER:GROUP`: names mean other numbers on other hosts",
        )),
    }
}

/// A digest, or the URL of a checksum file.
pub fn checksum(text: Spanned<String>) -> Result<Checksum, Flaw> {
    if text.value.starts_with("http://") || text.value.starts_with("https://") {
        return Ok(Checksum::Url(url(&text.value, &text.span)?));
    }
    text.value.parse().map(Checksum::Digest).map_err(|_| {
        Flaw::new(
            format!("`{}` is not a checksum", text.value),
            text.span,
            "write `--checksum=sha256:` and 64 hex digits, or the URL of a checksum file",
        )
    })
}

/// Checks what can be checked of a URL without parsing it.
pub fn url(text: &str, span: &Range<usize>) -> Result<String, Flaw> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Flaw::new(
            "a URL in a Kubefile must not hold credentials",
            span.clone(),
            "put them into `~/.netrc`: `machine HOST login USER password SECRET`",
        ));
    }
    if authority.is_empty()
        || text
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
    {
        return Err(Flaw::new(
            "this is not a URL",
            span.clone(),
            "write `https://HOST/PATH`",
        ));
    }
    Ok(format!("{}://{rest}", scheme.to_ascii_lowercase()))
}

/// A path in the image.
pub fn destination(text: Spanned<String>) -> Result<Spanned<Destination>, Flaw> {
    if text.value.is_empty() {
        return Err(Flaw::new(
            "the destination is empty",
            text.span,
            "write `/` for the image's root",
        ));
    }
    if text.value.split('/').any(|component| component == "..") {
        return Err(Flaw::new(
            "a destination cannot climb with `..`",
            text.span,
            "write the path from the image's root",
        ));
    }
    let components: Vec<&str> = text
        .value
        .split('/')
        .filter(|component| !component.is_empty() && *component != ".")
        .collect();
    let directory =
        components.is_empty() || text.value.ends_with('/') || text.value.ends_with("/.");
    let path = components.join("/");
    Ok(text.map(|_| Destination { path, directory }))
}
