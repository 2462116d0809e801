//! What a request to the agent is.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request to the agent: a value that travels as JSON, and the type of its
/// reply.
pub trait Call: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What comes back. Data too large for one message (16 MiB) travels beside it,
    /// see [`Client::upload`](super::Client::upload).
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Its name in the protocol, in kebab case.
    const NAME: &'static str;

    /// What it does to the host.
    const EFFECT: Effect;
}

/// What a request does to the host; decides how the agent runs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It only looks. Needs no lock, runs beside others, and is stopped when the
    /// connection ends.
    Reads,
    /// It adds content that nothing refers to yet, such as blobs. Needs the host's
    /// lock, runs beside others, and is stopped when the connection ends.
    Adds,
    /// It changes the host. Needs the host's lock, is alone among changes, and
    /// runs to its end even when the connection ends.
    Changes,
}
