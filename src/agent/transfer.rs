//! Blobs on their way: from the controller's store to a host's, and back.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::calls::blobs::{BlobsMissing, GetBlobs, PutBlobs};
use super::{Client, Receiver, Sender, wire};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::store::{Batch, Hold};
use crate::oci::{Blob, Store};

/// How many chunks are read ahead of the connection.
const AHEAD: usize = 4;
/// A batch is synced when it has this many blobs or bytes, so that open files
/// and what a broken connection costs stay bounded.
const BATCH_BLOBS: usize = 128;
const BATCH_BYTES: u64 = 256 << 20;
/// How many blobs are asked about at once: well below the largest message.
const ASKED: usize = 10_000;

/// What was sent to a host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// How many blobs the host lacked.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Sent {
    pub(super) fn of(blobs: &[Blob]) -> Sent {
        Sent {
            blobs: blobs.len(),
            bytes: blobs.iter().map(|blob| blob.size).sum(),
        }
    }
}

/// Sends the host what it lacks of `blobs`, and nothing else. `item` names the
/// whole in progress events. For several hosts see
/// [`distribute`](super::distribute).
pub async fn send_blobs(
    context: &Context,
    client: &Client,
    store: &Store,
    blobs: &[Blob],
    item: &str,
) -> Result<Sent> {
    let missing = missing(client, blobs).await?;
    let sent = Sent::of(&missing);
    put(
        client,
        store,
        &missing,
        &Progress::new(context, client.host(), item, sent.bytes),
    )
    .await?;
    Ok(sent)
}

/// What the host lacks of `blobs`.
pub(super) async fn missing(client: &Client, blobs: &[Blob]) -> Result<Vec<Blob>> {
    let mut missing = Vec::new();
    for blobs in blobs.chunks(ASKED) {
        let request = BlobsMissing {
            blobs: blobs.to_vec(),
        };
        missing.extend(client.call(request).await?);
    }
    // The host may answer anything; only what was asked about counts, once.
    let mut asked: HashSet<_> = blobs.iter().collect();
    missing.retain(|blob| asked.remove(blob));
    Ok(missing)
}

/// Sends blobs.
pub(super) async fn put(
    client: &Client,
    store: &Store,
    blobs: &[Blob],
    progress: &Progress,
) -> Result<()> {
    for blobs in blobs.chunks(ASKED) {
        let request = PutBlobs {
            blobs: blobs.to_vec(),
        };
        let send = |sender| {
            pour(extents(store, blobs.to_vec()), sender, |count| {
                progress.add(count)
            })
        };
        client.upload(request, send).await?;
    }
    Ok(())
}

/// Fetches blobs from the host's store. Each is in this one when it is what its digest
/// says; what has arrived whole when it fails is kept.
pub async fn fetch_blobs(
    context: &Context,
    client: &Client,
    store: &Store,
    blobs: &[Blob],
    item: &str,
) -> Result<()> {
    let total = Sent::of(blobs).bytes;
    let progress = Arc::new(Progress::new(context, client.host(), item, total));
    for blobs in blobs.chunks(ASKED) {
        let call = GetBlobs {
            blobs: blobs.to_vec(),
        };
        let (store, blobs, progress) = (store.clone(), blobs.to_vec(), Arc::clone(&progress));
        let take = |data: Receiver| async move {
            let data = Told {
                data: data.into_reader(),
                progress,
            };
            let taking = move || receive(store.hold()?, &blobs, data);
            let taken = tokio::task::spawn_blocking(taking).await;
            taken.or_err(Kind::Failed, || "the store could not be written")?
        };
        let fetching = context
            .cancel
            .run_until_cancelled(client.download(call, take));
        match fetching.await {
            Some(fetched) => fetched.map(|((), ())| ())?,
            None => context.check_cancelled()?,
        }
    }
    Ok(())
}

/// Data whose progress is told.
struct Told<R> {
    data: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.data.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}

/// Writes blobs, and keeps those that are whole when the data ends too early.
pub(super) fn receive(store: Hold, blobs: &[Blob], mut data: impl Read) -> Result<()> {
    let mut batch = store.batch();
    let (mut count, mut bytes) = (0, 0);
    for blob in blobs {
        if let Err(error) = receive_one(&store, &mut batch, blob, &mut data) {
            batch.finish()?;
            return Err(error);
        }
        count += 1;
        bytes += blob.size;
        if count == BATCH_BLOBS || bytes >= BATCH_BYTES {
            std::mem::replace(&mut batch, store.batch()).finish()?;
            (count, bytes) = (0, 0);
        }
    }
    batch.finish()?;
    match data.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(Error::new(
            Kind::Integrity,
            "more data came than the blobs have",
        )),
    }
}

fn receive_one(store: &Hold, batch: &mut Batch, blob: &Blob, data: &mut impl Read) -> Result<()> {
    let failed = || format!("cannot receive the blob {}", blob.digest);
    let mut writer = store.writer()?;
    let mut buffer = vec![0; wire::CHUNK];
    let mut left = blob.size;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = data
            .read(&mut buffer[..most])
            .or_err(Kind::Unreachable, failed)?;
        if count == 0 {
            return Err(Error::new(Kind::Integrity, failed()).because("the data ends too early"));
        }
        writer
            .write_all(&buffer[..count])
            .or_err(Kind::System, failed)?;
        left -= count as u64;
    }
    writer.commit_in(batch, blob)
}

/// How far a transfer to one host is.
pub(super) struct Progress {
    context: Context,
    host: String,
    item: String,
    done: AtomicU64,
    total: u64,
}

impl Progress {
    pub fn new(context: &Context, host: &str, item: &str, total: u64) -> Progress {
        Progress {
            context: context.clone(),
            host: host.to_owned(),
            item: item.to_owned(),
            done: AtomicU64::new(0),
            total,
        }
    }

    /// So many more bytes have gone.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.context.emit(Event::Progress {
            host: Some(self.host.clone()),
            item: self.item.clone(),
            // What was sent twice counts once.
            done: done.min(self.total),
            total: Some(self.total),
        });
    }
}

/// A part of a file.
pub(super) struct Extent {
    pub file: File,
    pub offset: u64,
    pub size: u64,
}

/// The whole content of blobs, each opened when its turn comes.
pub(super) fn extents(
    store: &Store,
    blobs: Vec<Blob>,
) -> impl Iterator<Item = Result<Extent>> + Send + 'static {
    let store = store.clone();
    blobs.into_iter().map(move |blob| {
        let file = store.open_blob(&blob)?;
        Ok(Extent {
            file,
            offset: 0,
            size: blob.size,
        })
    })
}

/// Sends parts of files, one after the other. `progress` is told of every chunk
/// that has gone.
pub(super) async fn pour(
    extents: impl Iterator<Item = Result<Extent>> + Send + 'static,
    mut sender: Sender,
    progress: impl Fn(u64),
) -> Result<()> {
    let (chunks, mut read) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let mut extents = extents;
        extents.try_for_each(|extent| read_extent(&extent?, &chunks))
    });
    let mut sent = Ok(());
    while let Some(chunk) = read.recv().await {
        let count = Bytes::len(&chunk) as u64;
        sent = sender.send(chunk).await;
        if sent.is_err() {
            break;
        }
        progress(count);
    }
    drop(read);
    let read = reading
        .await
        .or_err(Kind::Failed, || "the store could not be read")?;
    match (sent, read) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) => {
            // The other side gives up for this reason; ours is reported.
            let _ = sender.abort(&error).await;
            Err(error)
        }
        (Ok(()), Ok(())) => sender.finish().await,
    }
}

/// Reads a part of a file into `chunks`, until nobody wants it any more.
fn read_extent(extent: &Extent, chunks: &mpsc::Sender<Bytes>) -> Result<()> {
    let (mut offset, end) = (extent.offset, extent.offset.saturating_add(extent.size));
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let mut chunk = vec![0; wire::CHUNK.min(most)];
        extent
            .file
            .read_exact_at(&mut chunk, offset)
            .or_err(Kind::System, || "cannot read a blob of the store")?;
        offset += chunk.len() as u64;
        if chunks.blocking_send(chunk.into()).is_err() {
            return Err(Error::new(
                Kind::Interrupted,
                "nobody wants the blob any more",
            ));
        }
    }
    Ok(())
}
