//! Opening a connection to an API server, so that neither a dead server nor a
//! dead network can hold it up for long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

use super::server::Server;

/// How long the next server waits for the one before it to accept. Far above a
/// round trip in a data centre, so that the preferred server gets its chance, and
/// far below what a person notices.
const STAGGER: Duration = Duration::from_millis(300);

/// How long all servers together have. kubectl and kubelet wait 10 s for a TLS
/// handshake.
const TOGETHER: Duration = Duration::from_secs(8);

/// How long sent data may stay unacknowledged before the connection counts as
/// broken (`TCP_USER_TIMEOUT`), in milliseconds. The kernel's own patience is
/// about a quarter of an hour.
const UNACKNOWLEDGED: u32 = 12_000;

/// An idle connection is asked for a sign of life after this time, and then at
/// the second interval. Together with [`UNACKNOWLEDGED`], an idle connection to a
/// host that vanished ends after 12 to 14 s, even where no probe looks.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(2));

/// Connects to one server.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE.0)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE.1)?;
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED)?;
    socket.connect(address).await
}

/// Connects to the first of the servers that accepts. Each gets a head start over
/// the next one; a refusal lets the next one start at once. What is seen on the
/// way is noted with the servers.
pub async fn first(candidates: Vec<Arc<Server>>) -> Option<(Arc<Server>, TcpStream)> {
    tokio::time::timeout(TOGETHER, race(candidates))
        .await
        .ok()
        .flatten()
}

async fn race(candidates: Vec<Arc<Server>>) -> Option<(Arc<Server>, TcpStream)> {
    let mut waiting = candidates.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut latest: Option<Arc<Server>> = None;
    loop {
        let next = waiting.next();
        let more = next.is_some();
        if let Some(server) = next {
            latest = Some(server.clone());
            attempts.push(async move {
                let connected = connect(server.address).await;
                (server, connected)
            });
        }
        let timer = async {
            if more {
                tokio::time::sleep(STAGGER).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            ended = attempts.next() => match ended {
                Some((server, Ok(stream))) => return Some((server, stream)),
                Some((server, Err(error))) => server.doubt(error.to_string()),
                None => return None,
            },
            () = timer => {
                // Slow is not dead; the probe finds out.
                if let Some(server) = &latest {
                    server.look.notify_one();
                }
            }
        }
    }
}
