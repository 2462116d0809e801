//! A command on a host: a stream to its standard input and from its standard
//! output, the end of its standard error, and how it ended.
//!
//! Standard output must be read: a full buffer holds up everything on the
//! connection, as SSH has one TCP stream for all channels.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Session, Target};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// How much of standard error is kept: its end, where the reason stands.
const STDERR_KEPT: usize = 64 << 10;
/// How much of standard output [`Session::run`] takes.
const STDOUT_LIMIT: u64 = 16 << 20;
/// How long the host may take to begin a command.
const OPEN: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Exit {
    /// With this code.
    Code(u32),
    /// By this signal, such as `KILL`.
    Signal(String),
    /// The connection ended before the command told.
    Lost,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most 64 KiB.
    pub stderr: String,
}

/// A running command. Reading reads its standard output; writing writes to its
/// standard input, and shutting down ends that.
pub struct Process {
    stdout: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    stdin: Stdin,
    status: Status,
    _close: CloseOnDrop,
    /// Keeps the connection open while the command runs.
    _session: Session,
}

/// Closes the channel, so that a command whose [`Process`] is dropped sees the end
/// of its input and nobody at the end of its output.
struct CloseOnDrop {
    channel: Option<ChannelWriteHalf<russh::client::Msg>>,
    /// Stops [`pump`]: the host's answer to a close no longer reaches it.
    closed: CancellationToken,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // Without a runtime the connection is going down as well.
        if let (Some(channel), Ok(runtime)) =
            (self.channel.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { channel.close().await });
        }
        self.closed.cancel();
    }
}

/// What is known of a running command beside its output. Cheap to clone; stays
/// valid after the [`Process`] has been split or dropped.
#[derive(Clone)]
pub struct Status {
    stderr: Arc<Mutex<Vec<u8>>>,
    changed: watch::Receiver<Progress>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    /// Bytes of standard error so far.
    stderr: u64,
    exit: Option<Exit>,
}

impl Session {
    /// Starts a command, given to the user's login shell.
    pub async fn open(&self, ctx: &Context, command: &str) -> Result<Process> {
        let failed = || format!("cannot run a command on `{}`", self.target());
        let start = async {
            let channel = self.handle().channel_open_session().await?;
            let (mut read, write) = channel.split();
            write.exec(true, command).await?;
            match read.wait().await {
                Some(ChannelMsg::Success) => Ok((read, write)),
                Some(ChannelMsg::Failure) => Err(russh::Error::RequestDenied),
                // Window adjustments may come before the answer.
                Some(ChannelMsg::WindowAdjusted { .. }) => match read.wait().await {
                    Some(ChannelMsg::Success) => Ok((read, write)),
                    _ => Err(russh::Error::RequestDenied),
                },
                _ => Err(russh::Error::Disconnect),
            }
        };
        let (read, write) = in_time(ctx, self.target(), OPEN, "starting a command", async {
            start
                .await
                .or_err(Kind::Unreachable, failed)
                .map_err(|error| error.on_host(&self.target().name))
        })
        .await?;
        let (stdout_sender, stdout) = mpsc::channel(16);
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (progress, changed) = watch::channel(Progress::default());
        let closed = CancellationToken::new();
        let sorting = pump(
            read,
            stdout_sender,
            stderr.clone(),
            progress,
            closed.clone(),
        );
        tokio::spawn(sorting);
        let status = Status { stderr, changed };
        Ok(Process {
            stdout,
            chunk: Bytes::new(),
            stdin: Stdin {
                writer: Box::pin(write.make_writer()),
                ended: Some(Box::pin({
                    let status = status.clone();
                    async move { _ = status.exit().await }
                })),
            },
            status,
            _close: CloseOnDrop {
                channel: Some(write),
                closed,
            },
            _session: self.clone(),
        })
    }

    /// Runs a command to its end, with `input` on its standard input, at most
    /// `limit` long. A command that fails is not an error here: see
    /// [`Output::success`].
    pub async fn run(
        &self,
        ctx: &Context,
        command: &str,
        input: &[u8],
        limit: Duration,
    ) -> Result<Output> {
        in_time(ctx, self.target(), limit, "a command", async {
            self.open(ctx, command).await?.finish(input).await
        })
        .await
        .map_err(|error| error.on_host(&self.target().name))
    }
}

impl Process {
    /// Gives it `input`, reads all that it says, and waits for its end.
    pub async fn finish(self, input: &[u8]) -> Result<Output> {
        let status = self.status();
        let (mut reader, mut writer) = tokio::io::split(self);
        let write = async {
            // A command that does not read its input is not an error.
            let _ = writer.write_all(input).await;
            let _ = writer.shutdown().await;
        };
        let read = async {
            let mut stdout = Vec::new();
            let count = (&mut reader)
                .take(STDOUT_LIMIT + 1)
                .read_to_end(&mut stdout)
                .await;
            count.map(|_| stdout)
        };
        let (stdout, ()) = tokio::join!(read, write);
        let stdout = stdout.or_err(Kind::Unreachable, || "cannot read what the command says")?;
        if stdout.len() as u64 > STDOUT_LIMIT {
            return Err(Error::new(
                Kind::Failed,
                "the command said more than 16 MiB",
            ));
        }
        // Before the channel is closed: a host that is hung up on does not tell.
        let exit = status.exit().await;
        drop(reader.unsplit(writer));
        Ok(Output {
            exit,
            stdout,
            stderr: status.stderr(),
        })
    }

    /// What is known of it, which stays valid when this is moved away.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// The end of what it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.status.stderr()
    }

    /// Waits for its end. Its standard output must have been read.
    pub async fn exit(&self) -> Exit {
        self.status.exit().await
    }
}

impl Status {
    /// The end of standard error.
    pub fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Waits for its end.
    pub async fn exit(&self) -> Exit {
        let mut changed = self.changed.clone();
        match changed.wait_for(|progress| progress.exit.is_some()).await {
            Ok(progress) => progress.exit.clone().unwrap_or(Exit::Lost),
            Err(_) => Exit::Lost,
        }
    }

    /// Waits until `found` finds something in standard error, or the command has
    /// ended: then `None`.
    pub async fn wait_for<T>(&self, mut found: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        loop {
            let ended = changed.borrow_and_update().exit.is_some();
            if let Some(value) = found(&self.stderr()) {
                return Some(value);
            }
            if ended || changed.changed().await.is_err() {
                return found(&self.stderr());
            }
        }
    }

    /// Forgets what standard error has said so far.
    pub fn forget(&self) {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Output {
    /// Fails with what the command said unless it ended with 0. `what` names it:
    /// "`systemd-run` failed".
    pub fn success(self, what: impl Into<String>) -> Result<Output> {
        if self.exit == Exit::Code(0) {
            return Ok(self);
        }
        Err(self.failure(what))
    }

    /// The error of a command that failed.
    pub fn failure(&self, what: impl Into<String>) -> Error {
        failure(what, &self.exit, &self.stderr)
    }
}

pub(super) fn failure(what: impl Into<String>, exit: &Exit, stderr: &str) -> Error {
    let (kind, how) = match exit {
        Exit::Code(code) => (Kind::Failed, format!("exited with {code}")),
        Exit::Signal(signal) => (Kind::Failed, format!("was ended by SIG{signal}")),
        Exit::Lost => (Kind::Unreachable, "ended with the connection".to_owned()),
    };
    let said = match stderr.trim() {
        "" => "it said nothing on standard error",
        said => said,
    };
    Error::new(kind, format!("{} {how}", what.into())).because(said.to_owned())
}

/// Runs `work` with a deadline and stops when cancelled.
pub(super) async fn in_time<T>(
    ctx: &Context,
    target: &Target,
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match ctx.cancel.run_until_cancelled(timeout(limit, work)).await {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(Error::new(
            Kind::Unreachable,
            format!(
                "{what} on `{target}` took longer than {} s",
                limit.as_secs()
            ),
        )
        .on_host(&target.name)),
        None => Err(Error::new(Kind::Interrupted, "interrupted").on_host(&target.name)),
    }
}

/// Sorts what arrives on the channel until it closes.
async fn pump(
    mut channel: ChannelReadHalf,
    stdout: mpsc::Sender<Bytes>,
    stderr: Arc<Mutex<Vec<u8>>>,
    progress: watch::Sender<Progress>,
    closed: CancellationToken,
) {
    let mut exit = None;
    // Dropped at end of file, which is what the reader sees as the end.
    let mut stdout = Some(stdout);
    while let Some(Some(message)) = closed.run_until_cancelled(channel.wait()).await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(sender) = &stdout {
                    // A reader that has gone does not want the rest.
                    let _ = closed.run_until_cancelled(sender.send(data)).await;
                }
            }
            ChannelMsg::ExtendedData { data, .. } => {
                keep_end(&stderr, &data);
                progress.send_modify(|progress| progress.stderr += data.len() as u64);
            }
            ChannelMsg::Eof => stdout = None,
            ChannelMsg::ExitStatus { exit_status } => exit = Some(Exit::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                exit = Some(Exit::Signal(signal(&signal_name)))
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    drop(stdout);
    progress.send_modify(|progress| progress.exit = Some(exit.unwrap_or(Exit::Lost)));
}

fn signal(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(16)
            .collect(),
        known => format!("{known:?}"),
    }
}

fn keep_end(kept: &Mutex<Vec<u8>>, data: &[u8]) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend_from_slice(data);
    let excess = kept.len().saturating_sub(STDERR_KEPT);
    kept.drain(..excess);
}

impl AsyncRead for Process {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.chunk.is_empty() {
            match std::task::ready!(self.stdout.poll_recv(cx)) {
                Some(chunk) => self.chunk = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Process {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The channel's writer takes an empty write for an error.
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stdin
            .poll(cx, |writer, cx| writer.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.stdin.poll(cx, |writer, cx| writer.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.stdin.poll(cx, |writer, cx| writer.poll_shutdown(cx))
    }
}

/// A command's standard input. The channel's own writer would wait for ever for a
/// command that has ended.
struct Stdin {
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    /// Ready when the command has ended; `None` afterwards.
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stdin {
    fn poll<T>(
        &mut self,
        cx: &mut TaskContext<'_>,
        work: impl FnOnce(
            Pin<&mut (dyn AsyncWrite + Send)>,
            &mut TaskContext<'_>,
        ) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(ended) = &mut self.ended
            && ended.as_mut().poll(cx).is_ready()
        {
            self.ended = None;
        }
        match self.ended {
            Some(_) => work(self.writer.as_mut(), cx),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}
