//! What was done to a cluster: the revisions that its control planes have noted. Only
//! looks; takes no lock.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::connect::{connect, farewell, sort};
use super::status::Request;
use crate::agent::Client;
use crate::agent::calls::history::{HistoryEntry, ReadHistory};
use crate::error::{Error, Kind, Result};
use crate::event::Context;

/// How many runs are asked for.
const MOST: u32 = 1000;

/// The history of a cluster, the oldest first, of all control planes that can be asked:
/// one that was off has not noted what was done then.
pub async fn history(context: &Context, request: &Request) -> Result<Vec<HistoryEntry>> {
    let clients = enter(context, request).await?;
    let entries = gather(clients.values()).await;
    farewell(clients.into_values()).await;
    entries
}

/// Enters the control planes, as many as can be.
pub(super) async fn enter(
    context: &Context,
    request: &Request,
) -> Result<BTreeMap<String, Client>> {
    let planes: Vec<&str> = request.cluster.hosts.control_plane_names().collect();
    let is_plane = |name: &str| planes.contains(&name);
    let targets: Vec<_> = request
        .targets
        .iter()
        .filter(|target| is_plane(&target.name))
        .cloned()
        .collect();
    let options = request.visitor.looking();
    let work = connect(context, &targets, &options);
    let (clients, mut problems) = sort(context.phase("history", work).await);
    match problems.pop() {
        Some((host, error)) if clients.is_empty() => Err(error.on_host(host)),
        _ => Ok(clients),
    }
}

/// What these control planes have noted. Fails when none can say it.
pub(super) async fn gather(
    clients: impl IntoIterator<Item = &Client>,
) -> Result<Vec<HistoryEntry>> {
    let asked = clients.into_iter().map(|client| async {
        let answer = client.call(ReadHistory { most: MOST }).await;
        answer.map_err(|error| error.on_host(client.host()))
    });
    let mut failed = None;
    let mut all = Vec::new();
    let mut answered = false;
    for answer in join_all(asked).await {
        match answer {
            Ok(entries) => {
                answered = true;
                all.extend(entries);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (answered, failed) {
        (true, _) => Ok(merge(all)),
        (false, Some(error)) => Err(error),
        (false, None) => Err(Error::new(
            Kind::Unreachable,
            "no control plane can be asked",
        )),
    }
}

/// Each run once, in the order of their numbers; those without one are the oldest.
fn merge(entries: Vec<HistoryEntry>) -> Vec<HistoryEntry> {
    let by_run: BTreeMap<String, HistoryEntry> = entries
        .into_iter()
        .map(|entry| (entry.run.clone(), entry))
        .collect();
    let mut merged: Vec<HistoryEntry> = by_run.into_values().collect();
    merged.sort_by_key(|entry| (number(entry), entry.when));
    merged
}

/// The number of its revision; 0 without one.
fn number(entry: &HistoryEntry) -> u32 {
    entry
        .revision
        .as_ref()
        .map_or(0, |revision| revision.number)
}

/// The number of the next revision.
pub(super) fn next(entries: &[HistoryEntry]) -> u32 {
    entries.iter().map(number).max().unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::super::rollback::tests::entry;
    use super::*;
    use crate::agent::calls::history::RunOutcome;

    #[test]
    fn what_control_planes_noted_is_one_history() {
        let old = HistoryEntry {
            version: 1,
            revision: None,
            ..entry(9, "a", RunOutcome::Done)
        };
        let (one, two, three) = (
            entry(1, "a", RunOutcome::Done),
            entry(2, "b", RunOutcome::Done),
            entry(3, "c", RunOutcome::Done),
        );
        let noted = vec![
            three.clone(),
            one.clone(),
            old.clone(),
            two.clone(),
            three.clone(),
        ];
        let merged = merge(noted);
        assert_eq!(merged, [old, one, two, three]);
        assert_eq!((next(&merged), next(&[])), (4, 1));
    }
}
