//! Listening where a cluster's services will listen, and saying back what a probe
//! says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Nonce, Protocol};

/// How long one who connects may take to say something.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to listen when nobody says that it is over.
const LONGEST: Duration = Duration::from_secs(60);

/// What became of the attempt to listen on a port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opened {
    /// Probes are answered.
    Open,
    /// Somebody listens there already.
    Taken,
    /// It cannot be listened on, and why.
    Closed(String),
}

/// Listens on these ports of all these addresses until `end` is cancelled, a minute
/// at most, and says back what begins with the nonce. For each port what became of
/// it, in their order.
pub async fn open(
    addresses: &[IpAddr],
    ports: &[(Protocol, u16)],
    nonce: Nonce,
    end: &CancellationToken,
) -> Vec<Opened> {
    let mut opened = Vec::with_capacity(ports.len());
    for (protocol, port) in ports {
        let mut outcome = Opened::Open;
        for address in addresses {
            let at = SocketAddr::new(*address, *port);
            let result = match protocol {
                Protocol::Tcp => TcpListener::bind(at).await.map(|listener| {
                    begin(end, serve_tcp(listener, nonce));
                }),
                Protocol::Udp => UdpSocket::bind(at).await.map(|socket| {
                    begin(end, serve_udp(socket, nonce));
                }),
            };
            if let Err(error) = result {
                outcome = match error.kind() {
                    std::io::ErrorKind::AddrInUse => Opened::Taken,
                    _ => Opened::Closed(error.to_string()),
                };
                break;
            }
        }
        opened.push(outcome);
    }
    opened
}

fn begin(end: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let end = end.clone();
    tokio::spawn(async move {
        // Either way the socket is closed.
        let _ = timeout(LONGEST, end.run_until_cancelled(work)).await;
    });
}

async fn serve_tcp(listener: TcpListener, nonce: Nonce) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(timeout(PATIENCE, answer(stream, nonce)));
            }
            // Too many open files, for instance: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, nonce: Nonce) -> std::io::Result<()> {
    let mut said = [0; 16];
    stream.read_exact(&mut said).await?;
    if said == nonce.0 {
        stream.write_all(&said).await?;
    }
    // The other side closes first, so that the port is not kept for a while.
    stream.read(&mut said).await.map(|_| ())
}

async fn serve_udp(socket: UdpSocket, nonce: Nonce) {
    let mut said = [0; 64];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut said).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Larger ones measure how large a packet may be; the answer is always small.
        if said[..count].starts_with(&nonce.0) {
            // One who does not get the answer asks again.
            let _ = socket.send_to(&nonce.0, from).await;
        }
    }
}
