//! What takes nodes out of a cluster, or why they cannot go: judged from everything
//! that is known before the first change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::live::Live;
use super::quorum::{Verdict, Voter, judge};
use super::{Action, Plan, Request, Step, leader};
use crate::agent::Client;
use crate::agent::calls::host::HostReport;
use crate::agent::calls::node::SimulateDrain;
use crate::distro::EtcdMember;
use crate::error::{Error, Kind, Result};
use crate::kube::drain::Simulation;
use crate::spec::Roles;

/// Everything that is known before the first change.
pub(super) struct Known<'a> {
    pub request: &'a Request,
    pub clients: &'a BTreeMap<String, Client>,
    pub reports: &'a BTreeMap<String, HostReport>,
    pub live: Option<&'a Live>,
    pub etcd: &'a [EtcdMember],
    pub leaving: BTreeSet<&'a str>,
    pub dead: &'a BTreeSet<String>,
}

impl Known<'_> {
    /// The control planes that are there: those of etcd, and those that hold a key.
    pub fn members(&self) -> Vec<String> {
        let planes = self.request.cluster.hosts.control_planes();
        planes
            .map(|host| host.name.to_string())
            .filter(|name| match self.reports.get(name) {
                Some(report) => report.distro.pki.is_some(),
                None => self.voter(name).is_some(),
            })
            .collect()
    }

    fn voter(&self, name: &str) -> Option<&EtcdMember> {
        let address = self.reports.get(name).and_then(|report| report.api);
        self.etcd.iter().find(|member| {
            member.name == name || (member.address.is_some() && member.address == address)
        })
    }

    pub async fn plan(&self) -> Result<Plan> {
        let mut plan = Plan {
            cluster: self.request.cluster.name.to_string(),
            steps: Vec::new(),
            quorum: Vec::new(),
            doubts: Vec::new(),
        };
        let order = self.judge(&mut plan)?;
        let simulation = self.simulate().await?;
        plan.doubts.extend(simulation.doubts());
        let mut step = |node: &str, action: Action| {
            let node = node.to_owned();
            plan.steps.push(Step { node, action });
        };
        for name in &self.leaving {
            let pods = simulation.moving.iter().filter(|one| one.node == **name);
            if self.is_node(name) && !self.dead.contains(*name) && self.live.is_some() {
                step(name, Action::Drain { pods: pods.count() });
            }
        }
        for name in &order {
            if let Some(address) = self.voter(name).and_then(|member| member.address) {
                step(name, Action::RemoveEtcdMember { address });
            }
        }
        for name in &self.leaving {
            let managed = self.reports.get(*name).is_some_and(|report| report.managed);
            if managed {
                step(name, Action::Leave);
            }
        }
        for name in &self.leaving {
            // While nobody answers it may be one.
            if self.is_node(name) || self.live.is_none() {
                step(name, Action::DeleteNode);
            }
        }
        Ok(plan)
    }

    /// Those that come first and do this.
    fn arriving(&self, does: impl Fn(Roles) -> bool) -> impl Iterator<Item = &str> {
        let hosts = self.request.arriving.iter();
        hosts
            .filter(move |host| does(host.roles))
            .map(|host| host.name.as_str())
    }

    fn is_node(&self, name: &str) -> bool {
        let nodes = self.live.iter().flat_map(|live| &live.report.nodes);
        nodes.into_iter().any(|node| node.name == name)
    }

    /// Counts etcd's members; gives those that are to be removed from them, in order.
    fn judge(&self, plan: &mut Plan) -> Result<Vec<String>> {
        let planes: Vec<&str> = self.request.cluster.hosts.control_plane_names().collect();
        if planes.iter().all(|name| self.leaving.contains(name)) {
            return Err(Error::new(
                Kind::Check,
                "no control plane of the cluster would be left; nothing was changed",
            )
            .hint("add another one first: `chasi node add NAME=ADDRESS --role control-plane`; or `chasi delete` deletes the cluster"));
        }
        if self.etcd.is_empty() {
            return Err(Error::new(
                Kind::Unreachable,
                "no member of etcd answers, so nobody knows what is left of it; nothing was changed",
            )
            .hint("make a control plane reachable, then run the same command again"));
        }
        let (voting, learning): (Vec<_>, Vec<_>) =
            self.etcd.iter().partition(|member| !member.learner);
        let name_of = |member: &EtcdMember| {
            let by_address = self
                .reports
                .iter()
                .find(|(_, report)| report.api.is_some() && report.api == member.address);
            match by_address {
                Some((name, _)) => name.clone(),
                None => member.name.clone(),
            }
        };
        let mut voters: Vec<Voter> = voting
            .into_iter()
            .map(|member| {
                let name = name_of(member);
                Voter {
                    leaving: self.leaving.contains(name.as_str()),
                    healthy: member.healthy && !self.dead.contains(&name),
                    name,
                }
            })
            .collect();
        if voters.iter().any(|voter| voter.leaving) {
            let arriving = self.arriving(|roles| roles.is_control_plane());
            voters.extend(arriving.map(|name| Voter {
                name: name.to_owned(),
                healthy: true,
                leaving: false,
            }));
        }
        let learners = learning
            .into_iter()
            .map(name_of)
            .filter(|name| self.leaving.contains(name.as_str()));
        let dead = voters.iter().filter(|voter| !voter.healthy);
        let dead: Vec<&str> = dead.map(|voter| voter.name.as_str()).collect();
        let dead = match dead.is_empty() {
            true => String::new(),
            false => format!(" (dead: {})", dead.join(", ")),
        };
        let refused = |what: &str, numbers: String| {
            Error::new(Kind::Check, format!("{what}; nothing was changed")).because(numbers)
        };
        match judge(&voters) {
            Verdict::Fine(order, before, after) => {
                if !order.is_empty() {
                    plan.quorum = vec![
                        format!("etcd now: {before}{dead}"),
                        format!("etcd then: {after}"),
                    ];
                }
                Ok(order.into_iter().chain(learners).collect())
            }
            Verdict::Last(before) => Err(refused(
                "no member of etcd would be left",
                format!("etcd now: {before}{dead}"),
            )),
            Verdict::Breaks(before, then) => Err(refused(
                "etcd would have no majority",
                format!("etcd now: {before}{dead}\netcd then: {then}"),
            )
            .hint("mend or replace the control planes that are dead first: `chasi node replace OLD NEW=ADDRESS`")),
            Verdict::Lost(before, survivor) if self.request.force => {
                plan.quorum = vec![
                    format!("etcd now: {before}{dead}: the majority is lost"),
                    format!("etcd then: `{survivor}` alone, from its own data; what only the others had is lost"),
                ];
                let action = Action::RecoverEtcd;
                plan.steps.push(Step {
                    node: survivor,
                    action,
                });
                Ok(Vec::new())
            }
            Verdict::Lost(before, survivor) => Err(refused(
                "etcd has lost its majority, so no member can be removed",
                format!("etcd now: {before}{dead}"),
            )
            .hint("best start the dead one again: nothing is lost then")
            .hint(format!("when it is gone for good, add `--force`: `{survivor}` goes on alone with its own data, as a new etcd of one member"))),
        }
    }

    /// What moves, and whether it has a place.
    async fn simulate(&self) -> Result<Simulation> {
        let nodes: Vec<String> = self
            .leaving
            .iter()
            .filter(|name| self.is_node(name) && !self.dead.contains(**name))
            .map(|name| (*name).to_owned())
            .collect();
        if nodes.is_empty() {
            return Ok(Simulation::default());
        }
        let (address, client) = self.leader()?;
        let call = SimulateDrain {
            address,
            nodes: nodes.clone(),
            options: self.request.drain.clone(),
        };
        let mut simulation = client.call(call).await?;
        simulation.check(&nodes.iter().map(String::as_str).collect::<Vec<_>>())?;
        if self.arriving(|_| true).next().is_some() {
            simulation.homeless.clear();
        }
        if !simulation.homeless.is_empty() && !self.request.force {
            let lines = simulation
                .homeless
                .iter()
                .map(|one| format!("the pod {}: {}", one.pod, one.why));
            return Err(Error::new(
                Kind::Check,
                format!(
                    "{} of {} pods that must move would have no place on the {} nodes that are left; nothing was changed",
                    simulation.homeless.len(),
                    simulation.moving.len(),
                    simulation.remaining.len()
                ),
            )
            .because(lines.collect::<Vec<_>>().join("\n"))
            .hint("add a node first: `chasi node add NAME=ADDRESS`")
            .hint("`--force` leaves these pods waiting for a place"));
        }
        Ok(simulation)
    }

    /// The first control plane that stays; to be asked only, one that goes will do.
    fn leader(&self) -> Result<(IpAddr, &Client)> {
        leader(self.clients, self.reports, &self.leaving)
            .or_else(|_| leader(self.clients, self.reports, &BTreeSet::new()))
    }
}
