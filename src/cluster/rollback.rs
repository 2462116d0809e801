//! The way back to an earlier revision of a cluster.
//!
//! What a host is to be then is the generation that it had, where it still has it: the
//! switch to it brings every file back to the letter. Where it does not, its generation
//! is made anew, of the revision's image and the Clusterfile as it is now. So it is
//! where hosts have come or gone since, because a generation knows of the others, and
//! for a control plane whose etcd stays ([`crate::distro::kubeadm::etcd_version`]).

use std::collections::{BTreeMap, BTreeSet};

use super::connect::farewell;
use super::desired::{Desired, DesiredHost};
use super::status::Request;
use super::{history, image};
use crate::agent::calls::history::{HistoryEntry, Revision, RunOutcome};
use crate::agent::calls::host::HostReport;
use crate::digest::Digest;
use crate::distro::Role;
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::host::Part;
use crate::oci::store::Hold;
use crate::oci::{Reference, Store};
use crate::spec;

/// A revision to go back to, its image whole in the controller's store.
pub struct Target {
    /// The revision.
    pub revision: Revision,
    /// Its image may have no name here.
    _hold: Hold,
}

/// Which revision is meant.
pub enum Wanted<'a> {
    /// The one before; or the one that a rollback that failed was on its way to.
    Before,
    /// The one with this number.
    Number(u32),
    /// The one before a run, when that has changed something and failed.
    BeforeFailed(&'a str),
}

/// Finds a revision, and fetches from the control planes what the controller's store
/// lacks of its image. None when the run that it is to be before has changed nothing.
///
/// # Errors
/// [`Kind::NotFound`] when there is none, or its image is nowhere.
pub async fn find(
    context: &Context,
    request: &Request,
    store: &Store,
    wanted: Wanted<'_>,
) -> Result<Option<Target>> {
    let clients = history::enter(context, request).await?;
    let found = async {
        let entries = history::gather(clients.values()).await?;
        if let Wanted::BeforeFailed(run) = wanted {
            let is_it = |last: &HistoryEntry| last.run == run && !is_complete(last);
            if !entries.last().is_some_and(is_it) {
                return Ok(None);
            }
        }
        let revision = match wanted {
            Wanted::Number(number) => numbered(&entries, number)?,
            _ => before(&entries)?,
        };
        let hold = store.hold()?;
        let mut lacking = None;
        for client in clients.values() {
            match image::bring(context, client, store, &revision.index).await {
                Ok(()) => {
                    lacking = None;
                    break;
                }
                Err(error) => lacking = Some(error.on_host(client.host())),
            }
        }
        if let Some(error) = lacking {
            let what = format!(
                "the image `{}` of revision {} cannot be fetched from the cluster's hosts",
                revision.reference, revision.number
            );
            let hint = format!("fetch it with `chasi pull {}`", revision.reference);
            return Err(Error::new(Kind::NotFound, what).because(error).hint(hint));
        }
        name(context, &hold, store, revision)?;
        Ok(Some(Target {
            revision: revision.clone(),
            _hold: hold,
        }))
    };
    let found = found.await;
    farewell(clients.into_values()).await;
    found
}

/// Gives the image its name where that is free. One that means another image goes on
/// meaning it, which is told.
fn name(context: &Context, hold: &Hold, store: &Store, revision: &Revision) -> Result<()> {
    let reference: Reference = revision.reference.parse()?;
    match store.resolve(&reference) {
        Err(_) => hold.tag(&reference, &revision.index),
        Ok(named) if named.digest == revision.index.digest => Ok(()),
        Ok(_) => {
            context.warn(format!(
                "`{}` is another image here than it was at revision {} ({}): the next `chasi run` goes on to it",
                revision.reference,
                revision.number,
                revision.index.digest.short()
            ));
            Ok(())
        }
    }
}

/// Whether the cluster was what a run wanted, but for hosts that were left out.
fn is_complete(entry: &HistoryEntry) -> bool {
    matches!(entry.outcome, RunOutcome::Done | RunOutcome::Partial)
}

fn revisions(entries: &[HistoryEntry]) -> impl DoubleEndedIterator<Item = (&Revision, bool)> {
    entries
        .iter()
        .filter_map(|entry| Some((entry.revision.as_ref()?, is_complete(entry))))
}

fn none() -> Error {
    Error::new(Kind::NotFound, "there is no earlier revision to go back to")
        .hint("`chasi history` lists the revisions; `chasi rollback --to N` goes back to one")
}

/// The revision with a number.
fn numbered(entries: &[HistoryEntry], number: u32) -> Result<&Revision> {
    let found = revisions(entries).find(|(revision, _)| revision.number == number);
    match found {
        Some((revision, true)) => Ok(revision),
        Some((_, false)) => Err(Error::new(
            Kind::NotFound,
            format!(
                "revision {number} is of a run that did not come to its end: the cluster never was as it wanted"
            ),
        )
        .hint("`chasi history` tells which were done")),
        None => Err(
            Error::new(Kind::NotFound, format!("there is no revision {number}"))
                .hint("`chasi history` lists the revisions"),
        ),
    }
}

/// The revision before what the cluster is now.
fn before(entries: &[HistoryEntry]) -> Result<&Revision> {
    let last_entry = entries.iter().rfind(|entry| entry.revision.is_some());
    let last_entry = last_entry.ok_or_else(none)?;
    let last = last_entry.revision.as_ref().ok_or_else(none)?;
    // A rollback that did not come to its end goes on.
    if let Some(number) = last
        .back_to
        .filter(|_| last_entry.outcome != RunOutcome::Done)
    {
        return numbered(entries, number);
    }
    let (bound, is_other) = match is_complete(last_entry) {
        true => (last.back_to.unwrap_or(last.number), Some(last)),
        false => (last.number, None),
    };
    let found = revisions(entries)
        .rev()
        .filter(|(one, is_complete)| *is_complete && one.number < bound)
        .map(|(one, _)| one)
        .find(|one| is_other.is_none_or(|last| leads_elsewhere(one, last)))
        .ok_or_else(none)?;
    // What a rollback led to is the revision that it went back to.
    let origin = found
        .back_to
        .and_then(|number| numbered(entries, number).ok());
    Ok(origin.unwrap_or(found))
}

/// Whether going back from one revision to another changes anything. With the same
/// image, hosts that came or went leave nothing to go back to.
fn leads_elsewhere(one: &Revision, last: &Revision) -> bool {
    let names = |revision: &Revision| revision.hosts.keys().cloned().collect::<BTreeSet<_>>();
    one.index.digest != last.index.digest
        || (names(one) == names(last) && (one.hosts != last.hosts || one.objects != last.objects))
}

/// Makes a revision what the cluster is to be, where it was worked out with the
/// revision's image. Returns what is to be said of it.
pub(super) fn aim(
    desired: &mut Desired,
    revision: &Revision,
    reports: &BTreeMap<String, HostReport>,
    cluster: &spec::Cluster,
) -> Result<Vec<String>> {
    let running = reports
        .values()
        .flat_map(|report| [Part::Node, Part::ControlPlane].map(|part| report.kubernetes(part)))
        .flatten()
        .filter_map(|version| semver::Version::parse(version).ok())
        .max();
    let to = semver::Version::parse(&desired.cluster.version).ok();
    if let (Some(from), Some(to)) = (running, to) {
        is_back(revision.number, &from, &to)?;
    }
    let hosts: BTreeSet<&str> = cluster
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    let same_hosts = hosts
        .iter()
        .copied()
        .eq(revision.hosts.keys().map(String::as_str));
    let mut anew = Vec::new();
    for host in &mut desired.hosts {
        let name = &host.node.name;
        if let Some(was) = revision.hosts.get(name) {
            host.labels.clone_from(&was.labels);
            host.taints.clone_from(&was.taints);
        }
        let kept = kept(host, revision, reports.get(name)).filter(|_| same_hosts);
        match kept {
            Some(identity) => host.identity = identity,
            None => anew.push(name.clone()),
        }
    }
    let is_anew = |host: &DesiredHost| anew.contains(&host.node.name);
    let mut planes = desired
        .hosts
        .iter()
        .filter(|host| host.node.role == Role::ControlPlane);
    if !planes.any(is_anew) {
        desired.objects = revision.objects;
    }
    let mut notes = Vec::new();
    if !anew.is_empty() {
        notes.push(format!(
            "the generation of {} is made from the image and the Clusterfile as it is now: {}",
            anew.join(", "),
            match same_hosts {
                true => "the one of then is not there any more, or cannot be used",
                false => "hosts have come or gone since",
            }
        ));
    }
    Ok(notes)
}

/// The generation that a host had at a revision, if it still has it.
fn kept(host: &DesiredHost, revision: &Revision, report: Option<&HostReport>) -> Option<Digest> {
    let was = revision.hosts.get(&host.node.name)?;
    let identity = was.node?;
    let is_whole = host.node.role == Role::Worker || was.control_plane == was.node;
    let generations = &report?.facts.managed.generations;
    let is_there = generations
        .iter()
        .any(|one| one.identity == identity && one.image == revision.index.digest);
    (is_whole && is_there && host.etcd_stays.is_none()).then_some(identity)
}

/// Refuses what is no way back, or one that is too far.
fn is_back(number: u32, from: &semver::Version, to: &semver::Version) -> Result<()> {
    if to > from {
        return Err(Error::new(
            Kind::Check,
            format!(
                "revision {number} has Kubernetes {to}, which is newer than the {from} that runs"
            ),
        )
        .hint("`chasi upgrade IMAGE` goes forward; `chasi history` lists the images"));
    }
    if from.major != to.major || from.minor - to.minor > 1 {
        return Err(Error::new(
            Kind::Check,
            format!(
                "Kubernetes {to} of revision {number} cannot read all that {from} may have written: only one minor version can be gone back"
            ),
        )
        .hint(format!(
            "go back to a revision of Kubernetes {}.{} first: `chasi history`, then `chasi rollback --to N`",
            from.major,
            from.minor.saturating_sub(1)
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "rollback/tests.rs"]
pub(super) mod tests;
