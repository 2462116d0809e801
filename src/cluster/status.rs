//! What a cluster is now: `chasi status`, and the administrator's kubeconfig.
//! Only looks; takes no lock.

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::connect::{self, Visitor, connect, farewell};
use crate::agent::calls::distro::{ClusterReport, ReadKubeconfig};
use crate::agent::calls::host::{HostReport, ReadHost};
use crate::agent::{self, Client};
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::kube::NodeState;
use crate::remote::Target;
use crate::spec;

/// Which cluster, and how to reach it.
pub struct Request {
    /// What was asked for.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// In whose name.
    pub visitor: Visitor,
}

/// A cluster as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// Its hosts, in the Clusterfile's order, and then nodes that no host of the
    /// Clusterfile belongs to.
    pub nodes: Vec<Node>,
    /// System pods that are not ready: `namespace/name: reason`.
    pub unready_pods: Vec<String>,
}

/// A host and its node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// The name of both.
    pub name: String,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
    /// kubelet's version; empty when there is no node.
    pub version: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The first twelve digits of its generation's identity.
    pub generation: Option<String>,
    /// What is wrong, when something is.
    pub problem: Option<String>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
    /// Whether a drain is under way, or was cut.
    pub draining: bool,
    /// When the node came, RFC 3339.
    pub created: Option<String>,
    /// Where SSH reaches the host.
    pub address: Option<String>,
    /// The first twelve digits of the digest of the cluster image that its
    /// generation is made from.
    pub image: Option<String>,
}

/// Asks all hosts, and the API by way of the first control plane that answers.
pub async fn status(context: &Context, request: &Request) -> Result<Status> {
    let clients = connect(context, &request.targets, &request.visitor.looking()).await;
    let answer = look(request, &clients).await;
    farewell(clients.into_iter().filter_map(|(_, client)| client.ok())).await;
    answer
}

/// The administrator's kubeconfig, which leads to the balancer on a host.
pub async fn kubeconfig(
    context: &Context,
    request: &Request,
    server: Option<&str>,
) -> Result<String> {
    let control_planes: Vec<&str> = request.cluster.hosts.control_plane_names().collect();
    let mut last = Error::new(Kind::Unreachable, "no control plane can be reached");
    for target in request
        .targets
        .iter()
        .filter(|target| control_planes.contains(&target.name.as_str()))
    {
        match fetch(context, request, target).await {
            Ok(text) => {
                let address = match (server, &request.cluster.control_plane_endpoint) {
                    (Some(server), _) => server.to_owned(),
                    (None, Some(endpoint)) => format!("https://{endpoint}"),
                    (None, None) => format!("https://{}", bracketed(&target.address)),
                };
                return Ok(with_server(&text, &address));
            }
            Err(error) => last = error.on_host(&target.name),
        }
    }
    Err(last)
}

/// The API server's port on an address or name, as URLs have it.
fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:{}", crate::distro::API_PORT)
    } else {
        format!("{address}:{}", crate::distro::API_PORT)
    }
}

async fn fetch(context: &Context, request: &Request, target: &Target) -> Result<String> {
    let client = agent::connect(context, target, &request.visitor.looking()).await?;
    let answer = client.call(ReadKubeconfig {}).await;
    // An agent that cannot say goodbye ends by itself.
    let _ = client.bye().await;
    Ok(answer?.text)
}

/// kubeadm's kubeconfig with another server. On hosts it names the endpoint that
/// only hosts can resolve.
fn with_server(kubeconfig: &str, server: &str) -> String {
    let mut text = String::with_capacity(kubeconfig.len());
    for line in kubeconfig.lines() {
        match line
            .find("server: ")
            .filter(|at| line[..*at].trim().is_empty())
        {
            Some(at) => text.push_str(&format!("{}server: {server}", &line[..at])),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

async fn look(request: &Request, clients: &[(String, Result<Client>)]) -> Result<Status> {
    let reports = join_all(clients.iter().map(|(name, client)| async move {
        let report = match client {
            Ok(client) => client
                .call(ReadHost {})
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        (name.as_str(), report)
    }))
    .await;
    let state = ask_api(request, clients, &reports).await;
    let known = state
        .as_ref()
        .map(|state| state.nodes.as_slice())
        .unwrap_or_default();
    let mut nodes: Vec<Node> = Vec::new();
    for (name, report) in &reports {
        let node = known.iter().find(|node| node.name == *name);
        let problem = match (report, node) {
            (Err(problem), _) => Some(problem.clone()),
            (Ok(_), None) => Some("it is no node of the cluster".to_owned()),
            (Ok(_), Some(node)) => node.reason.clone(),
        };
        nodes.push(Node {
            name: (*name).to_owned(),
            ready: node.is_some_and(|node| node.ready),
            version: node.map(|node| node.version.clone()).unwrap_or_default(),
            roles: node.map(|node| node.roles()).unwrap_or_default(),
            generation: report
                .as_ref()
                .ok()
                .and_then(|report| report.current(crate::host::Part::Node))
                .map(|identity| identity.short()),
            problem,
            address: request
                .cluster
                .hosts
                .get(name)
                .map(|host| host.address.to_string()),
            image: report.as_ref().ok().and_then(image),
            ..Node::of(node)
        });
    }
    for node in known
        .iter()
        .filter(|node| !clients.iter().any(|(name, _)| *name == node.name))
    {
        nodes.push(Node {
            name: node.name.clone(),
            ready: node.ready,
            version: node.version.clone(),
            roles: node.roles(),
            generation: None,
            problem: Some("the Clusterfile does not name it".to_owned()),
            ..Node::of(Some(node))
        });
    }
    let unready_pods = state
        .iter()
        .flat_map(|state| &state.pods)
        .filter(|pod| !pod.ready)
        .map(|pod| {
            let reason = pod.reason.as_deref().unwrap_or("not ready");
            format!("{}/{}: {reason}", pod.namespace, pod.name)
        })
        .collect();
    Ok(Status {
        cluster: request.cluster.name.to_string(),
        nodes,
        unready_pods,
    })
}

impl Node {
    /// What the API says of it.
    fn of(node: Option<&NodeState>) -> Self {
        Node {
            name: String::new(),
            ready: false,
            version: String::new(),
            roles: Vec::new(),
            generation: None,
            problem: None,
            unschedulable: node.is_some_and(|node| node.unschedulable),
            draining: node.is_some_and(|node| node.drained_by.is_some()),
            created: node.and_then(|node| node.created.clone()),
            address: None,
            image: None,
        }
    }
}

/// The cluster image of the generation that the host is in.
fn image(report: &HostReport) -> Option<String> {
    let current = report.current(crate::host::Part::Node)?;
    let generations = &report.facts.managed.generations;
    generations
        .iter()
        .find(|generation| generation.identity == current)
        .map(|generation| generation.image.short())
}

async fn ask_api(
    request: &Request,
    clients: &[(String, Result<Client>)],
    reports: &[(&str, std::result::Result<HostReport, String>)],
) -> Option<ClusterReport> {
    let control_planes = request.cluster.hosts.control_planes().filter_map(|host| {
        let name = host.name.as_str();
        let (_, client) = clients.iter().find(|(other, _)| other == name)?;
        let (_, report) = reports.iter().find(|(other, _)| *other == name)?;
        Some((report.as_ref().ok()?.api?, client.as_ref().ok()?))
    });
    connect::ask_api(control_planes).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_is_replaced() {
        let text = "clusters:\n- cluster:\n    server: https://api.x.chasi.internal:6444\n  name: server: no\n";
        let other = with_server(text, "https://10.0.0.1:6443");
        assert!(
            other.contains("\n    server: https://10.0.0.1:6443\n"),
            "{other}"
        );
        assert!(other.contains("name: server: no"), "{other}");
    }
}
