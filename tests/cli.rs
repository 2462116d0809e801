//! What a person meets first: help texts, messages, exit codes, streams.
//!
//! The help of every command is pinned. After changing one, look at the
//! difference and accept it with `INSTA_UPDATE=always cargo test --test cli`.

use std::fs;
use std::process::Stdio;

use assert_cmd::Command;
use chasi::error::Kind;

/// chasi without anything of the person's who runs the tests.
fn chasi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chasi"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn stderr(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}

/// Every command that people see, with its words: `chasi lab up`.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        // What the environment of the tests has does not belong into a snapshot.
        let pinned = command
            .clone()
            .mut_args(|argument| argument.hide_env_values(true));
        found.push((name.to_owned(), pinned));
        for child in command.get_subcommands() {
            if !child.is_hide_set() && child.get_name() != "help" {
                walk(&format!("{name} {}", child.get_name()), child, found);
            }
        }
    }
    let mut found = Vec::new();
    let mut root = chasi::cli::command().term_width(80);
    root.build();
    walk("chasi", &root, &mut found);
    found
}

#[test]
fn the_help_of_every_command_is_pinned() {
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        insta::assert_snapshot!(name.replace(' ', "-"), help.trim_end());
    }
}

#[test]
fn every_command_and_every_argument_says_what_it_is_for() {
    for (name, command) in commands() {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(!about.is_empty(), "`{name}` has no help");
        assert!(
            about.starts_with(|first: char| first.is_uppercase()),
            "the help of `{name}` begins in lower case"
        );
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
        {
            let id = argument.get_id();
            assert!(
                argument.get_help().is_some(),
                "`{id}` of `{name}` has no help"
            );
        }
    }
}

#[test]
fn no_help_is_wider_than_a_terminal() {
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        // A usage line and a word that cannot be broken may be longer.
        let wide = help
            .lines()
            .filter(|line| line.chars().count() > 80 && !line.starts_with("Usage:"))
            .find(|line| line.split_whitespace().all(|word| word.len() < 40));
        assert_eq!(wide, None, "`{name}`");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    for arguments in [
        &["frobnicate"][..],
        &["schema", "--bogus"],
        &["--quiet", "--progress", "plain", "schema"],
    ] {
        chasi().args(arguments).assert().code(2);
    }
    let said = stderr(chasi().args(["schem"]));
    assert!(said.contains("'schema'"), "{said}");
}

#[test]
fn the_exit_codes_are_documented() {
    let mut text = String::from(
        "# Exit codes\n\n\
         0 is success. Anything else is a failure of one of these kinds; `kind` in JSON output has the same name.\n\n\
         | code | kind | meaning |\n|---|---|---|\n",
    );
    for kind in Kind::ALL {
        text.push_str(&format!(
            "| {} | `{}` | {} |\n",
            kind.exit_code(),
            kind.name(),
            kind.meaning()
        ));
    }
    text.push_str(
        "\nA program that `chasi lab ssh` or `chasi lab exec` runs in its place ends with its own code.\n\n\
         This page is made from `src/error.rs`; `UPDATE_DOCS=1 cargo test --test cli` writes it.\n",
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &text).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        text,
        "write it anew with `UPDATE_DOCS=1 cargo test --test cli`"
    );
}

#[test]
fn the_checks_and_the_ports_are_documented() {
    for (page, text) in [
        ("checks.md", chasi::cluster::check::page()),
        ("ports.md", chasi::distro::ports::page()),
    ] {
        let path = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap_or_default(),
            text,
            "write it anew with `UPDATE_DOCS=1 cargo test --test cli`"
        );
    }
}

#[test]
fn completion_exists_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = chasi().args(["completion", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout).unwrap().contains("chasi"),
            "{shell}"
        );
    }
}

#[test]
fn the_schema_is_json() {
    let output = chasi().arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["title"], "Clusterfile");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_chasi"))
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody reads: the pipe is closed before or while it is written.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_chasi"))
        .arg("schema")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(Kind::System.exit_code().into()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("error: cannot write to standard output\n  cause: "),
        "{said}"
    );
}
