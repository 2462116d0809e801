use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::calls::TakeLock;
use crate::agent::{Server, router};

/// Counts what the controller sends.
struct Counting(DuplexStream, Arc<AtomicU64>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.1.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A controller's store, and hosts with agents.
struct Site {
    _controller: tempfile::TempDir,
    store: Store,
    blobs: Vec<Blob>,
    roots: Vec<tempfile::TempDir>,
    hosts: Vec<Destination>,
    stops: Vec<CancellationToken>,
    sent: Arc<AtomicU64>,
}

/// The sizes of the blobs of a [`Site`].
const SIZES: [usize; 5] = [9_000_000, 3_000_001, 400_000, 1_000, 0];

impl Site {
    async fn new(hosts: usize) -> Site {
        let controller = tempfile::tempdir().unwrap();
        let store = Store::create(controller.path()).unwrap();
        let hold = store.hold().unwrap();
        let blobs = SIZES
            .map(|size| {
                let content: Vec<u8> = (0..size).map(|n| (n ^ (n >> 8) ^ size) as u8).collect();
                hold.put("application/octet-stream", &content).unwrap()
            })
            .to_vec();
        let mut site = Site {
            _controller: controller,
            store,
            blobs,
            roots: Vec::new(),
            hosts: Vec::new(),
            stops: Vec::new(),
            sent: Arc::default(),
        };
        for number in 0..hosts {
            site.add(number).await;
        }
        site
    }

    async fn add(&mut self, number: usize) {
        let root = tempfile::tempdir().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 18);
        let (reader, writer) = tokio::io::split(theirs);
        let stop = CancellationToken::new();
        let server = Server::new(root.path(), router());
        tokio::spawn(server.serve(reader, writer, stop.clone()));
        let stream = Counting(ours, self.sent.clone());
        let client = Client::greet(&Context::silent(), &format!("n{number}"), stream, async {
            None
        })
        .await
        .unwrap();
        client
            .call(TakeLock {
                run: "one".into(),
                who: "me@here".into(),
                patience: 0,
            })
            .await
            .unwrap();
        self.roots.push(root);
        self.stops.push(stop);
        self.hosts.push(Destination {
            client,
            address: Some(Ipv4Addr::LOCALHOST.into()),
        });
    }

    async fn distribute(&self) -> Vec<Result<Sent>> {
        distribute(
            &Context::silent(),
            &self.store,
            &self.blobs,
            &self.hosts,
            "image",
        )
        .await
    }

    /// Whether a host's store has all blobs with their content.
    fn is_whole(&self, host: usize) -> bool {
        let store = Store::open(&self.roots[host].path().join("store")).unwrap();
        self.blobs
            .iter()
            .all(|blob| store.read_verified(blob, blob.size).is_ok())
    }

    /// How many times the whole was sent by the controller.
    fn times_sent(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / SIZES.iter().sum::<usize>() as f64
    }
}

#[tokio::test]
async fn every_host_gets_everything_and_the_controller_sends_it_about_once() {
    let site = Site::new(6).await;
    for outcome in site.distribute().await {
        assert_eq!(
            outcome.unwrap(),
            Sent {
                blobs: 5,
                bytes: 12_401_001
            }
        );
    }
    assert!((0..6).all(|host| site.is_whole(host)));
    assert!(site.times_sent() < 1.3, "{}", site.times_sent());
    let before = site.sent.load(Ordering::Relaxed);
    for outcome in site.distribute().await {
        assert_eq!(outcome.unwrap(), Sent::default());
    }
    assert!(site.sent.load(Ordering::Relaxed) - before < 50_000);
}

#[tokio::test]
async fn a_host_without_an_address_and_a_single_one_get_it_from_the_controller() {
    let mut site = Site::new(3).await;
    site.hosts[1].address = None;
    assert!(site.distribute().await.iter().all(Result::is_ok));
    assert!((0..3).all(|host| site.is_whole(host)));
    let site = Site::new(1).await;
    assert!(site.distribute().await.iter().all(Result::is_ok));
    assert!(site.is_whole(0));
}

#[tokio::test]
async fn a_host_that_cannot_listen_is_no_obstacle() {
    let mut site = Site::new(4).await;
    // Nobody has this address (RFC 5737).
    site.hosts[0].address = Some(Ipv4Addr::new(192, 0, 2, 1).into());
    assert!(site.distribute().await.iter().all(Result::is_ok));
    assert!((0..4).all(|host| site.is_whole(host)));
}

#[tokio::test]
async fn a_host_that_stops_is_an_error_of_its_own() {
    let site = Site::new(5).await;
    let (outcomes, ()) = tokio::join!(site.distribute(), async {
        while site.sent.load(Ordering::Relaxed) < 2_000_000 {
            tokio::task::yield_now().await;
        }
        site.stops[2].cancel();
    });
    for (host, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(_) => assert!(site.is_whole(host)),
            Err(error) => assert_eq!(
                (host, error.host(), error.kind()),
                (2, Some("n2"), Kind::Unreachable),
                "{error:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_damaged_blob_of_the_controller_reaches_no_store() {
    let site = Site::new(3).await;
    let path = site.store.path_of(&site.blobs[0].digest);
    let mut content = std::fs::read(&path).unwrap();
    content[5_000_000] ^= 1;
    std::fs::write(&path, content).unwrap();
    for (host, outcome) in site.distribute().await.into_iter().enumerate() {
        assert_eq!(outcome.unwrap_err().kind(), Kind::Integrity);
        let store = Store::open(&site.roots[host].path().join("store")).unwrap();
        assert!(!store.contains(&site.blobs[0]));
    }
}

#[tokio::test]
async fn a_blob_that_the_controller_lacks_is_an_error_for_each_host() {
    let site = Site::new(3).await;
    std::fs::remove_file(site.store.path_of(&site.blobs[0].digest)).unwrap();
    for outcome in site.distribute().await {
        assert_eq!(outcome.unwrap_err().kind(), Kind::NotFound);
    }
}
