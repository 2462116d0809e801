//! Which backups there are, and whether they are whole.

use jiff::Timestamp;
use serde::Serialize;

use super::place::Place;
use crate::error::Result;
use crate::event::Context;

/// A backup, by its name and its content.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// When it was made.
    pub when: Timestamp,
    /// The Kubernetes version.
    pub kubernetes: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether its content is what was written.
    pub whole: bool,
}

/// Lists the backups in a place, by cluster and time. All of them are read.
pub async fn list(context: &Context, place: &Place) -> Result<Vec<Listed>> {
    let entered = place.enter(context).await?;
    let found = entered.list(context).await?;
    let listed = found.into_iter().map(|(name, found)| Listed {
        whole: name.fits(&found.digest),
        name: found.name,
        cluster: name.cluster,
        when: name.when,
        kubernetes: name.kubernetes,
        bytes: found.size,
        encrypted: name.encrypted,
    });
    Ok(listed.collect())
}
