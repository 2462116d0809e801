//! The requests that an agent understands.

pub mod backup;
pub mod blobs;
pub mod certs;
pub mod distro;
pub mod etcd;
pub mod exchange;
pub mod history;
pub mod hook;
pub mod host;
pub mod inspect;
pub mod lock;
pub mod node;
pub mod probe;

use serde::{Deserialize, Serialize};

use super::{Call, Effect};

/// Takes the host's lock for this run; everything that changes the host needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakeLock {
    /// The run's identifier.
    pub run: String,
    /// Who started the run, and where: `user@machine`.
    pub who: String,
    /// How long to wait for another holder, in seconds.
    pub patience: u64,
}

impl Call for TakeLock {
    type Reply = ();
    const NAME: &'static str = "take-lock";
    const EFFECT: Effect = Effect::Reads;
}

/// Ends the session in order. The agent waits for what is under way, removes
/// itself from a host that chasi does not manage, answers, and stops.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bye {}

impl Call for Bye {
    type Reply = ();
    const NAME: &'static str = "bye";
    const EFFECT: Effect = Effect::Reads;
}
