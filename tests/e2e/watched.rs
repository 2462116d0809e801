//! A run of chasi whose events are watched, so that something can be done to it, or
//! to a host, at a certain point.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::lab::succeed;

/// A run under way.
pub struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    seen: Vec<String>,
}

/// How a run ended.
pub struct Ended {
    /// The exit code.
    pub code: Option<i32>,
    /// What it wrote to standard output, if that is JSON.
    pub report: Value,
    /// The event `failed`, if there was one.
    pub failure: Value,
    /// Everything that it told.
    pub told: String,
}

impl Watched {
    /// Starts a command of chasi's. A report is only there with `--format json`.
    pub fn start(mut command: Command) -> Watched {
        let mut child = command
            .args(["--progress", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Watched {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, what: &str, matches: impl Fn(&Value) -> bool) {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            let found = matches(&event);
            self.seen.push(line);
            if found {
                return;
            }
        }
        panic!("the run ended without {what}:\n{}", self.seen.join("\n"));
    }

    /// Waits until a phase has begun.
    pub fn wait_for_phase(&mut self, phase: &str) {
        self.wait_for(phase, |event| {
            event["event"] == "phase-started" && event["phase"] == phase
        });
    }

    /// Waits until a step that begins with these words has begun, on this host or
    /// any.
    pub fn wait_for_step(&mut self, words: &str, host: Option<&str>) {
        self.wait_for(words, |event| {
            event["event"] == "step-started"
                && event["step"].as_str().unwrap().starts_with(words)
                && host.is_none_or(|host| event["host"] == host)
        });
    }

    /// Kills the controller at once.
    pub fn crash(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "it was faster than its killer");
    }

    /// Sends it what Ctrl-C sends.
    pub fn interrupt(&self) {
        let id = self.child.id().to_string();
        succeed(Command::new("kill").args(["-INT", &id]));
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        for line in self.lines.by_ref() {
            self.seen.push(line.unwrap());
        }
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut output).unwrap();
        let last = self
            .seen
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let failure = last.filter(|event: &Value| event["event"] == "failed");
        Ended {
            code: self.child.wait().unwrap().code(),
            report: serde_json::from_str(&output).unwrap_or_default(),
            failure: failure.unwrap_or_default(),
            told: self.seen.join("\n"),
        }
    }

    /// Waits for an end that must be a good one, and gives the report.
    pub fn succeed(self) -> Value {
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{}", ended.told);
        ended.report
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It has usually ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
