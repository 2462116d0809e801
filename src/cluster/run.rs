//! `chasi run`: from intent to change.
//!
//! [`prepare`] looks at everything and changes nothing: it connects, asks, checks
//! and plans. [`Prepared::apply`] carries the plan out and verifies the result.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::apply::{Outcome, Run};
use super::check::{self, Finding, Selection};
use super::connect::{self, LeftOut, Visitor, connect, farewell};
use super::desired::{Desired, Known, desired};
use super::evidence;
use super::hooks::{self, HookState};
use super::plan::{Plan, plan};
use super::survey::{HostState, Survey};
use super::verify::verify;
use crate::agent::calls::blobs::BlobsMissing;
use crate::agent::calls::distro::ClusterReport;
use crate::agent::calls::history::{HistoryEntry, RecordRun, RunOutcome};
use crate::agent::calls::host::{CheckSettings, HostReport, ReadHost};
use crate::agent::{Client, ClusterLock};
use crate::distro::Role;
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};
use crate::host::Part;
use crate::oci::{Blob, ClusterImage, Store};
use crate::remote::Target;
use crate::spec;

/// What to run, where, as whom.
pub struct Request {
    /// What was asked for.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// The controller's store.
    pub store: Store,
    /// The image's index in the store.
    pub index: Blob,
    /// In whose name.
    pub visitor: Visitor,
    /// Whether only to look.
    pub dry_run: bool,
    /// Which checks do not count.
    pub selection: Selection,
}

/// Everything that is known before the first change.
pub struct Prepared {
    request: Request,
    clients: BTreeMap<String, Client>,
    desired: Desired,
    /// What has to change.
    pub plan: Plan,
    /// What the checks found that does not prevent the run.
    pub findings: Vec<Finding>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster image, as the user named it.
    pub image: String,
    /// The Kubernetes version it brings.
    pub version: String,
    /// How many steps were done.
    pub steps: usize,
    /// What the API says in the end.
    pub state: ClusterReport,
    /// Hosts that this run did not touch, or that failed.
    pub left_out: Vec<LeftOut>,
    /// Checks that found something, or could not look, and were ignored.
    pub ignored: Vec<String>,
}

/// Connects, asks, checks and plans. Changes nothing.
pub async fn prepare(context: &Context, request: Request) -> Result<Prepared> {
    examine(context, request).await.map_err(untouched)
}

/// Says of an interruption that nothing has been changed by then.
fn untouched(error: Error) -> Error {
    match error.kind() {
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; nothing was changed"),
        _ => error,
    }
}

async fn examine(context: &Context, request: Request) -> Result<Prepared> {
    let image = ClusterImage::open(&request.store, &request.index)?;
    let (clients, left_out) = context.phase("connect", enter(context, &request)).await?;
    let prepared = look(context, &request, &image, &clients, left_out).await;
    match prepared {
        Ok((desired, plan, findings)) => Ok(Prepared {
            request,
            clients,
            desired,
            plan,
            findings,
        }),
        Err(error) => {
            farewell(clients.into_values()).await;
            Err(error)
        }
    }
}

async fn look(
    context: &Context,
    request: &Request,
    image: &ClusterImage,
    clients: &BTreeMap<String, Client>,
    left_out: Vec<LeftOut>,
) -> Result<(Desired, Plan, Vec<Finding>)> {
    let reports = context.phase("facts", facts(clients)).await?;
    let (cluster, selection) = (&request.cluster, &request.selection);
    let checks = check::before_run(
        cluster,
        (image, &request.store),
        clients,
        &reports,
        selection,
    );
    let findings = context.phase("checks", checks).await?;
    let known: Vec<Known> = request
        .cluster
        .hosts
        .iter()
        .filter_map(|host| {
            let report = reports.get(host.name.as_str())?;
            Some(Known {
                host,
                facts: &report.facts,
                etcd: report.etcd.clone(),
                etcd_data: report.distro.etcd_data,
            })
        })
        .collect();
    let desired = desired(&request.cluster, image, &known)?;
    let survey = survey(&desired, clients, reports, left_out, image).await?;
    let plan = plan(&desired, &survey);
    Ok((desired, plan, findings))
}

/// One agent on each host that can be reached. Hosts that cannot are left out,
/// as long as what must be there is there.
async fn enter(
    context: &Context,
    request: &Request,
) -> Result<(BTreeMap<String, Client>, Vec<LeftOut>)> {
    let options = request.visitor.changing(request.dry_run);
    let (clients, problems) = connect::sort(connect(context, &request.targets, &options).await);
    match enough(request, &clients, problems) {
        Ok(left_out) => Ok((clients, left_out)),
        Err(error) => {
            farewell(clients.into_values()).await;
            Err(error)
        }
    }
}

/// The names of all control planes.
fn control_planes(cluster: &spec::Cluster) -> Vec<&str> {
    cluster
        .hosts
        .control_planes()
        .map(|host| host.name.as_str())
        .collect()
}

/// A run can do without workers, and without a minority of the control planes,
/// that do not answer. Anything else that went wrong ends it.
fn enough(
    request: &Request,
    clients: &BTreeMap<String, Client>,
    problems: Vec<(String, Error)>,
) -> Result<Vec<LeftOut>> {
    let control_planes = control_planes(&request.cluster);
    let reached = control_planes
        .iter()
        .filter(|name| clients.contains_key(**name))
        .count();
    let mut left_out = Vec::new();
    for (host, error) in problems {
        if error.kind() != Kind::Unreachable || reached * 2 <= control_planes.len() {
            return Err(error.on_host(host));
        }
        left_out.push(LeftOut::because(host, &error));
    }
    Ok(left_out)
}

async fn facts(clients: &BTreeMap<String, Client>) -> Result<BTreeMap<String, HostReport>> {
    let answers = join_all(
        clients
            .iter()
            .map(|(name, client)| async move { (name, client.call(ReadHost {}).await) }),
    )
    .await;
    answers
        .into_iter()
        .map(|(name, answer)| match answer {
            Ok(report) => Ok((name.clone(), report)),
            Err(error) => Err(error.on_host(name)),
        })
        .collect()
}

async fn survey(
    desired: &Desired,
    clients: &BTreeMap<String, Client>,
    reports: BTreeMap<String, HostReport>,
    left_out: Vec<LeftOut>,
    image: &ClusterImage,
) -> Result<Survey> {
    let blobs = image.blobs();
    let states = join_all(desired.hosts.iter().map(|host| {
        let (blobs, reports) = (&blobs, &reports);
        async move {
            let name = &host.node.name;
            let (Some(client), Some(report)) = (clients.get(name), reports.get(name)) else {
                return Err(Error::new(Kind::Failed, "the host did not report").on_host(name));
            };
            let missing = client
                .call(BlobsMissing {
                    blobs: blobs.clone(),
                })
                .await?;
            let settings = host.settings.clone();
            let settled = client.call(CheckSettings { settings }).await?;
            let hooks = hooks::state(client, host).await?;
            Ok((name.clone(), host_state(report, missing, settled, hooks)))
        }
    }))
    .await
    .into_iter()
    .collect::<Result<BTreeMap<_, _>>>()?;
    let nodes = cluster_state(desired, clients, &states)
        .await
        .map(|report| report.nodes);
    Ok(Survey {
        hosts: states,
        left_out,
        nodes,
    })
}

fn host_state(
    report: &HostReport,
    missing: Vec<Blob>,
    settled: bool,
    hooks: HookState,
) -> HostState {
    let managed = &report.facts.managed;
    let drifted = managed.parts.values().any(|part| !part.drift.is_empty());
    HostState {
        missing,
        staged: managed
            .generations
            .iter()
            .map(|generation| generation.identity)
            .collect(),
        node: report.current(Part::Node),
        control_plane: report.current(Part::ControlPlane),
        settled: settled && !drifted && report.program_is_current && managed.pending.is_empty(),
        stopped: report.stopped.clone(),
        distro: report.distro.clone(),
        hooks,
    }
}

/// What the API says, asked on the first control plane that answers. One that has
/// been in use is given some seconds: while etcd elects a leader, for instance
/// because a control plane is off, no API server answers.
async fn cluster_state(
    desired: &Desired,
    clients: &BTreeMap<String, Client>,
    states: &BTreeMap<String, HostState>,
) -> Option<ClusterReport> {
    const ATTEMPTS: u32 = 5;
    const PAUSE: Duration = Duration::from_secs(2);
    let candidates: Vec<_> = desired
        .hosts
        .iter()
        .filter(|host| host.node.role == Role::ControlPlane)
        .filter_map(|host| {
            let name = &host.node.name;
            let state = states
                .get(name)
                .filter(|state| state.distro.pki.is_some())?;
            Some((host.node.node_ip(), clients.get(name)?, state))
        })
        .collect();
    let in_use = candidates
        .iter()
        .any(|(_, _, state)| state.distro.objects.is_some());
    for attempt in 1..=ATTEMPTS {
        let asked = candidates
            .iter()
            .map(|(address, client, _)| (*address, *client));
        if let Ok(report) = connect::ask_api(asked).await {
            return Some(report);
        }
        if !in_use || attempt == ATTEMPTS {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

impl Prepared {
    /// Ends the connections without changing anything.
    pub async fn abandon(self) {
        farewell(self.clients.into_values()).await;
    }

    /// Carries the plan out, verifies, and ends the connections.
    pub async fn apply(self, context: &Context) -> Result<Report> {
        let result = self.change(context).await;
        if !self.plan.is_empty() {
            self.record(context, &result).await;
        }
        if let Err(error) = &result
            && evidence::is_worth_it(error)
        {
            let hosts = evidence::hosts_of(error);
            evidence::gather(context, &self.clients, &hosts).await;
        }
        farewell(self.clients.into_values()).await;
        result
    }

    async fn change(&self, context: &Context) -> Result<Report> {
        let run = Run {
            context,
            desired: &self.desired,
            clients: &self.clients,
            store: &self.request.store,
            run: &self.request.visitor.run,
            index: &self.request.index,
        };
        let outcome = match self.plan.is_empty() {
            // Who changes nothing keeps nobody out.
            true => Outcome::default(),
            false => self.carry_out(&run).await?,
        };
        let failed = outcome.failed.keys().cloned().collect();
        evidence::gather(context, &self.clients, &failed).await;
        let expected: Vec<&str> = self
            .desired
            .hosts
            .iter()
            .map(|host| host.node.name.as_str())
            .filter(|name| !outcome.failed.contains_key(*name))
            .collect();
        let complete = self.plan.left_out.is_empty() && outcome.failed.is_empty();
        let verify = verify(context, &self.desired, &self.clients, &expected, complete);
        let state = context.phase("verify", verify).await?;
        let mut left_out = self.plan.left_out.clone();
        left_out.extend(
            outcome
                .failed
                .iter()
                .map(|(host, error)| LeftOut::because(host, error)),
        );
        Ok(Report {
            cluster: self.desired.cluster.name.clone(),
            image: self.plan.image.clone(),
            version: self.plan.version.clone(),
            steps: outcome.done.len(),
            state,
            left_out,
            ignored: self.ignored(),
        })
    }

    /// The checks that found something, or could not look, and were ignored.
    fn ignored(&self) -> Vec<String> {
        let ignored = self.findings.iter().filter(|finding| finding.ignored);
        let ids: BTreeSet<&str> = ignored.map(|finding| finding.check).collect();
        ids.into_iter().map(str::to_owned).collect()
    }

    /// Adds this run to the history on the control planes. What was done stays done,
    /// whatever becomes of that.
    async fn record(&self, context: &Context, result: &Result<Report>) {
        let outcome = match result {
            // Somebody else's run; this one has not begun.
            Err(error) if error.kind() == Kind::Locked => return,
            Err(_) => RunOutcome::Failed,
            Ok(report) if report.left_out.is_empty() => RunOutcome::Done,
            Ok(_) => RunOutcome::Partial,
        };
        let visitor = &self.request.visitor;
        let entry = HistoryEntry {
            version: 1,
            run: visitor.run.clone(),
            who: visitor.who.clone(),
            when: jiff::Timestamp::now(),
            command: "run".to_owned(),
            image: self.plan.digest,
            kubernetes: self.plan.version.clone(),
            ignored: self.ignored(),
            outcome,
        };
        let names = control_planes(&self.request.cluster);
        let recording = names.iter().filter_map(|name| {
            let client = self.clients.get(*name).filter(|client| client.is_alive())?;
            let entry = entry.clone();
            Some(client.call(RecordRun { entry }))
        });
        let failed = join_all(recording).await;
        let failed = failed.into_iter().filter_map(Result::err);
        // Who stops it waits for nothing more, and was told so.
        for error in failed.filter(|error| error.kind() != Kind::Interrupted) {
            let host = error.host().map(str::to_owned);
            let text = format!("the run is not in the history there: {error}");
            context.emit(Event::Warning { host, text });
        }
    }

    /// Carries the plan out under the cluster's lock.
    async fn carry_out(&self, run: &Run<'_>) -> Result<Outcome> {
        let visitor = &self.request.visitor;
        let control_planes = control_planes(&self.request.cluster);
        let lock = ClusterLock::take(
            run.context,
            &visitor.run,
            &visitor.who,
            &self.clients,
            &control_planes,
        )
        .await
        .map_err(untouched)?;
        let outcome = tokio::select! {
            outcome = run.carry_out(&self.plan) => outcome,
            lost = lock.watch() => return Err(lost),
        };
        let released = lock.release().await;
        let outcome = outcome?;
        released.map(|()| outcome)
    }
}
