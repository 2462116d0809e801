//! What an agent gives to and takes from the other agents of a run: blobs in
//! pieces.
//!
//! Agents speak the agent's protocol with each other, over TLS 1.3 in which both
//! sides show a certificate of the run's own authority. A piece is compared with
//! its digest before it is passed on, a blob with its own before it appears in the
//! store.

mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::calls::exchange::{Credentials, GetPiece, Peer, Piece};
use super::transfer::{Extent, pour};
use super::{Client, Receiver, Router, Scope, Server};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::Blob;
use crate::oci::store::{Assembly, Hold};

pub(super) use tls::Authority;

/// How long connecting to another agent may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long another agent may send nothing of a piece.
const STALL: Duration = Duration::from_secs(30);
/// How many agents may be connected at once.
const MOST_PEERS: usize = 256;
/// How many chunks wait to be written.
const BEHIND: usize = 8;

/// The blobs that come in pieces, and the way to other agents.
pub(super) struct Exchange {
    store: Hold,
    partial: HashMap<Digest, Partial>,
    tls: tls::Tls,
    peers: Mutex<HashMap<String, Arc<OnceCell<Client>>>>,
    /// Cancelled when nothing is to be exchanged any more.
    end: CancellationToken,
}

/// A blob that is coming.
struct Partial {
    assembly: Assembly,
    /// The size of each whole piece, by its offset.
    pieces: Mutex<BTreeMap<u64, u64>>,
}

impl Exchange {
    /// Prepares for `blobs`, and listens at `address` for other agents until `end`
    /// is cancelled; the port.
    pub async fn open(
        root: PathBuf,
        store: Hold,
        blobs: &[Blob],
        address: IpAddr,
        credentials: &Credentials,
        end: CancellationToken,
    ) -> Result<(Arc<Exchange>, u16)> {
        let mut partial = HashMap::new();
        for blob in blobs {
            let assembly = store.assemble(blob)?;
            partial.insert(
                blob.digest,
                Partial {
                    assembly,
                    pieces: Mutex::default(),
                },
            );
        }
        let cannot = || format!("cannot listen at {address} for other hosts");
        let listener = TcpListener::bind((address, 0))
            .await
            .or_err(Kind::System, cannot)?;
        let port = listener.local_addr().or_err(Kind::System, cannot)?.port();
        let tls = tls::Tls::new(credentials)?;
        let exchange = Arc::new(Exchange {
            store,
            partial,
            tls,
            peers: Mutex::default(),
            end,
        });
        tokio::spawn(listen(exchange.clone(), root, listener));
        Ok((exchange, port))
    }

    /// Gives and takes nothing any more.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// Takes a piece from the controller.
    pub async fn put(self: &Arc<Self>, piece: &Piece, data: Receiver) -> Result<()> {
        self.receive(piece, data, Duration::MAX).await
    }

    /// Fetches a piece from another agent.
    pub async fn fetch(self: &Arc<Self>, piece: &Piece, peer: &Peer) -> Result<()> {
        let not_given = || {
            format!(
                "`{}` does not give a piece of the blob {}",
                peer.address, piece.blob.digest
            )
        };
        let work = async {
            let client = self.peer(peer).await?;
            let request = GetPiece {
                piece: piece.clone(),
            };
            let receive = |data| async { Ok(self.receive(piece, data, STALL).await) };
            match client.download(request, receive).await {
                Ok((_, received)) => received,
                Err(theirs) => Err(Error::new(Kind::Unreachable, not_given()).because(theirs)),
            }
        };
        let stopped = || Error::new(Kind::Interrupted, "interrupted");
        self.end
            .run_until_cancelled(work)
            .await
            .unwrap_or_else(|| Err(stopped()))
    }

    /// Puts all blobs into the store. Fails with the first that is not whole; those
    /// that are, are kept.
    pub fn finish(&self) -> Result<()> {
        let mut batch = self.store.batch();
        let mut first = Ok(());
        for partial in self.partial.values() {
            first = first.and(partial.assembly.commit_in(&mut batch));
        }
        batch.finish()?;
        first
    }

    /// Where a piece can be read that this agent has.
    fn find(&self, piece: &Piece) -> Result<Extent> {
        let (file, size) = match self.partial.get(&piece.blob.digest) {
            Some(partial) => {
                let has = lock(&partial.pieces).get(&piece.offset) == Some(&piece.size);
                if !has {
                    return Err(Error::new(
                        Kind::NotFound,
                        "this host does not have the piece",
                    ));
                }
                (partial.assembly.file()?, partial.assembly.blob().size)
            }
            None => (self.store.open_blob(&piece.blob)?, piece.blob.size),
        };
        let end = piece.offset.checked_add(piece.size);
        if end.is_none_or(|end| end > size) {
            return Err(Error::new(Kind::Failed, "the piece is not within its blob"));
        }
        Ok(Extent {
            file,
            offset: piece.offset,
            size: piece.size,
        })
    }

    /// Writes a piece while it comes, and notes it when it is right.
    async fn receive(
        self: &Arc<Self>,
        piece: &Piece,
        mut data: Receiver,
        patience: Duration,
    ) -> Result<()> {
        let (chunks, written) = mpsc::channel::<Bytes>(BEHIND);
        let writing = tokio::task::spawn_blocking({
            let (exchange, piece) = (self.clone(), piece.clone());
            move || exchange.write(&piece, written)
        });
        let receiving = async {
            let silent = || format!("nothing came for {} s", patience.as_secs());
            let broken = || "the other side broke off";
            loop {
                let next = timeout(patience, data.next()).await;
                let next = next.or_err(Kind::Unreachable, silent)?;
                // Whatever the sender's reason is, here it is only that.
                let Some(chunk) = next.or_err(Kind::Unreachable, broken)? else {
                    break;
                };
                // The writer says why it has stopped.
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let received: Result<()> = receiving.await;
        drop(chunks);
        let written = writing
            .await
            .or_err(Kind::Failed, || "cannot write a piece")?;
        // What broke off is also not right; that it broke off is the reason.
        received.and(written)
    }

    fn write(&self, piece: &Piece, mut chunks: mpsc::Receiver<Bytes>) -> Result<()> {
        let unknown = || {
            Error::new(
                Kind::Failed,
                format!("the blob {} is not awaited here", piece.blob.digest),
            )
        };
        let partial = self.partial.get(&piece.blob.digest).ok_or_else(unknown)?;
        let mut content = Hashing::new(std::io::sink());
        while let Some(chunk) = chunks.blocking_recv() {
            if content.length() + chunk.len() as u64 > piece.size {
                return Err(wrong(piece, "it is longer"));
            }
            partial
                .assembly
                .write_at(piece.offset + content.length(), &chunk)?;
            std::io::Write::write_all(&mut content, &chunk)
                .or_err(Kind::System, || "cannot compute a digest")?;
        }
        let (_, digest, size) = content.finish();
        if size != piece.size || digest != piece.digest {
            return Err(wrong(piece, "its content is different"));
        }
        let whole = {
            let mut pieces = lock(&partial.pieces);
            pieces.insert(piece.offset, piece.size);
            pieces.values().sum::<u64>() == piece.blob.size
        };
        if whole {
            // Now, so that it need not be done when everybody waits for it. What is
            // wrong is said by `finish`.
            let _ = partial.assembly.verify();
        }
        Ok(())
    }

    /// The connection to another agent, made when it is first needed.
    async fn peer(&self, peer: &Peer) -> Result<Client> {
        let cell = {
            let mut peers = lock(&self.peers);
            let cell = peers.entry(peer.name.clone()).or_default();
            if cell.get().is_some_and(|client| !client.is_alive()) {
                *cell = Arc::default();
            }
            cell.clone()
        };
        let connected = cell.get_or_try_init(|| async {
            let cannot = || format!("cannot reach `{}`", peer.address);
            let connect = async {
                let stream = connect(peer.address)
                    .await
                    .or_err(Kind::Unreachable, cannot)?;
                self.tls.connect(&peer.name, stream).await
            };
            let late = || {
                format!(
                    "`{}` did not answer within {} s",
                    peer.address,
                    CONNECT.as_secs()
                )
            };
            let stream = timeout(CONNECT, connect)
                .await
                .or_err(Kind::Unreachable, late)??;
            Client::greet(&Context::silent(), &peer.name, stream, async { None }).await
        });
        connected.await.cloned()
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wrong(piece: &Piece, how: &str) -> Error {
    let message = format!(
        "a piece of the blob {} is not what it should be",
        piece.blob.digest
    );
    Error::new(Kind::Integrity, message).because(how.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections of other agents until the session ends.
async fn listen(exchange: Arc<Exchange>, root: PathBuf, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MOST_PEERS));
    let end = exchange.end.clone();
    let work = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Too many open files, for instance: some will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (exchange, root) = (exchange.clone(), root.clone());
            tokio::spawn(async move {
                let _place = place;
                // A stranger is not talked to.
                let Ok(Ok(stream)) = timeout(CONNECT, exchange.tls.accept(stream)).await else {
                    return;
                };
                let end = exchange.end.clone();
                let give =
                    move |scope: Scope, request: GetPiece| give(exchange.clone(), scope, request);
                Server::new(root, Router::new().on(give))
                    .serve_peer(stream, end)
                    .await;
            });
        }
    };
    end.run_until_cancelled(work).await;
}

async fn give(exchange: Arc<Exchange>, scope: Scope, request: GetPiece) -> Result<()> {
    let extent = exchange.find(&request.piece);
    pour(std::iter::once(extent), scope.output, |_| {}).await
}

#[cfg(test)]
mod tests;
