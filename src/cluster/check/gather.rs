//! Everything that checks look at, asked of all hosts at once. Changes nothing.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::registry::{Check, Need};
use super::site::{Closed, Site, SiteHost};
use crate::agent::Client;
use crate::agent::calls::host::{HostReport, ReadHost};
use crate::error::Result;
use crate::host::facts::Known;
use crate::oci::ClusterImage;
use crate::spec;

/// The agents, by the hosts' names, or why a host could not be entered.
pub(super) type Clients = BTreeMap<String, std::result::Result<Client, Closed>>;

/// What each host says of itself.
pub(super) async fn reports(
    clients: &Clients,
) -> BTreeMap<String, std::result::Result<HostReport, Closed>> {
    let asked = clients.iter().map(|(name, client)| async move {
        let report = match client {
            Ok(client) => client
                .call(ReadHost {})
                .await
                .map_err(|error| Closed::because(&error)),
            Err(closed) => Err(closed.clone()),
        };
        (name.clone(), report)
    });
    join_all(asked).await.into_iter().collect()
}

/// What is measured and asked beyond that, for these checks.
pub(super) async fn site<'a>(
    cluster: &'a spec::Cluster,
    image: std::result::Result<&'a ClusterImage, String>,
    mut reports: BTreeMap<String, std::result::Result<HostReport, Closed>>,
    _clients: &Clients,
    checks: &[&Check],
) -> Result<Site<'a>> {
    let needs = |need: Need| checks.iter().any(|check| check.needs.contains(&need));
    let image = match image {
        Ok(image) => Known::Is(image),
        Err(why) if needs(Need::Image) => Known::Unknown(why),
        Err(_) => Known::Unknown("nobody asked for the image".to_owned()),
    };
    let hosts = cluster
        .hosts
        .iter()
        .filter_map(|host| {
            Some(SiteHost {
                host,
                report: reports.remove(host.name.as_str())?,
            })
        })
        .collect();
    Ok(Site {
        cluster,
        image,
        hosts,
    })
}
