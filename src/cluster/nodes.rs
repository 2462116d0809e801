//! What is done with single nodes of a cluster that stays as it is: drained, made
//! schedulable again, given their labels and taints, and hosts put back as they
//! were.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::connect::{LeftOut, Prepared, Visitor, ask_api, connect, farewell, sort};
use super::desired;
use super::leave::kept;
use super::live::{self, Leader};
use super::status::Request;
use super::unlisted::{Unlisted, unlisted};
use crate::agent::calls::distro::{ClusterReport, SetNode};
use crate::agent::calls::etcd::ReadEtcd;
use crate::agent::calls::host::{Leave, ReadHost};
use crate::agent::calls::node::{DeleteNode, Uncordon};
use crate::agent::{self, Client};
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};
use crate::kube::drain::{Drained, Options};
use crate::remote::Target;

/// How long a node may take to register, in seconds.
const NODE_PATIENCE: u64 = 30;

/// A control plane whose API answers, entered to change something.
async fn leader(context: &Context, request: &Request) -> Result<Leader> {
    live::leader(context, request, &request.visitor.changing(false), None).await
}

/// The nodes that are in the cluster, and not in the Clusterfile.
pub async fn find_unlisted(context: &Context, request: &Request) -> Result<Vec<Unlisted>> {
    let leader = live::leader(context, request, &request.visitor.looking(), None).await?;
    let call = ReadEtcd {
        via: leader.address,
    };
    let etcd = leader.client.call(call).await;
    farewell([leader.client]).await;
    let nodes = &leader.report.nodes;
    Ok(unlisted(&request.cluster, nodes, &etcd?))
}

/// Drains nodes. What their hosts remember for it runs on those that can be entered.
pub async fn drain(
    context: &Context,
    request: &Request,
    nodes: &[String],
    options: &Options,
) -> Result<Drained> {
    let leader = leader(context, request).await?;
    let asked = leader.client.host().to_owned();
    let is_one = |target: &&Target| nodes.contains(&target.name) && target.name != asked;
    let targets: Vec<Target> = request.targets.iter().filter(is_one).cloned().collect();
    let entered = connect(context, &targets, &request.visitor.changing(false)).await;
    let (mut hosts, problems) = sort(entered);
    for (host, error) in problems {
        let text = format!("no plugin runs there before or after the drain: {error}");
        let host = Some(host);
        context.emit(Event::Warning { host, text });
    }
    hosts.insert(asked, leader.client.clone());
    let way = (leader.address, &leader.client);
    let run = &request.visitor.run;
    let result = super::drain::drain(context, way, &hosts, nodes, options, run).await;
    farewell(hosts.into_values()).await;
    result
}

/// Makes nodes take pods again.
pub async fn uncordon(context: &Context, request: &Request, nodes: &[String]) -> Result<()> {
    let leader = leader(context, request).await?;
    let mut result = Ok(());
    for node in nodes {
        let call = Uncordon {
            address: leader.address,
            node: node.clone(),
        };
        let done = leader.client.call(call).await;
        result = result.and(done);
    }
    farewell([leader.client]).await;
    result
}

/// Gives nodes the labels and taints of the Clusterfile; all hosts when none is
/// named. Returns which.
pub async fn set_metadata(
    context: &Context,
    request: &Request,
    nodes: &[String],
) -> Result<Vec<String>> {
    let leader = leader(context, request).await?;
    let mut done = Vec::new();
    let mut result = Ok(());
    for host in &request.cluster.hosts {
        let name = host.name.to_string();
        if !nodes.is_empty() && !nodes.contains(&name) {
            continue;
        }
        let call = SetNode {
            address: leader.address,
            node: name.clone(),
            labels: desired::labels(host),
            taints: desired::taints(host),
            way: desired::way(host),
            seconds: NODE_PATIENCE,
        };
        let work = leader.client.call(call);
        let what = "set the node's labels and taints";
        let set = context.step(Some(&name), what, work).await;
        result = result.and(set.map_err(|error| error.on_host(&name)));
        done.push(name);
    }
    farewell([leader.client]).await;
    result.map(|()| done)
}

/// What a reset does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reset {
    /// The host.
    pub host: String,
    /// Whether chasi has left anything on it.
    pub managed: bool,
    /// The cluster that it says it is of.
    pub cluster: Option<String>,
    /// Files that a user had changed, and that therefore stayed.
    pub kept: Vec<String>,
    /// The host, when something is left on it.
    pub left_out: Vec<LeftOut>,
    /// Whether its cluster still knows it as a node, and forgets it afterwards.
    pub forgotten: bool,
}

/// A host that was looked at and not changed.
pub struct PreparedReset {
    visitor: Visitor,
    client: Client,
    /// Who makes its cluster forget the node.
    leader: Option<Leader>,
    /// What is to be done.
    pub plan: Reset,
}

/// Enters a host that is to be reset. Refuses one that is a node of a cluster that
/// works; with `force`, only one that its control plane stands on.
pub async fn prepare_reset(
    context: &Context,
    request: Request,
    name: &str,
    force: bool,
) -> Result<PreparedReset> {
    let target = request
        .targets
        .iter()
        .find(|target| target.name == name)
        .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no host `{name}`")))?;
    let options = request.visitor.changing(false);
    let work = agent::connect(context, target, &options);
    let client = context.step(Some(name), "connect", work).await;
    let client = client.map_err(|error| error.on_host(name))?;
    let looked = async {
        let report = client.call(ReadHost {}).await?;
        let leader = in_use(context, &request, name, (&client, report.api), force).await?;
        Ok((report, leader))
    };
    match looked.await {
        Ok((report, leader)) => Ok(PreparedReset {
            visitor: request.visitor,
            client,
            plan: Reset {
                host: name.to_owned(),
                managed: report.managed,
                cluster: report.distro.member.map(|member| member.cluster),
                forgotten: leader.is_some(),
                ..Reset::default()
            },
            leader,
        }),
        Err(error) => {
            farewell([client]).await;
            Err(Error::on_host(error, name))
        }
    }
}

/// Whether an API of the cluster answers, the host's own or another one's, and knows
/// the node: refused then, or with `force` the one that can make it forget the node.
async fn in_use(
    context: &Context,
    request: &Request,
    name: &str,
    (own, api): (&Client, Option<IpAddr>),
    force: bool,
) -> Result<Option<Leader>> {
    let knows = |report: &ClusterReport| report.nodes.iter().any(|node| node.name == name);
    let refused = || {
        Error::new(
            Kind::Check,
            format!("`{name}` is a node of a cluster that works; nothing was changed"),
        )
        .hint(format!(
            "`chasi node delete {name}` takes it out of the cluster, and then does this"
        ))
    };
    if let Some(address) = api
        && let Ok(report) = ask_api([(address, own)]).await
    {
        return match knows(&report) {
            true => Err(refused()),
            false => Ok(None),
        };
    }
    let options = request.visitor.changing(!force);
    let Ok(leader) = live::leader(context, request, &options, Some(name)).await else {
        return Ok(None);
    };
    let via = leader.address;
    let counts = match leader.client.call(ReadEtcd { via }).await {
        Ok(members) => members
            .iter()
            .any(|one| one.name == name || (api.is_some() && one.address == api)),
        // Whom nobody can ask about is not taken away.
        Err(_) => api.is_some(),
    };
    let verdict = match (knows(&leader.report), counts) {
        (false, _) => Ok(None),
        (true, true) => Err(refused().because("etcd counts it among its members")),
        (true, false) if force => return Ok(Some(leader)),
        (true, false) => Err(refused()
            .hint("add `--force` when it was deleted before, and came back as a node by itself")),
    };
    farewell([leader.client]).await;
    verdict
}

impl Prepared for PreparedReset {
    async fn abandon(self) {
        let leader = self.leader.map(|leader| leader.client);
        farewell(leader.into_iter().chain([self.client])).await;
    }
}

impl PreparedReset {
    /// Resets the host, and ends the connection.
    pub async fn apply(self, context: &Context) -> Result<Reset> {
        let name = self.plan.host.clone();
        let mut done = self.plan;
        let work = self.client.call(Leave {
            run: self.visitor.run.clone(),
        });
        let what = "put the host back as it was";
        match context.step(Some(&name), what, work).await {
            Ok(left) => done.kept = kept(context, &name, left),
            Err(error) => done.left_out.push(LeftOut::because(&name, &error)),
        }
        let mut forgotten = Ok(());
        if let Some(leader) = self.leader {
            // Only when no kubelet is left that would make it anew.
            if done.left_out.is_empty() {
                let work = leader.client.call(DeleteNode {
                    address: leader.address,
                    node: name.clone(),
                });
                let what = "remove the node's object";
                forgotten = context.step(Some(&name), what, work).await;
            }
            farewell([leader.client]).await;
        }
        farewell([self.client]).await;
        forgotten.map(|()| done)
    }
}
