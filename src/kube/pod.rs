//! Pods of the system, and why they do not run.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, ListParams};

use super::Connection;
use crate::error::{Kind, Result, ResultExt};

/// What the API says of a pod.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PodState {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Whether all its containers are ready, or it ended well.
    pub ready: bool,
    /// Why not: a waiting container's reason and message, or the phase.
    pub reason: Option<String>,
}

/// All pods of the namespaces that chasi's own objects live in, by name.
pub async fn system_pods(connection: &Connection, namespaces: &[String]) -> Result<Vec<PodState>> {
    let mut pods = Vec::new();
    for namespace in namespaces {
        let api: Api<Pod> = Api::namespaced(connection.client().clone(), namespace);
        let list = api
            .list(&ListParams::default())
            .await
            .or_err(Kind::Failed, || {
                format!("cannot list the pods of the namespace `{namespace}`")
            })?;
        pods.extend(list.items.into_iter().map(state));
    }
    pods.sort_by(|a: &PodState, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(pods)
}

fn state(pod: Pod) -> PodState {
    let status = pod.status.unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let containers: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .collect();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |name: &str| conditions.iter().find(|condition| condition.type_ == name);
    let ready = phase == "Succeeded"
        || condition("Ready").is_some_and(|condition| condition.status == "True");
    let waiting = containers.iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        })
    });
    let unscheduled = condition("PodScheduled")
        .filter(|condition| condition.status != "True")
        .and_then(|condition| condition.message.clone());
    PodState {
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        node: pod.spec.and_then(|spec| spec.node_name),
        ready,
        reason: (!ready).then(|| waiting.or(unscheduled).unwrap_or(phase)),
    }
}
