//! What the service knows, as JSON over HTTP on a socket that only root can open:
//! `curl --unix-socket /run/chasi/node.sock http://node/status`.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::balancer::{Balancer, ServerStatus};
use super::http::{self, Body};
use super::registry::{Conflict, Registry, Shown};
use crate::oci::Reference;

/// Where the status endpoint listens.
pub const SOCKET: &str = "/run/chasi/node.sock";

pub(super) const LIMITS: http::Limits = http::Limits {
    connections: 16,
    head: Duration::from_secs(10),
    stall: Duration::from_secs(10),
    drain: Duration::from_secs(1),
};

/// What the service knows.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The version of the service.
    pub version: String,
    /// The registry.
    pub registry: RegistryStatus,
    /// The API servers.
    pub servers: Vec<ServerStatus>,
}

/// What the registry serves.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RegistryStatus {
    /// The references of the container images.
    pub images: Vec<Reference>,
    /// Why not everything is served that the store should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Tags that are something else in another cluster image of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
}

impl From<Shown> for RegistryStatus {
    fn from(shown: Shown) -> Self {
        RegistryStatus {
            images: shown.catalog.references().cloned().collect(),
            problem: shown.problem,
            conflicts: shown.catalog.conflicts().to_vec(),
        }
    }
}

/// Looks at the parts of the service.
#[derive(Clone)]
pub(super) struct View {
    pub registry: Arc<Registry>,
    pub balancer: Balancer,
}

impl View {
    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/status") => match serde_json::to_string(&self.status().await) {
                Ok(text) => http::json(StatusCode::OK, text),
                Err(_) => refusal(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the status cannot be written",
                ),
            },
            (_, "/status") => refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood"),
            _ => refusal(StatusCode::NOT_FOUND, "there is only /status"),
        }
    }

    async fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            registry: self.registry.shown().await.into(),
            servers: self.balancer.servers(),
        }
    }
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    http::json(status, serde_json::json!({"error": message}).to_string())
}
