//! Blobs of the host's store.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::blocking;
use crate::agent::calls::blobs::{BlobsMissing, GetBlob, PutBlobs};
use crate::agent::{Scope, transfer, wire};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::store::{Batch, Hold};
use crate::oci::{Blob, Store};

/// A batch is synced when it has this many blobs or bytes, so that open files
/// and what a broken connection costs stay bounded.
const BATCH_BLOBS: usize = 128;
const BATCH_BYTES: u64 = 256 << 20;

fn store_path(scope: &Scope) -> PathBuf {
    scope.root().join("store")
}

pub(super) async fn missing(scope: Scope, request: BlobsMissing) -> Result<Vec<Blob>> {
    let path = store_path(&scope);
    blocking(move || {
        // Looking must not make the store.
        let Ok(store) = Store::open(&path) else {
            return Ok(request.blobs);
        };
        Ok(request
            .blobs
            .into_iter()
            .filter(|blob| !store.contains(blob))
            .collect())
    })
    .await
}

pub(super) async fn put(scope: Scope, request: PutBlobs) -> Result<()> {
    let path = store_path(&scope);
    let reader = scope.input.into_reader();
    blocking(move || receive(Store::create(&path)?.hold()?, &request.blobs, reader)).await
}

/// Writes blobs, and keeps those that are whole when the data ends too early.
fn receive(store: Hold, blobs: &[Blob], mut data: impl Read) -> Result<()> {
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

pub(super) async fn get(scope: Scope, request: GetBlob) -> Result<()> {
    let path = store_path(&scope);
    let store = blocking(move || Store::open(&path)).await?;
    let extents = transfer::extents(&store, vec![request.blob]);
    transfer::pour(extents, scope.output, |_| {}).await
}
