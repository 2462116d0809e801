//! Credentials for downloads, as curl and git read them from `~/.netrc`.
//!
//! The format is that of ftp(1): `machine HOST login USER password SECRET`, the
//! words separated by blanks or line breaks in any order behind `machine`;
//! `default` stands for every other host; `macdef` and its lines up to an empty
//! one are skipped. As in curl, a word may stand in double quotes, and a `#` at
//! the beginning of a word comments the rest of its line out.

use std::fmt;

/// The credentials of a file.
#[derive(Clone, Default)]
pub struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    /// `None` for `default`.
    machine: Option<String>,
    login: String,
    password: String,
}

/// Passwords must not get into messages.
impl fmt::Debug for Netrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netrc({} machines)", self.entries.len())
    }
}

impl Netrc {
    /// Reads a file's text. Words that mean nothing are skipped, as curl does.
    pub fn parse(text: &str) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut words = Words { rest: text };
        while let Some(word) = words.next() {
            let entry = entries.last_mut();
            match (word.as_str(), entry) {
                ("machine", _) => entries.push(Entry {
                    machine: Some(words.next().unwrap_or_default()),
                    ..Entry::default()
                }),
                ("default", _) => entries.push(Entry::default()),
                ("login", Some(entry)) => entry.login = words.next().unwrap_or_default(),
                ("password", Some(entry)) => entry.password = words.next().unwrap_or_default(),
                ("account", _) => drop(words.next()),
                ("macdef", _) => words.skip_macro(),
                _ => {}
            }
        }
        Netrc { entries }
    }

    /// User and password for a host.
    pub fn credentials(&self, host: &str) -> Option<(&str, &str)> {
        self.entries
            .iter()
            .find(|entry| {
                entry
                    .machine
                    .as_deref()
                    .is_none_or(|machine| machine.eq_ignore_ascii_case(host))
            })
            .map(|entry| (entry.login.as_str(), entry.password.as_str()))
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn skip_macro(&mut self) {
        self.rest = match self.rest.find("\n\n") {
            Some(end) => &self.rest[end..],
            None => "",
        };
    }
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                break;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
        let mut characters = self.rest.char_indices();
        let quoted = self.rest.starts_with('"');
        if quoted {
            characters.next();
        }
        let mut word = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' if quoted => {
                    self.rest = &self.rest[at + 1..];
                    return Some(word);
                }
                '\\' if quoted => match characters.next() {
                    Some((_, 'n')) => word.push('\n'),
                    Some((_, 't')) => word.push('\t'),
                    Some((_, 'r')) => word.push('\r'),
                    Some((_, other)) => word.push(other),
                    None => {}
                },
                _ if character.is_whitespace() && !quoted => {
                    self.rest = &self.rest[at..];
                    return Some(word);
                }
                _ => word.push(character),
            }
        }
        self.rest = "";
        (quoted || !word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_credentials_of_its_machine_or_the_default_ones() {
        let netrc = Netrc::parse(
            "# comment\nmachine a.example login me\n  password s3\"cret\n\
             macdef init\nmachine x login y\n\nmachine B.example password \"two words\\\"\" account z login you\n\
             default login anonymous password guest",
        );
        assert_eq!(netrc.credentials("a.example"), Some(("me", "s3\"cret")));
        assert_eq!(netrc.credentials("b.example"), Some(("you", "two words\"")));
        assert_eq!(netrc.credentials("x"), Some(("anonymous", "guest")));
        assert_eq!(Netrc::parse("machine a login b").credentials("c"), None);
        assert_eq!(format!("{netrc:?}"), "Netrc(3 machines)");
    }

    #[test]
    fn what_is_damaged_is_read_as_far_as_it_goes() {
        for text in [
            "",
            "machine",
            "login x",
            "machine a password \"open",
            "macdef x\n",
            "#",
        ] {
            Netrc::parse(text);
        }
    }
}
