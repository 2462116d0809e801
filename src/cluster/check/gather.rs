//! Everything that checks look at, asked of all hosts at once. Changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures::future::join_all;

use super::measure::{self, Member};
use super::registry::{Check, Need};
use super::site::{Clock, Closed, Site, SiteHost, Vip, Ways};
use crate::agent::calls::blobs::BlobsMissing;
use crate::agent::calls::distro::WaitApi;
use crate::agent::calls::host::{HostReport, ReadHost};
use crate::agent::calls::inspect::{ClusterInspection, InspectCluster, InspectEtcd, ReadExpiries};
use crate::agent::calls::probe::{AskByArp, MeasureWrites, ReadClock, ReadFilter};
use crate::agent::{Call, Client};
use crate::cluster::desired::node_addresses;
use crate::distro::Role;
use crate::error::Result;
use crate::event::Context;
use crate::host::facts::{Facts, Known};
use crate::oci::image::Sizes;
use crate::oci::{ClusterImage, Store};
use crate::spec;

/// The agents, by the hosts' names, or why a host could not be entered.
pub(super) type Clients = BTreeMap<String, std::result::Result<Client, Closed>>;

/// What hosts say of themselves, or why they could not be entered.
type Reports = BTreeMap<String, std::result::Result<HostReport, Closed>>;

/// What each host says of itself.
pub(super) async fn reports(clients: &Clients) -> Reports {
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
    image: std::result::Result<(&'a ClusterImage, &Store), String>,
    mut reports: Reports,
    clients: &Clients,
    checks: &[&Check],
) -> Site<'a> {
    let needs = |need: Need| checks.iter().any(|check| check.needs.contains(&need));
    let mut site = Site {
        cluster,
        image: match &image {
            Ok((image, _)) => Known::Is(*image),
            Err(why) => Known::Unknown(why.clone()),
        },
        sizes: not_asked(),
        hosts: cluster
            .hosts
            .iter()
            .filter_map(|host| Some(bare(host, reports.remove(host.name.as_str())?)))
            .collect(),
        ways: not_asked(),
        vip: not_asked(),
        running: not_asked(),
    };
    let vxlan = site.has_vxlan();
    // Clocks first, and alone: what else goes on would make the answers late.
    if needs(Need::Clock) {
        each(&mut site, clients, clock, |host, clock| host.clock = clock).await;
    }
    let (ways, vip, filters, writes, sizes, missing) = tokio::join!(
        async {
            match needs(Need::Ways) {
                true => Known::Is(ways(&site, clients, vxlan).await),
                false => not_asked(),
            }
        },
        async {
            match needs(Need::Vip) {
                true => vip(&site, clients).await,
                false => not_asked(),
            }
        },
        async {
            match needs(Need::Filter) || needs(Need::Ways) {
                true => all(&site, clients, |client| ask(client, ReadFilter {})).await,
                false => Vec::new(),
            }
        },
        async {
            match needs(Need::Writes) {
                true => all(&site, clients, |client| ask(client, MeasureWrites {})).await,
                false => Vec::new(),
            }
        },
        async {
            match (&image, needs(Need::Sizes)) {
                (Ok((image, store)), true) => sizes(image, store).await,
                (Err(why), true) => Known::Unknown(why.clone()),
                (_, false) => not_asked(),
            }
        },
        async {
            match (&image, needs(Need::Sizes)) {
                (Ok((image, _)), true) => {
                    let blobs = image.blobs();
                    let missing = |client| {
                        let blobs = blobs.clone();
                        ask(client, BlobsMissing { blobs })
                    };
                    all(&site, clients, missing).await
                }
                _ => Vec::new(),
            }
        },
    );
    (site.ways, site.vip, site.sizes) = (ways, vip, sizes);
    for (host, missing) in site.hosts.iter_mut().zip(missing) {
        host.missing = missing;
    }
    for (host, filter) in site.hosts.iter_mut().zip(filters) {
        host.filter = filter;
    }
    for (host, writes) in site.hosts.iter_mut().zip(writes) {
        host.writes = writes;
    }
    if needs(Need::Running) {
        running(&mut site, clients, needs(Need::Drains)).await;
    }
    site
}

/// What runs: each host's own part, then what the first API server that is ready says.
async fn running(site: &mut Site<'_>, clients: &Clients, drains: bool) {
    let asked = site.hosts.iter().map(|host| async {
        let (Ok(report), Some(Ok(client))) = (&host.report, clients.get(host.host.name.as_str()))
        else {
            return None;
        };
        let address = report.api;
        let (api, etcd, expiries) = tokio::join!(
            on_control_plane(address, |address| async move {
                let ready = client
                    .call(WaitApi {
                        address,
                        seconds: 0,
                    })
                    .await;
                match known(ready) {
                    Known::Is(()) => Known::Is(Ok(())),
                    Known::Unknown(why) if client.is_alive() => Known::Is(Err(why)),
                    Known::Unknown(why) => Known::Unknown(why),
                }
            }),
            on_control_plane(address, |address| ask(
                client.clone(),
                InspectEtcd { address }
            )),
            ask(client.clone(), ReadExpiries {}),
        );
        Some((api, etcd, expiries))
    });
    let answers = join_all(asked).await;
    for (host, answer) in site.hosts.iter_mut().zip(answers) {
        if let Some((api, etcd, expiries)) = answer {
            (host.api, host.etcd, host.expiries) = (api, etcd, expiries);
        }
    }
    site.running = inspect(site, clients, drains).await;
}

/// Asks what only a host with an API server has.
async fn on_control_plane<T, F: Future<Output = Known<T>>>(
    address: Option<IpAddr>,
    question: impl FnOnce(IpAddr) -> F,
) -> Known<T> {
    match address {
        Some(address) => question(address).await,
        None => Known::Unknown("chasi has made no control plane on the host".to_owned()),
    }
}

async fn inspect(site: &Site<'_>, clients: &Clients, drains: bool) -> Known<ClusterInspection> {
    let mut why = "no control plane could be asked".to_owned();
    for host in &site.hosts {
        let (Ok(report), Some(Ok(client)), Known::Is(Ok(()))) = (
            &host.report,
            clients.get(host.host.name.as_str()),
            &host.api,
        ) else {
            continue;
        };
        let Some(address) = report.api else { continue };
        match ask(client.clone(), InspectCluster { address, drains }).await {
            Known::Is(found) => return Known::Is(found),
            Known::Unknown(reason) => why = reason,
        }
    }
    Known::Unknown(why)
}

fn not_asked<T>() -> Known<T> {
    Known::Unknown("nobody asked".to_owned())
}

fn bare(
    host: &spec::cluster::Host,
    report: std::result::Result<HostReport, Closed>,
) -> SiteHost<'_> {
    SiteHost {
        host,
        report,
        clock: not_asked(),
        filter: not_asked(),
        writes: not_asked(),
        missing: not_asked(),
        api: not_asked(),
        etcd: not_asked(),
        expiries: not_asked(),
    }
}

/// How large the image's layers are, which takes a while when nobody asked before.
async fn sizes(image: &ClusterImage, store: &Store) -> Known<Sizes> {
    let (image, store) = (image.clone(), store.clone());
    let work = move || image.unpacked_sizes(&Context::silent(), &store);
    match tokio::task::spawn_blocking(work).await {
        Ok(sizes) => known(sizes),
        Err(error) => Known::Unknown(error.to_string()),
    }
}

async fn ask<C: Call>(client: Client, call: C) -> Known<C::Reply> {
    known(client.call(call).await)
}

fn known<T>(result: Result<T>) -> Known<T> {
    match result {
        Ok(value) => Known::Is(value),
        Err(error) => {
            let causes = error.causes().map(ToString::to_string);
            let texts: Vec<String> = std::iter::once(error.to_string()).chain(causes).collect();
            Known::Unknown(texts.join(": "))
        }
    }
}

/// Asks every host, in the site's order.
async fn all<T, F: Future<Output = Known<T>>>(
    site: &Site<'_>,
    clients: &Clients,
    question: impl Fn(Client) -> F,
) -> Vec<Known<T>> {
    join_all(site.hosts.iter().map(|host| {
        let client = clients.get(host.host.name.as_str());
        let asked = match client {
            Some(Ok(client)) => Some(question(client.clone())),
            _ => None,
        };
        async {
            match asked {
                Some(asked) => asked.await,
                None => Known::Unknown("the host cannot be entered".to_owned()),
            }
        }
    }))
    .await
}

/// Asks every host, and notes what each says.
async fn each<T, F: Future<Output = Known<T>>>(
    site: &mut Site<'_>,
    clients: &Clients,
    question: impl Fn(Client) -> F,
    note: impl Fn(&mut SiteHost, Known<T>),
) {
    let answers = all(site, clients, question).await;
    for (host, answer) in site.hosts.iter_mut().zip(answers) {
        note(host, answer);
    }
}

/// How often a clock is asked for: the quickest answer tells most.
const CLOCK_QUESTIONS: usize = 3;

async fn clock(client: Client) -> Known<Clock> {
    let now = || {
        let now = jiff::Timestamp::now().as_nanosecond();
        i64::try_from(now).unwrap_or(i64::MAX)
    };
    let mut best: Option<Clock> = None;
    for _ in 0..CLOCK_QUESTIONS {
        let begin = now();
        let theirs = match client.call(ReadClock {}).await {
            Ok(theirs) => theirs,
            Err(error) => return known(Err(error)),
        };
        let doubt = now().saturating_sub(begin).max(0) / 2;
        let ahead = theirs.saturating_sub(begin.saturating_add(doubt));
        if best.is_none_or(|best| doubt < best.doubt) {
            best = Some(Clock { ahead, doubt });
        }
    }
    match best {
        Some(clock) => Known::Is(clock),
        None => not_asked(),
    }
}

async fn ways(site: &Site<'_>, clients: &Clients, vxlan: bool) -> Ways {
    let mut members = Vec::new();
    for host in &site.hosts {
        let name = host.host.name.as_str();
        let (Ok(report), Some(Ok(client))) = (&host.report, clients.get(name)) else {
            continue;
        };
        members.push(Member {
            name,
            client,
            role: match host.host.roles.is_control_plane() {
                true => Role::ControlPlane,
                false => Role::Worker,
            },
            // What a host does not have is said by another check.
            addresses: node_addresses(host.host, &report.facts).unwrap_or_default(),
            facts: &report.facts,
        });
    }
    measure::ways(&members, vxlan).await
}

/// Asks for the control plane's address, on the network of a host that is on it.
async fn vip(site: &Site<'_>, clients: &Clients) -> Known<Vip> {
    let address = match &site.cluster.control_plane_endpoint {
        None => return Known::Is(Vip::None("the Clusterfile has no `controlPlaneEndpoint`")),
        Some(endpoint) => match endpoint.address.ip() {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) => {
                return Known::Is(Vip::None("ARP is for IPv4 addresses only"));
            }
            None => return Known::Is(Vip::None("`controlPlaneEndpoint` is a name")),
        },
    };
    let mut asking = None;
    for host in &site.hosts {
        let (Ok(report), Some(Ok(client))) = (&host.report, clients.get(host.host.name.as_str()))
        else {
            continue;
        };
        if has(&report.facts, address) {
            return Known::Is(Vip::None("it is a host's own address"));
        }
        if asking.is_none() {
            asking = neighbour(&report.facts, address)
                .map(|(interface, own)| (host.host.name.to_string(), client, interface, own));
        }
    }
    let Some((from, client, interface, own)) = asking else {
        return Known::Is(Vip::None("it is not in the network of any host"));
    };
    let call = AskByArp {
        interface,
        own,
        wanted: address,
    };
    match known(client.call(call).await) {
        Known::Is(neighbour) => Known::Is(Vip::Asked {
            address,
            from,
            neighbour,
        }),
        Known::Unknown(why) => Known::Unknown(why),
    }
}

fn has(facts: &Facts, address: Ipv4Addr) -> bool {
    let mut addresses = facts.interfaces.iter().flat_map(|one| &one.addresses);
    addresses.any(|own| own.ip == IpAddr::V4(address))
}

/// The interface whose network an address is in, and the host's own address there.
fn neighbour(facts: &Facts, wanted: Ipv4Addr) -> Option<(String, Ipv4Addr)> {
    facts.interfaces.iter().find_map(|interface| {
        interface.addresses.iter().find_map(|own| {
            let IpAddr::V4(address) = own.ip else {
                return None;
            };
            let shift = 32_u32.checked_sub(u32::from(own.prefix))?;
            let network = |address: Ipv4Addr| u32::from(address).checked_shr(shift).unwrap_or(0);
            (network(address) == network(wanted)).then(|| (interface.name.clone(), address))
        })
    })
}
