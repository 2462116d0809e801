//! Runs and switches that end in the middle: the controller killed, a host that
//! crashes, a connection that is cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{chasi, succeed, until};
use crate::site::{CONTROL_PLANES, HOSTS, Hosts, Site, without_host};
use crate::snapshot::Tree;
use crate::watched::Watched;

#[test]
fn an_install_that_is_interrupted_again_and_again_ends_like_one_that_was_not() {
    let mut site = Site::shared();
    let undisturbed = site.undisturbed();
    site.bare();
    let run = || Watched::start(site.chasi(&["run", "--yes", "--format", "json"]));

    // The controller is killed while it copies, stages, and switches hosts.
    let mut first = run();
    first.wait_for_phase("copy");
    first.wait_for("bytes that move", |event| event["event"] == "progress");
    first.crash();
    for step in ["stage the new generation", "switch the node"] {
        let mut next = run();
        next.wait_for_step(step, None);
        next.crash();
    }

    // The link to a host is cut while its agent works, and the controller dies. Agents
    // end what they have begun, and the next run waits for those that still do: the
    // control planes, which have more to unpack than the worker.
    let mut cut = run();
    let lonely = CONTROL_PLANES[0];
    cut.wait_for_step("unpack", Some(lonely));
    site.lab.run("net", &[lonely, "cut"]);
    cut.crash();
    site.lab.run("net", &[lonely, "restore"]);
    let mut waiting = run();
    waiting.wait_for("that the next run waits", |event| {
        let text = event["text"].as_str().unwrap_or_default();
        text.starts_with("waiting up to")
    });

    // It is killed in turn, while certificates are made, and the next one when it
    // starts kubelets.
    waiting.wait_for_phase("certificates");
    waiting.crash();
    let mut next = run();
    next.wait_for_phase("start");
    next.crash();

    // A control plane loses its power. The run goes on with the others, and says who
    // is missing.
    let lost = CONTROL_PLANES[1];
    let mut next = run();
    next.wait_for_phase("objects");
    site.lab.run("kill", &[lost]);
    let ended = next.end();
    assert_eq!(ended.code, Some(5), "{}", ended.told);
    assert_eq!(ended.failure["kind"], "partial", "{}", ended.told);
    let left_out = ended.report["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0]["host"], lost);
    site.lab.run("start", &[lost]);

    run().succeed();
    undisturbed.assert_same(&Tree::of(&site.lab));
    let plan = site.json(&["run", "--dry-run"]);
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    site.wait_for_pods("node-1");
    site.leaves(Hosts::Installed);
}

/// The host that crashes.
const ONLY: &str = "node-1";

/// How many files the image of the next test has: so many that a switch to it takes
/// long enough to be interrupted.
const FILES: usize = 3000;

#[test]
fn a_host_that_crashes_in_a_switch_boots_into_one_whole_generation() {
    let mut site = Site::shared();
    site.bare();
    // A cluster of one host: it is what it is about, and its node is not drained.
    let mut own = site.clusterfile();
    for name in HOSTS.into_iter().filter(|name| *name != ONLY) {
        own = without_host(&own, name);
    }
    let own = own.replace("[control-plane]", "[control-plane, worker]");
    site.write("own", &own);
    succeed(&mut site.chasi_with(&["run", "--yes"], "own"));
    let before = Tree::of(&site.lab);
    build_other_image(&site);
    site.write("other", &own.replace("chasi/demo:1.34.4", "chasi/other:1"));
    let host = Host::new(&site, ONLY);
    assert_eq!(host.generation(), "old");

    // Crashed before the point that decides, it boots into the old generation: on
    // this way the files are written before it.
    host.crash_in_a_switch(["own", "other"], |host| host.generation() == "old");
    site.lab.run("start", &[ONLY]);
    host.wait_until_it_serves();
    host.assert_whole("old");
    succeed(&mut site.chasi_with(&["run", "--yes"], "other"));
    host.assert_whole("new");

    // Crashed behind it, into the one that it was going to: on the way back the files
    // are removed behind it.
    host.crash_in_a_switch(["other", "own"], |host| host.generation() == "old");
    site.lab.run("start", &[ONLY]);
    host.wait_until_it_serves();
    host.assert_whole("old");

    // And the next run goes on as if nothing had been.
    succeed(&mut site.chasi_with(&["run", "--yes"], "own"));
    before.assert_same(&Tree::of(&site.lab));
}

/// The demo image with many small files in it.
fn build_other_image(site: &Site) {
    let context = site.path("other-image");
    let directory = context.join("etc/other");
    fs::create_dir_all(&directory).unwrap();
    for number in 0..FILES {
        fs::write(directory.join(number.to_string()), "new\n").unwrap();
    }
    fs::write(
        context.join("Kubefile"),
        "FROM chasi/demo:1.34.4\nLAYER app\nCOPY etc /etc/\n",
    )
    .unwrap();
    succeed(
        chasi()
            .args(["--quiet", "build", "-t", "chasi/other:1"])
            .arg(&context)
            .env("CHASI_STORE", site.path("store")),
    );
}

/// The host that crashes, seen from outside by its disk.
struct Host<'a> {
    site: &'a Site,
    name: &'a str,
    root: PathBuf,
}

impl<'a> Host<'a> {
    fn new(site: &'a Site, name: &'a str) -> Host<'a> {
        Host {
            site,
            name,
            root: site.lab.root(name),
        }
    }

    fn state(&self) -> PathBuf {
        self.root.join("var/lib/chasi")
    }

    /// Which generation the switch points to: the one with the many files, or the
    /// one without.
    fn generation(&self) -> &'static str {
        let target = fs::read_link(self.state().join("node")).unwrap();
        match self.state().join(target).join("etc/other").is_dir() {
            true => "new",
            false => "old",
        }
    }

    /// Whether a switch has begun and has not ended.
    fn is_switching(&self) -> bool {
        pending(&self.state().join("journal"))
    }

    /// Goes from what one Clusterfile says to what another does, and crashes host and
    /// controller in the middle of the switch, when `moment` has come. A switch that
    /// was over before the crash is made again.
    fn crash_in_a_switch(&self, [from, to]: [&str; 2], moment: impl Fn(&Self) -> bool) {
        let moment = || self.is_switching() && moment(self);
        for _ in 0..5 {
            let init = self.site.lab.host(self.name)["init"].to_string();
            let mut run = Watched::start(self.site.chasi_with(&["run", "--yes"], to));
            run.wait_for_step("switch the node", Some(self.name));
            let deadline = Instant::now() + Duration::from_secs(60);
            while !moment() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The end of its first process is the end of the host, at once; `chasi lab`
            // then takes note of it.
            succeed(Command::new("kill").args(["-KILL", &init]));
            self.site.lab.run("kill", &[self.name]);
            // It ends by itself, too: there is no other host.
            drop(run);
            if moment() {
                return;
            }
            self.site.lab.run("start", &[self.name]);
            self.wait_until_it_serves();
            succeed(&mut self.site.chasi_with(&["run", "--yes"], from));
        }
        panic!("the host never crashed at that moment");
    }

    /// Waits, without any controller, until the host's services run and the cluster on
    /// it works.
    fn wait_until_it_serves(&self) {
        until("that the host's services run", 120, || {
            let units = "chasi-boot.service chasi-node.service containerd.service kubelet.service";
            let output = self
                .site
                .lab
                .try_sh(self.name, &format!("systemctl is-active {units}"));
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
            }
        });
        until("that the API answers", 120, || {
            let ask = "kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz";
            let output = self.site.lab.try_sh(self.name, ask);
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            }
        });
        self.site.wait_for_pods(self.name);
    }

    /// The host is in this generation, wholly: nothing is pending, every managed path
    /// is as the generation's manifest says, and nothing of the other is left.
    fn assert_whole(&self, generation: &str) {
        assert_eq!(self.generation(), generation);
        assert!(!self.is_switching());
        let files = fs::read_dir(self.root.join("etc/other"));
        let files = files.map_or(0, |entries| entries.count());
        let expected = if generation == "new" { FILES } else { 0 };
        assert_eq!(files, expected);
        for part in ["node", "control-plane"] {
            let Ok(tree) = fs::read_link(self.state().join(part)) else {
                continue;
            };
            let tree = self.state().join(tree);
            let manifest = fs::read(tree.parent().unwrap().join("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            // The control plane may be a generation ahead.
            let placed = manifest["host"].as_object().unwrap().iter();
            let own = placed.filter(|(path, _)| {
                path.starts_with("etc/kubernetes/manifests/") == (part == "control-plane")
            });
            for (path, placed) in own {
                self.assert_placed(path, placed, &tree);
            }
        }
    }

    fn assert_placed(&self, path: &str, placed: &Value, tree: &Path) {
        let here = self.root.join(path);
        let kind = placed["kind"].as_str().unwrap();
        match kind {
            "program" => {
                let target = fs::read_link(&here).unwrap();
                let program = format!("/var/lib/chasi/node/{}", placed["tree"].as_str().unwrap());
                assert_eq!(target, Path::new(&program), "{path}");
                assert!(
                    tree.join(placed["tree"].as_str().unwrap())
                        .symlink_metadata()
                        .is_ok()
                );
            }
            "file" => assert_eq!(
                fs::read(&here).unwrap(),
                fs::read(tree.join(path)).unwrap(),
                "{path}"
            ),
            _ => assert!(here.symlink_metadata().is_ok(), "{kind} {path}"),
        }
    }
}

/// Whether a journal has an operation that was begun and not ended.
fn pending(journals: &Path) -> bool {
    let entries = fs::read_dir(journals).unwrap();
    entries.map(|entry| entry.unwrap().path()).any(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let count = |record: &str| text.matches(&format!("\"record\":\"{record}\"")).count();
        count("begin") > count("commit") + count("abandon")
    })
}
