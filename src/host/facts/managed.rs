//! What chasi has made of a host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Result;
use crate::host::generation::{self, Summary};
use crate::host::journal::{self, Operation};
use crate::host::switch::{self, Change};
use crate::host::{Part, Root};

/// What chasi has made of a host.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Managed {
    /// The version of the chasi that gathered these facts.
    pub version: String,
    /// The parts that are in place.
    pub parts: BTreeMap<Part, PartState>,
    /// All generations on the host that can be switched to, the oldest first.
    pub generations: Vec<Summary>,
    /// Operations that were interrupted and not settled yet.
    pub pending: Vec<Operation>,
}

/// A part of a generation that is in place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PartState {
    /// The generation.
    pub generation: u64,
    /// The identity of its recipe.
    pub identity: Digest,
    /// What of it is no longer as it should be.
    pub drift: Vec<Change>,
    /// Files that a user changed, and that are left alone.
    pub kept: Vec<String>,
    /// What cannot be looked at, or is in the way.
    pub obstacle: Option<String>,
}

pub(super) fn managed(root: &Root) -> Result<Managed> {
    let mut parts = BTreeMap::new();
    for part in Part::ALL {
        if let Some(number) = generation::current(root, part)? {
            parts.insert(part, state(root, part, number)?);
        }
    }
    Ok(Managed {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        parts,
        generations: generation::summaries(root)?
            .into_iter()
            .filter(|summary| !generation::is_damaged(root, summary.number))
            .collect(),
        pending: journal::pending(root)?
            .into_iter()
            .map(|pending| pending.operation)
            .collect(),
    })
}

fn state(root: &Root, part: Part, number: u64) -> Result<PartState> {
    let identity = generation::load(root, number)?.identity;
    let (drift, kept, obstacle) = match switch::diff(root, part, Some(number)) {
        Ok(changes) => (changes.paths, changes.kept, None),
        Err(error) => (Vec::new(), Vec::new(), Some(error.to_string())),
    };
    Ok(PartState {
        generation: number,
        identity,
        drift,
        kept,
        obstacle,
    })
}
