//! A connection to one API server.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::{Error, Kind, Result, ResultExt};

/// Longest wait for one response of the API server. Its own limit for ordinary
/// requests is 60 s (`--request-timeout`).
const RESPONSE: Duration = Duration::from_secs(65);

/// A connection to the API with the credentials of a kubeconfig.
#[derive(Clone)]
pub struct Connection {
    client: Client,
}

impl Connection {
    /// Connects to the API server at `address`, port 6443, with the credentials
    /// in the kubeconfig at `path`. The server's address is given, and not taken
    /// from the kubeconfig, because a statically linked program cannot rely on
    /// the host's name resolution.
    pub async fn open(path: &Path, address: IpAddr) -> Result<Self> {
        Connection::with_retries(path, address, true).await
    }

    /// As [`Connection::open`], but a request that the API server refuses for now
    /// (429) is not made again by itself: the refusal of an eviction is an answer.
    pub async fn open_without_retries(path: &Path, address: IpAddr) -> Result<Self> {
        Connection::with_retries(path, address, false).await
    }

    async fn with_retries(path: &Path, address: IpAddr, retries: bool) -> Result<Self> {
        let problem = || format!("cannot use the kubeconfig `{}`", path.display());
        let kubeconfig = Kubeconfig::read_from(path).or_err(Kind::Failed, problem)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .or_err(Kind::Failed, problem)?;
        let server = match address {
            IpAddr::V4(address) => format!("https://{address}:6443"),
            IpAddr::V6(address) => format!("https://[{address}]:6443"),
        };
        config.cluster_url = server.parse().or_err(Kind::Failed, problem)?;
        // Every API server's certificate names the Service as well.
        config.tls_server_name = Some("kubernetes".to_owned());
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(RESPONSE);
        config.reset_reader_on_write = true;
        config.proxy_url = None;
        config.default_retry = retries;
        let client = Client::try_from(config).or_err(Kind::Failed, problem)?;
        Ok(Connection { client })
    }

    /// The client, for requests.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the API server says that it is ready; otherwise what it says, or
    /// why it cannot be asked.
    pub async fn ready(&self) -> Result<()> {
        let request = http_get("/readyz?verbose")?;
        self.client
            .request_text(request)
            .await
            .map(|_| ())
            .or_err(Kind::Failed, || "the API server is not ready")
    }

    /// The API server's version, such as `v1.34.4`.
    pub async fn version(&self) -> Result<String> {
        let version = self
            .client
            .apiserver_version()
            .await
            .or_err(Kind::Failed, || "cannot ask the API server for its version")?;
        Ok(version.git_version)
    }
}

fn http_get(path: &str) -> Result<axum::http::Request<Vec<u8>>> {
    axum::http::Request::get(path)
        .body(Vec::new())
        .map_err(|cause| {
            Error::new(Kind::Failed, format!("bad request path `{path}`")).because(cause)
        })
}
