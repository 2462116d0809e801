//! The plan: what has to change, in which order, on which host.
//!
//! A plan is a pure function of what is desired and what is. Stages follow each
//! other; within a stage each host does its steps in order and hosts do not wait
//! for each other, but for those that have turns. Only what is not as desired
//! becomes a step, so the plan of a cluster that is as desired is empty.
//!
//! A cluster that is in use stays in use: everything that a host will need is on it
//! before the first one changes; then the control planes change, one after the
//! other, so that no kubelet is ever newer than an API server
//! (kubernetes.io/releases/version-skew-policy); then the nodes, each of them
//! drained when its image is another. The way back is the other way round, for the
//! same reason: the nodes first, workers before control planes, and then the control
//! planes.

mod action;
mod notes;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::connect::LeftOut;
use super::desired::{Desired, DesiredHost};
use super::survey::{HostState, Survey};
use super::unlisted::Unlisted;
use crate::digest::Digest;
use crate::distro::Role;
use crate::kube::NodeState;
use crate::spec::plugin::Phase;

pub use action::Action;

/// What has to change.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster image, as the user named it.
    pub image: String,
    /// Its digest.
    pub digest: Digest,
    /// The Kubernetes version it brings.
    pub version: String,
    /// What to do, in order. Stages without steps are left out.
    pub stages: Vec<Stage>,
    /// Hosts that are left for a later run, and why.
    pub left_out: Vec<LeftOut>,
    /// The revision that is gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u32>,
    /// What a person should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Nodes that the Clusterfile does not name any more. Not part of the stages: they
    /// are deleted afterwards, when that is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlisted: Vec<Unlisted>,
}

/// Steps that may run at the same time on different hosts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, one of a fixed list.
    pub name: String,
    /// The hosts of a cluster that is in use, in the order in which they go: those
    /// of one turn together, and when one of them fails, no later turn begins.
    /// Hosts without a turn wait for nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Vec<String>>,
    /// The steps; those of one host in order.
    pub steps: Vec<Step>,
}

impl Stage {
    /// Whether a host waits for its turn.
    pub fn is_rolling(&self, host: &str) -> bool {
        self.turns.iter().flatten().any(|other| other == host)
    }
}

/// Whether a cluster goes on, or back to what it was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Direction {
    /// To what the Clusterfile says.
    #[default]
    Forward,
    /// To what it was earlier: nothing joins.
    Back,
}

/// How fast a cluster that is in use may be changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// So many workers at the same time, from 1 on.
    Hosts(usize),
    /// Such a part of the workers in percent, 1 to 100, and at least one.
    Percent(u8),
}

impl Default for Pace {
    fn default() -> Self {
        Pace::Hosts(1)
    }
}

impl Pace {
    /// How many of some workers go at the same time.
    fn of(self, workers: usize) -> usize {
        match self {
            Pace::Hosts(hosts) => hosts.max(1),
            Pace::Percent(part) => (workers * usize::from(part) / 100).max(1),
        }
    }
}

/// One change of one host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The host's name.
    pub host: String,
    /// What is done.
    pub action: Action,
    /// Whether `chasi delete` or a rollback takes it back. What cannot be undone
    /// is marked in the plan.
    pub undoable: bool,
}

/// A number of bytes for people, in powers of 1000.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps.len()).sum()
    }
}

/// How a host comes to the generation that it is to have.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Course {
    /// It is no node yet.
    Joins,
    /// It is a node and keeps its image: no pod has to go.
    Stays,
    /// It is a node and gets another image.
    Upgrades,
}

/// A host with what it is to be, what it is, and what the API says of it.
struct Subject<'a> {
    host: &'a DesiredHost,
    state: &'a HostState,
    node: Option<&'a NodeState>,
    /// Whether there is no other node that its pods could go to.
    is_alone: bool,
}

impl Subject<'_> {
    fn course(&self) -> Course {
        match self.node.is_some() && self.state.node.is_some() {
            false => Course::Joins,
            true if self.state.image == Some(self.host.recipe.image) => Course::Stays,
            true => Course::Upgrades,
        }
    }

    /// Whether it takes no pods because chasi drained it, and not because somebody
    /// wants it so.
    fn is_drained(&self) -> bool {
        self.node.is_some_and(|node| node.drained_by.is_some())
    }

    fn is_cordoned(&self) -> bool {
        self.node.is_some_and(|node| node.unschedulable)
    }

    fn is_control_plane(&self) -> bool {
        self.host.node.role == Role::ControlPlane
    }

    /// Whether its control plane becomes another one.
    fn restarts(&self) -> bool {
        self.is_control_plane() && self.state.control_plane != Some(self.host.identity)
    }

    /// Whether an earlier run changed its control plane, and did not come to its node.
    fn was_begun(&self) -> bool {
        self.state.control_plane != self.state.node
    }

    /// Whether its kubelet is started with its node, and not with the control plane:
    /// the one that it has may never start.
    fn starts_with_node(&self, direction: Direction) -> bool {
        let distro = &self.state.distro;
        let is_stopped = !distro.kubelet_active && distro.credential;
        let is_free = direction == Direction::Back || !self.is_control_plane();
        self.course() != Course::Joins && is_stopped && is_free
    }
}

/// Makes the plan for the hosts that were reached.
pub fn plan(desired: &Desired, survey: &Survey, pace: Pace, direction: Direction) -> Plan {
    let node = |name: &str| {
        let mut nodes = survey.nodes.iter().flatten();
        nodes.find(|node| node.name == name)
    };
    let is_in_use = survey.nodes.is_some();
    let mut hosts: Vec<Subject> = desired
        .hosts
        .iter()
        .filter_map(|host| {
            Some(Subject {
                host,
                state: survey.hosts.get(&host.node.name)?,
                node: node(&host.node.name),
                is_alone: survey.nodes.as_ref().is_none_or(|nodes| nodes.len() < 2),
            })
        })
        .collect();
    if direction == Direction::Back && is_in_use {
        hosts.retain(|one| one.course() != Course::Joins);
    }
    let mut stages = Stages {
        direction,
        steps: Vec::new(),
    };
    for subject in &hosts {
        stages.prepare(subject, &desired.cluster.version);
    }
    stages.keys(&hosts);
    stages.restore(survey, &hosts);
    stages.control_plane(survey, &hosts);
    stages.objects(desired, &hosts);
    let notes = stages.notes(&hosts);
    Plan {
        cluster: desired.cluster.name.clone(),
        image: desired.image.clone(),
        digest: desired.digest,
        version: desired.cluster.version.clone(),
        stages: stages.finish(&turns(&hosts, is_in_use, pace, direction)),
        back_to: None,
        notes,
        left_out: survey.left_out.clone(),
        unlisted: survey.unlisted.clone(),
    }
}

/// The stages in their order.
const FORWARD: [&str; 14] = [
    "begin",
    "copy",
    "stage",
    "images",
    "hosts",
    "authorities",
    "certificates",
    "credentials",
    "restore",
    "start",
    "objects",
    "upgrade",
    "nodes",
    "end",
];

/// The stages of the way back in their order.
const BACK: [&str; 11] = [
    "copy",
    "stage",
    "images",
    "hosts",
    "rollback",
    "authorities",
    "certificates",
    "credentials",
    "start",
    "objects",
    "nodes",
];

/// Who goes after whom.
struct Turns {
    /// When nodes change: control planes one by one, then workers; back, workers first.
    nodes: Vec<Vec<String>>,
    /// When control planes change: those that stay as they are, then those that an
    /// earlier run left half-way, so that nobody who serves stops before these do; the
    /// others that are there; those that come, in the order in which their etcd expects
    /// them.
    control_planes: Vec<Vec<String>>,
}

/// Gives turns to the hosts of a cluster that is in use.
fn turns(hosts: &[Subject], in_use: bool, pace: Pace, direction: Direction) -> Turns {
    let name = |subject: &&Subject| subject.host.node.name.clone();
    let planes = |joins: bool| {
        hosts
            .iter()
            .filter(move |one| in_use && one.is_control_plane())
            .filter(move |one| (one.course() == Course::Joins) == joins)
            .map(|one| vec![name(&one)])
    };
    let workers: Vec<String> = hosts
        .iter()
        .filter(|one| !one.is_control_plane() && one.course() != Course::Joins)
        .map(|one| name(&one))
        .collect();
    let batch = pace.of(workers.len());
    let mut there: Vec<&Subject> = hosts
        .iter()
        .filter(|one| in_use && one.is_control_plane() && one.course() != Course::Joins)
        .collect();
    there.sort_by_key(|one| (one.restarts(), !one.was_begun()));
    let there = there.iter().map(|one| vec![name(one)]);
    let workers = workers.chunks(batch).map(<[String]>::to_vec);
    Turns {
        nodes: match direction {
            Direction::Forward => planes(false).chain(workers).collect(),
            Direction::Back => workers.chain(planes(false)).collect(),
        },
        control_planes: there.chain(planes(true)).collect(),
    }
}

struct Stages {
    direction: Direction,
    steps: Vec<(&'static str, Step)>,
}

impl Stages {
    fn push(&mut self, stage: &'static str, host: &DesiredHost, action: Action) {
        let undoable = action.undoable();
        self.steps.push((
            stage,
            Step {
                host: host.node.name.clone(),
                action,
                undoable,
            },
        ));
    }

    /// The stage in which nodes get another image.
    fn of_nodes(&self) -> &'static str {
        match self.direction {
            Direction::Forward => "upgrade",
            Direction::Back => "rollback",
        }
    }

    fn finish(self, turns: &Turns) -> Vec<Stage> {
        let order = match self.direction {
            Direction::Forward => &FORWARD[..],
            Direction::Back => &BACK[..],
        };
        let stage = |name: &&str| {
            let steps: Vec<Step> = self
                .steps
                .iter()
                .filter(|(stage, _)| stage == name)
                .map(|(_, step)| step.clone())
                .collect();
            let turns = match *name {
                "hosts" | "upgrade" | "rollback" => &turns.nodes[..],
                "start" => &turns.control_planes,
                _ => &[],
            };
            let has_steps = |host: &&String| steps.iter().any(|step| step.host == **host);
            let turns = turns
                .iter()
                .map(|turn| turn.iter().filter(has_steps).cloned().collect())
                .filter(|turn: &Vec<String>| !turn.is_empty())
                .collect();
            Stage {
                name: (*name).to_owned(),
                turns,
                steps,
            }
        };
        let stages = order.iter().map(stage);
        stages.filter(|stage| !stage.steps.is_empty()).collect()
    }

    /// Everything that a host does for itself.
    fn prepare(&mut self, subject: &Subject, version: &str) {
        let (host, state) = (subject.host, subject.state);
        let course = subject.course();
        let stage = match course {
            Course::Joins | Course::Stays => "hosts",
            Course::Upgrades => self.of_nodes(),
        };
        if !state.missing.is_empty() {
            let bytes = state.missing.iter().map(|blob| blob.size).sum();
            let blobs = state.missing.clone();
            self.push("copy", host, Action::Copy { blobs, bytes });
        }
        for one in &state.hooks.surplus {
            let action = Action::UndoPlugin {
                plugin: one.plugin.clone(),
                phase: one.phase,
                undo: one.undo,
            };
            self.push("hosts", host, action);
        }
        let identity = host.identity;
        if !state.staged.contains(&identity) {
            self.push("stage", host, Action::Stage { identity });
        }
        if course == Course::Upgrades && !subject.is_alone {
            self.push(stage, host, Action::Drain);
        }
        self.plugins(stage, host, state, Phase::BeforeHost);
        if state.node != Some(identity) || !state.settled {
            self.push(stage, host, Action::SwitchNode { identity });
        } else if !state.stopped.is_empty() {
            let units = state.stopped.clone();
            self.push(stage, host, Action::StartServices { units });
        }
        let present: BTreeSet<&str> = state
            .distro
            .images
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let references: Vec<String> = host
            .images
            .iter()
            .filter(|reference| !present.contains(reference.as_str()))
            .cloned()
            .collect();
        if !references.is_empty() {
            // Nothing is left to be fetched when a host is drained.
            let stage = match course {
                Course::Joins | Course::Stays => "hosts",
                Course::Upgrades => "images",
            };
            self.push(stage, host, Action::PullImages { references });
        }
        if subject.starts_with_node(self.direction) {
            self.push(stage, host, Action::StartKubelet);
        }
        self.plugins(stage, host, state, Phase::AfterHost);
        let changes = course != Course::Joins && state.node != Some(identity);
        if changes || subject.is_drained() {
            let version = version.to_owned();
            self.push(stage, host, Action::AwaitNode { version });
        }
        let drains = course == Course::Upgrades && !subject.is_alone;
        if subject.is_drained() || (drains && !subject.is_cordoned()) {
            self.push(stage, host, Action::Uncordon);
        }
    }

    /// What there is to do for plugins at a phase.
    fn plugins(
        &mut self,
        stage: &'static str,
        host: &DesiredHost,
        state: &HostState,
        phase: Phase,
    ) {
        for (hook, why) in &state.hooks.due {
            let manifest = &hook.plugin;
            let plugin = manifest.name.clone();
            if hook.phase != phase {
                continue;
            }
            let action = match phase.lasts() {
                true => Action::RunPlugin {
                    plugin,
                    phase,
                    why: why.clone(),
                    changes: manifest.changes.clone(),
                    undo: manifest.undo,
                },
                false => Action::KeepPlugin { plugin, phase },
            };
            self.push(stage, host, action);
        }
    }

    /// Certificate authorities first, then what is signed by them.
    fn keys(&mut self, hosts: &[Subject]) {
        let exists = hosts.iter().any(|one| one.state.distro.pki.is_some());
        let mut leader = None;
        for Subject { host, state, .. } in hosts.iter().filter(|one| one.is_control_plane()) {
            if state.distro.pki.is_some() {
                if state.distro.server_names.as_ref() != Some(&host.server_names) {
                    self.push("certificates", host, Action::SignServer);
                }
                continue;
            }
            if !exists && leader.is_none() {
                leader = Some(&host.node.name);
                self.push("authorities", host, Action::CreateAuthorities);
            } else {
                self.push("certificates", host, Action::CreateCertificates);
            }
        }
        for Subject { host, state, .. } in hosts {
            if !state.distro.credential {
                self.push("credentials", host, Action::Credential);
            }
        }
    }

    /// What a cluster that is made from a backup needs beside all others: a note from
    /// before the first change until everything is done, and data for each etcd.
    fn restore(&mut self, survey: &Survey, hosts: &[Subject]) {
        let Some(backup) = survey.restore else {
            return;
        };
        for Subject { host, state, .. } in hosts.iter().filter(|one| one.is_control_plane()) {
            let is_noted = state.distro.restoring == Some(backup);
            let has_data = state.distro.etcd_data;
            if !is_noted && !has_data {
                self.push("begin", host, Action::BeginRestore { backup });
            }
            // One that lost its data since is a new member of those that run.
            if !has_data && survey.etcd.is_empty() {
                self.push("restore", host, Action::RestoreEtcd);
            }
            if is_noted || !has_data {
                self.push("end", host, Action::EndRestore);
            }
        }
    }

    fn control_plane(&mut self, survey: &Survey, hosts: &[Subject]) {
        let is_there = |one: &Subject| one.course() != Course::Joins;
        // With the same image, most often nothing restarts.
        let rolls = hosts
            .iter()
            .any(|one| one.course() == Course::Upgrades && one.restarts());
        for subject in hosts {
            let Subject { host, state, .. } = subject;
            let before = self.steps.len();
            self.plugins("start", host, state, Phase::BeforeJoin);
            if subject.is_control_plane() && state.control_plane != Some(host.identity) {
                if host.joins_etcd && !state.distro.etcd_data {
                    self.push("start", host, Action::AddEtcdMember);
                }
                let identity = host.identity;
                self.push("start", host, Action::SwitchControlPlane { identity });
            }
            let is_stopped = !state.distro.kubelet_active || !state.distro.credential;
            if is_stopped && !subject.starts_with_node(self.direction) {
                self.push("start", host, Action::StartKubelet);
            }
            let votes = survey.etcd.iter().any(|member| {
                member.address == Some(host.node.node_ip()) && member.started && !member.learner
            });
            // One without data is another member than the one that voted.
            if host.joins_etcd && !survey.etcd.is_empty() && !(votes && state.distro.etcd_data) {
                self.push("start", host, Action::PromoteEtcdMember);
            }
            let changes = self.steps.len() > before;
            // Nobody is stopped while another one does not serve.
            let stays = rolls && is_there(subject);
            if (changes || stays) && subject.is_control_plane() && survey.nodes.is_some() {
                self.push("start", host, Action::AwaitControlPlane);
            }
        }
    }

    fn objects(&mut self, desired: &Desired, hosts: &[Subject]) {
        let identity = desired.objects;
        let planes = || hosts.iter().filter(|one| one.is_control_plane());
        let prune = self.direction == Direction::Back;
        // Where the records differ, what was applied last is not known.
        let mut recorded = planes()
            .filter_map(|one| one.state.distro.objects)
            .peekable();
        let applied = recorded.peek().is_some() && recorded.all(|one| one == identity);
        // One that joins only now has nothing to apply them with.
        let first = planes()
            .position(|one| one.state.distro.pki.is_some())
            .unwrap_or(0);
        for (index, Subject { host, state, .. }) in planes().enumerate() {
            if !applied && index == first {
                self.push("objects", host, Action::ApplyObjects { identity, prune });
            } else if state.distro.objects != Some(identity) {
                self.push("nodes", host, Action::RecordObjects { identity });
            }
        }
        for Subject {
            host, state, node, ..
        } in hosts
        {
            if !node.is_some_and(|node| host.metadata_is(node)) {
                self.push("nodes", host, Action::SetNode);
            }
            self.plugins("nodes", host, state, Phase::AfterJoin);
            for moment in Phase::ALL.into_iter().filter(|phase| !phase.lasts()) {
                self.plugins("nodes", host, state, moment);
            }
        }
    }
}

#[cfg(test)]
mod tests;
