//! HTTP as registries and download servers need it: a client for each host with
//! the trust that host is given, retries with growing pauses, and downloads that
//! go on where they broke.
//!
//! No wait is without an end, and each ends when the context is cancelled.
//! Errors never show a URL's query, which may be a signature, nor a header.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{CONTENT_RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How often something is tried before it counts as failed.
const ATTEMPTS: u32 = 6;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, also when the server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What has to come for a broken download to count as going on, in bytes.
const HEADWAY: u64 = 256 << 10;
/// The largest file of certificates, in bytes.
const MAX_CERTIFICATES: u64 = 4 << 20;
/// How much of a server's explanation is read, in bytes.
const MAX_EXPLANATION: usize = 16 << 10;

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A file of certificates in PEM that sign for every host, besides the
    /// system's.
    pub ca: Option<PathBuf>,
    /// Docker's directory: `HOST/*.crt` in it sign for that host.
    pub certs_d: Option<PathBuf>,
    /// What is said of single hosts (`host` or `host:port`).
    pub hosts: BTreeMap<String, HostTrust>,
}

/// How a host is trusted.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostTrust {
    /// A file of certificates in PEM that sign for the host.
    pub ca: Option<PathBuf>,
    /// Accept any certificate, and plain HTTP when the host does not speak TLS.
    pub insecure: bool,
}

/// Speaks HTTP.
#[derive(Debug)]
pub struct Transport {
    trust: Trust,
    clients: Mutex<HashMap<String, reqwest::Client>>,
}

impl Transport {
    /// Speaks to nobody yet.
    pub fn new(trust: Trust) -> Self {
        Transport {
            trust,
            clients: Mutex::new(HashMap::new()),
        }
    }

    /// Whether any certificate of the host is accepted, and plain HTTP as well.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        self.trust
            .hosts
            .get(host)
            .is_some_and(|trust| trust.insecure)
    }

    /// Whether anything says which certificates the host has, so that it must
    /// speak TLS.
    pub(super) fn has_certificates(&self, host: &str) -> bool {
        let has_ca = self
            .trust
            .hosts
            .get(host)
            .is_some_and(|trust| trust.ca.is_some());
        has_ca
            || self
                .docker_certificates(host)
                .is_ok_and(|files| !files.is_empty())
    }

    /// The client for a URL's host.
    pub fn client(&self, url: &Url) -> Result<reqwest::Client> {
        let host = authority(url);
        let key = format!("{}://{host}", url.scheme());
        let cannot = || format!("cannot prepare a connection to `{host}`");
        let mut clients = self
            .clients
            .lock()
            .map_err(|_| Error::new(Kind::Failed, cannot()))?;
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("chasi/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirects());
        // As docker and curl: what is on this machine is not behind a proxy.
        if is_loopback(url.host_str().unwrap_or_default()) {
            builder = builder.no_proxy();
        }
        builder = if url.scheme() == "http" {
            // Without TLS no certificates are needed; a machine may have none.
            builder.tls_certs_only([])
        } else {
            builder
                .tls_certs_merge(self.certificates(&host)?)
                .tls_danger_accept_invalid_certs(self.is_insecure(&host))
        };
        let client = builder.build().or_err(Kind::System, cannot)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn certificates(&self, host: &str) -> Result<Vec<reqwest::Certificate>> {
        let mut files = self.docker_certificates(host)?;
        files.extend(self.trust.ca.clone());
        files.extend(
            self.trust
                .hosts
                .get(host)
                .and_then(|trust| trust.ca.clone()),
        );
        let mut certificates = Vec::new();
        for path in files {
            let read = || -> std::io::Result<Vec<u8>> {
                let mut text = Vec::new();
                std::fs::File::open(&path)?
                    .take(MAX_CERTIFICATES)
                    .read_to_end(&mut text)?;
                Ok(text)
            };
            let text = read().or_err(Kind::Input, || {
                format!("cannot read the certificates in `{}`", path.display())
            })?;
            let found = reqwest::Certificate::from_pem_bundle(&text).or_err(Kind::Input, || {
                format!("`{}` holds no certificates in PEM", path.display())
            })?;
            certificates.extend(found);
        }
        Ok(certificates)
    }

    fn docker_certificates(&self, host: &str) -> Result<Vec<PathBuf>> {
        let Some(directory) = self.trust.certs_d.as_ref().map(|all| all.join(host)) else {
            return Ok(Vec::new());
        };
        let unreadable = || format!("cannot list `{}`", directory.display());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).or_err(Kind::System, unreadable),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.or_err(Kind::System, unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Ten redirections at most, and none that leaves TLS.
fn redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let leaves_tls = attempt.url().scheme() != "https"
            && attempt
                .previous()
                .last()
                .is_some_and(|from| from.scheme() == "https");
        if leaves_tls {
            return attempt.error("the server redirects from HTTPS to plain HTTP");
        }
        if attempt.previous().len() > 10 {
            return attempt.error("the server redirects more than ten times");
        }
        attempt.follow()
    })
}

/// Host and port as they stand in the URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether a host, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Waits for something, or fails when the context is cancelled.
pub(super) async fn unless_cancelled<T>(ctx: &Context, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        result = work => Ok(result),
        () = ctx.cancel.cancelled() => Err(Error::new(Kind::Interrupted, "interrupted")),
    }
}

/// Counts attempts and pauses between them.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
}

impl Attempts {
    /// None has failed yet.
    pub fn new() -> Self {
        Attempts::default()
    }

    /// Something went well: begin to count anew.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Pauses before the next attempt, or returns the failure when there is none.
    pub async fn pause(&mut self, ctx: &Context, failure: Failure) -> Result<()> {
        let Failure::Passing { error, after } = failure else {
            return Err(failure.into_error());
        };
        self.failed += 1;
        if self.failed >= ATTEMPTS {
            return Err(error);
        }
        let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failed - 1);
        // Many clients that broke at once do not come back at once.
        let jitter = RandomState::new().hash_one(self.failed) % 256;
        let pause = pause + pause * u32::try_from(jitter).unwrap_or(0) / 1024;
        let pause = after.unwrap_or(pause).min(LONGEST_PAUSE);
        unless_cancelled(ctx, tokio::time::sleep(pause)).await
    }
}

/// Why an attempt failed.
pub enum Failure {
    /// Trying again may help.
    Passing {
        /// What to say when it does not.
        error: Error,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// Trying again does not help.
    Final(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Failure::Passing { error, .. } | Failure::Final(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

/// A request that got no answer.
pub fn no_answer(url: &Url, cause: reqwest::Error) -> Failure {
    let host = authority(url);
    // Which of these it is, the chain of causes says; the URL is left out of it.
    let is_final = cause.is_builder() || cause.is_redirect() || is_certificate(&cause);
    let cause = cause.without_url();
    let error = Error::new(Kind::Unreachable, format!("cannot reach `{host}`"));
    if is_final {
        let error = error.because(cause);
        return Failure::Final(if url.scheme() == "https" {
            error.hint(format!(
                "a private certificate authority belongs into `/etc/docker/certs.d/{host}/ca.crt` or into `registries` of chasi's configuration file"
            ))
        } else {
            error
        });
    }
    Failure::Passing {
        error: error.because(cause),
        after: None,
    }
}

/// Whether the cause is a certificate that is not trusted. Such errors are
/// wrapped in several I/O errors, which hide what they hold from `source`.
fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    let held = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    held.is_some_and(|held| is_certificate(held)) || error.source().is_some_and(is_certificate)
}

/// An answer that is not the one hoped for. `what` says what was attempted, as in
/// "cannot …".
pub(super) async fn refusal(what: &str, response: Response) -> Failure {
    let status = response.status();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let host = authority(response.url());
    let kind = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Unreachable,
        status if is_passing(status) => Kind::Unreachable,
        _ => Kind::Failed,
    };
    let mut error = Error::new(kind, format!("cannot {what}: `{host}` answers {status}"));
    let explanation = explanation(response).await;
    if !explanation.is_empty() {
        error = error.because(explanation);
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        error = error.hint(format!(
            "log in by `docker login {host}` or `skopeo login {host}`; chasi reads their files"
        ));
    }
    if is_passing(status) {
        return Failure::Passing { error, after };
    }
    Failure::Final(error)
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// What a server says in the body of a refusal: a registry's errors, or the first
/// line of a text.
async fn explanation(response: Response) -> String {
    #[derive(serde::Deserialize)]
    struct Explanation {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    // An explanation that breaks off is none.
    while let Some(Ok(chunk)) = chunks.next().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_EXPLANATION {
            return String::new();
        }
    }
    let text = match serde_json::from_slice::<Explanation>(&body) {
        Ok(explanation) => explanation
            .errors
            .iter()
            .map(|one| format!("{} {}", one.code, one.message))
            .collect::<Vec<_>>()
            .join(", "),
        Err(_) if body.starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(&body)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

/// What a download has to be.
pub(super) struct Wanted<'a> {
    /// What is attempted, for errors: "cannot …".
    pub(super) what: &'a str,
    /// Its size in bytes, when that is known.
    pub(super) size: Option<u64>,
    /// The most bytes that are taken.
    pub(super) limit: u64,
}

/// Downloads into `target`. `open` asks for the content from an offset on; when
/// the stream breaks, it is asked again from where it broke. `moved` is told of
/// each piece.
pub(super) async fn download<W: Write + Send + 'static>(
    ctx: &Context,
    wanted: Wanted<'_>,
    target: W,
    open: impl AsyncFn(u64) -> Result<Response>,
    moved: impl Fn(u64),
) -> Result<W> {
    let limit = wanted.size.unwrap_or(wanted.limit);
    let mut sink = Sink::start(target);
    let mut attempts = Attempts::new();
    let mut done = 0;
    let mut counted_from = 0;
    loop {
        let response = open(done).await?;
        let mut skip = offset_of(&response, done).map_err(|found| {
            Error::new(
                Kind::Failed,
                format!("cannot {}: asked for byte {done}, got {found}", wanted.what),
            )
        })?;
        let url = response.url().clone();
        let mut chunks = response.bytes_stream();
        let failure = loop {
            let mut chunk = match unless_cancelled(ctx, chunks.next()).await? {
                Some(Ok(chunk)) => chunk,
                Some(Err(cause)) => break no_answer(&url, cause),
                None if wanted.size.is_none_or(|size| done == size) => {
                    return sink.finish(wanted.what).await;
                }
                None => break too_short(&wanted, done),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(0));
            done += chunk.len() as u64;
            if done > limit {
                return Err(Error::new(
                    Kind::Integrity,
                    format!("cannot {}: it is larger than {limit} bytes", wanted.what),
                ));
            }
            moved(chunk.len() as u64);
            if !sink.push(chunk).await {
                return sink.finish(wanted.what).await;
            }
        };
        if done - counted_from >= HEADWAY {
            attempts.reset();
            counted_from = done;
        }
        attempts.pause(ctx, failure).await?;
    }
}

fn too_short(wanted: &Wanted, done: u64) -> Failure {
    let size = wanted.size.unwrap_or_default();
    Failure::Passing {
        error: Error::new(
            Kind::Integrity,
            format!(
                "cannot {}: it ends after {done} bytes, expected {size}",
                wanted.what
            ),
        ),
        after: None,
    }
}

/// How many bytes of the answer are already there; an error is the offset that
/// the server gave instead.
fn offset_of(response: &Response, wanted: u64) -> Result<u64, String> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(wanted);
    }
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let start = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('-'))
        .and_then(|(start, _)| start.parse::<u64>().ok());
    match start {
        Some(start) if start <= wanted => Ok(wanted - start),
        _ => Err(format!("`{range}`")),
    }
}

/// Writes on a thread of its own, because hashing and disks are slow.
struct Sink<W> {
    chunks: tokio::sync::mpsc::Sender<Bytes>,
    task: tokio::task::JoinHandle<std::io::Result<W>>,
}

impl<W: Write + Send + 'static> Sink<W> {
    fn start(mut target: W) -> Self {
        let (chunks, mut received) = tokio::sync::mpsc::channel::<Bytes>(64);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = received.blocking_recv() {
                target.write_all(&chunk)?;
            }
            Ok(target)
        });
        Sink { chunks, task }
    }

    /// `false` when writing has failed; [`Sink::finish`] tells why.
    async fn push(&mut self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    async fn finish(self, what: &str) -> Result<W> {
        drop(self.chunks);
        let written = self
            .task
            .await
            .or_err(Kind::Failed, || format!("cannot {what}"))?;
        written.or_err(Kind::System, || format!("cannot {what}: writing failed"))
    }
}
