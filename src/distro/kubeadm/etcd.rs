//! Members of the cluster's etcd, by the JSON form of its API
//! (etcd.io/docs/v3.6/dev-guide/api_grpc_gateway), which etcd serves on its
//! client port.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result, ResultExt};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A member of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Its name; empty until it has started for the first time.
    #[serde(default)]
    pub name: String,
    /// Where its peers reach it.
    #[serde(default, rename = "peerURLs")]
    pub peers: Vec<String>,
}

/// A connection to one member, with the credentials of its host.
pub struct Etcd {
    client: Client,
    base: String,
}

impl Etcd {
    /// Connects to the member at `address` with the API server's certificate.
    pub fn open(root: &Path, address: IpAddr) -> Result<Self> {
        let pki = root.join("etc/kubernetes/pki");
        let read = |name: &str| {
            let path = pki.join(name);
            std::fs::read(&path)
                .or_err(Kind::System, || format!("cannot read `{}`", path.display()))
        };
        let problem = || "cannot use the certificates of etcd's client";
        let mut identity = read("apiserver-etcd-client.crt")?;
        identity.extend(read("apiserver-etcd-client.key")?);
        let authority =
            Certificate::from_pem(&read("etcd/ca.crt")?).or_err(Kind::Failed, problem)?;
        let client = Client::builder()
            .tls_certs_only([authority])
            .identity(Identity::from_pem(&identity).or_err(Kind::Failed, problem)?)
            .timeout(PATIENCE)
            .no_proxy()
            .build()
            .or_err(Kind::Failed, problem)?;
        Ok(Etcd {
            client,
            base: client_url(address, 2379),
        })
    }

    pub(super) async fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let problem = || format!("etcd at {} does not answer", self.base);
        let response = self
            .client
            .post(format!("{}{path}", self.base))
            .json(body)
            .send()
            .await
            .or_err(Kind::Failed, problem)?;
        let status = response.status();
        let answer: Value = response.json().await.or_err(Kind::Failed, problem)?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer["message"]
            .as_str()
            .unwrap_or("it gave no reason")
            .to_owned();
        Err(Error::new(Kind::Failed, format!("etcd refused `{path}`")).because(said))
    }

    /// The members.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let answer = self.ask("/v3/cluster/member/list", &json!({})).await?;
        serde_json::from_value(answer["members"].clone())
            .or_err(Kind::Failed, || "etcd's list of members cannot be read")
    }

    /// Makes the host at `address` a member, unless it is one.
    pub async fn add(&self, address: IpAddr) -> Result<()> {
        let peer = client_url(address, 2380);
        let present = self.members().await?;
        if present.iter().any(|member| member.peers.contains(&peer)) {
            return Ok(());
        }
        self.ask("/v3/cluster/member/add", &json!({ "peerURLs": [peer] }))
            .await
            .map(|_| ())
    }
}

fn client_url(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("https://{address}:{port}"),
        IpAddr::V6(address) => format!("https://[{address}]:{port}"),
    }
}
