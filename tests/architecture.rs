//! Holds the code to `docs/architecture.md`: which room may call which, who may
//! print, read the environment and exit, and how modules begin and are called.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the library or of the program.
struct Source {
    /// The path from `src`, such as `cli/shell.rs`.
    path: String,
    /// The room: the first part of the path.
    room: String,
    text: String,
}

impl Source {
    /// The lines that are code, with their numbers: no comments, no test module
    /// at the end of the file, and no text within quotes.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number + 1, without_quoted(line)))
    }

    /// Whether it is a file of tests: those may do what the library may not.
    fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part.ends_with("tests.rs"))
    }
}

/// The line without what is within double quotes on it.
fn without_quoted(line: &str) -> String {
    let mut quoted = false;
    let mut before = ' ';
    line.chars()
        .filter(|&character| {
            if character == '"' && before != '\\' && before != '\'' {
                quoted = !quoted;
                before = character;
                return false;
            }
            before = character;
            !quoted
        })
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    fn walk(directory: &Path, root: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                let room = name
                    .split('/')
                    .next()
                    .unwrap()
                    .trim_end_matches(".rs")
                    .to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: name,
                    room,
                    text,
                });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The line of each room, the top one first, from the comments in `src/lib.rs`.
fn lines() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("// line: "))
        .enumerate()
        .flat_map(|(number, rooms)| {
            rooms
                .split(',')
                .map(move |room| (room.trim().to_owned(), number))
        })
        .collect()
}

/// Fails with everything that is wrong at once.
fn none(what: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

/// The rooms that a line of code names: `crate::oci::Store`, and each of
/// `crate::{oci::Store, spec}`.
fn named(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let preceded = line[..at]
            .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$');
        let rest = &line[at + "crate::".len()..];
        if preceded {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(top_level(list)),
            None => rooms.push(word(rest)),
        }
    }
    rooms
}

/// The first words of a list in braces, of its outermost level.
fn top_level(list: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut start = 0;
    let mut words = Vec::new();
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                words.push(word(list[start..at].trim()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                words.push(word(list[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    words
}

fn word(text: &str) -> &str {
    let end = text
        .find(|character: char| !character.is_alphanumeric() && character != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[test]
fn calls_go_down_only() {
    let lines = lines();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = lines.get(&source.room) else {
            continue;
        };
        // A `use` may go over several lines; as one line its braces are whole.
        let code: Vec<_> = source.code().collect();
        let mut statement = String::new();
        let mut first = 0;
        for (number, line) in code {
            if statement.is_empty() {
                first = number;
            }
            statement.push_str(line.trim());
            let open = statement
                .trim_start()
                .trim_start_matches("pub ")
                .starts_with("use ")
                && !statement.ends_with(';');
            if open {
                continue;
            }
            for room in named(&statement) {
                let allowed = match lines.get(room) {
                    Some(other) => room == source.room || other > own,
                    // `crate::X` that is no room: an item of lib.rs, of which there is none.
                    None => false,
                };
                if !allowed {
                    wrong.push(format!(
                        "src/{}:{first}: `{}` calls `{room}`",
                        source.path, source.room
                    ));
                }
            }
            statement.clear();
        }
    }
    none("calls that do not go down", wrong);
}

#[test]
fn every_room_has_its_line_and_its_page() {
    let lines = lines();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for source in sources() {
        if ["lib", "main"].contains(&source.room.as_str()) {
            continue;
        }
        if !lines.contains_key(&source.room) {
            wrong.push(format!("`{}` has no line in src/lib.rs", source.room));
        }
        if !page.contains(&format!("`{}`", source.room)) {
            wrong.push(format!("`{}` is not in docs/architecture.md", source.room));
        }
    }
    wrong.dedup();
    none("rooms", wrong);
}

#[test]
fn only_the_command_line_prints_reads_the_environment_and_exits() {
    const KEPT_FOR_CLI: [&str; 12] = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "dbg!",
        "env::var",
        "env::args",
        "env::set_var",
        "env::current_dir",
        "process::exit",
        "io::stdout",
        "io::stdin",
    ];
    let mut wrong = Vec::new();
    for source in sources() {
        if ["cli", "main"].contains(&source.room.as_str()) || source.is_test() {
            continue;
        }
        for (number, line) in source.code() {
            let found = KEPT_FOR_CLI.iter().find(|word| {
                line.match_indices(**word).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                })
            });
            if let Some(found) = found {
                wrong.push(format!("src/{}:{number}: {found}", source.path));
            }
        }
    }
    none("what only src/cli may do", wrong);
}

#[test]
fn modules_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for source in sources() {
        if !source.is_test() && !source.text.starts_with("//! ") {
            wrong.push(format!("src/{} does not begin with `//!`", source.path));
        }
    }
    none("modules without a first word", wrong);
}

#[test]
fn names_say_something() {
    const EMPTY: [&str; 10] = [
        "utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "shared",
        "base",
    ];
    let wrong = sources()
        .into_iter()
        .filter(|source| {
            source
                .path
                .split('/')
                .any(|part| EMPTY.contains(&part.trim_end_matches(".rs")))
        })
        .map(|source| format!("src/{}", source.path))
        .collect();
    none("names that say nothing", wrong);
}

#[test]
fn files_fit_a_reader() {
    // Data and tests may be longer than what is read from top to bottom.
    const LONGEST: usize = 650;
    let wrong = sources()
        .into_iter()
        .filter(|source| !source.is_test())
        .map(|source| (source.code().count(), source.path))
        .filter(|(count, _)| *count > LONGEST)
        .map(|(count, path)| format!("src/{path}: {count} lines of code"))
        .collect();
    none("files that are too long", wrong);
}

mod the_reader_itself {
    use super::*;

    #[test]
    fn finds_rooms_in_every_notation() {
        assert_eq!(named("use crate::oci::Store;"), ["oci"]);
        assert_eq!(
            named("use crate::{error::{Error, Kind}, spec, oci::Store};"),
            ["error", "spec", "oci"]
        );
        assert_eq!(
            named("let x = crate::file::write(a, crate::digest::Digest::of(b));"),
            ["file", "digest"]
        );
        assert!(named("$crate::spec::text").is_empty());
        assert!(named("let mycrate::x = 1").is_empty());
    }

    #[test]
    fn sees_code_only() {
        let source = Source {
            path: "a/b.rs".into(),
            room: "a".into(),
            text: "//! x\nlet a = \"println!\";\n// println!\n#[cfg(test)]\nmod tests { println!() }\n".into(),
        };
        assert!(source.code().all(|(_, line)| !line.contains("println!")));
        assert_eq!(
            without_quoted(r#"a("b", 'c', "\"d") e"#).trim(),
            "a(, 'c', ) e"
        );
    }
}
