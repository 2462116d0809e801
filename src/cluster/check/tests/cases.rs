//! For each check: what makes it fail, and what makes it blind, on simulated hosts
//! where all else is well.

use super::super::site::{Clock, Stage, Vip};
use super::world::{World, destination, listener, pod};
use crate::distro::kubeadm::credential::Membership;
use crate::distro::kubeadm::etcd_health::EtcdHealth;
use crate::host::Part;
use crate::host::facts::{Feature, HostsLine, Known, Proxy, Swap};
use crate::host::probe::{Filter, Neighbour, Path, Reached, Writes};
use crate::host::switch::{Change, What};
use crate::kube::drain::{Blocked, BudgetProblem, Homeless, Obstacle, Verdict};
use crate::kube::inspect::{DeprecatedApi, LocalVolume};

/// Changes what is known.
pub(super) type Step = fn(&mut World);

/// A check, what makes it pass (mostly nothing), what it finds wrong, and what keeps
/// it from looking.
pub(super) struct Case {
    pub id: &'static str,
    pub pass: Step,
    pub fail: Step,
    pub blind: Option<Step>,
}

const fn case(id: &'static str, fail: Step) -> Case {
    Case {
        id,
        pass: |_| (),
        fail,
        blind: None,
    }
}

impl Case {
    const fn blind(mut self, blind: Step) -> Case {
        self.blind = Some(blind);
        self
    }

    const fn after(mut self, pass: Step) -> Case {
        self.pass = pass;
        self
    }
}

fn keep_names(world: &mut World) {
    world.cluster.settings.set_hostname = false;
}

fn other_cluster(world: &mut World) {
    world.report("w1").distro.member = Some(Membership {
        cluster: "bar".into(),
        node: "w1".into(),
    });
}

fn no_answer(world: &mut World) {
    world.running().nodes = Err("no answer".into());
}

fn etcd(world: &mut World) -> &mut EtcdHealth {
    match &mut world.measured("m1").etcd {
        Known::Is(health) => health,
        Known::Unknown(why) => panic!("{why}"),
    }
}

fn block(world: &mut World, obstacle: Obstacle) {
    let pod = pod("web-1");
    world.drain().blocked = vec![Blocked { pod, obstacle }];
}

pub(super) const CASES: &[Case] = &[
    case("access.ssh", |w| w.close("w1", Stage::Ssh)),
    case("access.host-key", |w| w.close("w1", Stage::HostKey)).blind(|w| w.close("w1", Stage::Ssh)),
    case("access.sudo", |w| w.close("w1", Stage::Sudo)).blind(|w| w.close("w1", Stage::Ssh)),
    case("access.agent", |w| w.close("w1", Stage::Agent)).blind(|w| w.close("w1", Stage::Sudo)),
    case("identity.node", other_cluster).blind(|w| w.close("w1", Stage::Ssh)),
    case("identity.hostname", |w| {
        w.facts("w1").hostname = "m1".into()
    })
    .after(keep_names)
    .blind(|w| w.facts("w1").hostname.clear()),
    case("system.machine-id", |w| {
        w.facts("w2").machine_id = Some("machine-1".into());
    }),
    case("identity.product-uuid", |w| {
        w.facts("w2").product_uuid = Known::Is("uuid-1".into());
    })
    .blind(|w| w.facts("w2").product_uuid = Known::Unknown("no such file".into())),
    case("identity.mac", |w| {
        w.facts("w2").interfaces[0].mac = Some("52:54:00:00:00:01".into());
    })
    .blind(|w| w.facts("w2").interfaces.clear()),
    case("system.os", |w| w.facts("w1").os.id = "minix".into())
        .blind(|w| w.facts("w1").os.id.clear()),
    case("system.init", |w| w.facts("w1").systemd = false),
    case("system.cgroups", |w| {
        w.facts("w1").cgroup.controllers.remove("memory");
    }),
    case("system.cgroup-version", |w| {
        w.facts("w1").cgroup.version = 1
    }),
    case("system.swap", |w| {
        let path = "/swap".into();
        w.facts("w1").swap = vec![Swap { path, size: 1 }];
    }),
    case("system.noexec", |w| {
        w.facts("w1")
            .disks
            .get_mut("/var/lib/chasi")
            .unwrap()
            .noexec = true;
    })
    .blind(|w| w.facts("w1").disks.clear()),
    case("system.commands", |w| {
        w.facts("w1").commands.remove("umount");
    }),
    case("system.security", |w| {
        w.facts("w1").security.apparmor = true
    }),
    case("system.time-sync", |w| w.facts("w1").clock_keeper = None),
    case("kernel.version", |w| {
        w.facts("w1").kernel = "3.10.0-1160.el7".into()
    })
    .blind(|w| w.facts("w1").kernel.clear()),
    case("kernel.overlay", |w| {
        w.facts("w1")
            .features
            .insert("overlay".into(), Feature::Absent);
    })
    .blind(|w| {
        w.facts("w1")
            .features
            .insert("overlay".into(), Feature::Unknown);
    }),
    case("kernel.modules", |w| {
        w.facts("w1")
            .features
            .insert("vxlan".into(), Feature::Absent);
    })
    .blind(|w| w.facts("w1").features.clear()),
    case("resources.read-only", |w| {
        w.facts("w1")
            .disks
            .get_mut("/var/lib/etcd")
            .unwrap()
            .read_only = true;
    })
    .blind(|w| w.facts("w1").disks.clear()),
    case("resources.filesystem", |w| {
        w.facts("w1").disks.get_mut("/var/lib/etcd").unwrap().kind = Some("tmpfs".into());
    })
    .blind(|w| {
        w.facts("w1")
            .disks
            .get_mut("/var/lib/etcd")
            .unwrap()
            .tells_types = None;
    }),
    case("resources.inodes", |w| {
        w.facts("w1")
            .disks
            .get_mut("/var/lib/chasi")
            .unwrap()
            .free_files = Some(9);
    })
    .blind(|w| w.facts("w1").disks.clear()),
    case("resources.eviction", |w| {
        w.facts("w1").disks.get_mut("/var/lib/chasi").unwrap().free = 9 << 30;
    })
    .blind(|w| w.facts("w1").disks.clear()),
    case("etcd.writes", |w| {
        let writes = Writes {
            count: 100,
            median: 9_000,
            p99: 30_000,
            longest: 90_000,
        };
        w.measured("m1").writes = Known::Is(writes);
    })
    .blind(|w| w.measured("m1").writes = Known::Unknown("no O_TMPFILE".into())),
    case("system.clock", |w| {
        w.measured("w1").clock = Known::Is(Clock {
            ahead: -20_000_000_000,
            doubt: 1_000_000,
        });
    })
    .blind(|w| {
        w.measured("w1").clock = Known::Is(Clock {
            ahead: 0,
            doubt: 60_000_000_000,
        });
    }),
    case("network.reach", |w| {
        w.way().ports[0].reached = Known::Is(Reached::Silent)
    })
    .blind(|w| w.way().ports[0].reached = Known::Unknown("the host has gone".into())),
    case("network.mtu", |w| {
        w.way().paths[0].found = Known::Is(Path::Carries(1400))
    })
    .blind(|w| w.way().paths[0].found = Known::Is(Path::Silent)),
    case("network.vip", |w| {
        let neighbour = Neighbour::Answers("52:54:00:12:34:56".into());
        let address = [10, 0, 0, 100].into();
        w.vip = Known::Is(Vip::Asked {
            address,
            from: "m1".into(),
            neighbour,
        });
    })
    .blind(|w| w.vip = Known::Unknown("not permitted".into())),
    case("residue.rules", |w| {
        let told_by = vec!["nft".into()];
        w.measured("m1").filter = Known::Is(Filter {
            told_by,
            cluster_chains: 7,
            ..Filter::default()
        });
    })
    .blind(|w| w.measured("m1").filter = Known::Is(Filter::default())),
    case("cluster.api", |w| {
        w.measured("m1").api = Known::Is(Err("etcd failed: reason withheld".into()));
    })
    .blind(|w| w.measured("m1").api = Known::Unknown("the agent has gone".into())),
    case("cluster.nodes", |w| {
        w.running().nodes.as_mut().unwrap()[1].ready = false;
    })
    .blind(|w| w.running = Known::Unknown("no API".into())),
    case("cluster.cordoned", |w| {
        w.running().nodes.as_mut().unwrap()[1].unschedulable = true;
    })
    .blind(no_answer),
    case("cluster.strangers", |w| {
        let nodes = w.running().nodes.as_mut().unwrap();
        let mut stranger = nodes[0].clone();
        stranger.name = "w9".into();
        nodes.push(stranger);
    })
    .blind(no_answer),
    case("cluster.pods", |w| {
        w.running().pods.as_mut().unwrap()[0].ready = false;
    })
    .blind(|w| w.running().pods = Err("forbidden".into())),
    case("cluster.services", |w| {
        w.report("w1").stopped = vec!["containerd.service".into()];
    })
    .after(World::manage)
    .blind(|w| w.close("w1", Stage::Agent)),
    case("cluster.files", |w| {
        let part = w.facts("w1").managed.parts.get_mut(&Part::Node).unwrap();
        let path = "/etc/containerd/config.toml".into();
        part.drift.push(Change {
            path,
            what: What::Add,
        });
    })
    .after(World::manage)
    .blind(|w| {
        let part = w.facts("w1").managed.parts.get_mut(&Part::Node).unwrap();
        part.obstacle = Some("permission denied".into());
    }),
    case("certificates.expiry", |w| {
        let Known::Is(expiries) = &mut w.measured("w1").expiries else {
            panic!("no certificates")
        };
        expiries[0].ends = Ok(0);
    })
    .after(World::manage)
    .blind(|w| w.measured("w1").expiries = Known::Is(Vec::new())),
    case("certificates.requests", |w| {
        w.running().requests = Ok(vec!["csr-abc".into()]);
    })
    .blind(|w| w.running().requests = Err("forbidden".into())),
    case("etcd.health", |w| etcd(w).has_leader = false)
        .blind(|w| w.measured("m1").etcd = Known::Unknown("connection refused".into())),
    case("etcd.quota", |w| etcd(w).size = 2_000_000_000).blind(|w| etcd(w).quota = None),
    case("versions.architecture", |w| {
        w.facts("w1").architecture = "arm64".into()
    })
    .blind(|w| w.image = Err("the image is not here".into())),
    case("versions.skew", |w| {
        w.running().version = Ok("v1.32.1".into())
    })
    .blind(|w| w.running().version = Err("no answer".into())),
    case("versions.deprecated-apis", |w| {
        let (name, removed_in) = ("batch/v1beta1 cronjobs".into(), "1.25".into());
        w.running().deprecated = Ok(vec![DeprecatedApi { name, removed_in }]);
    })
    .blind(|w| w.running().deprecated = Err("forbidden".into())),
    case("drain.budgets", |w| {
        w.drain().budgets = vec![BudgetProblem {
            budget: "shop/web".into(),
            verdict: Verdict::Never,
            desired: 1,
            healthy: 1,
            expected: 1,
            pods: vec![pod("web-1")],
            unready: Vec::new(),
        }];
    })
    .blind(|w| w.running().drains = Err("forbidden".into())),
    case("drain.unmanaged", |w| block(w, Obstacle::Unmanaged))
        .blind(|w| w.running().drains = Err("forbidden".into())),
    case("drain.local-data", |w| block(w, Obstacle::LocalData))
        .blind(|w| w.running().drains = Err("forbidden".into())),
    case("drain.room", |w| {
        let why = "too little memory on 1 node".into();
        w.drain().homeless = vec![Homeless {
            pod: pod("web-1"),
            why,
        }];
    })
    .blind(|w| w.running().drains = Err("forbidden".into())),
    case("drain.local-volumes", |w| {
        let (name, claim) = ("pv-1".into(), Some("shop/data".into()));
        w.running().volumes = Ok(vec![LocalVolume { name, claim }]);
    })
    .blind(|w| w.running().volumes = Err("forbidden".into())),
    case("resources.cpu", |w| w.facts("m1").cpus = 1).blind(|w| w.facts("m1").cpus = 0),
    case("resources.memory", |w| w.facts("m1").memory = 1 << 30)
        .blind(|w| w.facts("w1").memory = 0),
    case("resources.disk", |w| {
        w.facts("w1").disks.get_mut("/var/lib/chasi").unwrap().free = 100 << 20;
    })
    .blind(|w| w.sizes = Known::Unknown("a layer is not here".into())),
    case("network.node-address", |w| w.facts("w1").interfaces.clear()),
    case("network.default-route", |w| {
        w.facts("w1").default_routes.clear()
    }),
    case("network.ports", |w| {
        w.facts("w1").listeners = vec![listener(10_250, "nginx")];
    }),
    case("network.overlap", |w| {
        w.facts("w1").interfaces[0].addresses[0].ip = [10, 96, 3, 4].into();
    }),
    case("network.routes", |w| {
        w.facts("w1")
            .destinations
            .push(destination("10.244.8.0", 24));
    }),
    case("network.node-cidr", |w| {
        w.cluster.network.pod_cidrs = vec!["10.244.0.0/23".parse().unwrap()];
    }),
    case("network.resolver", |w| {
        let servers = &mut w.facts("w1").name_servers;
        servers.file = None;
        servers.servers.clear();
        servers.stub = true;
    }),
    case("network.hosts-file", |w| {
        w.facts("w1").hosts_file.as_mut().unwrap().push(HostsLine {
            address: [10, 9, 9, 9].into(),
            names: vec!["m1".into()],
        });
    })
    .blind(|w| w.facts("w1").hosts_file = None),
    case("network.proxy", |w| {
        w.facts("w1").proxies = vec![Proxy {
            file: "/etc/environment".into(),
            variable: "HTTPS_PROXY".into(),
            except: "10.244.0.0/16".into(),
        }];
    }),
    case("network.firewall", |w| {
        w.facts("w1").firewalls = vec!["firewalld".into()];
    }),
    case("residue.etcd", |w| {
        w.facts("m1").residue = vec!["/var/lib/etcd".into()];
    }),
    case("residue.kubernetes", |w| {
        w.facts("m1").residue = vec!["/etc/kubernetes".into()];
    }),
    case("residue.runtime", |w| {
        let process = listener(1, "dockerd").process;
        w.facts("m1").processes.extend(process);
    }),
    case("residue.interfaces", |w| {
        w.facts("m1").interfaces[0].name = "cni0".into();
    }),
];

/// Checks that say the same of every host, whatever it is.
pub(super) const CONSTANT: &[&str] = &["versions.signature"];
