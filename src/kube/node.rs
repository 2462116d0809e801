//! Nodes: what they are, the labels and taints that the Clusterfile gives, and the
//! way into their hosts, which is noted at them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
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

/// How SSH reaches a node's host, as it was when chasi last set the node: kept at the
/// node itself, for when no Clusterfile names the host any more. No secrets.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// An IP address or a DNS name.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// Who to log in as.
    pub user: String,
    /// The fingerprint of its key, where the Clusterfile had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
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
    /// Its first address in the cluster.
    pub address: Option<IpAddr>,
    /// Whether chasi made it a node.
    pub ours: bool,
    /// The labels that chasi gave it.
    #[serde(default)]
    pub own_labels: BTreeSet<String>,
    /// The taints that chasi gave it.
    #[serde(default)]
    pub own_taints: Vec<Taint>,
    /// The way into its host, where it was noted.
    pub way: Option<Way>,
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
    let own_labels = own_labels(&node.metadata);
    let annotations = node.metadata.annotations.unwrap_or_default();
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
        drained_by: annotations.get(DRAINED_BY).cloned(),
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
        address: status
            .addresses
            .iter()
            .flatten()
            .find(|address| address.type_ == "InternalIP")
            .and_then(|address| address.address.parse().ok()),
        ours: annotations.contains_key(OWN_TAINTS),
        own_labels,
        own_taints: own_taints(&annotations),
        way: annotations
            .get(WAY)
            .and_then(|text| serde_json::from_str(text).ok()),
    }
}

/// The labels that chasi's field manager owns.
fn own_labels(metadata: &ObjectMeta) -> BTreeSet<String> {
    let own = |entry: &&ManagedFieldsEntry| entry.manager.as_deref() == Some(FIELD_MANAGER);
    let fields = metadata.managed_fields.iter().flatten().filter(own);
    fields
        .filter_map(|entry| entry.fields_v1.as_ref()?.0["f:metadata"]["f:labels"].as_object())
        .flat_map(|labels| labels.keys())
        .filter_map(|key| key.strip_prefix("f:").map(str::to_owned))
        .collect()
}

fn own_taints(annotations: &BTreeMap<String, String>) -> Vec<Taint> {
    annotations
        .get(OWN_TAINTS)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Names the taints that chasi set, so that those it no longer wants can be told
/// from those of others: the API keeps the list of taints as one field.
const OWN_TAINTS: &str = "chasi.dev/taints";

/// Holds the [`Way`] into the node's host, as JSON.
const WAY: &str = "chasi.dev/host";

/// Gives a node exactly these labels and taints of chasi's, and notes the way into its
/// host. Labels and taints of others stay; those that chasi set earlier and no longer
/// wants go.
pub async fn set_metadata(
    connection: &Connection,
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Taint],
    way: &Way,
) -> Result<()> {
    let problem = || format!("cannot set labels and taints of the node `{name}`");
    let api: Api<Node> = Api::all(connection.client().clone());
    let own = serde_json::to_string(taints).or_err(Kind::Failed, problem)?;
    let way = serde_json::to_string(way).or_err(Kind::Failed, problem)?;
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
        "metadata": {
            "name": name, "labels": labels, "annotations": { OWN_TAINTS: own, WAY: way },
        },
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
    let before = own_taints(
        node.metadata
            .annotations
            .as_ref()
            .unwrap_or(&BTreeMap::new()),
    );
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
    fn the_way_into_a_host_is_read_from_its_node() {
        let way = Way {
            address: "10.0.0.9".into(),
            port: 2222,
            user: "ops".into(),
            host_key: None,
        };
        let text = serde_json::to_string(&way).unwrap();
        assert_eq!(text, r#"{"address":"10.0.0.9","port":2222,"user":"ops"}"#);
        for (annotations, ours, expected) in [
            (
                serde_json::json!({ OWN_TAINTS: "[]", WAY: text }),
                true,
                Some(way),
            ),
            // Of an earlier chasi; damaged; of somebody else.
            (serde_json::json!({ OWN_TAINTS: "[]" }), true, None),
            (
                serde_json::json!({ OWN_TAINTS: "[]", WAY: "{" }),
                true,
                None,
            ),
            (serde_json::json!({}), false, None),
        ] {
            let node: Node = serde_json::from_value(serde_json::json!({
                "metadata": { "name": "a", "annotations": annotations },
                "status": { "addresses": [
                    { "type": "Hostname", "address": "a" },
                    { "type": "InternalIP", "address": "10.1.0.9" },
                ] },
            }))
            .unwrap();
            let state = state(node);
            assert_eq!((state.ours, state.way), (ours, expected));
            assert_eq!(state.address, Some([10, 1, 0, 9].into()));
        }
    }

    #[test]
    fn what_chasi_gave_a_node_is_told_from_what_others_did() {
        let taint = taint("x");
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "a",
                "labels": { "disk": "ssd", "kubernetes.io/os": "linux" },
                "annotations": { OWN_TAINTS: serde_json::to_string(&[&taint]).unwrap() },
                "managedFields": [
                    { "manager": "kubelet", "fieldsV1": { "f:metadata": { "f:labels": {
                        ".": {}, "f:kubernetes.io/os": {} } } } },
                    { "manager": FIELD_MANAGER, "fieldsV1": { "f:metadata": {
                        "f:labels": { "f:disk": {} }, "f:annotations": { "f:a": {} } } } },
                    { "manager": FIELD_MANAGER, "fieldsV1": { "f:spec": {} } },
                    { "manager": FIELD_MANAGER },
                ],
            },
        }))
        .unwrap();
        let state = state(node);
        assert_eq!(state.own_labels, ["disk".to_owned()].into());
        assert_eq!(state.own_taints, [taint]);
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
