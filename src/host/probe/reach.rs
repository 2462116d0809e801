//! Reaching a port of another host.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Nonce, Protocol};

/// How often a datagram is sent: one may be lost.
const DATAGRAMS: u32 = 4;

/// How a port answered.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// It said back what it was told.
    Echoed,
    /// A connection was accepted; nothing was said.
    Accepted,
    /// It refused: nobody listens, or a packet filter rejects.
    Refused,
    /// There was no answer at all.
    Silent,
    /// There is no way to it, and what the system says.
    Unreachable(String),
    /// It said something else: another program listens.
    Foreign,
}

/// Connects or sends to a port. `nonce` is what is said, and expected back; without
/// one only a connection is made, so that a running service is not disturbed.
pub async fn reach(
    address: SocketAddr,
    protocol: Protocol,
    nonce: Option<Nonce>,
    patience: Duration,
) -> Reached {
    let work = async {
        match protocol {
            Protocol::Tcp => tcp(address, nonce).await,
            Protocol::Udp => udp(address, nonce, patience / DATAGRAMS).await,
        }
    };
    match timeout(patience, work).await {
        Ok(Ok(reached)) => reached,
        Ok(Err(error)) => failed(&error),
        Err(_) => Reached::Silent,
    }
}

fn failed(error: &std::io::Error) -> Reached {
    match error.kind() {
        ErrorKind::ConnectionRefused => Reached::Refused,
        ErrorKind::TimedOut => Reached::Silent,
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Reached::Foreign,
        _ => Reached::Unreachable(error.to_string()),
    }
}

async fn tcp(address: SocketAddr, nonce: Option<Nonce>) -> std::io::Result<Reached> {
    let mut stream = TcpStream::connect(address).await?;
    let Some(nonce) = nonce else {
        return Ok(Reached::Accepted);
    };
    stream.write_all(&nonce.0).await?;
    let mut said = [0; 16];
    stream.read_exact(&mut said).await?;
    Ok(judge(&said, nonce))
}

fn judge(said: &[u8], nonce: Nonce) -> Reached {
    match *said == nonce.0 {
        true => Reached::Echoed,
        false => Reached::Foreign,
    }
}

async fn udp(
    address: SocketAddr,
    nonce: Option<Nonce>,
    each: Duration,
) -> std::io::Result<Reached> {
    // Without an answer nothing can be told of a datagram.
    let Some(nonce) = nonce else {
        return Ok(Reached::Silent);
    };
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let mut said = [0; 64];
    for _ in 0..DATAGRAMS {
        socket.send(&nonce.0).await?;
        if let Ok(received) = timeout(each, socket.recv(&mut said)).await {
            return Ok(judge(&said[..received?], nonce));
        }
    }
    Ok(Reached::Silent)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::{Opened, open};
    use super::*;

    const NONCE: Nonce = Nonce([7; 16]);
    const SHORT: Duration = Duration::from_millis(400);
    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A port that nobody has now.
    async fn free(protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Tcp => tokio::net::TcpListener::bind((HOME, 0))
                .await
                .unwrap()
                .local_addr(),
            Protocol::Udp => UdpSocket::bind((HOME, 0)).await.unwrap().local_addr(),
        }
        .unwrap()
        .port()
    }

    #[tokio::test]
    async fn a_listener_answers_the_right_nonce_until_it_is_over() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let port = free(protocol).await;
            let end = CancellationToken::new();
            let opened = open(&[HOME], &[(protocol, port)], NONCE, &end).await;
            assert_eq!(opened, [Opened::Open]);
            let again = open(&[HOME], &[(protocol, port)], NONCE, &end).await;
            assert_eq!(again, [Opened::Taken]);
            let at = SocketAddr::new(HOME, port);
            let reached = reach(at, protocol, Some(NONCE), SHORT).await;
            assert_eq!(reached, Reached::Echoed);
            let other = reach(at, protocol, Some(Nonce([8; 16])), SHORT).await;
            assert_eq!(other, Reached::Silent);
            end.cancel();
            let mut last = Reached::Echoed;
            for _ in 0..100 {
                last = reach(at, protocol, Some(NONCE), SHORT).await;
                if last == Reached::Refused {
                    break;
                }
            }
            assert_eq!(last, Reached::Refused, "{protocol}");
        }
    }

    #[tokio::test]
    async fn another_program_is_told_from_the_listener() {
        let listener = tokio::net::TcpListener::bind((HOME, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            }
        });
        let reached = reach(at, Protocol::Tcp, Some(NONCE), SHORT).await;
        assert_eq!(reached, Reached::Foreign);
        assert_eq!(
            reach(at, Protocol::Tcp, None, SHORT).await,
            Reached::Accepted
        );
    }
}
