//! Requests about certificates that end.

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};

/// Signs the certificates of this control plane anew that end before a time, and starts
/// again what reads them only when it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewCertificates {
    /// In seconds since 1970.
    pub before: i64,
    /// How long the new ones are valid, in hours.
    pub hours: u32,
}

impl Call for RenewCertificates {
    /// The files that were renewed.
    type Reply = Vec<String>;
    const NAME: &'static str = "renew-certificates";
    const EFFECT: Effect = Effect::Changes;
}

/// Starts kubelet again, which leaves pods alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestartKubelet {}

impl Call for RestartKubelet {
    type Reply = ();
    const NAME: &'static str = "restart-kubelet";
    const EFFECT: Effect = Effect::Changes;
}
