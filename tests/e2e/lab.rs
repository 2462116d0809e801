//! A lab for a test.
//!
//! [`Lab::up`] makes one for a single test and removes it when dropped, also when
//! the test panics. [`Lab::shared`] is one of four hosts for all tests that can live
//! with it, made when it is first asked for. Should the test process be killed,
//! `chasi lab down --stale` removes both.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

/// The program under test.
pub fn chasi() -> Command {
    Command::new(env!("CARGO_BIN_EXE_chasi"))
}

/// Runs a command to its end, which must be a good one, and gives what it wrote to
/// standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Hosts that are there until this is dropped.
pub struct Lab {
    name: String,
}

impl Lab {
    /// A lab with a name of its own. `options` are those of `chasi lab up`.
    pub fn up(options: &[&str]) -> Lab {
        let lab = Lab {
            name: unused_name(),
        };
        succeed(
            lab.command("up")
                .args(["--owner", &std::process::id().to_string()])
                .args(options),
        );
        lab
    }

    /// The lab of four hosts that tests share, for one test at a time. A test may do
    /// to them what it likes; whoever needs fresh ones calls [`Lab::reset`].
    #[allow(dead_code, reason = "for tests of whole clusters")]
    pub fn shared() -> MutexGuard<'static, Lab> {
        static SHARED: OnceLock<Mutex<Lab>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let lab = Lab::up(&["--hosts", "4"]);
                lab.remove_when_the_tests_end();
                Mutex::new(lab)
            })
            .lock()
            // The hosts are as good as ever when a test has failed.
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing in a `static` is ever dropped.
    #[expect(
        clippy::zombie_processes,
        reason = "it outlives this process, which it waits for"
    )]
    fn remove_when_the_tests_end(&self) {
        let script = r#"tail --pid="$1" -f /dev/null; exec "$2" --quiet lab down --name "$3""#;
        Command::new("setsid")
            .args(["sh", "-c", script, "sh", &std::process::id().to_string()])
            .args([env!("CARGO_BIN_EXE_chasi"), &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    }

    /// `chasi lab SUBCOMMAND` for this lab, arguments to be added.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = chasi();
        command.args(["--quiet", "lab", subcommand, "--name", &self.name]);
        command
    }

    /// Runs `chasi lab SUBCOMMAND` for this lab.
    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> String {
        succeed(self.command(subcommand).args(arguments))
    }

    /// Gives hosts fresh disks.
    #[allow(dead_code, reason = "for tests of whole clusters")]
    pub fn reset(&self, hosts: &[&str]) {
        self.run("reset", hosts);
    }

    /// What a shell script on a host writes to standard output; it must succeed. Does
    /// not need the network.
    pub fn sh(&self, host: &str, script: &str) -> String {
        succeed(self.exec(host).args(["sh", "-c", script]))
    }

    /// As [`Lab::sh`], whatever comes of it.
    pub fn try_sh(&self, host: &str, script: &str) -> Output {
        self.exec(host).args(["sh", "-c", script]).output().unwrap()
    }

    fn exec(&self, host: &str) -> Command {
        let mut command = self.command("exec");
        command.args([host, "--"]);
        command
    }

    /// What `chasi lab list` says of it, if it is there.
    pub fn status(&self) -> Option<Value> {
        let labs: Value =
            serde_json::from_str(&succeed(chasi().args(["lab", "list", "--format", "json"])))
                .unwrap();
        let labs = labs.as_array().unwrap();
        labs.iter()
            .find(|lab| lab["name"] == self.name.as_str())
            .cloned()
    }

    /// What it says of a host.
    pub fn host(&self, name: &str) -> Value {
        let status = self.status().unwrap();
        let hosts = status["hosts"].as_array().unwrap();
        hosts
            .iter()
            .find(|host| host["name"] == name)
            .unwrap()
            .clone()
    }

    /// A host's IPv4 address.
    pub fn address(&self, host: &str) -> String {
        self.host(host)["addresses"][0].as_str().unwrap().to_owned()
    }

    /// Where a host's disk is on this machine. Its `/tmp` and `/run` are not there.
    #[allow(dead_code, reason = "for tests of whole clusters")]
    pub fn root(&self, host: &str) -> PathBuf {
        self.host(host)["root"].as_str().unwrap().into()
    }

    /// Writes a Clusterfile for its hosts.
    #[allow(dead_code, reason = "for tests of whole clusters")]
    pub fn write_clusterfile(&self, path: &Path, image: &str) {
        let path = path.to_str().unwrap();
        self.run("clusterfile", &["--write", path, "--image", image]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.command("down").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // A second panic would hide the first.
        if !std::thread::panicking() {
            assert!(output.status.success(), "the lab was not removed: {said}");
        }
    }
}

/// No two test processes, and no two labs of one, have the same name.
fn unused_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "e2e-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
