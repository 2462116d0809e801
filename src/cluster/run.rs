//! `chasi run`: from intent to change.
//!
//! [`prepare`] looks at everything and changes nothing: it connects, asks, checks
//! and plans. [`Prepared::apply`] carries the plan out and verifies the result.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::access::PluginSecrets;
use super::apply::{Outcome, Run};
use super::backup::{self, Restoration};
use super::check::{self, Change, Finding, Selection};
use super::connect::{self, LeftOut, Visitor, connect, farewell, untouched};
use super::desired::{Desired, Known, desired};
use super::evidence;
use super::hooks::{self, HookState};
use super::live::{Live, live};
use super::plan::{Action, Direction, Pace, Plan, plan};
use super::removal::Arriving;
use super::rollback;
use super::survey::{HostState, Survey};
use super::unlisted::unlisted;
use super::verify::verify;
use crate::agent::calls::blobs::BlobsMissing;
use crate::agent::calls::distro::ClusterReport;
use crate::agent::calls::history::Revision;
use crate::agent::calls::host::{CheckSettings, HostReport, ReadHost};
use crate::agent::{Client, ClusterLock};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::host::Part;
use crate::kube::drain::Options;
use crate::oci::{Blob, ClusterImage, Store};
use crate::remote::Target;
use crate::spec;
use crate::spec::plugin::PluginName;

/// What to run, where, as whom.
pub struct Request {
    /// What was asked for.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// The secrets of plugins.
    pub secrets: PluginSecrets,
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
    /// Plugins that are not undone where they are no longer wanted.
    pub leave_plugins: Vec<PluginName>,
    /// How many workers of a cluster that is in use may change at the same time.
    pub pace: Pace,
    /// How nodes are drained that get another image.
    pub drain: Options,
    /// What was typed, for the history.
    pub command: &'static str,
    /// The digest of what describes the cluster.
    pub clusterfile: Digest,
    /// The revision to go back to, whose image this is.
    pub back: Option<Revision>,
    /// The backup that the cluster is made from.
    pub restore: Option<Restoration>,
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
    /// The control planes that the cluster stands on: all but those that join.
    members: BTreeSet<String>,
    /// The hosts that join a cluster that is in use, and that nothing is wrong with.
    pub arriving: Vec<Arriving>,
    /// The number that the run has in the history.
    number: OnceLock<u32>,
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
    /// The number that this run has in the history; none when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// The revision that was gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u32>,
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

async fn examine(context: &Context, request: Request) -> Result<Prepared> {
    let image = ClusterImage::open(&request.store, &request.index)?;
    let options = request.visitor.changing(request.dry_run);
    let work = connect(context, &request.targets, &options);
    let (mut clients, problems) = connect::sort(context.phase("connect", work).await);
    match explore(context, &request, &image, &mut clients, problems).await {
        Ok(found) => Ok(Prepared {
            request,
            clients,
            desired: found.desired,
            plan: found.plan,
            findings: found.findings,
            members: found.members,
            arriving: found.arriving,
            number: OnceLock::new(),
        }),
        Err(error) => {
            farewell(clients.into_values()).await;
            Err(error)
        }
    }
}

/// What is known before the first change.
struct Found {
    desired: Desired,
    plan: Plan,
    findings: Vec<Finding>,
    members: BTreeSet<String>,
    arriving: Vec<Arriving>,
}

/// Looks at the hosts that can be reached. A host that only comes to a cluster that
/// is in use, and that something is wrong with, is left out.
async fn explore(
    context: &Context,
    request: &Request,
    image: &ClusterImage,
    clients: &mut BTreeMap<String, Client>,
    mut problems: Vec<(String, Error)>,
) -> Result<Found> {
    let (mut reports, silent) = context.phase("facts", facts(clients)).await;
    problems.extend(silent);
    backup::admit(request.restore.as_ref(), &request.cluster, image, &reports)?;
    let live = live(clients, &reports).await;
    let joining = joining(&request.cluster, &reports, live.as_ref());
    let mut left_out = enough(request, clients, &joining, problems)?;
    let control_planes = request.cluster.hosts.control_plane_names();
    let members = control_planes
        .filter(|name| !joining.contains(*name))
        .map(str::to_owned)
        .collect();
    loop {
        let looked = look(
            context,
            request,
            image,
            clients,
            &reports,
            &left_out,
            (live.as_ref(), &joining),
        );
        let error = match looked.await {
            Ok((desired, plan, findings)) => {
                let joins = |host: &&spec::Host| {
                    joining.contains(host.name.as_str()) && reports.contains_key(host.name.as_str())
                };
                let arriving = request.cluster.hosts.iter().filter(joins);
                return Ok(Found {
                    arriving: arriving.map(Arriving::of).collect(),
                    desired,
                    plan,
                    findings,
                    members,
                });
            }
            Err(error) => error,
        };
        let about = evidence::hosts_of(&error);
        let is_only_theirs = !about.is_empty()
            && error.others().iter().all(|other| other.host().is_some())
            && about
                .iter()
                .all(|host| joining.contains(host) && reports.contains_key(host));
        if !is_only_theirs {
            return Err(error);
        }
        for host in about {
            reports.remove(&host);
            farewell(clients.remove(&host)).await;
            let own = std::iter::once(&error).chain(error.others());
            let own = own.filter(|error| error.host() == Some(&host));
            left_out.extend(own.take(1).map(|error| LeftOut::because(&host, error)));
        }
    }
}

async fn look(
    context: &Context,
    request: &Request,
    image: &ClusterImage,
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
    left_out: &[LeftOut],
    (live, joining): (Option<&Live>, &BTreeSet<String>),
) -> Result<(Desired, Plan, Vec<Finding>)> {
    let (cluster, selection) = (&request.cluster, &request.selection);
    let checks = check::before_run(
        cluster,
        (image, &request.store),
        clients,
        reports,
        selection,
    );
    let findings = context.phase("checks", checks).await;
    context.check_cancelled()?;
    let mut findings = findings?;
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
                etcd_manifest: report.etcd_manifest.as_deref(),
                etcd_data: report.distro.etcd_data,
            })
        })
        .collect();
    let etcd = live.map_or(&[][..], |live| &live.etcd);
    let asked = (&request.cluster, &request.secrets);
    let mut desired = desired(asked, image, &known, etcd)?;
    let (direction, notes) = match &request.back {
        Some(revision) => {
            let notes = rollback::aim(&mut desired, revision, reports, cluster)?;
            (Direction::Back, notes)
        }
        None => (Direction::Forward, Vec::new()),
    };
    let hosts = survey(&desired, clients, reports, image, &request.leave_plugins).await?;
    let nodes = live.map(|live| live.report.nodes.clone());
    let survey = Survey {
        hosts,
        left_out: left_out.to_vec(),
        unlisted: unlisted(cluster, nodes.as_deref().unwrap_or_default(), etcd),
        nodes,
        etcd: etcd.to_vec(),
        restore: request.restore.as_ref().map(|one| one.identity),
    };
    let mut plan = plan(&desired, &survey, request.pace, direction);
    plan.back_to = request.back.as_ref().map(|back| back.number);
    plan.notes.extend(notes);
    let change = change(request, &survey, &plan, joining)?;
    if change.matters() {
        // Those that come are no part of it yet.
        let is_there = |host: &spec::Host| !joining.contains(host.name.as_str());
        let mut there = cluster.clone();
        if let Some(hosts) = cluster.hosts.only(is_there) {
            there.hosts = hosts;
        }
        let hosts = (clients, reports);
        let image = (image, &request.store);
        let bears = check::before_change(&there, image, hosts, selection, &change);
        let found = context.phase("safety", bears).await;
        context.check_cancelled()?;
        findings.extend(found?);
    }
    Ok((desired, plan, findings))
}

/// What a plan does to a cluster that is in use, as far as that is for the checks.
fn change<'a>(
    request: &'a Request,
    survey: &'a Survey,
    plan: &'a Plan,
    joining: &BTreeSet<String>,
) -> Result<Change<'a>> {
    let steps = || plan.stages.iter().flat_map(|stage| &stage.steps);
    let of = |wanted: fn(&Action) -> bool| -> BTreeSet<&str> {
        steps()
            .filter(|step| wanted(&step.action))
            .map(|step| step.host.as_str())
            .filter(|host| !joining.contains(*host))
            .collect()
    };
    let in_use = || {
        let hosts = survey.hosts.iter();
        hosts.filter(|(name, state)| !joining.contains(*name) && state.node.is_some())
    };
    let image = in_use().any(|(_, state)| state.image != Some(plan.digest));
    let serves = survey.nodes.is_some();
    let served = in_use().any(|(_, state)| state.distro.objects.is_some());
    let back = request.back.is_some();
    // The way back may be what makes it answer.
    if image && served && !serves && !back {
        return Err(Error::new(
            Kind::Check,
            "the cluster gets no other image while its API does not answer",
        )
        .hint("`chasi check post` says what is wrong; `chasi run` with the image that the cluster runs mends what it can"));
    }
    let mut comes = joining.iter().map(String::as_str);
    let is_plane = |name: &str| {
        let mut planes = request.cluster.hosts.control_plane_names();
        planes.any(|plane| plane == name)
    };
    if image
        && serves
        && !back
        && let Some(host) = comes.find(|name| is_plane(name))
    {
        let what = "a control plane does not come while the others get another image";
        return Err(Error::new(Kind::Check, what).on_host(host).hint(format!(
            "`chasi upgrade` without it first, then `chasi node add {host}=ADDRESS --control-plane`; or the other way round"
        )));
    }
    let images: BTreeSet<_> = in_use().map(|(_, state)| state.image).collect();
    let half = in_use()
        .any(|(_, state)| state.control_plane.is_some() && state.control_plane != state.node);
    Ok(Change {
        image: image && serves,
        back,
        continues: images.len() > 1 || half,
        planes: match serves {
            true => of(|action| matches!(action, Action::SwitchControlPlane { .. })),
            false => BTreeSet::new(),
        },
        drained: of(|action| matches!(action, Action::Drain)),
        drain: &request.drain,
        left_out: survey
            .left_out
            .iter()
            .map(|one| one.host.as_str())
            .collect(),
    })
}

/// The hosts that come to a cluster that is in use: those that are neither nodes of
/// it yet nor have a vote in its etcd. None while its API does not answer.
fn joining(
    cluster: &spec::Cluster,
    reports: &BTreeMap<String, HostReport>,
    live: Option<&Live>,
) -> BTreeSet<String> {
    let Some(live) = live else {
        return BTreeSet::new();
    };
    let is_node = |name: &str| live.report.nodes.iter().any(|node| node.name == name);
    let votes = |name: &str| {
        reports
            .get(name)
            .and_then(|report| report.api)
            .is_some_and(|address| live.votes(address))
    };
    let joining: BTreeSet<String> = cluster
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .filter(|name| !is_node(name) && !votes(name))
        .map(str::to_owned)
        .collect();
    let stands = cluster
        .hosts
        .control_plane_names()
        .any(|name| !joining.contains(name));
    match stands {
        true => joining,
        // Nobody has registered yet.
        false => BTreeSet::new(),
    }
}

/// A run can do without workers, and without a minority of the control planes,
/// that do not answer, and without hosts that are only to join, whatever is wrong
/// with them. Anything else that went wrong ends it.
fn enough(
    request: &Request,
    clients: &BTreeMap<String, Client>,
    joining: &BTreeSet<String>,
    problems: Vec<(String, Error)>,
) -> Result<Vec<LeftOut>> {
    let all = request.cluster.hosts.control_plane_names();
    let control_planes: Vec<&str> = all.filter(|name| !joining.contains(*name)).collect();
    let reached = control_planes
        .iter()
        .filter(|name| clients.contains_key(**name))
        .count();
    let mut left_out = Vec::new();
    for (host, error) in problems {
        let can_be_missed = error.kind() == Kind::Unreachable && reached * 2 > control_planes.len();
        if !can_be_missed && !joining.contains(&host) {
            return Err(error.on_host(host));
        }
        left_out.push(LeftOut::because(host, &error));
    }
    Ok(left_out)
}

/// What each host says of itself, and the hosts that could not say it, which are
/// entered no longer.
async fn facts(
    clients: &mut BTreeMap<String, Client>,
) -> (BTreeMap<String, HostReport>, Vec<(String, Error)>) {
    let asked = clients
        .iter()
        .map(|(name, client)| async move { (name.clone(), client.call(ReadHost {}).await) });
    let (mut reports, mut silent) = (BTreeMap::new(), Vec::new());
    for (name, answer) in join_all(asked).await {
        match answer {
            Ok(report) => {
                reports.insert(name, report);
            }
            Err(error) => silent.push((name, error)),
        }
    }
    for (name, _) in &silent {
        farewell(clients.remove(name)).await;
    }
    (reports, silent)
}

async fn survey(
    desired: &Desired,
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
    image: &ClusterImage,
    left: &[PluginName],
) -> Result<BTreeMap<String, HostState>> {
    let blobs = image.blobs();
    join_all(desired.hosts.iter().map(|host| {
        let blobs = &blobs;
        async move {
            let name = &host.node.name;
            let (Some(client), Some(report)) = (clients.get(name), reports.get(name)) else {
                return Err(Error::new(Kind::Failed, "the host did not report").on_host(name));
            };
            let missing = client
                .call(BlobsMissing {
                    blobs: blobs.clone(),
                })
                .await
                .map_err(|error| error.on_host(name))?;
            let settings = host.settings.clone();
            let settled = client
                .call(CheckSettings { settings })
                .await
                .map_err(|error| error.on_host(name))?;
            let hooks = hooks::state(client, host, left)
                .await
                .map_err(|error| error.on_host(name))?;
            Ok((name.clone(), host_state(report, missing, settled, hooks)))
        }
    }))
    .await
    .into_iter()
    .collect()
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
        image: report.image(),
        control_plane: report.current(Part::ControlPlane),
        settled: settled && !drifted && report.program_is_current && managed.pending.is_empty(),
        stopped: report.stopped.clone(),
        distro: report.distro.clone(),
        hooks,
    }
}

impl connect::Prepared for Prepared {
    async fn abandon(self) {
        farewell(self.clients.into_values()).await;
    }
}

impl Prepared {
    /// Carries the plan out, verifies, and ends the connections.
    pub async fn apply(self, context: &Context) -> Result<Report> {
        let mut result = self.change(context).await;
        if !self.plan.is_empty() {
            let revision = self.record(context, &result).await;
            if let Ok(report) = &mut result {
                report.revision = revision;
                self.prune(context).await;
            }
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
        let all = self.request.cluster.hosts.iter();
        let run = Run {
            context,
            desired: &self.desired,
            clients: &self.clients,
            store: &self.request.store,
            run: &self.request.visitor.run,
            index: &self.request.index,
            members: &self.members,
            drain: &self.request.drain,
            restore: self.request.restore.as_ref(),
            listed: all.map(|host| host.name.to_string()).collect(),
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
            revision: None,
            back_to: self.request.back.as_ref().map(|back| back.number),
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

    /// Carries the plan out under the cluster's lock.
    async fn carry_out(&self, run: &Run<'_>) -> Result<Outcome> {
        let visitor = &self.request.visitor;
        let control_planes: Vec<&str> = self.members.iter().map(String::as_str).collect();
        let lock = ClusterLock::take(
            run.context,
            &visitor.run,
            &visitor.who,
            &self.clients,
            &control_planes,
        )
        .await
        .map_err(untouched)?;
        let work = async {
            self.begin(run.context).await;
            run.carry_out(&self.plan).await
        };
        lock.around(work).await
    }
}
