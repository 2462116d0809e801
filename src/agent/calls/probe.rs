//! Requests to measure what no file tells. None changes anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::host::probe::{Filter, Neighbour, Nonce, Opened, Path, Protocol, Reached, Writes};

/// Listens on ports, and says back what begins with the nonce, until
/// [`CloseProbes`], the end of the session, or a minute has passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenProbes {
    /// On which of the host's addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports; at most 64.
    pub ports: Vec<(Protocol, u16)>,
    /// What is said back.
    pub nonce: Nonce,
}

impl Call for OpenProbes {
    /// What became of each port, in their order.
    type Reply = Vec<Opened>;
    const NAME: &'static str = "open-probes";
    const EFFECT: Effect = Effect::Reads;
}

/// Closes what [`OpenProbes`] opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloseProbes {}

impl Call for CloseProbes {
    type Reply = ();
    const NAME: &'static str = "close-probes";
    const EFFECT: Effect = Effect::Reads;
}

/// A port of another host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// How packets to it are made.
    pub protocol: Protocol,
    /// Whether something is said, which [`OpenProbes`] says back there. Otherwise
    /// only a connection is made.
    pub echoes: bool,
}

/// Reaches ports of other hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReachPorts {
    /// The ports; at most 4096.
    pub targets: Vec<Target>,
    /// What is said.
    pub nonce: Nonce,
    /// How long each may take, in milliseconds; 10 000 at most.
    pub patience: u64,
}

impl Call for ReachPorts {
    /// How each answered, in their order.
    type Reply = Vec<Reached>;
    const NAME: &'static str = "reach-ports";
    const EFFECT: Effect = Effect::Reads;
}

/// The way to another host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PathTarget {
    /// Where it is.
    pub address: IpAddr,
    /// The size that should arrive there, in bytes.
    pub size: u16,
    /// A UDP port there on which [`OpenProbes`] listens, for a host that answers no
    /// echo requests.
    pub udp: Option<u16>,
}

/// Finds how large packets to other hosts may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeasurePaths {
    /// The hosts; at most 1024.
    pub targets: Vec<PathTarget>,
    /// What is said.
    pub nonce: Nonce,
}

impl Call for MeasurePaths {
    /// What was found, in their order, or why nothing could be sent.
    type Reply = Vec<std::result::Result<Path, String>>;
    const NAME: &'static str = "measure-paths";
    const EFFECT: Effect = Effect::Reads;
}

/// Asks by ARP who has an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskByArp {
    /// On the network of this interface.
    pub interface: String,
    /// In the name of this address of the host's own.
    pub own: Ipv4Addr,
    /// For this address.
    pub wanted: Ipv4Addr,
}

impl Call for AskByArp {
    type Reply = Neighbour;
    const NAME: &'static str = "ask-by-arp";
    const EFFECT: Effect = Effect::Reads;
}

/// Measures how long a write takes until it is on the disk, where etcd's data are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeasureWrites {}

impl Call for MeasureWrites {
    type Reply = Writes;
    const NAME: &'static str = "measure-writes";
    const EFFECT: Effect = Effect::Reads;
}

/// Reads what the packet filter drops and rejects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadFilter {}

impl Call for ReadFilter {
    type Reply = Filter;
    const NAME: &'static str = "read-filter";
    const EFFECT: Effect = Effect::Reads;
}

/// Reads the host's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadClock {}

impl Call for ReadClock {
    /// Nanoseconds since 1970.
    type Reply = i64;
    const NAME: &'static str = "read-clock";
    const EFFECT: Effect = Effect::Reads;
}
