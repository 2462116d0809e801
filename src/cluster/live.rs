//! What a cluster that is in use says of itself: its nodes and pods, and the members
//! of its etcd.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::connect;
use super::status::Request;
use crate::agent::calls::distro::ClusterReport;
use crate::agent::calls::etcd::ReadEtcd;
use crate::agent::calls::host::{HostReport, ReadHost};
use crate::agent::{self, Client, InstallOptions};
use crate::distro::EtcdMember;
use crate::error::{Error, Kind, Result};
use crate::event::Context;

/// How often the API of a control plane that has been in use is asked, and how long is
/// waited in between: while etcd elects a leader, no API server answers.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// What it says.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// What the API says.
    pub report: ClusterReport,
    /// The members of etcd.
    pub etcd: Vec<EtcdMember>,
}

impl Live {
    /// Whether the host at an address is a member of etcd that votes.
    pub(super) fn votes(&self, address: IpAddr) -> bool {
        self.etcd
            .iter()
            .any(|one| one.address == Some(address) && one.started && !one.learner)
    }
}

/// The control planes among these hosts that have keys, with their addresses.
pub(super) fn control_planes<'a>(
    clients: &'a BTreeMap<String, Client>,
    reports: &'a BTreeMap<String, HostReport>,
) -> impl Iterator<Item = (&'a str, IpAddr, &'a Client)> + Clone {
    reports
        .iter()
        .filter(|(_, report)| report.distro.pki.is_some())
        .filter_map(|(name, report)| Some((name.as_str(), report.api?, clients.get(name)?)))
}

/// A control plane whose API answers, entered on its own.
pub(super) struct Leader {
    /// Its agent.
    pub client: Client,
    /// The address of its API server.
    pub address: IpAddr,
    /// What its API says.
    pub report: ClusterReport,
    /// What it says of itself.
    pub host: HostReport,
}

/// Enters the first control plane of the Clusterfile whose API answers, passing over
/// the host `but`.
pub(super) async fn leader(
    context: &Context,
    request: &Request,
    options: &InstallOptions,
    but: Option<&str>,
) -> Result<Leader> {
    let planes: Vec<&str> = request
        .cluster
        .hosts
        .control_plane_names()
        .filter(|name| Some(*name) != but)
        .collect();
    let mut last = Error::new(Kind::Unreachable, "no control plane can be asked");
    for target in &request.targets {
        if !planes.contains(&target.name.as_str()) {
            continue;
        }
        let work = agent::connect(context, target, options);
        let client = match context.step(Some(&target.name), "connect", work).await {
            Ok(client) => client,
            Err(error) => {
                last = error.on_host(&target.name);
                continue;
            }
        };
        match ask(&client).await {
            Ok((address, report, host)) => {
                return Ok(Leader {
                    client,
                    address,
                    report,
                    host,
                });
            }
            Err(error) => last = error.on_host(&target.name),
        }
        connect::farewell([client]).await;
    }
    Err(last)
}

async fn ask(client: &Client) -> Result<(IpAddr, ClusterReport, HostReport)> {
    let host = client.call(ReadHost {}).await?;
    let address = host.api.ok_or_else(|| {
        Error::new(Kind::Failed, "the host has no API server")
            .hint("`chasi run` brings the cluster to what its Clusterfile says")
    })?;
    let in_use = host.distro.objects.is_some();
    let report = ask_patiently([(address, client)].into_iter(), in_use).await?;
    Ok((address, report, host))
}

/// Asks the first control plane that answers; again for some seconds when the cluster
/// has been in use.
async fn ask_patiently<'a>(
    planes: impl Iterator<Item = (IpAddr, &'a Client)> + Clone,
    in_use: bool,
) -> Result<ClusterReport> {
    let mut attempt = 1;
    loop {
        match connect::ask_api(planes.clone()).await {
            Err(_) if in_use && attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
        attempt += 1;
    }
}

/// Asks the first control plane that answers; `None` while none does. One that has
/// been in use is given some seconds: while etcd elects a leader, for instance
/// because a control plane is off, no API server answers.
pub(super) async fn live(
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
) -> Option<Live> {
    let in_use = reports
        .values()
        .any(|report| report.distro.objects.is_some());
    let asked = control_planes(clients, reports).map(|(_, address, client)| (address, client));
    let report = ask_patiently(asked, in_use).await.ok()?;
    let etcd = etcd(clients, reports).await;
    Some(Live { report, etcd })
}

/// The members of etcd, as the first that answers knows them; none when none does.
pub(super) async fn etcd(
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
) -> Vec<EtcdMember> {
    for (_, via, client) in control_planes(clients, reports) {
        match client.call(ReadEtcd { via }).await {
            Ok(members) if !members.is_empty() => return members,
            _ => {}
        }
    }
    Vec::new()
}
