//! Blobs on their way: from the controller's store to a host's.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::calls::blobs::{BlobsMissing, PutBlobs};
use super::{Client, Sender, wire};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::{Blob, Store};

/// How many chunks are read ahead of the connection.
const AHEAD: usize = 4;
/// How many blobs are asked about at once: well below the largest message.
const ASKED: usize = 10_000;

/// What [`send_blobs`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// How many blobs the host lacked.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Sends the host what it lacks of `blobs`, and nothing else. `item` names the
/// whole in progress events.
pub async fn send_blobs(
    context: &Context,
    client: &Client,
    store: &Store,
    blobs: &[Blob],
    item: &str,
) -> Result<Sent> {
    let mut missing = Vec::new();
    for blobs in blobs.chunks(ASKED) {
        missing.extend(
            client
                .call(BlobsMissing {
                    blobs: blobs.to_vec(),
                })
                .await?,
        );
    }
    // The host may answer anything; only what was asked about is sent.
    let asked: std::collections::HashSet<_> = blobs.iter().collect();
    missing.retain(|blob| asked.contains(blob));
    let total = missing.iter().map(|blob| blob.size).sum();
    let progress = {
        let (context, host, item) = (context.clone(), client.host().to_owned(), item.to_owned());
        move |done| {
            context.emit(Event::Progress {
                host: Some(host.clone()),
                item: item.clone(),
                done,
                total: Some(total),
            });
        }
    };
    let progress = Arc::new(progress);
    let mut done = 0;
    for blobs in missing.chunks(ASKED) {
        let progress = progress.clone();
        let request = PutBlobs {
            blobs: blobs.to_vec(),
        };
        client
            .upload(request, |sender| {
                pour(store, blobs, sender, move |count| progress(done + count))
            })
            .await?;
        done += blobs.iter().map(|blob| blob.size).sum::<u64>();
    }
    Ok(Sent {
        blobs: missing.len(),
        bytes: total,
    })
}

/// Sends the content of blobs, one after the other. `progress` is told how many
/// bytes have gone.
pub(super) async fn pour(
    store: &Store,
    blobs: &[Blob],
    mut sender: Sender,
    progress: impl Fn(u64),
) -> Result<()> {
    let (chunks, mut read) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking({
        let (store, blobs) = (store.clone(), blobs.to_vec());
        move || {
            blobs
                .iter()
                .try_for_each(|blob| read_blob(&store, blob, &chunks))
        }
    });
    let mut done = 0;
    let mut sent = Ok(());
    while let Some(chunk) = read.recv().await {
        let count = Bytes::len(&chunk) as u64;
        sent = sender.send(chunk).await;
        if sent.is_err() {
            break;
        }
        done += count;
        progress(done);
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

/// Reads a blob into `chunks`, until nobody wants it any more.
fn read_blob(store: &Store, blob: &Blob, chunks: &mpsc::Sender<Bytes>) -> Result<()> {
    let cannot = || format!("cannot read the blob {}", blob.digest);
    let mut file = store.open_blob(blob)?.take(blob.size);
    let mut left = blob.size;
    while left > 0 {
        let mut chunk = vec![0; wire::CHUNK.min(usize::try_from(left).unwrap_or(wire::CHUNK))];
        file.read_exact(&mut chunk).or_err(Kind::System, cannot)?;
        left -= chunk.len() as u64;
        if chunks.blocking_send(chunk.into()).is_err() {
            return Err(Error::new(
                Kind::Interrupted,
                "nobody wants the blob any more",
            ));
        }
    }
    Ok(())
}
