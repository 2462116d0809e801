//! The command line: what was typed becomes a request to the library, and what
//! the library tells becomes text. The only room that prints, reads the
//! environment, or knows about exit codes.
//!
//! A command is a file here: its `Args` say what can be typed, its `run` turns
//! that into a request. Results go to standard output, everything else to
//! standard error.

mod agent;
mod completion;
mod lab;
mod message;
mod node_service;
mod reporter;
mod schema;
mod shell;
mod signals;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use shell::{Format, Shell};
pub use table::Table;

use crate::error::Result;

/// Builds OCI cluster images and applies them over SSH to bare machines.
#[derive(Parser)]
#[command(
    name = "chasi",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: shell::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(hide = true)]
    Agent(agent::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    NodeService(node_service::Args),
    Lab(lab::Args),
    Schema(schema::Args),
}

impl Command {
    /// Whether a service runs it, on a host, with nobody at a terminal.
    fn is_service(&self) -> bool {
        matches!(self, Command::Agent(_) | Command::NodeService(_))
    }
}

/// Parses the process's arguments, runs the command and reports how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let shell = Shell::new(&cli.global, cli.command.is_service());
    match run(cli.command, &shell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell.report(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(command: Command, shell: &Shell) -> Result<()> {
    match command {
        Command::Agent(args) => args.run(),
        Command::Completion(args) => args.run(shell),
        Command::NodeService(args) => args.run(shell),
        Command::Lab(args) => args.run(shell),
        Command::Schema(args) => args.run(shell),
    }
}
