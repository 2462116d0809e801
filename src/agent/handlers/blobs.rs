//! Blobs of the host's store.

use std::path::PathBuf;

use super::blocking;
use crate::agent::calls::blobs::{BlobsMissing, GetBlobs, PutBlobs, ReadTags};
use crate::agent::{Scope, transfer};
use crate::error::Result;
use crate::oci::{Blob, Store};

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
    blocking(move || transfer::receive(Store::create(&path)?.hold()?, &request.blobs, reader)).await
}

pub(super) async fn get(scope: Scope, request: GetBlobs) -> Result<()> {
    let path = store_path(&scope);
    let store = blocking(move || Store::open(&path)).await?;
    let extents = transfer::extents(&store, request.blobs);
    transfer::pour(extents, scope.output, |_| {}).await
}

pub(super) async fn tags(scope: Scope, _: ReadTags) -> Result<Vec<(String, Blob)>> {
    let path = store_path(&scope);
    let tags = blocking(move || Store::open(&path)?.tags()).await?;
    let tags = tags.into_iter();
    Ok(tags.map(|(name, blob)| (name.to_string(), blob)).collect())
}
