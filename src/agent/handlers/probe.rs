//! Measuring what no file tells.

use std::path::Path as FilePath;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};

use super::blocking;
use crate::agent::Scope;
use crate::agent::calls::probe::*;
use crate::error::{Error, Kind, Result};
use crate::host::probe::{self, Filter, Neighbour, Opened, Path, Reached, Writes};

/// How many ports are listened on, and how many are reached, at most.
const MOST_PORTS: usize = 64;
const MOST_TARGETS: usize = 4096;
const MOST_PATHS: usize = 1024;
/// How much is done at the same time.
const AT_ONCE: usize = 128;
const PATHS_AT_ONCE: usize = 24;
/// The longest patience, in milliseconds.
const LONGEST: u64 = 10_000;

fn too_many(what: &str) -> Error {
    Error::new(Kind::Failed, format!("too many {what} in one request"))
}

pub(super) async fn open_probes(scope: Scope, call: OpenProbes) -> Result<Vec<Opened>> {
    if call.ports.len() > MOST_PORTS || call.addresses.len() > MOST_PORTS {
        return Err(too_many("ports"));
    }
    let end = scope.begin_probes();
    Ok(probe::open(&call.addresses, &call.ports, call.nonce, &end).await)
}

pub(super) async fn close_probes(scope: Scope, _: CloseProbes) -> Result<()> {
    scope.end_probes();
    Ok(())
}

pub(super) async fn reach_ports(_: Scope, call: ReachPorts) -> Result<Vec<Reached>> {
    if call.targets.len() > MOST_TARGETS {
        return Err(too_many("ports"));
    }
    let patience = Duration::from_millis(call.patience.min(LONGEST));
    let reaching = call.targets.into_iter().map(|target| {
        let nonce = target.echoes.then_some(call.nonce);
        probe::reach(target.address, target.protocol, nonce, patience)
    });
    Ok(stream::iter(reaching).buffered(AT_ONCE).collect().await)
}

pub(super) async fn measure_paths(
    _: Scope,
    call: MeasurePaths,
) -> Result<Vec<std::result::Result<Path, String>>> {
    if call.targets.len() > MOST_PATHS {
        return Err(too_many("hosts"));
    }
    let measuring = call.targets.into_iter().map(|target| async move {
        let measure =
            move || probe::measure_path(target.address, target.size, target.udp, call.nonce);
        let measured = blocking(measure).await;
        measured.map_err(|error| {
            let causes = error.causes().map(ToString::to_string);
            let texts: Vec<String> = std::iter::once(error.to_string()).chain(causes).collect();
            texts.join(": ")
        })
    });
    Ok(stream::iter(measuring)
        .buffered(PATHS_AT_ONCE)
        .collect()
        .await)
}

pub(super) async fn ask_by_arp(_: Scope, call: AskByArp) -> Result<Neighbour> {
    blocking(move || probe::ask_by_arp(&call.interface, call.own, call.wanted)).await
}

pub(super) async fn measure_writes(_: Scope, _: MeasureWrites) -> Result<Writes> {
    blocking(|| probe::measure_writes(FilePath::new("/var/lib/etcd"))).await
}

pub(super) async fn read_filter(_: Scope, _: ReadFilter) -> Result<Filter> {
    blocking(|| Ok(probe::read_filter())).await
}

pub(super) async fn read_clock(_: Scope, _: ReadClock) -> Result<i64> {
    let now = jiff::Timestamp::now().as_nanosecond();
    Ok(i64::try_from(now).unwrap_or(i64::MAX))
}
