//! Plugins on lab hosts: those that chasi ships and one of the image's own. They run
//! in the cluster of `variants`, which sets up and deletes a site anyway.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, chasi, succeed, until};
use crate::site::Site;
use crate::watched::{Ended, Watched};

/// The image with plugins.
pub const IMAGE: &str = "chasi/demo:plugins";

/// What the Clusterfile says of plugins.
pub const PLUGINS: &str = "  plugins:
    - {name: sysctl, settings: {profiles: [network]}}
    - {name: firewall, settings: {allow: [tcp/8098]}}
    - {name: time-zone, settings: {zone: Etc/GMT-3}}
    - {name: mark, settings: {key: {file: mark.key}}}
";

/// What `mark` must be told.
const SECRET: &str = "seven-white-mice";

/// Writes the secret where the Clusterfile says.
pub fn write_secret(site: &Site) {
    site.write("mark.key", &format!("{SECRET}\n"));
}

/// The secret is on no host, and nowhere in what the controller keeps.
pub fn assert_secret(site: &Site, lab: &Lab) {
    for host in ["node-1", "node-2"] {
        let found = lab.try_sh(host, &format!("grep -rIl {SECRET} /etc /var /run /tmp"));
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{host}");
        lab.sh(host, "grep -q salt /var/lib/chasi/hooks/applied.json");
    }
    let state = site.path("state");
    let found = Command::new("grep")
        .arg("-rl")
        .arg(SECRET)
        .arg(&state)
        .output();
    let found = found.unwrap();
    assert!(found.stdout.is_empty(), "{found:?}");
    assert!(std::fs::read_dir(state.join("chasi/logs")).unwrap().count() > 0);
}

/// An image on top of `base` with chasi's plugins and one of its own.
pub fn build_image(site: &Site, base: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context = tempfile::tempdir().unwrap();
    let build = |name: &str, context: &Path| {
        succeed(
            chasi()
                .args(["--quiet", "build", "-t", name, "--lock-file"])
                .arg(site.path("plugins.lock"))
                .arg(context)
                .env("CHASI_STORE", site.path("store")),
        )
    };
    build("chasi/plugins:1", &root.join("plugins"));
    let own = root.join("tests/e2e/mark");
    succeed(
        Command::new("cp")
            .args(["-r", "--"])
            .arg(own)
            .arg(context.path()),
    );
    copy_nft(context.path());
    let kubefile = format!(
        "FROM {base}\nINCLUDE chasi/plugins:1\nLAYER app\nCOPY mark /chasi/hooks/mark/\n\
         COPY nft /opt/nft/\nCOPY --chmod=0755 nft.sh /usr/local/bin/nft\n"
    );
    std::fs::write(context.path().join("Kubefile"), kubefile).unwrap();
    build(IMAGE, context.path());
}

/// The machine's `nft` with its libraries: bare hosts have none.
fn copy_nft(context: &Path) {
    let nft = "/usr/sbin/nft";
    let libraries = succeed(Command::new("ldd").arg(nft));
    let paths: Vec<&str> = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect();
    let loader = paths.iter().find(|path| path.contains("/ld-")).unwrap();
    let to = context.join("nft");
    std::fs::create_dir(&to).unwrap();
    succeed(Command::new("cp").arg("-L").args(&paths).arg(nft).arg(&to));
    let loader = Path::new(loader).file_name().unwrap().to_str().unwrap();
    let script =
        format!("#!/bin/sh\nexec /opt/nft/{loader} --library-path /opt/nft /opt/nft/nft \"$@\"\n");
    std::fs::write(context.join("nft.sh"), script).unwrap();
}

/// A service that takes connections on two ports, until [`close`].
pub fn open(lab: &Lab) {
    let listen = "systemd-run --quiet --unit=e2e-listen systemd-socket-activate --accept --inetd \
                  --listen=8098 --listen=8099 cat";
    lab.sh("node-2", listen);
    until("that it listens", 10, || {
        match lab.sh("node-2", "ss -ltnH").contains(":8099 ") {
            true => Ok(()),
            false => Err("nobody listens".into()),
        }
    });
}

/// Ends what [`open`] began.
pub fn close(lab: &Lab) {
    lab.sh("node-2", "systemctl stop e2e-listen.service");
}

/// Whether this machine, which is no host of the cluster, reaches a port.
pub fn is_reached(lab: &Lab, host: &str, port: u16) -> bool {
    let address = format!("{}:{port}", lab.address(host)).parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

/// The firewall closes what is not the cluster's, and nothing else.
pub fn assert_closed(lab: &Lab) {
    let reached = |port| is_reached(lab, "node-2", port);
    for port in [22, 8098] {
        until("that what is allowed is reached", 30, || {
            match reached(port) {
                true => Ok(()),
                false => Err(format!("{port} is closed")),
            }
        });
    }
    let patch = r#"{"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}}"#;
    let kubectl = "kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf";
    lab.sh(
        "node-1",
        &format!("{kubectl} -n demo patch service web -p '{patch}'"),
    );
    until(
        "that the Service is reached from outside",
        30,
        || match reached(30080) {
            true => Ok(()),
            false => Err("30080 is closed".into()),
        },
    );
    assert!(!reached(8099), "8099 is open");
    assert!(!reached(10250), "kubelet's port is open");
    assert!(is_reached(lab, "node-1", 6443) && !is_reached(lab, "node-1", 2379));
    let own = "timeout 5 bash -c '</dev/tcp/127.0.0.1/8099'";
    assert!(lab.try_sh("node-2", own).status.success());
    // Another host is not allowed either, and is told so at once.
    let other = format!(
        "timeout 5 bash -c '</dev/tcp/{}/8099'",
        lab.address("node-2")
    );
    let said = lab.try_sh("node-1", &other);
    assert!([Some(1)].contains(&said.status.code()), "{said:?}");
    let kubelet = format!(
        "timeout 5 bash -c '</dev/tcp/{}/10250'",
        lab.address("node-2")
    );
    assert!(lab.try_sh("node-1", &kubelet).status.success());
}

/// What the plugins did is there, and they ran in order.
pub fn assert_applied(lab: &Lab) {
    for host in ["node-1", "node-2"] {
        assert_eq!(lab.sh(host, "cat /proc/sys/net/core/somaxconn"), "32768\n");
        assert_eq!(lab.sh(host, "cat /etc/mark-after-host"), "hello\n");
        assert_eq!(lab.sh(host, "date +%z"), "+0300\n");
        let log = lab.sh(host, "cat /var/log/mark.log");
        let expected = "apply before-host\napply after-host\napply before-join\napply after-join\n";
        assert_eq!(log, expected, "{host}");
    }
}

/// A command that plugins of one host must keep from its end there; what it told has
/// these parts.
fn fails_in_part(run: Watched, parts: &[&str]) -> Ended {
    let ended = run.end();
    assert_eq!(ended.code, Some(5), "{}", ended.told);
    for part in parts {
        assert!(ended.told.contains(part), "{part}: {}", ended.told);
    }
    ended
}

/// The first install. A plugin fails on one host: the other one gets done, that one is
/// not begun, and when what was wrong is mended the same command goes on.
pub fn install(lab: &Lab, run: impl Fn() -> Watched) {
    lab.sh("node-2", "touch /etc/mark-must-fail");
    let parts = [
        "the plugin `mark` failed to apply at before-host: it exited with 3",
        "no luck",
        "run the same command again",
    ];
    fails_in_part(run(), &parts);
    assert_eq!(lab.sh("node-1", "cat /etc/mark-after-join"), "hello\n");
    lab.sh("node-2", "test ! -e /var/lib/chasi/node");
    lab.sh("node-2", "rm /etc/mark-must-fail /var/log/mark.log");
    run().succeed();
}

/// A plugin that takes too long is ended with what it began, and one during which the
/// controller dies is completed.
pub fn assert_bounded(lab: &Lab, run: impl Fn() -> Watched) {
    lab.sh(
        "node-2",
        "echo 7777 >/etc/mark-must-wait; rm /etc/mark-after-host",
    );
    fails_in_part(run(), &["ended after 6 s"]);
    lab.sh(
        "node-2",
        "! pgrep -f '^sleep 7777'; test ! -e /etc/mark-after-host",
    );

    lab.sh(
        "node-2",
        "echo 3 >/etc/mark-must-wait; : >/var/log/mark.log",
    );
    let log = || lab.sh("node-2", "cat /var/log/mark.log");
    let mut killed = run();
    killed.wait_for_step("run the plugin `mark` (after-host)", Some("beta"));
    until("that the plugin has begun", 30, || match log().as_str() {
        "" => Err("nothing in its log".into()),
        _ => Ok(()),
    });
    killed.crash();
    // The next run waits for the agent, and finds it done.
    run().succeed();
    assert_eq!(log(), "apply after-host\n");
    assert_eq!(lab.sh("node-2", "cat /etc/mark-after-host"), "hello\n");
    lab.sh("node-2", "rm /etc/mark-must-wait");
}

/// The Clusterfile without two of the plugins.
pub fn turned_off(clusterfile: &str) -> String {
    let plugins: Vec<&str> = PLUGINS.split_inclusive('\n').collect();
    let line = |name: &str| *plugins.iter().find(|line| line.contains(name)).unwrap();
    clusterfile
        .replace(line("firewall"), "")
        .replace(line("mark"), "    - {name: mark, enabled: false}\n")
}

/// Plugins that the Clusterfile turns off are undone by the next run, and one whose way
/// back fails can be left as it is.
pub fn assert_turned_off(lab: &Lab, run: impl Fn(&[&str]) -> Watched) {
    lab.sh("node-2", "touch /etc/mark-must-stay");
    let parts = ["failed to undo", "no way back", "--leave-plugin mark"];
    fails_in_part(run(&["run", "--yes"]), &parts);
    lab.sh("node-1", "! ls /etc/mark-*");
    run(&["run", "--yes", "--leave-plugin", "mark"]).succeed();
    assert!(is_reached(lab, "node-2", 8099));
    let left = lab.sh("node-2", "rm /etc/mark-must-stay; ls /etc | grep ^mark-");
    assert_eq!(
        left,
        "mark-after-host\nmark-after-join\nmark-before-host\nmark-before-join\n"
    );
    assert_eq!(run(&["run", "--yes"]).succeed()["steps"], 0);
}

/// What someone changed is planned, and made right, and nothing else.
pub fn assert_repaired(lab: &Lab, plan: impl Fn() -> Value, run: impl Fn() -> Value) {
    lab.sh("node-2", "rm /etc/mark-after-host; : >/var/log/mark.log");
    let steps = plan()["stages"][0]["steps"].clone();
    assert_eq!(
        steps,
        json!([{
            "host": "beta",
            "action": {
                "action": "run-plugin", "plugin": "mark", "phase": "after-host",
                "why": "the mark is missing", "undo": true,
                "changes": {"paths": ["/etc/mark-*"], "units": [], "sysctls": [], "other": []},
            },
            "undoable": true,
        }])
    );
    assert_eq!(run()["steps"], 1);
    assert_eq!(lab.sh("node-2", "cat /etc/mark-after-host"), "hello\n");
    assert_eq!(
        lab.sh("node-2", "cat /var/log/mark.log"),
        "apply after-host\n"
    );
    lab.sh("node-2", ": >/var/log/mark.log");
}

/// They run before and after a drain by hand.
pub fn assert_drained(lab: &Lab, node: impl Fn(&[&str])) {
    lab.sh("node-1", ": >/var/log/mark.log");
    node(&[
        "drain",
        "alpha",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
    ]);
    node(&["uncordon", "alpha"]);
    let log = lab.sh("node-1", "cat /var/log/mark.log");
    assert_eq!(log, "apply before-drain\napply after-drain\n");
}

/// They were undone, the last first, around the host's own way back.
pub fn assert_undone(lab: &Lab) {
    assert_eq!(
        lab.sh("node-2", "cat /var/log/mark.log"),
        "apply before-leave\nundo after-join\nundo before-join\nundo after-host\n\
         undo before-host\napply after-leave\n"
    );
}
