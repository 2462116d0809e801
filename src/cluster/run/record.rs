//! What a run leaves: its lines in the history, and generations that somebody may go
//! back to.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::super::desired::{labels, taints};
use super::super::history;
use super::{Prepared, Report};
use crate::agent::Client;
use crate::agent::calls::history::{HistoryEntry, RecordRun, Revision, RevisionHost, RunOutcome};
use crate::agent::calls::host::{PruneGenerations, ReadSwitches};
use crate::error::{Kind, Result};
use crate::event::{Context, Event};
use crate::host::Part;

impl Prepared {
    /// Notes in the history that this run begins: what comes of it may be heard of no
    /// more.
    pub(super) async fn begin(&self, context: &Context) {
        match history::gather(self.alive_planes()).await {
            Ok(entries) => {
                let number = *self.number.get_or_init(|| history::next(&entries));
                self.note(context, number, RunOutcome::Unfinished).await;
            }
            Err(error) if error.kind() == Kind::Interrupted => {}
            Err(error) => context.warn(format!("the run will not be in the history: {error}")),
        }
    }

    /// Notes in the history how this run has ended, and returns its number there. What
    /// was done stays done, whatever becomes of that.
    pub(super) async fn record(&self, context: &Context, result: &Result<Report>) -> Option<u32> {
        let outcome = match result {
            // One that was stopped may be gone on with.
            Err(error) if error.kind() == Kind::Interrupted => return None,
            Err(_) => RunOutcome::Failed,
            Ok(report) if report.left_out.is_empty() => RunOutcome::Done,
            Ok(_) => RunOutcome::Partial,
        };
        // One that has not begun is not there.
        let number = *self.number.get()?;
        let is_there = self.note(context, number, outcome).await;
        is_there.then_some(number)
    }

    /// Notes this run on the control planes. Whether any has it then.
    async fn note(&self, context: &Context, number: u32, outcome: RunOutcome) -> bool {
        let visitor = &self.request.visitor;
        let entry = HistoryEntry {
            version: 2,
            run: visitor.run.clone(),
            who: visitor.who.clone(),
            when: jiff::Timestamp::now(),
            command: self.request.command.to_owned(),
            image: self.plan.digest,
            kubernetes: self.plan.version.clone(),
            ignored: self.ignored(),
            outcome,
            revision: Some(Revision {
                number,
                back_to: self.request.back.as_ref().map(|back| back.number),
                reference: self.plan.image.clone(),
                index: self.request.index.clone(),
                objects: self.desired.objects,
                clusterfile: self.request.clusterfile,
                hosts: self.revision_hosts().await,
            }),
        };
        let recording = self.alive_planes().map(|client| {
            let entry = entry.clone();
            client.call(RecordRun { entry })
        });
        let recorded = join_all(recording).await;
        let is_there = recorded.iter().any(Result::is_ok);
        let failed = recorded.into_iter().filter_map(Result::err);
        // Who stops it waits for nothing more, and was told so.
        for error in failed.filter(|error| error.kind() != Kind::Interrupted) {
            let host = error.host().map(str::to_owned);
            let text = format!("the run is not in the history there: {error}");
            context.emit(Event::Warning { host, text });
        }
        is_there
    }

    /// The control planes that can be asked.
    fn alive_planes(&self) -> impl Iterator<Item = &Client> {
        let names = self.request.cluster.hosts.control_plane_names();
        names.filter_map(|name| self.alive(name))
    }

    fn alive(&self, host: &str) -> Option<&Client> {
        self.clients.get(host).filter(|client| client.is_alive())
    }

    /// What each host of the Clusterfile is now, as far as it can be asked.
    async fn revision_hosts(&self) -> BTreeMap<String, RevisionHost> {
        let hosts = self.request.cluster.hosts.iter().map(|host| async move {
            let name = host.name.as_str();
            let switches = match self.alive(name) {
                Some(client) => client.call(ReadSwitches {}).await.unwrap_or_default(),
                None => BTreeMap::new(),
            };
            let mut desired = self.desired.hosts.iter();
            let desired = desired.find(|one| one.node.name == name);
            let (labels, taints) = match desired {
                Some(one) => (one.labels.clone(), one.taints.clone()),
                None => (labels(host), taints(host)),
            };
            let host = RevisionHost {
                node: switches.get(&Part::Node).copied(),
                control_plane: switches.get(&Part::ControlPlane).copied(),
                labels,
                taints,
            };
            (name.to_owned(), host)
        });
        join_all(hosts).await.into_iter().collect()
    }

    /// Removes what nobody goes back to any more.
    pub(super) async fn prune(&self, context: &Context) {
        let pruning = self.clients.iter().map(|(name, client)| async move {
            let result = client.call(PruneGenerations {}).await;
            result.err().map(|error| (name.clone(), error))
        });
        for (host, error) in join_all(pruning).await.into_iter().flatten() {
            let host = Some(host);
            let text = format!("old generations could not be removed: {error}");
            context.emit(Event::Detail { host, text });
        }
    }
}
