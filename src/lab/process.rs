//! Knowing a process again.
//!
//! A process id alone says nothing: after the process has ended the kernel gives
//! the number to another one. An id with the start time is unique within one
//! boot of the machine, so every record of a process holds both, and a signal is
//! sent through a pidfd that was opened before the start time was compared.

use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of the running machine, dead or alive.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine booted: field 22 of
    /// `/proc/PID/stat`, see proc(5).
    pub started: u64,
}

impl Process {
    /// The process that has this id now, if one is alive.
    pub fn with_id(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Process { pid, started })
    }

    /// Whether it still runs. A zombie does not.
    pub fn alive(self) -> bool {
        Process::with_id(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !self.alive() {
            return Ok(());
        }
        match pidfd_send_signal(handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Its direct children.
    pub fn children(self) -> Vec<Process> {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return Vec::new();
        };
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| Process::with_id(pid.parse().ok()?))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether it is process 1 of a PID namespace below this one.
    pub fn is_init_of_namespace(self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid)).is_ok_and(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .is_some_and(|ids| {
                    let ids: Vec<_> = ids.split_whitespace().collect();
                    ids.len() > 1 && ids.last() == Some(&"1")
                })
        })
    }
}

/// State and start time. The command name in parentheses may hold anything,
/// parentheses and spaces too, so fields are counted from the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) S) b) R 1 42 42 0 -1 4194304 88 0 0 0 1 2 3 4 20 0 1 0 98765 2 3";
        assert_eq!(parse_stat(stat), Some(('R', 98765)));
    }

    #[test]
    fn a_child_is_found_and_signalled_and_another_with_its_id_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let process = Process::with_id(child.id()).unwrap();
        let own = Process::with_id(std::process::id()).unwrap();
        assert!(own.children().contains(&process));
        assert!(!process.is_init_of_namespace());

        let reused = Process {
            started: process.started + 1,
            ..process
        };
        assert!(!reused.alive());
        reused.signal(Signal::KILL).unwrap();
        assert!(
            process.alive(),
            "a process that only shares the id was killed"
        );

        process.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!process.alive());
        process.signal(Signal::KILL).unwrap();
    }
}
