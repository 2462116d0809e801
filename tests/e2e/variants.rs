//! Another site: an ordinary user with sudo, names that the hosts do not have yet,
//! two address families, labels and taints, Debian's own container runtime, and
//! plugins.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::hooks;
use crate::lab::{Lab, chasi, succeed, until};
use crate::site::Site;
use crate::traces::Traces;
use crate::watched::Watched;

/// Debian's containerd in a cluster image of its own, in the site's store.
fn build_image(site: &Site) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context = tempfile::tempdir().unwrap();
    let mirror =
        |arguments: &[&str]| succeed(Command::new(root.join("scripts/mirror")).args(arguments));
    mirror(&["build", "debian-containerd"]);
    let runtime = mirror(&["path", "debian-containerd"]);
    let source = root.join("tests/e2e/debian-containerd/.");
    succeed(
        Command::new("cp")
            .args(["-r", "--"])
            .args([&source, &Path::new(runtime.trim()).join("bin")])
            .arg(context.path()),
    );
    let build = |arguments: &[&str], context: &Path| {
        succeed(
            chasi()
                .args(["--quiet", "build"])
                .args(arguments)
                .arg(context)
                .env("CHASI_STORE", site.path("store")),
        )
    };
    build(&["-t", "chasi/containerd:debian"], context.path());
    let lock = site.path("debian.lock");
    let arguments = [
        "-t",
        "chasi/demo:debian",
        "--build-arg",
        "CONTAINERD=chasi/containerd:debian",
        "--lock-file",
        lock.to_str().unwrap(),
    ];
    build(&arguments, &root.join("images/demo"));
}

#[test]
fn an_older_runtime_two_families_and_an_ordinary_user() {
    let site = Site::shared();
    build_image(&site);
    hooks::build_image(&site, "chasi/demo:debian");
    let file = site.path("variant.yaml");
    let lab = Lab::up(&[
        "--hosts",
        "2",
        "--masters",
        "1",
        "--user",
        "ops",
        "--dual-stack",
        "--image",
        hooks::IMAGE,
        "--write",
        file.to_str().unwrap(),
    ]);
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("name: node-1", "name: alpha")
        .replace("name: node-2", "name: beta")
        .replace(
            "roles: [worker]",
            "roles: [worker]\n      labels: {topology.kubernetes.io/zone: east}\n      \
             taints: ['example.com/dedicated=storage:PreferNoSchedule']",
        )
        .replace(
            "  hosts:\n",
            &format!(
                "{}  network:\n    podCIDRs: [10.244.0.0/16, 'fd00:10:244::/56']\n    \
                 serviceCIDRs: [10.96.0.0/16, 'fd00:10:96::/112']\n  hosts:\n",
                hooks::PLUGINS
            ),
        );
    let bare = Traces::on(&lab, &["node-1", "node-2"]);
    site.write("variant.yaml", &text);
    let run = |arguments: &[&str]| -> Value {
        let mut command = site.chasi_with(arguments, "variant.yaml");
        serde_json::from_str(&succeed(command.args(["--format", "json"]))).unwrap()
    };
    // Each way carries what the interfaces send, in both families.
    let checked = run(&["check", "pre", "--only", "network.mtu"]);
    let ways = checked["findings"].as_array().unwrap();
    assert_eq!(ways.len(), 2, "{checked:#}");
    for way in ways {
        let seen = way["seen"].as_str().unwrap_or_default();
        assert_eq!(seen.matches(" bytes").count(), 2, "{way:#}");
    }
    let watched = |arguments: &[&str], file: &str| {
        let arguments = [arguments, &["--format", "json"]].concat();
        Watched::start(site.chasi_with(&arguments, file))
    };
    let run_again = || watched(&["run", "--yes"], "variant.yaml");
    hooks::write_secret(&site);
    hooks::install(&lab, run_again);

    let kubectl = |arguments: &str| -> Value {
        let command = format!(
            "kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf {arguments} -o json"
        );
        serde_json::from_str(&lab.sh("node-1", &command)).unwrap()
    };
    let node = kubectl("get node beta");
    let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
    assert!(
        runtime.unwrap().starts_with("containerd://1.6."),
        "{runtime:?}"
    );
    assert_eq!(
        node["metadata"]["labels"]["topology.kubernetes.io/zone"],
        "east"
    );
    assert_eq!(
        node["metadata"]["labels"]["node-role.kubernetes.io/worker"],
        ""
    );
    // A node that became ready just now may still have the taint of one that is not.
    let taints = node["spec"]["taints"].as_array().unwrap().iter();
    let own = |taint: &&Value| {
        !taint["key"]
            .as_str()
            .unwrap()
            .starts_with("node.kubernetes.io/")
    };
    assert_eq!(
        taints.filter(own).collect::<Vec<_>>(),
        [
            &serde_json::json!({"key": "example.com/dedicated", "value": "storage", "effect": "PreferNoSchedule"})
        ]
    );
    assert_eq!(families(&node["spec"]["podCIDRs"]), [4, 6]);
    assert_eq!(
        lab.sh("node-2", "hostname; cat /etc/hostname"),
        "beta\nbeta\n"
    );
    let alpha = kubectl("get node alpha");
    let mut taints = alpha["spec"]["taints"].as_array().unwrap().iter();
    assert!(taints.any(|taint| taint["key"] == "node-role.kubernetes.io/control-plane"));

    // Pods answer on both families, from the other node.
    until("that the web server's pods run", 120, || {
        let pods = kubectl("-n demo get pods");
        let ready = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
        match ready.count() {
            2 => Ok(()),
            count => Err(format!("{count} of 2 are ready")),
        }
    });
    let pods = kubectl("-n demo get pods");
    for ip in pods["items"][0]["status"]["podIPs"].as_array().unwrap() {
        let ip = ip["ip"].as_str().unwrap();
        let get = format!(
            "exec 3<>/dev/tcp/{ip}/8080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3"
        );
        let get = format!("timeout 10 bash -c \"{}\"", get.replace('"', "\\\""));
        until("an answer from the other node", 60, || {
            let answer = lab.try_sh("node-1", &get);
            match String::from_utf8_lossy(&answer.stdout).contains("200") {
                true => Ok(()),
                false => Err(format!("{ip}: {answer:?}")),
            }
        });
    }
    hooks::assert_applied(&lab);
    hooks::open(&lab);
    hooks::assert_closed(&lab);
    assert_eq!(run(&["run", "--yes"])["steps"], 0);
    hooks::assert_secret(&site, &lab);
    hooks::assert_bounded(&lab, run_again);
    site.write("off.yaml", &hooks::turned_off(&text));
    hooks::assert_turned_off(&lab, |arguments| watched(arguments, "off.yaml"));
    run(&["run", "--yes"]);
    let plan = || run(&["run", "--dry-run"]);
    let ignoring = ["run", "--yes", "--ignore", "network.resolver"];
    hooks::assert_repaired(&lab, plan, || run(&ignoring));
    // What was ignored is remembered with the run.
    let history = lab.sh("node-1", "tail -1 /var/lib/chasi/cluster/history.jsonl");
    let last: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(last["ignored"], serde_json::json!(["network.resolver"]));
    hooks::assert_drained(&lab, |arguments| {
        let all = [&["node"], arguments].concat();
        succeed(&mut site.chasi_with(&all, "variant.yaml"));
    });
    run(&["delete", "--yes"]);
    hooks::assert_undone(&lab);
    assert!(hooks::is_reached(&lab, "node-2", 8099));
    hooks::close(&lab);
    until("that the hosts are as they were", 60, || {
        let left = bare.differences(&Traces::on(&lab, &["node-1", "node-2"]));
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join("\n")),
        }
    });
    assert_eq!(
        lab.sh("node-2", "hostname; cat /etc/hostname"),
        "node-2\nnode-2\n"
    );
}

fn families(list: &Value) -> Vec<u8> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|one| match one.as_str().unwrap().contains(':') {
            true => 6,
            false => 4,
        })
        .collect()
}
