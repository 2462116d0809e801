//! `chasi history`: what was done to a cluster, and when.

use serde::Serialize;

use super::cluster::Known;
use super::table::Table;
use super::{Format, Shell};
use crate::agent::calls::history::{HistoryEntry, RunOutcome};
use crate::cluster::history;
use crate::error::Result;

/// List what was done to a cluster: its revisions, which `chasi rollback` can go back
/// to.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

/// The history, for programs. `docs/rollback.md` describes it.
#[derive(Serialize)]
struct History<'a> {
    cluster: String,
    /// The number of the last revision.
    current: Option<u32>,
    /// The oldest first.
    entries: &'a [HistoryEntry],
}

impl Args {
    /// Asks the control planes and prints what they have noted.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = self.known.choose(shell)?;
        let request = chosen.look(shell)?;
        let entries = shell.block_on(history::history(shell.context(), &request))?;
        let history = History {
            cluster: chosen.name(),
            current: current(&entries),
            entries: &entries,
        };
        match self.format {
            Format::Json => shell.json(&history),
            Format::Table => shell.result(&describe(&history)),
        }
    }
}

/// The revision that the cluster is at.
fn current(entries: &[HistoryEntry]) -> Option<u32> {
    let last = entries.iter().rev().find_map(|one| one.revision.as_ref());
    last.map(|revision| revision.number)
}

fn describe(history: &History) -> String {
    if history.entries.is_empty() {
        return format!("Nothing was done to `{}` yet.\n", history.cluster);
    }
    let mut table = Table::new([
        "N",
        "WHEN",
        "WHO",
        "COMMAND",
        "IMAGE",
        "KUBERNETES",
        "OUTCOME",
    ]);
    for entry in history.entries {
        let revision = entry.revision.as_ref();
        let number = match revision.map(|revision| revision.number) {
            Some(number) if Some(number) == history.current => format!("{number}*"),
            Some(number) => number.to_string(),
            None => "-".to_owned(),
        };
        let command = match revision.and_then(|revision| revision.back_to) {
            Some(number) => format!("{} to {number}", entry.command),
            None => entry.command.clone(),
        };
        let digest = entry.image.short().to_string();
        table.row([
            number,
            entry.when.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            entry.who.clone(),
            command,
            match revision {
                Some(revision) => format!("{} ({digest})", revision.reference),
                None => digest,
            },
            entry.kubernetes.clone(),
            outcome(entry.outcome).to_owned(),
        ]);
    }
    format!("{table}\n* the current one\n")
}

fn outcome(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Done => "done",
        RunOutcome::Partial => "partial",
        RunOutcome::Failed => "failed",
        RunOutcome::Unfinished => "unfinished",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::calls::history::Revision;
    use crate::digest::Digest;
    use crate::oci::Blob;

    fn entry(number: Option<u32>, command: &str, back_to: Option<u32>) -> HistoryEntry {
        HistoryEntry {
            version: 2,
            run: "r".into(),
            who: "me@here".into(),
            when: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            command: command.into(),
            image: Digest::of("image"),
            kubernetes: "1.34.4".into(),
            ignored: Vec::new(),
            outcome: RunOutcome::Done,
            revision: number.map(|number| Revision {
                number,
                back_to,
                reference: "chasi/demo:1.34.4".into(),
                index: Blob::of("x", b"image"),
                objects: Digest::of("objects"),
                clusterfile: Digest::of("file"),
                hosts: Default::default(),
            }),
        }
    }

    #[test]
    fn the_current_revision_and_what_a_rollback_went_back_to_are_shown() {
        let entries = [
            entry(None, "run", None),
            entry(Some(1), "upgrade", None),
            entry(Some(2), "rollback", Some(1)),
        ];
        let history = History {
            cluster: "shop".into(),
            current: current(&entries),
            entries: &entries,
        };
        insta::assert_snapshot!(describe(&history), @r"
        N   WHEN                  WHO      COMMAND        IMAGE                             KUBERNETES  OUTCOME
        -   2026-01-02T03:04:05Z  me@here  run            6105d6cc76af                      1.34.4      done
        1   2026-01-02T03:04:05Z  me@here  upgrade        chasi/demo:1.34.4 (6105d6cc76af)  1.34.4      done
        2*  2026-01-02T03:04:05Z  me@here  rollback to 1  chasi/demo:1.34.4 (6105d6cc76af)  1.34.4      done

        * the current one
        ");
    }

    #[test]
    fn nothing_is_a_history_too() {
        let history = History {
            cluster: "shop".into(),
            current: None,
            entries: &[],
        };
        assert_eq!(describe(&history), "Nothing was done to `shop` yet.\n");
    }
}
