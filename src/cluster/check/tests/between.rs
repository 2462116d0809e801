//! Ways between hosts: what is told of them, and what many of them cost.

use std::net::{IpAddr, Ipv4Addr};

use tokio_util::sync::CancellationToken;

use super::super::measure::{self, Member};
use super::super::site::{Way, Ways};
use super::*;
use crate::agent::Client;
use crate::agent::Server;
use crate::distro::Role;
use crate::host::facts::{Address, Facts, Known};
use crate::host::probe::{Filter, Hook, Match, Opened, Path, Protocol, Reached, Rule};

/// What is said of the way from `m1` to `w1`.
fn told(change: impl Fn(&mut World)) -> Outcome {
    let mut world = World::bare();
    change(&mut world);
    let check = all().find(|check| check.id == "network.reach").unwrap();
    let found = judge_one(&world.site(), check);
    let place = Place::between("m1", "w1");
    found.into_iter().find(|(at, _)| *at == place).unwrap().1
}

fn parts(outcome: Outcome) -> (String, String) {
    let Outcome::Wrong { seen, hint, .. } = outcome else {
        panic!("{outcome:?}");
    };
    (seen, hint)
}

fn rule(hook: Hook, place: &str, text: &str, matches: Match) -> Known<Filter> {
    Known::Is(Filter {
        told_by: vec!["nft".into()],
        rules: vec![Rule {
            hook,
            place: place.into(),
            text: text.into(),
            matches,
        }],
        cluster_chains: 0,
    })
}

fn kubelet() -> Match {
    Match::Ports {
        protocol: Some(Protocol::Tcp),
        ports: vec![10_000..=11_000],
    }
}

#[test]
fn the_rule_that_is_in_the_way_is_named_with_what_removes_it() {
    let silent = |world: &mut World| world.way().ports[0].reached = Known::Is(Reached::Silent);
    let cases: [(&str, &str, Known<Filter>, &str, &str); 5] = [
        (
            "w1",
            "`w1` drops or rejects it",
            rule(
                Hook::Input,
                "inet filter input",
                "tcp dport 10250 drop # handle 6",
                kubelet(),
            ),
            "on w1",
            "`nft delete rule inet filter input handle 6`",
        ),
        (
            "w1",
            "`w1` drops or rejects it",
            rule(
                Hook::Input,
                "ip filter INPUT",
                "-A INPUT -p tcp --dport 10250 -j DROP",
                kubelet(),
            ),
            "on w1",
            "`iptables -D INPUT -p tcp --dport 10250 -j DROP`",
        ),
        (
            "w1",
            "`w1` may drop it: `policy drop`",
            rule(
                Hook::Input,
                "inet filter input",
                "policy drop",
                Match::Policy,
            ),
            "on w1",
            "`nft insert rule inet filter input tcp dport 10250 accept`",
        ),
        (
            "m1",
            "`m1` drops or rejects it",
            rule(
                Hook::Output,
                "inet f out",
                "tcp dport 10250 drop # handle 9",
                kubelet(),
            ),
            "on m1",
            "handle 9",
        ),
        (
            "w1",
            "cannot be read",
            Known::Unknown("x".into()),
            "on m1",
            "`nc -vz 10.0.0.2 10250`",
        ),
    ];
    for (host, seen, filter, on, hint) in cases {
        let outcome = told(|world| {
            silent(world);
            world.measured(host).filter = filter.clone();
        });
        let (said, advice) = parts(outcome);
        assert!(said.contains("tcp 10250 (kubelet): no answer"), "{said}");
        assert!(said.contains(seen), "{said}");
        assert!(advice.contains(hint) && advice.contains(on), "{advice}");
    }
    // A rule for what leaves is not in the way of what comes.
    let outcome = told(|world| {
        silent(world);
        world.measured("w1").filter = rule(
            Hook::Output,
            "inet f out",
            "tcp dport 10250 drop # handle 9",
            kubelet(),
        );
    });
    assert!(parts(outcome).0.contains("look between them"));
}

#[test]
fn a_cut_way_is_told_as_one_thing() {
    let (seen, hint) = parts(told(|world| {
        let way = world.way();
        for port in &mut way.ports {
            port.reached = Known::Is(Reached::Silent);
        }
        way.paths[0].found = Known::Is(Path::Silent);
    }));
    assert!(seen.contains("nothing arrives at 10.0.0.2"), "{seen}");
    assert!(hint.contains("`ping 10.0.0.2` on m1"), "{hint}");
}

#[test]
fn a_datagram_to_a_port_in_use_is_not_known_unless_the_pod_network_tells() {
    let taken = |way: &mut Way, overlay: Option<Known<Path>>| {
        way.ports[0].opened = Opened::Taken;
        way.ports[0].reached = Known::Is(Reached::Accepted);
        way.ports[1].opened = Opened::Taken;
        way.ports[1].reached = Known::Is(Reached::Silent);
        way.overlay = overlay;
    };
    for (overlay, state) in [
        (None, "not-applicable"),
        (Some(Known::Unknown("x".into())), "unknown"),
        (Some(Known::Is(Path::Silent)), "wrong"),
        (Some(Known::Is(Path::Carries(1450))), "passed"),
    ] {
        let outcome = told(|world| taken(world.way(), overlay.clone()));
        assert_eq!(outcome.state(), state, "{overlay:?}: {outcome:?}");
    }
}

/// Agents in this process, each on an address of loopback of its own, with real
/// sockets between them.
struct Simulated {
    names: Vec<String>,
    clients: Vec<Client>,
    addresses: Vec<IpAddr>,
    facts: Facts,
    stop: CancellationToken,
    _roots: Vec<tempfile::TempDir>,
}

impl Simulated {
    async fn new(network: u8, count: u8) -> Simulated {
        let (mut clients, mut roots) = (Vec::new(), Vec::new());
        let (context, stop) = (Context::silent(), CancellationToken::new());
        let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
        for name in &names {
            let root = tempfile::tempdir().unwrap();
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (reader, writer) = tokio::io::split(theirs);
            let server = Server::new(root.path().join("chasi"), crate::agent::router());
            tokio::spawn(server.serve(reader, writer, stop.clone()));
            let client = Client::greet(&context, name, ours, async { None });
            clients.push(client.await.unwrap());
            roots.push(root);
        }
        let addresses: Vec<IpAddr> = (0..count)
            .map(|number| IpAddr::from([127, 77, network, number + 1]))
            .collect();
        // All share one interface's MTU, so that the paths are measured too.
        let mut facts = World::bare().facts("m1").clone();
        let own = addresses.iter().map(|ip| Address { ip: *ip, prefix: 8 });
        facts.interfaces[0].addresses.extend(own);
        Simulated {
            names,
            clients,
            addresses,
            facts,
            stop,
            _roots: roots,
        }
    }

    async fn ways(&self, control_planes: usize) -> Ways {
        let members: Vec<Member> = (0..self.names.len())
            .map(|host| Member {
                name: &self.names[host],
                client: &self.clients[host],
                role: match host < control_planes {
                    true => Role::ControlPlane,
                    false => Role::Worker,
                },
                addresses: vec![self.addresses[host]],
                facts: &self.facts,
            })
            .collect();
        measure::ways(&members, true).await
    }
}

fn echoed(way: &Way) -> bool {
    let is = |reached: &Known<Reached>| matches!(reached, Known::Is(Reached::Echoed));
    way.ports.iter().all(|port| is(&port.reached))
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_reach_each_other_and_a_foreign_listener_is_noticed() {
    let site = Simulated::new(1, 3).await;
    let taken = std::net::TcpListener::bind((site.addresses[2], 10_250)).unwrap();
    let found = site.ways(1).await;
    assert_eq!((found.measured.len(), found.all), (6, 6));
    for way in &found.measured {
        assert!(!way.ports.is_empty(), "{} to {}", way.from, way.to);
        let to_taken = way.from == "n0" && way.to == "n2";
        assert_eq!(echoed(way), !to_taken, "{way:?}");
        if to_taken {
            let kubelet = &way.ports[0];
            assert_eq!(kubelet.opened, Opened::Taken);
            assert_eq!(kubelet.reached, Known::Is(Reached::Accepted));
        }
    }
    drop(taken);
    // What was opened is closed again, so that another run can begin.
    let again = site.ways(1).await;
    assert!(again.measured.iter().all(echoed), "{again:?}");
    site.stop.cancel();
}

/// A Clusterfile of so many hosts, with the names that simulated ones have.
fn clusterfile(control_planes: u8, hosts: u8) -> String {
    let mut text = "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {name: large}\nspec:\n  \
                    image: chasi/demo:1.34.4\n  hosts:\n"
        .to_owned();
    for number in 0..hosts {
        let role = match number < control_planes {
            true => "control-plane",
            false => "worker",
        };
        let address = Ipv4Addr::new(10, 0, 0, number + 1);
        text += &format!(
            "  - {{name: n{number}, address: {address}, nodeIPs: [{address}], roles: [{role}]}}\n"
        );
    }
    text + "  network: {podCIDRs: [10.244.0.0/16], serviceCIDRs: [10.96.0.0/16]}\n"
}

/// The cost of a large cluster, which `scripts/bench check` takes from what this says.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "a test that tells how long it took")]
async fn a_hundred_hosts_are_measured_by_the_sampling_rule() {
    let site = Simulated::new(2, 100).await;
    let begin = Instant::now();
    let found = site.ways(3).await;
    let ways = begin.elapsed().as_secs_f64();
    site.stop.cancel();
    assert_eq!((found.measured.len(), found.all), (588 + 97 * 7, 9900));
    assert!(found.measured.iter().all(echoed));
    let ports: usize = found.measured.iter().map(|way| way.ports.len()).sum();

    let mut world = World::of(&clusterfile(3, 100));
    world.ways = Known::Is(found);
    let selection = Selection::default();
    let begin = Instant::now();
    let findings = judge(&world.site(), &selection.of(Phase::Pre), &selection);
    let judging = begin.elapsed().as_secs_f64();
    println!(
        "100 simulated hosts: 1267 of 9900 ways, {ports} ports, {} findings; \
         ways {ways:.2} s, judging {judging:.3} s",
        findings.len()
    );
    let looked = |check| {
        let is = |one: &&Finding| one.check == check && one.outcome.state() != "not-applicable";
        findings.iter().filter(is).count()
    };
    assert_eq!(
        (looked("network.reach"), looked("network.mtu")),
        (1267, 1267)
    );
    // Where no raw socket may be opened, and on a busy machine, its packets get lost.
    let wrong: Vec<_> = findings
        .iter()
        .filter(|one| one.outcome.is_trouble() && one.check != "network.mtu")
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
