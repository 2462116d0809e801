//! A download server that can misbehave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use bytes::Bytes;

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Page {
    /// Content, with a validator and ranges.
    Content(Vec<u8>),
    /// Only this status.
    Status(u16),
    /// Another path.
    Redirect(String),
    /// This status so many times, then the content.
    Flaky(u16, usize, Vec<u8>),
    /// The connection breaks after so many bytes of each answer.
    Breaking(usize, Vec<u8>),
    /// So many bytes, then silence.
    Hanging(usize, Vec<u8>),
    /// Content for who sends this `Authorization`.
    Private(String, Vec<u8>),
}

#[derive(Default)]
struct Shared {
    pages: Mutex<HashMap<String, Page>>,
    requests: Mutex<Vec<String>>,
}

/// A server on loopback; it ends when this is dropped.
pub struct Server {
    scheme: &'static str,
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Server {
            scheme: "http",
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    /// A server that speaks TLS, and the certificate of its authority in PEM.
    pub fn start_tls() -> (Self, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Tls {
            listener,
            acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
        };
        runtime.spawn(async move { axum::serve(listener, app).await });
        let server = Server {
            scheme: "https",
            address,
            shared,
            runtime: Some(runtime),
        };
        (server, cert.pem())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}/{path}", self.scheme, self.address)
    }

    /// Waits until something was asked for.
    pub fn wait_for_request(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.shared.requests.lock().unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "nobody asks");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn put(&self, path: &str, page: Page) -> String {
        self.shared
            .pages
            .lock()
            .unwrap()
            .insert(format!("/{path}"), page);
        self.url(path)
    }

    /// What was asked for: path, and range if there was one.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().drain(..).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Tls {
    listener: tokio::net::TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // Who does not trust the certificate goes away.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let path = uri.path().to_owned();
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    shared
        .requests
        .lock()
        .unwrap()
        .push(format!("{path} {}", text(header::RANGE)).trim().to_owned());
    let mut pages = shared.pages.lock().unwrap();
    let Some(page) = pages.get_mut(&path) else {
        return status(404);
    };
    match page {
        Page::Content(content) => ranged(content, &headers, None),
        Page::Status(code) => status(*code),
        Page::Redirect(to) => Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, to.as_str())
            .body(Body::empty())
            .unwrap(),
        Page::Flaky(code, left, _) if *left > 0 => {
            *left -= 1;
            status(*code)
        }
        Page::Flaky(_, _, content) => ranged(content, &headers, None),
        Page::Breaking(after, content) => ranged(content, &headers, Some(*after)),
        Page::Hanging(after, content) => {
            let first = Bytes::copy_from_slice(&content[..*after]);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(first)]);
            let silence = futures::stream::pending();
            Response::builder()
                .header(header::CONTENT_LENGTH, content.len())
                .body(Body::from_stream(futures::StreamExt::chain(first, silence)))
                .unwrap()
        }
        Page::Private(who, content) if text(header::AUTHORIZATION) == who => {
            Response::new(Body::from(content.clone()))
        }
        Page::Private(..) => status(401),
    }
}

fn status(code: u16) -> Response<Body> {
    Response::builder()
        .status(code)
        .body(Body::from("no"))
        .unwrap()
}

fn ranged(content: &[u8], headers: &HeaderMap, breaks_after: Option<usize>) -> Response<Body> {
    let tag = format!("\"{}\"", chasi::digest::Digest::of(content).short());
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut response = Response::builder().header(header::ETAG, &tag);
    if text(header::IF_NONE_MATCH) == Some(&tag) {
        return response.status(304).body(Body::empty()).unwrap();
    }
    let from = text(header::RANGE)
        .filter(|_| text(header::IF_RANGE).is_none_or(|validator| validator == tag))
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    let rest = match from {
        Some(from) if from >= content.len() => return status(416),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            response = response.status(206).header(header::CONTENT_RANGE, range);
            &content[from..]
        }
        None => content,
    };
    let response = response.header(header::CONTENT_LENGTH, rest.len());
    let body = match breaks_after {
        Some(after) if after < rest.len() => {
            let first = Bytes::copy_from_slice(&rest[..after]);
            let first = futures::stream::iter([Ok(first)]);
            let broken = futures::stream::once(async {
                // Gives the server time to send what it has.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken on purpose"))
            });
            Body::from_stream(futures::StreamExt::chain(first, broken))
        }
        _ => Body::from(rest.to_vec()),
    };
    response.body(body).unwrap()
}
