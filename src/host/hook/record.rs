//! What is remembered of plugins on a host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Hook;
use super::secret::Sealed;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::host::Root;
use crate::spec::plugin::{Phase, PluginName, SettingName};

/// The format that this version writes, and the newest it reads.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    applied: Vec<Applied>,
}

/// A plugin that ran at a phase, or that is to run at one that will come.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation that it is in.
    pub generation: u64,
    /// What it was told, but for secrets.
    pub hook: Hook,
    /// What is remembered of its secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SettingName, Sealed>,
    /// Whether it ended well. One that did not may have changed something.
    pub is_done: bool,
}

impl Applied {
    fn is(&self, plugin: &PluginName, phase: Phase) -> bool {
        self.hook.plugin.name == *plugin && self.hook.phase == phase
    }
}

fn path(root: &Root) -> PathBuf {
    root.state("hooks/applied.json")
}

/// The directory that a plugin has for itself.
pub(super) fn state(root: &Root, plugin: &PluginName) -> PathBuf {
    root.state("hooks").join(plugin.as_str())
}

/// Everything that is remembered, in the order in which it first ran.
pub fn applied(root: &Root) -> Result<Vec<Applied>> {
    let path = path(root);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.or_err(Kind::System, || format!("cannot read `{}`", path.display()))?,
    };
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = || format!("`{}` cannot be read", path.display());
    let version: Version = serde_json::from_slice(&text).or_err(Kind::Integrity, damaged)?;
    if version.format > FORMAT {
        return Err(Error::new(
            Kind::Failed,
            format!("`{}` was written by a newer chasi", path.display()),
        )
        .hint("use the chasi that wrote it, or a newer one"));
    }
    let document: Document = serde_json::from_slice(&text).or_err(Kind::Integrity, damaged)?;
    Ok(document.applied)
}

/// The generations that hold what is remembered.
pub(in crate::host) fn generations(root: &Root) -> Result<BTreeSet<u64>> {
    Ok(applied(root)?.iter().map(|one| one.generation).collect())
}

pub(super) fn find(root: &Root, plugin: &PluginName, phase: Phase) -> Result<Option<Applied>> {
    Ok(applied(root)?.into_iter().find(|one| one.is(plugin, phase)))
}

/// Remembers one, in the place of what was remembered of the same before.
pub(super) fn put(root: &Root, one: Applied) -> Result<()> {
    let mut applied = applied(root)?;
    let (plugin, phase) = (&one.hook.plugin.name, one.hook.phase);
    match applied.iter_mut().find(|other| other.is(plugin, phase)) {
        Some(other) => *other = one,
        None => applied.push(one),
    }
    save(root, applied)
}

/// Forgets one, and with the last of a plugin what the plugin kept for itself.
pub(super) fn remove(root: &Root, plugin: &PluginName, phase: Phase) -> Result<()> {
    let mut applied = applied(root)?;
    applied.retain(|one| !one.is(plugin, phase));
    let is_last = applied.iter().all(|one| one.hook.plugin.name != *plugin);
    save(root, applied)?;
    let own = state(root, plugin);
    if is_last && own.is_dir() {
        root.allow("remove", &own)?;
        fs::remove_dir_all(&own).or_err(Kind::System, || {
            format!("cannot remove `{}`", own.display())
        })?;
    }
    Ok(())
}

fn save(root: &Root, applied: Vec<Applied>) -> Result<()> {
    let path = path(root);
    if applied.is_empty() {
        root.allow("remove", &path)?;
        return file::remove(&path);
    }
    let document = Document {
        format: FORMAT,
        applied,
    };
    let text = serde_json::to_vec_pretty(&document)
        .or_err(Kind::Failed, || "cannot write as JSON what plugins did")?;
    root.allow("write", &path)?;
    file::create_directories(&root.state("hooks"))?;
    file::write(&path, &text, 0o600)
}
