//! What a step of a plan does.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::oci::Blob;
use crate::spec::plugin::{Changes, Phase, PluginName};

use super::size;

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
    /// Notes that the cluster is made from a backup.
    BeginRestore {
        /// The backup's identity.
        backup: Digest,
    },
    /// Makes the data of this host's etcd from the backup.
    RestoreEtcd,
    /// Removes the objects of nodes that are no more, and the note.
    EndRestore,
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
    /// Waits until the control plane on this host is that of its generation, and
    /// ready.
    AwaitControlPlane,
    /// Moves the node's pods to others, and lets it take no new ones.
    Drain,
    /// Waits until the node is ready, with a kubelet of this version.
    AwaitNode {
        /// The Kubernetes version, without `v`.
        version: String,
    },
    /// Lets the node take pods again.
    Uncordon,
    /// Applies the cluster's own objects.
    ApplyObjects {
        /// Their identity.
        identity: Digest,
        /// Whether those that are recorded and not among them are deleted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        prune: bool,
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
            Action::BeginRestore { .. } => "note that the cluster is restored".into(),
            Action::RestoreEtcd => "restore etcd's data from the backup".into(),
            Action::EndRestore => "remove nodes that are no more, and end the restore".into(),
            Action::AddEtcdMember => "add the host to etcd's members".into(),
            Action::PromoteEtcdMember => "let the host's etcd vote".into(),
            Action::SwitchControlPlane { .. } => {
                "switch the control plane to the new generation".into()
            }
            Action::StartKubelet => "start kubelet".into(),
            Action::AwaitControlPlane => "wait until the control plane is ready".into(),
            Action::Drain => "drain the node".into(),
            Action::AwaitNode { .. } => "wait until the node is ready".into(),
            Action::Uncordon => "let the node take pods again".into(),
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

    pub(super) fn undoable(&self) -> bool {
        !matches!(
            self,
            Action::ApplyObjects { .. }
                | Action::AddEtcdMember
                | Action::EndRestore
                | Action::RunPlugin { undo: false, .. }
        )
    }
}
