//! Learning the API servers from the cluster: the API servers keep the list of
//! themselves in the EndpointSlice `default/kubernetes`, and the node watches it
//! with the kubelet's credential.
//!
//! A watch without a resource version begins with what is there and goes on with
//! every change, so there is no separate list to make. What was learned is kept on
//! disk. An empty list is never believed: a cluster that answers has a server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;

use super::seeds::Seeds;
use super::server::{Health, Server};
use super::session::{Failure, Session};
use super::table::{MOST, Table};
use super::trust::Trust;
use crate::error::{Error, Kind, Result};
use crate::event::Context;

/// Server side time limit of a watch. Each new one also uses a renewed
/// certificate, and perhaps another server.
const WATCH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
    ?fieldSelector=metadata.name%3Dkubernetes&watch=true&timeoutSeconds=300";

/// Longer events are not read, in bytes. An object in etcd has at most 1.5 MiB.
const LONGEST: usize = 2 << 20;

/// How long to wait before the next watch: after one that worked, and after one
/// that did not.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long a server may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The port of the API server's own name in the slice.
const PORT_NAME: &str = "https";

/// The Kubernetes objects that let nodes read the list, to be applied once a
/// cluster. `system:nodes` is the group of every kubelet's certificate.
pub const RBAC: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: chasi:api-servers
  namespace: default
rules:
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [kubernetes]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: chasi:api-servers
  namespace: default
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: chasi:api-servers
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:nodes
";

/// Learns and remembers.
pub struct Learner {
    /// Where to tell of changes.
    pub ctx: Context,
    /// The servers.
    pub table: Arc<Table>,
    /// As whom to ask.
    pub trust: Arc<Trust>,
    /// Where to remember.
    pub file: PathBuf,
    /// Told of every server that is new.
    pub new: Box<dyn Fn(Vec<Arc<Server>>) + Send + Sync>,
}

impl Learner {
    /// Learns until the end of the service.
    pub async fn run(self) {
        let mut told = None;
        loop {
            let problem = match self.watch().await {
                Ok(()) => None,
                Err(error) => Some(match error.causes().next() {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                }),
            };
            let pause = if problem.is_none() { PAUSE.0 } else { PAUSE.1 };
            if problem != told {
                if let Some(problem) = &problem {
                    self.ctx.warn(format!("balancer: {problem}"));
                }
                told = problem;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Watches until the server ends the watch. Before the host is a node there is
    /// nothing to watch with, and that is no failure.
    async fn watch(&self) -> Result<()> {
        let Some(tls) = self.trust.as_node()? else {
            return Ok(());
        };
        let Some(server) = self
            .table
            .order()
            .into_iter()
            .find(|server| server.health() == Health::Ready)
        else {
            return Ok(());
        };
        let cannot = |reason: String| {
            Error::new(
                Kind::Unreachable,
                "cannot learn the API servers from the cluster",
            )
            .because(reason)
        };
        let asked = async {
            let mut session = Session::open(server.address, tls).await?;
            let answer = session.get(WATCH).await?;
            Ok::<_, Failure>((session, answer))
        };
        let (_session, answer) = tokio::time::timeout(ANSWER, asked)
            .await
            .map_err(|_| cannot(format!("{} does not answer", server.address)))?
            .map_err(|failure| cannot(format!("{}: {}", server.address, tell(failure))))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(answer.status()));
        }
        // The connection counts as one to this server: it is cut with the others.
        let lease = server.lease();
        let reading = self.read(answer.into_body(), &server);
        match lease.cut.run_until_cancelled(reading).await {
            Some(ended) => ended,
            None => Ok(()),
        }
    }

    /// Reads events, one JSON object a line, until the server ends the stream or
    /// is itself no longer one of those that the cluster names.
    async fn read(&self, mut body: Incoming, server: &Server) -> Result<()> {
        let mut text = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // A watch that breaks is begun anew; that is all there is to do.
            let Ok(frame) = frame else {
                return Ok(());
            };
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let event = text.split_to(end);
                text.advance(1);
                self.learn(&event).await?;
            }
            if server.named().by_nobody() {
                return Ok(());
            }
            if text.len() > LONGEST {
                return Err(Error::new(
                    Kind::Integrity,
                    "an event about the API servers is too long",
                ));
            }
        }
        Ok(())
    }

    async fn learn(&self, event: &[u8]) -> Result<()> {
        let Some(servers) = parse(event)? else {
            return Ok(());
        };
        let new = self.table.learn(&servers);
        (self.new)(new);
        self.remember(servers).await
    }

    /// Keeps the list on disk, if it is another one.
    async fn remember(&self, servers: Vec<SocketAddr>) -> Result<()> {
        let (ctx, file) = (self.ctx.clone(), self.file.clone());
        let keep = move || {
            let seeds = Seeds {
                local: None,
                servers,
            };
            if Seeds::read(&file).is_ok_and(|kept| kept == seeds) {
                return Ok(());
            }
            let names: Vec<String> = seeds.servers.iter().map(ToString::to_string).collect();
            ctx.note(format!(
                "balancer: the API servers are {}",
                names.join(", ")
            ));
            seeds.keep(&file)
        };
        tokio::task::spawn_blocking(keep)
            .await
            .unwrap_or_else(|stopped| {
                Err(
                    Error::new(Kind::Failed, "keeping the API servers was interrupted")
                        .because(stopped),
                )
            })
    }
}

fn tell(failure: Failure) -> String {
    match failure {
        Failure::Connection(error) => error.to_string(),
        Failure::Stranger(reason) => reason,
    }
}

fn refused(status: StatusCode) -> Error {
    let error = Error::new(
        Kind::Unreachable,
        format!(
            "the API server answers {} to the question for the API servers",
            status.as_u16()
        ),
    );
    match status {
        StatusCode::FORBIDDEN => {
            error.because("the role `chasi:api-servers` in the namespace `default` is missing")
        }
        StatusCode::UNAUTHORIZED => error.because("the kubelet's certificate is not accepted"),
        _ => error,
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// The servers that an event names, sorted; `None` when it says nothing of use.
fn parse(event: &[u8]) -> Result<Option<Vec<SocketAddr>>> {
    let wrong = |cause: serde_json::Error| {
        Error::new(
            Kind::Integrity,
            "an event about the API servers is not understood",
        )
        .because(cause)
    };
    let event: Event = serde_json::from_slice(event).map_err(wrong)?;
    match event.kind.as_str() {
        "ADDED" | "MODIFIED" => {}
        "ERROR" => {
            let reason = event.object["message"]
                .as_str()
                .unwrap_or("no reason given")
                .to_owned();
            return Err(
                Error::new(Kind::Unreachable, "the API server ended the watch").because(reason),
            );
        }
        // When the slice is deleted, the servers make it anew.
        _ => return Ok(None),
    }
    let slice: EndpointSlice = serde_json::from_value(event.object).map_err(wrong)?;
    let port = slice
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some(PORT_NAME))
        .and_then(|port| port.port)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    let Some(port) = port else {
        return Ok(None);
    };
    let mut servers: Vec<SocketAddr> = slice
        .endpoints
        .iter()
        // A server that is stopping is tried last by its health, not forgotten.
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .map(|address| SocketAddr::new(address, port))
        .take(MOST)
        .collect();
    servers.sort_unstable();
    servers.dedup();
    Ok((!servers.is_empty()).then_some(servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, addresses: &[&str], port: i32) -> Vec<u8> {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| serde_json::json!({"addresses": [address], "conditions": {"ready": true}}))
            .collect();
        serde_json::json!({"type": kind, "object": {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn the_slice_names_the_servers() {
        let servers = parse(&event(
            "ADDED",
            &["10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.1"],
            6443,
        ))
        .unwrap();
        let expected = ["10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:6443"];
        assert_eq!(
            servers.unwrap(),
            expected.map(|address| address.parse().unwrap())
        );
    }

    #[test]
    fn an_empty_or_impossible_list_is_not_believed() {
        for event in [
            event("ADDED", &[], 6443),
            event("ADDED", &["0.0.0.0", "::", "224.0.0.1", "x"], 6443),
            event("ADDED", &["10.0.0.1"], 0),
            event("ADDED", &["10.0.0.1"], 70_000),
            event("DELETED", &["10.0.0.1"], 6443),
            event("BOOKMARK", &["10.0.0.1"], 6443),
        ] {
            assert_eq!(parse(&event).unwrap(), None);
        }
    }

    #[test]
    fn errors_and_nonsense_end_the_watch() {
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","message":"too old","code":410}}"#;
        let error = parse(gone).unwrap_err();
        assert_eq!(error.causes().next().unwrap().to_string(), "too old");
        for text in [
            &b""[..],
            b"{}",
            b"[",
            b"{\"type\":\"ADDED\",\"object\":{\"ports\":3}}",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Integrity);
        }
    }

    #[test]
    fn the_role_is_for_the_one_slice_and_all_nodes() {
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(RBAC).unwrap();
        assert_eq!(
            documents[0]["rules"][0]["resourceNames"],
            serde_json::json!(["kubernetes"])
        );
        assert_eq!(
            documents[1]["roleRef"]["name"],
            documents[0]["metadata"]["name"]
        );
        assert_eq!(documents[1]["subjects"][0]["name"], "system:nodes");
    }
}
