//! Path patterns: those of `COPY` and of `.kubeignore`.
//!
//! A pattern is matched component by component. In a component `*` is any text,
//! `?` one character, `[a-z]` one of a class and `[^a-z]` one of none, `\` takes
//! a character as itself. The component `**` is any number of components, also
//! none. Matching never backtracks further than to the last star, so that no
//! pattern is slow.

use crate::error::{Error, Kind, Result, Snippet};

/// A compiled pattern for a path relative to some root.
#[derive(Clone, Debug)]
pub struct Pattern {
    components: Vec<Component>,
}

/// What one component of a path must be.
#[derive(Clone, Debug)]
pub enum Component {
    /// This name.
    Exact(String),
    /// A name that fits.
    Glob(Glob),
    /// Any number of names.
    AnyDepth,
}

/// A pattern for one name.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug)]
enum Token {
    Character(char),
    One,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Compiles a pattern. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let components = text
            .split('/')
            .filter(|component| !component.is_empty() && *component != ".")
            .map(Component::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let climbs =
            |component: &Component| matches!(component, Component::Exact(name) if name == "..");
        if components.iter().any(climbs) {
            return Err("it climbs with `..`".to_owned());
        }
        Ok(Pattern { components })
    }

    /// Its components.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Whether the whole path fits.
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        wildcard(
            &self.components,
            &names,
            |component| matches!(component, Component::AnyDepth),
            |component, name| component.matches(name),
        )
    }
}

impl Component {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "**" {
            return Ok(Component::AnyDepth);
        }
        if !text.contains(['*', '?', '[', '\\']) {
            return Ok(Component::Exact(text.to_owned()));
        }
        let glob = Glob::parse(text)?;
        let exact: Option<String> = glob
            .tokens
            .iter()
            .map(|token| match token {
                Token::Character(character) => Some(*character),
                _ => None,
            })
            .collect();
        Ok(match exact {
            Some(name) => Component::Exact(name),
            None => Component::Glob(glob),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Component::Exact(exact) => exact == name,
            Component::Glob(glob) => glob.matches(name),
            Component::AnyDepth => true,
        }
    }
}

impl Glob {
    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut characters)?,
                '\\' => Token::Character(characters.next().ok_or("nothing follows the `\\`")?),
                other => Token::Character(other),
            });
        }
        Ok(Glob { tokens })
    }

    /// Whether a name fits.
    pub fn matches(&self, name: &str) -> bool {
        let characters: Vec<char> = name.chars().collect();
        wildcard(
            &self.tokens,
            &characters,
            |token| matches!(token, Token::Star),
            |token, character| token.matches(*character),
        )
    }
}

impl Token {
    fn matches(&self, character: char) -> bool {
        match self {
            Token::Character(exact) => *exact == character,
            Token::One | Token::Star => true,
            Token::Class { negated, ranges } => {
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&character))
                    != *negated
            }
        }
    }
}

/// Reads a class; the `[` is already taken.
fn class(characters: &mut std::str::Chars) -> Result<Token, String> {
    const OPEN: &str = "the `[` is not closed";
    let mut negated = false;
    if characters.as_str().starts_with(['^', '!']) {
        characters.next();
        negated = true;
    }
    let mut ranges = Vec::new();
    loop {
        let low = match characters.next().ok_or(OPEN)? {
            ']' if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
            '\\' => characters.next().ok_or(OPEN)?,
            other => other,
        };
        let mut high = low;
        let rest = characters.as_str();
        if rest.starts_with('-') && !rest.starts_with("-]") {
            characters.next();
            high = match characters.next().ok_or(OPEN)? {
                '\\' => characters.next().ok_or(OPEN)?,
                other => other,
            };
        }
        if high < low {
            return Err(format!("`{low}-{high}` is the wrong way round"));
        }
        ranges.push((low, high));
    }
}

/// Matches items against a pattern in which a star stands for any number of
/// items.
fn wildcard<P, I>(
    pattern: &[P],
    items: &[I],
    is_star: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &I) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while item < items.len() {
        if pattern.get(at).is_some_and(&is_star) {
            last_star = Some((at, item));
            at += 1;
        } else if pattern.get(at).is_some_and(|want| fits(want, &items[item])) {
            at += 1;
            item += 1;
        } else if let Some((star, from)) = last_star {
            last_star = Some((star, from + 1));
            at = star + 1;
            item = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(is_star)
}

/// What of a context is left out: the lines of `.kubeignore`, with the meaning of
/// a `.dockerignore`. The last line that fits a path or a directory above it
/// decides; a line that begins with `!` takes a path in again.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<(Pattern, bool)>,
}

impl Ignore {
    /// Reads the lines of a file. `path` is what messages call it.
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let mut rules = Vec::new();
        let mut offset = 0;
        for raw in text.split_inclusive('\n') {
            let start = offset;
            offset += raw.len();
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (line, ignored) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim_start(), false),
                None => (line, true),
            };
            let pattern = Pattern::parse(line).map_err(|flaw| {
                let from = start + (raw.len() - raw.trim_start().len());
                Error::new(Kind::Input, format!("`{line}` is not a pattern: {flaw}"))
                    .at(Snippet {
                        path: path.to_owned(),
                        text: text.to_owned(),
                        span: from..from + raw.trim().len(),
                        label: String::new(),
                    })
                    .hint("write `\\` before a character that means itself")
            })?;
            rules.push((pattern, ignored));
        }
        Ok(Ignore { rules })
    }

    /// Adds a path that is always left out.
    pub fn always(&mut self, path: &str) {
        let components = path
            .split('/')
            .map(|name| Component::Exact(name.to_owned()))
            .collect();
        self.rules.push((Pattern { components }, true));
    }

    /// Whether the path is left out.
    pub fn ignores(&self, path: &str) -> bool {
        let fits = |pattern: &Pattern| {
            let ends = path
                .match_indices('/')
                .map(|(at, _)| at)
                .chain([path.len()]);
            ends.into_iter().any(|end| pattern.matches(&path[..end]))
        };
        self.rules
            .iter()
            .rev()
            .find(|(pattern, _)| fits(pattern))
            .is_some_and(|(_, ignored)| *ignored)
    }

    /// Whether nothing below an ignored directory can be taken in again.
    pub fn prunes(&self) -> bool {
        self.rules.iter().all(|(_, ignored)| *ignored)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_fit_as_in_a_dockerfile() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "a/b", false),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("a*c", "abbc", true),
            ("a*c*e", "abcde", true),
            ("a*c", "abcd", false),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[a-]x", "-x", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/x/y/d", false),
            ("**/a/**/b", "x/a/a/y/b", true),
            ("/a/./b/", "a/b", true),
            ("é?", "éa", true),
        ] {
            let outcome = Pattern::parse(pattern).unwrap().matches(path);
            assert_eq!(outcome, expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for pattern in ["[a", "[", "[]", "[z-a]", "a\\", "a/../b", r"\.\./b"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn the_last_line_that_fits_decides() {
        let ignore = Ignore::parse(
            ".kubeignore",
            "# c\n\n*.md\n!README.md\nbuild/\n!build/keep\n",
        )
        .unwrap();
        for (path, expected) in [
            ("a.md", true),
            ("README.md", false),
            ("docs/a.md", false),
            ("build", true),
            ("build/x/y", true),
            ("build/keep", false),
            ("build/keep/z", false),
        ] {
            assert_eq!(ignore.ignores(path), expected, "{path}");
        }
        assert!(!ignore.prunes());
    }

    #[test]
    fn a_bad_line_is_pointed_at() {
        let error = Ignore::parse(".kubeignore", "a\n  ![b\n").unwrap_err();
        let snippet = error.snippet().unwrap();
        assert_eq!(
            (snippet.line_column(), &snippet.text[snippet.span.clone()]),
            ((2, 3), "![b")
        );
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,20}", path in ".{0,30}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                pattern.matches(&path);
            }
        }
    }
}
