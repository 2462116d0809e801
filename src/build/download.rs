//! Downloads: by HTTP, resumed, retried, cached, and always compared with their
//! checksum.
//!
//! A download is whole or it is not there: it is written to `partial/` in the
//! cache, hashed from its first to its last byte, and renamed to its digest. What
//! was interrupted goes on where it stopped when the server proves by a
//! validator (`ETag`, `Last-Modified`; RFC 9110, 13.1.5) that the content is the
//! same, or when a checksum will prove it. A URL without a checksum is asked each
//! time, and sent again only when it changed.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::cache::Cache;
use super::netrc::Netrc;
use super::{Tools, checksums};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{self, Event};
use crate::oci::http::{self, Attempts, Failure, Transport};
use crate::oci::mirror::Mirrors;

/// The largest checksum file, in bytes.
const CHECKSUMS: usize = 1 << 20;

/// The largest download, in bytes.
const LIMIT: u64 = 64 << 30;

/// Chunks that may wait for the disk.
const QUEUE: usize = 64;

/// How often it is looked whether another build has ended its download.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is needed to download.
#[derive(Clone)]
pub struct Downloads {
    transport: Arc<Transport>,
    netrc: Netrc,
    mirrors: Mirrors,
    cache: Cache,
}

/// A download that is in the cache.
#[derive(Clone, Debug)]
pub struct Download {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// What a URL gave the last time, or what part of it is there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    etag: Option<String>,
    last_modified: Option<String>,
    digest: Option<Digest>,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Seen {
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
            digest: None,
        }
    }

    /// What proves that two answers have the same bytes; a weak tag does not.
    fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }
}

impl Downloads {
    /// Downloads with a build's tools.
    pub fn new(tools: &Tools) -> Self {
        Downloads {
            transport: tools.transport.clone(),
            netrc: tools.netrc.clone(),
            mirrors: tools.registry.mirrors().clone(),
            cache: tools.cache.clone(),
        }
    }

    /// Downloads a URL, or finds it in the cache. `checksum` is what it must be.
    pub async fn fetch(
        &self,
        events: &event::Context,
        url: &str,
        checksum: Option<Digest>,
    ) -> Result<Download> {
        if let Some(digest) = checksum
            && let Some(download) = self.cached(digest)
        {
            return Ok(download);
        }
        let _lock = self.lock(events, url).await?;
        // Another build may have brought it meanwhile.
        if let Some(digest) = checksum
            && let Some(download) = self.cached(digest)
        {
            return Ok(download);
        }
        let work = async {
            let digest = self
                .retry(events, async || self.attempt(events, url, checksum).await)
                .await?;
            self.cached(digest)
                .ok_or_else(|| Error::new(Kind::System, format!("`{url}` vanished from the cache")))
        };
        events.step(None, format!("download {url}"), work).await
    }

    /// The digest that a checksum file has for a download.
    pub async fn checksum(&self, events: &event::Context, file: &str, url: &str) -> Result<Digest> {
        let text = self.retry(events, async || self.text(file).await).await?;
        checksums::find(&text, name_of(url)).map_err(|problem| {
            Error::new(
                Kind::Integrity,
                format!("the checksum file `{file}` {problem}"),
            )
            .hint("it must have the SHA-256 alone, or lines with SHA-256 and name")
        })
    }

    fn cached(&self, digest: Digest) -> Option<Download> {
        let path = self.cache.download(&digest);
        let size = path.metadata().ok()?.len();
        self.cache
            .has(&path, size)
            .then_some(Download { digest, size, path })
    }

    /// Waits until no other build downloads the URL.
    async fn lock(&self, events: &event::Context, url: &str) -> Result<File> {
        let path = self.cache.partial(url).with_extension("lock");
        let cannot = || format!("cannot lock `{}`", path.display());
        let lock = File::create(&path).or_err(Kind::System, cannot)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(cause)) => {
                    return Err(Error::new(Kind::System, cannot()).because(cause));
                }
            }
            events.check_cancelled()?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn retry<T>(
        &self,
        events: &event::Context,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut attempts = Attempts::new();
        loop {
            let outcome = tokio::select! {
                outcome = attempt() => outcome,
                () = events.cancel.cancelled() => return Err(Error::new(Kind::Interrupted, "interrupted")),
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(failure) => attempts.pause(events, failure).await?,
            }
        }
    }

    /// Downloads once, from where an earlier attempt stopped.
    async fn attempt(
        &self,
        events: &event::Context,
        url: &str,
        checksum: Option<Digest>,
    ) -> Result<Digest, Failure> {
        let name = Digest::of(url);
        let path = self.cache.partial(url);
        let known: Seen = self.cache.read_record("urls", &name).unwrap_or_default();
        let kept = known
            .digest
            .filter(|digest| checksum.is_none() && self.cached(*digest).is_some());
        let begun: Seen = self.cache.read_record("partial", &name).unwrap_or_default();
        let done = match path.metadata() {
            // The first byte that is missing cannot be asked for when none is.
            Ok(metadata) if begun.validator().is_some() || checksum.is_some() => metadata.len(),
            _ => 0,
        };
        let (target, mut request) = self.get(url)?;
        if kept.is_some() {
            if let Some(tag) = &known.etag {
                request = request.header(header::IF_NONE_MATCH, tag);
            }
            if let Some(time) = &known.last_modified {
                request = request.header(header::IF_MODIFIED_SINCE, time);
            }
        } else if done > 0 {
            request = request.header(header::RANGE, format!("bytes={done}-"));
            if let Some(validator) = begun.validator() {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let response = request
            .send()
            .await
            .map_err(|cause| self.no_answer(url, &target, cause))?;
        if let (StatusCode::NOT_MODIFIED, Some(digest)) = (response.status(), kept) {
            return Ok(digest);
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            remove(&path);
            return Err(again(url, "what was there of it is too long"));
        }
        let response = self.check_status(url, response)?;
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), done) => done,
            StatusCode::PARTIAL_CONTENT => {
                remove(&path);
                return Err(again(
                    url,
                    "the server sent another part of it than it was asked for",
                ));
            }
            _ => 0,
        };
        let seen = Seen::of(response.headers());
        self.cache.write_record("partial", &name, &seen)?;
        let digest = self.receive(events, url, response, &path, from).await?;
        self.keep(url, &path, digest, checksum, seen)
    }

    /// Writes the body to a file and tells the digest of the whole file.
    async fn receive(
        &self,
        events: &event::Context,
        url: &str,
        mut response: Response,
        path: &Path,
        from: u64,
    ) -> Result<Digest, Failure> {
        let target = response.url().clone();
        let total = response.content_length().map(|rest| from + rest);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (cache, file) = (self.cache.clone(), path.to_owned());
        let writer = tokio::task::spawn_blocking(move || write(&cache, &file, from, receiver));
        let mut done = from;
        let mut broken = None;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    if done > LIMIT {
                        broken = Some(Failure::Final(Error::new(
                            Kind::Integrity,
                            format!("`{url}` is larger than {LIMIT} bytes"),
                        )));
                        break;
                    }
                    // A writer that has ended tells why below.
                    if sender.send(chunk).await.is_err() {
                        break;
                    }
                    events.emit(Event::Progress {
                        host: None,
                        item: url.to_owned(),
                        done,
                        total,
                    });
                }
                Ok(None) => break,
                Err(cause) => {
                    broken = Some(self.no_answer(url, &target, cause));
                    break;
                }
            }
        }
        drop(sender);
        let digest = writer
            .await
            .or_err(Kind::Failed, || format!("cannot download `{url}`"))??;
        match broken {
            Some(failure) => Err(failure),
            None => Ok(digest),
        }
    }

    /// Compares a whole download and gives it its name.
    fn keep(
        &self,
        url: &str,
        path: &Path,
        digest: Digest,
        checksum: Option<Digest>,
        seen: Seen,
    ) -> Result<Digest, Failure> {
        if let Some(expected) = checksum
            && expected != digest
        {
            remove(path);
            return Err(Failure::Final(
                Error::new(
                    Kind::Integrity,
                    format!("`{url}` has the checksum {digest}, expected {expected}"),
                )
                .hint("if the new content is what you want, write its checksum into the Kubefile"),
            ));
        }
        std::fs::rename(path, self.cache.download(&digest))
            .map_err(|cause| self.cache.cannot_write(cause))?;
        let seen = Seen {
            digest: Some(digest),
            ..seen
        };
        self.cache.write_record("urls", &Digest::of(url), &seen)?;
        Ok(digest)
    }

    async fn text(&self, url: &str) -> Result<String, Failure> {
        let (target, request) = self.get(url)?;
        let no_answer = |cause| self.no_answer(url, &target, cause);
        let mut response = self.check_status(url, request.send().await.map_err(no_answer)?)?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
            text.extend_from_slice(&chunk);
            if text.len() > CHECKSUMS {
                let message = format!("the checksum file `{url}` is larger than {CHECKSUMS} bytes");
                return Err(Failure::Final(Error::new(Kind::Integrity, message)));
            }
        }
        Ok(String::from_utf8(text).or_err(Kind::Integrity, || {
            format!("the checksum file `{url}` is not text")
        })?)
    }

    /// A request for a URL, and where it really goes.
    fn get(&self, url: &str) -> Result<(Url, RequestBuilder)> {
        let target = self.mirrors.url(url);
        let target: Url = target
            .parse()
            .or_err(Kind::Input, || format!("`{target}` is not a URL"))?;
        let mut request = self.transport.client(&target)?.get(target.clone());
        let host = target.host_str().unwrap_or_default();
        if let Some((user, password)) = self.netrc.credentials(host) {
            request = request.basic_auth(user, Some(password));
        }
        Ok((target, request))
    }

    /// The response, if its status says that it has content.
    fn check_status(&self, url: &str, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let host = response.url().host_str().unwrap_or_default();
        let error = |kind| {
            self.error(kind, url)
                .because(format!("`{host}` answers {status}"))
        };
        let passing = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        Err(match status {
            _ if passing => Failure::Passing {
                error: error(Kind::Unreachable),
                after: None,
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Final(
                error(Kind::NotFound).hint("check the URL, and the values of the variables in it"),
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Final(error(Kind::Unreachable).hint(format!(
                    "write credentials into `~/.netrc`: `machine {host} login USER password SECRET`"
                )))
            }
            _ => Failure::Final(error(Kind::Failed)),
        })
    }

    fn no_answer(&self, url: &str, target: &Url, cause: reqwest::Error) -> Failure {
        let wrap = |inner: Error| {
            let hints = inner.hints().to_vec();
            let error = self.error(inner.kind(), url).because(inner);
            hints.into_iter().fold(error, Error::hint)
        };
        match http::no_answer(target, cause) {
            Failure::Final(error) => Failure::Final(wrap(error)),
            Failure::Passing { error, after } => Failure::Passing {
                error: wrap(error).hint("without internet, build with a mirror: `--mirror https://HOST=http://MIRROR/PATH`"),
                after,
            },
        }
    }

    /// An error about a download that says also where it was looked for.
    fn error(&self, kind: Kind, url: &str) -> Error {
        let target = self.mirrors.url(url);
        Error::new(
            kind,
            match target == url {
                true => format!("cannot download `{url}`"),
                false => format!("cannot download `{url}` from its mirror `{target}`"),
            },
        )
    }
}

/// Something that is right when it is done from the beginning.
fn again(url: &str, problem: &str) -> Failure {
    Failure::Passing {
        error: Error::new(Kind::Unreachable, format!("cannot download `{url}`")).because(problem),
        after: Some(Duration::ZERO),
    }
}

/// Writes chunks behind the first `from` bytes of a file, and makes it durable.
fn write(
    cache: &Cache,
    path: &Path,
    from: u64,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Digest> {
    let mut attempt = || -> std::io::Result<Digest> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(from)?;
        file.seek(SeekFrom::Start(0))?;
        let mut reader = Hashing::new(file);
        // What an earlier attempt wrote counts as well.
        std::io::copy(&mut reader, &mut std::io::sink())?;
        let mut writer = reader;
        while let Some(chunk) = chunks.blocking_recv() {
            writer.write_all(&chunk)?;
        }
        let (file, digest, _) = writer.finish();
        file.sync_all()?;
        Ok(digest)
    };
    attempt().map_err(|cause| cache.cannot_write(cause))
}

/// Whether a part begins at a byte.
fn starts_at(headers: &HeaderMap, byte: u64) -> bool {
    headers.get(header::CONTENT_RANGE).and_then(|range| {
        range
            .to_str()
            .ok()?
            .strip_prefix("bytes ")?
            .split_once('-')?
            .0
            .parse()
            .ok()
    }) == Some(byte)
}

/// Removes what cannot be gone on with. That it is gone already is as good.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// The last part of a URL's path: the name of what it gives.
pub fn name_of(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    rest.split_once('/')
        .map_or("", |(_, path)| path.rsplit('/').next().unwrap_or(""))
}
