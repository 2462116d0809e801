//! The cluster's lock: one run changes a cluster at a time, also while the
//! Kubernetes API is down.
//!
//! A run holds it while it holds the host locks of a majority of the control-plane
//! hosts, which no two runs can. Each of these hosts has a record that says who
//! that is, with a fence: a number that grows with every holder. Every host of the
//! cluster remembers the highest fence that entered it and refuses lower ones, so
//! a run that lost the lock and does not know it can change nothing any more.
//!
//! A record that is held, on a host whose host lock we have, was left by a run
//! whose agent there is gone. With a majority of such hosts that run has lost the
//! lock: it is taken over. With a minority it may still be at work elsewhere.

use std::collections::BTreeMap;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::Client;
use super::calls::lock::{EnterFence, LockRecord, LockState, ReadLock, WriteLock};
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};

/// The cluster's lock, held. Dropped without [`ClusterLock::release`], it is left
/// for the next run to take over.
pub struct ClusterLock {
    members: Vec<Client>,
    majority: usize,
    record: LockRecord,
}

impl ClusterLock {
    /// Takes the lock for the run `run` of `who`. `members` are the control-plane
    /// hosts that can be reached, with their host locks; `control_planes` is how
    /// many the cluster has. Fails with [`Kind::Locked`] when another run may hold
    /// it, and with [`Kind::Unreachable`] when too few hosts can be reached.
    pub async fn acquire(
        context: &Context,
        run: &str,
        who: &str,
        members: &[Client],
        control_planes: usize,
    ) -> Result<ClusterLock> {
        let majority = control_planes / 2 + 1;
        let answers = join_all(members.iter().map(|member| member.call(ReadLock {}))).await;
        let states = answers.into_iter().collect::<Result<Vec<LockState>>>()?;
        let others = states
            .iter()
            .filter_map(|state| state.record.as_ref())
            .filter(|record| record.held && record.run != run);
        let other = others.max_by_key(|record| record.fence);
        if members.len() < majority {
            return Err(too_few(members.len(), control_planes, other));
        }
        if let Some(other) = other {
            let text = format!(
                "the cluster's lock is taken over from {other}, which has ended without releasing it"
            );
            context.emit(Event::Note { host: None, text });
        }
        let highest = states.iter().map(|state| state.fence).max().unwrap_or(0);
        let lock = ClusterLock {
            members: members.to_vec(),
            majority,
            record: LockRecord {
                version: 1,
                run: run.to_owned(),
                who: who.to_owned(),
                since: jiff::Timestamp::now(),
                fence: highest + 1,
                held: true,
            },
        };
        lock.write(&lock.record).await?;
        lock.enter(members).await?;
        Ok(lock)
    }

    /// Takes the lock by way of the control planes among `clients`, and lets this
    /// run in on all of them. `control_planes` are the names of all that the
    /// cluster has.
    pub async fn take(
        context: &Context,
        run: &str,
        who: &str,
        clients: &BTreeMap<String, Client>,
        control_planes: &[&str],
    ) -> Result<ClusterLock> {
        let (mut members, mut others) = (Vec::new(), Vec::new());
        for (name, client) in clients {
            match control_planes.contains(&name.as_str()) {
                true => members.push(client.clone()),
                false => others.push(client.clone()),
            }
        }
        let lock = ClusterLock::acquire(context, run, who, &members, control_planes.len()).await?;
        lock.enter(&others).await?;
        Ok(lock)
    }

    /// Does work under the lock, which ends when the lock is lost, and releases it.
    pub async fn around<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = tokio::select! {
            result = work => result,
            lost = self.watch() => return Err(lost),
        };
        let released = self.release().await;
        let done = result?;
        released.map(|()| done)
    }

    /// The number that goes with this holding of the lock.
    pub fn fence(&self) -> u64 {
        self.record.fence
    }

    /// Lets this run in on other hosts of the cluster. Must come before they are
    /// changed; fails with [`Kind::Locked`] when a later run has been there.
    pub async fn enter(&self, hosts: &[Client]) -> Result<()> {
        let fence = self.fence();
        let entered = join_all(hosts.iter().map(|host| host.call(EnterFence { fence }))).await;
        entered.into_iter().collect()
    }

    /// Fails once so many hosts are lost that another run may have the lock. To be
    /// asked before each change.
    pub fn check(&self) -> Result<()> {
        let alive = self
            .members
            .iter()
            .filter(|member| member.is_alive())
            .count();
        if alive < self.majority {
            return Err(self.lost(alive));
        }
        Ok(())
    }

    /// Waits until the lock is lost, and says so. For a `select!` beside the work.
    pub async fn watch(&self) -> Error {
        let mut ends: FuturesUnordered<_> = self.members.iter().map(Client::ended).collect();
        let mut alive = self.members.len();
        while alive >= self.majority {
            match ends.next().await {
                Some(_) => alive -= 1,
                None => break,
            }
        }
        self.lost(alive)
    }

    /// Gives the lock back.
    pub async fn release(self) -> Result<()> {
        let released = LockRecord {
            held: false,
            ..self.record.clone()
        };
        self.write(&released).await
    }

    /// Writes a record to the members; a majority must take it.
    async fn write(&self, record: &LockRecord) -> Result<()> {
        let writes = self.members.iter().map(|member| {
            member.call(WriteLock {
                record: record.clone(),
            })
        });
        let (written, failed): (Vec<_>, Vec<_>) =
            join_all(writes).await.into_iter().partition(Result::is_ok);
        match failed.into_iter().find_map(Result::err) {
            Some(error) if written.len() < self.majority => Err(error),
            _ => Ok(()),
        }
    }

    fn lost(&self, alive: usize) -> Error {
        Error::new(
            Kind::Unreachable,
            format!(
                "the connection to too many control-plane hosts is lost: {alive} of the {} that hold the cluster's lock are left",
                self.members.len()
            ),
        )
        .hint("nothing more is changed; run the same command again when the hosts can be reached")
    }
}

fn too_few(reached: usize, control_planes: usize, other: Option<&LockRecord>) -> Error {
    let needed = control_planes / 2 + 1;
    let reach = format!(
        "{reached} of {control_planes} control-plane hosts can be reached, {needed} are needed to hold the cluster's lock"
    );
    match other {
        Some(record) => Error::new(Kind::Locked, format!("{record} may be changing the cluster on hosts that cannot be reached"))
            .because(reach)
            .hint("wait for that run to end, or make the other control-plane hosts reachable, and run the same command again"),
        None => Error::new(Kind::Unreachable, reach).hint("make more control-plane hosts reachable and run the same command again"),
    }
}

#[cfg(test)]
mod tests;
