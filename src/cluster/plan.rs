//! The plan: what has to change, in which order, on which host.
//!
//! A plan is a pure function of what is desired and what is. Stages follow each
//! other; within a stage each host does its steps in order and hosts do not wait
//! for each other. Only what is not as desired becomes a step, so the plan of a
//! cluster that is as desired is empty.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::connect::LeftOut;
use super::desired::{Desired, DesiredHost};
use super::survey::{HostState, Survey};
use super::unlisted::Unlisted;
use crate::digest::Digest;
use crate::distro::Role;
use crate::oci::Blob;
use crate::spec::plugin::{Changes, Phase, PluginName};

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
    /// Whether hosts go one after the other, and a control plane answers before the
    /// next one begins: a cluster that is in use stays in use.
    pub rolling: bool,
    /// The steps; those of one host in order.
    pub steps: Vec<Step>,
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

/// What a step does.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Copies the parts of the image that the host lacks.
    Copy {
        /// What it lacks.
        blobs: Vec<Blob>,
        /// Their size in bytes.
        bytes: u64,
    },
    /// Unpacks the image and renders the configuration into a new generation.
    Stage {
        /// The generation's identity.
        identity: Digest,
    },
    /// Makes the host's programs, configuration and settings those of the
    /// generation, and starts its services.
    SwitchNode {
        /// The generation's identity.
        identity: Digest,
    },
    /// Starts services of the generation that do not run.
    StartServices {
        /// The units.
        units: Vec<String>,
    },
    /// Brings container images into the runtime.
    PullImages {
        /// The references.
        references: Vec<String>,
    },
    /// Makes the cluster's certificate authorities and this host's certificates.
    CreateAuthorities,
    /// Makes this host's certificates under the cluster's authorities.
    CreateCertificates,
    /// Signs the API server's certificate anew, with the names that belong in it now.
    SignServer,
    /// Gives kubelet its client certificate.
    Credential,
    /// Adds this host's etcd to the cluster's members.
    AddEtcdMember,
    /// Lets this host's etcd vote, when it has learned what the others know.
    PromoteEtcdMember,
    /// Makes the control plane on this host that of the generation.
    SwitchControlPlane {
        /// The generation's identity.
        identity: Digest,
    },
    /// Starts kubelet.
    StartKubelet,
    /// Applies the cluster's own objects.
    ApplyObjects {
        /// Their identity.
        identity: Digest,
    },
    /// Notes on this host which objects were applied.
    RecordObjects {
        /// Their identity.
        identity: Digest,
    },
    /// Gives the node its labels and taints.
    SetNode,
    /// Runs a plugin.
    RunPlugin {
        /// Its name.
        plugin: PluginName,
        /// When.
        phase: Phase,
        /// Why: what is not as it should be.
        why: String,
        /// What it may change.
        changes: Changes,
        /// Whether it knows the way back.
        undo: bool,
    },
    /// Keeps a plugin for a moment that will come.
    KeepPlugin {
        /// Its name.
        plugin: PluginName,
        /// The moment.
        phase: Phase,
    },
    /// Undoes what a plugin did that is no longer wanted, as far as it knows how.
    UndoPlugin {
        /// Its name.
        plugin: PluginName,
        /// When it ran.
        phase: Phase,
        /// Whether it knows the way back.
        undo: bool,
    },
}

impl Action {
    /// What is done, in the imperative; the same words on every host that has the
    /// same to do.
    pub fn describe(&self) -> String {
        match self {
            Action::Copy { bytes, blobs } => {
                format!("copy {} of the image ({} blobs)", size(*bytes), blobs.len())
            }
            Action::Stage { .. } => "stage the new generation".into(),
            Action::SwitchNode { .. } => "switch the node to the new generation".into(),
            Action::StartServices { units } => format!("start {}", units.join(", ")),
            Action::PullImages { references } => {
                format!("unpack {} container images", references.len())
            }
            Action::CreateAuthorities => "create the cluster's certificate authorities".into(),
            Action::CreateCertificates => "create the control plane's certificates".into(),
            Action::SignServer => "sign the API server's certificate anew".into(),
            Action::Credential => "give kubelet its certificate".into(),
            Action::AddEtcdMember => "add the host to etcd's members".into(),
            Action::PromoteEtcdMember => "let the host's etcd vote".into(),
            Action::SwitchControlPlane { .. } => {
                "switch the control plane to the new generation".into()
            }
            Action::StartKubelet => "start kubelet".into(),
            Action::ApplyObjects { .. } => "apply the cluster's own objects".into(),
            Action::RecordObjects { .. } => "record the cluster's own objects".into(),
            Action::SetNode => "set the node's labels and taints".into(),
            Action::RunPlugin { plugin, phase, .. } => {
                format!("run the plugin `{plugin}` ({phase})")
            }
            Action::KeepPlugin { plugin, phase } => {
                format!("keep the plugin `{plugin}` for {phase}")
            }
            Action::UndoPlugin { plugin, undo, .. } => match undo {
                true => format!("undo the plugin `{plugin}`"),
                false => format!("forget the plugin `{plugin}`, and leave what it did"),
            },
        }
    }

    fn undoable(&self) -> bool {
        !matches!(
            self,
            Action::ApplyObjects { .. }
                | Action::AddEtcdMember
                | Action::RunPlugin { undo: false, .. }
        )
    }
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

/// Makes the plan for the hosts that were reached.
pub fn plan(desired: &Desired, survey: &Survey) -> Plan {
    let hosts: Vec<(&DesiredHost, &HostState)> = desired
        .hosts
        .iter()
        .filter_map(|host| Some((host, survey.hosts.get(&host.node.name)?)))
        .collect();
    let mut stages = Stages::default();
    for (host, state) in &hosts {
        stages.prepare(host, state);
    }
    stages.keys(&hosts);
    stages.control_plane(survey, &hosts);
    stages.objects(desired, survey, &hosts);
    Plan {
        cluster: desired.cluster.name.clone(),
        image: desired.image.clone(),
        digest: desired.digest,
        version: desired.cluster.version.clone(),
        stages: stages.finish(survey.nodes.is_some()),
        left_out: survey.left_out.clone(),
        unlisted: survey.unlisted.clone(),
    }
}

/// The stages in their order.
const ORDER: [&str; 9] = [
    "copy",
    "stage",
    "hosts",
    "authorities",
    "certificates",
    "credentials",
    "start",
    "objects",
    "nodes",
];

#[derive(Default)]
struct Stages {
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

    /// `in_use` tells whether the cluster's API answers now.
    fn finish(self, in_use: bool) -> Vec<Stage> {
        ORDER
            .iter()
            .map(|name| Stage {
                name: (*name).to_owned(),
                rolling: in_use && *name == "start",
                steps: self
                    .steps
                    .iter()
                    .filter(|(stage, _)| stage == name)
                    .map(|(_, step)| step.clone())
                    .collect(),
            })
            .filter(|stage| !stage.steps.is_empty())
            .collect()
    }

    /// Everything that a host does for itself.
    fn prepare(&mut self, host: &DesiredHost, state: &HostState) {
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
        self.plugins("hosts", host, state, Phase::BeforeHost);
        if state.node != Some(identity) || !state.settled {
            self.push("hosts", host, Action::SwitchNode { identity });
        } else if !state.stopped.is_empty() {
            let units = state.stopped.clone();
            self.push("hosts", host, Action::StartServices { units });
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
            self.push("hosts", host, Action::PullImages { references });
        }
        self.plugins("hosts", host, state, Phase::AfterHost);
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
    fn keys(&mut self, hosts: &[(&DesiredHost, &HostState)]) {
        let exists = hosts.iter().any(|(_, state)| state.distro.pki.is_some());
        let mut leader = None;
        for (host, state) in hosts
            .iter()
            .filter(|(host, _)| host.node.role == Role::ControlPlane)
        {
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
        for (host, state) in hosts {
            if !state.distro.credential {
                self.push("credentials", host, Action::Credential);
            }
        }
    }

    fn control_plane(&mut self, survey: &Survey, hosts: &[(&DesiredHost, &HostState)]) {
        for (host, state) in hosts {
            self.plugins("start", host, state, Phase::BeforeJoin);
            if host.node.role == Role::ControlPlane && state.control_plane != Some(host.identity) {
                if host.joins_etcd && !state.distro.etcd_data {
                    self.push("start", host, Action::AddEtcdMember);
                }
                let identity = host.identity;
                self.push("start", host, Action::SwitchControlPlane { identity });
            }
            if !state.distro.kubelet_active || !state.distro.credential {
                self.push("start", host, Action::StartKubelet);
            }
            let votes = survey.etcd.iter().any(|member| {
                member.address == Some(host.node.node_ip()) && member.started && !member.learner
            });
            // One without data is another member than the one that voted.
            if host.joins_etcd && !survey.etcd.is_empty() && !(votes && state.distro.etcd_data) {
                self.push("start", host, Action::PromoteEtcdMember);
            }
        }
    }

    fn objects(
        &mut self,
        desired: &Desired,
        survey: &Survey,
        hosts: &[(&DesiredHost, &HostState)],
    ) {
        let identity = desired.objects;
        let control_planes: Vec<_> = hosts
            .iter()
            .filter(|(host, _)| host.node.role == Role::ControlPlane)
            .collect();
        let applied = control_planes
            .iter()
            .any(|(_, state)| state.distro.objects == Some(identity));
        // One that joins only now has nothing to apply them with.
        let first = control_planes
            .iter()
            .position(|(_, state)| state.distro.pki.is_some())
            .unwrap_or(0);
        for (index, (host, state)) in control_planes.iter().enumerate() {
            if !applied && index == first {
                self.push("objects", host, Action::ApplyObjects { identity });
            } else if state.distro.objects != Some(identity) {
                self.push("nodes", host, Action::RecordObjects { identity });
            }
        }
        for (host, state) in hosts {
            let node = survey
                .nodes
                .iter()
                .flatten()
                .find(|node| node.name == host.node.name);
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
