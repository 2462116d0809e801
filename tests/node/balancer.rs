//! The balancer: which API server a connection gets, and what becomes of it when
//! servers stop, hang, vanish and come back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chasi::node::balancer::{Health, ServerStatus};

use crate::api::{Api, Cluster, Mode, Void};
use crate::host::{Node, PATIENCE, eventually};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Asks through the balancer which server it is.
async fn name(client: &reqwest::Client, node: SocketAddr) -> reqwest::Result<u8> {
    let answer = client
        .get(format!("https://kubernetes:{}/name", node.port()))
        .send()
        .await?;
    Ok(answer.text().await?.parse().unwrap())
}

fn server(node: &Node, api: SocketAddr) -> Option<ServerStatus> {
    node.status()
        .servers
        .into_iter()
        .find(|server| server.address == api)
}

fn wait_for(node: &Node, api: SocketAddr, what: &str, is: impl Fn(&Health) -> bool) {
    eventually(&format!("{api} is {what}"), || {
        server(node, api)
            .filter(|server| is(&server.health))
            .map(|_| ())
    });
}

fn wait_until_ready(node: &Node, servers: &[&Api]) {
    for api in servers {
        wait_for(node, api.address, "ready", |health| {
            *health == Health::Ready
        });
    }
}

fn is_silent(health: &Health) -> bool {
    matches!(health, Health::Silent { .. })
}

/// A node of a cluster with so many servers, all of them ready.
fn cluster(count: u8) -> (Node, Cluster, Vec<Api>) {
    let (mut node, cluster) = (Node::new(), Cluster::new());
    let servers: Vec<Api> = (1..=count)
        .map(|number| Api::start(&cluster, number))
        .collect();
    cluster.trusted_by(&node);
    node.seed(
        None,
        &servers.iter().map(|api| api.address).collect::<Vec<_>>(),
    );
    node.start();
    wait_until_ready(&node, &servers.iter().collect::<Vec<_>>());
    (node, cluster, servers)
}

#[test]
fn servers_take_turns_and_the_local_one_comes_first() {
    let (node, cluster, servers) = cluster(3);
    let client = cluster.client(&node);
    runtime().block_on(async {
        let mut names = Vec::new();
        for _ in 0..6 {
            names.push(name(&client, node.balancer()).await.unwrap());
        }
        names.sort_unstable();
        assert_eq!(names, [1, 1, 2, 2, 3, 3]);
        let addresses: Vec<_> = servers.iter().map(|api| api.address).collect();
        node.seed(Some(addresses[1]), &addresses);
        eventually("the local server is known", || {
            server(&node, addresses[1]).filter(|server| server.named.local)
        });
        for _ in 0..4 {
            assert_eq!(name(&client, node.balancer()).await.unwrap(), 2);
        }
    });
}

#[test]
fn a_server_that_is_not_ready_gets_no_new_connections_and_keeps_the_old() {
    let (node, cluster, servers) = cluster(2);
    let client = cluster.client(&node);
    runtime().block_on(async {
        let mut watches = Vec::new();
        for _ in 0..2 {
            let url = format!("https://kubernetes:{}/wait", node.balancer().port());
            let mut answer = client.get(url).send().await.unwrap();
            assert_eq!(answer.chunk().await.unwrap().unwrap(), "begun");
            watches.push(answer);
        }
        servers[0].mode.send_replace(Mode::NotReady);
        wait_for(&node, servers[0].address, "not ready", |health| {
            *health
                == Health::NotReady {
                    reason: "etcd failed".to_owned(),
                }
        });
        for _ in 0..4 {
            assert_eq!(name(&client, node.balancer()).await.unwrap(), 2);
        }
        assert_eq!(server(&node, servers[0].address).unwrap().connections, 1);
        // The last one that is there is better than none.
        servers[1].mode.send_replace(Mode::NotReady);
        wait_for(&node, servers[1].address, "not ready", |health| {
            health.rank() == 2
        });
        name(&client, node.balancer()).await.unwrap();
        servers[0].mode.send_replace(Mode::Serving);
        wait_until_ready(&node, &[&servers[0]]);
        assert_eq!(name(&client, node.balancer()).await.unwrap(), 1);
    });
}

#[test]
fn no_request_fails_while_servers_and_the_service_itself_come_and_go() {
    let (mut node, cluster, mut servers) = cluster(3);
    let (client, balancer) = (cluster.client(&node), node.balancer());
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let runtime = runtime();
    let requests = {
        let (stop, done) = (stop.clone(), done.clone());
        runtime.spawn(async move {
            let mut failures = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                if let Err(error) = name(&client, balancer).await {
                    failures.push(format!("{error:?}"));
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
            failures
        })
    };
    let go_on = || {
        let before = done.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            (done.load(Ordering::SeqCst) > before + 5).then_some(())
        });
    };
    go_on();
    for _ in 0..3 {
        node.stop();
        node.start();
        go_on();
    }
    for api in &servers[..2] {
        api.mode.send_replace(Mode::NotReady);
        wait_for(&node, api.address, "not ready", |health| health.rank() == 2);
        go_on();
    }
    // Nothing is under way to a server that is not ready: ending it breaks nothing.
    let gone = servers.remove(0).address;
    wait_for(&node, gone, "silent", is_silent);
    go_on();
    let back = Api::start_at(&cluster, gone);
    wait_until_ready(&node, &[&back]);
    servers.pop();
    go_on();
    stop.store(true, Ordering::SeqCst);
    let mut failures = runtime.block_on(requests).unwrap();
    // Only the request that the last server had in hand when it ended may have
    // failed: its bytes had been forwarded.
    failures.retain(|failure| failure.contains("Connect"));
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn connections_to_a_server_that_hangs_are_closed_and_go_elsewhere() {
    let (node, cluster, servers) = cluster(2);
    let client = cluster.client(&node);
    runtime().block_on(async {
        let url = format!("https://kubernetes:{}/wait", node.balancer().port());
        let mut watches = Vec::new();
        for _ in 0..4 {
            let mut answer = client.get(&url).send().await.unwrap();
            answer.chunk().await.unwrap();
            watches.push(answer);
        }
        servers[0].mode.send_replace(Mode::Hanging);
        // Half of the watches end without having waited for the client's patience,
        // and the other half goes on.
        let mut ended = 0;
        let watches: Vec<_> = watches
            .into_iter()
            .map(|mut watch| tokio::spawn(async move { watch.chunk().await }))
            .collect();
        eventually("the connections are closed", || {
            ended = watches.iter().filter(|watch| watch.is_finished()).count();
            (ended == 2).then_some(())
        });
        assert!(is_silent(
            &server(&node, servers[0].address).unwrap().health
        ));
        assert_eq!(server(&node, servers[1].address).unwrap().connections, 2);
        for _ in 0..4 {
            assert_eq!(name(&client, node.balancer()).await.unwrap(), 2);
        }
        watches.iter().for_each(tokio::task::JoinHandle::abort);
        servers[0].mode.send_replace(Mode::Serving);
        wait_until_ready(&node, &[&servers[0]]);
    });
}

#[test]
fn connections_are_kept_when_there_is_no_better_server() {
    let (node, cluster, servers) = cluster(1);
    let client = cluster.client(&node);
    runtime().block_on(async {
        let url = format!("https://kubernetes:{}/name", node.balancer().port());
        servers[0].mode.send_replace(Mode::Hanging);
        let request = tokio::spawn(client.get(url).send());
        wait_for(&node, servers[0].address, "dead", Health::is_dead);
        servers[0].mode.send_replace(Mode::Serving);
        assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "1");
    });
}

#[test]
fn a_server_whose_packets_vanish_holds_nobody_up() {
    let (mut node, cluster) = (Node::new(), Cluster::new());
    cluster.trusted_by(&node);
    let (void, api) = (Void::new(1), Api::start(&cluster, 2));
    // It is the preferred one, and nothing is known of either.
    node.seed(Some(void.address), &[void.address, api.address]);
    node.start();
    let client = cluster.client(&node);
    runtime().block_on(async {
        for _ in 0..4 {
            assert_eq!(name(&client, node.balancer()).await.unwrap(), 2);
        }
    });
    wait_for(&node, void.address, "dead", Health::is_dead);
}

#[test]
fn a_stranger_at_a_servers_address_is_avoided() {
    let (mut node, cluster, other) = (Node::new(), Cluster::new(), Cluster::new());
    cluster.trusted_by(&node);
    let (stranger, api) = (Api::start(&other, 1), Api::start(&cluster, 2));
    node.seed(None, &[stranger.address, api.address]);
    node.start();
    wait_until_ready(&node, &[&api]);
    wait_for(&node, stranger.address, "silent", is_silent);
    let client = cluster.client(&node);
    runtime().block_on(async {
        for _ in 0..4 {
            assert_eq!(name(&client, node.balancer()).await.unwrap(), 2);
        }
    });
}

#[test]
fn servers_are_learned_from_the_cluster_and_remembered() {
    let (mut node, cluster) = (Node::new(), Cluster::new());
    // The servers of a cluster share a port.
    let first = Api::start(&cluster, 1);
    let at = |number| SocketAddr::from(([127, 0, 0, number], first.address.port()));
    let (second, third) = (
        Api::start_at(&cluster, at(2)),
        Api::start_at(&cluster, at(3)),
    );
    node.seed(None, &[first.address]);
    cluster
        .members
        .send_modify(|members| members.readable = false);
    cluster.consists_of(&[&first, &second]);
    node.start();
    wait_until_ready(&node, &[&first]);
    assert!(
        server(&node, second.address).is_none(),
        "the host is no node yet"
    );
    cluster.joined_by(&node);
    // Not allowed to read the list: the service asks again.
    cluster
        .members
        .send_modify(|members| members.readable = true);
    wait_until_ready(&node, &[&first, &second]);
    let named = server(&node, second.address).unwrap().named;
    assert!(named.learned && !named.seed && !named.local);
    // An empty list is not believed.
    cluster.consists_of(&[]);
    cluster.consists_of(&[&second, &third]);
    wait_until_ready(&node, &[&third]);
    assert!(!server(&node, first.address).unwrap().named.learned);
    drop(first);
    // What was learned survives a start without any configuration.
    std::fs::remove_file(node.path("etc/chasi/api-servers.json")).unwrap();
    node.kill();
    node.start();
    wait_until_ready(&node, &[&second, &third]);
    assert_eq!(node.status().servers.len(), 2);
    let memory = node.memory();
    assert!(memory < 4 << 20, "the service holds {memory} bytes");
    // A server that leaves is forgotten as soon as nothing is connected to it.
    cluster.consists_of(&[&third]);
    eventually("the server is forgotten", || {
        (node.status().servers.len() == 1).then_some(())
    });
}

#[test]
fn damaged_lists_keep_the_service_from_nothing() {
    let (mut node, cluster) = (Node::new(), Cluster::new());
    cluster.trusted_by(&node);
    std::fs::create_dir_all(node.path("var/lib/chasi/balancer")).unwrap();
    std::fs::write(node.path("var/lib/chasi/balancer/servers.json"), "{").unwrap();
    std::fs::write(node.path("etc/chasi/api-servers.json"), "nonsense").unwrap();
    node.start();
    assert!(node.status().servers.is_empty());
    let mut refused = TcpStream::connect(node.balancer()).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = refused.read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)), "there is nobody to answer");
    let api = Api::start(&cluster, 1);
    node.seed(None, &[api.address]);
    wait_until_ready(&node, &[&api]);
    std::fs::write(node.path("etc/chasi/api-servers.json"), "nonsense").unwrap();
    let client = cluster.client(&node);
    assert_eq!(
        runtime().block_on(name(&client, node.balancer())).unwrap(),
        1
    );
}

/// A server that reads to the end of what it is sent and answers with as many bytes.
fn mirror() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for mut stream in accepting.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut received = Vec::new();
                // The test ends with connections open.
                let _ = stream.read_to_end(&mut received);
                let _ = stream.write_all(&received);
            });
        }
    });
    (listener, address)
}

#[test]
fn one_side_may_end_before_the_other_and_every_byte_arrives() {
    let mut node = Node::new();
    let (_listener, address) = mirror();
    node.seed(None, &[address]);
    node.start();
    wait_for(&node, address, "ready", |health| *health == Health::Ready);
    let sent: Vec<u8> = (0..20_000_000u32)
        .map(|number| (number / 251) as u8)
        .collect();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut stream, sent) = (TcpStream::connect(node.balancer()).unwrap(), sent.clone());
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                assert!(received == sent);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    eventually("the connections have ended", || {
        (server(&node, address).unwrap().connections == 0).then_some(())
    });
}

#[test]
fn a_client_that_does_not_read_costs_one_buffer() {
    let mut node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Ends when the client has gone.
            std::thread::spawn(move || while stream.write_all(&[0; 65536]).is_ok() {});
        }
    });
    node.seed(None, &[address]);
    node.start();
    wait_for(&node, address, "ready", |health| *health == Health::Ready);
    let before = node.memory();
    let clients: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(node.balancer()).unwrap())
        .collect();
    eventually("all are connected", || {
        (server(&node, address).unwrap().connections >= 50).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 50 * 64 * 1024, "{grown} bytes for 50 clients");
    // And one that reads is not held up by them.
    let mut reader = TcpStream::connect(node.balancer()).unwrap();
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    reader.read_exact(&mut vec![0; 4 << 20]).unwrap();
    drop(clients);
}

#[test]
fn thousands_of_connections_are_cheap() {
    allow_many_descriptors();
    let mut node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    node.seed(None, &[address]);
    node.start();
    wait_for(&node, address, "ready", |health| *health == Health::Ready);
    let before = node.memory();
    let _clients: Vec<_> = (0..2000)
        .map(|_| TcpStream::connect(node.balancer()).unwrap())
        .collect();
    eventually("all are connected", || {
        (server(&node, address).unwrap().connections == 2000).then_some(())
    });
    let grown = node.memory().saturating_sub(before);
    assert!(
        grown < 2000 * 8 * 1024,
        "{grown} bytes for 2000 connections"
    );
    // Connections that are as idle as a watch is at night outlive the kernel's and
    // the probe's questions whether someone is there.
    std::thread::sleep(Duration::from_secs(16));
    assert_eq!(server(&node, address).unwrap().connections, 2000);
}

/// As the unit's `LimitNOFILE=` does for the service, which inherits it here.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
