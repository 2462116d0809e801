//! Blobs between a registry and the store, and what is told about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::session::Session;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::oci::http::{self, Wanted};
use crate::oci::store::{Hold, Store};
use crate::oci::{Blob, MAX_DOCUMENT};

/// How far apart progress is told, in bytes.
const STEP: u64 = 1 << 20;

/// Counts the bytes of one image.
pub(super) struct Meter {
    ctx: Context,
    item: String,
    done: AtomicU64,
    told: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    pub(super) fn new(ctx: &Context, item: &str) -> Arc<Self> {
        Arc::new(Meter {
            ctx: ctx.clone(),
            item: item.to_owned(),
            done: AtomicU64::new(0),
            told: AtomicU64::new(0),
            total: AtomicU64::new(0),
        })
    }

    /// More is to come than was known.
    pub(super) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What moved was lost.
    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
        self.told.store(0, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let told = self.told.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        if done < told + STEP && done < total {
            return;
        }
        // Of several at once, one tells.
        if self
            .told
            .compare_exchange(told, done, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            self.ctx.emit(Event::Progress {
                host: None,
                item: self.item.clone(),
                done,
                total: Some(total.max(done)),
            });
        }
    }
}

impl Session<'_> {
    /// Makes sure that the store has the blob. Documents that travel as content
    /// are looked for among the manifests when the registry has no such blob.
    pub(super) async fn fetch(
        &self,
        ctx: &Context,
        hold: &Hold,
        blob: &Blob,
        meter: &Meter,
    ) -> Result<()> {
        let turn = self.client().turn(blob)?;
        let _turn = turn.lock().await;
        if hold.contains(blob) {
            meter.moved(blob.size);
            return Ok(());
        }
        let _place = self
            .client()
            .inner
            .places
            .acquire()
            .await
            .or_err(Kind::Failed, || "cannot go on")?;
        ctx.check_cancelled()?;
        let what = format!(
            "pull `{}`: the {} {}",
            self.name, blob.media_type, blob.digest
        );
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let open = async |offset: u64| {
            self.send(ctx, Method::GET, &url, &what, &[], |request| {
                Ok(match offset {
                    0 => request,
                    offset => request.header(RANGE, format!("bytes={offset}-")),
                })
            })
            .await
        };
        let wanted = Wanted {
            what: &what,
            size: Some(blob.size),
            limit: blob.size,
        };
        let writer = hold.writer()?;
        let written =
            match http::download(ctx, wanted, writer, open, |bytes| meter.moved(bytes)).await {
                Err(error)
                    if error.kind() == Kind::NotFound
                        && blob.is_document()
                        && blob.size <= MAX_DOCUMENT =>
                {
                    let (found, content) = self.manifest(ctx, &blob.digest.to_string()).await?;
                    meter.moved(blob.size);
                    return put(hold, found, content).await;
                }
                written => written?,
            };
        let expected = blob.clone();
        tokio::task::spawn_blocking(move || written.commit_as(&expected))
            .await
            .or_err(Kind::Failed, || format!("cannot {what}"))?
            .map_err(|cause| Error::new(cause.kind(), format!("cannot {what}")).because(cause))
    }

    /// Makes sure that the registry has the blob.
    pub(super) async fn upload(
        &self,
        ctx: &Context,
        store: &Store,
        blob: &Blob,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let _place = self
            .client()
            .inner
            .places
            .acquire()
            .await
            .or_err(Kind::Failed, || "cannot go on")?;
        ctx.check_cancelled()?;
        let what = format!(
            "push `{}`: the {} {}",
            self.name, blob.media_type, blob.digest
        );
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let there = self
            .send(ctx, Method::HEAD, &url, &what, &[StatusCode::NOT_FOUND], Ok)
            .await?
            .status();
        if there.is_success() {
            meter.moved(blob.size);
            return Ok(());
        }
        self.upload_content(ctx, store, blob, &what, meter).await
    }

    /// The two requests of the specification's "POST then PUT". An upload that
    /// breaks is begun anew.
    async fn upload_content(
        &self,
        ctx: &Context,
        store: &Store,
        blob: &Blob,
        what: &str,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let mut attempts = http::Attempts::new();
        loop {
            let begun = self
                .send(
                    ctx,
                    Method::POST,
                    &self.url("blobs/uploads/")?,
                    what,
                    &[],
                    |request| Ok(request.header(CONTENT_LENGTH, 0)),
                )
                .await?;
            let url =
                upload_url(begun.url(), begun.headers().get(LOCATION), blob).ok_or_else(|| {
                    Error::new(
                        Kind::Failed,
                        format!("cannot {what}: the registry names no place for it"),
                    )
                })?;
            let sent = Arc::new(AtomicU64::new(0));
            let put = self.put_content(store, blob, &url, meter, &sent)?;
            let failure = match http::unless_cancelled(ctx, put.send()).await? {
                Ok(response) if response.status().is_success() => return Ok(()),
                // The place for the upload is gone; a new one may work.
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    http::Failure::Passing {
                        error: Error::new(
                            Kind::Failed,
                            format!("cannot {what}: the registry forgot the upload"),
                        ),
                        after: None,
                    }
                }
                Ok(response) => http::refusal(what, response).await,
                Err(cause) => http::no_answer(&url, cause),
            };
            // It will all be sent again.
            meter.take_back(sent.load(Ordering::Relaxed));
            attempts.pause(ctx, failure).await?;
        }
    }

    /// The request that carries the content; `sent` counts what was read for it.
    fn put_content(
        &self,
        store: &Store,
        blob: &Blob,
        url: &Url,
        meter: &Arc<Meter>,
        sent: &Arc<AtomicU64>,
    ) -> Result<reqwest::RequestBuilder> {
        let file = tokio::fs::File::from_std(store.open_blob(blob)?);
        let (meter, sent) = (meter.clone(), sent.clone());
        let count = move |chunk: &bytes::Bytes| {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            meter.moved(chunk.len() as u64);
        };
        let content = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        Ok(self
            .authorized(Method::PUT, url)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(reqwest::Body::wrap_stream(content.inspect_ok(count))))
    }
}

/// Where the registry wants the content, with the digest that ends the upload.
fn upload_url(
    asked: &Url,
    location: Option<&reqwest::header::HeaderValue>,
    blob: &Blob,
) -> Option<Url> {
    let mut url = asked.join(location?.to_str().ok()?).ok()?;
    if url.scheme() != asked.scheme() && url.scheme() != "https" {
        return None;
    }
    url.query_pairs_mut()
        .append_pair("digest", &blob.digest.to_string());
    Some(url)
}

/// Writes a document into the store, off the reactor.
pub(super) async fn put(hold: &Hold, blob: Blob, content: Vec<u8>) -> Result<()> {
    let hold = hold.clone();
    tokio::task::spawn_blocking(move || hold.put(&blob.media_type, &content).map(|_| ()))
        .await
        .or_err(Kind::Failed, || "cannot write to the store")?
}
