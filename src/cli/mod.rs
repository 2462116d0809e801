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
mod fsck;
mod images;
mod inspect;
mod lab;
mod load;
mod node_service;
mod prune;
mod pull;
mod push;
mod rmi;
mod save;
mod shell;
mod store;
mod tag;

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
    Images(images::Args),
    Inspect(inspect::Args),
    Tag(tag::Args),
    Rmi(rmi::Args),
    Save(save::Args),
    Load(load::Args),
    Pull(pull::Args),
    Push(push::Args),
    Fsck(fsck::Args),
    Prune(prune::Args),
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
        Command::Images(args) => args.run(shell),
        Command::Inspect(args) => args.run(shell),
        Command::Tag(args) => args.run(shell),
        Command::Rmi(args) => args.run(shell),
        Command::Save(args) => args.run(shell),
        Command::Load(args) => args.run(shell),
        Command::Pull(args) => args.run(shell),
        Command::Push(args) => args.run(shell),
        Command::Fsck(args) => args.run(shell),
        Command::Prune(args) => args.run(shell),
    }
}
