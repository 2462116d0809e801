//! Simulated hosts: everything that checks look at, as it is where all is well. A
//! case changes what it is about.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::site::*;
use crate::agent::calls::distro::HostDistroState;
use crate::agent::calls::host::HostReport;
use crate::agent::calls::inspect::ClusterInspection;
use crate::digest::Digest;
use crate::distro::kubeadm::etcd_health::EtcdHealth;
use crate::distro::kubeadm::expiry::Expiry;
use crate::host::facts::*;
use crate::host::probe::{Filter, Neighbour, Opened, Path, Protocol, Reached, Writes};
use crate::host::{Part, Root};
use crate::kube::drain::{PodName, Simulation};
use crate::kube::{NodeState, PodState};
use crate::oci::image::{Layer, LayerKind, Rootfs, Sizes};
use crate::oci::{Blob, ClusterImage, ContainerImage, Platform};
use crate::spec;
use crate::spec::Clusterfile;

/// What is known of some hosts; where nothing else is said, of one control plane and two
/// workers.
pub(super) struct World {
    pub cluster: spec::Cluster,
    pub image: std::result::Result<ClusterImage, String>,
    pub sizes: Known<Sizes>,
    pub reports: BTreeMap<String, std::result::Result<HostReport, Closed>>,
    pub measured: BTreeMap<String, Measured>,
    pub ways: Known<Ways>,
    pub vip: Known<Vip>,
    pub running: Known<ClusterInspection>,
}

/// What was measured of one host.
pub(super) struct Measured {
    pub missing: Known<Vec<Blob>>,
    pub clock: Known<Clock>,
    pub filter: Known<Filter>,
    pub writes: Known<Writes>,
    pub api: Known<std::result::Result<(), String>>,
    pub etcd: Known<EtcdHealth>,
    pub expiries: Known<Vec<Expiry>>,
}

const CLUSTERFILE: &str = "apiVersion: chasi.dev/v1
kind: Cluster
metadata: {name: shop}
spec:
  image: chasi/demo:1.34.4
  hosts:
  - {name: m1, address: 10.0.0.1, nodeIPs: [10.0.0.1], roles: [control-plane]}
  - {name: w1, address: 10.0.0.2, nodeIPs: [10.0.0.2], roles: [worker]}
  - {name: w2, address: 10.0.0.3, nodeIPs: [10.0.0.3], roles: [worker]}
  network: {podCIDRs: [10.244.0.0/16], serviceCIDRs: [10.96.0.0/16]}
";

impl World {
    /// Bare hosts on which an install works.
    pub fn bare() -> World {
        World::of(CLUSTERFILE)
    }

    /// The bare hosts of a Clusterfile. Their addresses go from 10.0.0.1 on, and the
    /// ways are those between `m1` and `w1`.
    pub fn of(clusterfile: &str) -> World {
        let cluster = Clusterfile::parse("Clusterfile", clusterfile, None)
            .unwrap()
            .cluster;
        let names = || cluster.hosts.iter().map(|host| host.name.to_string());
        World {
            sizes: Known::Is(sizes(&image())),
            image: Ok(image()),
            reports: names()
                .zip(1..)
                .map(|(name, number)| (name.clone(), Ok(report(&name, number))))
                .collect(),
            measured: names().map(|name| (name, measured())).collect(),
            ways: Known::Is(Ways {
                measured: vec![way("m1", "w1"), way("w1", "m1")],
                all: 6,
            }),
            vip: Known::Is(Vip::Asked {
                address: [10, 0, 0, 100].into(),
                from: "m1".into(),
                neighbour: Neighbour::Nobody,
            }),
            running: Known::Is(inspection()),
            cluster,
        }
    }

    /// What the API says.
    pub fn running(&mut self) -> &mut ClusterInspection {
        match &mut self.running {
            Known::Is(found) => found,
            Known::Unknown(why) => panic!("{why}"),
        }
    }

    /// Makes all hosts chasi's.
    pub fn manage(&mut self) {
        for host in ["m1", "w1", "w2"] {
            let state = PartState {
                generation: 1,
                identity: Digest::of("generation"),
                drift: Vec::new(),
                kept: Vec::new(),
                obstacle: None,
            };
            let report = self.report(host);
            report.managed = true;
            report.facts.managed.parts.insert(Part::Node, state);
        }
    }

    /// What a drain of `w1` would do.
    pub fn drain(&mut self) -> &mut Simulation {
        let drains = self.running().drains.as_mut().unwrap();
        drains.get_mut("w1").unwrap()
    }

    /// The way from `m1` to `w1`.
    pub fn way(&mut self) -> &mut Way {
        let Known::Is(ways) = &mut self.ways else {
            panic!("nothing was measured");
        };
        &mut ways.measured[0]
    }

    /// What was measured of a host.
    pub fn measured(&mut self, host: &str) -> &mut Measured {
        self.measured.get_mut(host).unwrap()
    }

    /// What a host says of itself.
    pub fn report(&mut self, host: &str) -> &mut HostReport {
        self.reports.get_mut(host).unwrap().as_mut().ok().unwrap()
    }

    /// What a host is.
    pub fn facts(&mut self, host: &str) -> &mut Facts {
        &mut self.report(host).facts
    }

    /// A host that cannot be entered.
    pub fn close(&mut self, host: &str, stage: Stage) {
        let closed = Closed {
            stage,
            reason: "it went wrong".into(),
            hint: "mend it".into(),
        };
        self.reports.insert(host.into(), Err(closed));
    }

    /// As the checks see it.
    pub fn site(&self) -> Site<'_> {
        Site {
            cluster: &self.cluster,
            image: match &self.image {
                Ok(image) => Known::Is(image),
                Err(why) => Known::Unknown(why.clone()),
            },
            hosts: self
                .cluster
                .hosts
                .iter()
                .map(|host| {
                    let measured = &self.measured[host.name.as_str()];
                    SiteHost {
                        host,
                        report: self.reports[host.name.as_str()].clone(),
                        missing: measured.missing.clone(),
                        clock: measured.clock.clone(),
                        filter: measured.filter.clone(),
                        writes: measured.writes.clone(),
                        api: measured.api.clone(),
                        etcd: measured.etcd.clone(),
                        expiries: measured.expiries.clone(),
                    }
                })
                .collect(),
            sizes: self.sizes.clone(),
            ways: self.ways.clone(),
            vip: self.vip.clone(),
            running: self.running.clone(),
        }
    }
}

/// Three times the compressed size.
fn sizes(image: &ClusterImage) -> Sizes {
    let blobs = image.blobs().into_iter();
    blobs.map(|blob| (blob.digest, blob.size * 3)).collect()
}

fn measured() -> Measured {
    Measured {
        missing: Known::Is(image().blobs()),
        clock: Known::Is(Clock {
            ahead: 1_000_000,
            doubt: 500_000,
        }),
        filter: Known::Is(Filter {
            told_by: vec!["nft".into()],
            ..Filter::default()
        }),
        writes: Known::Is(Writes {
            count: 250,
            median: 800,
            p99: 4_000,
            longest: 9_000,
        }),
        api: Known::Is(Ok(())),
        etcd: Known::Is(EtcdHealth {
            version: "3.6.5".into(),
            members: vec!["m1".into()],
            size: 100 << 20,
            quota: Some(2 << 30),
            has_leader: true,
            ..EtcdHealth::default()
        }),
        expiries: Known::Is(vec![Expiry {
            path: "/etc/kubernetes/pki/apiserver.crt".into(),
            subject: "CN=kube-apiserver".into(),
            ends: Ok(i64::from(u32::MAX)),
        }]),
    }
}

fn inspection() -> ClusterInspection {
    let node = |name: &str| NodeState {
        name: name.into(),
        ready: true,
        reason: None,
        version: "v1.34.4".into(),
        unschedulable: false,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        created: None,
        drained_by: None,
        address: None,
        ours: true,
        own_labels: Default::default(),
        own_taints: Vec::new(),
        way: None,
    };
    let names = ["m1", "w1", "w2"];
    ClusterInspection {
        version: Ok("v1.34.4".into()),
        nodes: Ok(names.map(node).into()),
        pods: Ok(vec![PodState {
            namespace: "kube-system".into(),
            name: "kube-apiserver-m1".into(),
            node: Some("m1".into()),
            ready: true,
            reason: None,
            trouble: None,
        }]),
        requests: Ok(Vec::new()),
        deprecated: Ok(Vec::new()),
        volumes: Ok(Vec::new()),
        drains: Ok(names
            .map(|name| (name.to_owned(), Simulation::default()))
            .into()),
    }
}

pub(super) fn pod(name: &str) -> PodName {
    PodName {
        namespace: "shop".into(),
        name: name.into(),
        owner: None,
    }
}

/// A way on which everything arrives.
fn way(from: &str, to: &str) -> Way {
    let address = IpAddr::from([10, 0, 0, if to == "m1" { 1 } else { 2 }]);
    let port = |protocol, number, what| PortReached {
        address: SocketAddr::new(address, number),
        protocol,
        what,
        opened: Opened::Open,
        reached: Known::Is(Reached::Echoed),
    };
    Way {
        from: from.into(),
        to: to.into(),
        ports: vec![
            port(Protocol::Tcp, 10_250, "kubelet"),
            port(Protocol::Udp, 8472, "pod network (VXLAN)"),
        ],
        paths: vec![PathMeasured {
            address,
            interface: "eth0".into(),
            wanted: 1500,
            found: Known::Is(Path::Carries(1500)),
        }],
        overlay: None,
    }
}

fn disk() -> Disk {
    Disk {
        device: 1,
        size: 100 << 30,
        free: 80 << 30,
        free_files: Some(6_000_000),
        read_only: false,
        noexec: false,
        files: Some(6_500_000),
        kind: Some("ext4".into()),
        tells_types: Some(true),
    }
}

fn report(name: &str, number: u8) -> HostReport {
    let nothing = tempfile::tempdir().unwrap();
    let mut facts = Facts::gather(&Root::at(nothing.path()).unwrap()).unwrap();
    facts.hostname = name.into();
    facts.machine_id = Some(format!("machine-{number}"));
    facts.product_uuid = Known::Is(format!("uuid-{number}"));
    facts.architecture = "amd64".into();
    facts.os = Os {
        id: "debian".into(),
        version: "12".into(),
        name: "Debian GNU/Linux 12".into(),
    };
    facts.kernel = "6.1.0-18-amd64".into();
    facts.cpus = 4;
    facts.memory = 8 << 30;
    facts.cgroup = Cgroup {
        version: 2,
        controllers: ["cpu", "cpuset", "memory", "pids"]
            .map(str::to_owned)
            .into(),
    };
    facts.systemd = true;
    facts.interfaces = vec![Interface {
        name: "eth0".into(),
        up: true,
        mtu: Some(1500),
        mac: Some(format!("52:54:00:00:00:{number:02x}")),
        addresses: vec![Address {
            ip: [10, 0, 0, number].into(),
            prefix: 24,
        }],
    }];
    facts.default_routes = vec![Route {
        interface: "eth0".into(),
        gateway: Some([10, 0, 0, 254].into()),
        ipv6: false,
        metric: 100,
    }];
    facts.destinations = vec![destination("10.0.0.0", 24)];
    facts.name_servers = NameServers {
        servers: vec![[10, 0, 0, 53].into()],
        file: Some("/etc/resolv.conf".into()),
        stub: false,
    };
    facts.hosts_file = Some(vec![HostsLine {
        address: [127, 0, 0, 1].into(),
        names: vec!["localhost".into()],
    }]);
    facts.disks = [("/var/lib/chasi", disk()), ("/var/lib/etcd", disk())]
        .map(|(path, disk)| (path.to_owned(), disk))
        .into();
    facts.clock_keeper = Some("chronyd".into());
    facts.commands = ["modprobe", "mount", "systemctl", "systemd-run", "umount"]
        .map(|name| (name.to_owned(), format!("/usr/bin/{name}")))
        .into();
    for feature in facts.features.values_mut() {
        *feature = Feature::Present;
    }
    HostReport {
        managed: false,
        facts,
        etcd: None,
        etcd_manifest: None,
        stopped: Vec::new(),
        api: None,
        program_is_current: true,
        distro: HostDistroState::default(),
    }
}

pub(super) fn destination(network: &str, prefix: u8) -> Destination {
    Destination {
        interface: "eth0".into(),
        network: network.parse().unwrap(),
        prefix,
    }
}

pub(super) fn listener(port: u16, name: &str) -> Listener {
    Listener {
        address: [0, 0, 0, 0].into(),
        port,
        process: Some(Process {
            id: 42,
            name: name.into(),
        }),
    }
}

fn image() -> ClusterImage {
    let blob = |text: &str, size: u64| Blob {
        size,
        ..Blob::of("application/x", text.as_bytes())
    };
    let index = blob("index", 1000);
    ClusterImage {
        digest: index.digest,
        index,
        rootfs: vec![Rootfs {
            platform: Platform::linux("amd64").unwrap(),
            manifest: blob("manifest", 1000),
            config: blob("config", 1000),
            labels: [("dev.chasi.kubernetes.version", "1.34.4")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            env: BTreeMap::new(),
            layers: vec![Layer {
                blob: blob("layer", 100 << 20),
                diff_id: Digest::of("layer"),
                kind: LayerKind::Kubernetes,
            }],
        }],
        images: vec![ContainerImage {
            reference: "ghcr.io/flannel-io/flannel:v0.28.4".parse().unwrap(),
            manifest: blob("artifact", 1000),
            root: blob("root", 1000),
            blobs: vec![blob("root", 1000), blob("flannel", 100 << 20)],
        }],
    }
}
