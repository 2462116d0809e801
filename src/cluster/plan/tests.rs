//! Plans as a specification: what a cluster is, and what is done to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::agent::calls::distro::HostDistroState;
use crate::distro;
use crate::distro::kubeadm::etcd_version::Stays;
use crate::host::recipe::Recipe;
use crate::host::setting::Settings;
use crate::kube::Way;

/// Identities of what was, and of what is to be.
const OLD: &str = "old";
const NEW: &str = "new";

fn identity(host: &str, what: &str) -> Digest {
    Digest::of(format!("{host} {what}"))
}

/// A cluster of three control planes and three workers, and what is to become of it.
struct World {
    desired: Desired,
    survey: Survey,
}

fn is_control_plane(name: &str) -> bool {
    name.starts_with('m')
}

fn desired_host(name: &str) -> DesiredHost {
    let role = match is_control_plane(name) {
        true => Role::ControlPlane,
        false => Role::Worker,
    };
    DesiredHost {
        node: distro::Host {
            name: name.into(),
            node_ips: vec!["10.0.0.1".parse().unwrap()],
            role,
            taints: Vec::new(),
            cgroup_driver: "systemd".into(),
            cgroup_version: 2,
            conntrack_writable: true,
            resolv_conf: None,
            swap: false,
        },
        recipe: Recipe {
            image: Digest::of(NEW),
            platform: "linux/amd64".parse().unwrap(),
            kubernetes: Some("1.34.4".into()),
            layers: Vec::new(),
            context: Value::Null,
            files: Vec::new(),
            blocks: Vec::new(),
            directories: Vec::new(),
            source: Value::Null,
        },
        identity: identity(name, NEW),
        config: String::new(),
        images: vec!["registry.example/app:2".into()],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        way: way(),
        joins_etcd: false,
        etcd_stays: None,
        server_names: BTreeSet::new(),
        settings: Settings::default(),
        hooks: Vec::new(),
        secrets: BTreeMap::new(),
    }
}

fn cluster() -> distro::Cluster {
    distro::Cluster {
        name: "demo".into(),
        version: "1.34.4".into(),
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        dns_domain: "cluster.local".into(),
        certificate_hours: 87_600,
        ca_hours: 262_800,
        api_server_names: Vec::new(),
        documents: Vec::new(),
        sandbox_image: "registry.example/pause:1".into(),
    }
}

/// A host that is as it is to be, but for its generations and the image.
fn state(name: &str, image: &str, generation: &str) -> HostState {
    let identity = identity(name, generation);
    HostState {
        staged: vec![identity],
        node: Some(identity),
        image: Some(Digest::of(image)),
        control_plane: is_control_plane(name).then_some(identity),
        settled: true,
        distro: HostDistroState {
            pki: is_control_plane(name).then(|| Digest::of("ca")),
            server_names: is_control_plane(name).then(BTreeSet::new),
            credential: true,
            kubelet_active: true,
            etcd_data: is_control_plane(name),
            images: Some(vec!["registry.example/app:2".into()]),
            objects: Some(Digest::of(format!("objects {image}"))),
            ..HostDistroState::default()
        },
        ..HostState::default()
    }
}

fn node(name: &str) -> NodeState {
    NodeState {
        name: name.into(),
        ready: true,
        reason: None,
        version: "v1.34.3".into(),
        unschedulable: false,
        drained_by: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        created: None,
        address: None,
        ours: true,
        own_labels: BTreeSet::new(),
        own_taints: Vec::new(),
        way: Some(way()),
    }
}

fn way() -> Way {
    Way {
        address: "10.0.0.1".into(),
        port: 22,
        user: "root".into(),
        host_key: None,
    }
}

impl World {
    /// All hosts have this image and this generation.
    fn of(names: &[&str], image: &str, generation: &str) -> Self {
        World {
            desired: Desired {
                cluster: cluster(),
                image: "chasi/demo:2".into(),
                digest: Digest::of(NEW),
                objects: Digest::of("objects new"),
                dns_forward: true,
                hosts: names.iter().map(|name| desired_host(name)).collect(),
            },
            survey: Survey {
                hosts: names
                    .iter()
                    .map(|name| ((*name).to_owned(), state(name, image, generation)))
                    .collect(),
                nodes: Some(names.iter().map(|name| node(name)).collect()),
                ..Survey::default()
            },
        }
    }

    fn host(&mut self, name: &str) -> &mut HostState {
        self.survey.hosts.get_mut(name).unwrap()
    }

    fn node(&mut self, name: &str) -> &mut NodeState {
        let mut nodes = self.survey.nodes.iter_mut().flatten();
        nodes.find(|node| node.name == name).unwrap()
    }

    /// It is to be added, and is bare.
    fn comes(&mut self, name: &str) {
        self.desired.hosts.push(desired_host(name));
        self.survey.hosts.insert(name.into(), HostState::default());
    }

    /// A line for each stage: its turns, and then the steps of each host.
    fn plan(&self, pace: Pace) -> Vec<String> {
        self.lines(pace, Direction::Forward)
    }

    fn lines(&self, pace: Pace, direction: Direction) -> Vec<String> {
        let plan = plan(&self.desired, &self.survey, pace, direction);
        let mut lines = Vec::new();
        for stage in &plan.stages {
            let turns: Vec<String> = stage.turns.iter().map(|turn| turn.join("+")).collect();
            lines.push(format!("{}: {}", stage.name, turns.join(" ")));
            let mut hosts: Vec<&str> = Vec::new();
            for step in &stage.steps {
                if !hosts.contains(&step.host.as_str()) {
                    hosts.push(&step.host);
                }
            }
            for host in hosts {
                let steps = stage.steps.iter().filter(|step| step.host == host);
                let what: Vec<String> = steps.map(|step| step.action.describe()).collect();
                lines.push(format!("  {host}: {}", what.join("; ")));
            }
        }
        lines
    }
}

const ALL: [&str; 6] = ["m1", "m2", "m3", "w1", "w2", "w3"];

#[test]
fn what_is_as_it_should_be_has_an_empty_plan() {
    let world = World::of(&ALL, NEW, NEW);
    assert_eq!(world.plan(Pace::default()), Vec::<String>::new());
}

#[test]
fn another_image_is_everywhere_before_the_control_planes_change_and_then_the_nodes() {
    let mut world = World::of(&["m1", "m2", "w1", "w2", "w3"], OLD, OLD);
    for name in ["m1", "m2", "w1", "w2", "w3"] {
        world.host(name).distro.images = Some(Vec::new());
    }
    let steps = "drain the node; switch the node to the new generation; wait until the node is ready; let the node take pods again";
    let plane =
        "switch the control plane to the new generation; wait until the control plane is ready";
    let mut expected = vec!["stage: ".to_owned()];
    for stage in ["stage the new generation", "unpack 1 container images"] {
        for name in ["m1", "m2", "w1", "w2", "w3"] {
            expected.push(format!("  {name}: {stage}"));
        }
        expected.push("images: ".to_owned());
    }
    expected.pop();
    expected.extend([
        "start: m1 m2".to_owned(),
        format!("  m1: {plane}"),
        format!("  m2: {plane}"),
        "objects: ".to_owned(),
        "  m1: apply the cluster's own objects".to_owned(),
        "upgrade: m1 m2 w1+w2 w3".to_owned(),
    ]);
    for name in ["m1", "m2", "w1", "w2", "w3"] {
        expected.push(format!("  {name}: {steps}"));
    }
    expected.extend([
        "nodes: ".to_owned(),
        "  m2: record the cluster's own objects".to_owned(),
    ]);
    assert_eq!(world.plan(Pace::Hosts(2)), expected);
}

#[test]
fn the_same_image_otherwise_configured_moves_no_pod() {
    let mut world = World::of(&["m1", "w1"], NEW, NEW);
    for name in ["m1", "w1"] {
        let host = world.host(name);
        host.node = Some(identity(name, OLD));
    }
    let steps = "switch the node to the new generation; wait until the node is ready";
    assert_eq!(
        world.plan(Pace::default()),
        [
            "hosts: m1 w1".to_owned(),
            format!("  m1: {steps}"),
            format!("  w1: {steps}"),
        ]
    );
}

#[test]
fn what_was_cordoned_by_a_person_stays_so_and_what_a_run_left_does_not() {
    let mut world = World::of(&["m1", "w1", "w2"], OLD, OLD);
    world.node("w1").unschedulable = true;
    let plan = world.plan(Pace::default());
    let of = |host: &str| {
        let start = format!("  {host}: drain");
        plan.iter().find(|line| line.starts_with(&start)).unwrap()
    };
    assert!(!of("w1").contains("take pods again"), "{plan:?}");
    assert!(of("w2").contains("take pods again"), "{plan:?}");

    let mut world = World::of(&["m1", "w1", "w2"], NEW, NEW);
    world.node("w1").unschedulable = true;
    world.node("w2").unschedulable = true;
    world.node("w2").drained_by = Some("a run before".into());
    assert_eq!(
        world.plan(Pace::default()),
        [
            "hosts: w2",
            "  w2: wait until the node is ready; let the node take pods again",
        ]
    );
}

#[test]
fn a_node_that_is_alone_has_nowhere_to_move_its_pods_to() {
    let plan = World::of(&["m1"], OLD, OLD).plan(Pace::default());
    assert!(plan.contains(&"upgrade: m1".to_owned()), "{plan:?}");
    assert!(!plan.iter().any(|line| line.contains("drain")), "{plan:?}");
}

#[test]
fn who_joins_waits_for_nobody_but_control_planes_for_each_other() {
    let mut world = World::of(&["m1", "w1"], NEW, NEW);
    world.comes("m2");
    world.comes("m3");
    world.comes("w2");
    let plan = world.plan(Pace::default());
    assert!(plan.contains(&"hosts: ".to_owned()), "{plan:?}");
    assert!(plan.contains(&"start: m2 m3".to_owned()), "{plan:?}");
    assert!(!plan.iter().any(|line| line.contains("drain")), "{plan:?}");
}

#[test]
fn a_part_of_the_workers_is_at_least_one() {
    for (pace, workers, expected) in [
        (Pace::Hosts(1), 10, 1),
        (Pace::Hosts(3), 10, 3),
        (Pace::Percent(25), 10, 2),
        (Pace::Percent(1), 10, 1),
        (Pace::Percent(100), 10, 10),
        (Pace::Percent(50), 0, 1),
    ] {
        assert_eq!(pace.of(workers), expected, "{pace:?} of {workers}");
    }
}

#[test]
fn a_cluster_that_does_not_exist_yet_is_made_all_at_once() {
    let mut world = World::of(&[], NEW, NEW);
    for name in ALL {
        world.comes(name);
    }
    world.survey.nodes = None;
    let plan = plan(
        &world.desired,
        &world.survey,
        Pace::default(),
        Direction::Forward,
    );
    assert!(plan.stages.iter().all(|stage| stage.turns.is_empty()));
    let names: Vec<&str> = plan
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    let expected = [
        "stage",
        "hosts",
        "authorities",
        "certificates",
        "credentials",
        "start",
        "objects",
        "nodes",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_way_back_has_the_nodes_first_and_workers_before_control_planes() {
    let mut world = World::of(&["m1", "m2", "w1", "w2", "w3"], OLD, OLD);
    for name in ["m1", "m2", "w1", "w2", "w3"] {
        world.host(name).staged.push(identity(name, NEW));
    }
    let steps = "drain the node; switch the node to the new generation; wait until the node is ready; let the node take pods again";
    let plane =
        "switch the control plane to the new generation; wait until the control plane is ready";
    let mut expected = vec!["rollback: w1+w2 w3 m1 m2".to_owned()];
    for name in ["m1", "m2", "w1", "w2", "w3"] {
        expected.push(format!("  {name}: {steps}"));
    }
    expected.extend([
        "start: m1 m2".to_owned(),
        format!("  m1: {plane}"),
        format!("  m2: {plane}"),
        "objects: ".to_owned(),
        "  m1: apply the cluster's own objects".to_owned(),
        "nodes: ".to_owned(),
        "  m2: record the cluster's own objects".to_owned(),
    ]);
    assert_eq!(world.lines(Pace::Hosts(2), Direction::Back), expected);
}

#[test]
fn a_failed_upgrade_goes_back_only_where_it_had_come() {
    // The control planes and the objects were changed, and m1's node, whose kubelet
    // does not start.
    let mut world = World::of(&["m1", "m2", "w1"], NEW, NEW);
    for name in ["m1", "m2"] {
        world.host(name).control_plane = Some(identity(name, OLD));
    }
    let m1 = world.host("m1");
    m1.node = Some(identity("m1", OLD));
    m1.image = Some(Digest::of(OLD));
    m1.staged.push(identity("m1", NEW));
    m1.distro.kubelet_active = false;
    m1.distro.objects = Some(Digest::of("objects old"));
    world.node("m1").drained_by = Some("the run".into());
    world.node("m1").unschedulable = true;
    let plane =
        "switch the control plane to the new generation; wait until the control plane is ready";
    assert_eq!(
        world.lines(Pace::default(), Direction::Back),
        [
            "rollback: m1",
            "  m1: drain the node; switch the node to the new generation; start kubelet; wait until the node is ready; let the node take pods again",
            // The one that is half-way goes first.
            "start: m2 m1",
            &format!("  m1: {plane}"),
            &format!("  m2: {plane}"),
            "objects: ",
            "  m1: apply the cluster's own objects",
        ]
    );
}

#[test]
fn nobody_joins_on_the_way_back() {
    let mut world = World::of(&["m1", "w1"], NEW, NEW);
    world.comes("w2");
    let none = Vec::<String>::new();
    assert_eq!(world.lines(Pace::default(), Direction::Back), none);
}

#[test]
fn objects_are_applied_again_where_the_records_of_control_planes_differ() {
    let mut world = World::of(&["m1", "m2", "m3"], NEW, NEW);
    world.host("m1").distro.objects = Some(Digest::of("unfinished"));
    // One that has come has none, and is told.
    world.host("m3").distro.objects = None;
    assert_eq!(
        world.plan(Pace::default()),
        [
            "objects: ",
            "  m1: apply the cluster's own objects",
            "nodes: ",
            "  m3: record the cluster's own objects",
        ]
    );
    world.host("m1").distro.objects = Some(Digest::of("objects new"));
    assert_eq!(
        world.plan(Pace::default()),
        ["nodes: ", "  m3: record the cluster's own objects"]
    );
}

#[test]
fn labels_and_taints_that_chasi_gave_earlier_go_and_those_of_others_stay() {
    let mut world = World::of(&["m1", "w1", "w2"], NEW, NEW);
    world.node("w1").labels.insert("disk".into(), "ssd".into());
    world.node("w2").labels.insert("disk".into(), "ssd".into());
    world.node("w2").own_labels.insert("disk".into());
    assert_eq!(
        world.plan(Pace::default()),
        ["nodes: ", "  w2: set the node's labels and taints"]
    );
}

#[test]
fn what_etcd_keeps_is_said() {
    let mut world = World::of(&["m1", "m2", "w1"], NEW, NEW);
    for host in world.desired.hosts.iter_mut().take(2) {
        host.etcd_stays = Some(Stays {
            runs: "3.6.5".into(),
            image: "3.5.24".into(),
        });
    }
    let plan = plan(
        &world.desired,
        &world.survey,
        Pace::default(),
        Direction::Back,
    );
    assert_eq!(
        plan.notes,
        [
            "etcd's data stays: what was written to the API meanwhile is kept",
            "etcd stays 3.6.5 on m1, m2: 3.5.24 of the image does not start on its data",
        ]
    );
}

#[test]
fn a_worker_whose_kubelet_does_not_start_gets_the_next_one_first() {
    let mut world = World::of(&["m1", "w1"], NEW, NEW);
    let w1 = world.host("w1");
    w1.node = Some(identity("w1", OLD));
    w1.image = Some(Digest::of(OLD));
    w1.staged.push(identity("w1", NEW));
    w1.distro.kubelet_active = false;
    assert_eq!(
        world.plan(Pace::default()),
        [
            "upgrade: w1",
            "  w1: drain the node; switch the node to the new generation; start kubelet; wait until the node is ready; let the node take pods again",
        ]
    );
}

#[test]
fn a_restore_gives_every_etcd_its_data_before_one_starts_and_goes_on_where_it_was() {
    let mut world = World::of(&["m1", "m2", "w1"], NEW, NEW);
    world.survey.nodes = None;
    for name in ["m1", "m2", "w1"] {
        *world.host(name) = HostState::default();
    }
    let backup = Digest::of("backup");
    world.survey.restore = Some(backup);
    let stages = |world: &World| {
        let plan = world.plan(Pace::default());
        let is_stage = |line: &&String| !line.starts_with(' ');
        let names = plan.iter().filter(is_stage);
        let names: Vec<String> = names.map(|line| line.replace(": ", "")).collect();
        (names.join(" "), plan)
    };
    let (names, lines) = stages(&world);
    let expected =
        "begin stage hosts authorities certificates credentials restore start objects nodes end";
    assert_eq!(names, expected);
    for line in [
        "  m1: note that the cluster is restored",
        "  m2: restore etcd's data from the backup",
        "  m2: remove nodes that are no more, and end the restore",
    ] {
        assert!(lines.contains(&line.to_owned()), "{lines:#?}");
    }
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("  w1") && line.contains("restore"))
    );

    // Cut when the one had its data and the other had not.
    for name in ["m1", "m2"] {
        world.host(name).distro.restoring = Some(backup);
    }
    world.host("m1").distro.etcd_data = true;
    let (names, lines) = stages(&world);
    assert!(
        names.starts_with("stage ") && names.contains(" restore start "),
        "{names}"
    );
    let restored = lines
        .iter()
        .filter(|line| line.contains("restore etcd's data"));
    assert_eq!(restored.count(), 1);

    // Cut at the very end.
    for name in ["m1", "m2", "w1"] {
        *world.host(name) = state(name, NEW, NEW);
    }
    for name in ["m1", "m2"] {
        world.host(name).distro.etcd_data = true;
    }
    world.host("m2").distro.restoring = Some(backup);
    world.survey.nodes = Some(["m1", "m2", "w1"].map(node).into());
    let end = "  m2: remove nodes that are no more, and end the restore";
    assert_eq!(world.plan(Pace::default()), ["end: ", end]);
}
