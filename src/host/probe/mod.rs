//! Measuring what no file tells: who reaches whom, how large packets may be, who has
//! an address, how fast the disk is, and what the packet filter lets through.
//!
//! Nothing here changes the host. Sockets close when their token is cancelled or
//! their time is over; the one file that is written has no name, and is gone with the
//! process that wrote it. Every wait is bounded.

mod arp;
mod filter;
mod listen;
mod path;
mod reach;
mod writes;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use arp::{Neighbour, ask as ask_by_arp};
pub use filter::{Filter, Hook, Match, Rule, read as read_filter};
pub use listen::{Opened, open};
pub use path::{Path, measure as measure_path};
pub use reach::{Reached, reach};
pub use writes::{Writes, measure as measure_writes};

/// How packets to a port are made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    /// As packet filters write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// What a probe says, so that an answer is known to be one: 16 bytes of chance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 16]);
