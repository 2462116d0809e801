//! The command line: what was typed becomes a request to the library, and what
//! the library tells becomes text. The only room that prints, reads the
//! environment, or knows about exit codes.
//!
//! A command is a file here: its `Args` say what can be typed, its `run` turns
//! that into a request. Results go to standard output, everything else to
//! standard error.

mod agent;
mod build;
mod completion;
mod config;
mod lab;
mod node_service;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use shell::{Format, Shell};

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
    Build(build::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    NodeService(node_service::Args),
    Lab(lab::Args),
}

/// Parses the process's arguments, runs the command and reports how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let shell = Shell::new(&cli.global);
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
        Command::Build(args) => args.run(shell),
        Command::Completion(args) => args.run(shell),
        Command::NodeService(args) => args.run(shell),
        Command::Lab(args) => args.run(shell),
    }
}
