//! `chasi backup list`: which backups there are.

use super::super::{Format, Shell, Table};
use super::place::Way;
use crate::cluster::backup::{self, Listed};
use crate::cluster::plan::size;
use crate::error::{Error, Kind, Result};

/// List the backups in a directory, and whether each is whole.
///
/// All of them are read for that. Exits with 7 when one is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// A directory, or `ssh://USER@HOST[:PORT]/DIRECTORY`.
    #[arg(value_name = "PLACE")]
    place: String,
    #[command(flatten)]
    way: Way,
    /// How to print the list.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Args {
    /// Reads and prints them.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let place = self.way.place(&self.place)?;
        let listed = shell.block_on(backup::list(shell.context(), &place))?;
        match self.format {
            Format::Json => shell.json(&listed)?,
            Format::Table => shell.result(&table(&listed))?,
        }
        let damaged = listed.iter().filter(|one| !one.whole);
        let damaged: Vec<&str> = damaged.map(|one| one.name.as_str()).collect();
        match damaged.as_slice() {
            [] => Ok(()),
            names => Err(
                Error::new(Kind::Integrity, format!("not whole: {}", names.join(", ")))
                    .hint("make a new one: `chasi backup create`"),
            ),
        }
    }
}

fn table(listed: &[Listed]) -> String {
    let mut table = Table::new([
        "NAME",
        "CLUSTER",
        "WHEN",
        "KUBERNETES",
        "SIZE",
        "ENCRYPTED",
        "WHOLE",
    ]);
    let word = |yes: bool| if yes { "yes" } else { "no" };
    for one in listed {
        table.row([
            one.name.clone(),
            one.cluster.clone(),
            one.when.to_string(),
            one.kubernetes.clone(),
            size(one.bytes),
            word(one.encrypted).to_owned(),
            word(one.whole).to_owned(),
        ]);
    }
    table.to_string()
}
