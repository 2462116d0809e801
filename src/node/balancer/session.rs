//! An HTTP connection of the service's own to one API server, past the balancer:
//! it asks for the server's health and for the list of servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::dial;
use super::trust::Trust;

/// A connection that can be asked one thing after another.
pub struct Session {
    sender: SendRequest<Empty<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be opened or broke.
    Connection(io::Error),
    /// The server is not one of this cluster, or speaks no HTTP.
    Stranger(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Connection(error)
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            return Failure::Stranger(format!("speaks no HTTP: {error}"));
        }
        Failure::Connection(io::Error::other(error))
    }
}

impl Session {
    /// Connects and makes sure that it is an API server of this cluster.
    pub async fn open(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Self, Failure> {
        let stream = dial::connect(address).await?;
        let name = Trust::server_name().map_err(|error| Failure::Stranger(error.to_string()))?;
        let stream = TlsConnector::from(tls)
            .connect(name, stream)
            .await
            .map_err(|error| {
                match error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                {
                    Some(problem) => Failure::Stranger(problem.to_string()),
                    None => Failure::Connection(error),
                }
            })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            // How it ends, the next request tells.
            let _ = connection.await;
        });
        Ok(Session {
            sender,
            _connection: AbortOnDropHandle::new(connection),
        })
    }

    /// Asks for a path.
    pub async fn get(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        self.sender.ready().await?;
        let request = Request::get(path)
            .header(HOST, "kubernetes")
            .header(USER_AGENT, concat!("chasi/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| Failure::Stranger(error.to_string()))?;
        Ok(self.sender.send_request(request).await?)
    }
}
