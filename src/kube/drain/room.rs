//! Whether the other nodes have room for what a drain moves: the requests of pods
//! against what nodes have, and where pods may go at all. The largest pods are
//! placed first. It is the scheduler's judgement simplified; what it does not look
//! at (volumes' zones, affinity between pods, spread constraints, preemption) can
//! only be seen by trying.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::fit::{refuses, repels};
use super::pods::{PodName, has_ended};
use super::quantity::milli;

/// A pod for which no other node has room.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Homeless {
    /// The pod.
    pub pod: PodName,
    /// Why it fits nowhere: what keeps it from how many nodes.
    pub why: String,
}

/// What a pod asks for, or a node has: thousandths of CPUs, thousandths of bytes,
/// and pods.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// Thousandths of CPUs.
    pub cpu: i128,
    /// Thousandths of bytes of memory.
    pub memory: i128,
    /// Pods.
    pub pods: i128,
}

impl Room {
    fn requested(pod: &Pod) -> Room {
        let Some(spec) = pod.spec.as_ref() else {
            return Room::default();
        };
        let of = |name: &str| {
            let request = |container: &Container| {
                let requests = container
                    .resources
                    .as_ref()
                    .and_then(|all| all.requests.as_ref());
                amount(requests, name)
            };
            let always: i128 = spec.containers.iter().map(request).sum();
            // Those that start before the others run beside all that come later when
            // they restart always, and alone otherwise.
            let (mut beside, mut most) = (0, 0);
            for container in spec.init_containers.iter().flatten() {
                let own = request(container);
                match container.restart_policy.as_deref() {
                    Some("Always") => beside += own,
                    _ => most = most.max(beside + own),
                }
            }
            most.max(beside + always) + amount(spec.overhead.as_ref(), name)
        };
        Room {
            cpu: of("cpu"),
            memory: of("memory"),
            pods: 1,
        }
    }

    fn of(node: &Node) -> Room {
        let has = node
            .status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref());
        Room {
            cpu: amount(has, "cpu"),
            memory: amount(has, "memory"),
            // Pods are counted, not weighed.
            pods: amount(has, "pods") / 1000,
        }
    }

    fn take(&mut self, other: Room) {
        self.cpu -= other.cpu;
        self.memory -= other.memory;
        self.pods -= other.pods;
    }

    /// What there is too little of.
    fn lacks(&self, other: Room) -> Option<&'static str> {
        match () {
            () if self.cpu < other.cpu => Some("too little CPU"),
            () if self.memory < other.memory => Some("too little memory"),
            () if self.pods < other.pods => Some("too many pods"),
            () => None,
        }
    }
}

fn amount(all: Option<&BTreeMap<String, Quantity>>, name: &str) -> i128 {
    all.and_then(|all| milli(&all.get(name)?.0))
        .unwrap_or_default()
}

/// The pods of `moving` that fit on none of `nodes`, which have the pods `pods`.
pub(super) fn homeless(moving: &[&Pod], nodes: &[&Node], pods: &[Pod]) -> Vec<Homeless> {
    let mut places: Vec<Place> = nodes.iter().map(|node| Place::new(node, pods)).collect();
    let mut moving: Vec<(&Pod, Room)> = moving
        .iter()
        .map(|pod| (*pod, Room::requested(pod)))
        .collect();
    moving.sort_by_key(|(_, room)| std::cmp::Reverse((room.memory, room.cpu)));
    let mut found = Vec::new();
    for (pod, room) in moving {
        let mut reasons: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut home = None;
        for (index, place) in places.iter().enumerate() {
            match place.refuses(pod, room) {
                // The emptiest, as the scheduler does by default.
                None if home.is_none_or(|best: usize| places[best].free.cpu < place.free.cpu) => {
                    home = Some(index);
                }
                None => {}
                Some(reason) => *reasons.entry(reason).or_default() += 1,
            }
        }
        match home {
            Some(index) => places[index].put(pod, room),
            None => found.push(Homeless {
                pod: PodName::of(pod),
                why: why(&reasons),
            }),
        }
    }
    found
}

fn why(reasons: &BTreeMap<&'static str, usize>) -> String {
    if reasons.is_empty() {
        return "there is no other node".to_owned();
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| match count {
            1 => format!("1 node: {reason}"),
            _ => format!("{count} nodes: {reason}"),
        })
        .collect();
    reasons.join("; ")
}

/// A node, what is free on it, and what is there.
struct Place<'a> {
    node: &'a Node,
    free: Room,
    pods: Vec<&'a Pod>,
}

impl<'a> Place<'a> {
    fn new(node: &'a Node, pods: &'a [Pod]) -> Self {
        let name = node.metadata.name.as_deref();
        let pods: Vec<&Pod> = pods
            .iter()
            .filter(|pod| !has_ended(pod))
            .filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == name)
            .collect();
        let mut free = Room::of(node);
        pods.iter().for_each(|pod| free.take(Room::requested(pod)));
        Place { node, free, pods }
    }

    fn refuses(&self, pod: &Pod, room: Room) -> Option<&'static str> {
        refuses(self.node, pod)
            .or_else(|| self.free.lacks(room))
            .or_else(|| {
                let repelled = self.pods.iter().any(|other| repels(pod, other));
                repelled.then_some("a pod there keeps it away")
            })
    }

    fn put(&mut self, pod: &'a Pod, room: Room) {
        self.free.take(room);
        self.pods.push(pod);
    }
}
