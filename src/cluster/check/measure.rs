//! Measuring what lies between hosts: all of them listen, all of them reach, at the
//! same time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;

use super::sample;
use super::site::{PathMeasured, PortReached, Way, Ways};
use crate::agent::Client;
use crate::agent::calls::probe::{
    CloseProbes, MeasurePaths, OpenProbes, PathTarget, ReachPorts, Target,
};
use crate::distro::Role;
use crate::distro::ports::{self, Protocol, VXLAN_PORT};
use crate::error::Result;
use crate::host::facts::{Facts, Known};
use crate::host::probe::{Nonce, Opened, Path, Reached};

/// How long a port may take to answer, in milliseconds. A lost packet is sent again
/// after one second.
const PATIENCE: u64 = 2_500;
/// How long one host may take with all of it.
const LONGEST: Duration = Duration::from_secs(45);

/// A host that takes part.
pub(super) struct Member<'a> {
    pub name: &'a str,
    pub client: &'a Client,
    pub role: Role,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    pub facts: &'a Facts,
}

/// What one host asks of another, before it is known how that ends.
struct Question {
    from: usize,
    to: usize,
    ports: Vec<(SocketAddr, &'static ports::Port)>,
    paths: Vec<(IpAddr, String, u16)>,
    overlay: Option<(IpAddr, u16)>,
}

/// Measures the ways between these hosts, as [`sample`] chooses them. `vxlan` says
/// whether the pod network needs its port.
pub(super) async fn ways(members: &[Member<'_>], vxlan: bool) -> Ways {
    let control_planes: Vec<bool> = members
        .iter()
        .map(|member| member.role == Role::ControlPlane)
        .collect();
    let questions: Vec<Question> = sample::ways(&control_planes)
        .into_iter()
        .map(|(from, to)| question(members, from, to, vxlan))
        .collect();
    let all = members.len() * members.len().saturating_sub(1);
    if questions.is_empty() {
        return Ways::default();
    }
    let nonce = nonce();
    let opened = join_all(members.iter().map(|member| open(member, vxlan, nonce))).await;
    let answers = join_all((0..members.len()).map(|from| {
        let own: Vec<&Question> = questions.iter().filter(|one| one.from == from).collect();
        ask(&members[from], own, &opened, nonce)
    }))
    .await;
    // An agent that cannot be told closes them by itself.
    join_all(
        members
            .iter()
            .map(|member| member.client.call(CloseProbes {})),
    )
    .await;
    let measured = questions
        .iter()
        .zip(in_order(&questions, answers))
        .map(|(question, answer)| way(members, question, &opened, answer))
        .collect();
    Ways { measured, all }
}

/// A number that nobody else uses by chance.
fn nonce() -> Nonce {
    use std::hash::{BuildHasher as _, RandomState};
    let half = || {
        RandomState::new()
            .hash_one(std::process::id())
            .to_be_bytes()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    Nonce(bytes)
}

/// The ports of a role that other hosts have to reach.
fn ports_of(role: Role, vxlan: bool) -> impl Iterator<Item = (u16, &'static ports::Port)> {
    ports::of(role).filter_map(move |port| {
        let number = port.single()?;
        let wanted = port.is_for(Role::ControlPlane) && (vxlan || number != VXLAN_PORT);
        wanted.then_some((number, port))
    })
}

fn question(members: &[Member], from: usize, to: usize, vxlan: bool) -> Question {
    let (source, target) = (&members[from], &members[to]);
    let both = target.addresses.iter().filter_map(|address| {
        let own = source
            .addresses
            .iter()
            .find(|own| own.is_ipv4() == address.is_ipv4())?;
        Some((*address, *own))
    });
    let mut question = Question {
        from,
        to,
        ports: Vec::new(),
        paths: Vec::new(),
        overlay: overlay(source.facts, target.facts),
    };
    for (address, own) in both {
        question.ports.extend(
            ports_of(target.role, vxlan)
                .filter(|(_, port)| port.is_for(source.role))
                .map(|(number, port)| (SocketAddr::new(address, number), port)),
        );
        question
            .paths
            .extend(interface_of(source.facts, own).map(|(name, mtu)| (address, name, mtu)));
    }
    question
}

/// The interface that has an address, and how large it sends packets.
fn interface_of(facts: &Facts, address: IpAddr) -> Option<(String, u16)> {
    let interface = facts
        .interfaces
        .iter()
        .find(|interface| interface.addresses.iter().any(|own| own.ip == address))?;
    let mtu = u16::try_from(interface.mtu?).unwrap_or(u16::MAX);
    Some((interface.name.clone(), mtu))
}

/// Flannel's interface on the two: the other's address there, and how large packets
/// are sent.
fn overlay(from: &Facts, to: &Facts) -> Option<(IpAddr, u16)> {
    let interface = |facts: &Facts| {
        let named = facts
            .interfaces
            .iter()
            .find(|one| one.name == "flannel.1")?;
        let address = named
            .addresses
            .iter()
            .find(|address| address.ip.is_ipv4())?;
        Some((address.ip, u16::try_from(named.mtu?).ok()?))
    };
    Some((interface(to)?.0, interface(from)?.1))
}

/// What became of listening on each port of a host, or why nothing did.
type Listening = std::result::Result<BTreeMap<(Protocol, u16), Opened>, String>;

async fn open(member: &Member<'_>, vxlan: bool, nonce: Nonce) -> Listening {
    let ports: Vec<(Protocol, u16)> = ports_of(member.role, vxlan)
        .map(|(number, port)| (port.protocol, number))
        .collect();
    let call = OpenProbes {
        addresses: member.addresses.clone(),
        ports: ports.clone(),
        nonce,
    };
    let opened = told(member.client.call(call).await)?;
    Ok(ports.into_iter().zip(opened).collect())
}

fn told<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| match error.host() {
        Some(host) => format!("{host}: {error}"),
        None => error.to_string(),
    })
}

/// How one way answered: its ports, its paths, its way through the pod network.
#[derive(Clone)]
struct Answer {
    ports: Vec<Known<Reached>>,
    paths: Vec<Known<Path>>,
    overlay: Option<Known<Path>>,
}

async fn ask(
    member: &Member<'_>,
    questions: Vec<&Question>,
    opened: &[Listening],
    nonce: Nonce,
) -> Vec<Answer> {
    let state = |question: &Question, at: &SocketAddr, protocol: Protocol| {
        let listening = opened[question.to].as_ref().ok()?;
        listening.get(&(protocol, at.port())).cloned()
    };
    let targets = questions.iter().flat_map(|question| {
        question.ports.iter().map(|(address, port)| Target {
            address: *address,
            protocol: port.protocol,
            echoes: state(question, address, port.protocol) == Some(Opened::Open),
        })
    });
    // Where somebody of ours listens for datagrams, those can be asked as well.
    let listens = |question: &Question| {
        let known = opened[question.to].as_ref().ok()?;
        (known.get(&(Protocol::Udp, VXLAN_PORT)) == Some(&Opened::Open)).then_some(VXLAN_PORT)
    };
    let paths = questions.iter().flat_map(|question| {
        let udp = listens(question);
        let direct = question
            .paths
            .iter()
            .map(move |(address, _, size)| PathTarget {
                address: *address,
                size: *size,
                udp,
            });
        let overlay = question.overlay.map(|(address, size)| PathTarget {
            address,
            size,
            udp: None,
        });
        direct.chain(overlay)
    });
    let reach = ReachPorts {
        targets: targets.collect(),
        nonce,
        patience: PATIENCE,
    };
    let measure = MeasurePaths {
        targets: paths.collect(),
        nonce,
    };
    let late = || {
        format!(
            "{} did not answer within {} s",
            member.name,
            LONGEST.as_secs()
        )
    };
    let (reached, measured) = tokio::join!(
        tokio::time::timeout(LONGEST, member.client.call(reach)),
        tokio::time::timeout(LONGEST, member.client.call(measure)),
    );
    let reached = reached.map_err(|_| late()).and_then(told);
    let measured = measured.map_err(|_| late()).and_then(told);
    distribute(&questions, reached, measured)
}

/// Gives each question its part of what came back. What a host did not answer is not
/// known.
fn distribute(
    questions: &[&Question],
    reached: std::result::Result<Vec<Reached>, String>,
    measured: std::result::Result<Vec<std::result::Result<Path, String>>, String>,
) -> Vec<Answer> {
    let missing = "the host left it out of its answer";
    let mut reached = reached.map(Vec::into_iter);
    let mut measured = measured.map(Vec::into_iter);
    let mut next_port = || match &mut reached {
        Ok(answers) => answers
            .next()
            .map_or_else(|| Known::Unknown(missing.to_owned()), Known::Is),
        Err(why) => Known::Unknown(why.clone()),
    };
    let mut next_path = || match &mut measured {
        Ok(answers) => match answers.next() {
            Some(Ok(path)) => Known::Is(path),
            Some(Err(why)) => Known::Unknown(why),
            None => Known::Unknown(missing.to_owned()),
        },
        Err(why) => Known::Unknown(why.clone()),
    };
    questions
        .iter()
        .map(|question| Answer {
            ports: question.ports.iter().map(|_| next_port()).collect(),
            paths: question.paths.iter().map(|_| next_path()).collect(),
            overlay: question.overlay.map(|_| next_path()),
        })
        .collect()
}

/// The answers of each host, in the order of the questions.
fn in_order(questions: &[Question], answers: Vec<Vec<Answer>>) -> Vec<Option<Answer>> {
    let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
    questions
        .iter()
        .map(|question| answers.get_mut(question.from)?.next())
        .collect()
}

fn way(
    members: &[Member],
    question: &Question,
    opened: &[Listening],
    answer: Option<Answer>,
) -> Way {
    let mut answer = answer.unwrap_or(Answer {
        ports: Vec::new(),
        paths: Vec::new(),
        overlay: None,
    });
    let listening = &opened[question.to];
    let ports = question.ports.iter().zip(answer.ports.drain(..));
    let paths = question.paths.iter().zip(answer.paths.drain(..));
    Way {
        from: members[question.from].name.to_owned(),
        to: members[question.to].name.to_owned(),
        ports: ports
            .map(|((address, port), reached)| PortReached {
                address: *address,
                protocol: port.protocol,
                what: port.what,
                opened: match listening {
                    Ok(known) => known
                        .get(&(port.protocol, address.port()))
                        .cloned()
                        .unwrap_or_else(|| Opened::Closed("the host does not say".to_owned())),
                    Err(why) => Opened::Closed(why.clone()),
                },
                reached,
            })
            .collect(),
        paths: paths
            .map(|((address, interface, wanted), found)| PathMeasured {
                address: *address,
                interface: interface.clone(),
                wanted: *wanted,
                found,
            })
            .collect(),
        overlay: answer.overlay,
    }
}
