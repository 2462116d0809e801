//! Nodes that come and go, by way of the API server on this control plane.

use super::distro::{connect, root};
use crate::agent::Scope;
use crate::agent::calls::node::{DeleteNode, Drain, SimulateDrain, Uncordon};
use crate::error::Result;
use crate::kube::drain::{self, Drained, Simulation, Snapshot};
use crate::kube::{self, Connection};

pub(super) async fn simulate_drain(_: Scope, call: SimulateDrain) -> Result<Simulation> {
    let snapshot = Snapshot::read(&connect(call.address).await?).await?;
    let nodes: Vec<&str> = call.nodes.iter().map(String::as_str).collect();
    Ok(drain::simulate(&snapshot, &nodes, &call.options))
}

pub(super) async fn drain(scope: Scope, call: Drain) -> Result<Drained> {
    let kubeconfig = root().join("etc/kubernetes/admin.conf");
    let connection = Connection::open_without_retries(&kubeconfig, call.address).await?;
    let nodes: Vec<&str> = call.nodes.iter().map(String::as_str).collect();
    drain::drain(
        &connection,
        &nodes,
        &call.options,
        &call.run,
        &scope.context,
        &scope.gone,
    )
    .await
}

pub(super) async fn uncordon(_: Scope, call: Uncordon) -> Result<()> {
    drain::uncordon(&connect(call.address).await?, &call.node).await
}

pub(super) async fn delete_node(_: Scope, call: DeleteNode) -> Result<()> {
    kube::delete_node(&connect(call.address).await?, &call.node).await
}
