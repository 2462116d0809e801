//! After a failure: what the hosts' services said, into the run's full log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;

use crate::agent::Client;
use crate::agent::calls::host::ReadJournals;
use crate::error::{Error, Kind};
use crate::event::{Context, Event};

/// From how many hosts at most: the first ones tell what is wrong, and the log
/// must stay readable.
const MOST_HOSTS: usize = 8;
/// How long a host may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The hosts that an error and those found with it are about.
pub(super) fn hosts_of(error: &Error) -> BTreeSet<String> {
    std::iter::once(error)
        .chain(error.others())
        .filter_map(|error| error.host().map(str::to_owned))
        .collect()
}

/// Whether a failure has to do with what runs on hosts.
pub(super) fn is_worth_it(error: &Error) -> bool {
    !matches!(
        error.kind(),
        Kind::Interrupted | Kind::Locked | Kind::Usage | Kind::Input
    )
}

/// Puts the journals of these hosts into the full log. Never fails: the failure
/// that it explains is what counts.
pub(super) async fn gather(
    context: &Context,
    clients: &BTreeMap<String, Client>,
    hosts: &BTreeSet<String>,
) {
    let asked = clients
        .iter()
        .filter(|(name, client)| hosts.contains(*name) && client.is_alive())
        .take(MOST_HOSTS);
    join_all(asked.map(|(name, client)| async move {
        let answer = tokio::time::timeout(PATIENCE, client.call(ReadJournals {})).await;
        let text = match answer {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("the journals cannot be read: {error}"),
            Err(_) => "the journals did not come in time".to_owned(),
        };
        context.emit(Event::Detail {
            host: Some(name.clone()),
            text,
        });
    }))
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_of_a_failure_are_asked() {
        let error = Error::new(Kind::Failed, "x")
            .and(Error::new(Kind::Failed, "y").on_host("m2"))
            .and(Error::new(Kind::Failed, "z").on_host("m1"));
        assert_eq!(hosts_of(&error), ["m1", "m2"].map(str::to_owned).into());
    }
}
