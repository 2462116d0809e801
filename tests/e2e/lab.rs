//! A lab for a test.
//!
//! [`Lab::up`] makes one and removes it when dropped, also when the test panics.
//! What is in a `static`, and what is there when the test process is killed, a
//! [`Warden`] removes: a process that waits for the end of this one.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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

/// Whether a condition holds, or why not yet.
pub type Condition = Result<(), String>;

/// Waits until `condition` holds.
pub fn until(what: &str, seconds: u64, mut condition: impl FnMut() -> Condition) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while let Err(reason) = condition() {
        assert!(
            Instant::now() < deadline,
            "{what} has not come about in {seconds} s: {reason}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A process that runs a shell script when this process has ended, however it
/// ends. Dropped, it goes without.
pub struct Warden(Child);

impl Warden {
    /// `script` sees `arguments` as `$1` and on.
    pub fn post(script: &str, arguments: &[&str]) -> Warden {
        let script = format!(r#"tail --pid="$1" -f /dev/null; shift; {script}"#);
        let child = Command::new("setsid")
            .args(["sh", "-c", &script, "sh", &std::process::id().to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Warden(child)
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // The shell's child as well: both are the whole of a session.
        let _ = Command::new("pkill")
            .args(["-KILL", "--session", &self.0.id().to_string()])
            .status();
        let _ = self.0.wait();
    }
}

/// Hosts that are there until this is dropped.
pub struct Lab {
    name: String,
    _warden: Warden,
}

impl Lab {
    /// A lab with a name of its own. `options` are those of `chasi lab up`.
    pub fn up(options: &[&str]) -> Lab {
        let name = unused_name();
        let down = r#"exec "$1" --quiet lab down --name "$2""#;
        let lab = Lab {
            _warden: Warden::post(down, &[env!("CARGO_BIN_EXE_chasi"), &name]),
            name,
        };
        succeed(
            lab.command("up")
                .args(["--owner", &std::process::id().to_string()])
                .args(options),
        );
        lab
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
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
    pub fn root(&self, host: &str) -> PathBuf {
        self.host(host)["root"].as_str().unwrap().into()
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

/// Run by the test below in a process of its own.
#[test]
#[ignore = "waits for its own death"]
fn a_lab_is_made_and_held() {
    let lab = Lab::up(&["--hosts", "1"]);
    println!("held: {}", lab.name());
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn nothing_is_left_of_a_test_that_was_killed() {
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lab::a_lab_is_made_and_held"])
        .args(["--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let name = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("held: ")?.1.to_owned()))
        .unwrap();
    let is_there = || {
        let labs = succeed(chasi().args(["lab", "list", "--format", "json"]));
        labs.contains(&name)
    };
    assert!(is_there());
    test.kill().unwrap();
    test.wait().unwrap();
    until("the lab's removal", 180, || match is_there() {
        true => Err("it is still there".into()),
        false => Ok(()),
    });
}
