//! `chasi delete`: takes a cluster off its hosts and puts them back as they were.
//!
//! Every host is left by itself, all at once: a host that cannot be reached does
//! not keep the others from being left. What was done on a host is done; running
//! it again does the rest.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::connect::{self, LeftOut, Visitor, connect, farewell};
use super::hooks;
use super::leave::kept;
use crate::agent::calls::hook::ForgetHook;
use crate::agent::calls::host::{Leave, ReadHost};
use crate::agent::{Client, ClusterLock};
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::remote::Target;
use crate::spec;
use crate::spec::plugin::PluginName;

/// Which cluster, and how to reach it.
pub struct Request {
    /// What it was.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// In whose name.
    pub visitor: Visitor,
    /// Whether only to look.
    pub dry_run: bool,
    /// Plugins that are not undone.
    pub leave_plugins: Vec<PluginName>,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// The hosts that hold something of it.
    pub hosts: Vec<String>,
    /// The hosts that were reached and hold nothing of it.
    pub bare: Vec<String>,
    /// What plugins did that stays, by host.
    pub stays: BTreeMap<String, Vec<String>>,
    /// The hosts that cannot be reached.
    pub left_out: Vec<LeftOut>,
}

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// The hosts that are as they were before.
    pub hosts: Vec<String>,
    /// Files that a user had changed, and that therefore stayed, by host.
    pub kept: BTreeMap<String, Vec<String>>,
    /// Hosts that still hold something of the cluster.
    pub left_out: Vec<LeftOut>,
}

/// A cluster that was looked at and not changed.
pub struct Prepared {
    request: Request,
    clients: BTreeMap<String, Client>,
    /// What is to be done.
    pub plan: Plan,
}

/// Connects and asks. Changes nothing.
pub async fn prepare(context: &Context, request: Request) -> Result<Prepared> {
    let options = request.visitor.changing(request.dry_run);
    let answers = context
        .phase("connect", connect(context, &request.targets, &options))
        .await;
    let (clients, problems) = connect::sort(answers);
    match plan(&request, &clients, problems).await {
        Ok(plan) => Ok(Prepared {
            request,
            clients,
            plan,
        }),
        Err(error) => {
            farewell(clients.into_values()).await;
            Err(error)
        }
    }
}

async fn plan(
    request: &Request,
    clients: &BTreeMap<String, Client>,
    problems: Vec<(String, Error)>,
) -> Result<Plan> {
    let mut plan = Plan {
        cluster: request.cluster.name.to_string(),
        hosts: Vec::new(),
        bare: Vec::new(),
        stays: BTreeMap::new(),
        left_out: Vec::new(),
    };
    for (host, error) in problems {
        // A wrong key or password is to be mended, not to be passed over.
        if error.kind() != Kind::Unreachable {
            return Err(error.on_host(host));
        }
        plan.left_out.push(LeftOut::because(host, &error));
    }
    let reports = join_all(
        clients
            .iter()
            .map(|(name, client)| async move { (name, client.call(ReadHost {}).await) }),
    )
    .await;
    for (name, report) in reports {
        match report.map_err(|error| error.on_host(name))?.managed {
            true => plan.hosts.push(name.clone()),
            false => plan.bare.push(name.clone()),
        }
    }
    for name in &plan.hosts {
        let Some(client) = clients.get(name) else {
            continue;
        };
        let stays = hooks::staying(client, &request.leave_plugins)
            .await
            .map_err(|error| error.on_host(name))?;
        if !stays.is_empty() {
            plan.stays.insert(name.clone(), stays);
        }
    }
    Ok(plan)
}

impl connect::Prepared for Prepared {
    async fn abandon(self) {
        farewell(self.clients.into_values()).await;
    }
}

impl Prepared {
    /// Leaves the hosts, and ends the connections.
    pub async fn apply(self, context: &Context) -> Result<Report> {
        let result = self.change(context).await;
        farewell(self.clients.into_values()).await;
        result
    }

    async fn change(&self, context: &Context) -> Result<Report> {
        let control_planes: Vec<&str> = self.request.cluster.hosts.control_plane_names().collect();
        let lock = ClusterLock::take(
            context,
            &self.request.visitor.run,
            &self.request.visitor.who,
            &self.clients,
            &control_planes,
        )
        .await?;
        let work = context.phase("leave", self.leave(context));
        let report = lock.around(async { Ok(work.await) }).await?;
        if context.cancel.is_cancelled() && !report.left_out.is_empty() {
            let left = report.left_out.len();
            return Err(Error::new(
                Kind::Interrupted,
                format!("interrupted: {left} hosts are not left yet"),
            )
            .hint("run the same command again: it does the rest"));
        }
        Ok(report)
    }

    async fn leave(&self, context: &Context) -> Report {
        let mut report = Report {
            cluster: self.plan.cluster.clone(),
            hosts: self.plan.bare.clone(),
            kept: BTreeMap::new(),
            left_out: self.plan.left_out.clone(),
        };
        let work = self.plan.hosts.iter().map(|name| async move {
            let work = async {
                context.check_cancelled()?;
                let client = self
                    .clients
                    .get(name)
                    .ok_or_else(|| Error::new(Kind::Failed, "the host was not connected"))?;
                for plugin in &self.request.leave_plugins {
                    let plugin = plugin.clone();
                    client.call(ForgetHook { plugin }).await?;
                }
                let run = self.request.visitor.run.clone();
                client.call(Leave { run }).await
            };
            let step = "put the host back as it was";
            (name, context.step(Some(name), step, work).await)
        });
        for (name, left) in join_all(work).await {
            match left {
                Err(error) => report.left_out.push(LeftOut::because(name, &error)),
                Ok(left) => {
                    let kept = kept(context, name, left);
                    if !kept.is_empty() {
                        report.kept.insert(name.clone(), kept);
                    }
                    report.hosts.push(name.clone());
                }
            }
        }
        report.hosts.sort();
        report
    }
}
