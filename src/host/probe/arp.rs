//! Asking by ARP who has an address (RFC 826).

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{LinkAddr, MsgFlags};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, ResultExt};

/// How often to ask, and how long to wait each time.
const ATTEMPTS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(350);

/// Who has an address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Neighbour {
    /// The one with this hardware address.
    Answers(String),
    /// Nobody answered.
    Nobody,
}

/// Asks on the network of `interface`, in the name of `own`, who has `wanted`.
/// Blocks for about a second.
pub fn ask(interface: &str, own: Ipv4Addr, wanted: Ipv4Addr) -> Result<Neighbour> {
    let cannot = || format!("cannot ask for {wanted} on `{interface}`");
    let link = link(interface)
        .ok_or_else(|| Error::new(Kind::System, cannot()).because("it has no hardware address"))?;
    let hardware = link.addr().unwrap_or_default();
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        flags,
        Some(eth::ARP),
    )
    .map_err(std::io::Error::from)
    .or_err(Kind::System, cannot)?;
    let frame = request(hardware, own, wanted);
    for _ in 0..ATTEMPTS {
        nix::sys::socket::sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty())
            .or_err(Kind::System, cannot)?;
        let answer = wait(&socket, wanted, Instant::now() + PATIENCE)
            .map_err(std::io::Error::from)
            .or_err(Kind::System, cannot)?;
        if let Some(hardware) = answer {
            return Ok(Neighbour::Answers(shown(hardware)));
        }
    }
    Ok(Neighbour::Nobody)
}

/// The interface as packets are addressed to it.
fn link(interface: &str) -> Option<LinkAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address?.as_link_addr().copied())
}

fn wait(socket: &OwnedFd, wanted: Ipv4Addr, end: Instant) -> rustix::io::Result<Option<[u8; 6]>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 128];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        sockopt::set_socket_timeout(socket, Timeout::Recv, Some(left))?;
        match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok(((frame, _), _)) => {
                if let Some(hardware) = reply(frame, wanted) {
                    return Ok(Some(hardware));
                }
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// An Ethernet frame to everybody.
fn request(hardware: [u8; 6], own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(hardware);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, the lengths of their addresses, a question.
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(hardware);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// The hardware address in a frame that says who has `wanted`.
fn reply(frame: &[u8], wanted: Ipv4Addr) -> Option<[u8; 6]> {
    let message = frame.get(14..42)?;
    let is_reply = frame.get(12..14)? == [0x08, 0x06] && message.get(6..8)? == [0, 2];
    let of_wanted = message.get(14..18)? == wanted.octets();
    (is_reply && of_wanted).then(|| message.get(8..14)?.try_into().ok())?
}

fn shown(hardware: [u8; 6]) -> String {
    hardware.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const WANTED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    #[test]
    fn only_who_has_the_address_is_heard() {
        let question = request([2; 6], OWN, WANTED);
        assert_eq!(question.len(), 42);
        assert_eq!(reply(&question, WANTED), None);
        // The other one answers: its own addresses first.
        let mut answer = request([9; 6], WANTED, OWN);
        answer[21] = 2;
        assert_eq!(reply(&answer, WANTED), Some([9; 6]));
        assert_eq!(reply(&answer, OWN), None);
        assert_eq!(reply(&answer[..30], WANTED), None);
        assert_eq!(shown([0, 1, 0xab, 3, 4, 5]), "00:01:ab:03:04:05");
    }
}
