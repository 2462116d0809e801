//! Members of the cluster's etcd, by the JSON form of its API
//! (etcd.io/docs/v3.6/dev-guide/api_grpc_gateway), which etcd serves on its
//! client port.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Identity, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::EtcdMember;
use crate::error::{Error, Kind, Result, ResultExt};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a member may take to say that it is there.
const HEALTH: Duration = Duration::from_secs(3);
/// How long etcd may refuse a change of its members.
const SETTLING: Duration = Duration::from_secs(30);
/// How often it is tried again to let a learner vote.
const BEAT: Duration = Duration::from_millis(500);
/// More members than etcd is made for.
const MOST: usize = 64;

/// A member, in etcd's words.
#[derive(Clone, Debug, Deserialize)]
struct Member {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peers: Vec<String>,
    #[serde(default, rename = "clientURLs")]
    clients: Vec<String>,
    #[serde(default, rename = "isLearner")]
    learner: bool,
}

impl Member {
    fn is_at(&self, address: IpAddr) -> bool {
        self.peers.contains(&client_url(address, 2380))
    }

    /// The host in the first of its peers' addresses.
    fn address(&self) -> Option<IpAddr> {
        let peer = self.peers.first()?.strip_prefix("https://")?;
        let (host, _) = peer.rsplit_once(':')?;
        host.trim_matches(['[', ']']).parse().ok()
    }
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

    /// Begins an answer that comes bit by bit, for at most `patience`.
    pub(super) async fn stream(
        &self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Response> {
        let problem = || format!("etcd at {} does not answer", self.base);
        let asked = self.client.post(format!("{}{path}", self.base));
        let answer = asked.json(body).timeout(patience).send().await;
        answer
            .and_then(Response::error_for_status)
            .or_err(Kind::Failed, problem)
    }

    /// The members, as the one that is asked knows them: that needs no majority.
    async fn list(&self) -> Result<Vec<Member>> {
        let asked = json!({ "linearizable": false });
        let answer = self.ask("/v3/cluster/member/list", &asked).await?;
        let members: Vec<Member> = serde_json::from_value(answer["members"].clone())
            .or_err(Kind::Failed, || "etcd's list of members cannot be read")?;
        match members.len() <= MOST {
            true => Ok(members),
            false => Err(Error::new(
                Kind::Integrity,
                format!("etcd names more than {MOST} members"),
            )),
        }
    }

    /// Whether the one that is asked decides, and nobody else does. Just started with
    /// `--force-new-cluster` it names no others at once, but that they are gone is only
    /// durable when it has been elected: stopped before, it would wait for them again.
    pub(super) async fn is_alone(&self) -> bool {
        let asked = json!({ "linearizable": true });
        let answer = self.ask("/v3/cluster/member/list", &asked).await;
        answer.is_ok_and(|answer| {
            answer["members"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
    }

    /// The members, and which of them answer.
    pub async fn members(&self) -> Result<Vec<EtcdMember>> {
        let members = self.list().await?;
        Ok(
            futures::future::join_all(members.into_iter().map(|member| async {
                let address = member.address();
                let healthy = match address {
                    Some(address) => self.answers(address).await,
                    None => false,
                };
                EtcdMember {
                    address,
                    healthy,
                    started: !member.clients.is_empty(),
                    learner: member.learner,
                    id: member.id,
                    name: member.name,
                }
            }))
            .await,
        )
    }

    /// Whether the member at an address is there: it is not asked for a majority
    /// (`/health?serializable=true`).
    pub(super) async fn answers(&self, address: IpAddr) -> bool {
        let url = format!("{}/health?serializable=true", client_url(address, 2379));
        let asked = self.client.get(url).timeout(HEALTH).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Makes the host at `address` a member that learns, unless it is a member. Its
    /// data is gone: a member of that address that has started is another one by now,
    /// and goes first.
    pub async fn add(&self, address: IpAddr) -> Result<()> {
        if let Some(member) = self.list().await?.iter().find(|one| one.is_at(address)) {
            if member.clients.is_empty() {
                return Ok(());
            }
            self.remove_member(&member.id).await?;
        }
        let asked = json!({ "peerURLs": [client_url(address, 2380)], "isLearner": true });
        self.change("/v3/cluster/member/add", &asked).await
    }

    /// Lets the member at `address` vote, as soon as it has learned enough; waits
    /// `patience` for that.
    pub async fn promote(
        &self,
        address: IpAddr,
        patience: Duration,
        gone: &CancellationToken,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let members = self.list().await?;
            let Some(member) = members.iter().find(|one| one.is_at(address)) else {
                return Err(
                    Error::new(Kind::Failed, format!("etcd has no member at {address}"))
                        .hint("run the same command again"),
                );
            };
            if !member.learner {
                return Ok(());
            }
            let asked = json!({ "ID": member.id });
            let Err(error) = self.ask("/v3/cluster/member/promote", &asked).await else {
                return Ok(());
            };
            if gone.is_cancelled() {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            if Instant::now() >= end {
                return Err(error.hint(
                    "on the host that joins, the log of etcd below `/var/log/pods/` says why it does not follow",
                ));
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Takes the host at `address` out of the members, if it is one.
    pub async fn remove(&self, address: IpAddr) -> Result<()> {
        match self.list().await?.iter().find(|one| one.is_at(address)) {
            Some(member) => self.remove_member(&member.id).await,
            None => Ok(()),
        }
    }

    async fn remove_member(&self, id: &str) -> Result<()> {
        self.change("/v3/cluster/member/remove", &json!({ "ID": id }))
            .await
    }

    /// Changes the members. For some seconds after another change, or after an
    /// election, etcd refuses that ("unhealthy cluster").
    async fn change(&self, path: &str, asked: &Value) -> Result<()> {
        let end = Instant::now() + SETTLING;
        loop {
            match self.ask(path, asked).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => tokio::time::sleep(BEAT).await,
            }
        }
    }
}

fn client_url(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("https://{address}:{port}"),
        IpAddr::V6(address) => format!("https://[{address}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_address_is_that_of_its_peer() {
        for (peer, expected) in [
            ("https://10.0.0.1:2380", Some("10.0.0.1")),
            ("https://[fd00::1]:2380", Some("fd00::1")),
            ("https://host:2380", None),
            ("", None),
        ] {
            let member = Member {
                id: "1".into(),
                name: String::new(),
                peers: vec![peer.into()],
                clients: Vec::new(),
                learner: false,
            };
            let expected: Option<IpAddr> = expected.map(|ip| ip.parse().unwrap());
            assert_eq!(member.address(), expected, "{peer}");
            assert_eq!(
                expected.is_some_and(|ip| member.is_at(ip)),
                expected.is_some()
            );
        }
    }
}
