//! Four hosts and a spare one, the demo image and a Clusterfile, shared by all tests
//! of whole clusters, one test at a time.
//!
//! A test says what it needs, [`Site::bare`] or [`Site::installed`], and in the end
//! what it leaves, [`Site::leaves`]. A test that panics leaves nothing to rely on,
//! and the next one gets fresh disks. So the order of tests decides how long they
//! take, and nothing else.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::lab::{Lab, Warden, chasi, succeed, until};
use crate::snapshot::Tree;
use crate::traces::Traces;

/// All hosts of the Clusterfile; the last one is the worker.
pub const HOSTS: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];
/// Those that become control planes.
pub const CONTROL_PLANES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// The one that does not.
pub const WORKER: &str = "node-4";
/// A host that the Clusterfile does not name, which stays bare.
pub const SPARE: &str = "node-5";

const IMAGE: &str = "chasi/demo:1.34.4";

static SHARED: Mutex<Option<Site>> = Mutex::new(None);

/// The shared site, for one test.
pub struct Shared(MutexGuard<'static, Option<Site>>);

impl Deref for Shared {
    type Target = Site;

    fn deref(&self) -> &Site {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Site {
        self.0.as_mut().unwrap()
    }
}

/// What the hosts are.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Hosts {
    /// As `chasi lab up` makes them.
    Bare,
    /// As the Clusterfile says, with nothing to do.
    Installed,
    /// Nobody knows.
    Unknown,
}

/// The hosts, and what the controller has beside them.
pub struct Site {
    /// The hosts.
    pub lab: Lab,
    /// What is on them before chasi comes.
    pub bare_traces: Traces,
    directory: tempfile::TempDir,
    hosts: Hosts,
    undisturbed: Option<Tree>,
    _warden: Warden,
}

impl Site {
    /// The one that all tests share, made for the first that asks.
    pub fn shared() -> Shared {
        let mut site = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        site.get_or_insert_with(Site::new);
        Shared(site)
    }

    /// Removes the shared one, for tests that look at the whole machine.
    pub fn remove() {
        *SHARED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        // What is in a `static` is not dropped when the tests end.
        let warden = Warden::post(r#"exec rm -rf -- "$1""#, &[path]);
        build_images(directory.path());
        let clusterfile = directory.path().join("Clusterfile");
        let lab = Lab::up(&[
            "--hosts",
            "5",
            "--image",
            IMAGE,
            "--write",
            clusterfile.to_str().unwrap(),
        ]);
        let text = fs::read_to_string(&clusterfile).unwrap();
        fs::write(&clusterfile, without_host(&text, SPARE)).unwrap();
        let all = [&HOSTS[..], &[SPARE]].concat();
        Site {
            bare_traces: Traces::on(&lab, &all),
            lab,
            directory,
            hosts: Hosts::Bare,
            undisturbed: None,
            _warden: warden,
        }
    }

    /// Makes sure that the hosts are bare.
    pub fn bare(&mut self) {
        if self.hosts != Hosts::Bare {
            let all = [&HOSTS[..], &[SPARE]].concat();
            for host in &all {
                self.lab.run("net", &[host, "restore"]);
            }
            self.lab.run("reset", &all);
            let _ = fs::remove_dir_all(self.path("state"));
        }
        self.hosts = Hosts::Unknown;
    }

    /// Makes sure that the cluster is up, and as the Clusterfile says.
    pub fn installed(&mut self) {
        if self.hosts != Hosts::Installed {
            self.bare();
            self.install();
        }
        self.hosts = Hosts::Unknown;
    }

    /// Installs the image on bare hosts, undisturbed; gives the run's report.
    pub fn install(&mut self) -> Value {
        let report = self.json(&["run", "--yes"]);
        self.undisturbed = Some(Tree::of(&self.lab));
        report
    }

    /// What the hosts' managed files are after an install that nothing disturbed.
    pub fn undisturbed(&mut self) -> Tree {
        if self.undisturbed.is_none() {
            self.bare();
            self.install();
        }
        self.undisturbed.clone().unwrap()
    }

    /// What the test leaves.
    pub fn leaves(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// `chasi ARGUMENTS -f Clusterfile`, with the site's store.
    pub fn chasi(&self, arguments: &[&str]) -> Command {
        self.chasi_with(arguments, "Clusterfile")
    }

    /// The same with another Clusterfile.
    pub fn chasi_with(&self, arguments: &[&str], clusterfile: &str) -> Command {
        let mut command = chasi();
        command
            .args(arguments)
            .args(["-f", clusterfile])
            .current_dir(self.directory.path())
            .env("CHASI_STORE", self.path("store"))
            // Only of these clusters: `chasi lab` has its own state elsewhere.
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }

    /// What a command that succeeds says as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = succeed(self.chasi(arguments).args(["--format", "json"]));
        serde_json::from_str(&output).unwrap()
    }

    /// The Clusterfile's text.
    pub fn clusterfile(&self) -> String {
        fs::read_to_string(self.path("Clusterfile")).unwrap()
    }

    /// Another Clusterfile's text.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A path among the controller's things.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes another Clusterfile beside it.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// `kubectl` on a control plane, by way of the balancer there.
    pub fn kubectl(&self, host: &str, arguments: &str) -> String {
        let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
        self.lab.sh(host, &format!("{kubectl} {arguments}"))
    }

    /// Changes the packet filter of a host, with the machine's own nft(8): a bare host
    /// has none.
    pub fn nft(&self, host: &str, script: &str) {
        let init = self.lab.host(host)["init"].as_u64().unwrap();
        succeed(
            Command::new("nsenter")
                .args(["--target", &init.to_string(), "--net", "--", "nft"])
                .arg(script),
        );
    }

    /// Gives `kubectl` a manifest.
    pub fn kubectl_with(&self, host: &str, arguments: &str, manifest: &str) -> String {
        self.kubectl(host, &format!("{arguments} -f - <<'END'\n{manifest}\nEND"))
    }

    /// Waits until every pod of the cluster runs and is ready.
    pub fn wait_for_pods(&self, host: &str) {
        until("that all pods run", 300, || {
            let pods: Value =
                serde_json::from_str(&self.kubectl(host, "get pods -A -o json")).unwrap();
            let unready: Vec<_> = pods["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|pod| !is_ready(pod))
                .map(|pod| format!("{}: {}", pod["metadata"]["name"], pod["status"]))
                .collect();
            match unready.is_empty() {
                true => Ok(()),
                false => Err(unready.join("\n")),
            }
        });
    }
}

/// A Clusterfile of a lab without one of its hosts.
pub fn without_host(clusterfile: &str, host: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in clusterfile.split_inclusive('\n') {
        if line.starts_with("    - name: ") {
            inside = line.trim_end().ends_with(&format!(" {host}"));
        } else if !line.starts_with("     ") {
            inside = false;
        }
        if !inside {
            kept.push_str(line);
        }
    }
    kept
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["phase"] == "Running"
        && conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The demo image and what it is made of, built from the catalogue.
fn build_images(directory: &Path) {
    for (name, folder) in [
        ("chasi/containerd:2.1.5", "containerd"),
        ("chasi/kubernetes:1.34.4", "kubernetes"),
        ("chasi/flannel:0.28.4", "flannel"),
        (IMAGE, "demo"),
    ] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("images")
            .join(folder);
        succeed(
            chasi()
                .args(["--quiet", "build", "-t", name, "--lock-file"])
                .arg(directory.join(folder).with_extension("lock"))
                .arg(source)
                .env("CHASI_STORE", directory.join("store")),
        );
    }
}
