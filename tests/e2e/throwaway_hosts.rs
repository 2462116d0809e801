//! `chasi lab` itself: what it makes, what can be done to hosts, and that nothing
//! is left of it, whatever happened.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, chasi, succeed, until};
use crate::site::Site;

#[test]
fn hosts_are_bare_separate_machines_that_reach_each_other_and_nothing_else() {
    let lab = Lab::up(&["--hosts", "2", "--nics", "2"]);
    let ids: BTreeSet<_> = ["node-1", "node-2"]
        .iter()
        .map(|host| lab.sh(host, "cat /etc/machine-id"))
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(lab.sh("node-2", "hostname"), "node-2\n");
    // Its SSH server answers before all of it has started.
    let running = "systemctl is-system-running --wait";
    assert_eq!(lab.sh("node-1", running), "running\n");
    for absent in [
        "iptables",
        "conntrack",
        "curl",
        "modprobe",
        "ebtables",
        "socat",
    ] {
        assert!(
            !lab.try_sh("node-1", &format!("command -v {absent}"))
                .status
                .success(),
            "{absent}"
        );
    }
    assert_eq!(lab.sh("node-1", "cat /proc/sys/net/ipv4/ip_forward"), "0\n");

    let second = lab.host("node-2")["secondAddresses"][1]
        .as_str()
        .unwrap()
        .to_owned();
    for address in [lab.address("node-2"), second] {
        until_reached(&lab, "node-1", &address, 22);
    }
    let machine = lab.address("node-1").replace(".0.11", ".0.1");
    let listener = std::net::TcpListener::bind((machine.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    until_reached(&lab, "node-1", &machine, port);
    assert!(!reaches(&lab, "node-1", "192.0.2.77", 22), "the world");

    // A pod's group is in its host's, and so out of sight of other hosts.
    let groups = "cat /proc/self/cgroup; find /sys/fs/cgroup -name pod-of-one";
    lab.sh("node-1", "for d in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do [ -e $d ] && mkdir ${d%/*}/pod-of-one; done; true");
    assert!(lab.sh("node-1", groups).contains("pod-of-one"));
    assert!(!lab.sh("node-2", groups).contains("pod-of-one"));
    assert!(!lab.sh("node-2", groups).contains("chasi"));
}

#[test]
fn ssh_knows_the_hosts_and_lets_three_users_in() {
    let lab = Lab::up(&["--hosts", "1"]);
    let ssh = |user: &str, script: &str| {
        succeed(
            lab.command("ssh")
                .args(["--user", user, "node-1", "--", script]),
        )
    };
    assert_eq!(ssh("root", "id -un"), "root\n");
    assert_eq!(ssh("ops", "sudo -n id -un"), "root\n");
    assert_eq!(
        ssh("admin", "echo chasi-lab | sudo -S -p '' id -un"),
        "root\n"
    );
    let output = lab
        .command("ssh")
        .args(["--user", "admin", "node-1", "--", "sudo -n id"])
        .output();
    assert!(
        !output.unwrap().status.success(),
        "sudo must ask admin for a password"
    );
}

#[test]
fn a_command_on_a_host_gives_its_own_exit_code_and_needs_no_network() {
    let lab = Lab::up(&["--hosts", "1"]);
    assert_eq!(lab.try_sh("node-1", "exit 7").status.code(), Some(7));
    lab.run("net", &["node-1", "cut"]);
    lab.sh("node-1", "systemctl stop ssh");
    assert_eq!(lab.sh("node-1", "cat /etc/hostname"), "node-1\n");
}

#[test]
fn a_crashed_host_keeps_its_disk_and_a_reset_one_does_not() {
    let lab = Lab::up(&["--hosts", "2"]);
    let key = lab.host("node-1")["hostKey"].clone();
    lab.sh(
        "node-1",
        "echo here >/root/mark; systemctl mask --now ssh; setsid sh -c 'kill -STOP $$' >/dev/null 2>&1 </dev/null &",
    );
    lab.run("kill", &["node-1"]);
    assert_eq!(lab.host("node-1")["power"], "off");
    let refused = lab.try_sh("node-1", "true");
    assert_eq!(refused.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chasi lab start node-1"));

    // It cannot be reached by SSH, and start says so, with the console.
    let start = lab
        .command("start")
        .args(["node-1", "--timeout", "5"])
        .output()
        .unwrap();
    assert_eq!(start.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&start.stderr).contains("no SSH server answers"));
    assert_eq!(lab.sh("node-1", "cat /root/mark"), "here\n");

    lab.run("reset", &["node-1"]);
    assert!(!lab.try_sh("node-1", "test -e /root/mark").status.success());
    assert_eq!(lab.host("node-1")["hostKey"], key);
    lab.run("ssh", &["node-1", "--", "true"]);

    lab.sh("node-2", "echo here >/root/mark");
    lab.run("poweroff", &["node-2"]);
    assert_eq!(lab.host("node-2")["power"], "off");
    lab.run("start", &["node-1", "node-2"]);
    assert_eq!(lab.sh("node-2", "cat /root/mark"), "here\n");
    assert_eq!(lab.status().unwrap()["condition"], "up");
}

#[test]
fn links_are_cut_limited_lossy_and_narrow_until_restored() {
    let lab = Lab::up(&["--hosts", "2"]);
    let two = lab.address("node-2");
    let condition = || lab.host("node-2")["links"][0].clone();

    lab.run("net", &["node-2", "cut"]);
    assert!(!reaches(&lab, "node-1", &two, 22));
    lab.run("kill", &["node-2"]);
    lab.run("start", &["node-2"]);
    assert!(
        !reaches(&lab, "node-1", &two, 22),
        "a cable stays cut when the host is started"
    );
    assert_eq!(condition(), serde_json::json!({"cut": true}));
    lab.run("net", &["node-2", "restore"]);
    until_reached(&lab, "node-1", &two, 22);
    assert_eq!(condition(), serde_json::json!({}));

    lab.run("net", &["node-2", "lose", "100"]);
    assert!(!reaches(&lab, "node-1", &two, 22));
    lab.run("net", &["node-2", "restore"]);

    lab.run("net", &["node-2", "mtu", "1280"]);
    assert_eq!(lab.sh("node-2", "cat /sys/class/net/host0/mtu"), "1280\n");
    assert_eq!(lab.sh("node-1", "cat /sys/class/net/host0/mtu"), "1500\n");

    lab.run("net", &["node-2", "limit", "8mbit"]);
    let begin = Instant::now();
    let copy = "head -c 3000000 /dev/zero";
    let received = succeed(lab.command("ssh").args(["node-2", "--", copy])).len();
    assert_eq!(received, 3_000_000);
    // 24 Mbit at 8 Mbit/s; without a limit it takes no time at all.
    assert!(
        begin.elapsed() > Duration::from_millis(2500),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        condition(),
        serde_json::json!({"rate": 8_000_000, "mtu": 1280})
    );
    lab.run("net", &["node-2", "restore"]);
    assert_eq!(lab.sh("node-2", "cat /sys/class/net/host0/mtu"), "1500\n");
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let lab = Lab::up(&["--hosts", "1"]);
    let refused = |command: &mut Command, code: i32, text: &str| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), said.contains(text)),
            (Some(code), true),
            "{said}"
        );
    };
    refused(&mut lab.command("up"), 1, "chasi lab down --name");
    refused(lab.command("kill").arg("node-2"), 8, "Its hosts are node-1");
    refused(
        lab.command("net").args(["node-1", "limit"]),
        2,
        "a value is missing",
    );
    refused(
        lab.command("net").args(["node-1", "cut", "--nic", "2"]),
        2,
        "--nics 2",
    );
    refused(
        chasi().args(["lab", "exec", "--name", "nowhere", "x", "--", "true"]),
        8,
        "chasi lab list",
    );
    refused(
        chasi().args(["lab", "up", "--name", "a/b"]),
        2,
        "not a name for a lab",
    );
    refused(
        chasi().args(["lab", "up", "--name", "x", "--hosts", "2", "--masters", "3"]),
        2,
        "cannot be",
    );
    let down = succeed(chasi().args(["lab", "down", "--name", "nowhere"]));
    assert_eq!(down, "");
}

#[test]
fn a_clusterfile_names_the_hosts_as_they_are() {
    let lab = Lab::up(&["--hosts", "2"]);
    let text = lab.run("clusterfile", &["--image", "demo:1", "--masters", "2"]);
    for part in [
        lab.address("node-2"),
        lab.host("node-2")["hostKey"].as_str().unwrap().to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is not in\n{text}");
    }
    assert_eq!(text.matches("[control-plane]").count(), 2);
}

#[test]
fn down_leaves_the_machine_as_it_was() {
    let before = Machine::now();
    let (a, b) = (
        Lab::up(&["--hosts", "2", "--nics", "2"]),
        Lab::up(&["--hosts", "1"]),
    );
    assert_ne!(a.address("node-1"), b.address("node-1"));
    // What kubelets and container runtimes do to a machine.
    a.sh(
        "node-1",
        "echo 10 >/proc/sys/kernel/panic; echo 1 >/proc/sys/vm/overcommit_memory",
    );
    a.sh(
        "node-1",
        "mkdir -p /run/a && mount -t tmpfs none /run/a && ip link add x type bridge",
    );
    a.sh("node-2", "setsid sleep 600 >/dev/null 2>&1 </dev/null &");
    // A frozen process, as of a paused container. It must have become `sleep`, or what
    // is frozen still holds the pipe that this test reads.
    let freeze = "d=/sys/fs/cgroup/freezer/x; mkdir $d || exit 0; \
        sleep 600 >/dev/null 2>&1 </dev/null & \
        until grep -q sleep /proc/$!/comm; do :; done; \
        echo $! >$d/cgroup.procs; echo FROZEN >$d/freezer.state";
    a.sh("node-2", freeze);
    a.run("net", &["node-1", "lose", "10"]);
    a.run("net", &["node-2", "cut"]);
    a.run("kill", &["node-1"]);
    drop(a);
    drop(b);
    before.assert_same();
}

#[test]
fn nothing_is_left_of_an_up_that_was_killed_or_interrupted() {
    let before = Machine::now();
    let name = format!("e2e-killed-{}", std::process::id());
    let stages: [&dyn Fn(&Path) -> bool; 4] = [
        &|lab| lab.exists(),
        &|lab| lab.join("known_hosts").exists(),
        &|lab| lab.join("hosts/node-1/root.new").exists(),
        &|lab| lab.join("hosts/node-1/console.log").exists(),
    ];
    for signal in ["KILL", "INT"] {
        for (number, reached) in stages.iter().enumerate() {
            let mut up = begin_up(&name);
            wait_for(&mut up, || reached(&lab_directory(&name)));
            succeed(Command::new("kill").args(["-s", signal, &up.id().to_string()]));
            let status = up.wait().unwrap();
            if signal == "INT" && status.code() == Some(130) {
                assert!(!lab_directory(&name).exists(), "stage {number}");
            }
            succeed(chasi().args(["lab", "down", "--stale"]));
            if status.success() {
                // It was faster than the signal.
                succeed(chasi().args(["lab", "down", "--name", &name]));
            }
            assert!(
                !lab_directory(&name).exists(),
                "stage {number} after {signal}"
            );
        }
    }
    before.assert_same();
}

#[test]
fn a_lab_whose_owner_is_gone_is_stale() {
    let name = format!("e2e-owned-{}", std::process::id());
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let owned = [
        "--quiet", "lab", "up", "--hosts", "1", "--name", &name, "--owner",
    ];
    succeed(chasi().args(owned).arg(owner.id().to_string()));
    succeed(chasi().args(["lab", "down", "--stale"]));
    assert!(lab_directory(&name).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let list = succeed(chasi().args(["lab", "list"]));
    assert!(
        list.lines()
            .any(|line| line.starts_with(&name) && line.contains("stale")),
        "{list}"
    );
    succeed(chasi().args(["lab", "down", "--stale"]));
    assert!(!lab_directory(&name).exists());
}

/// Whether a TCP connection from a host succeeds within moments.
fn reaches(lab: &Lab, host: &str, address: &str, port: u16) -> bool {
    let connect = format!("timeout 3 bash -c '</dev/tcp/{address}/{port}'");
    lab.try_sh(host, &connect).status.success()
}

/// Waits until a TCP connection from a host succeeds: a busy machine takes its time.
fn until_reached(lab: &Lab, host: &str, address: &str, port: u16) {
    let what = format!("that {host} reaches {address}");
    until(&what, 60, || match reaches(lab, host, address, port) {
        true => Ok(()),
        false => Err("nobody answered".into()),
    });
}

fn begin_up(name: &str) -> Child {
    chasi()
        .args(["--quiet", "lab", "up", "--hosts", "1", "--name", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // The signal is for it alone, as from `kill`, and not for what it runs.
        .process_group(0)
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !reached() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not get that far");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lab_directory(name: &str) -> std::path::PathBuf {
    let state = match std::env::var_os("XDG_STATE_HOME") {
        Some(path) => path.into(),
        None => Path::new(&std::env::var_os("HOME").unwrap()).join(".local/state"),
    };
    state.join("chasi/lab").join(name)
}

/// All of the machine that a lab touches, as lines.
struct Machine(BTreeSet<String>);

impl Machine {
    fn now() -> Machine {
        // Its hosts' processes come and go.
        Site::remove();
        let mut lines = BTreeSet::new();
        let mut add = |kind: &str, text: &str| {
            lines.extend(text.lines().map(|line| format!("{kind}: {line}")));
        };
        add("mount", &fs::read_to_string("/proc/mounts").unwrap());
        for (kind, command) in [
            ("link", "ip -br link"),
            ("address", "ip -br addr"),
            ("route", "ip route show table all"),
            ("route", "ip -6 route show table all"),
            ("rule", "ip rule"),
            ("rule", "ip -6 rule"),
            ("qdisc", "tc qdisc"),
            ("nft", "nft list ruleset"),
            ("group", "find /sys/fs/cgroup -type d -name 'chasi*'"),
            ("group", "find /sys/fs/cgroup -maxdepth 2 -type d"),
            ("run", "find /run/chasi /run/systemd/nspawn"),
            ("process", "ps -e -o args="),
            (
                "parameter",
                "find /proc/sys/kernel /proc/sys/vm /proc/sys/fs -type f -perm -200",
            ),
        ] {
            let output = Command::new("sh").args(["-c", command]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if kind == "parameter" {
                for path in text.lines().filter(|path| !changes_by_itself(path)) {
                    // Some can be written only.
                    let value = fs::read(path).unwrap_or_default();
                    add(path, &String::from_utf8_lossy(&value));
                }
            } else if kind == "process" {
                // One that has ended and waits for the machine's first process to take
                // note of it is none any more.
                let own =
                    |line: &&str| line.contains("systemd-nspawn") && !line.contains("<defunct>");
                text.lines().filter(own).for_each(|line| add(kind, line));
            } else {
                add(kind, &text);
            }
        }
        Machine(lines)
    }

    fn assert_same(&self) {
        // The kernel takes a moment to remove what nobody uses any more.
        until("that the machine is as it was", 60, || {
            let now = Machine::now();
            let left: Vec<_> = now.0.difference(&self.0).collect();
            let gone: Vec<_> = self.0.difference(&now.0).collect();
            match left.is_empty() && gone.is_empty() {
                true => Ok(()),
                false => Err(format!("left: {left:#?}\ngone: {gone:#?}")),
            }
        });
    }
}

/// Counters and random numbers among the kernel's parameters.
fn changes_by_itself(path: &str) -> bool {
    ["/random/", "ns_last_pid", "-state", "-nr", "binfmt_misc"]
        .iter()
        .any(|part| path.contains(part))
}
