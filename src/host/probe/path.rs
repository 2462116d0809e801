//! How large a packet may be on the way to another host, without being taken apart.
//!
//! Asked with echo requests (RFC 792, RFC 4443) that must not be taken apart, which
//! the other host's kernel answers: nobody need listen there. The kernel's own idea of
//! the path is passed over.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
    socket_with,
};
use serde::{Deserialize, Serialize};

use super::Nonce;
use crate::error::{Kind, Result, ResultExt};

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long later ones may take at least.
const SHORTEST: Duration = Duration::from_millis(100);
/// How often a packet is sent before it counts as lost.
const ATTEMPTS: u32 = 2;
/// What every path carries: RFC 791 wants 576 bytes of every host, RFC 8200 1280 of
/// every link.
const LEAST_V4: u16 = 576;
const LEAST_V6: u16 = 1280;
/// The largest packet that is tried.
const MOST: u16 = 9216;

/// How large packets may be on the way to a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Up to so many bytes, IP's own header among them.
    Carries(u16),
    /// Not even the smallest packets are answered.
    Silent,
}

/// Finds the largest packet, up to `mtu` bytes, that arrives at `address` and is
/// answered: echo requests, or datagrams to the port `udp`, where a probe is answered,
/// if echo requests are not. Blocks, for a few seconds at most.
pub fn measure(address: IpAddr, mtu: u16, udp: Option<u16>, nonce: Nonce) -> Result<Path> {
    let cannot = || format!("cannot send probes to {address}");
    let mtu = mtu.min(MOST);
    let work = || -> io::Result<Path> {
        let mut echo = Echo::open(address, nonce)?;
        let found = find(address, mtu, |size, patience| echo.passes(size, patience))?;
        let (Path::Silent, Some(port)) = (found, udp) else {
            return Ok(found);
        };
        let datagrams = Datagrams::open(SocketAddr::new(address, port), nonce)?;
        find(address, mtu, |size, patience| {
            datagrams.passes(size, patience)
        })
    };
    work().or_err(Kind::System, cannot)
}

/// Narrows down between what every path carries and what is wanted.
fn find(
    address: IpAddr,
    mtu: u16,
    mut passes: impl FnMut(u16, Duration) -> io::Result<bool>,
) -> io::Result<Path> {
    if passes(mtu, PATIENCE)? {
        return Ok(Path::Carries(mtu));
    }
    let least = match address {
        IpAddr::V4(_) => LEAST_V4,
        IpAddr::V6(_) => LEAST_V6,
    };
    let least = least.min(mtu);
    let begin = Instant::now();
    if !passes(least, PATIENCE)? {
        return Ok(Path::Silent);
    }
    // What is lost is known sooner on a short way.
    let patience = (begin.elapsed() * 4).clamp(SHORTEST, PATIENCE);
    let (mut good, mut bad) = (least, mtu);
    while bad.saturating_sub(good) > 1 {
        let middle = good + (bad - good) / 2;
        match passes(middle, patience)? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Path::Carries(good))
}

/// A socket that sends echo requests to one host.
struct Echo {
    socket: OwnedFd,
    address: IpAddr,
    nonce: Nonce,
    sequence: u16,
}

impl Echo {
    fn open(address: IpAddr, nonce: Nonce) -> io::Result<Echo> {
        let (family, protocol) = match address {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
        never_apart(&socket, address)?;
        // Otherwise it would hear the answers of all other hosts as well.
        connect(&socket, &SocketAddr::new(address, 0))?;
        let nonce = own_nonce(address, nonce);
        Ok(Echo {
            socket,
            address,
            nonce,
            sequence: 0,
        })
    }

    /// Whether a packet of `size` bytes is answered.
    fn passes(&mut self, size: u16, patience: Duration) -> io::Result<bool> {
        for _ in 0..ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let request = request(self.address, size, self.sequence, self.nonce);
            match send(&self.socket, &request, SendFlags::empty()) {
                Ok(_) => {}
                // Larger than the own interface takes.
                Err(Errno::MSGSIZE) => return Ok(false),
                // What came of an earlier one: nobody has the address, or says so.
                Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::CONNREFUSED) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_answered(Instant::now() + patience)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_answered(&self, end: Instant) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 128];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(left))?;
            match recv(&self.socket, &mut buffer, RecvFlags::TRUNC) {
                Ok(((said, _), _)) if is_reply(self.address, said, self.sequence, self.nonce) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(false),
                // A router or the own host says that it was too large, or that there
                // is nobody; the answer does not come then.
                Err(
                    Errno::MSGSIZE
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH
                    | Errno::CONNREFUSED
                    | Errno::INTR,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A socket that sends datagrams to one port, where they are answered.
struct Datagrams {
    socket: UdpSocket,
    header: u16,
    nonce: Nonce,
}

impl Datagrams {
    fn open(address: SocketAddr, nonce: Nonce) -> io::Result<Datagrams> {
        let (any, header): (IpAddr, u16) = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 28),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 48),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        never_apart(&socket, address.ip())?;
        Ok(Datagrams {
            socket,
            header,
            nonce,
        })
    }

    /// Whether a packet of `size` bytes is answered.
    fn passes(&self, size: u16, patience: Duration) -> io::Result<bool> {
        let mut said = vec![0; usize::from(size.saturating_sub(self.header)).max(16)];
        said[..16].copy_from_slice(&self.nonce.0);
        self.socket.set_read_timeout(Some(patience))?;
        for _ in 0..ATTEMPTS {
            match self.socket.send(&said) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            let mut answer = [0; 64];
            match self.socket.recv(&mut answer) {
                Ok(count) if answer[..count] == self.nonce.0 => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Too large, or refused: no answer to this one.
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }
}

/// Packets of this socket are not taken apart, whatever the kernel believes of the
/// path.
fn never_apart(socket: impl AsFd, address: IpAddr) -> rustix::io::Result<()> {
    match address {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE),
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE),
    }
}

/// A nonce for one host alone: whose answer it is must be beyond doubt.
fn own_nonce(address: IpAddr, nonce: Nonce) -> Nonce {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut own = nonce.0;
    for (byte, octet) in own.iter_mut().zip(octets) {
        *byte ^= octet;
    }
    Nonce(own)
}

/// An echo request that makes a packet of `size` bytes. The identifier is the first
/// two bytes of the nonce, and all of it comes behind the header.
fn request(address: IpAddr, size: u16, sequence: u16, nonce: Nonce) -> Vec<u8> {
    let (kind, header) = match address {
        IpAddr::V4(_) => (8, 20),
        IpAddr::V6(_) => (128, 40),
    };
    let mut packet = vec![0; usize::from(size).saturating_sub(header).max(24)];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&nonce.0[..2]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..24].copy_from_slice(&nonce.0);
    // The kernel computes that of ICMPv6.
    if address.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether these are the first bytes of the reply. With IPv4 the packet's own header
/// comes first.
fn is_reply(address: IpAddr, packet: &[u8], sequence: u16, nonce: Nonce) -> bool {
    let (kind, message) = match address {
        IpAddr::V4(_) => {
            let length = packet.first().map(|first| usize::from(first & 0xf) * 4);
            (0, length.and_then(|length| packet.get(length..)))
        }
        IpAddr::V6(_) => (129, Some(packet)),
    };
    let Some(message) = message.and_then(|message| message.get(..24)) else {
        return false;
    };
    message[0] == kind && message[6..8] == sequence.to_be_bytes() && message[8..24] == nonce.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([3; 16]);

    #[test]
    fn requests_have_the_asked_size_and_a_right_checksum() {
        let v4: IpAddr = [127, 0, 0, 1].into();
        let packet = request(v4, 1500, 5, NONCE);
        assert_eq!(packet.len() + 20, 1500);
        assert_eq!(checksum(&packet), 0);
        assert_eq!(
            request("::1".parse().unwrap(), 1280, 5, NONCE).len() + 40,
            1280
        );
    }

    #[test]
    fn the_largest_size_is_found_by_halves() {
        let v4: IpAddr = [10, 0, 0, 1].into();
        for carried in [576, 1279, 1280, 1450, 1499, 1500] {
            let mut asked = 0;
            let found = find(v4, 1500, |size, _| {
                asked += 1;
                Ok(size <= carried)
            });
            assert_eq!(found.unwrap(), Path::Carries(carried));
            assert!(asked <= 13, "{asked}");
        }
        assert_eq!(find(v4, 1500, |_, _| Ok(false)).unwrap(), Path::Silent);
    }

    #[test]
    fn datagrams_are_answered_where_a_probe_listens() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut said = [0; 2000];
            let (count, from) = socket.recv_from(&mut said).unwrap();
            socket.send_to(&said[..16], from).unwrap();
            count
        });
        let datagrams = Datagrams::open(at, NONCE).unwrap();
        assert!(datagrams.passes(1400, PATIENCE).unwrap());
        assert_eq!(answering.join().unwrap() + 28, 1400);
    }

    #[test]
    fn the_answer_of_another_host_does_not_count() {
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut reply = vec![0x45; 20];
        reply.extend(request(one, 100, 5, own_nonce(one, NONCE)));
        reply[20] = 0;
        assert!(is_reply(one, &reply, 5, own_nonce(one, NONCE)));
        assert!(!is_reply(other, &reply, 5, own_nonce(other, NONCE)));
    }

    #[test]
    fn only_the_reply_to_this_very_request_counts() {
        let v4: IpAddr = [127, 0, 0, 1].into();
        let mut reply = vec![0x45; 20];
        reply.extend(request(v4, 100, 5, NONCE));
        reply[20] = 0;
        assert!(is_reply(v4, &reply, 5, NONCE));
        assert!(!is_reply(v4, &reply, 6, NONCE));
        assert!(!is_reply(v4, &reply, 5, Nonce([4; 16])));
        assert!(!is_reply(v4, &reply[..40], 5, NONCE));
        assert!(!is_reply(v4, &[], 5, NONCE));
        // The request itself, which the own host sees on loopback.
        reply[20] = 8;
        assert!(!is_reply(v4, &reply, 5, NONCE));
    }
}
