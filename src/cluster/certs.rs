//! The certificates of a cluster: when they end, and signing those anew that end soon.
//!
//! Hosts go one after the other, control planes first, and each must be well before the
//! next one begins. What was renewed is recognised by its date, so running it again does
//! what is left. Authorities are told, and not renewed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::connect::{self, LeftOut, connect, farewell};
use super::status::Request;
use crate::agent::calls::certs::{RenewCertificates, RestartKubelet};
use crate::agent::calls::distro::*;
use crate::agent::calls::host::{HostReport, ReadHost};
use crate::agent::calls::inspect::ReadExpiries;
use crate::agent::{Client, ClusterLock};
use crate::distro;
use crate::distro::kubeadm::credential::Server;
use crate::distro::kubeadm::expiry::Expiry;
use crate::distro::kubeadm::renewal;
use crate::error::{Error, Kind, Result};
use crate::event::Context;

/// What ends within so many days ends soon.
pub const SOON_DAYS: i64 = 30;
const DAY: i64 = 24 * 3600;
/// kubelet's own certificate.
const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// How long a control plane may take to be ready again, in seconds; and kubelet.
const PLANE_PATIENCE: u64 = 300;
const KUBELET_PATIENCE: u64 = 180;

/// A certificate on a host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The host.
    pub host: String,
    /// The file that it is in.
    pub path: String,
    /// Whom it names.
    pub subject: String,
    /// When it ends; none when it cannot be read.
    pub expires: Option<Timestamp>,
    /// In how many whole days; negative when it has ended.
    pub days: Option<i64>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Certificate {
    fn of(host: &str, one: Expiry, now: Timestamp) -> Self {
        let (ends, problem) = match one.ends {
            Ok(ends) => (Some(ends), None),
            Err(problem) => (None, Some(problem)),
        };
        Certificate {
            host: host.to_owned(),
            path: one.path,
            subject: one.subject,
            expires: ends.and_then(|ends| Timestamp::from_second(ends).ok()),
            days: ends.map(|ends| (ends - now.as_second()).div_euclid(DAY)),
            problem,
        }
    }

    /// Whether it ends soon, or has ended.
    pub fn ends_soon(&self) -> bool {
        self.days.is_some_and(|days| days < SOON_DAYS)
    }

    /// Whether chasi signs it anew.
    pub fn is_renewed(&self) -> bool {
        self.path == KUBELET || renewal::is_renewed(&self.path)
    }
}

/// The certificates of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificates {
    /// Those of all hosts that were asked, the first to end first.
    pub certificates: Vec<Certificate>,
    /// Hosts that could not be asked.
    pub left_out: Vec<LeftOut>,
}

/// Asks all hosts.
pub async fn check(context: &Context, request: &Request) -> Result<Certificates> {
    let options = request.visitor.looking();
    let work = connect(context, &request.targets, &options);
    let (clients, problems) = connect::sort(context.phase("connect", work).await);
    let found = read(&clients, problems).await;
    farewell(clients.into_values()).await;
    Ok(found)
}

async fn read(clients: &BTreeMap<String, Client>, problems: Vec<(String, Error)>) -> Certificates {
    let mut left_out: Vec<LeftOut> = problems
        .iter()
        .map(|(host, error)| LeftOut::because(host, error))
        .collect();
    let asked = clients
        .iter()
        .map(|(name, client)| async move { (name, client.call(ReadExpiries {}).await) });
    let now = Timestamp::now();
    let mut certificates = Vec::new();
    for (host, answer) in join_all(asked).await {
        match answer {
            Ok(all) => {
                certificates.extend(all.into_iter().map(|one| Certificate::of(host, one, now)));
            }
            Err(error) => left_out.push(LeftOut::because(host, &error)),
        }
    }
    certificates.sort_by(|a, b| (a.expires, &a.host, &a.path).cmp(&(b.expires, &b.host, &b.path)));
    Certificates {
        certificates,
        left_out,
    }
}

/// What is to be renewed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// The certificates, in the order in which they are renewed.
    pub certificates: Vec<Certificate>,
    /// Authorities that end soon, which cannot be renewed.
    pub authorities: Vec<Certificate>,
    /// Hosts that could not be asked.
    pub left_out: Vec<LeftOut>,
}

/// What was renewed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// The files, by host.
    pub renewed: BTreeMap<String, Vec<String>>,
    /// Hosts that could not be asked.
    pub left_out: Vec<LeftOut>,
}

/// A cluster that was looked at and not changed.
pub struct Prepared {
    request: Request,
    clients: BTreeMap<String, Client>,
    reports: BTreeMap<String, HostReport>,
    all: bool,
    /// What is to be done.
    pub plan: Plan,
}

/// Connects and asks. Changes nothing. Of `all`, those that do not end soon are renewed
/// too.
pub async fn prepare(
    context: &Context,
    request: Request,
    all: bool,
    dry_run: bool,
) -> Result<Prepared> {
    let options = request.visitor.changing(dry_run);
    let work = connect(context, &request.targets, &options);
    let (clients, problems) = connect::sort(context.phase("connect", work).await);
    let looked = async {
        let mut reports = BTreeMap::new();
        for (name, client) in &clients {
            reports.insert(name.clone(), client.call(ReadHost {}).await?);
        }
        Ok((reports, read(&clients, problems).await))
    };
    let (reports, found) = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            farewell(clients.into_values()).await;
            return Err(error);
        }
    };
    Ok(Prepared {
        plan: plan(&request, found, all),
        request,
        clients,
        reports,
        all,
    })
}

/// In the order of the Clusterfile, control planes first.
fn plan(request: &Request, found: Certificates, all: bool) -> Plan {
    let hosts = &request.cluster.hosts;
    let order: Vec<String> = hosts
        .control_plane_names()
        .map(str::to_owned)
        .chain(
            hosts
                .iter()
                .filter(|host| !host.roles.is_control_plane())
                .map(|host| host.name.to_string()),
        )
        .collect();
    let place = |one: &Certificate| order.iter().position(|host| *host == one.host);
    let (renewed, others): (Vec<_>, Vec<_>) = found
        .certificates
        .into_iter()
        .partition(Certificate::is_renewed);
    let mut certificates: Vec<Certificate> = renewed
        .into_iter()
        .filter(|one| one.expires.is_some() && (all || one.ends_soon()))
        .collect();
    certificates.sort_by(|a, b| (place(a), &a.path).cmp(&(place(b), &b.path)));
    Plan {
        cluster: request.cluster.name.to_string(),
        certificates,
        authorities: others.into_iter().filter(Certificate::ends_soon).collect(),
        left_out: found.left_out,
    }
}

impl connect::Prepared for Prepared {
    async fn abandon(self) {
        farewell(self.clients.into_values()).await;
    }
}

impl Prepared {
    /// Renews, one host after the other, and ends the connections.
    pub async fn apply(self, context: &Context) -> Result<Report> {
        let result = self.change(context).await;
        farewell(self.clients.into_values()).await;
        result
    }

    async fn change(&self, context: &Context) -> Result<Report> {
        let mut report = Report {
            cluster: self.plan.cluster.clone(),
            renewed: BTreeMap::new(),
            left_out: self.plan.left_out.clone(),
        };
        if self.plan.certificates.is_empty() {
            return Ok(report);
        }
        let planes: Vec<&str> = self.request.cluster.hosts.control_plane_names().collect();
        let visitor = &self.request.visitor;
        let lock =
            ClusterLock::take(context, &visitor.run, &visitor.who, &self.clients, &planes).await?;
        let work = context.phase("renew", self.hosts(context));
        report.renewed = lock.around(work).await?;
        Ok(report)
    }

    async fn hosts(&self, context: &Context) -> Result<BTreeMap<String, Vec<String>>> {
        let mut hosts: Vec<&str> = Vec::new();
        for one in &self.plan.certificates {
            if !hosts.contains(&one.host.as_str()) {
                hosts.push(&one.host);
            }
        }
        let mut renewed = BTreeMap::new();
        for host in hosts {
            context.check_cancelled()?;
            let work = self.host(host);
            let step = "renew the certificates";
            let paths = context.step(Some(host), step, work).await;
            renewed.insert(host.to_owned(), paths.map_err(|error| error.on_host(host))?);
        }
        Ok(renewed)
    }

    /// One host, until it is well again.
    async fn host(&self, host: &str) -> Result<Vec<String>> {
        let client = self.client(host)?;
        let own = || self.plan.certificates.iter().filter(|one| one.host == host);
        let mut paths = Vec::new();
        let hours = self.hours();
        if own().any(|one| one.path != KUBELET) {
            let before = match self.all {
                true => i64::MAX,
                false => Timestamp::now().as_second() + SOON_DAYS * DAY,
            };
            paths = client.call(RenewCertificates { before, hours }).await?;
            let call = AwaitControlPlane {
                address: self.address(host)?,
                seconds: PLANE_PATIENCE,
            };
            client.call(call).await?;
        }
        if own().any(|one| one.path == KUBELET) {
            self.kubelet(client, host, hours).await?;
            paths.push(KUBELET.to_owned());
        }
        Ok(paths)
    }

    /// kubelet gets a new key, and a certificate that a control plane signs.
    async fn kubelet(&self, client: &Client, host: &str, hours: u32) -> Result<()> {
        let node = host.to_owned();
        let requests = vec![client.call(RequestCredential { node }).await?];
        let signed = self.authority()?.call(SignCredentials { requests, hours });
        let signed = signed
            .await?
            .pop()
            .ok_or_else(|| Error::new(Kind::Failed, "the control plane signed nothing"))?;
        let cluster = self.plan.cluster.clone();
        let server = match self.reports.get(host).and_then(|report| report.api) {
            Some(address) => Server::Local(address),
            None => Server::Balancer(distro::endpoint(&cluster)),
        };
        let call = InstallCredential {
            signed,
            cluster,
            server,
        };
        client.call(call).await?;
        client.call(RestartKubelet {}).await?;
        let seconds = KUBELET_PATIENCE;
        client.call(AwaitKubelet { seconds }).await
    }

    fn hours(&self) -> u32 {
        let kubernetes = &self.request.cluster.kubernetes;
        kubernetes.certificate_validity.hours()
    }

    fn client(&self, host: &str) -> Result<&Client> {
        self.clients.get(host).ok_or_else(|| {
            Error::new(Kind::Unreachable, "there is no connection to the host").on_host(host)
        })
    }

    fn address(&self, host: &str) -> Result<IpAddr> {
        let report = self.reports.get(host);
        report
            .and_then(|report| report.api)
            .ok_or_else(|| Error::new(Kind::Failed, "the host has no API server"))
    }

    /// A control plane that can sign.
    fn authority(&self) -> Result<&Client> {
        let mut planes = self.request.cluster.hosts.control_plane_names();
        planes
            .find_map(|host| {
                let report = self.reports.get(host)?;
                report.distro.pki?;
                self.clients.get(host)
            })
            .ok_or_else(|| {
                Error::new(
                    Kind::Unreachable,
                    "no control plane that can sign is reached",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(path: &str, days: i64) -> Certificate {
        let now = Timestamp::now();
        let ends = Ok(now.as_second() + days * DAY + 60);
        let one = Expiry {
            path: path.into(),
            subject: "CN=x".into(),
            ends,
        };
        Certificate::of("m1", one, now)
    }

    #[test]
    fn thirty_days_before_the_end_is_soon() {
        for (days, soon) in [(-3, true), (0, true), (29, true), (30, false), (365, false)] {
            let one = certificate("/etc/kubernetes/admin.conf", days);
            assert_eq!((one.days, one.ends_soon()), (Some(days), soon));
        }
        let unread = Expiry {
            path: "/x".into(),
            subject: String::new(),
            ends: Err("it is not PEM".into()),
        };
        let unread = Certificate::of("m1", unread, Timestamp::now());
        assert!(!unread.ends_soon() && unread.problem.is_some());
    }

    #[test]
    fn kubelets_and_leaves_are_renewed_and_authorities_are_not() {
        assert!(certificate(KUBELET, 1).is_renewed());
        assert!(certificate("/etc/kubernetes/pki/apiserver.crt", 1).is_renewed());
        assert!(!certificate("/etc/kubernetes/pki/etcd/ca.crt", 1).is_renewed());
    }
}
