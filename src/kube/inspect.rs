//! What of a running cluster may be in the way of a change: requests for certificates
//! that nobody answered, old APIs that somebody uses, volumes that are bound to a node.

use axum::http::Request;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, ListParams};
use serde::{Deserialize, Serialize};

use super::Connection;
use crate::error::{Kind, Result, ResultExt};

/// How many objects of one kind are looked at, at most.
const MOST: u32 = 5000;
/// How many of them are told at most.
const TOLD: usize = 100;

/// An API that is in use and that a later Kubernetes will not have.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct DeprecatedApi {
    /// Such as `flowcontrol.apiserver.k8s.io/v1beta3 flowschemas`.
    pub name: String,
    /// The Kubernetes version that does not have it any more, such as `1.32`.
    pub removed_in: String,
}

/// A volume whose data are on one node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LocalVolume {
    /// The volume.
    pub name: String,
    /// Who uses it: `namespace/claim`.
    pub claim: Option<String>,
}

/// The names of the requests for certificates that are neither approved nor denied.
pub async fn pending_requests(connection: &Connection) -> Result<Vec<String>> {
    let api: Api<CertificateSigningRequest> = Api::all(connection.client().clone());
    let list = api
        .list(&ListParams::default().limit(MOST))
        .await
        .or_err(Kind::Failed, || "cannot list the requests for certificates")?;
    let pending = list.items.into_iter().filter(|request| {
        let status = request.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.is_none_or(Vec::is_empty)
    });
    Ok(pending
        .filter_map(|request| request.metadata.name)
        .take(TOLD)
        .collect())
}

/// The volumes whose data are on one node: those of types `local` and `hostPath`.
pub async fn local_volumes(connection: &Connection) -> Result<Vec<LocalVolume>> {
    let api: Api<PersistentVolume> = Api::all(connection.client().clone());
    let list = api
        .list(&ListParams::default().limit(MOST))
        .await
        .or_err(Kind::Failed, || "cannot list the cluster's volumes")?;
    Ok(list
        .items
        .into_iter()
        .filter_map(local_volume)
        .take(TOLD)
        .collect())
}

fn local_volume(volume: PersistentVolume) -> Option<LocalVolume> {
    let spec = volume.spec?;
    (spec.local.is_some() || spec.host_path.is_some()).then(|| LocalVolume {
        name: volume.metadata.name.unwrap_or_default(),
        claim: spec.claim_ref.map(|claim| {
            let (namespace, name) = (claim.namespace, claim.name);
            format!(
                "{}/{}",
                namespace.unwrap_or_default(),
                name.unwrap_or_default()
            )
        }),
    })
}

/// The deprecated APIs that somebody has asked this API server for since it started
/// (the metric `apiserver_requested_deprecated_apis`,
/// kubernetes.io/docs/reference/using-api/deprecation-policy).
pub async fn deprecated_apis(connection: &Connection) -> Result<Vec<DeprecatedApi>> {
    let cannot = || "cannot read the API server's metrics";
    let request = Request::get("/metrics")
        .body(Vec::new())
        .or_err(Kind::Failed, cannot)?;
    let text = connection
        .client()
        .request_text(request)
        .await
        .or_err(Kind::Failed, cannot)?;
    let mut found: Vec<_> = text.lines().filter_map(deprecated).collect();
    found.sort();
    found.dedup();
    found.truncate(TOLD);
    Ok(found)
}

/// `apiserver_requested_deprecated_apis{group="g",removed_release="1.32",resource="r",…} 1`
fn deprecated(line: &str) -> Option<DeprecatedApi> {
    let labels = line.strip_prefix("apiserver_requested_deprecated_apis{")?;
    let label = |name: &str| -> Option<&str> {
        let at = labels.find(&format!("{name}=\""))? + name.len() + 2;
        labels[at..].split('"').next()
    };
    let (group, version, resource) = (label("group")?, label("version")?, label("resource")?);
    let separator = if group.is_empty() { "" } else { "/" };
    Some(DeprecatedApi {
        name: format!("{group}{separator}{version} {resource}"),
        removed_in: label("removed_release")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_metric_is_understood() {
        let line = r#"apiserver_requested_deprecated_apis{group="flowcontrol.apiserver.k8s.io",removed_release="1.32",resource="flowschemas",subresource="",version="v1beta3"} 1"#;
        let found = deprecated(line).unwrap();
        assert_eq!(
            found.name,
            "flowcontrol.apiserver.k8s.io/v1beta3 flowschemas"
        );
        assert_eq!(found.removed_in, "1.32");
        let core = r#"apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1"#;
        assert_eq!(deprecated(core).unwrap().name, "v1 endpoints");
        assert_eq!(deprecated("apiserver_request_total{} 1"), None);
        assert_eq!(deprecated("apiserver_requested_deprecated_apis{"), None);
    }

    #[test]
    fn only_volumes_that_are_bound_to_a_node_are_local() {
        let volume = |spec: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({ "metadata": { "name": "v" }, "spec": spec })).unwrap()
        };
        let claim = json!({ "namespace": "shop", "name": "data" });
        let local = volume(json!({ "local": { "path": "/x" }, "claimRef": claim }));
        assert_eq!(
            local_volume(local).unwrap().claim.as_deref(),
            Some("shop/data")
        );
        let remote = volume(json!({ "nfs": { "server": "a", "path": "/x" } }));
        assert_eq!(local_volume(remote), None);
    }
}
