//! Addresses and networks. Nothing is resolved here.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::name::subdomain;
use super::text::{Invalid, checked_text, textual};

checked_text!(
    /// A DNS domain such as `cluster.local`.
    Domain,
    domain,
    "A DNS name such as `cluster.local`."
);
checked_text!(
    /// The name of a network interface: at most 15 bytes, Linux' limit.
    InterfaceName,
    interface_name,
    "A network interface such as `eth1`."
);
fn domain(text: &str) -> Result<(), Invalid> {
    if subdomain(text) {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a DNS name: lower-case letters, digits, `-` and `.`"
    )))
}

fn interface_name(text: &str) -> Result<(), Invalid> {
    let right = !text.is_empty()
        && text.len() <= 15
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if right {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a network interface: at most 15 characters, no spaces, no `/`"
    )))
}

/// Where something is reached: an IP address or a DNS name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, resolved by whoever connects.
    Name(Domain),
}

impl Address {
    /// The IP address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Ip(ip) => Some(*ip),
            Address::Name(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(ip) = text.parse() {
            return Ok(Address::Ip(ip));
        }
        // What consists of digits and dots was meant to be an address: `10.0.0.256`
        // would otherwise pass for a name.
        let digits = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        if digits || text.contains(':') {
            return Err(Invalid::new(format!("`{text}` is not an IP address")));
        }
        match text.to_ascii_lowercase().parse() {
            Ok(name) => Ok(Address::Name(name)),
            Err(_) => Err(Invalid::new(format!(
                "`{text}` is neither an IP address nor a DNS name"
            ))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(ip) => ip.fmt(f),
            Address::Name(name) => name.fmt(f),
        }
    }
}

textual!(Address, "An IP address or a DNS name.");

/// An address and a port: `vip.example.com:6443`, `[fd00::1]:6443`. Without a
/// port it is 6443.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// The TCP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const DEFAULT_PORT: u16 = 6443;
        let whole = |address: &str| {
            Ok(Endpoint {
                address: address.parse()?,
                port: DEFAULT_PORT,
            })
        };
        if text.contains("://") {
            return Err(Invalid::new(format!(
                "`{text}` is a URL: write only the name and the port"
            )));
        }
        let (address, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, "")) => return whole(address),
                Some((address, port)) => (address, port.strip_prefix(':').unwrap_or(port)),
                None => return Err(Invalid::new(format!("`{text}` has no closing `]`"))),
            },
            None if text.parse::<IpAddr>().is_ok() => return whole(text),
            None => match text.rsplit_once(':') {
                Some(parts) => parts,
                None => return whole(text),
            },
        };
        match port.parse() {
            Ok(port) if port > 0 => Ok(Endpoint {
                address: address.parse()?,
                port,
            }),
            _ => Err(Invalid::new(format!(
                "`{port}` is not a port: a number from 1 to 65535"
            ))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Ip(ip @ IpAddr::V6(_)) => write!(f, "[{ip}]:{}", self.port),
            address => write!(f, "{address}:{}", self.port),
        }
    }
}

textual!(
    Endpoint,
    "An address and an optional port, 6443 by default."
);

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The number of bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A network: an address whose host bits are zero, and the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address `index` after the first one, when it is in the network. The
    /// Kubernetes service is number 1, the cluster's DNS number 10.
    pub fn nth(&self, index: u32) -> Option<IpAddr> {
        let address = match self.first {
            IpAddr::V4(first) => IpAddr::V4(u32::from(first).checked_add(index)?.into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(index.into())?.into()),
        };
        self.contains(address).then_some(address)
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && mask(address, self.prefix) == self.first
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        let shorter = self.prefix.min(other.prefix);
        self.family() == other.family() && mask(self.first, shorter) == mask(other.first, shorter)
    }
}

/// Keeps the first `prefix` bits, of which the address must have as many.
fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let ones = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & ones).into())
        }
        IpAddr::V6(address) => {
            let ones = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & ones).into())
        }
    }
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || {
            Invalid::new(format!(
                "`{text}` is not a network: an address, `/` and a prefix, such as `10.244.0.0/16`"
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
        if !number || prefix > Family::of(address).bits() {
            return Err(refuse());
        }
        let first = mask(address, prefix);
        if first != address {
            return Err(Invalid::new(format!(
                "`{text}` has bits set behind its prefix: the network is `{first}/{prefix}`"
            )));
        }
        Ok(Cidr { first, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

textual!(
    Cidr,
    "A network such as `10.244.0.0/16` or `fd00:10:244::/56`."
);
