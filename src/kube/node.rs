//! Nodes: what they are, and the labels and taints that the Clusterfile gives.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};

use super::drain::DRAINED_BY;
use super::{Connection, FIELD_MANAGER};
use crate::error::{Kind, Result, ResultExt};

/// A taint of a node.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, serde::Serialize, serde::Deserialize)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value; empty when there is none.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What the API says of a node.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct NodeState {
    /// The node's name.
    pub name: String,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Why it is not ready, as kubelet says it.
    pub reason: Option<String>,
    /// Kubelet's version.
    pub version: String,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// The run that drains it, or did until it was cut.
    #[serde(default)]
    pub drained_by: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// When the node object was created, RFC 3339.
    pub created: Option<String>,
}

impl NodeState {
    /// The roles as kubectl shows them, from `node-role.kubernetes.io/` labels.
    pub fn roles(&self) -> Vec<String> {
        self.labels
            .keys()
            .filter_map(|label| label.strip_prefix("node-role.kubernetes.io/"))
            .map(str::to_owned)
            .collect()
    }
}

/// All nodes, by name.
pub async fn nodes(connection: &Connection) -> Result<Vec<NodeState>> {
    let api: Api<Node> = Api::all(connection.client().clone());
    let list = api
        .list(&ListParams::default())
        .await
        .or_err(Kind::Failed, || "cannot list the cluster's nodes")?;
    let mut nodes: Vec<_> = list.items.into_iter().map(state).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

fn state(node: Node) -> NodeState {
    let status = node.status.unwrap_or_default();
    let spec = node.spec.unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    NodeState {
        name: node.metadata.name.unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        reason: ready
            .filter(|condition| condition.status != "True")
            .and_then(|condition| condition.message.clone()),
        version: status
            .node_info
            .map(|info| info.kubelet_version)
            .unwrap_or_default(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        drained_by: node
            .metadata
            .annotations
            .and_then(|mut all| all.remove(DRAINED_BY)),
        labels: node.metadata.labels.unwrap_or_default(),
        taints: spec
            .taints
            .into_iter()
            .flatten()
            .map(|taint| Taint {
                key: taint.key,
                value: taint.value.unwrap_or_default(),
                effect: taint.effect,
            })
            .collect(),
        created: node
            .metadata
            .creation_timestamp
            .map(|time| time.0.to_string()),
    }
}

/// Names the taints that chasi set, so that those it no longer wants can be told
/// from those of others: the API keeps the list of taints as one field.
const OWN_TAINTS: &str = "chasi.dev/taints";

/// Gives a node exactly these labels and taints of chasi's. Labels and taints of
/// others stay; those that chasi set earlier and no longer wants go.
pub async fn set_metadata(
    connection: &Connection,
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Taint],
) -> Result<()> {
    let problem = || format!("cannot set labels and taints of the node `{name}`");
    let api: Api<Node> = Api::all(connection.client().clone());
    let own = serde_json::to_string(taints).or_err(Kind::Failed, problem)?;
    // The taints are written first and only onto the version that was read: the
    // node controllers write the same list.
    let node = api.get(name).await.or_err(Kind::Failed, problem)?;
    let merged = merge_taints(&node, taints);
    let current = state(node.clone()).taints;
    if merged != current {
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": merged },
        });
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .or_err(Kind::Failed, problem)?;
    }
    let patch = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels, "annotations": { OWN_TAINTS: own } },
    });
    api.patch(
        name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&patch),
    )
    .await
    .map(|_| ())
    .or_err(Kind::Failed, problem)
}

/// Removes a node's object; one that is not there is removed already.
pub async fn delete(connection: &Connection, name: &str) -> Result<()> {
    let api: Api<Node> = Api::all(connection.client().clone());
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result
            .map(|_| ())
            .or_err(Kind::Failed, || format!("cannot remove the node `{name}`")),
    }
}

/// What others set, and what chasi wants.
fn merge_taints(node: &Node, wanted: &[Taint]) -> Vec<Taint> {
    let before: Vec<Taint> = node
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| serde_json::from_str(annotations.get(OWN_TAINTS)?).ok())
        .unwrap_or_default();
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut merged: Vec<Taint> = state(node.clone())
        .taints
        .into_iter()
        .filter(|taint| !before.iter().chain(wanted).any(|own| same(own, taint)))
        .collect();
    merged.extend_from_slice(wanted);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint {
            key: key.into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        }
    }

    #[test]
    fn taints_of_others_stay_and_own_former_ones_go() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "a", "annotations": { OWN_TAINTS: serde_json::to_string(&[taint("old"), taint("kept")]).unwrap() } },
            "spec": { "taints": [taint("old"), taint("kept"), taint("node.kubernetes.io/not-ready")] },
        }))
        .unwrap();
        let merged = merge_taints(&node, &[taint("kept"), taint("new")]);
        assert_eq!(
            merged,
            [
                taint("node.kubernetes.io/not-ready"),
                taint("kept"),
                taint("new")
            ]
        );
    }
}
