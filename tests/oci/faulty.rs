//! A registry that breaks, lies and asks for tokens.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use bytes::Bytes;
use chasi::digest::Digest;
use chasi::error::{Error, Kind};
use chasi::event::Context;
use chasi::oci::auth::Credentials;
use chasi::oci::registry::{Client, Settings};
use chasi::oci::store::Hold;
use chasi::oci::{Blob, Platform, Store, media};

use futures::StreamExt;

use crate::support::{User, container_image, noise, reference};

type Answer = Box<dyn Fn(&str, &HeaderMap, u32) -> Option<Response> + Send + Sync>;

/// Serves the documents and blobs of a store under any repository, except what
/// `answer` answers itself.
struct Faulty {
    address: SocketAddr,
    served: Arc<Served>,
    task: tokio::task::JoinHandle<()>,
}

struct Served {
    store: Store,
    tags: Mutex<HashMap<String, Blob>>,
    answer: Answer,
    /// How often each path was asked for.
    asked: Mutex<HashMap<String, u32>>,
    requests: AtomicU32,
}

impl Faulty {
    async fn start(
        store: Store,
        answer: impl Fn(&str, &HeaderMap, u32) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let served = Arc::new(Served {
            store,
            tags: Mutex::default(),
            answer: Box::new(answer),
            asked: Mutex::default(),
            requests: AtomicU32::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(served.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Faulty {
            address,
            served,
            task,
        }
    }

    fn tag(&self, tag: &str, blob: &Blob) -> chasi::oci::Reference {
        self.served
            .tags
            .lock()
            .unwrap()
            .insert(tag.into(), blob.clone());
        reference(&format!("{}/some/image:{tag}", self.address))
    }

    fn asked(&self, part: &str) -> u32 {
        let asked = self.served.asked.lock().unwrap();
        asked
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, count)| count)
            .sum()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn response(status: StatusCode, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

async fn serve(State(served): State<Arc<Served>>, request: Request) -> Response {
    served.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path_and_query().unwrap().to_string();
    let last = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let count = {
        let mut asked = served.asked.lock().unwrap();
        let count = asked.entry(path.clone()).or_default();
        *count += 1;
        *count
    };
    if let Some(answer) = (served.answer)(&path, request.headers(), count) {
        return answer;
    }
    let tagged = served.tags.lock().unwrap().get(&last).cloned();
    let digest = tagged
        .as_ref()
        .map(|blob| blob.digest)
        .or_else(|| last.parse().ok());
    let Some(content) = digest.and_then(|digest| std::fs::read(served.store.path_of(&digest)).ok())
    else {
        return response(StatusCode::NOT_FOUND, "");
    };
    let mut answer = Response::builder();
    if path.contains("/manifests/") {
        let value: serde_json::Value = serde_json::from_slice(&content).unwrap_or_default();
        let media_type = value["mediaType"]
            .as_str()
            .unwrap_or("application/octet-stream")
            .to_owned();
        answer = answer.header(header::CONTENT_TYPE, media_type);
    }
    let range = request
        .headers()
        .get(header::RANGE)
        .map(|range| range.to_str().unwrap().to_owned());
    match range {
        Some(range) => {
            let start: usize = range
                .strip_prefix("bytes=")
                .unwrap()
                .trim_end_matches('-')
                .parse()
                .unwrap();
            let total = content.len();
            answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header(
                    header::CONTENT_RANGE,
                    format!("bytes {start}-{}/{total}", total - 1),
                )
                .body(content[start..].to_vec().into())
                .unwrap()
        }
        None => answer.body(content.into()).unwrap(),
    }
}

/// The first part of the content, and then the connection breaks.
fn broken(content: &[u8], length: usize) -> Response {
    let first = Bytes::from(content[..length].to_vec());
    let parts = futures::stream::once(async { Ok(first) }).chain(futures::stream::once(async {
        // The server sends what it has whenever the next part is not there yet.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Err(std::io::Error::other("broken"))
    }));
    Response::builder()
        .header(header::CONTENT_LENGTH, content.len())
        .body(Body::from_stream(parts))
        .unwrap()
}

fn busy() -> Response {
    let mut answer = response(StatusCode::SERVICE_UNAVAILABLE, "");
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, "0".parse().unwrap());
    answer
}

struct Case {
    _from: User,
    hold: Hold,
    root: Blob,
    layer: Blob,
}

/// An image with one layer of 200 kB.
fn case() -> Case {
    let from = User::new();
    let hold = from.store().hold().unwrap();
    let (root, blobs) = container_image(&hold, false, &["amd64"], 7);
    Case {
        layer: blobs[1].clone(),
        hold,
        root,
        _from: from,
    }
}

async fn pull(registry: &Faulty, root: &Blob) -> (Result<Blob, Error>, User) {
    let to = User::new();
    let hold = to.store().hold().unwrap();
    let name = registry.tag("1", root);
    let amd64 = [Platform::linux("amd64").unwrap()];
    let client = Client::new(Settings::default());
    let pulled = client
        .pull_container_image(&Context::silent(), &hold, &name, &amd64)
        .await;
    (pulled.map(|image| image.root), to)
}

fn explain(error: &Error) -> String {
    let causes = error.causes().map(ToString::to_string);
    std::iter::once(error.to_string())
        .chain(causes)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn what_breaks_goes_on_where_it_broke() {
    let case = case();
    let content = case.hold.read_verified(&case.layer, 1 << 20).unwrap();
    let blob = format!("/blobs/{}", case.layer.digest);
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = ranges.clone();
    let registry = Faulty::start((*case.hold).clone(), move |path, headers, count| {
        if !path.ends_with(&blob) {
            return None;
        }
        let range = headers
            .get(header::RANGE)
            .map(|range| range.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(range);
        match count {
            1 => Some(broken(&content, 50_000)),
            // Ignores the range, so what is there must be skipped.
            2 => Some(broken(&content, 120_000)),
            3 => Some(busy()),
            _ => None,
        }
    })
    .await;
    let (pulled, to) = pull(&registry, &case.root).await;
    assert_eq!(pulled.unwrap(), case.root);
    assert!(to.store().read_verified(&case.layer, 1 << 20).is_ok());
    let ranges = ranges.lock().unwrap().clone();
    let starts: Vec<_> = ranges
        .iter()
        .map(|range| {
            range.as_deref().map_or(0, |range| {
                range
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse()
                    .unwrap()
            })
        })
        .collect();
    assert_eq!(starts[0], 0);
    assert!(0 < starts[1] && starts[1] <= 50_000, "{starts:?}");
    assert!(
        starts[1] < starts[2] && starts[2] <= 120_000 && starts[2] == starts[3],
        "{starts:?}"
    );
    assert_eq!(starts.len(), 4);
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_but_not_for_ever() {
    let case = case();
    let registry = Faulty::start((*case.hold).clone(), |path, _, count| {
        (path.contains("/manifests/1") && count < 4).then(busy)
    })
    .await;
    pull(&registry, &case.root).await.0.unwrap();
    let registry = Faulty::start((*case.hold).clone(), |_, _, _| Some(busy())).await;
    let error = pull(&registry, &case.root).await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().contains("answers 503"), "{error}");
    assert_eq!(registry.served.requests.load(Ordering::Relaxed), 6);
}

/// What a faulty registry answers.
type Lie = Box<dyn Fn() -> Response + Send + Sync>;

#[tokio::test]
async fn lies_are_refused_and_leave_nothing() {
    let case = case();
    let content = case.hold.read_verified(&case.layer, 1 << 20).unwrap();
    let root = case.hold.read_verified(&case.root, 1 << 20).unwrap();
    let typed = |media_type: &str, body: Vec<u8>| {
        Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .body(body.into())
            .unwrap()
    };
    let wrong = {
        let mut wrong = content.clone();
        wrong[5] ^= 1;
        wrong
    };
    let schema1 = serde_json::json!({"schemaVersion": 1, "name": "x", "fsLayers": []}).to_string();
    let table: Vec<(&str, Kind, &str, Lie)> = vec![
        (
            "has the digest",
            Kind::Integrity,
            "/blobs/",
            Box::new(move || response(StatusCode::OK, wrong.clone())),
        ),
        (
            "is larger than",
            Kind::Integrity,
            "/blobs/",
            Box::new({
                let content = content.clone();
                move || response(StatusCode::OK, [&content[..], b"x"].concat())
            }),
        ),
        (
            "asked for byte 0",
            Kind::Failed,
            "/blobs/",
            Box::new({
                move || {
                    let mut answer = response(StatusCode::PARTIAL_CONTENT, content.clone());
                    answer
                        .headers_mut()
                        .insert(header::CONTENT_RANGE, "bytes 7-9/10".parse().unwrap());
                    answer
                }
            }),
        ),
        (
            "answers 404",
            Kind::NotFound,
            "/blobs/",
            Box::new(|| response(StatusCode::NOT_FOUND, "<html>")),
        ),
        (
            "Docker schema 1",
            Kind::Input,
            "/manifests/1",
            Box::new({
                let schema1 = schema1.clone();
                move || {
                    typed(
                        "application/vnd.docker.distribution.manifest.v1+prettyjws",
                        schema1.clone().into(),
                    )
                }
            }),
        ),
        (
            "Docker schema 1",
            Kind::Input,
            "/manifests/1",
            Box::new(move || typed("application/json", schema1.clone().into())),
        ),
        (
            "is larger than 4194304",
            Kind::Integrity,
            "/manifests/1",
            Box::new(move || typed(media::INDEX, noise(1, 5 << 20))),
        ),
        (
            "not an index or a manifest",
            Kind::Integrity,
            "/manifests/1",
            Box::new(move || typed(media::INDEX, b"<html>".to_vec())),
        ),
        (
            "says of itself",
            Kind::Integrity,
            "/manifests/1",
            Box::new({
                let root = root.clone();
                move || typed(media::MANIFEST, root.clone())
            }),
        ),
        (
            "has the digest",
            Kind::Integrity,
            "/manifests/1",
            Box::new({
                move || {
                    let mut answer = typed(media::DOCKER_LIST, root.clone());
                    let lie = Digest::of("lie").to_string();
                    answer
                        .headers_mut()
                        .insert("docker-content-digest", lie.parse().unwrap());
                    answer
                }
            }),
        ),
        (
            "has the digest",
            Kind::Integrity,
            "/manifests/sha256:",
            Box::new(move || {
                typed(media::DOCKER_MANIFEST, br#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}"#.to_vec())
            }),
        ),
        (
            "answers 403",
            Kind::Unreachable,
            "/manifests/1",
            Box::new(|| response(StatusCode::FORBIDDEN, "go away")),
        ),
    ];
    for (expected, kind, part, lie) in table {
        let layer = case.layer.digest.to_string();
        let registry = Faulty::start((*case.hold).clone(), move |path, _, _| {
            let is_meant = path.contains(part) && (part != "/blobs/" || path.ends_with(&layer));
            is_meant.then(&lie)
        })
        .await;
        let (pulled, to) = pull(&registry, &case.root).await;
        let error = pulled.map(|_| panic!("{expected}")).unwrap_err();
        let text = explain(&error);
        assert!(
            error.kind() == kind && text.contains(expected),
            "{:?} {text}, expected {expected}",
            error.kind()
        );
        assert!(!to.store().contains(&case.layer));
        to.run(&["prune"]);
        assert_eq!(
            std::fs::read_dir(to.path("store/blobs/sha256"))
                .unwrap()
                .count(),
            0,
            "{expected}"
        );
    }
}

#[tokio::test]
async fn tokens_are_fetched_where_the_registry_says() {
    let case = case();
    let expected = Arc::new(Mutex::new(String::from("first")));
    let current = expected.clone();
    let registry = Faulty::start((*case.hold).clone(), move |path, headers, _| {
        if path.starts_with("/token") {
            // base64 of `me:secret`
            let is_me = headers.get(header::AUTHORIZATION).is_some_and(|value| value == "Basic bWU6c2VjcmV0");
            assert!(is_me && path.contains("service=test") && path.contains("scope=repository%3Asome%2Fimage%3Apull"), "{path}");
            let token = current.lock().unwrap().clone();
            return Some(response(StatusCode::OK, serde_json::json!({"access_token": token}).to_string()));
        }
        let authorized = headers
            .get(header::AUTHORIZATION)
            .is_some_and(|value| value.to_str().unwrap() == format!("Bearer {}", current.lock().unwrap()));
        if path.contains("/blobs/") && authorized {
            // The token runs out while blobs are fetched.
            *current.lock().unwrap() = "second".into();
            return None;
        }
        if authorized {
            return None;
        }
        let host = headers.get(header::HOST).unwrap().to_str().unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:some/image:pull""#);
        let mut answer = response(StatusCode::UNAUTHORIZED, "");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
        Some(answer)
    })
    .await;
    let to = User::new();
    let auth = to.path("auth.json");
    let secret = base64::engine::general_purpose::STANDARD.encode("me:secret");
    std::fs::write(
        &auth,
        format!(
            r#"{{"auths":{{"{}":{{"auth":"{secret}"}}}}}}"#,
            registry.address
        ),
    )
    .unwrap();
    let client = Client::new(Settings {
        credentials: Credentials::new([auth]),
        parallel: 1,
        ..Settings::default()
    });
    let hold = to.store().hold().unwrap();
    let name = registry.tag("1", &case.root);
    let amd64 = [Platform::linux("amd64").unwrap()];
    let pulled = client
        .pull_container_image(&Context::silent(), &hold, &name, &amd64)
        .await
        .unwrap();
    assert_eq!(pulled.root, case.root);
    assert_eq!(registry.asked("/token"), 2);
    assert!(!format!("{client:?}").contains("secret"), "{client:?}");
}

#[tokio::test]
async fn redirects_are_followed_without_the_token() {
    let case = case();
    let elsewhere = Faulty::start((*case.hold).clone(), |_, headers, _| {
        assert!(headers.get(header::AUTHORIZATION).is_none());
        None
    })
    .await;
    let other = elsewhere.address;
    let registry = Faulty::start((*case.hold).clone(), move |path, headers, _| {
        if path.starts_with("/token") {
            return Some(response(StatusCode::OK, r#"{"token":"t"}"#));
        }
        if headers.get(header::AUTHORIZATION).is_none() {
            let host = headers.get(header::HOST).unwrap().to_str().unwrap();
            let mut answer = response(StatusCode::UNAUTHORIZED, "");
            let challenge = format!(r#"Bearer realm="http://{host}/token""#);
            answer
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
            return Some(answer);
        }
        path.contains("/blobs/").then(|| {
            let mut answer = response(StatusCode::TEMPORARY_REDIRECT, "");
            // Another name for the same machine is another host.
            let to = format!("http://localhost:{}{path}?signature=secret", other.port());
            answer
                .headers_mut()
                .insert(header::LOCATION, to.parse().unwrap());
            answer
        })
    })
    .await;
    pull(&registry, &case.root).await.0.unwrap();
    assert_eq!(elsewhere.asked("/blobs/"), 2);
}

#[tokio::test]
async fn one_blob_is_fetched_once_for_many_images() {
    let case = case();
    let registry = Faulty::start((*case.hold).clone(), |_, _, _| None).await;
    let name = registry.tag("1", &case.root);
    let to = User::new();
    let hold = to.store().hold().unwrap();
    let client = Client::new(Settings::default());
    let ctx = Context::silent();
    let amd64 = [Platform::linux("amd64").unwrap()];
    let pulls = (0..8).map(|_| client.pull_container_image(&ctx, &hold, &name, &amd64));
    futures::future::try_join_all(pulls).await.unwrap();
    assert_eq!(registry.asked("/blobs/"), 2);
}

#[tokio::test]
async fn a_cancelled_pull_stops_at_once() {
    let case = case();
    let ctx = Context::silent();
    let cancel = ctx.cancel.clone();
    let registry = Faulty::start((*case.hold).clone(), move |path, _, _| {
        path.contains("/blobs/").then(|| {
            cancel.cancel();
            // Never ends.
            response(
                StatusCode::OK,
                Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()),
            )
        })
    })
    .await;
    let name = registry.tag("1", &case.root);
    let to = User::new();
    let hold = to.store().hold().unwrap();
    let client = Client::new(Settings::default());
    let amd64 = [Platform::linux("amd64").unwrap()];
    let error = client
        .pull_container_image(&ctx, &hold, &name, &amd64)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}
