//! From text to logical lines and words.
//!
//! A logical line is a line and those that it is continued on: a `\` before the
//! end of a line joins the next one to it. Lines that begin with `#` and empty
//! lines inside a continued instruction are left out. A word is what blanks
//! separate; quotes keep blanks inside. Every character remembers where it
//! stands in the file, so that every error can point at it.

use std::fmt;
use std::ops::Range;

/// How deep `${A:-${B:-…}}` may nest.
const DEPTH: usize = 8;

/// A value and where it stands in the Kubefile, in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Range<usize>,
}

impl<T> Spanned<T> {
    /// A value at a place.
    pub fn new(value: T, span: Range<usize>) -> Self {
        Spanned { value, span }
    }

    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned::new(change(self.value), self.span)
    }
}

/// A word before its variables are replaced.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Word {
    /// Its parts; neighbouring literals of one kind are one part.
    pub parts: Vec<Part>,
}

/// A part of a word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    /// Text as it is. Quoted or escaped text is never a pattern.
    Literal {
        /// The text, never empty.
        text: String,
        /// Whether it stood in quotes or behind a `\`.
        quoted: bool,
    },
    /// `${NAME}` or `${NAME:-default}`.
    Variable {
        /// The variable's name, and where the whole expression stands.
        name: Spanned<String>,
        /// What stands for it when it has no value or an empty one.
        default: Option<Word>,
        /// Whether it stood in double quotes.
        quoted: bool,
    },
}

/// What is wrong with the text of a word, where, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flaw {
    pub message: String,
    pub span: Range<usize>,
    pub hint: String,
}

impl Flaw {
    pub fn new(message: impl Into<String>, span: Range<usize>, hint: impl Into<String>) -> Self {
        Flaw {
            message: message.into(),
            span,
            hint: hint.into(),
        }
    }
}

/// The characters of a logical line, each with its offset in the file.
#[derive(Clone, Debug)]
pub struct Line {
    characters: Vec<(usize, char)>,
}

impl Line {
    /// From the first to the end of the last character.
    pub fn span(&self) -> Range<usize> {
        span(&self.characters)
    }
}

fn span(characters: &[(usize, char)]) -> Range<usize> {
    match (characters.first(), characters.last()) {
        (Some((start, _)), Some((end, last))) => *start..end + last.len_utf8(),
        _ => 0..0,
    }
}

/// Splits a text into logical lines; empty ones and comments are left out.
pub fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut current: Vec<(usize, char)> = Vec::new();
    let mut offset = 0;
    for raw in text.split_inclusive('\n') {
        let start = offset;
        offset += raw.len();
        let line = raw.strip_suffix('\n').unwrap_or(raw);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let bare = line.trim_end_matches([' ', '\t']);
        let (line, continued) = match bare.strip_suffix('\\') {
            Some(before) => (before, true),
            None => (line, false),
        };
        current.extend(
            line.char_indices()
                .map(|(at, character)| (start + at, character)),
        );
        if !continued {
            push(&mut lines, &mut current);
        }
    }
    push(&mut lines, &mut current);
    lines
}

fn push(lines: &mut Vec<Line>, current: &mut Vec<(usize, char)>) {
    let characters = std::mem::take(current);
    if characters
        .iter()
        .any(|(_, character)| !character.is_whitespace())
    {
        lines.push(Line { characters });
    }
}

/// Splits a logical line into words.
pub fn words(line: &Line) -> Result<Vec<Spanned<Word>>, Flaw> {
    let mut cursor = Cursor {
        characters: &line.characters,
        at: 0,
    };
    let mut words = Vec::new();
    loop {
        while cursor.peek().is_some_and(char::is_whitespace) {
            cursor.at += 1;
        }
        if cursor.peek().is_none() {
            return Ok(words);
        }
        let start = cursor.at;
        let word = cursor.word(End::Blank, 0)?;
        words.push(Spanned::new(word, span(&line.characters[start..cursor.at])));
    }
}

/// What ends the word being read.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Blank,
    Brace,
}

struct Cursor<'a> {
    characters: &'a [(usize, char)],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.characters
            .get(self.at)
            .map(|(_, character)| *character)
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    /// The place of what was read since `start`.
    fn since(&self, start: usize) -> Range<usize> {
        span(&self.characters[start..self.at.min(self.characters.len())])
    }

    fn word(&mut self, end: End, depth: usize) -> Result<Word, Flaw> {
        let mut word = Word::default();
        while let Some(character) = self.peek() {
            let start = self.at;
            match character {
                '}' if end == End::Brace => break,
                _ if character.is_whitespace() && end == End::Blank => break,
                '\'' => self.single(&mut word)?,
                '"' => self.double(&mut word, depth)?,
                '\\' => {
                    self.at += 1;
                    let escaped = self.next().ok_or_else(|| {
                        Flaw::new(
                            "nothing follows the `\\`",
                            self.since(start),
                            "write `\\\\` for one backslash",
                        )
                    })?;
                    word.literal(escaped, true);
                }
                '$' => {
                    let part = self.variable(false, depth)?;
                    word.parts.push(part);
                }
                _ => {
                    self.at += 1;
                    word.literal(character, false);
                }
            }
        }
        Ok(word)
    }

    fn single(&mut self, word: &mut Word) -> Result<(), Flaw> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(character) => word.literal(character, true),
                None => return Err(self.unclosed(start, '\'')),
            }
        }
    }

    fn double(&mut self, word: &mut Word, depth: usize) -> Result<(), Flaw> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('$') => {
                    let part = self.variable(true, depth)?;
                    word.parts.push(part);
                }
                Some('\\') => {
                    self.at += 1;
                    match self.next() {
                        Some(escaped @ ('"' | '\\' | '$')) => word.literal(escaped, true),
                        Some(other) => {
                            word.literal('\\', true);
                            word.literal(other, true);
                        }
                        None => return Err(self.unclosed(start, '"')),
                    }
                }
                Some(character) => {
                    self.at += 1;
                    word.literal(character, true);
                }
                None => return Err(self.unclosed(start, '"')),
            }
        }
    }

    fn unclosed(&self, start: usize, quote: char) -> Flaw {
        let (offset, _) = self.characters[start];
        Flaw::new(
            format!("the quote `{quote}` is not closed"),
            offset..offset + 1,
            format!("add the closing `{quote}`, or write `\\{quote}` for the character itself"),
        )
    }

    /// Reads a variable; the cursor stands on its `$`.
    fn variable(&mut self, quoted: bool, depth: usize) -> Result<Part, Flaw> {
        let start = self.at;
        self.at += 1;
        let braces = self.peek() == Some('{');
        if braces {
            self.at += 1;
        }
        let mut name = String::new();
        while let Some(character) = self.peek() {
            let fits = character == '_'
                || character.is_ascii_alphabetic()
                || (character.is_ascii_digit() && !name.is_empty());
            if !fits {
                break;
            }
            name.push(character);
            self.at += 1;
        }
        if name.is_empty() {
            self.at = (self.at + 1).min(self.characters.len());
            return Err(Flaw::new(
                "a variable's name must follow the `$`",
                self.since(start),
                "write `${NAME}`, or `\\$` for the character itself",
            ));
        }
        let default = if braces {
            self.default(start, depth)?
        } else {
            None
        };
        Ok(Part::Variable {
            name: Spanned::new(name, self.since(start)),
            default,
            quoted,
        })
    }

    /// Reads what stands between a variable's name and its `}`, and that too.
    fn default(&mut self, start: usize, depth: usize) -> Result<Option<Word>, Flaw> {
        let default = match (self.peek(), self.characters.get(self.at + 1)) {
            (Some('}'), _) => None,
            (Some(':'), Some((_, '-'))) => {
                if depth == DEPTH {
                    return Err(Flaw::new(
                        format!("variables are nested more than {DEPTH} deep"),
                        self.since(start),
                        "give the inner ones a name with `ARG`",
                    ));
                }
                self.at += 2;
                Some(self.word(End::Brace, depth + 1)?)
            }
            (None, _) => None,
            _ => {
                self.at += 1;
                return Err(Flaw::new(
                    "this form of a variable is not known",
                    self.since(start),
                    "write `${NAME}` or `${NAME:-default}`",
                ));
            }
        };
        if self.next() != Some('}') {
            return Err(Flaw::new(
                "the `${` is not closed",
                self.since(start),
                "add the closing `}`",
            ));
        }
        Ok(default)
    }
}

impl Word {
    /// A word of literal text without any meaning as a pattern.
    pub fn quoted(text: &str) -> Self {
        let mut word = Word::default();
        text.chars()
            .for_each(|character| word.literal(character, true));
        word
    }

    /// The word's text, when it has no variables.
    pub fn text(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal { text, .. } => Some(text.as_str()),
                Part::Variable { .. } => None,
            })
            .collect()
    }

    /// The unquoted text that the word begins with.
    pub fn head(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal {
                text,
                quoted: false,
            }) => text,
            _ => "",
        }
    }

    /// The word without its first `count` bytes, which must lie in [`Word::head`].
    pub fn without_head(mut self, count: usize) -> Self {
        if let Some(Part::Literal { text, .. }) = self.parts.first_mut() {
            text.drain(..count);
            if text.is_empty() {
                self.parts.remove(0);
            }
        }
        self
    }

    fn literal(&mut self, character: char, quote: bool) {
        match self.parts.last_mut() {
            Some(Part::Literal { text, quoted }) if *quoted == quote => text.push(character),
            _ => self.parts.push(Part::Literal {
                text: character.into(),
                quoted: quote,
            }),
        }
    }
}

/// The word as it can be written in a Kubefile.
impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal {
                    text,
                    quoted: false,
                } => f.write_str(text)?,
                Part::Literal { text, quoted: true } if !text.contains('\'') => {
                    write!(f, "'{text}'")?
                }
                Part::Literal { text, quoted: true } => {
                    f.write_str("\"")?;
                    for character in text.chars() {
                        if matches!(character, '"' | '\\' | '$') {
                            f.write_str("\\")?;
                        }
                        write!(f, "{character}")?;
                    }
                    f.write_str("\"")?;
                }
                Part::Variable {
                    name,
                    default,
                    quoted,
                } => {
                    let quote = if *quoted { "\"" } else { "" };
                    let name = &name.value;
                    match default {
                        Some(default) => write!(f, "{quote}${{{name}:-{default}}}{quote}")?,
                        None => write!(f, "{quote}${{{name}}}{quote}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<Vec<Vec<String>>, Flaw> {
        lines(text)
            .iter()
            .map(|line| {
                Ok(words(line)?
                    .iter()
                    .map(|word| word.value.to_string())
                    .collect())
            })
            .collect()
    }

    #[test]
    fn continued_lines_are_one_and_comments_are_left_out() {
        let text = "# c\nA b \\\n  # inside\n\n  c\\\nd\r\n\r\n  E\n";
        assert_eq!(split(text).unwrap(), [vec!["A", "b", "cd"], vec!["E"]]);
    }

    #[test]
    fn a_word_knows_where_it_stands() {
        let text = "A \\\n ü${X} 'b c'";
        let line = &lines(text)[0];
        let words = words(line).unwrap();
        let places: Vec<_> = words.iter().map(|word| &text[word.span.clone()]).collect();
        assert_eq!(places, ["A", "ü${X}", "'b c'"]);
    }

    #[test]
    fn quotes_and_escapes_make_literals() {
        let line = &lines(r#"a\*b "x $Y \" \n" '$Z'"#)[0];
        let words = words(line).unwrap();
        assert_eq!(words[0].value.to_string(), "a'*'b");
        assert_eq!(words[1].value.to_string(), r#"'x '"${Y}"' " \n'"#);
        assert_eq!(words[2].value.text().unwrap(), "$Z");
    }

    #[test]
    fn flaws_point_at_the_character() {
        for (text, marked) in [
            ("A 'b", "'"),
            ("A b \"c", "\""),
            ("A ${B", "${B"),
            ("A ${B:+c}", "${B:"),
            ("A $-", "$-"),
            ("A $", "$"),
            ("A ${}", "${}"),
        ] {
            let flaw = split(text).unwrap_err();
            assert_eq!(&text[flaw.span.clone()], marked, "{flaw:?}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let text = format!("A {}x{}", "${B:-".repeat(9), "}".repeat(9));
        assert!(split(&text).unwrap_err().message.contains("nested"));
        let text = format!("A {}x{}", "${B:-".repeat(8), "}".repeat(8));
        split(&text).unwrap();
    }
}
