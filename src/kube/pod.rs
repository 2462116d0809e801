//! Pods of the system, and why they do not run.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, ListParams};

use super::Connection;
use crate::error::{Kind, Result, ResultExt};

/// From how many restarts on a container counts as one that crashes.
const MANY_RESTARTS: i32 = 4;

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
    /// What keeps it from ever being ready, when it looks so.
    pub trouble: Option<Trouble>,
}

/// What a pod does not get over by waiting alone. Each of them also happens for a
/// moment while a cluster starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// A container ends again and again.
    Crashes,
    /// A container's image cannot be had.
    Image,
    /// A container cannot be made: its configuration names what does not exist.
    Configuration,
    /// No node fits.
    Unschedulable,
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
        waiting(container).map(|(reason, message)| {
            let said = match message {
                Some(message) => format!("{reason}: {message}"),
                None => reason.to_owned(),
            };
            match last_end(container) {
                Some(end) => format!("{said}; {end}"),
                None => said,
            }
        })
    });
    let unscheduled = condition("PodScheduled").filter(|condition| condition.status != "True");
    let trouble = match unscheduled.and_then(|condition| condition.reason.as_deref()) {
        Some("Unschedulable") => Some(Trouble::Unschedulable),
        _ => containers.iter().find_map(|container| trouble(container)),
    };
    let unscheduled = unscheduled.and_then(|condition| condition.message.clone());
    PodState {
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        node: pod.spec.and_then(|spec| spec.node_name),
        ready,
        reason: (!ready).then(|| waiting.or(unscheduled).unwrap_or(phase)),
        trouble: trouble.filter(|_| !ready),
    }
}

/// What a container waits for: the reason, which is one word, and a message.
fn waiting(container: &ContainerStatus) -> Option<(&str, Option<&str>)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref()))
}

/// How a container ended the last time.
fn last_end(container: &ContainerStatus) -> Option<String> {
    let end = container.last_state.as_ref()?.terminated.as_ref()?;
    let mut text = format!(
        "`{}` ended {} times, at last with exit code {}",
        container.name, container.restart_count, end.exit_code
    );
    if let Some(reason) = end.reason.as_deref().filter(|reason| *reason != "Error") {
        text.push_str(&format!(" ({reason})"));
    }
    Some(text)
}

/// The reasons are kubelet's: `pkg/kubelet/images/types.go`,
/// `pkg/kubelet/container/sync_result.go` and
/// `pkg/kubelet/kuberuntime/kuberuntime_container.go`.
fn trouble(container: &ContainerStatus) -> Option<Trouble> {
    match waiting(container).map(|(reason, _)| reason) {
        Some("CrashLoopBackOff") => Some(Trouble::Crashes),
        Some(
            "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName"
            | "ImageInspectError",
        ) => Some(Trouble::Image),
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            Some(Trouble::Configuration)
        }
        // Between two backoffs it runs for a moment.
        _ => (container.restart_count >= MANY_RESTARTS && !container.ready)
            .then_some(Trouble::Crashes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: serde_json::Value) -> PodState {
        let pod = serde_json::json!({
            "metadata": { "namespace": "kube-system", "name": "p" },
            "spec": { "nodeName": "m1", "containers": [] },
            "status": status,
        });
        state(serde_json::from_value(pod).unwrap())
    }

    fn container(state: serde_json::Value, restarts: i32) -> serde_json::Value {
        serde_json::json!({
            "name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state,
            "lastState": if restarts > 0 {
                serde_json::json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } })
            } else {
                serde_json::json!({})
            },
        })
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_apart() {
        let waiting = |reason: &str| serde_json::json!({ "waiting": { "reason": reason } });
        for (state, restarts, expected) in [
            (waiting("ContainerCreating"), 0, None),
            (waiting("CrashLoopBackOff"), 2, Some(Trouble::Crashes)),
            (waiting("ErrImagePull"), 0, Some(Trouble::Image)),
            (
                waiting("CreateContainerConfigError"),
                0,
                Some(Trouble::Configuration),
            ),
            (serde_json::json!({ "running": {} }), 1, None),
            (
                serde_json::json!({ "running": {} }),
                5,
                Some(Trouble::Crashes),
            ),
        ] {
            let status = serde_json::json!({
                "phase": "Running", "containerStatuses": [container(state.clone(), restarts)],
            });
            assert_eq!(seen(status).trouble, expected, "{state}");
        }
    }

    #[test]
    fn the_last_end_of_a_container_is_part_of_the_reason() {
        let state = serde_json::json!({ "waiting": {
            "reason": "CrashLoopBackOff", "message": "back-off 40s" } });
        let status = serde_json::json!({ "containerStatuses": [container(state, 4)] });
        assert_eq!(
            seen(status).reason.unwrap(),
            "CrashLoopBackOff: back-off 40s; `c` ended 4 times, at last with exit code 137 (OOMKilled)"
        );
    }

    #[test]
    fn a_pod_without_a_node_says_why() {
        let condition = serde_json::json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/4 nodes are available" });
        let pod = seen(serde_json::json!({ "phase": "Pending", "conditions": [condition] }));
        assert_eq!(pod.trouble, Some(Trouble::Unschedulable));
        assert_eq!(pod.reason.as_deref(), Some("0/4 nodes are available"));
    }
}
