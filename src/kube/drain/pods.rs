//! What a drain does with which pod.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};

use super::Options;

/// kubelet's mark of a pod that it made from a file of its own
/// (`kubernetes.io/config.mirror`).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The part of a ReplicaSet's name that its Deployment does not have.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod, and who makes it anew.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Who makes it anew: `Deployment web`. `None` when nobody does.
    pub owner: Option<String>,
}

impl PodName {
    pub(super) fn of(pod: &Pod) -> Self {
        PodName {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            owner: owner(pod),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}/{}`", self.namespace, self.name)?;
        match &self.owner {
            Some(owner) => write!(f, " of {owner}"),
            None => Ok(()),
        }
    }
}

/// Why a drain leaves a pod where it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A DaemonSet would put it there again.
    DaemonSet,
    /// kubelet runs it from a file of the host.
    Mirror,
    /// It has ended.
    Finished,
}

/// What keeps a drain from beginning, until somebody allows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// It belongs to a DaemonSet.
    DaemonSet,
    /// Nothing makes it anew.
    Unmanaged,
    /// It has data in an `emptyDir`.
    LocalData,
}

impl Obstacle {
    /// The option of `kubectl drain` that allows it.
    pub fn option(self) -> &'static str {
        match self {
            Obstacle::DaemonSet => "--ignore-daemonsets",
            Obstacle::Unmanaged => "--force",
            Obstacle::LocalData => "--delete-emptydir-data",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Obstacle::DaemonSet => "a DaemonSet would put it there again",
            Obstacle::Unmanaged => "nothing makes it anew",
            Obstacle::LocalData => "it has data in an emptyDir, which would be lost",
        })
    }
}

/// What is to be done with a pod of a node that is drained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Moves,
    Stays(Reason),
    Blocks(Obstacle),
}

pub(super) fn fate(pod: &Pod, options: &Options) -> Fate {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key(MIRROR)) {
        return Fate::Stays(Reason::Mirror);
    }
    if has_ended(pod) {
        return Fate::Stays(Reason::Finished);
    }
    let controller = controller(pod);
    if controller.is_some_and(|owner| owner.kind == "DaemonSet") {
        return match options.ignore_daemonsets {
            true => Fate::Stays(Reason::DaemonSet),
            false => Fate::Blocks(Obstacle::DaemonSet),
        };
    }
    if controller.is_none() && !options.force {
        return Fate::Blocks(Obstacle::Unmanaged);
    }
    if has_local_data(pod) && !options.delete_emptydir_data {
        return Fate::Blocks(Obstacle::LocalData);
    }
    Fate::Moves
}

/// The pod's phase; empty when it has none.
pub(super) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it was told to end.
pub(super) fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_local_data(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .any(|volume| volume.empty_dir.is_some())
}

/// Who makes the pod anew.
pub(super) fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Its name for people. A ReplicaSet that a Deployment made says which one by its
/// name, which ends in the hash that its pods are labelled with.
fn owner(pod: &Pod) -> Option<String> {
    let owner = controller(pod)?;
    let hash = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(TEMPLATE_HASH));
    let deployment = hash.and_then(|hash| {
        let name = owner.name.strip_suffix(hash)?;
        name.strip_suffix('-')
    });
    Some(match deployment {
        Some(name) if owner.kind == "ReplicaSet" => format!("Deployment {name}"),
        _ => format!("{} {}", owner.kind, owner.name),
    })
}

/// The labels of a pod.
pub(super) fn labels(pod: &Pod) -> &std::collections::BTreeMap<String, String> {
    static NONE: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    pod.metadata.labels.as_ref().unwrap_or(&NONE)
}
