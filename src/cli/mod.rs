//! The command line: what was typed becomes a request to the library, and what
//! the library tells becomes text. The only room that prints, reads the
//! environment, or knows about exit codes.
//!
//! A command is a file here: its `Args` say what can be typed, its `run` turns
//! that into a request. Results go to standard output, everything else to
//! standard error.

mod agent;
mod backup;
mod boot;
mod build;
mod certs;
mod check;
mod cluster;
mod completion;
mod config;
mod consent;
mod delete;
mod fsck;
mod history;
mod images;
mod inspect;
mod kubeconfig;
mod lab;
mod load;
mod message;
mod node;
mod node_service;
mod prune;
mod pull;
mod push;
mod reporter;
mod rmi;
mod rollback;
mod rolling;
mod run;
mod save;
mod schema;
mod shell;
mod signals;
mod status;
mod store;
mod table;
mod tag;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use shell::{Format, Shell};
pub use table::Table;

use crate::error::Result;

/// Builds OCI cluster images and applies them over SSH to bare machines.
#[derive(Parser)]
#[command(name = "chasi", version, max_term_width = 100)]
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
    #[command(hide = true)]
    Boot(boot::Args),
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
    Schema(schema::Args),
    Check(check::Args),
    Run(run::Args),
    Upgrade(upgrade::Args),
    History(history::Args),
    Rollback(rollback::Args),
    Node(node::Args),
    Status(status::Args),
    Kubeconfig(kubeconfig::Args),
    Delete(delete::Args),
    Backup(backup::Args),
    Certs(certs::Args),
}

impl Command {
    /// Whether a service runs it, on a host, with nobody at a terminal.
    fn is_service(&self) -> bool {
        matches!(
            self,
            Command::Agent(_) | Command::Boot(_) | Command::NodeService(_)
        )
    }

    /// Whether it leaves a full log. Who only looks leaves none, or the logs of
    /// installs would soon be swept away. A service's is the journal.
    fn keeps_log(&self) -> bool {
        match self {
            Command::Backup(args) => !args.only_looks(),
            Command::Certs(args) => !args.only_looks(),
            Command::Check(_)
            | Command::Status(_)
            | Command::History(_)
            | Command::Kubeconfig(_) => false,
            Command::Run(args) => !args.only_looks(),
            Command::Upgrade(args) => !args.only_looks(),
            Command::Rollback(args) => !args.only_looks(),
            Command::Delete(args) => !args.only_looks(),
            Command::Node(args) => !args.only_looks(),
            _ => !self.is_service(),
        }
    }
}

/// The command line as clap knows it, for completion, documentation and tests.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the process's arguments, runs the command and reports how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let shell = Shell::new(
        &cli.global,
        cli.command.is_service(),
        cli.command.keeps_log(),
    );
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
        Command::Boot(args) => args.run(shell),
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
        Command::Schema(args) => args.run(shell),
        Command::Check(args) => args.run(shell),
        Command::Run(args) => args.run(shell),
        Command::Upgrade(args) => args.run(shell),
        Command::History(args) => args.run(shell),
        Command::Rollback(args) => args.run(shell),
        Command::Node(args) => args.run(shell),
        Command::Status(args) => args.run(shell),
        Command::Kubeconfig(args) => args.run(shell),
        Command::Delete(args) => args.run(shell),
        Command::Backup(args) => args.run(shell),
        Command::Certs(args) => args.run(shell),
    }
}
