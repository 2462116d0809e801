//! Nodes that come and go, by way of the API server on this control plane.

use super::distro::{connect, root, system_namespaces, until};
use crate::agent::Scope;
use crate::agent::calls::node::{AwaitNode, DeleteNode, Drain, SimulateDrain, Uncordon};
use crate::error::{Error, Kind, Result};
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

pub(super) async fn await_node(scope: Scope, call: AwaitNode) -> Result<()> {
    let namespaces = system_namespaces(scope.root());
    let look = || async {
        let connection = connect(call.address).await?;
        let nodes = kube::nodes(&connection).await?;
        let node = nodes.into_iter().find(|node| node.name == call.node);
        let node = node.ok_or_else(|| not_yet("it has not registered"))?;
        let wanted = format!("v{}", call.version);
        if node.version != wanted {
            return Err(not_yet(format!(
                "its kubelet is {}, and not {wanted} yet",
                node.version
            )));
        }
        if !node.ready {
            let why = node.reason.unwrap_or_else(|| "it gives no reason".into());
            return Err(not_yet(why));
        }
        let pods = kube::system_pods(&connection, &namespaces).await?;
        let here = |pod: &&kube::PodState| pod.node.as_deref() == Some(call.node.as_str());
        match pods.iter().filter(here).find(|pod| !pod.ready) {
            None => Ok(()),
            Some(pod) => Err(not_yet(format!(
                "the pod `{}/{}` is not ready: {}",
                pod.namespace,
                pod.name,
                pod.reason.as_deref().unwrap_or("it gives no reason")
            ))),
        }
    };
    let what = format!("the node `{}` is not ready", call.node);
    until(&scope, call.seconds, &what, look).await.map_err(|error| {
        error.hint("`journalctl -u kubelet -u containerd` on the node; the end of both is in the log of this run")
    })
}

fn not_yet(why: impl Into<String>) -> Error {
    Error::new(Kind::Failed, why)
}
