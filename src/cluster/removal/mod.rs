//! Nodes that leave a cluster that stays: drained, taken out of etcd, left, and
//! forgotten by the API.
//!
//! The order is such that each state is recognised by the next run: pods first,
//! which changes nothing for good; etcd's member before its etcd stops; the host;
//! and the node's object last, so that a kubelet that still runs cannot make it
//! anew. What would break the majority of etcd, or leave pods without a place, is
//! refused before anything is changed, with the numbers.

mod known;
mod quorum;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use self::known::Known;
use super::connect::{self, LeftOut, Visitor, connect, farewell};
use super::drain::drain;
use super::leave::kept;
use super::live;
use crate::agent::calls::etcd::{RecoverEtcd, RemoveEtcdMember};
use crate::agent::calls::host::{HostReport, Leave, ReadHost};
use crate::agent::calls::node::DeleteNode;
use crate::agent::{Client, ClusterLock};
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};
use crate::kube::drain::Options;
use crate::remote::Target;
use crate::spec::{self, Roles};

/// How long an etcd that goes on alone may take, in seconds.
const RECOVERY: u64 = 180;

/// Which nodes are to go, and how.
pub struct Request {
    /// The cluster, with those that are to go.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// In whose name.
    pub visitor: Visitor,
    /// The nodes.
    pub names: Vec<String>,
    /// Whether hosts that are dead go too, and pods that nothing makes anew.
    pub force: bool,
    /// Hosts that come before these go: they count as there already, with room for
    /// what must move.
    pub arriving: Vec<Arriving>,
    /// How they are drained.
    pub drain: Options,
    /// Whether only to look.
    pub dry_run: bool,
}

/// A host that will be a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arriving {
    /// Its name.
    pub name: String,
    /// What it will do.
    pub roles: Roles,
}

impl Arriving {
    /// A host of the Clusterfile.
    pub fn of(host: &spec::Host) -> Self {
        Arriving {
            name: host.name.to_string(),
            roles: host.roles,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// How etcd's members are counted; empty when none of them goes.
    pub quorum: Vec<String>,
    /// What may go wrong, or take long.
    pub doubts: Vec<String>,
}

impl Plan {
    /// The nodes that go, each once.
    pub fn nodes(&self) -> Vec<String> {
        let going = self.steps.iter();
        let going = going.filter(|step| step.action != Action::RecoverEtcd);
        let names: BTreeSet<&String> = going.map(|step| &step.node).collect();
        names.into_iter().cloned().collect()
    }
}

/// One thing to do.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The node.
    pub node: String,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Moves its pods to other nodes; all nodes at the same time.
    Drain {
        /// How many there are.
        pods: usize,
    },
    /// Makes the etcd of this node a cluster of its own, from its own data: those
    /// that are dead had the majority.
    RecoverEtcd,
    /// Takes it out of etcd's members.
    RemoveEtcdMember {
        /// Its address.
        address: IpAddr,
    },
    /// Puts the host back as it was before chasi came.
    Leave,
    /// Removes the node's object.
    DeleteNode,
}

impl Action {
    /// What is done, in the imperative.
    pub fn describe(&self) -> String {
        match self {
            Action::Drain { pods } => format!("drain the node ({pods} pods)"),
            Action::RecoverEtcd => "make its etcd a cluster of its own, from its own data".into(),
            Action::RemoveEtcdMember { .. } => "take it out of etcd's members".into(),
            Action::Leave => "put the host back as it was".into(),
            Action::DeleteNode => "remove the node's object".into(),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The nodes that are gone.
    pub removed: Vec<String>,
    /// Files that a user had changed, and that therefore stayed, by host.
    pub kept: BTreeMap<String, Vec<String>>,
    /// Hosts that still hold something of the cluster.
    pub left_out: Vec<LeftOut>,
}

/// A cluster that was looked at and not changed.
pub struct Prepared {
    request: Request,
    clients: BTreeMap<String, Client>,
    reports: BTreeMap<String, HostReport>,
    dead: BTreeSet<String>,
    /// The control planes that hold the cluster's lock.
    members: Vec<String>,
    /// What is to be done.
    pub plan: Plan,
}

/// Connects, asks, judges. Changes nothing.
pub async fn prepare(context: &Context, request: Request) -> Result<Prepared> {
    let options = request.visitor.changing(request.dry_run);
    let work = connect(context, &request.targets, &options);
    let (clients, problems) = connect::sort(context.phase("connect", work).await);
    let asked = clients
        .iter()
        .map(|(name, client)| async move { (name.clone(), client.call(ReadHost {}).await) });
    let answers = context.phase("facts", join_all(asked)).await;
    match explore(&request, &clients, problems, answers).await {
        Ok(found) => Ok(Prepared {
            request,
            clients,
            reports: found.reports,
            dead: found.dead,
            members: found.members,
            plan: found.plan,
        }),
        Err(error) => {
            farewell(clients.into_values()).await;
            Err(error)
        }
    }
}

struct Found {
    reports: BTreeMap<String, HostReport>,
    dead: BTreeSet<String>,
    members: Vec<String>,
    plan: Plan,
}

async fn explore(
    request: &Request,
    clients: &BTreeMap<String, Client>,
    problems: Vec<(String, Error)>,
    answers: Vec<(String, Result<HostReport>)>,
) -> Result<Found> {
    let leaving: BTreeSet<&str> = request.names.iter().map(String::as_str).collect();
    let mut dead = BTreeSet::new();
    for (host, error) in problems {
        if leaving.contains(host.as_str()) && !request.force {
            return Err(error
                .on_host(&host)
                .hint("make it reachable, so that it is left as it was; or add `--force`, when it is gone for good"));
        }
        // A wrong key or password is to be mended, not to be passed over.
        if error.kind() != Kind::Unreachable && !leaving.contains(host.as_str()) {
            return Err(error.on_host(host));
        }
        dead.insert(host);
    }
    let mut reports = BTreeMap::new();
    for (name, answer) in answers {
        reports.insert(name.clone(), answer.map_err(|error| error.on_host(&name))?);
    }
    let live = live::live(clients, &reports).await;
    let etcd = match &live {
        Some(live) => live.etcd.clone(),
        None => live::etcd(clients, &reports).await,
    };
    let known = Known {
        request,
        clients,
        reports: &reports,
        live: live.as_ref(),
        etcd: &etcd,
        leaving,
        dead: &dead,
    };
    let plan = known.plan().await?;
    let alone = plan
        .steps
        .iter()
        .find(|step| step.action == Action::RecoverEtcd);
    let members = match alone {
        // The others will never answer again.
        Some(survivor) => vec![survivor.node.clone()],
        None => known.members(),
    };
    Ok(Found {
        dead,
        members,
        plan,
        reports,
    })
}

/// The first control plane that stays and can be entered.
fn leader<'a>(
    clients: &'a BTreeMap<String, Client>,
    reports: &'a BTreeMap<String, HostReport>,
    leaving: &BTreeSet<&str>,
) -> Result<(IpAddr, &'a Client)> {
    live::control_planes(clients, reports)
        .find(|(name, _, _)| !leaving.contains(name))
        .map(|(_, address, client)| (address, client))
        .ok_or_else(|| {
            Error::new(
                Kind::Unreachable,
                "no control plane that stays can be reached",
            )
        })
}

impl connect::Prepared for Prepared {
    async fn abandon(self) {
        farewell(self.clients.into_values()).await;
    }
}

impl Prepared {
    /// Carries the plan out, and ends the connections.
    pub async fn apply(self, context: &Context) -> Result<Report> {
        let result = self.change(context).await;
        farewell(self.clients.into_values()).await;
        result
    }

    async fn change(&self, context: &Context) -> Result<Report> {
        let members: Vec<&str> = self.members.iter().map(String::as_str).collect();
        let visitor = &self.request.visitor;
        let lock =
            ClusterLock::take(context, &visitor.run, &visitor.who, &self.clients, &members).await?;
        let work = context.phase("remove", self.steps(context));
        lock.around(work).await
    }

    async fn steps(&self, context: &Context) -> Result<Report> {
        let mut report = Report::default();
        let leaving: BTreeSet<&str> = self.request.names.iter().map(String::as_str).collect();
        let (address, leader) = leader(&self.clients, &self.reports, &leaving)?;
        self.drain(context, address, leader).await?;
        for step in &self.plan.steps {
            context.check_cancelled().map_err(interrupted)?;
            let node = Some(step.node.as_str());
            let what = step.action.describe();
            match &step.action {
                Action::Drain { .. } => {}
                Action::RecoverEtcd => {
                    let call = RecoverEtcd {
                        address: self.api(&step.node)?,
                        seconds: RECOVERY,
                    };
                    let work = self.client(&step.node)?.call(call);
                    context.step(node, what, work).await?;
                }
                Action::RemoveEtcdMember { address: member } => {
                    let (via, address) = (address, *member);
                    let work = leader.call(RemoveEtcdMember { via, address });
                    context.step(node, what, work).await?;
                }
                Action::Leave => {
                    let run = self.request.visitor.run.clone();
                    let work = self.client(&step.node)?.call(Leave { run });
                    match context.step(node, what, work).await {
                        Err(error) => report.left_out.push(LeftOut::because(&step.node, &error)),
                        Ok(left) => {
                            let kept = kept(context, &step.node, left);
                            if !kept.is_empty() {
                                report.kept.insert(step.node.clone(), kept);
                            }
                        }
                    }
                }
                Action::DeleteNode => {
                    let node_name = step.node.clone();
                    let work = leader.call(DeleteNode {
                        address,
                        node: node_name,
                    });
                    context.step(node, what, work).await?;
                }
            }
        }
        let failed = |name: &&String| report.left_out.iter().any(|one| one.host == **name);
        report.removed = self
            .request
            .names
            .iter()
            .filter(|name| !failed(name))
            .cloned()
            .collect();
        for name in self
            .dead
            .iter()
            .filter(|name| leaving.contains(name.as_str()))
        {
            context.emit(Event::Note {
                host: Some(name.clone()),
                text: "it could not be reached and still holds what it held; when it comes back, `chasi node reset --address ADDRESS` puts it back as it was".into(),
            });
        }
        Ok(report)
    }

    /// All nodes that are to be drained, at the same time.
    async fn drain(&self, context: &Context, address: IpAddr, leader: &Client) -> Result<()> {
        let is_drained = |step: &&Step| matches!(step.action, Action::Drain { .. });
        let nodes: Vec<String> = self
            .plan
            .steps
            .iter()
            .filter(is_drained)
            .map(|step| step.node.clone())
            .collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let (options, run) = (&self.request.drain, &self.request.visitor.run);
        let work = drain(
            context,
            (address, leader),
            &self.clients,
            &nodes,
            options,
            run,
        );
        work.await.map(drop).map_err(interrupted)
    }

    fn client(&self, host: &str) -> Result<&Client> {
        self.clients.get(host).ok_or_else(|| {
            Error::new(Kind::Unreachable, "there is no connection to the host").on_host(host)
        })
    }

    fn api(&self, host: &str) -> Result<IpAddr> {
        let report = self.reports.get(host);
        report
            .and_then(|report| report.api)
            .ok_or_else(|| Error::new(Kind::Failed, "the host has no API server").on_host(host))
    }
}

fn interrupted(error: Error) -> Error {
    match error.kind() {
        Kind::Interrupted => Error::new(
            Kind::Interrupted,
            "interrupted; what is done stays done, and a drain is given up",
        )
        .hint("run the same command again: it does the rest"),
        _ => error,
    }
}
