//! How long certificates are valid, whom they name, and the fingerprints of keys.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::network::Domain;
use super::text::{Invalid, checked_text, textual};

checked_text!(
    /// A name that goes into a certificate: a DNS name, possibly with a leading
    /// wildcard label, or an IP address.
    CertificateName,
    certificate_name,
    "An IP address, or a DNS name that may begin with `*.`."
);

fn certificate_name(text: &str) -> Result<(), Invalid> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    match text.strip_prefix("*.").unwrap_or(text).parse::<Domain>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Invalid::new(format!(
            "`{text}` is neither an IP address nor a DNS name"
        ))),
    }
}

/// How long a certificate is valid, in whole hours; from one hour to 100 years.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Validity {
    hours: u32,
}

const HOURS_PER_DAY: u32 = 24;
const HOURS_PER_YEAR: u32 = 365 * HOURS_PER_DAY;

impl Validity {
    /// So many years of 365 days; at most 100.
    pub const fn years(years: u8) -> Self {
        let years = if years > 100 { 100 } else { years as u32 };
        Validity {
            hours: years * HOURS_PER_YEAR,
        }
    }

    /// In hours.
    pub fn hours(self) -> u32 {
        self.hours
    }
}

impl FromStr for Validity {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || {
            Invalid::new(format!(
                "`{text}` is not a validity: a number with `y` (365 days), `d` or `h`, \
                 from `1h` to `100y`"
            ))
        };
        // Go writes ten years as `87600h0m0s`, and kubeadm's documents have it so.
        let short = text.strip_suffix("0m0s").or(text.strip_suffix("0m"));
        let short = short.filter(|rest| rest.ends_with('h')).unwrap_or(text);
        let unit = match short.as_bytes().last() {
            Some(b'y') => HOURS_PER_YEAR,
            Some(b'd') => HOURS_PER_DAY,
            Some(b'h') => 1,
            _ => return Err(refuse()),
        };
        let number = &short[..short.len() - 1];
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let hours = number
            .parse::<u32>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .filter(|hours| (1..=100 * HOURS_PER_YEAR).contains(hours))
            .ok_or_else(refuse)?;
        Ok(Validity { hours })
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hours.is_multiple_of(HOURS_PER_YEAR) {
            write!(f, "{}y", self.hours / HOURS_PER_YEAR)
        } else if self.hours.is_multiple_of(HOURS_PER_DAY) {
            write!(f, "{}d", self.hours / HOURS_PER_DAY)
        } else {
            write!(f, "{}h", self.hours)
        }
    }
}

textual!(
    Validity,
    "A number with `y` (365 days), `d` or `h`, such as `10y`."
);

/// The SHA-256 fingerprint of a host's SSH key, as `ssh-keygen -lf` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The digest itself.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.strip_prefix("SHA256:")
            .and_then(|rest| STANDARD_NO_PAD.decode(rest.trim_end_matches('=')).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Fingerprint)
            .ok_or_else(|| {
                Invalid::new(format!(
                    "`{text}` is not a fingerprint: `SHA256:` and 43 characters, \
                     as `ssh-keygen -lf` prints it"
                ))
            })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

textual!(Fingerprint, "`SHA256:…` as `ssh-keygen -lf` prints it.");
