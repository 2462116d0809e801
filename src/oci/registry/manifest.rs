//! Indexes and manifests on a registry.

use futures::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};

use super::session::Session;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::document::{self, MAX_DOCUMENT};
use crate::oci::{Blob, media};

/// What is asked for, in this order, as docker does.
const ACCEPTED: [&str; 4] = [
    media::INDEX,
    media::DOCKER_LIST,
    media::MANIFEST,
    media::DOCKER_MANIFEST,
];

/// Reads a body of at most `limit` bytes.
pub(super) async fn read_bounded(response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(reqwest::Error::without_url)
            .or_err(Kind::Unreachable, || "the answer breaks off")?;
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Error::new(
                Kind::Integrity,
                format!("the answer is larger than {limit} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Session<'_> {
    /// Fetches a document by tag or digest: what it is, and its bytes.
    pub(super) async fn manifest(&self, ctx: &Context, which: &str) -> Result<(Blob, Vec<u8>)> {
        let what = format!("pull `{}`", self.name);
        let wrong =
            |kind: Kind, problem: String| Error::new(kind, format!("cannot {what}: {problem}"));
        let url = self.url(&format!("manifests/{which}"))?;
        let accept = ACCEPTED.join(", ");
        let response = self
            .send(ctx, Method::GET, &url, &what, &[], |request| {
                Ok(request.header(ACCEPT, &accept))
            })
            .await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(
                value
                    .split(';')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            )
        };
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let claimed = header("docker-content-digest");
        let content = read_bounded(response, MAX_DOCUMENT)
            .await
            .map_err(|cause| wrong(cause.kind(), cause.message().to_owned()).because(cause))?;
        let own = document::media_type_of(&content).unwrap_or_default();
        if content_type.starts_with(media::DOCKER_SCHEMA_1)
            || own.starts_with(media::DOCKER_SCHEMA_1)
        {
            return Err(wrong(Kind::Input, "it is a Docker schema 1 image, whose content has no reliable digest".into())
                .hint("push the image again by a program of today, for instance `skopeo copy --format v2s2`"));
        }
        if own.is_empty() {
            return Err(wrong(
                Kind::Integrity,
                "the answer is not an index or a manifest".into(),
            ));
        }
        let is_known = media::is_index(&content_type) || media::is_manifest(&content_type);
        if is_known && content_type != own {
            return Err(wrong(
                Kind::Integrity,
                format!(
                    "the registry says that it is a `{content_type}`, and it says of itself that it is a `{own}`"
                ),
            ));
        }
        let blob = Blob::of(&own, &content);
        let expected = which.parse::<Digest>().ok();
        let claimed = claimed.and_then(|digest| digest.parse::<Digest>().ok());
        if let Some(expected) = expected
            .or(claimed)
            .filter(|expected| *expected != blob.digest)
        {
            return Err(wrong(
                Kind::Integrity,
                format!(
                    "its content has the digest {}, expected {expected}",
                    blob.digest
                ),
            ));
        }
        Ok((blob, content))
    }

    /// Whether the registry has the document.
    pub(super) async fn has_manifest(&self, ctx: &Context, digest: &Digest) -> Result<bool> {
        let url = self.url(&format!("manifests/{digest}"))?;
        let what = format!("look for `{}`", self.name);
        let accept = ACCEPTED.join(", ");
        let response = self
            .send(
                ctx,
                Method::HEAD,
                &url,
                &what,
                &[StatusCode::NOT_FOUND],
                |request| Ok(request.header(ACCEPT, &accept)),
            )
            .await?;
        Ok(response.status().is_success())
    }

    /// Uploads a document under a tag or its digest.
    pub(super) async fn put_manifest(
        &self,
        ctx: &Context,
        which: &str,
        blob: &Blob,
        content: Vec<u8>,
    ) -> Result<()> {
        let url = self.url(&format!("manifests/{which}"))?;
        let what = format!("push `{}`", self.name);
        let content = bytes::Bytes::from(content);
        self.send(ctx, Method::PUT, &url, &what, &[], |request| {
            Ok(request
                .header(CONTENT_TYPE, &blob.media_type)
                .body(content.clone()))
        })
        .await?;
        Ok(())
    }
}
