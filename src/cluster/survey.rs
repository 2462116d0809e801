//! What the hosts are: asked of all of them at once, over one connection each.

use std::collections::BTreeMap;

use super::connect::LeftOut;
use super::hooks::HookState;
use super::unlisted::Unlisted;
use crate::agent::calls::distro::HostDistroState;
use crate::digest::Digest;
use crate::distro::EtcdMember;
use crate::kube::NodeState;
use crate::oci::Blob;

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The hosts that answered, by name.
    pub hosts: BTreeMap<String, HostState>,
    /// The hosts that did not, and that this run can do without.
    pub left_out: Vec<LeftOut>,
    /// What the API says of the nodes; `None` while there is no API.
    pub nodes: Option<Vec<NodeState>>,
    /// The members of etcd; none when it cannot be asked.
    pub etcd: Vec<EtcdMember>,
    /// The nodes that the Clusterfile does not name any more.
    pub unlisted: Vec<Unlisted>,
    /// The identity of the backup that the cluster is made from.
    pub restore: Option<Digest>,
}

/// What decides over a host's part in the plan.
#[derive(Clone, Debug, Default)]
pub struct HostState {
    /// Parts of the image that it lacks.
    pub missing: Vec<Blob>,
    /// Identities of the generations it has.
    pub staged: Vec<Digest>,
    /// The generation that the node switch points to.
    pub node: Option<Digest>,
    /// The cluster image that it was made from.
    pub image: Option<Digest>,
    /// The generation that the control-plane switch points to.
    pub control_plane: Option<Digest>,
    /// Whether no switch is unfinished, and the host's settings are those of the
    /// generation.
    pub settled: bool,
    /// Services of the generation that should run and do not.
    pub stopped: Vec<String>,
    /// What the distribution has here.
    pub distro: HostDistroState,
    /// What there is to do for its plugins.
    pub hooks: HookState,
}
