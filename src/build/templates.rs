//! Templates, as far as they can be checked before they are rendered: a mistake
//! in their syntax is found by the build, not on a host.

use minijinja::Environment;

use crate::error::{Error, Kind, Result, Snippet};

/// The largest template that a host renders, in bytes.
pub const LIMIT: u64 = 4 << 20;

/// Whether hosts or the cluster render what lies at a path of an image.
pub fn is_template(path: &str) -> bool {
    path.ends_with(".j2") && (path.starts_with("etc/") || path.starts_with("chasi/manifests/"))
}

/// Checks the syntax of a template. `shown` is what messages call it.
pub fn check(shown: &str, text: &str) -> Result<()> {
    Environment::new()
        .template_from_named_str(shown, text)
        .map(drop)
        .map_err(|cause| {
            let span = cause.range().unwrap_or(0..0);
            let span = match text.get(span.clone()) {
                Some(_) => span,
                None => 0..0,
            };
            Error::new(Kind::Input, format!("`{shown}` is not a template"))
                .because(cause.to_string())
                .at(Snippet {
                    path: shown.to_owned(),
                    text: text.to_owned(),
                    span,
                    label: String::new(),
                })
                .hint("take `.j2` off the file's name when it is not meant to be one")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_syntax_is_pointed_at() {
        check("a.j2", "x = {{ host.name }}\n{% if a %}b{% endif %}\n").unwrap();
        for (text, line) in [
            ("a\n{% if %}\n", 2),
            ("{{ a }\n", 1),
            ("a\nb\n{% endif %}", 3),
        ] {
            let error = check("a.j2", text).unwrap_err();
            assert_eq!(
                error.snippet().unwrap().line_column().0,
                line,
                "{text} {error:?}"
            );
        }
    }

    #[test]
    fn only_what_is_rendered_is_a_template() {
        for (path, expected) in [
            ("etc/a.conf.j2", true),
            ("chasi/manifests/a.yaml.j2", true),
            ("usr/share/doc/a.j2", false),
            ("etc/a.conf", false),
        ] {
            assert_eq!(is_template(path), expected, "{path}");
        }
    }
}
