//! Requests about the host itself: what it is, its generations, its switches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use super::distro::HostDistroState;
use crate::digest::Digest;
use crate::distro::EtcdStart;
use crate::host::facts::Facts;
use crate::host::leave::Left;
use crate::host::setting::Settings;
use crate::host::{Part, Recipe};

/// What the host is, and what chasi has made of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadHost {}

/// The answer to [`ReadHost`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostReport {
    /// Whether chasi has left anything on the host, beyond what an agent itself
    /// needs.
    pub managed: bool,
    /// What it is.
    pub facts: Facts,
    /// How this host's etcd started for the first time, as its control-plane
    /// generation says.
    pub etcd: Option<EtcdStart>,
    /// The manifest of the etcd on this host, as its control-plane generation has it.
    #[serde(default)]
    pub etcd_manifest: Option<String>,
    /// Services of the generation that should run and do not.
    pub stopped: Vec<String>,
    /// The address of the API server on this host, on a control plane.
    pub api: Option<std::net::IpAddr>,
    /// Whether the host's services run the same chasi as this agent.
    pub program_is_current: bool,
    /// What the distribution has here.
    pub distro: HostDistroState,
}

impl HostReport {
    /// The generation that a switch points to.
    pub fn current(&self, part: Part) -> Option<Digest> {
        self.facts
            .managed
            .parts
            .get(&part)
            .map(|state| state.identity)
    }

    /// The Kubernetes version of the generation that a switch points to, without `v`.
    pub fn kubernetes(&self, part: Part) -> Option<&str> {
        let managed = &self.facts.managed;
        let number = managed.parts.get(&part)?.generation;
        let mut all = managed.generations.iter();
        all.find(|one| one.number == number)?.kubernetes.as_deref()
    }

    /// The cluster image that the node's generation was made from.
    pub fn image(&self) -> Option<Digest> {
        let managed = &self.facts.managed;
        let number = managed.parts.get(&Part::Node)?.generation;
        let mut all = managed.generations.iter();
        all.find(|one| one.number == number).map(|one| one.image)
    }
}

impl Call for ReadHost {
    type Reply = HostReport;
    const NAME: &'static str = "read-host";
    const EFFECT: Effect = Effect::Reads;
}

/// Which generations the host's switches point to, by their identities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadSwitches {}

impl Call for ReadSwitches {
    type Reply = BTreeMap<Part, Digest>;
    const NAME: &'static str = "read-switches";
    const EFFECT: Effect = Effect::Reads;
}

/// Removes generations that are not to be kept, and what only they had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PruneGenerations {}

impl Call for PruneGenerations {
    type Reply = ();
    const NAME: &'static str = "prune-generations";
    const EFFECT: Effect = Effect::Changes;
}

/// Whether the settings that are no files are as they should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckSettings {
    /// What they should be.
    pub settings: Settings,
}

impl Call for CheckSettings {
    type Reply = bool;
    const NAME: &'static str = "check-settings";
    const EFFECT: Effect = Effect::Reads;
}

/// Makes a generation from a recipe. Touches nothing that is live.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageGeneration {
    /// What it is made from.
    pub recipe: Recipe,
}

impl Call for StageGeneration {
    type Reply = u64;
    const NAME: &'static str = "stage-generation";
    const EFFECT: Effect = Effect::Changes;
}

/// Switches one part of the host to a staged generation, and starts and restarts
/// the services that belong to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwitchTo {
    /// Which part.
    pub part: Part,
    /// The generation's identity.
    pub identity: Digest,
    /// Settings to apply with it.
    pub settings: Settings,
    /// The run, for the journal.
    pub run: String,
}

/// What a switch did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Switched {
    /// Files that a user changed and that were therefore kept.
    pub kept: Vec<String>,
    /// Units that were started or restarted.
    pub units: Vec<String>,
}

impl Call for SwitchTo {
    type Reply = Switched;
    const NAME: &'static str = "switch-to";
    const EFFECT: Effect = Effect::Changes;
}

/// Starts units and waits until they run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartUnits {
    /// The units.
    pub units: Vec<String>,
    /// How long to wait, in seconds.
    pub seconds: u64,
}

impl Call for StartUnits {
    type Reply = ();
    const NAME: &'static str = "start-units";
    const EFFECT: Effect = Effect::Changes;
}

/// Takes the cluster off the host and puts everything back as it was. What the
/// agent itself needs it removes when it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leave {
    /// The run, for the journal.
    pub run: String,
}

impl Call for Leave {
    type Reply = Left;
    const NAME: &'static str = "leave";
    const EFFECT: Effect = Effect::Changes;
}

/// Notes in the host's store which image its blobs belong to, so that the
/// registry serves it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TagImage {
    /// The image's name.
    pub reference: String,
    /// Its index.
    pub index: crate::oci::Blob,
}

impl Call for TagImage {
    type Reply = ();
    const NAME: &'static str = "tag-image";
    const EFFECT: Effect = Effect::Changes;
}

/// What the host's services say, for the full log of a failed run: the ends of the
/// journals of what chasi starts there and of every unit that failed, and of the
/// logs of the system's containers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadJournals {}

impl Call for ReadJournals {
    /// Text of many lines, at most 4 MiB.
    type Reply = String;
    const NAME: &'static str = "read-journals";
    const EFFECT: Effect = Effect::Reads;
}
