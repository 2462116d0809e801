//! The boot step: completes or undoes an interrupted switch, before the container
//! runtime and kubelet start, with nothing but what is on the host.

use std::fs::{File, TryLockError};

use serde::{Deserialize, Serialize};

use super::switch::{self, Settled};
use super::{Root, unit};
use crate::error::{Kind, Result, ResultExt};

/// What the boot step did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// An agent is in charge of the host, and settles things itself.
    AgentInCharge,
    /// This was interrupted, and is settled; usually nothing.
    Settled(Vec<Settled>),
}

/// Settles what was interrupted, unless an agent is at it. systemd reads units
/// again if any switch was settled.
pub fn run(root: &Root) -> Result<Boot> {
    let path = root.state("lock");
    let failed = || format!("cannot lock `{}`", path.display());
    if !root.state("journal").is_dir() {
        return Ok(Boot::Settled(Vec::new()));
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .or_err(Kind::System, failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Boot::AgentInCharge),
        Err(TryLockError::Error(cause)) => return Err(cause).or_err(Kind::System, failed),
    }
    let settled = switch::recover(root)?;
    if root.is_live() && !settled.is_empty() {
        unit::reload()?;
    }
    Ok(Boot::Settled(settled))
}
