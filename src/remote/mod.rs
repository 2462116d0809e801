//! SSH: reaching a host, knowing that it is the right one, running a command
//! there, and streaming to and from it.
//!
//! Invariants:
//! - A host's key is verified before anything is sent to it: by `known_hosts`
//!   files or by a fingerprint. There is no way to skip this.
//! - One TCP connection for a [`Session`], however many commands run on it.
//! - Every wait has a deadline and ends when the [`Context`](crate::event::Context)
//!   is cancelled.
//! - Secrets ([`Secret`]) are never in an argument, an event or an error.

mod auth;
mod connect;
mod host_key;
mod known_hosts;
mod process;
mod resolve;
mod secret;
mod sudo;

use std::fmt;
use std::path::PathBuf;

pub use connect::Session;
pub use host_key::HostKeyPolicy;
pub use process::{Exit, Output, Process, Status};
pub use secret::Secret;

/// The port of SSH when none is given.
pub const DEFAULT_PORT: u16 = 22;

/// A host and everything that is needed to get into it.
#[derive(Clone, Debug)]
pub struct Target {
    /// What messages call it.
    pub name: String,
    /// An IP address or a DNS name.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// Who to log in as.
    pub user: String,
    /// What to log in with, tried in this order.
    pub credentials: Vec<Credential>,
    /// The host to go through, when it cannot be reached directly.
    pub jump: Option<Box<Target>>,
    /// How its key is verified.
    pub host_key: HostKeyPolicy,
    /// How `user` becomes root.
    pub sudo: Sudo,
}

/// Something to log in with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The keys of a running ssh-agent, by its socket.
    Agent(PathBuf),
    /// A private key file.
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// What decrypts it, when it is encrypted.
        passphrase: Option<Secret>,
    },
    /// A password, for the methods `password` and `keyboard-interactive`.
    Password(Secret),
}

/// How the user who logs in becomes root.
#[derive(Clone, Debug, Default)]
pub enum Sudo {
    /// Not at all: the user must be root.
    #[default]
    Never,
    /// `sudo` asks for no password.
    WithoutPassword,
    /// `sudo` asks for this password. It travels on standard input.
    WithPassword(Secret),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = self.address.contains(':');
        match (bracketed, self.port) {
            (_, DEFAULT_PORT) => write!(f, "{}@{}", self.user, self.address),
            (true, port) => write!(f, "{}@[{}]:{port}", self.user, self.address),
            (false, port) => write!(f, "{}@{}:{port}", self.user, self.address),
        }
    }
}

/// Puts `text` into single quotes for a POSIX shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
