//! `chasi agent`: what runs on a host, spoken to by a controller over standard
//! input and output. People do not type it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::process::Resource;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::agent::{ROOT, Server, router};
use crate::error::{Error, Kind, Result, ResultExt};

/// Serve one controller over standard input and output.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    /// Serves until the controller goes.
    pub fn run(self) -> Result<()> {
        raise_open_files();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .or_err(Kind::System, || "cannot start the async runtime")?;
        runtime.block_on(serve())
    }
}

/// Allows as many open files as the host does: an image that comes in pieces needs
/// one for each of its blobs. The usual limit of 1024 is for programs that use
/// `select`.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the old limit most images still fit.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

async fn serve() -> Result<()> {
    let stop = CancellationToken::new();
    // Whoever tells us to stop (a shutdown, the end of a login session) gets the
    // same as when the connection ends: the change in hand is completed first.
    for kind in [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
    ] {
        let mut signals = signal(kind).or_err(Kind::System, || "cannot listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    let (reader, writer) = (input()?, output()?);
    Server::new(ROOT, router())
        .serve(reader, writer, stop)
        .await
}

/// What an SSH server gives a command: pipes, or one socket for both.
enum Channel {
    Pipe(OwnedFd),
    Socket(UnixStream),
}

fn channel(fd: impl AsFd) -> Result<Channel> {
    let attempt = || -> std::io::Result<Option<Channel>> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        Ok(
            match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
                FileType::Fifo => Some(Channel::Pipe(fd)),
                FileType::Socket => {
                    let socket = std::os::unix::net::UnixStream::from(fd);
                    socket.set_nonblocking(true)?;
                    Some(Channel::Socket(UnixStream::from_std(socket)?))
                }
                _ => None,
            },
        )
    };
    attempt()
        .or_err(Kind::System, || "cannot use standard input and output")?
        .ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "`chasi agent` speaks to a controller over pipes, not to people",
            )
            .hint("`chasi run` starts it on hosts by itself")
        })
}

fn input() -> Result<Box<dyn AsyncRead + Unpin + Send>> {
    Ok(match channel(std::io::stdin())? {
        Channel::Pipe(fd) => Box::new(
            pipe::Receiver::from_owned_fd(fd)
                .or_err(Kind::System, || "cannot use standard input")?,
        ),
        Channel::Socket(socket) => Box::new(socket),
    })
}

fn output() -> Result<Box<dyn AsyncWrite + Unpin + Send>> {
    Ok(match channel(std::io::stdout())? {
        Channel::Pipe(fd) => Box::new(
            pipe::Sender::from_owned_fd(fd)
                .or_err(Kind::System, || "cannot use standard output")?,
        ),
        Channel::Socket(socket) => Box::new(socket),
    })
}
