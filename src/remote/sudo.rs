//! Running a command as root.
//!
//! sudo is asked in English, and told to write a prompt of ours on standard
//! error; the command behind it first writes a mark there. So we know whether
//! sudo wants a password before one is sent (a password that nobody asks for
//! would become the command's input), and can tell sudo's words from the
//! command's.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::process::{failure, in_time};
use super::{Exit, Output, Process, Secret, Session, Sudo, quote};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

const PROMPT: &str = "[chasi:password]";
const READY: &str = "[chasi:ready]";

/// How long sudo may take: it may ask a directory service.
const SUDO: Duration = Duration::from_secs(60);

enum Said {
    Ready,
    Asks,
}

impl Session {
    /// Starts a POSIX shell script as root.
    pub async fn open_as_root(&self, ctx: &Context, script: &str) -> Result<Process> {
        let target = self.target();
        let (options, password) = match &target.sudo {
            _ if target.user == "root" => {
                return self
                    .open(ctx, &format!("exec /bin/sh -c {}", quote(script)))
                    .await;
            }
            Sudo::Never => {
                return Err(Error::new(Kind::Check, format!("`{}` is not root on `{}`", target.user, target.address))
                    .on_host(&target.name)
                    .hint("log in as root, or let chasi use sudo (`sudo: true` in the Clusterfile, `--sudo`)"));
            }
            Sudo::WithoutPassword => ("-n".to_owned(), None),
            Sudo::WithPassword(password) => (format!("-S -p {}", quote(PROMPT)), Some(password)),
        };
        let marked = format!("printf %s {} >&2; {script}", quote(READY));
        let command = format!(
            "exec env LC_ALL=C sudo {options} -- /bin/sh -c {}",
            quote(&marked)
        );
        let mut process = self.open(ctx, &command).await?;
        in_time(
            ctx,
            target,
            SUDO,
            "sudo",
            become_root(self, &mut process, password),
        )
        .await?;
        Ok(process)
    }

    /// Runs a POSIX shell script as root to its end.
    pub async fn run_as_root(
        &self,
        ctx: &Context,
        script: &str,
        input: &[u8],
        limit: Duration,
    ) -> Result<Output> {
        in_time(ctx, self.target(), limit, "a command", async {
            self.open_as_root(ctx, script).await?.finish(input).await
        })
        .await
        .map_err(|error| error.on_host(&self.target().name))
    }
}

/// Sees sudo through until the command has begun.
async fn become_root(
    session: &Session,
    process: &mut Process,
    password: Option<&Secret>,
) -> Result<()> {
    let status = process.status();
    let mut unsent = password;
    loop {
        let said = status
            .wait_for(
                |stderr| match (stderr.contains(READY), stderr.contains(PROMPT)) {
                    (true, _) => Some(Said::Ready),
                    (false, true) => Some(Said::Asks),
                    (false, false) => None,
                },
            )
            .await;
        match (said, unsent.take()) {
            (Some(Said::Ready), _) => {
                status.forget();
                return Ok(());
            }
            (Some(Said::Asks), Some(password)) => {
                status.forget();
                let line = format!("{}\n", password.reveal());
                process
                    .write_all(line.as_bytes())
                    .await
                    .or_err(Kind::Unreachable, || "cannot answer sudo")?;
            }
            (Some(Said::Asks), None) => {
                return Err(refused(session, "sudo does not accept the password"));
            }
            (None, _) => return Err(explain(session, &status.exit().await, &status.stderr())),
        }
    }
}

fn refused(session: &Session, message: &str) -> Error {
    let target = session.target();
    Error::new(Kind::Check, format!("{message} of `{}`", target.user)).on_host(&target.name)
}

/// What it means that sudo ended before the command began.
fn explain(session: &Session, exit: &Exit, stderr: &str) -> Error {
    let target = session.target();
    let user = &target.user;
    let said = |needle: &str| stderr.contains(needle);
    let (message, hint) = if said("a password is required") || said("a terminal is required") {
        (
            "sudo wants a password".to_owned(),
            format!(
                "name the file that holds it in the Clusterfile (`passwordFile` below `sudo`, below `ssh`), or allow `{user} ALL=(ALL) NOPASSWD: ALL` with `visudo`"
            ),
        )
    } else if said("must have a tty") {
        (
            "sudo wants a terminal".to_owned(),
            format!("add `Defaults:{user} !requiretty` with `visudo` on the host"),
        )
    } else if said("not in the sudoers") || said("is not allowed to") || said("may not run sudo") {
        (
            format!("`{user}` may not use sudo to become root"),
            format!("add `{user}` to the group `sudo` or `wheel` on the host, or log in as root"),
        )
    } else if said("incorrect password") || said("Sorry, try again") {
        return refused(session, "sudo does not accept the password");
    } else if *exit == Exit::Code(127)
        || said("sudo: not found")
        || said("No such file or directory")
    {
        (
            "the host has no `sudo`".to_owned(),
            "install sudo there, or log in as root".to_owned(),
        )
    } else {
        return failure("`sudo`", exit, stderr).on_host(&target.name);
    };
    Error::new(Kind::Check, message)
        .on_host(&target.name)
        .because(stderr.trim().to_owned())
        .hint(hint)
}
