//! One agent on each host: all hosts at once, one connection each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::agent::calls::distro::{ClusterReport, ClusterState};
use crate::agent::{self, Client, InstallOptions};
use crate::error::{Error, Kind, Result};
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

    /// To change hosts, alone; or to ask only, in a dry run.
    pub(super) fn changing(&self, dry_run: bool) -> InstallOptions {
        match dry_run {
            true => self.looking(),
            false => self.looking().with_lock(LOCK_PATIENCE),
        }
    }
}

/// A change that was looked at, with its hosts entered, and that is not made yet.
pub trait Prepared {
    /// Ends the connections without changing anything.
    fn abandon(self) -> impl Future<Output = ()> + Send;
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

/// What the API says, by way of the first of these agents, each on the control plane
/// with the address, that gets an answer.
pub(super) async fn ask_api<'a>(
    control_planes: impl IntoIterator<Item = (IpAddr, &'a Client)>,
) -> Result<ClusterReport> {
    let mut last = Error::new(Kind::Unreachable, "no control plane can be asked");
    for (address, client) in control_planes {
        let call = ClusterState {
            address,
            namespaces: Vec::new(),
        };
        match client.call(call).await {
            Ok(report) => return Ok(report),
            Err(error) => last = error,
        }
    }
    Err(last)
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
    /// Why, in one line.
    pub reason: String,
    /// What brought it about, nearest first; possibly many lines each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl LeftOut {
    /// A host, and everything that its error says.
    pub fn because(host: impl Into<String>, error: &Error) -> Self {
        let causes: Vec<String> = error.causes().map(ToString::to_string).collect();
        let message = error.to_string();
        let reason = std::iter::once(&message)
            .chain(&causes)
            .filter_map(|text| text.lines().next())
            .collect::<Vec<_>>()
            .join(": ");
        LeftOut {
            host: host.into(),
            reason,
            causes,
            hints: error.hints().to_vec(),
        }
    }

    /// It as an error of its host again, to be shown as such.
    pub fn error(&self) -> Error {
        let cause = self
            .causes
            .iter()
            .rev()
            .fold(None, |inner: Option<Error>, text| {
                let outer = Error::new(Kind::Failed, text.clone());
                Some(match inner {
                    Some(inner) => outer.because(inner),
                    None => outer,
                })
            });
        let error = Error::new(Kind::Partial, self.reason.clone()).on_host(&self.host);
        let error = match cause {
            Some(cause) => error.because(cause),
            None => error,
        };
        self.hints
            .iter()
            .fold(error, |error, hint| error.hint(hint.clone()))
    }
}

/// Says of an interruption that nothing has been changed by then.
pub(super) fn untouched(error: Error) -> Error {
    match error.kind() {
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; nothing was changed"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_left_out_keeps_what_its_error_says() {
        let error = Error::new(Kind::Failed, "cannot start `x`")
            .because(Error::new(Kind::Failed, "it failed\nits journal").because("last"))
            .hint("look");
        let one = LeftOut::because("m1", &error);
        assert_eq!(one.reason, "cannot start `x`: it failed: last");
        let again = one.error();
        let causes: Vec<_> = again.causes().map(ToString::to_string).collect();
        assert_eq!(causes, ["it failed\nits journal", "last"]);
        assert_eq!(
            (again.host(), again.hints()),
            (Some("m1"), &["look".to_owned()][..])
        );
    }
}
