//! What a simulation looks at, read from the API at once.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::kube::Connection;

/// How many objects come in one answer of the API.
const PAGE: u32 = 500;
/// More pods than Kubernetes is made for (kubernetes.io/docs/setup/best-practices).
const MOST: usize = 150_000;

/// All nodes, pods and PodDisruptionBudgets of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods of all namespaces.
    pub pods: Vec<Pod>,
    /// The budgets of all namespaces.
    pub budgets: Vec<PodDisruptionBudget>,
}

impl Snapshot {
    /// Reads it.
    pub async fn read(connection: &Connection) -> Result<Self> {
        let (nodes, pods, budgets) = futures::try_join!(
            all(connection, "nodes"),
            all(connection, "pods"),
            all(connection, "PodDisruptionBudgets"),
        )?;
        Ok(Snapshot {
            nodes,
            pods,
            budgets,
        })
    }
}

async fn all<K>(connection: &Connection, what: &str) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(connection.client().clone());
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api
            .list(&page)
            .await
            .or_err(Kind::Failed, || format!("cannot list the cluster's {what}"))?;
        found.extend(list.items);
        if found.len() > MOST {
            return Err(Error::new(
                Kind::Failed,
                format!("the cluster has more than {MOST} {what}"),
            ));
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}
