//! Pushing an image whole.

use futures::{StreamExt, TryStreamExt};

use super::Client;
use super::session::{Access, Session};
use super::transfer::Meter;
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::oci::document::MAX_DOCUMENT;
use crate::oci::store::Store;
use crate::oci::{Blob, Reference};

/// What may wait for a place at once.
const WAITING: usize = 16;

impl Client {
    /// Pushes an image whole: first contents, then manifests, then indexes, and
    /// the name at the end, so the registry never has a name for something
    /// incomplete. What the registry has is not sent again.
    pub async fn push(
        &self,
        ctx: &Context,
        store: &Store,
        root: &Blob,
        reference: &Reference,
    ) -> Result<()> {
        let tag = reference.tag().ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!(
                    "`{}` has no tag, so it cannot be pushed",
                    reference.familiar()
                ),
            )
            .hint("write `:tag` behind it")
        })?;
        let reachable = store.reachable(root)?;
        if let Some(missing) = reachable.missing.first() {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "cannot push `{}`: the {} {} is missing in the store",
                    reference.familiar(),
                    missing.media_type,
                    missing.digest
                ),
            )
            .hint("`chasi fsck` lists all damage"));
        }
        let session = Session::open(self, ctx, reference, Access::Push).await?;
        let meter = Meter::new(ctx, &session.name);
        meter.expect(reachable.contents.iter().map(|blob| blob.size).sum());
        futures::stream::iter(&reachable.contents)
            .map(|blob| session.upload(ctx, store, blob, &meter))
            .buffer_unordered(WAITING)
            .try_collect::<Vec<()>>()
            .await?;
        for document in &reachable.documents {
            let is_root = document.digest == root.digest;
            session
                .send_document(ctx, store, document, is_root.then_some(tag))
                .await?;
        }
        Ok(())
    }
}

impl Session<'_> {
    async fn send_document(
        &self,
        ctx: &Context,
        store: &Store,
        document: &Blob,
        tag: Option<&str>,
    ) -> Result<()> {
        if tag.is_none() && self.has_manifest(ctx, &document.digest).await? {
            return Ok(());
        }
        let content = store.read_verified(document, MAX_DOCUMENT)?;
        let digest = document.digest.to_string();
        self.put_manifest(ctx, tag.unwrap_or(&digest), document, content)
            .await
    }
}
