use super::*;
use std::net::IpAddr;

/// A host with these files.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Facts) {
    let directory = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let facts = Facts::gather(&Root::at(directory.path()).unwrap()).unwrap();
    (directory, facts)
}

#[test]
fn nothing_at_all_is_still_a_host() {
    let (_directory, facts) = host(&[]);
    assert_eq!(facts.hostname, "");
    assert!(matches!(facts.product_uuid, Known::Unknown(ref why) if why.contains("product_uuid")));
    assert_eq!(facts.features["vxlan"], Feature::Unknown);
    assert_eq!(facts.cgroup.version, 1);
    assert!(!facts.restrict_oom_score_adj);
    assert!(facts.managed.parts.is_empty());
}

#[test]
fn the_machine_and_its_system_are_read() {
    let (_directory, facts) = host(&[
        (
            "etc/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n",
        ),
        ("sys/devices/system/cpu/online", "0-3,8,10-11\n"),
        ("proc/meminfo", "MemTotal:       24576 kB\nMemFree: 1 kB\n"),
        (
            "proc/swaps",
            "Filename\tType\tSize\tUsed\tPriority\n/swap\\040file  file  1024 0 -2\n",
        ),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        ("sys/fs/selinux/enforce", "1"),
        (
            "proc/1/status",
            "Name:\tsystemd\nCapEff:\t000001fffeffffff\n",
        ),
        ("run/systemd/container", "systemd-nspawn"),
    ]);
    assert_eq!(
        facts.os,
        Os {
            id: "debian".into(),
            version: "12".into(),
            name: "Debian GNU/Linux 12".into()
        }
    );
    assert_eq!(facts.cpus, 7);
    assert_eq!(facts.memory, 24 << 20);
    assert_eq!(
        facts.swap,
        [Swap {
            path: "/swap file".into(),
            size: 1 << 20
        }]
    );
    assert_eq!(facts.cgroup.version, 2);
    assert!(facts.cgroup.controllers.contains("pids"));
    assert_eq!(facts.security.selinux.as_deref(), Some("enforcing"));
    assert!(facts.restrict_oom_score_adj);
    assert!(!facts.conntrack_writable);
}

#[test]
fn hierarchies_of_the_first_version_are_taken_apart() {
    let (_directory, facts) = host(&[
        ("sys/fs/cgroup/cpu,cpuacct/tasks", ""),
        ("sys/fs/cgroup/memory/tasks", ""),
        ("sys/fs/cgroup/systemd/tasks", ""),
    ]);
    let controllers: Vec<_> = facts
        .cgroup
        .controllers
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(
        (facts.cgroup.version, controllers),
        (1, vec!["cpu", "cpuacct", "memory"])
    );
}

#[test]
fn listeners_are_found_with_who_they_are() {
    let (directory, _) = host(&[
        (
            "proc/net/tcp",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
             \x20  1: 0100007F:0016 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n",
        ),
        (
            "proc/net/tcp6",
            "  sl  local_address ...\n\
             \x20  0: 00000000000000000000000000000000:192C 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4713 1 0\n",
        ),
        ("proc/42/comm", "kube-apiserver\n"),
    ]);
    fs::create_dir_all(directory.path().join("proc/42/fd")).unwrap();
    std::os::unix::fs::symlink("socket:[4711]", directory.path().join("proc/42/fd/3")).unwrap();
    let facts = Facts::gather(&Root::at(directory.path()).unwrap()).unwrap();
    let found: Vec<_> = facts
        .listeners
        .iter()
        .map(|listener| {
            (
                listener.address,
                listener.port,
                listener.process.as_ref().map(|process| process.id),
            )
        })
        .collect();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        found,
        [
            (address("127.0.0.1"), 6443, Some(42)),
            (address("::"), 6444, None)
        ]
    );
    assert_eq!(
        facts.processes,
        [Process {
            id: 42,
            name: "kube-apiserver".into()
        }]
    );
}

#[test]
fn routes_are_read_and_those_that_lead_nowhere_are_not() {
    let (_directory, facts) = host(&[
        (
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth1\t00000000\t0102A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        ),
        (
            "proc/net/ipv6_route",
            "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n",
        ),
    ]);
    let found: Vec<_> = facts
        .default_routes
        .iter()
        .map(|route| {
            (
                route.interface.as_str(),
                route.gateway.unwrap().to_string(),
                route.metric,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("eth0", "192.168.1.1".into(), 100),
            ("eth1", "192.168.2.1".into(), 200),
            ("eth0", "fd00::1".into(), 1024)
        ]
    );
    let network = ("192.168.1.0".parse::<IpAddr>().unwrap(), 24);
    let others: Vec<_> = facts
        .destinations
        .iter()
        .map(|route| (route.network, route.prefix))
        .collect();
    assert_eq!(others, [network]);
}

#[test]
fn name_servers_on_loopback_are_passed_over() {
    let stub = ("etc/resolv.conf", "nameserver 127.0.0.53\n");
    let (_directory, facts) = host(&[
        stub,
        (
            "run/systemd/resolve/resolv.conf",
            "# x\nnameserver 10.0.0.2\n",
        ),
    ]);
    assert_eq!(
        facts.name_servers.file.as_deref(),
        Some("/run/systemd/resolve/resolv.conf")
    );
    assert_eq!(
        facts.name_servers.servers,
        ["10.0.0.2".parse::<IpAddr>().unwrap()]
    );
    let (_directory, facts) = host(&[stub]);
    let nothing_but_a_stub = NameServers {
        stub: true,
        ..NameServers::default()
    };
    assert_eq!(facts.name_servers, nothing_but_a_stub);
}

#[test]
fn the_hosts_file_is_read_without_what_chasi_put_there() {
    let text =
        "127.0.0.1 localhost # us\n# BEGIN chasi\n10.0.0.1 m1\n# END chasi\nfe80::1%eth0 r\n";
    let (_directory, facts) = host(&[("etc/hosts", text)]);
    let lines = facts.hosts_file.unwrap();
    let names: Vec<&str> = lines
        .iter()
        .flat_map(|line| &line.names)
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["localhost", "r"]);
}

#[test]
fn firewall_services_are_found() {
    let (_directory, facts) = host(&[
        ("proc/42/comm", "firewalld\n"),
        ("etc/ufw/ufw.conf", "# x\nENABLED=yes\n"),
    ]);
    assert_eq!(facts.firewalls, ["firewalld", "ufw"]);
}

#[test]
fn features_come_from_wherever_the_kernel_tells() {
    let release = ("proc/sys/kernel/osrelease", "6.1.0\n");
    let (_directory, facts) = host(&[
        release,
        ("sys/module/overlay/refcnt", "1"),
        (
            "lib/modules/6.1.0/modules.builtin",
            "kernel/drivers/net/veth.ko\n",
        ),
        (
            "lib/modules/6.1.0/modules.dep",
            "kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/x.ko\n",
        ),
    ]);
    assert_eq!(facts.features["overlay"], Feature::Present);
    assert_eq!(facts.features["veth"], Feature::Present);
    assert_eq!(facts.features["vxlan"], Feature::Loadable);
    assert_eq!(facts.features["ip_vs"], Feature::Absent);
    let (_directory, facts) = host(&[
        release,
        (
            "boot/config-6.1.0",
            "CONFIG_VXLAN=y\n# CONFIG_IP_VS is not set\n",
        ),
    ]);
    assert_eq!(facts.features["vxlan"], Feature::Present);
    assert_eq!(facts.features["ip_vs"], Feature::Absent);
}

#[test]
fn empty_directories_are_no_residue() {
    let (directory, _) = host(&[("var/lib/etcd/member/wal/0.wal", "x")]);
    fs::create_dir_all(directory.path().join("etc/kubernetes/manifests")).unwrap();
    let facts = Facts::gather(&Root::at(directory.path()).unwrap()).unwrap();
    assert_eq!(facts.residue, ["/var/lib/etcd"]);
}

#[test]
fn facts_of_this_machine_travel_as_json() {
    let facts = Facts::gather(&Root::host().unwrap()).unwrap();
    assert!(facts.cpus > 0 && facts.memory > 0 && !facts.kernel.is_empty());
    assert!(facts.disks["/"].size > 0);
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
}
