//! The one way to run another program: no shell, no standard input unless given,
//! a bounded part of its output kept, and an error that names the program, how it
//! ended and what it said.

mod confined;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};

pub use confined::{Confined, Ended, Said};

/// How much of each output stream is kept, in bytes: enough for any message,
/// bounded so that a runaway program cannot exhaust memory.
const KEPT: u64 = 16 << 20;

/// How much of each output stream goes into the full log, in bytes.
const TOLD: usize = 64 << 10;

/// A program to run, with its arguments.
#[derive(Clone)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Option<Vec<u8>>,
    cancel: Option<CancellationToken>,
    told: Option<Context>,
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code, or `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, at most 16 MiB of it.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB of it.
    pub stderr: Vec<u8>,
}

impl Command {
    /// A program by name (looked up in `PATH`) or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: None,
            cancel: None,
            told: None,
        }
    }

    /// Adds an argument. Never a secret: arguments can be read by every process.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives it standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Ends it with SIGTERM once the token is cancelled; running it then fails with
    /// [`Kind::Interrupted`].
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// Puts the command line and what it says into the full log of the run, the end
    /// of it when it is much. For programs that never print secrets.
    pub fn told(mut self, context: &Context) -> Self {
        self.told = Some(context.clone());
        self
    }

    /// Runs it to its end. Blocks; from async code use `spawn_blocking`.
    /// A non-zero exit is an error with what it said on standard error.
    pub fn run(&self) -> Result<Output> {
        let output = self.output()?;
        if output.code == Some(0) {
            return Ok(output);
        }
        let how = match output.code {
            Some(code) => format!("exited with {code}"),
            None => "was ended by a signal".to_owned(),
        };
        let said = String::from_utf8_lossy(if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        })
        .trim()
        .to_owned();
        Err(
            Error::new(Kind::Failed, format!("`{}` {how}", self.line())).because(
                if said.is_empty() {
                    "it said nothing".to_owned()
                } else {
                    said
                },
            ),
        )
    }

    /// Runs it to its end whatever its exit code; only not being able to run it
    /// is an error.
    pub fn output(&self) -> Result<Output> {
        let attempt = || -> std::io::Result<Output> {
            let mut child = Process::new(&self.program)
                .args(&self.arguments)
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .stdin(if self.input.is_some() {
                    Stdio::piped()
                } else {
                    Stdio::null()
                })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let (stdin, stdout, stderr) =
                (child.stdin.take(), child.stdout.take(), child.stderr.take());
            // Three pipes are served at once, or a full one would block the others.
            let (stdout, stderr) = std::thread::scope(|scope| {
                if let Some((mut stdin, input)) = stdin.zip(self.input.as_deref()) {
                    // A program that does not read its input is not an error.
                    scope.spawn(move || stdin.write_all(input));
                }
                let stderr = scope.spawn(|| keep(stderr));
                // Dropped, it ends the watch.
                let (_ended, watched) = std::sync::mpsc::channel::<()>();
                if let Some(cancel) = &self.cancel {
                    let child = Pid::from_child(&child);
                    scope.spawn(move || end_when_cancelled(child, cancel, &watched));
                }
                (keep(stdout), stderr.join().unwrap_or_default())
            });
            Ok(Output {
                code: child.wait()?.code(),
                stdout,
                stderr,
            })
        };
        let output = attempt().or_err(Kind::System, || {
            format!("cannot run `{}`", self.program.to_string_lossy())
        })?;
        if let Some(context) = &self.told {
            let text = self.log(&output);
            context.emit(Event::Detail { host: None, text });
        }
        let cancelled = self
            .cancel
            .as_ref()
            .is_some_and(CancellationToken::is_cancelled);
        if cancelled && output.code != Some(0) {
            return Err(Error::new(
                Kind::Interrupted,
                format!("interrupted while `{}` ran", self.program.to_string_lossy()),
            ));
        }
        Ok(output)
    }

    /// What the full log says of it.
    fn log(&self, output: &Output) -> String {
        let mut text = format!("$ {}\n", self.line());
        for stream in [&output.stdout, &output.stderr] {
            let all = String::from_utf8_lossy(stream);
            let end = all.ceil_char_boundary(all.len().saturating_sub(TOLD));
            if end > 0 {
                text.push_str(&format!("({end} bytes before this are left out)\n"));
            }
            text.push_str(&all[end..]);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        text.push_str(&match output.code {
            Some(code) => format!("(it exited with {code})\n"),
            None => "(it was ended by a signal)\n".to_owned(),
        });
        text
    }

    /// The command line as a person would type it, for messages.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.arguments)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Sends SIGTERM to a child, which nobody has waited for yet, when `cancel` says
/// so; returns when the other end of `ended` is gone.
fn end_when_cancelled(child: Pid, cancel: &CancellationToken, ended: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_millis(50)) {
        if cancel.is_cancelled() {
            // It may have ended by itself.
            let _ = kill_process(child, Signal::TERM);
            return;
        }
    }
}

/// Reads a pipe to its end and keeps the first part.
fn keep(pipe: Option<impl Read>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        // An unreadable pipe means the program is gone; its exit status tells why.
        let _ = pipe.by_ref().take(KEPT).read_to_end(&mut kept);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = Command::new("sh")
            .args(["-c", "echo no luck >&2; exit 3"])
            .run()
            .unwrap_err();
        assert_eq!(
            error.message(),
            "`sh -c echo no luck >&2; exit 3` exited with 3"
        );
        assert_eq!(error.causes().next().unwrap().to_string(), "no luck");
    }

    #[test]
    fn what_is_told_is_the_line_the_end_of_the_output_and_the_exit() {
        let command = Command::new("sh").args(["-c", "x"]);
        let output = Output {
            code: Some(3),
            stdout: [b"a".repeat(TOLD), b"end".to_vec()].concat(),
            stderr: b"no\n".to_vec(),
        };
        let text = command.log(&output);
        let (head, rest) = text.split_once("aaa").unwrap();
        assert_eq!(head, "$ sh -c x\n(3 bytes before this are left out)\n");
        assert!(rest.ends_with("aend\nno\n(it exited with 3)\n"));
    }

    #[test]
    fn input_and_large_output_do_not_block_each_other() {
        let input = vec![b'x'; 1 << 20];
        let output = Command::new("cat").input(input.clone()).run().unwrap();
        assert_eq!(output.stdout, input);
    }

    #[test]
    fn a_cancelled_program_is_ended_and_says_that_it_was_interrupted() {
        let token = CancellationToken::new();
        let command = Command::new("sleep").arg("600").cancel(token.clone());
        token.cancel();
        assert_eq!(command.run().unwrap_err().kind(), Kind::Interrupted);
    }
}
