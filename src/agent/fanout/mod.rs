//! Copying the same blobs to many hosts: the controller sends each byte about
//! once, and the hosts pass it on to each other.
//!
//! Large blobs are cut into pieces, whose digests the controller knows, so that a
//! piece can be trusted before its blob is whole. The [`schedule`] decides who gets
//! what from whom. What is too small for that, or cannot be passed on, the
//! controller sends to each host.

mod schedule;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt as _;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use self::schedule::{Fault, Schedule, Source, Transfer};
use super::Client;
use super::calls::exchange::{FetchPiece, FinishBlobs, OpenExchange, Peer, Piece, PutPiece};
use super::exchange::Authority;
use super::transfer::{Extent, Progress, Sent, missing, pour, put};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::{Blob, Store};

/// Smaller blobs are not worth passing on.
const SMALL: u64 = 256 << 10;
/// Nor is less than this in all.
const LITTLE: u64 = 4 << 20;
/// Into about how many pieces the whole is cut: enough to keep all links busy.
const PIECES: u64 = 200;
/// The smallest and the largest piece.
const SMALLEST_PIECE: u64 = 1 << 20;
const LARGEST_PIECE: u64 = 64 << 20;

/// A host that is to get blobs.
#[derive(Clone)]
pub struct Destination {
    /// Its agent, with the host's lock.
    pub client: Client,
    /// Where other hosts reach it: its node IP. Without one it gets everything from
    /// the controller.
    pub address: Option<IpAddr>,
}

/// Brings blobs to hosts that lack them; what happened for each host, in their
/// order. One host's failure does not touch the others. `item` names the whole in
/// progress events.
pub async fn distribute(
    context: &Context,
    store: &Store,
    blobs: &[Blob],
    hosts: &[Destination],
    item: &str,
) -> Vec<Result<Sent>> {
    let lists = join_all(hosts.iter().map(|host| missing(&host.client, blobs))).await;
    let mut outcomes: Vec<Result<()>> = Vec::new();
    let mut lacking = Vec::new();
    for list in lists {
        let (outcome, blobs) = match list {
            Ok(blobs) => (Ok(()), blobs),
            Err(error) => (Err(error), Vec::new()),
        };
        outcomes.push(outcome);
        lacking.push(blobs);
    }
    let sent: Vec<_> = lacking.iter().map(|blobs| Sent::of(blobs)).collect();
    let progress: Vec<_> = hosts
        .iter()
        .zip(&sent)
        .map(|(host, sent)| Progress::new(context, host.client.host(), item, sent.bytes))
        .collect();

    let passed = pass_on(context, store, hosts, &lacking, &outcomes, &progress).await;
    for (host, passed) in passed {
        match passed {
            Ok(blobs) => lacking[host].retain(|blob| !blobs.contains(blob)),
            Err(error) => outcomes[host] = Err(error),
        }
    }
    let rest = hosts.iter().zip(outcomes).zip(&lacking).zip(&progress);
    let rest = rest.map(|(((host, outcome), blobs), progress)| async move {
        outcome?;
        put(&host.client, store, blobs, progress).await
    });
    let ends = join_all(rest).await;
    ends.into_iter()
        .zip(sent)
        .map(|(end, sent)| end.map(|()| sent))
        .collect()
}

/// Lets hosts pass on what is worth it. For each host that took part: what it got,
/// or why it cannot get anything any more.
async fn pass_on(
    context: &Context,
    store: &Store,
    hosts: &[Destination],
    lacking: &[Vec<Blob>],
    outcomes: &[Result<()>],
    progress: &[Progress],
) -> Vec<(usize, Result<HashSet<Blob>>)> {
    let able: Vec<usize> = (0..hosts.len())
        .filter(|host| outcomes[*host].is_ok() && hosts[*host].address.is_some())
        .collect();
    let blobs = worth_passing_on(able.iter().map(|host| &lacking[*host]));
    if blobs.is_empty() {
        return Vec::new();
    }
    let prepared = async {
        let pieces = cut(store, &blobs).await?;
        Ok((pieces, Authority::new()?))
    };
    let (pieces, authority) = match prepared.await {
        Ok(prepared) => prepared,
        // The store's trouble shows again, with a host's name, when it is read.
        Err(error) => {
            context.warn(format!(
                "hosts cannot pass blobs on: {}",
                whole_text(&error)
            ));
            return Vec::new();
        }
    };
    let opened = able
        .iter()
        .map(|host| open(&hosts[*host], *host, &authority, &blobs, &lacking[*host]));
    let mut members = Vec::new();
    for (host, opened) in able.iter().copied().zip(join_all(opened).await) {
        match opened {
            Ok(peer) => members.push(Member {
                host,
                peer,
                destination: &hosts[host],
                progress: &progress[host],
            }),
            // It gets nothing at all then, and the run says so.
            Err(error) if error.kind() == Kind::Interrupted => {}
            Err(error) => context.emit(Event::Note {
                host: Some(hosts[host].client.host().to_owned()),
                text: format!("it gets everything from here: {}", whole_text(&error)),
            }),
        }
    }
    let lacks = members.iter().map(|member| {
        let blobs: HashSet<_> = lacking[member.host].iter().collect();
        (0..pieces.len())
            .filter(|piece| blobs.contains(&pieces[*piece].blob))
            .collect()
    });
    let schedule = Schedule::new(pieces.len(), lacks.collect::<Vec<BTreeSet<_>>>());
    let swarm = Swarm {
        context,
        store,
        members,
        pieces,
    };
    let ends = swarm.run(schedule).await;
    let got: HashSet<Blob> = blobs.into_iter().collect();
    let ends = ends
        .into_iter()
        .filter_map(|(member, end)| Some((swarm.members[member].host, end?)));
    ends.map(|(host, end)| (host, end.map(|()| got.clone())))
        .collect()
}

/// The large blobs that several hosts lack, if they are enough to be worth it.
fn worth_passing_on<'a>(lacking: impl Iterator<Item = &'a Vec<Blob>>) -> Vec<Blob> {
    let mut count: HashMap<&Blob, usize> = HashMap::new();
    let mut order = Vec::new();
    for blob in lacking.flatten().filter(|blob| blob.size >= SMALL) {
        let count = count.entry(blob).or_default();
        *count += 1;
        if *count == 2 {
            order.push(blob.clone());
        }
    }
    if order.iter().map(|blob| blob.size).sum::<u64>() < LITTLE {
        order.clear();
    }
    order
}

/// Cuts blobs into pieces and computes their digests.
async fn cut(store: &Store, blobs: &[Blob]) -> Result<Vec<Piece>> {
    let total: u64 = blobs.iter().map(|blob| blob.size).sum();
    let size = (total / PIECES).clamp(SMALLEST_PIECE, LARGEST_PIECE);
    let parts: Vec<_> = blobs
        .iter()
        .flat_map(|blob| {
            (0..blob.size.div_ceil(size)).map(move |number| (blob.clone(), number * size))
        })
        .collect();
    let store = store.clone();
    let hash = move || {
        let parts = parts.into_par_iter();
        parts
            .map(|(blob, offset)| {
                let size = size.min(blob.size - offset);
                let digest = digest_of(&Extent {
                    file: store.open_blob(&blob)?,
                    offset,
                    size,
                })?;
                Ok(Piece {
                    blob,
                    offset,
                    size,
                    digest,
                })
            })
            .collect()
    };
    tokio::task::spawn_blocking(hash)
        .await
        .or_err(Kind::Failed, || "cannot compute digests")?
}

fn digest_of(extent: &Extent) -> Result<Digest> {
    let cannot = || "cannot read a blob of the store";
    let mut content = Hashing::new(std::io::sink());
    let mut buffer = vec![0; 256 << 10];
    while content.length() < extent.size {
        let most = buffer
            .len()
            .min(usize::try_from(extent.size - content.length()).unwrap_or(usize::MAX));
        let at = extent.offset + content.length();
        extent
            .file
            .read_exact_at(&mut buffer[..most], at)
            .or_err(Kind::System, cannot)?;
        content
            .write_all(&buffer[..most])
            .or_err(Kind::System, cannot)?;
    }
    Ok(content.finish().1)
}

/// Prepares a host to get pieces and to give them.
async fn open(
    host: &Destination,
    number: usize,
    authority: &Authority,
    blobs: &[Blob],
    lacking: &[Blob],
) -> Result<Peer> {
    let Some(address) = host.address else {
        return Err(Error::new(
            Kind::Failed,
            "it has no address for other hosts",
        ));
    };
    let name = format!("host-{number}.chasi.internal");
    let coming = blobs
        .iter()
        .filter(|blob| lacking.contains(blob))
        .cloned()
        .collect();
    let request = OpenExchange {
        address,
        credentials: authority.credentials(&name)?,
        blobs: coming,
    };
    let port = host.client.call(request).await?;
    Ok(Peer {
        name,
        address: SocketAddr::new(address, port),
    })
}

/// A host that takes part.
struct Member<'a> {
    /// Its number among all destinations.
    host: usize,
    peer: Peer,
    destination: &'a Destination,
    progress: &'a Progress,
}

/// Hosts that pass pieces on to each other. Here hosts are counted as members.
struct Swarm<'a> {
    context: &'a Context,
    store: &'a Store,
    members: Vec<Member<'a>>,
    pieces: Vec<Piece>,
}

/// Something that ended.
enum Job {
    Transfer(Transfer, Result<()>),
    Finish(usize, Result<()>),
}

impl Swarm<'_> {
    /// Carries out the schedule. For each member: whether it has everything in its
    /// store, or why it cannot; nothing when it could not get all pieces.
    async fn run(&self, mut schedule: Schedule) -> HashMap<usize, Option<Result<()>>> {
        let mut ends: HashMap<usize, Option<Result<()>>> = HashMap::new();
        let mut jobs: FuturesUnordered<BoxFuture<'_, Job>> = FuturesUnordered::new();
        loop {
            for transfer in schedule.begin() {
                jobs.push(
                    async move { Job::Transfer(transfer, self.carry_out(transfer).await) }.boxed(),
                );
            }
            for member in 0..self.members.len() {
                if schedule.is_complete(member) && !ends.contains_key(&member) {
                    ends.insert(member, None);
                    let finish = self.members[member].destination.client.call(FinishBlobs {});
                    jobs.push(async move { Job::Finish(member, finish.await) }.boxed());
                }
            }
            match jobs.next().await {
                Some(Job::Transfer(transfer, result)) => {
                    if let Some(error) = self.note(&mut schedule, transfer, result) {
                        ends.insert(transfer.to, Some(Err(error)));
                    }
                }
                Some(Job::Finish(member, result)) => _ = ends.insert(member, Some(result)),
                None => return ends,
            }
        }
    }

    async fn carry_out(&self, transfer: Transfer) -> Result<()> {
        let to = &self.members[transfer.to];
        let piece = self.pieces[transfer.piece].clone();
        match transfer.from {
            Source::Host(from) => {
                let size = piece.size;
                let from = self.members[from].peer.clone();
                to.destination
                    .client
                    .call(FetchPiece { piece, from })
                    .await?;
                to.progress.add(size);
                Ok(())
            }
            Source::Controller => {
                let file = self.store.open_blob(&piece.blob)?;
                let extent = Extent {
                    file,
                    offset: piece.offset,
                    size: piece.size,
                };
                let send = |sender| {
                    pour(std::iter::once(Ok(extent)), sender, |count| {
                        to.progress.add(count)
                    })
                };
                to.destination.client.upload(PutPiece { piece }, send).await
            }
        }
    }

    /// Tells the schedule how a transfer ended; an error when its receiver cannot
    /// go on.
    fn note(
        &self,
        schedule: &mut Schedule,
        transfer: Transfer,
        result: Result<()>,
    ) -> Option<Error> {
        let error = match result {
            Ok(()) => {
                schedule.arrived(transfer);
                return None;
            }
            Err(error) => error,
        };
        let to = &self.members[transfer.to].destination.client;
        let fault = match (transfer.from, error.kind()) {
            (Source::Host(_), Kind::Unreachable) if to.is_alive() => Fault::Source,
            (Source::Host(_), Kind::Integrity) => Fault::Forged,
            _ => {
                schedule.lost(transfer.to);
                return Some(error);
            }
        };
        if let Source::Host(from) = transfer.from {
            self.context.emit(Event::Detail {
                host: Some(to.host().to_owned()),
                text: format!(
                    "a piece could not be fetched from {}: {}",
                    self.members[from].destination.client.host(),
                    whole_text(&error)
                ),
            });
        }
        schedule.failed(transfer, fault);
        None
    }
}

/// An error with its causes in one line.
fn whole_text(error: &Error) -> String {
    let causes = error.causes().map(ToString::to_string);
    std::iter::once(error.to_string())
        .chain(causes)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests;
