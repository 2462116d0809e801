use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::calls::TakeLock;
use crate::agent::{Server, router};

/// The directories of three control-plane hosts.
struct Hosts(Vec<tempfile::TempDir>);

impl Hosts {
    fn new() -> Hosts {
        Hosts((0..3).map(|_| tempfile::tempdir().unwrap()).collect())
    }

    /// An agent on a host, with the host's lock, and what stops it.
    async fn agent(&self, host: usize, run: &str) -> (Client, CancellationToken) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(theirs);
        let stop = CancellationToken::new();
        let server = Server::new(self.0[host].path(), router());
        tokio::spawn(server.serve(reader, writer, stop.clone()));
        let client = Client::greet(&Context::silent(), &format!("n{host}"), ours, async {
            None
        })
        .await
        .unwrap();
        client
            .call(TakeLock {
                run: run.into(),
                who: "me@here".into(),
                patience: 60,
            })
            .await
            .unwrap();
        (client, stop)
    }

    async fn agents(&self, hosts: &[usize], run: &str) -> (Vec<Client>, Vec<CancellationToken>) {
        let mut agents = (Vec::new(), Vec::new());
        for host in hosts {
            let (client, stop) = self.agent(*host, run).await;
            agents.0.push(client);
            agents.1.push(stop);
        }
        agents
    }

    /// Marks a host as managed, so that its agents leave the lock's files.
    fn manage(&self) {
        for host in &self.0 {
            std::fs::create_dir_all(host.path().join("generations/1")).unwrap();
        }
    }
}

async fn acquire(run: &str, members: &[Client]) -> Result<ClusterLock> {
    ClusterLock::acquire(&Context::silent(), run, "me@here", members, 3).await
}

#[tokio::test]
async fn a_released_lock_is_taken_with_a_higher_fence() {
    let hosts = Hosts::new();
    hosts.manage();
    for fence in 1..4 {
        let run = format!("run-{fence}");
        let (clients, _) = hosts.agents(&[0, 1, 2], &run).await;
        let lock = acquire(&run, &clients).await.unwrap();
        assert_eq!(lock.fence(), fence);
        lock.check().unwrap();
        lock.release().await.unwrap();
        for client in clients {
            client.bye().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_run_left_that_is_gone_is_taken_over() {
    let hosts = Hosts::new();
    hosts.manage();
    let (clients, stops) = hosts.agents(&[0, 1, 2], "one").await;
    let first = acquire("one", &clients).await.unwrap();
    stops.iter().for_each(CancellationToken::cancel);
    let error = first.watch().await;
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(first.check().is_err());
    // One host is off by now.
    let (clients, _) = hosts.agents(&[1, 2], "two").await;
    let second = acquire("two", &clients).await.unwrap();
    assert_eq!(second.fence(), 2);
}

#[tokio::test]
async fn a_minority_cannot_hold_it_and_says_who_may() {
    let hosts = Hosts::new();
    hosts.manage();
    let (clients, _) = hosts.agents(&[0], "one").await;
    let error = acquire("one", &clients).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().contains("1 of 3"), "{error}");
    drop(clients);
    let (clients, stops) = hosts.agents(&[0, 1, 2], "two").await;
    let _held = acquire("two", &clients).await.unwrap();
    stops[0].cancel();
    let (clients, _) = hosts.agents(&[0], "three").await;
    let error = acquire("three", &clients).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.message().contains("run two of me@here"), "{error}");
}

#[tokio::test]
async fn losing_a_minority_keeps_the_lock() {
    let hosts = Hosts::new();
    let (clients, stops) = hosts.agents(&[0, 1, 2], "one").await;
    let lock = acquire("one", &clients).await.unwrap();
    stops[2].cancel();
    clients[2].ended().await;
    lock.check().unwrap();
    stops[1].cancel();
    assert_eq!(lock.watch().await.kind(), Kind::Unreachable);
    lock.check().unwrap_err();
}

#[tokio::test]
async fn a_run_that_lost_the_lock_is_refused_where_the_next_has_been() {
    let hosts = Hosts::new();
    hosts.manage();
    let (clients, stops) = hosts.agents(&[0, 1], "one").await;
    let first = acquire("one", &clients).await.unwrap();
    stops.iter().for_each(CancellationToken::cancel);
    let (clients, stops) = hosts.agents(&[0, 1, 2], "two").await;
    let second = acquire("two", &clients).await.unwrap();
    second.release().await.unwrap();
    stops.iter().for_each(CancellationToken::cancel);
    let (late, _) = hosts.agent(2, "one").await;
    let error = first.enter(&[late]).await.unwrap_err();
    assert_eq!((error.kind(), error.host()), (Kind::Locked, Some("n2")));
    assert!(error.message().contains("run two"), "{error}");
}

#[tokio::test]
async fn an_unmanaged_host_keeps_no_trace_of_the_lock() {
    let hosts = Hosts::new();
    let (clients, _) = hosts.agents(&[0, 1, 2], "one").await;
    acquire("one", &clients)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    for client in clients {
        client.bye().await.unwrap();
    }
    for host in &hosts.0 {
        assert!(!host.path().exists());
    }
}

#[tokio::test]
async fn a_damaged_record_is_an_error_that_says_what_to_do() {
    let hosts = Hosts::new();
    for text in [
        "",
        "{}",
        "nonsense",
        r#"{"version":2,"run":"x","who":"y","since":"2026-01-01T00:00:00Z","fence":1,"held":true}"#,
    ] {
        std::fs::create_dir_all(hosts.0[0].path().join("cluster")).unwrap();
        std::fs::write(hosts.0[0].path().join("cluster/lock"), text).unwrap();
        let (clients, stops) = hosts.agents(&[0, 1], "one").await;
        let error = acquire("one", &clients).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.host()),
            (Kind::Integrity, Some("n0")),
            "{text}"
        );
        assert!(!error.hints().is_empty());
        stops.iter().for_each(CancellationToken::cancel);
        tokio::time::timeout(Duration::from_secs(60), clients[0].ended())
            .await
            .unwrap();
    }
}
