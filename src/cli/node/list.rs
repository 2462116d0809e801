//! `chasi node list`: the nodes, and what is known of each.

use super::super::cluster::Known;
use super::super::table::Table;
use super::super::{Format, Shell};
use crate::cluster::status::{self, Node, Status};
use crate::error::Result;

/// List a cluster's nodes and hosts.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    known: Known,
    /// How to print it; as kubectl names it.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    /// How to print it; as other commands name it.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "output")]
    format: Option<Format>,
}

/// A form of the list.
#[derive(Clone, Copy, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    /// With addresses and images.
    Wide,
    /// As JSON.
    Json,
    /// Names only.
    Name,
}

impl Args {
    /// Asks the hosts and prints what they say.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let request = self.known.choose(shell)?.look(shell)?;
        let status = shell.block_on(status::status(shell.context(), &request))?;
        let is_json = self
            .format
            .is_some_and(|format| matches!(format, Format::Json));
        match self.output {
            Some(Output::Json) => shell.json(&status.nodes),
            _ if is_json => shell.json(&status.nodes),
            Some(Output::Name) => shell.result(&names(&status)),
            output => shell.result(&describe(&status, output == Some(Output::Wide))),
        }
    }
}

fn names(status: &Status) -> String {
    let lines = status
        .nodes
        .iter()
        .map(|node| format!("node/{}\n", node.name));
    lines.collect()
}

fn describe(status: &Status, wide: bool) -> String {
    let mut titles = vec![
        "NODE",
        "ROLES",
        "STATE",
        "VERSION",
        "GENERATION",
        "AGE",
        "HEALTH",
    ];
    if wide {
        titles.extend(["ADDRESS", "IMAGE"]);
    }
    let mut table = Table::new(titles);
    let now = jiff::Timestamp::now();
    for node in &status.nodes {
        let created = node.created.as_deref().and_then(|text| text.parse().ok());
        let age = created.map(|created: jiff::Timestamp| {
            age(now.as_second().saturating_sub(created.as_second()))
        });
        let mut row = vec![
            node.name.clone(),
            node.roles.join(","),
            state(node),
            node.version.clone(),
            node.generation.clone().unwrap_or_else(|| "-".into()),
            age.unwrap_or_else(|| "-".into()),
            node.problem.clone().unwrap_or_else(|| "ok".into()),
        ];
        if wide {
            row.push(node.address.clone().unwrap_or_else(|| "-".into()));
            row.push(node.image.clone().unwrap_or_else(|| "-".into()));
        }
        table.row(row);
    }
    table.to_string()
}

/// In kubectl's words, and what a drain that was cut left.
fn state(node: &Node) -> String {
    let mut state = if node.ready { "Ready" } else { "NotReady" }.to_owned();
    if node.unschedulable {
        state.push_str(",SchedulingDisabled");
    }
    if node.draining {
        state.push_str(",Draining");
    }
    state
}

/// Seconds as kubectl shows an age: the largest unit, or the two largest when the
/// first is small.
fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => format!("{minutes}m{}s", seconds % 60),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_short() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (3600, "60m"),
            (4 * 3600 + 120, "4h2m"),
            (9 * 3600, "9h"),
            (3 * 86_400, "3d"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }
}
