//! From bare hosts to a cluster, and again.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, chasi, succeed};

/// The demo image and what it is made of, built from the catalogue.
fn build_images(store: &Path) {
    for (name, folder) in [
        ("chasi/containerd:2.1.5", "containerd"),
        ("chasi/kubernetes:1.34.4", "kubernetes"),
        ("chasi/flannel:0.28.4", "flannel"),
        ("chasi/demo:1.34.4", "demo"),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("images")
            .join(folder);
        let lock = store.join("Kubefile.lock");
        succeed(
            chasi()
                .args(["--quiet", "build", "-t", name, "--lock-file"])
                .arg(lock.with_extension(name.replace(['/', ':'], "-")))
                .arg(folder)
                .env("CHASI_STORE", store),
        );
    }
}

struct Site {
    lab: Lab,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        build_images(&directory.path().join("store"));
        let clusterfile = directory.path().join("Clusterfile");
        let clusterfile = clusterfile.to_str().unwrap();
        let lab = Lab::up(&[
            "--hosts",
            "4",
            "--image",
            "chasi/demo:1.34.4",
            "--write",
            clusterfile,
        ]);
        Site { lab, directory }
    }

    fn chasi(&self, arguments: &[&str]) -> Command {
        let mut command = chasi();
        command
            .args(arguments)
            .args(["-f", "Clusterfile"])
            .current_dir(self.directory.path())
            .env("CHASI_STORE", self.directory.path().join("store"))
            .env("XDG_STATE_HOME", self.state());
        command
    }

    /// The lab's state must stay where `chasi lab` finds it; only that of these
    /// clusters is kept apart.
    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    /// `kubectl` by way of the balancer on a host.
    fn kubectl(&self, host: &str, arguments: &str) -> String {
        self.lab.sh(
            host,
            &format!("kubectl --kubeconfig /etc/kubernetes/admin.conf {arguments}"),
        )
    }

    /// Every file of the host that chasi or its user may have written, with its
    /// content's digest, mode and time of change; units with when they became active.
    fn fingerprint(&self, host: &str) -> String {
        // Left out: the journal of the run itself and the agent's lock, which every
        // run writes; what systemd and kubelet write by themselves.
        self.lab.sh(
            host,
            "find /etc /usr/local /opt /var/lib/chasi -xdev \
               -not -path '/var/lib/chasi/journal*' -not -path '/var/lib/chasi/lock' \
               -not -path '/var/lib/chasi/cluster/lock*' -not -path '/var/lib/chasi' \
               -not -path '/var/lib/chasi/cluster' \
               -printf '%p %y %m %U %G %s %C@ %l\n' | sort; \
             systemctl show --property=Id,ActiveEnterTimestamp,NRestarts '*.service' '*.socket' | \
               grep -A2 -E 'Id=(chasi|containerd|kubelet)'",
        )
    }
}

#[test]
fn four_bare_hosts_become_a_cluster_and_a_second_run_changes_nothing() {
    let site = Site::new();
    let report: Value = serde_json::from_str(&succeed(
        &mut site.chasi(&["run", "--yes", "--format", "json"]),
    ))
    .unwrap();
    let nodes = report["state"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    assert!(nodes.iter().all(|node| node["ready"] == true), "{report:#}");
    assert!(
        nodes.iter().all(|node| node["version"] == "v1.34.4"),
        "{report:#}"
    );

    // DNS resolves inside a pod, a Service answers from every node, and pods on
    // different nodes reach each other: the demo's two replicas by its name.
    site.kubectl(
        "node-1",
        "-n demo rollout status deployment/web --timeout=120s",
    );
    let pod = site.kubectl(
        "node-1",
        "-n demo get pods -o jsonpath='{.items[0].metadata.name}'",
    );
    let answer = site.kubectl(
        "node-1",
        &format!("-n demo exec {pod} -- wget -q -T 10 -O - http://web.demo.svc.cluster.local"),
    );
    assert!(!answer.is_empty());
    let service = site.kubectl(
        "node-1",
        "-n demo get service web -o jsonpath='{.spec.clusterIP}:{.spec.ports[0].port}'",
    );
    for host in ["node-1", "node-2", "node-3", "node-4"] {
        // Bare hosts have no HTTP client but bash's.
        let (address, port) = service.split_once(':').unwrap();
        let said = site.lab.sh(
            host,
            &format!("timeout 10 bash -c 'exec 3<>/dev/tcp/{address}/{port}; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"),
        );
        assert!(said.starts_with("HTTP/1."), "{host}: {said}");
    }

    // The second run: an empty plan, and nothing changed anywhere.
    let before: Vec<String> = ["node-1", "node-2", "node-3", "node-4"]
        .iter()
        .map(|host| site.fingerprint(host))
        .collect();
    let plan: Value = serde_json::from_str(&succeed(&mut site.chasi(&[
        "run",
        "--dry-run",
        "--format",
        "json",
    ])))
    .unwrap();
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    let again: Value = serde_json::from_str(&succeed(
        &mut site.chasi(&["run", "--yes", "--format", "json"]),
    ))
    .unwrap();
    assert_eq!(again["steps"], 0);
    for (host, before) in ["node-1", "node-2", "node-3", "node-4"].iter().zip(before) {
        assert_eq!(site.fingerprint(host), before, "{host}");
    }

    // One control plane is off: the API still answers by way of each other host's
    // balancer, and status tells which is missing.
    site.lab.run("poweroff", &["node-2"]);
    for host in ["node-1", "node-3"] {
        let nodes = site.kubectl(host, "get nodes -o name");
        assert_eq!(nodes.lines().count(), 4, "{host}: {nodes}");
    }
    let status: Value =
        serde_json::from_str(&succeed(&mut site.chasi(&["status", "--format", "json"]))).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    assert!(
        nodes
            .iter()
            .any(|node| node["name"] == "node-2" && !node["problem"].is_null()),
        "{status:#}"
    );
}
