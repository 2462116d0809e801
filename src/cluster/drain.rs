//! A drain with what the hosts remember for the moments before and after it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::future::join_all;

use super::hooks::run_hooks;
use crate::agent::Client;
use crate::agent::calls::node::Drain;
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::kube::drain::{Drained, Options};
use crate::spec::plugin::Phase;

/// Drains nodes, all at the same time, by way of the API server at an address of the
/// host of `leader`. Plugins run on those of the nodes whose hosts are among `hosts`.
pub(super) async fn drain(
    context: &Context,
    (address, leader): (IpAddr, &Client),
    hosts: &BTreeMap<String, Client>,
    nodes: &[String],
    options: &Options,
    run: &str,
) -> Result<Drained> {
    let plugins = |phase| {
        let entered = nodes
            .iter()
            .filter_map(|node| Some((node, hosts.get(node)?)));
        let work = entered.map(|(node, client)| run_hooks(context, client, node, run, phase));
        join_all(work)
    };
    let before = plugins(Phase::BeforeDrain).await;
    before.into_iter().collect::<Result<()>>()?;
    let call = Drain {
        address,
        nodes: nodes.to_vec(),
        options: options.clone(),
        run: run.to_owned(),
    };
    let work = async {
        tokio::select! {
            result = leader.call(call) => result,
            // The agent hears that nobody waits any more, and gives the drain up.
            () = context.cancel.cancelled() => Err(Error::new(
                Kind::Interrupted,
                "interrupted; the drain is given up, and the nodes take pods again",
            )),
        }
    };
    let what = format!("drain {}", nodes.join(", "));
    let drained = context.step(None, what, work).await?;
    let after = plugins(Phase::AfterDrain).await;
    after.into_iter().collect::<Result<()>>()?;
    Ok(drained)
}
