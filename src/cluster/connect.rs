//! One agent on each host: all hosts at once, one connection each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::agent::{self, Client, InstallOptions};
use crate::error::{Error, Result};
use crate::event::Context;
use crate::remote::Target;

/// How long to wait for another run to end, when one holds a host's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

/// In whose name hosts are entered, and with which program.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The run's identifier.
    pub run: String,
    /// Who runs it, and where: `user@machine`.
    pub who: String,
    /// This program, to be copied to hosts.
    pub program: PathBuf,
}

impl Visitor {
    /// To ask only.
    pub(super) fn looking(&self) -> InstallOptions {
        InstallOptions::new(&self.run, &self.who, &self.program)
    }

    /// To change hosts, alone.
    pub(super) fn changing(&self) -> InstallOptions {
        self.looking().with_lock(LOCK_PATIENCE)
    }
}

/// What became of the attempt to enter each host, in the order of the targets.
pub(super) async fn connect(
    context: &Context,
    targets: &[Target],
    options: &InstallOptions,
) -> Vec<(String, Result<Client>)> {
    join_all(targets.iter().map(|target| async move {
        let work = agent::connect(context, target, options);
        let client = context.step(Some(&target.name), "connect", work).await;
        (target.name.clone(), client)
    }))
    .await
}

/// Separates the hosts that were entered from those that were not.
pub(super) fn sort(
    answers: Vec<(String, Result<Client>)>,
) -> (BTreeMap<String, Client>, Vec<(String, Error)>) {
    let mut clients = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, answer) in answers {
        match answer {
            Ok(client) => {
                clients.insert(name, client);
            }
            Err(error) => problems.push((name, error)),
        }
    }
    (clients, problems)
}

/// Ends the connections.
pub(super) async fn farewell(clients: impl IntoIterator<Item = Client>) {
    // An agent that cannot say goodbye ends by itself.
    join_all(clients.into_iter().map(Client::bye)).await;
}

/// A host that this run does not touch.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The host's name.
    pub host: String,
    /// Why.
    pub reason: String,
}

impl LeftOut {
    /// A host, and everything that its error says.
    pub(super) fn because(host: impl Into<String>, error: &Error) -> Self {
        let reason = std::iter::once(error.to_string())
            .chain(error.causes().map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(": ");
        LeftOut {
            host: host.into(),
            reason,
        }
    }
}
