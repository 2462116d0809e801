//! Carrying a plan out.
//!
//! Stages follow each other. Within a stage the hosts work at the same time, each
//! on its own steps in order. A host that fails is left where it is, which is a
//! consistent place, and the others go on; only what the whole cluster stands on
//! (the authorities, the first objects) ends the run.

mod credentials;
mod objects;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use tokio::sync::oneshot;

use super::backup::Restoration;
use super::desired::{Desired, DesiredHost};
use super::hooks::run_hooks;
use super::plan::{Action, Plan, Stage, Step};
use crate::agent::Client;
use crate::agent::calls::distro::*;
use crate::agent::calls::etcd::{AddEtcdMember, PromoteEtcdMember};
use crate::agent::calls::hook::{ApplyHook, UndoHook};
use crate::agent::calls::host::*;
use crate::agent::calls::node::{AwaitNode, Drain, Uncordon};
use crate::agent::{Destination, distribute};
use crate::distro::Role;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::host::Part;
use crate::kube::drain::Options;
use crate::oci::{Blob, Store};
use crate::spec::plugin::Phase;

/// How long an API server may take to come up, in seconds. kubelet, the image
/// pulls and etcd's election are in it; a slow disk makes it minutes.
const API_PATIENCE: u64 = 300;
/// How long a service may take to start, in seconds.
const SERVICE_PATIENCE: u64 = 90;
/// How long a node may take to register, in seconds.
const NODE_PATIENCE: u64 = 120;
/// How long a node may take to be ready with another kubelet, in seconds.
const READY_PATIENCE: u64 = 180;

/// What carrying out a plan needs.
pub struct Run<'a> {
    /// Where to tell, and whether to stop.
    pub context: &'a Context,
    /// What is to be.
    pub desired: &'a Desired,
    /// The agents, by host.
    pub clients: &'a BTreeMap<String, Client>,
    /// The controller's store.
    pub store: &'a Store,
    /// The run's identifier.
    pub run: &'a str,
    /// The image's index.
    pub index: &'a Blob,
    /// The control planes that the cluster stands on: all but those that join.
    pub members: &'a BTreeSet<String>,
    /// How nodes are drained.
    pub drain: &'a Options,
    /// The backup that the cluster is made from.
    pub restore: Option<&'a Restoration>,
    /// The names of all hosts of the Clusterfile.
    pub listed: Vec<String>,
}

/// How it ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was done, host by host.
    pub done: Vec<Step>,
    /// The hosts on which something failed, with the first failure of each.
    pub failed: BTreeMap<String, Arc<Error>>,
}

impl Run<'_> {
    /// Does all steps of the plan.
    pub async fn carry_out(&self, plan: &Plan) -> Result<Outcome> {
        let outcome = Mutex::new(Outcome::default());
        for stage in &plan.stages {
            self.check_cancelled(plan, &outcome)?;
            let work = self.stage(stage, &outcome);
            self.context.phase(&stage.name, work).await;
            self.check_cancelled(plan, &outcome)?;
            self.still_possible(stage, &outcome)?;
        }
        Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends an interrupted run, and says how far it came.
    fn check_cancelled(&self, plan: &Plan, outcome: &Mutex<Outcome>) -> Result<()> {
        if !self.context.cancel.is_cancelled() {
            return Ok(());
        }
        let done = outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .done
            .len();
        Err(Error::new(
            Kind::Interrupted,
            format!(
                "interrupted: {done} of {} steps are done; each host finishes the one in hand",
                plan.len()
            ),
        ))
    }

    async fn stage(&self, stage: &Stage, outcome: &Mutex<Outcome>) {
        match stage.name.as_str() {
            "copy" => return self.copy(stage, outcome).await,
            "credentials" => return self.credentials(stage, outcome).await,
            _ => {}
        }
        let mut beside: Vec<&str> = Vec::new();
        for step in &stage.steps {
            let host = step.host.as_str();
            if !stage.is_rolling(host) && !beside.contains(&host) {
                beside.push(host);
            }
        }
        let together = join_all(
            beside
                .into_iter()
                .map(|host| self.steps(stage, host, outcome)),
        );
        futures::join!(self.in_turns(stage, outcome), together);
    }

    /// Hosts of a cluster that is in use: when one fails, no later turn begins.
    async fn in_turns(&self, stage: &Stage, outcome: &Mutex<Outcome>) {
        let mut failed: Option<&str> = None;
        for turn in &stage.turns {
            if let Some(before) = failed {
                // What is in use stays as it is; where another image comes, the run ends.
                let left = |host: &&String| stage.name == "hosts" || self.joins(stage, host);
                for host in turn
                    .iter()
                    .filter(left)
                    .filter(|host| !has_failed(outcome, host))
                {
                    let what = format!("not begun, because `{before}` failed before it");
                    fail(outcome, host, Arc::new(Error::new(Kind::Failed, what)));
                }
                continue;
            }
            join_all(turn.iter().map(|host| self.steps(stage, host, outcome))).await;
            failed = turn
                .iter()
                .map(String::as_str)
                .find(|host| has_failed(outcome, host));
        }
    }

    /// The steps of one host, until one fails. One that has its turn is brought to the
    /// end of it, also when the run is to stop: half-way it may be drained.
    async fn steps(&self, stage: &Stage, host: &str, outcome: &Mutex<Outcome>) {
        let mut begun = false;
        for step in stage.steps.iter().filter(|step| step.host == host) {
            let stops = self.context.cancel.is_cancelled() && !begun;
            if stops || has_failed(outcome, host) {
                return;
            }
            begun = stage.is_rolling(host);
            let result = self
                .context
                .step(Some(host), step.action.describe(), self.step(step))
                .await;
            note(outcome, step, result);
        }
    }

    /// Waits until the API server on a host is ready.
    async fn wait_for_api(&self, host: &str) -> Result<()> {
        let ready = self.client(host)?.call(WaitApi {
            address: self.host(host)?.node.node_ip(),
            seconds: API_PATIENCE,
        });
        self.context
            .step(Some(host), "wait for the API server", ready)
            .await
    }

    /// Ends the run when nothing that follows can succeed.
    fn still_possible(&self, stage: &Stage, outcome: &Mutex<Outcome>) -> Result<()> {
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = self
            .members
            .iter()
            .filter(|name| !outcome.failed.contains_key(*name))
            .count();
        let fatal = match stage.name.as_str() {
            "begin" | "authorities" | "restore" | "objects" => stage
                .steps
                .iter()
                .any(|step| outcome.failed.contains_key(&step.host)),
            // What is in use is changed no further.
            "start" | "upgrade" | "rollback" if self.has_stopped(stage, &outcome) => true,
            _ => alive * 2 <= self.members.len(),
        };
        if !fatal || outcome.failed.is_empty() {
            return Ok(());
        }
        let (host, error) = outcome
            .failed
            .iter()
            .next()
            .ok_or_else(|| Error::new(Kind::Failed, "the run cannot go on"))?;
        Err(Error::new(error.kind(), error.message().to_owned())
            .on_host(host.clone())
            .because(Arc::clone(error))
            .hint(error.hints().first().cloned().unwrap_or_else(|| {
                "mend the cause, then run the same command again: it goes on where it stopped"
                    .into()
            })))
    }

    /// Whether a host failed that the cluster stands on, or that runs pods.
    fn has_stopped(&self, stage: &Stage, outcome: &Outcome) -> bool {
        let mut in_use = stage.turns.iter().flatten();
        in_use.any(|host| !self.joins(stage, host) && outcome.failed.contains_key(host))
    }

    /// Whether a host with a turn is a control plane that only comes.
    fn joins(&self, stage: &Stage, host: &str) -> bool {
        stage.name == "start" && !self.members.contains(host)
    }

    fn control_planes(&self) -> impl Iterator<Item = &DesiredHost> {
        self.desired
            .hosts
            .iter()
            .filter(|host| host.node.role == Role::ControlPlane)
    }

    fn client(&self, host: &str) -> Result<&Client> {
        self.clients.get(host).ok_or_else(|| {
            Error::new(Kind::Unreachable, "there is no connection to the host").on_host(host)
        })
    }

    fn host(&self, name: &str) -> Result<&DesiredHost> {
        self.desired
            .hosts
            .iter()
            .find(|host| host.node.name == name)
            .ok_or_else(|| {
                Error::new(
                    Kind::Failed,
                    format!("the plan names the unknown host `{name}`"),
                )
            })
    }

    async fn step(&self, step: &Step) -> Result<()> {
        let client = self.client(&step.host)?;
        let host = self.host(&step.host)?;
        let address = host.node.node_ip();
        match &step.action {
            Action::Stage { .. } => {
                let recipe = host.recipe.clone();
                client.call(StageGeneration { recipe }).await.map(|_| ())
            }
            Action::SwitchNode { .. } => self.switch(client, host, Part::Node).await,
            Action::StartServices { units } => {
                let units = units.clone();
                client
                    .call(StartUnits {
                        units,
                        seconds: SERVICE_PATIENCE,
                    })
                    .await
            }
            Action::PullImages { references } => {
                let references = references.clone();
                client.call(PullImages { references }).await
            }
            Action::CreateAuthorities => {
                let config = host.config.clone();
                let authorities = self.restore.map(|one| one.authorities.clone());
                let call = MakePki {
                    config,
                    authorities,
                };
                client.call(call).await
            }
            Action::CreateCertificates => {
                let authorities = Some(
                    self.authority(&step.host)
                        .await?
                        .call(ReadAuthorities {})
                        .await?,
                );
                let config = host.config.clone();
                client
                    .call(MakePki {
                        config,
                        authorities,
                    })
                    .await
            }
            Action::Copy { .. } | Action::Credential => Err(Error::new(
                Kind::Failed,
                "this is done on all hosts together",
            )),
            Action::SignServer => {
                let call = SignServer {
                    names: host.server_names.clone(),
                    hours: self.desired.cluster.certificate_hours,
                };
                client.call(call).await
            }
            Action::BeginRestore { .. } | Action::RestoreEtcd | Action::EndRestore => {
                self.restore_step(client, host, &step.action).await
            }
            Action::AddEtcdMember => {
                let leader = self.leader().await?;
                let call = AddEtcdMember {
                    via: leader.node.node_ip(),
                    address,
                };
                self.client(&leader.node.name)?.call(call).await
            }
            Action::PromoteEtcdMember => {
                let leader = self.leader().await?;
                let call = PromoteEtcdMember {
                    via: leader.node.node_ip(),
                    address,
                    seconds: API_PATIENCE,
                };
                self.client(&leader.node.name)?.call(call).await
            }
            Action::SwitchControlPlane { .. } => {
                self.switch(client, host, Part::ControlPlane).await
            }
            Action::StartKubelet => {
                let units = vec!["kubelet.service".to_owned()];
                client
                    .call(StartUnits {
                        units,
                        seconds: SERVICE_PATIENCE,
                    })
                    .await
            }
            Action::ApplyObjects { identity, prune } => {
                self.wait_for_api(&step.host).await?;
                let surplus = match prune {
                    true => self.all_recorded_objects().await,
                    false => Vec::new(),
                };
                let call = ApplyObjects {
                    address,
                    identity: *identity,
                    generation: host.identity,
                    dns_forward: self.desired.dns_forward,
                    surplus,
                };
                client.call(call).await
            }
            Action::RecordObjects { identity } => {
                let objects = self.recorded_objects(&step.host).await?;
                client
                    .call(RecordObjects {
                        identity: *identity,
                        objects,
                    })
                    .await
            }
            Action::AwaitControlPlane => {
                let call = AwaitControlPlane {
                    address,
                    seconds: API_PATIENCE,
                };
                client.call(call).await
            }
            Action::Drain => self.drain(client, host).await,
            Action::AwaitNode { version } => {
                let seconds = READY_PATIENCE;
                // What the API says of it may be from before the switch.
                client.call(AwaitKubelet { seconds }).await?;
                let leader = self.leader().await?;
                let call = AwaitNode {
                    address: leader.node.node_ip(),
                    node: host.node.name.clone(),
                    version: version.clone(),
                    seconds,
                };
                self.client(&leader.node.name)?.call(call).await
            }
            Action::Uncordon => {
                let leader = self.leader().await?;
                let call = Uncordon {
                    address: leader.node.node_ip(),
                    node: host.node.name.clone(),
                };
                self.client(&leader.node.name)?.call(call).await
            }
            Action::RunPlugin { plugin, phase, .. } | Action::KeepPlugin { plugin, phase } => {
                let hook = host.hook(plugin, *phase)?.clone();
                client
                    .call(ApplyHook {
                        identity: host.identity,
                        hook,
                        secrets: host.secrets.get(plugin).cloned().unwrap_or_default(),
                        run: self.run.to_owned(),
                    })
                    .await
                    .map(drop)
            }
            Action::UndoPlugin {
                plugin,
                phase,
                undo,
            } => {
                let left = client
                    .call(UndoHook {
                        plugin: plugin.clone(),
                        phase: *phase,
                        leave: !undo,
                        run: self.run.to_owned(),
                    })
                    .await?;
                if let Some(text) = left {
                    let host = Some(step.host.clone());
                    self.context.emit(Event::Warning { host, text });
                }
                Ok(())
            }
            Action::SetNode => {
                let leader = self.leader().await?;
                self.client(&leader.node.name)?
                    .call(SetNode {
                        address: leader.node.node_ip(),
                        node: host.node.name.clone(),
                        labels: host.labels.clone(),
                        taints: host.taints.clone(),
                        way: host.way.clone(),
                        seconds: NODE_PATIENCE,
                    })
                    .await
            }
        }
    }

    /// Moves a node's pods away, with what its plugins do before and after.
    async fn drain(&self, client: &Client, host: &DesiredHost) -> Result<()> {
        let node = &host.node.name;
        run_hooks(self.context, client, node, self.run, Phase::BeforeDrain).await?;
        let leader = self.leader().await?;
        let call = Drain {
            address: leader.node.node_ip(),
            nodes: vec![node.clone()],
            options: self.drain.clone(),
            run: self.run.to_owned(),
        };
        self.client(&leader.node.name)?.call(call).await?;
        run_hooks(self.context, client, node, self.run, Phase::AfterDrain).await
    }

    async fn switch(&self, client: &Client, host: &DesiredHost, part: Part) -> Result<()> {
        let switched = client
            .call(SwitchTo {
                part,
                identity: host.identity,
                settings: host.settings.clone(),
                run: self.run.to_owned(),
            })
            .await?;
        for path in switched.kept {
            self.context.emit(Event::Warning {
                host: Some(host.node.name.clone()),
                text: format!(
                    "`{path}` was changed on the host since chasi wrote it; it was kept as it is"
                ),
            });
        }
        Ok(())
    }

    /// A control plane other than `host` whose keys are whole.
    async fn authority(&self, host: &str) -> Result<&Client> {
        for candidate in self
            .control_planes()
            .filter(|candidate| candidate.node.name != host)
        {
            let client = self.client(&candidate.node.name)?;
            if client
                .call(DistroState {})
                .await
                .is_ok_and(|state| state.pki.is_some())
            {
                return Ok(client);
            }
        }
        Err(Error::new(
            Kind::Failed,
            "no control plane holds the cluster's certificate authorities",
        ))
    }

    /// The first control plane whose API server is ready, of those that do not join
    /// only now.
    async fn leader(&self) -> Result<&DesiredHost> {
        let mut last = None;
        let stands = |host: &&DesiredHost| self.members.contains(&host.node.name);
        for host in self.control_planes().filter(stands) {
            let ready = WaitApi {
                address: host.node.node_ip(),
                seconds: 5,
            };
            let Ok(client) = self.client(&host.node.name) else {
                continue;
            };
            match client.call(ready).await {
                Ok(()) => return Ok(host),
                Err(error) => last = Some(error),
            }
        }
        Err(last
            .unwrap_or_else(|| Error::new(Kind::Unreachable, "no control plane can be reached")))
    }

    /// Brings the image to all hosts at once, which pass it on to each other.
    async fn copy(&self, stage: &Stage, outcome: &Mutex<Outcome>) {
        let mut blobs: Vec<Blob> = Vec::new();
        let mut hosts = Vec::new();
        let mut destinations = Vec::new();
        for step in &stage.steps {
            let (Action::Copy { blobs: lacking, .. }, Ok(client), Ok(host)) =
                (&step.action, self.client(&step.host), self.host(&step.host))
            else {
                continue;
            };
            blobs.extend(
                lacking
                    .iter()
                    .filter(|blob| !blobs.contains(blob))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            let (end, ended) = oneshot::channel();
            destinations.push(Destination {
                client: client.clone(),
                address: Some(host.node.node_ip()),
            });
            hosts.push((step, client, end, ended));
        }
        let (waiting, ends): (Vec<_>, Vec<_>) = hosts
            .into_iter()
            .map(|(step, client, end, ended)| ((step, client, ended), end))
            .unzip();
        let sending = async {
            let image = &self.desired.image;
            let sent = distribute(self.context, self.store, &blobs, &destinations, image).await;
            for (end, sent) in ends.into_iter().zip(sent) {
                // The step that waits for it may have been dropped.
                let _ = end.send(sent);
            }
        };
        let steps = join_all(waiting.into_iter().map(|(step, client, ended)| async move {
            let work = async {
                ended
                    .await
                    .or_err(Kind::Failed, || "copying ended without a result")??;
                client
                    .call(TagImage {
                        reference: self.desired.image.clone(),
                        index: self.index.clone(),
                    })
                    .await
            };
            let result = self
                .context
                .step(Some(&step.host), step.action.describe(), work)
                .await;
            note(outcome, step, result);
        }));
        futures::join!(sending, steps);
    }
}

fn has_failed(outcome: &Mutex<Outcome>, host: &str) -> bool {
    outcome
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .failed
        .contains_key(host)
}

fn fail(outcome: &Mutex<Outcome>, host: &str, error: Arc<Error>) {
    outcome
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .failed
        .entry(host.to_owned())
        .or_insert(error);
}

fn note(outcome: &Mutex<Outcome>, step: &Step, result: Result<()>) {
    match result {
        Ok(()) => outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .done
            .push(step.clone()),
        Err(error) => fail(outcome, &step.host, Arc::new(error)),
    }
}
