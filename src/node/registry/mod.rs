//! The node-local registry: read-only, on loopback, by the pull part of the OCI
//! distribution specification 1.1.
//!
//! It serves the container images of the cluster images in the host's store,
//! byte for byte, under their original names and digests, so that a host needs
//! no other registry and a miss never leaves the host. containerd is pointed at
//! it as a mirror for every registry. It keeps the parsed names in memory and
//! reads them anew when the store's index has changed; content streams from the
//! store in pieces of bounded size.
//!
//! It never writes, and never serves what no container image refers to: the
//! layers of cluster images hold a cluster's configuration.

mod catalog;
mod content;
mod range;
mod target;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::http::{self, Body};
use super::stamp::Stamp;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::host::{Part, Root, generation};
use crate::oci::{Blob, Reference, Store};

pub use catalog::{Catalog, Conflict};
use range::Wanted;
use target::{Malformed, Target};

/// Clients are the container runtime, which fetches a few layers at once, and
/// people who look.
pub(super) const LIMITS: http::Limits = http::Limits {
    connections: 128,
    head: Duration::from_secs(10),
    stall: Duration::from_secs(30),
    drain: Duration::from_secs(5),
};

/// How long a store that could not be read is left alone.
const RETRY: Duration = Duration::from_secs(1);

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The registry over one store.
pub struct Registry {
    host: Root,
    ctx: Context,
    state: Mutex<State>,
    /// Held while the store is read, so that a change is read once.
    reading: tokio::sync::Mutex<()>,
}

struct State {
    stamps: Stamps,
    retry: Option<Instant>,
    shown: Shown,
}

/// What the catalogue was made from.
#[derive(Default, Eq, PartialEq)]
struct Stamps {
    /// The store's names.
    index: Option<Stamp>,
    /// The generation in use.
    generation: Option<Stamp>,
}

/// What the registry serves at the moment. Cheap to clone.
#[derive(Clone)]
pub struct Shown {
    /// The names.
    pub catalog: Arc<Catalog>,
    /// Why the catalogue is not what the store holds, if it is not.
    pub problem: Option<String>,
}

impl Registry {
    /// A registry over the store of `host`, which need not exist yet.
    pub fn new(host: Root, ctx: Context) -> Self {
        Registry {
            host,
            ctx,
            state: Mutex::new(State {
                stamps: Stamps::default(),
                retry: None,
                shown: Shown {
                    catalog: Arc::default(),
                    problem: None,
                },
            }),
            reading: tokio::sync::Mutex::new(()),
        }
    }

    /// What is served now, after a look at whether the store has changed.
    pub async fn shown(&self) -> Shown {
        if let Some(shown) = self.current() {
            return shown;
        }
        let _turn = self.reading.lock().await;
        // Someone else may have read it while this one waited.
        if let Some(shown) = self.current() {
            return shown;
        }
        let stamps = self.stamps();
        let host = self.host.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&host))
            .await
            .or_err(Kind::Failed, || "reading the store was interrupted")
            .flatten();
        self.install(stamps, loaded)
    }

    /// What is served, unless the store has changed since it was read.
    fn current(&self) -> Option<Shown> {
        let stamps = self.stamps();
        let state = self.lock();
        let resting = state.retry.is_some_and(|retry| Instant::now() < retry);
        (state.stamps == stamps || resting).then(|| state.shown.clone())
    }

    fn install(&self, stamps: Stamps, loaded: Result<(Catalog, Vec<Error>)>) -> Shown {
        let mut state = self.lock();
        let before = state.shown.problem.take();
        match loaded {
            Ok((catalog, failures)) => {
                state.stamps = stamps;
                state.retry = None;
                let count = catalog.references().len();
                state.shown.catalog = Arc::new(catalog);
                state.shown.problem = failures.first().map(tell);
                self.ctx.note(format!("registry: serving {count} images"));
            }
            // What was served stays: it is still in the store, or a 404 tells.
            Err(error) => {
                state.retry = Some(Instant::now() + RETRY);
                state.shown.problem = Some(tell(&error));
            }
        }
        if let Some(problem) = state
            .shown
            .problem
            .as_ref()
            .filter(|now| Some(*now) != before.as_ref())
        {
            self.ctx.warn(format!("registry: {problem}"));
        }
        state.shown.clone()
    }

    fn stamps(&self) -> Stamps {
        Stamps {
            // No store yet is an empty registry, no failure.
            index: Stamp::of(&store(&self.host).join("index.json")),
            generation: Stamp::of(&self.host.state(Part::Node.name())),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is held; the state is whole in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this registry is read-only".to_owned(),
            )
            .response();
            refusal
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let uri = request.uri();
        let answer = match Target::parse(uri.path(), uri.query()) {
            Ok(target) => self.find(target, &request).await,
            Err(malformed) => Err(Refusal::malformed(malformed)),
        };
        answer.unwrap_or_else(Refusal::response)
    }

    async fn find(
        &self,
        target: Target,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let catalog = self.shown().await.catalog;
        match &target {
            Target::Version => Ok(json(StatusCode::OK, "{}".to_owned())),
            Target::Tags(repository) => {
                let tags: Vec<&str> = catalog
                    .tags(repository)
                    .ok_or_else(|| Refusal::name_unknown(repository))?
                    .collect();
                let name = repository.name();
                Ok(json(
                    StatusCode::OK,
                    serde_json::json!({"name": name, "tags": tags}).to_string(),
                ))
            }
            Target::Tagged(reference) => match catalog.tagged(reference) {
                Some(blob) => self.send(blob, &blob.media_type, request).await,
                None => Err(Refusal::manifest_unknown(
                    &catalog,
                    reference,
                    reference.to_string(),
                )),
            },
            Target::Manifest(repository, digest) => match catalog.manifest(repository, digest) {
                Some(blob) => self.send(blob, &blob.media_type, request).await,
                None => Err(Refusal::manifest_unknown(
                    &catalog,
                    repository,
                    digest.to_string(),
                )),
            },
            Target::Blob(repository, digest) => match catalog.blob(repository, digest) {
                Some(blob) => self.send(blob, "application/octet-stream", request).await,
                None if catalog.has(repository) => Err(Refusal::blob_unknown(digest)),
                None => Err(Refusal::name_unknown(repository)),
            },
        }
    }

    /// Sends a blob, or the part of it that the request wants.
    async fn send(
        &self,
        blob: &Blob,
        media_type: &str,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let etag = format!("\"{}\"", blob.digest);
        let mut response = Response::new(http::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_DIGEST, value(&blob.digest.to_string()));
        headers.insert(header::ETAG, value(&etag));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let wanted = request.headers();
        if text(wanted, header::IF_NONE_MATCH)
            .is_some_and(|known| known == "*" || known.contains(&etag))
        {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let part = match text(wanted, header::IF_RANGE) {
            Some(condition) if condition != etag => Wanted::Whole,
            _ => Wanted::of(text(wanted, header::RANGE), blob.size),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, value(media_type));
        let (status, bytes) = match part {
            Wanted::Whole => (StatusCode::OK, 0..blob.size),
            Wanted::Bytes(bytes) => {
                let place = format!("bytes {}-{}/{}", bytes.start, bytes.end - 1, blob.size);
                headers.insert(header::CONTENT_RANGE, value(&place));
                (StatusCode::PARTIAL_CONTENT, bytes)
            }
            Wanted::Unsatisfiable => return Err(Refusal::range(blob.size)),
        };
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(bytes.end - bytes.start),
        );
        let body = self.open(blob, bytes).await?;
        // A client that only asks for the head learns as well that the blob is missing.
        if request.method() == Method::GET {
            *response.body_mut() = body;
        }
        *response.status_mut() = status;
        Ok(response)
    }

    async fn open(&self, blob: &Blob, bytes: std::ops::Range<u64>) -> Result<Body, Refusal> {
        let (root, wanted) = (store(&self.host), blob.clone());
        let opened = tokio::task::spawn_blocking(move || Store::open(&root)?.open_blob(&wanted))
            .await
            .or_err(Kind::Failed, || "opening a blob was interrupted")
            .flatten();
        match opened {
            Ok(file) => Ok(content::stream(file, bytes)),
            Err(error) if error.kind() == Kind::NotFound => {
                Err(Refusal::blob_unknown(&blob.digest))
            }
            Err(error) => {
                self.ctx.warn(format!("registry: {}", tell(&error)));
                let text =
                    "the blob cannot be read; the journal of `chasi-node` tells more".to_owned();
                Err(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "UNKNOWN",
                    text,
                ))
            }
        }
    }
}

fn store(host: &Root) -> PathBuf {
    host.state("store")
}

/// Reads the names. Where cluster images do not agree, the one that the host runs
/// is right.
fn load(host: &Root) -> Result<(Catalog, Vec<Error>)> {
    let running = || -> Result<Option<Digest>> {
        let number = generation::current(host, Part::Node)?;
        let manifest = number
            .map(|number| generation::load(host, number))
            .transpose()?;
        Ok(manifest.map(|manifest| manifest.recipe.image))
    };
    let (running, problem) = match running() {
        Ok(running) => (running, None),
        Err(problem) => (None, Some(problem)),
    };
    let (catalog, mut failures) = Catalog::load(&Store::open(&store(host))?, running)?;
    failures.extend(problem);
    Ok((catalog, failures))
}

/// An error as one line.
fn tell(error: &Error) -> String {
    let mut line = error.message().to_owned();
    for cause in error.causes() {
        line.push_str(&format!(": {cause}"));
    }
    line
}

/// An answer that is no content, in the form that the specification gives errors.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    size: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Refusal {
            status,
            code,
            message,
            size: None,
        }
    }

    fn malformed(malformed: Malformed) -> Self {
        let (status, code) = match malformed {
            Malformed::Path => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            Malformed::Name => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Malformed::Tag => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Malformed::Digest => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        };
        Refusal::new(status, code, malformed.to_string())
    }

    fn name_unknown(repository: &Reference) -> Self {
        let text = format!("no image of `{}` is on this host", repository.name());
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text)
    }

    fn manifest_unknown(catalog: &Catalog, repository: &Reference, what: String) -> Self {
        if !catalog.has(repository) {
            return Refusal::name_unknown(repository);
        }
        let text = format!("`{what}` is not on this host");
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", text)
    }

    fn blob_unknown(digest: &Digest) -> Self {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            format!("{digest} is not on this host"),
        )
    }

    fn range(size: u64) -> Self {
        let text = format!("the blob has {size} bytes");
        Refusal {
            size: Some(size),
            ..Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", text)
        }
    }

    fn response(self) -> Response<Body> {
        let error = serde_json::json!({"errors": [{"code": self.code, "message": self.message}]});
        let mut response = json(self.status, error.to_string());
        if let Some(size) = self.size {
            let place = value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, place);
        }
        response
    }
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    let mut response = http::json(status, text);
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A header's value. Text that cannot be one is a media type of a hostile image.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}
