//! `host.json`: what was true of the host before chasi changed it, beyond the
//! files in `originals/`. It is written before the change that it tells of, so it
//! may name a change that never came to be; undoing such a change does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Root;
use crate::error::{Kind, Result, ResultExt};
use crate::file;
use crate::oci::layer::EntryPath;

/// What was true before.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Before {
    /// Directories that chasi made.
    pub(super) directories: BTreeSet<EntryPath>,
    /// The kernel's name of the host, and the content of `/etc/hostname` (none if
    /// there was none).
    pub(super) hostname: Option<Hostname>,
    /// The lines of `/proc/swaps` of devices that were switched off.
    pub(super) swaps: BTreeSet<String>,
    /// Kernel parameters: what was there, and what chasi set.
    pub(super) parameters: BTreeMap<String, Parameter>,
    /// Kernel modules that chasi loaded.
    pub(super) modules: BTreeSet<String>,
    /// Directories that the cluster uses and that were there before it, with what
    /// is not chasi's to remove.
    pub(super) existing: BTreeSet<PathBuf>,
    /// Kernel parameters that the cluster's own programs set, as they were.
    pub(super) foreign: BTreeMap<String, String>,
}

/// How a host was called.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Hostname {
    pub(super) kernel: String,
    pub(super) file: Option<String>,
    /// What chasi called it.
    pub(super) set: String,
}

/// A kernel parameter.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Parameter {
    pub(super) before: String,
    pub(super) set: String,
}

impl Before {
    fn path(root: &Root) -> PathBuf {
        root.state("host.json")
    }

    pub(super) fn load(root: &Root) -> Result<Self> {
        let path = Before::path(root);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Before::default()),
            text => {
                let text =
                    text.or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
                serde_json::from_slice(&text).or_err(Kind::Integrity, || {
                    format!("`{}` cannot be read", path.display())
                })
            }
        }
    }

    pub(super) fn save(&self, root: &Root) -> Result<()> {
        let path = Before::path(root);
        let text = serde_json::to_vec_pretty(self)
            .or_err(Kind::Failed, || "cannot write as JSON what was before")?;
        root.allow("write", &path)?;
        file::create_directories(&root.state(""))?;
        file::write(&path, &text, 0o600)
    }
}
