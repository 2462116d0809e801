//! Templates: minijinja, strict and bounded.
//!
//! What is not defined is an error that points into the template. A template
//! cannot include others, read files, or run for long.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};

use crate::error::{Error, Kind, Result, ResultExt, Snippet};

/// The end of a template's name.
pub const SUFFIX: &str = ".j2";
/// The largest template, and the largest result, in bytes.
pub const LARGEST: usize = 4 << 20;
/// How many instructions one template may take.
const FUEL: u64 = 10_000_000;

/// Renders a template. `name` is its path, for errors.
pub fn render(name: &str, source: &str, context: &serde_json::Value) -> Result<String> {
    if source.len() > LARGEST {
        return Err(too_large(name, "the template"));
    }
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax()?);
    environment.set_fuel(Some(FUEL));
    // Configuration files, also those that end in .html, are not HTML.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let mut result = Bounded { bytes: Vec::new() };
    environment
        .template_from_named_str(name, source)
        .and_then(|template| {
            template
                .render_captured_to(Serde(context), &mut result)
                .map(drop)
        })
        .map_err(|cause| explain(name, source, &cause))?;
    String::from_utf8(result.bytes).map_err(|cause| {
        Error::new(Kind::Input, format!("cannot render the template `{name}`")).because(cause)
    })
}

fn syntax() -> Result<SyntaxConfig> {
    // A configuration file ends with its line, and so does what is made of it.
    SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .build()
        .or_err(Kind::Failed, || "cannot set the syntax of templates")
}

fn too_large(name: &str, what: &str) -> Error {
    Error::new(
        Kind::Input,
        format!("{what} `{name}` is larger than {LARGEST} bytes"),
    )
}

/// Says what minijinja says, and points to where it says it.
fn explain(name: &str, source: &str, cause: &minijinja::Error) -> Error {
    let span = cause.range().unwrap_or(0..0);
    let expression = source.get(span.clone()).unwrap_or_default().trim();
    let place = match cause.line() {
        Some(line) => format!("`{name}`, line {line}"),
        None => format!("`{name}`"),
    };
    let label = match cause.kind() {
        minijinja::ErrorKind::UndefinedError if !expression.is_empty() => {
            format!("`{expression}` is not defined")
        }
        _ => cause.to_string(),
    };
    Error::new(Kind::Input, format!("cannot render the template {place}: {label}"))
        .hint("templates can use `host` and `cluster`; write `x | default(\"…\")` for what may be missing")
        .at(Snippet { path: name.to_owned(), text: source.to_owned(), span, label })
}

/// Takes no more than [`LARGEST`] bytes.
struct Bounded {
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > LARGEST {
            return Err(std::io::Error::other(format!(
                "it makes more than {LARGEST} bytes"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_filled_in_and_nothing_is_escaped() {
        let context = json!({"host": {"name": "<a>"}});
        assert_eq!(
            render("x.html.j2", "name = {{ host.name }}\n", &context).unwrap(),
            "name = <a>\n"
        );
    }

    #[test]
    fn what_is_not_defined_is_named_with_file_and_line() {
        let context = json!({"host": {"name": "a"}});
        let error = render("etc/x.j2", "a\nb {{ host.nmae }}\n", &context).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.message().contains("`etc/x.j2`, line 2"), "{error}");
        assert!(
            error.message().contains("`host.nmae` is not defined"),
            "{error}"
        );
        assert_eq!(error.snippet().unwrap().line_column().0, 2);
    }

    #[test]
    fn what_runs_or_grows_without_end_is_stopped() {
        let context = json!({});
        for source in [
            "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
            "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% include '/etc/passwd' %}",
        ] {
            assert_eq!(
                render("x", source, &context).unwrap_err().kind(),
                Kind::Input,
                "{source}"
            );
        }
    }
}
