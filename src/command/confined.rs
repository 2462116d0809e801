//! Running a program that others wrote: in a process group of its own, with nothing
//! in its environment but what it is given, for a bounded time, and with a bounded
//! part of what it says kept. When it has ended, or was ended, nothing of its group
//! runs on.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::{Kind, Result, ResultExt};

/// How long a program that was told to end may take until it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long one wait for output takes at most: how late its end is noticed.
const TICK: Duration = Duration::from_millis(20);

/// A program, and what it is given.
pub struct Confined {
    /// The program.
    pub program: PathBuf,
    /// Where it runs.
    pub directory: PathBuf,
    /// Its whole environment.
    pub environment: Vec<(String, OsString)>,
    /// What it reads.
    pub input: Vec<u8>,
    /// How long it may take.
    pub patience: Duration,
    /// How much of standard output is kept, and how much of the end of standard
    /// error, in bytes.
    pub kept: usize,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It exited.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It took too long, and was ended.
    TooLong,
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub ended: Ended,
    /// The beginning of standard output.
    pub stdout: Vec<u8>,
    /// Whether there was more.
    pub is_cut: bool,
    /// The end of standard error.
    pub stderr: Vec<u8>,
}

impl Confined {
    /// Runs it to its end. Blocks.
    pub fn run(&self) -> Result<Said> {
        let failed = || format!("cannot run `{}`", self.program.display());
        let child = Process::new(&self.program)
            .current_dir(&self.directory)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .or_err(Kind::System, failed)?;
        let mut running = Running {
            group: Pid::from_child(&child),
            child,
            unwritten: &self.input,
            stdout: Vec::new(),
            is_cut: false,
            stderr: Vec::new(),
            kept: self.kept,
        };
        let ended = running.watch(self.patience);
        // While its leader is not waited for, the group's number is nobody else's.
        let _ = kill_process_group(running.group, Signal::KILL);
        let status = running.child.wait().or_err(Kind::System, failed)?;
        let drained = running.exchange(Duration::ZERO);
        let is_late = ended.or_err(Kind::System, failed)?;
        drained.or_err(Kind::System, failed)?;
        Ok(Said {
            ended: match (is_late, status.code(), status.signal()) {
                (true, ..) => Ended::TooLong,
                (false, Some(code), _) => Ended::Exited(code),
                (false, None, signal) => Ended::Signalled(signal.unwrap_or_default()),
            },
            stdout: running.stdout,
            is_cut: running.is_cut,
            stderr: running.stderr,
        })
    }
}

/// A program that runs. Its pipes are taken away as they end.
struct Running<'a> {
    child: Child,
    group: Pid,
    unwritten: &'a [u8],
    stdout: Vec<u8>,
    is_cut: bool,
    stderr: Vec<u8>,
    kept: usize,
}

impl Running<'_> {
    /// Until it has ended; whether that took too long. Nobody has waited for it then.
    fn watch(&mut self, patience: Duration) -> std::io::Result<bool> {
        self.unblock()?;
        let begin = Instant::now();
        let mut told = false;
        while !self.has_ended()? {
            if begin.elapsed() >= patience + GRACE {
                return Ok(true);
            }
            if begin.elapsed() >= patience && !told {
                told = true;
                let _ = kill_process_group(self.group, Signal::TERM);
            }
            self.exchange(TICK)?;
        }
        Ok(told)
    }

    fn unblock(&self) -> std::io::Result<()> {
        let pipes = [
            self.child.stdin.as_ref().map(AsFd::as_fd),
            self.child.stdout.as_ref().map(AsFd::as_fd),
            self.child.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(())
    }

    fn has_ended(&self) -> std::io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.group), options)?.is_some())
    }

    /// Waits for something to read or to write, and reads and writes what goes.
    fn exchange(&mut self, wait: Duration) -> std::io::Result<()> {
        if self.unwritten.is_empty() {
            // The end of its input.
            self.child.stdin = None;
        }
        let watched: [(Option<BorrowedFd<'_>>, PollFlags); 3] = [
            (self.child.stdin.as_ref().map(AsFd::as_fd), PollFlags::OUT),
            (self.child.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.child.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN),
        ];
        let mut polled: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|(pipe, flags)| Some(PollFd::from_borrowed_fd((*pipe)?, *flags)))
            .collect();
        if polled.is_empty() {
            std::thread::sleep(wait);
            return Ok(());
        }
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        };
        match poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.write();
        let mut out = std::mem::take(&mut self.stdout);
        if let Some(pipe) = &mut self.child.stdout
            && take(pipe, &mut out)?
        {
            self.child.stdout = None;
        }
        self.is_cut |= out.len() > self.kept;
        out.truncate(self.kept);
        self.stdout = out;
        let mut said = std::mem::take(&mut self.stderr);
        if let Some(pipe) = &mut self.child.stderr
            && take(pipe, &mut said)?
        {
            self.child.stderr = None;
        }
        said.drain(..said.len().saturating_sub(self.kept));
        self.stderr = said;
        Ok(())
    }

    /// A program that does not read its input is not an error.
    fn write(&mut self) {
        let Some(pipe) = &mut self.child.stdin else {
            return;
        };
        match pipe.write(self.unwritten) {
            Ok(count) => self.unwritten = self.unwritten.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.unwritten = &[],
        }
    }
}

/// Reads what is there, some of it when it is much; whether that was the end.
fn take(pipe: &mut impl Read, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    for _ in 0..16 {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Confined {
        let directory = std::env::temp_dir();
        Confined {
            program: "/bin/sh".into(),
            directory,
            environment: vec![
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("A".into(), "b".into()),
            ],
            input: script.as_bytes().to_vec(),
            patience: Duration::from_secs(60),
            kept: 1000,
        }
    }

    #[test]
    fn it_gets_its_input_and_only_its_own_environment() {
        let said = sh("env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort; echo no >&2; exit 3")
            .run()
            .unwrap();
        assert_eq!(said.ended, Ended::Exited(3));
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            "A=b\nPATH=/usr/bin:/bin\n"
        );
        assert_eq!(said.stderr, b"no\n");
    }

    #[test]
    fn of_much_output_the_beginning_is_kept_and_of_errors_the_end() {
        let said = sh("i=0; while [ $i -lt 9000 ]; do echo line $i; echo $i >&2; i=$((i+1)); done")
            .run()
            .unwrap();
        assert_eq!(
            (said.stdout.len(), said.stderr.len(), said.is_cut),
            (1000, 1000, true)
        );
        assert!(said.stdout.starts_with(b"line 0\n"));
        assert!(said.stderr.ends_with(b"8999\n"));
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("pid");
        let mut slow = sh("sleep 600 & echo $! > pid; wait");
        slow.directory = directory.path().to_owned();
        slow.patience = Duration::from_millis(300);
        assert_eq!(slow.run().unwrap().ended, Ended::TooLong);
        let pid = std::fs::read_to_string(mark).unwrap();
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            // Gone, or dead and not waited for by its new parent yet.
            state.is_err() || state.is_ok_and(|state| state.contains(") Z "))
        };
        // It was killed; on a busy machine it takes a moment to die.
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while !is_gone() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(is_gone());
    }

    #[test]
    fn what_stays_in_the_background_with_the_pipes_does_not_hold_it_up() {
        let said = sh("sleep 600 & setsid sleep 2 & echo done").run().unwrap();
        assert_eq!(said.ended, Ended::Exited(0));
        assert_eq!(said.stdout, b"done\n");
    }

    #[test]
    fn one_that_ignores_the_end_is_killed() {
        let mut stubborn = sh("trap '' TERM; while :; do sleep 1; done");
        stubborn.patience = Duration::from_millis(100);
        assert_eq!(stubborn.run().unwrap().ended, Ended::TooLong);
    }
}
