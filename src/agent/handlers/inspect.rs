//! Looking at a running cluster. Each part is asked for by itself: what cannot be told
//! does not hide the rest.

use std::collections::BTreeMap;

use super::distro::{connect, root, system_namespaces};
use crate::agent::Scope;
use crate::agent::calls::inspect::{
    ClusterInspection, InspectCluster, InspectEtcd, ReadExpiries, Told,
};
use crate::distro::kubeadm::etcd::Etcd;
use crate::distro::kubeadm::etcd_health::{self, EtcdHealth};
use crate::distro::kubeadm::expiry::{self, Expiry};
use crate::error::Result;
use crate::kube::drain::{self, Options, Simulation, Snapshot};
use crate::kube::{self, Connection, inspect};

/// How many nodes' drains are simulated at most.
const MOST_DRAINS: usize = 200;

fn told<T>(result: Result<T>) -> Told<T> {
    result.map_err(|error| {
        let causes = error.causes().map(ToString::to_string);
        let texts: Vec<String> = std::iter::once(error.to_string()).chain(causes).collect();
        texts.join(": ")
    })
}

pub(super) async fn inspect_cluster(
    scope: Scope,
    call: InspectCluster,
) -> Result<ClusterInspection> {
    let connection = connect(call.address).await?;
    let namespaces = system_namespaces(scope.root());
    let (version, nodes, pods, requests, deprecated, volumes, drains) = tokio::join!(
        connection.version(),
        kube::nodes(&connection),
        kube::system_pods(&connection, &namespaces),
        inspect::pending_requests(&connection),
        inspect::deprecated_apis(&connection),
        inspect::local_volumes(&connection),
        async {
            match call.drains {
                true => drains(&connection).await,
                false => Ok(BTreeMap::new()),
            }
        },
    );
    Ok(ClusterInspection {
        version: told(version),
        nodes: told(nodes),
        pods: told(pods),
        requests: told(requests),
        deprecated: told(deprecated),
        volumes: told(volumes),
        drains: told(drains),
    })
}

/// What draining each node, one at a time, would do.
async fn drains(connection: &Connection) -> Result<BTreeMap<String, Simulation>> {
    let snapshot = Snapshot::read(connection).await?;
    let options = Options {
        ignore_daemonsets: true,
        ..Options::default()
    };
    let names = snapshot
        .nodes
        .iter()
        .filter_map(|node| node.metadata.name.clone());
    Ok(names
        .take(MOST_DRAINS)
        .map(|name| {
            let found = drain::simulate(&snapshot, &[&name], &options);
            let found = Simulation {
                moving: Vec::new(),
                skipped: Vec::new(),
                ..found
            };
            (name, found)
        })
        .collect())
}

pub(super) async fn inspect_etcd(_: Scope, call: InspectEtcd) -> Result<EtcdHealth> {
    etcd_health::health(&Etcd::open(root(), call.address)?, root()).await
}

pub(super) async fn read_expiries(_: Scope, _: ReadExpiries) -> Result<Vec<Expiry>> {
    super::blocking(|| Ok(expiry::expiries(root()))).await
}
