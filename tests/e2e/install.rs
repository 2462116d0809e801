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

    site.kubectl(
        "node-1",
        "-n demo rollout status deployment/web --timeout=120s",
    );

    // The second run has nothing to do.
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

    let status: Value =
        serde_json::from_str(&succeed(&mut site.chasi(&["status", "--format", "json"]))).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    assert!(nodes.iter().all(|node| node["ready"] == true), "{status:#}");
}
