//! The condition of a host's network link, as somebody asked for it.
//!
//! It is a wish, kept in the lab's state and made true again whenever the host
//! starts: a cable stays cut when a machine is switched off and on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// The MTU of a link that nobody changed.
pub const FULL_MTU: u16 = 1500;

/// The condition of a link. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// No frame passes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// At most so many bits a second, in each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// So many frames are lost, in each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// The largest packet, in bytes, at both ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = [
            self.cut.then(|| "cut".to_owned()),
            self.rate.map(|rate| format!("limited to {rate}")),
            self.loss.map(|loss| format!("loses {loss}")),
            self.mtu.map(|mtu| format!("mtu {}", mtu.0)),
        ]
        .into_iter()
        .flatten()
        .collect();
        f.write_str(if parts.is_empty() { "ok" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// A rate in bits a second, from `8kbit` up.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = Error;

    /// Reads what tc(8) calls `kbit`, `mbit` and `gbit` (powers of 1000), or
    /// plain bits a second.
    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let (digits, unit) = lower.split_at(
            lower
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(lower.len()),
        );
        let unit = match unit {
            "" | "bit" => Some(1),
            "kbit" => Some(1_000),
            "mbit" => Some(1_000_000),
            "gbit" => Some(1_000_000_000),
            _ => None,
        };
        let rate = unit
            .zip(digits.parse::<u64>().ok())
            .and_then(|(unit, n)| n.checked_mul(unit));
        match rate {
            Some(rate) if (8_000..=100_000_000_000).contains(&rate) => Ok(Rate(rate)),
            _ => Err(Error::new(Kind::Usage, format!("`{text}` is not a rate"))
                .hint("Use a number with a unit, from `8kbit` to `100gbit`: `512kbit`, `10mbit`.")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % 1_000_000_000 == 0 => write!(f, "{}gbit", n / 1_000_000_000),
            n if n % 1_000_000 == 0 => write!(f, "{}mbit", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{}kbit", n / 1_000),
            n => write!(f, "{n}bit"),
        }
    }
}

/// How many frames of ten thousand are lost.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Loss(pub u16);

impl FromStr for Loss {
    type Err = Error;

    /// Reads percent with at most two decimals; a `%` may follow.
    fn from_str(text: &str) -> Result<Self> {
        let percent: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
        match percent {
            Some(percent) if (0.01..=100.0).contains(&percent) => {
                Ok(Loss((percent * 100.0).round() as u16))
            }
            _ => Err(Error::new(Kind::Usage, format!("`{text}` is not a loss"))
                .hint("Use percent from `0.01` to `100`.")),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

/// An MTU in bytes: 576, which IPv4 expects of everyone, to 1500. Below 1280 a
/// link has no IPv6 (RFC 8200, section 5).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Mtu(pub u16);

impl FromStr for Mtu {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(mtu) if (576..=FULL_MTU).contains(&mtu) => Ok(Mtu(mtu)),
            _ => Err(Error::new(Kind::Usage, format!("`{text}` is not an MTU"))
                .hint("Use bytes from `576` to `1500`.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown_in_tcs_units() {
        for (text, bits, shown) in [
            ("10mbit", 10_000_000, "10mbit"),
            ("10MBit", 10_000_000, "10mbit"),
            ("1500kbit", 1_500_000, "1500kbit"),
            ("8001", 8001, "8001bit"),
            ("1gbit", 1_000_000_000, "1gbit"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.0, rate.to_string().as_str()), (bits, shown));
        }
        for bad in [
            "",
            "mbit",
            "10mb",
            "1bit",
            "10 mbit",
            "-1mbit",
            "99999999999gbit",
        ] {
            assert_eq!(
                bad.parse::<Rate>().unwrap_err().kind(),
                Kind::Usage,
                "{bad}"
            );
        }
    }

    #[test]
    fn loss_and_mtu_have_limits() {
        assert_eq!("12.5%".parse::<Loss>().unwrap(), Loss(1250));
        assert_eq!("100".parse::<Loss>().unwrap().to_string(), "100%");
        for bad in ["0", "100.1", "-1", "NaN", "x"] {
            assert!(bad.parse::<Loss>().is_err(), "{bad}");
        }
        assert_eq!("1280".parse::<Mtu>().unwrap(), Mtu(1280));
        for bad in ["575", "1501", "x"] {
            assert!(bad.parse::<Mtu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_is_shown_in_words() {
        assert_eq!(Link::default().to_string(), "ok");
        let link = Link {
            cut: true,
            rate: Some(Rate(1000)),
            loss: Some(Loss(50)),
            mtu: Some(Mtu(1280)),
        };
        assert_eq!(
            link.to_string(),
            "cut, limited to 1kbit, loses 0.5%, mtu 1280"
        );
    }
}
