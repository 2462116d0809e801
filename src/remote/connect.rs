//! A connection to a host: TCP or a channel through a jump host, the key
//! exchange with the host's key verified, and logging in.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::{Algorithm, PublicKeyOrCertificate};
use russh::{Preferred, cipher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::host_key::Judge;
use super::{Target, auth, resolve};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long the key exchange may take.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long logging in may take: PAM modules and slow name services wait.
const LOG_IN: Duration = Duration::from_secs(60);
/// After how much silence we ask whether the host is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How many jump hosts may be chained.
const MOST_JUMPS: usize = 4;

/// A connection that somebody is logged in on. Cheap to clone; it ends when the
/// last clone and the last command on it are gone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    handle: Handle<Verifier>,
    /// Keeps the way here open.
    _through: Option<Session>,
}

impl Session {
    /// Connects and logs in. The error says which of the two failed, and what to
    /// do about it.
    pub async fn connect(ctx: &Context, target: &Target) -> Result<Session> {
        let jumps =
            std::iter::successors(Some(target), |target| target.jump.as_deref()).count() - 1;
        if jumps > MOST_JUMPS {
            return Err(Error::new(
                Kind::Input,
                format!("more than {MOST_JUMPS} jump hosts in a row"),
            )
            .on_host(&target.name));
        }
        ctx.cancel
            .run_until_cancelled(connect(target))
            .await
            .unwrap_or_else(|| {
                Err(Error::new(Kind::Interrupted, "interrupted").on_host(&target.name))
            })
    }

    /// Where this leads.
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.handle.is_closed()
    }

    pub(super) fn handle(&self) -> &Handle<Verifier> {
        &self.inner.handle
    }
}

async fn connect(target: &Target) -> Result<Session> {
    let judge = Arc::new(Judge::new(target).map_err(|error| error.on_host(&target.name))?);
    let through = match &target.jump {
        Some(jump) => Some(Box::pin(connect(jump)).await?),
        None => None,
    };
    let mut handle = handshake(target, through.as_ref(), &judge).await?;
    timeout(LOG_IN, auth::log_in(&mut handle, target))
        .await
        .unwrap_or_else(|_| Err(too_slow(target, "logging in", LOG_IN)))?;
    Ok(Session {
        inner: Arc::new(Inner {
            target: target.clone(),
            handle,
            _through: through,
        }),
    })
}

/// Exchanges keys; when the host's key is refused and another kind of key may be
/// the expected one, once more for each kind. The first refusal is reported.
async fn handshake(
    target: &Target,
    through: Option<&Session>,
    judge: &Arc<Judge>,
) -> Result<Handle<Verifier>> {
    let mut kinds = judge.preferred(&Preferred::DEFAULT.key);
    let mut first = None;
    loop {
        match exchange(target, through, judge, kinds.clone()).await {
            Ok(handle) => return Ok(handle),
            Err(Failure::Refused { error, kind }) => {
                kinds.retain(|other| family(other) != family(&kind));
                first.get_or_insert(error);
            }
            // After a refusal: the host has no key of the kinds that are left.
            Err(failure) => return Err(first.unwrap_or_else(|| failure.into_error(target))),
        }
        if !judge.may_try_other_kinds() || kinds.is_empty() {
            return Err(first
                .unwrap_or_else(|| Failure::Russh(russh::Error::UnknownKey).into_error(target)));
        }
    }
}

/// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `rsa`: what a host has one key of.
fn family(algorithm: &Algorithm) -> &str {
    match algorithm {
        Algorithm::Rsa { .. } => "rsa",
        other => other.as_str(),
    }
}

async fn exchange(
    target: &Target,
    through: Option<&Session>,
    judge: &Arc<Judge>,
    kinds: Vec<Algorithm>,
) -> Result<Handle<Verifier>, Failure> {
    let stream: Box<dyn Stream> = match through {
        Some(session) => tunnel(target, session).await.map_err(Failure::Other)?,
        None => Box::new(dial(target).await.map_err(Failure::Other)?),
    };
    let verifier = Verifier {
        target: target.clone(),
        judge: judge.clone(),
    };
    timeout(
        HANDSHAKE,
        client::connect_stream(Arc::new(config(kinds)), stream, verifier),
    )
    .await
    .unwrap_or_else(|_| {
        Err(Failure::Other(too_slow(
            target,
            "the SSH key exchange",
            HANDSHAKE,
        )))
    })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects to the first of the target's addresses that answers.
async fn dial(target: &Target) -> Result<TcpStream> {
    let unreachable = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            Kind::Unreachable,
            format!(
                "cannot connect to `{}` port {}",
                target.address, target.port
            ),
        )
        .on_host(&target.name)
        .because(cause)
        .hint(format!(
            "is the host on, is its SSH server running, and does a firewall let port {} through?",
            target.port
        ))
    };
    let addresses = timeout(CONNECT, resolve::addresses(&target.address, target.port))
        .await
        .unwrap_or_else(|_| Err(too_slow(target, "resolving the name", CONNECT)))
        .map_err(|error| error.on_host(&target.name))?;
    let mut last: Box<dyn std::error::Error + Send + Sync> = "no address".into();
    for address in addresses {
        match timeout(CONNECT, open_socket(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = format!("no answer within {} s", CONNECT.as_secs()).into(),
        }
    }
    Err(unreachable(last))
}

async fn open_socket(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A channel through a jump host.
async fn tunnel(target: &Target, jump: &Session) -> Result<Box<dyn Stream>> {
    let opened = timeout(
        CONNECT,
        jump.handle().channel_open_direct_tcpip(
            &target.address,
            target.port.into(),
            "127.0.0.1",
            0,
        ),
    )
    .await
    .unwrap_or_else(|_| Err(russh::Error::ConnectionTimeout))
    .or_err(Kind::Unreachable, || {
        format!(
            "cannot reach `{}` port {} through `{}`",
            target.address,
            target.port,
            jump.target()
        )
    })
    .map_err(|error| {
        error.on_host(&target.name).hint(format!(
            "the SSH server of `{}` must allow it (`AllowTcpForwarding yes`) and reach the host",
            jump.target().address
        ))
    })?;
    Ok(Box::new(opened.into_stream()))
}

fn too_slow(target: &Target, what: &str, limit: Duration) -> Error {
    Error::new(
        Kind::Unreachable,
        format!(
            "{what} at `{target}` took longer than {} s",
            limit.as_secs()
        ),
    )
    .on_host(&target.name)
}

fn config(kinds: Vec<Algorithm>) -> client::Config {
    client::Config {
        client_id: russh::SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-chasi_",
            env!("CARGO_PKG_VERSION")
        ))),
        // Twice as fast as the library's first choice on a processor with AES.
        preferred: Preferred {
            key: Cow::Owned(kinds),
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_128_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        window_size: 8 << 20,
        nodelay: true,
        ..client::Config::default()
    }
}

/// Looks at the host's key in the middle of the key exchange.
pub(super) struct Verifier {
    target: Target,
    judge: Arc<Judge>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// The key is not the right one.
    Refused { error: Error, kind: Algorithm },
    /// The protocol failed.
    Russh(russh::Error),
    /// Anything else.
    Other(Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Failure::Russh(error)
    }
}

impl Failure {
    fn into_error(self, target: &Target) -> Error {
        match self {
            Failure::Refused { error, .. } | Failure::Other(error) => error,
            Failure::Russh(cause) => Error::new(
                Kind::Unreachable,
                format!(
                    "`{}` port {} does not speak SSH as expected",
                    target.address, target.port
                ),
            )
            .on_host(&target.name)
            .because(cause)
            .hint(format!(
                "try by hand: `ssh -v -p {} {}@{}`",
                target.port, target.user, target.address
            )),
        }
    }
}

impl client::Handler for Verifier {
    type Error = Failure;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        // Certificates are never asked for, so a host that shows one is not sane.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Err(Failure::Russh(russh::Error::UnknownKey));
        };
        match self.judge.check(&self.target, key) {
            Ok(()) => Ok(true),
            Err(error) => Err(Failure::Refused {
                error,
                kind: key.algorithm(),
            }),
        }
    }
}
