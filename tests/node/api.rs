//! API servers that do on request what real ones do in bad moments.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::host::Node;

/// The CA of a cluster.
pub struct Cluster {
    ca: CertifiedIssuer<'static, KeyPair>,
    /// What the cluster says its servers are.
    pub members: watch::Sender<Members>,
}

/// What the EndpointSlice says.
#[derive(Clone)]
pub struct Members {
    pub servers: Vec<SocketAddr>,
    /// Whether nodes may read it.
    pub readable: bool,
}

impl Cluster {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let members = Members {
            servers: Vec::new(),
            readable: true,
        };
        Cluster {
            ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            members: watch::Sender::new(members),
        }
    }

    /// Gives a host the CA, as it has one once it belongs to the cluster.
    pub fn trusted_by(&self, node: &Node) {
        std::fs::write(node.path("etc/kubernetes/pki/ca.crt"), self.ca.pem()).unwrap();
    }

    /// Makes a host a node: gives it the kubelet's credential.
    pub fn joined_by(&self, node: &Node) {
        self.trusted_by(node);
        let (certificate, key) = self.certificate("system:node:a");
        std::fs::write(
            node.path("etc/kubernetes/current.pem"),
            format!("{certificate}{key}"),
        )
        .unwrap();
        let current = node
            .path("etc/kubernetes/current.pem")
            .display()
            .to_string();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nusers:\n- name: default-auth\n  user:\n    client-certificate: {current}\n    client-key: {current}\n"
        );
        std::fs::write(node.path("etc/kubernetes/kubelet.conf"), kubeconfig).unwrap();
    }

    /// Has the cluster say that these are its servers.
    pub fn consists_of(&self, servers: &[&Api]) {
        let servers = servers.iter().map(|server| server.address).collect();
        self.members
            .send_modify(|members| members.servers = servers);
    }

    /// A client that makes a new connection for every request.
    pub fn client(&self, node: &Node) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([ca])
            .resolve("kubernetes", node.balancer())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .timeout(crate::host::PATIENCE)
            .build()
            .unwrap()
    }

    fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.ca)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn tls(&self) -> TlsAcceptor {
        let (certificate, key) = self.certificate("kubernetes");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// How a server behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// As it should.
    Serving,
    /// It answers, and says that it is not ready.
    NotReady,
    /// It accepts connections and does nothing more, on old connections neither.
    Hanging,
}

/// An API server. Its process ends when it is dropped: connections break.
pub struct Api {
    pub address: SocketAddr,
    pub mode: watch::Sender<Mode>,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    /// A server of the cluster, on a loopback address whose last part is `number`;
    /// `/name` answers that number.
    pub fn start(cluster: &Cluster, number: u8) -> Self {
        Api::start_at(
            cluster,
            SocketAddr::new(IpAddr::from([127, 0, 0, number]), 0),
        )
    }

    /// A server at an address where one was before.
    pub fn start_at(cluster: &Cluster, address: SocketAddr) -> Self {
        let listener =
            crate::host::eventually("the address is free", || TcpListener::bind(address).ok());
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mode = watch::Sender::new(Mode::Serving);
        let server = Server {
            tls: cluster.tls(),
            number: match address.ip() {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(_) => unreachable!(),
            },
            mode: mode.subscribe(),
            members: cluster.members.subscribe(),
        };
        runtime.spawn(server.serve(listener));
        Api {
            address,
            mode,
            _runtime: runtime,
        }
    }
}

#[derive(Clone)]
struct Server {
    tls: TlsAcceptor,
    number: u8,
    mode: watch::Receiver<Mode>,
    members: watch::Receiver<Members>,
}

impl Server {
    async fn serve(self, listener: TcpListener) {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                server.not_hanging().await;
                // How clients leave is their affair.
                let Ok(stream) = server.tls.accept(stream).await else {
                    return;
                };
                let known = stream.get_ref().1.peer_certificates().is_some();
                let service = service_fn(|request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request, known).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn not_hanging(&self) {
        let mut mode = self.mode.clone();
        let _ = mode.wait_for(|mode| *mode != Mode::Hanging).await;
    }

    async fn answer(&self, request: Request<Incoming>, known: bool) -> Response<Body> {
        self.not_hanging().await;
        match request.uri().path() {
            "/readyz" if *self.mode.borrow() == Mode::NotReady => text(
                500,
                "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
            ),
            "/readyz" => text(200, "ok"),
            "/name" => text(200, self.number.to_string()),
            // A watch that has nothing to tell.
            "/wait" => Response::new(BodyExt::boxed(StreamBody::new(
                futures::stream::once(async { Ok(Frame::data(Bytes::from("begun"))) })
                    .chain(futures::stream::pending()),
            ))),
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices" => {
                let query = request.uri().query().unwrap();
                assert!(
                    query.contains("fieldSelector=metadata.name%3Dkubernetes"),
                    "{query}"
                );
                assert!(query.contains("watch=true"), "{query}");
                match (known, self.members.borrow().readable) {
                    (false, _) => text(401, "who are you"),
                    (true, false) => text(403, "system:node:a cannot list endpointslices"),
                    (true, true) => self.watch(),
                }
            }
            path => panic!("nobody asks for {path}"),
        }
    }

    fn watch(&self) -> Response<Body> {
        let members = self.members.clone();
        let events = futures::stream::unfold(
            (members, "ADDED"),
            |(mut members, kind)| async move {
                if kind == "MODIFIED" {
                    members.changed().await.ok()?;
                }
                let servers = members.borrow_and_update().servers.clone();
                let endpoints: Vec<_> = servers
                    .iter()
                    .map(|server| serde_json::json!({"addresses": [server.ip()]}))
                    .collect();
                let event = serde_json::json!({"type": kind, "object": {
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": "kubernetes"}, "addressType": "IPv4", "endpoints": endpoints,
                    "ports": [{"name": "https", "port": servers.first().map_or(0, SocketAddr::port)}],
                }});
                let line = Bytes::from(format!("{event}\n"));
                Some((Ok(Frame::data(line)), (members, "MODIFIED")))
            },
        );
        Response::new(BodyExt::boxed(StreamBody::new(events)))
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn text(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed(Full::new(text.into())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    response
}

/// An address that swallows packets: its queue is full and nobody accepts, so the
/// kernel drops what else arrives, as a cable does that has been pulled out.
pub struct Void {
    pub address: SocketAddr,
    _listener: std::os::fd::OwnedFd,
    _waiting: Vec<std::net::TcpStream>,
}

impl Void {
    pub fn new(number: u8) -> Self {
        let listener = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, number], 0))).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&listener)
            .unwrap()
            .try_into()
            .unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500))
        {
            waiting.push(stream);
        }
        Void {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}
