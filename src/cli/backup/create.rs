//! `chasi backup create`: a cluster into one file.

use std::path::PathBuf;

use super::super::cluster::Known;
use super::super::{Format, Shell};
use super::place::Way;
use crate::cluster::backup::{self, Recipients, Report, Request};
use crate::cluster::plan::size;
use crate::error::{Kind, Result, ResultExt};

/// The largest file of recipients, in bytes.
const LARGEST: u64 = 1 << 20;

/// Back up a cluster into one file: what etcd holds, the cluster's keys, its
/// Clusterfile, and what chasi keeps on the hosts.
///
/// With that file and the cluster image, `chasi backup restore` makes the cluster again
/// on fresh hosts. The file has its name only when it was read back and is whole.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// Where to: a directory, or `ssh://USER@HOST[:PORT]/DIRECTORY`.
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Encrypt it for this public key of age (`age1…`); may be given several times.
    #[arg(long = "recipient", value_name = "KEY")]
    recipients: Vec<String>,
    /// Encrypt it for the public keys in this file, one in each line.
    #[arg(long, value_name = "FILE")]
    recipients_file: Option<PathBuf>,
    #[command(flatten)]
    way: Way,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Makes the backup and reports it.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let recipients = self.recipients()?;
        let chosen = self.known.choose(shell)?;
        let request = Request {
            look: chosen.look(shell)?,
            place: self.way.place(&self.to)?,
            recipients,
            described: chosen.described()?,
        };
        let report = shell.block_on(backup::create(shell.context(), &request))?;
        if !report.encrypted {
            shell.context().warn(format!(
                "the backup is not encrypted, and holds the keys of the cluster: who can read it is its administrator (`--recipient age1…` encrypts it): `{}`",
                report.file
            ));
        }
        match self.format {
            Format::Json => shell.json(&report),
            Format::Table => shell.result(&describe(&report)),
        }
    }

    fn recipients(&self) -> Result<Recipients> {
        let mut all = self.recipients.clone();
        if let Some(path) = &self.recipients_file {
            let problem = || format!("cannot read `{}`", path.display());
            let size = std::fs::metadata(path).or_err(Kind::Input, problem)?.len();
            let text = match size <= LARGEST {
                true => std::fs::read_to_string(path).or_err(Kind::Input, problem)?,
                false => String::new(),
            };
            let lines = text.lines().map(str::trim);
            let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            let before = all.len();
            all.extend(keys.map(str::to_owned));
            if all.len() == before {
                // Who names a file does not want a backup that anyone can read.
                let message = format!("`{}` holds no recipients", path.display());
                return Err(crate::error::Error::new(Kind::Input, message)
                    .hint("a line for each: the public key that `age-keygen` prints, `age1…`"));
            }
        }
        Recipients::parse(&all)
    }
}

fn describe(report: &Report) -> String {
    let mut text = format!(
        "Cluster `{}` is backed up: {} ({}, etcd's revision {}).\n",
        report.cluster,
        report.file,
        size(report.bytes),
        report.revision
    );
    text += &format!("Read back and whole: {}\n", report.digest);
    if !report.left_out.is_empty() {
        text += &format!(
            "What chasi keeps on these hosts is not in it: {}\n",
            report.left_out.join(", ")
        );
    }
    text
}
