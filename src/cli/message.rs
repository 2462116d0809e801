//! How errors and texts look: the form of a message, the snippet of the user's
//! file, colours, and the width of a terminal.
//!
//! ```text
//! error: m1: cannot start `kubelet`
//!   cause: `systemctl start kubelet` exited with 1
//!   hint: `chasi logs m1` shows its journal
//! ```

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::error::Error;

/// What the stream that messages go to can show.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether it understands colours and they are wanted.
    pub colour: bool,
    /// The number of columns, when it is a terminal; texts are wrapped to it.
    pub columns: Option<usize>,
}

impl Style {
    /// No colours, no wrapping: for files and pipes.
    pub const PLAIN: Style = Style {
        colour: false,
        columns: None,
    };

    fn paint(self, codes: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{codes}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// As the word `error`.
    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// As the word `warning`.
    pub fn yellow(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    /// As the word `hint`.
    pub fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// What stands out.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What stands back.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// How much of a cause is shown where it is not to be shown whole, in lines.
const END_LINES: usize = 12;

/// How much of an error's causes is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Amount {
    /// Everything, as in the log.
    All,
    /// Of causes with many lines, such as a journal, only the end.
    Ends,
}

/// The text of an error, of those found with it, and of their causes and hints.
pub fn error(error: &Error, style: Style, amount: Amount) -> String {
    let mut text = one(error, style, amount);
    for other in error.others() {
        text.push_str(&one(other, style, amount));
    }
    let count = 1 + error.others().len();
    // Those with a place are apart from each other; the others explain the first.
    if count > 1 && error.snippet().is_some() {
        text.push_str(&format!("{}: {count} errors\n", style.red("error")));
    }
    text
}

/// What libraries say on the way to a cause, and that tells a person nothing.
const EMPTY_WORDS: [&str; 6] = [
    "error sending request",
    "client error (Connect)",
    "dns error",
    "error resolving DNS",
    "tcp connect error",
    "connection error",
];

/// A cause without the number that Rust adds to what the system says.
fn without_number(cause: &str) -> &str {
    match cause.rfind(" (os error ") {
        Some(at) if cause.ends_with(')') => &cause[..at],
        _ => cause,
    }
}

/// The end of a text of many lines.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    match lines.len().checked_sub(END_LINES) {
        Some(more @ 1..) => {
            let end = lines[more..].join("\n");
            format!("({more} lines before these are in the log)\n{end}")
        }
        _ => text.to_owned(),
    }
}

fn one(error: &Error, style: Style, amount: Amount) -> String {
    let mut title = String::new();
    if let Some(host) = error.host() {
        title.push_str(&format!("{host}: "));
    }
    title.push_str(error.message());
    let title = clean(&title);
    let mut text = match error.snippet() {
        Some(snippet) => with_snippet(&title, snippet, style),
        None => format!("{}: {}\n", style.red("error"), wrapped(&title, 7, 2, style)),
    };
    let mut said = vec![error.message().to_owned()];
    let mut causes: Vec<String> = error.causes().map(ToString::to_string).collect();
    if amount == Amount::Ends {
        let last = causes.len().saturating_sub(1);
        let mut number = 0..;
        causes
            .retain(|cause| number.next() == Some(last) || !EMPTY_WORDS.contains(&cause.as_str()));
        for cause in &mut causes {
            *cause = without_number(cause).to_owned();
        }
    }
    for cause in causes {
        // Many errors repeat their cause in their own text.
        if !said.iter().any(|said| said.contains(&cause)) {
            let shown = match amount {
                Amount::All => cause.clone(),
                Amount::Ends => end_of(&cause),
            };
            text.push_str(&item("cause", &shown, style));
            said.push(cause);
        }
    }
    for hint in error.hints() {
        let shown = match amount {
            Amount::All => hint.clone(),
            Amount::Ends => end_of(hint),
        };
        text.push_str(&item("hint", &shown, style));
    }
    text
}

fn item(name: &str, content: &str, style: Style) -> String {
    let name_width = name.len() + 4;
    let painted = match name {
        "hint" => style.cyan(name),
        _ => style.bold(name),
    };
    format!(
        "  {painted}: {}\n",
        wrapped(&clean(content), name_width, name_width, style)
    )
}

fn with_snippet(title: &str, snippet: &crate::error::Snippet, style: Style) -> String {
    let end = snippet.text.len();
    let span = snippet.span.start.min(end)..snippet.span.end.min(end);
    let mut annotation = AnnotationKind::Primary.span(span);
    if !snippet.label.is_empty() {
        annotation = annotation.label(&snippet.label);
    }
    let report = &[Level::ERROR.primary_title(title).element(
        Snippet::source(&snippet.text)
            .path(&snippet.path)
            .annotation(annotation),
    )];
    let renderer = if style.colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let renderer = renderer
        .decor_style(DecorStyle::Ascii)
        .term_width(style.columns.unwrap_or(140));
    format!("{}\n", renderer.render(report))
}

/// Replaces what would move a terminal's cursor or change its state: what a
/// host's programs say is not trusted. Line ends stay.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter(|character| *character != '\r')
        .map(|character| match character {
            '\n' => '\n',
            '\t' => ' ',
            // The second group turns the direction of text around.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect()
}

/// Breaks lines at spaces to fit the terminal. The first line already has `used`
/// columns, the others are indented by `indent`.
pub fn wrapped(text: &str, used: usize, indent: usize, style: Style) -> String {
    let mut out = String::new();
    let mut column = used;
    for (number, line) in text.trim_end().lines().enumerate() {
        if number > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        let mut first = true;
        for word in line.split(' ') {
            let width = word.chars().count();
            if !first
                && style
                    .columns
                    .is_some_and(|columns| column + 1 + width > columns)
            {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else if !first {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += width;
            first = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, Snippet as Place};

    #[test]
    fn an_error_says_host_cause_and_hint() {
        let example = Error::new(Kind::Failed, "cannot start `kubelet`")
            .on_host("m1")
            .because(Error::new(
                Kind::System,
                "`systemctl start kubelet` exited with 1",
            ))
            .hint("read the journal: `journalctl -u kubelet`");
        assert_eq!(
            error(&example, Style::PLAIN, Amount::Ends),
            "error: m1: cannot start `kubelet`\n  \
               cause: `systemctl start kubelet` exited with 1\n  \
               hint: read the journal: `journalctl -u kubelet`\n"
        );
    }

    #[test]
    fn an_error_in_a_file_shows_the_line() {
        let place = |span| Place {
            path: "Clusterfile".into(),
            text: "spec:\n  imagee: x\n  hosts: 1\n".into(),
            span,
            label: String::new(),
        };
        let example = Error::new(Kind::Input, "unknown field `imagee`")
            .at(place(8..14))
            .hint("did you mean `image`?")
            .and(Error::new(Kind::Input, "expected a list, found a number").at(place(27..28)));
        insta::assert_snapshot!(error(&example, Style::PLAIN, Amount::Ends), @r"
        error: unknown field `imagee`
         --> Clusterfile:2:3
          |
        2 |   imagee: x
          |   ^^^^^^
          hint: did you mean `image`?
        error: expected a list, found a number
         --> Clusterfile:3:10
          |
        3 |   hosts: 1
          |          ^
        error: 2 errors
        ");
    }

    #[test]
    fn words_that_say_nothing_are_left_out_and_never_the_last() {
        let example = Error::new(Kind::Unreachable, "cannot reach `x`").because(
            Error::new(Kind::Failed, "client error (Connect)")
                .because(std::io::Error::from_raw_os_error(111)),
        );
        assert_eq!(
            error(&example, Style::PLAIN, Amount::Ends),
            "error: cannot reach `x`\n  cause: Connection refused\n"
        );
        let only = Error::new(Kind::Unreachable, "x").because("dns error");
        assert!(error(&only, Style::PLAIN, Amount::Ends).contains("dns error"));
    }

    #[test]
    fn of_a_journal_only_the_end_is_shown() {
        let journal = (0..40).map(|number| format!("line {number}\n"));
        let example = Error::new(Kind::Failed, "x").because(journal.collect::<String>());
        let short = error(&example, Style::PLAIN, Amount::Ends);
        assert!(
            short.contains("(28 lines before these are in the log)"),
            "{short}"
        );
        assert!(
            short.contains("line 39") && !short.contains("line 27\n"),
            "{short}"
        );
        assert!(error(&example, Style::PLAIN, Amount::All).contains("line 0\n"));
    }

    #[test]
    fn a_place_behind_the_text_is_no_panic() {
        let example = Error::new(Kind::Input, "too short").at(Place {
            path: "f".into(),
            text: "ü".into(),
            span: 7..9,
            label: "here".into(),
        });
        assert!(error(&example, Style::PLAIN, Amount::Ends).starts_with("error: too short\n"));
    }

    #[test]
    fn a_cause_that_is_said_already_is_not_repeated() {
        let example = Error::new(Kind::Failed, "cannot read: permission denied")
            .because(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        assert_eq!(
            error(&example, Style::PLAIN, Amount::Ends),
            "error: cannot read: permission denied\n"
        );
    }

    #[test]
    fn long_texts_fit_the_terminal() {
        let style = Style {
            colour: false,
            columns: Some(40),
        };
        let example = Error::new(Kind::Failed, "x").hint("word ".repeat(20));
        let text = error(&example, style, Amount::Ends);
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
        assert!(
            text.lines()
                .skip(2)
                .all(|line| line.starts_with("        word")),
            "{text}"
        );
    }

    #[test]
    fn a_hosts_words_cannot_steer_the_terminal() {
        let example = Error::new(Kind::Failed, "it said \x1b[2Jboo\r\u{202e}");
        assert_eq!(
            error(&example, Style::PLAIN, Amount::Ends),
            "error: it said \u{fffd}[2Jboo\u{fffd}\n"
        );
    }
}
