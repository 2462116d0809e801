//! Leaving a host: everything as it was before chasi came.
//!
//! What runs there (containers, mounts, network interfaces, rules of the
//! firewall) must have been ended before; this is about files and settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::before::Before;
use super::journal::{Journal, Operation};
use super::{Part, Root, generation, hook, object, setting, switch, unit};
use crate::error::{Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::spec::plugin::Phase;

/// What was left as it is, and why.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// Files that a user changed, and that therefore stay.
    pub kept: Vec<String>,
    /// What could not be put back.
    pub notes: Vec<String>,
}

/// What an agent needs until its end, in chasi's directory: it removes that
/// itself. The others go in this order: the journal last, so that what was
/// interrupted is known as long as possible.
const AGENTS: [&str; 3] = ["agent", "lock", "cluster"];
const LAST: &str = "journal";
/// The cluster's lock, which is held until the end of the run.
const AGENTS_IN_CLUSTER: [&str; 2] = ["lock", "fence"];

/// Leaves the host. Interrupted, it is to be done again. Only for the one who may
/// change the host, when nothing is pending.
pub fn leave(root: &Root, journal: &Journal, ctx: &Context) -> Result<Left> {
    let begun = journal.begin(Operation::Leave)?;
    let mut left = Left::default();
    // What plugins did goes the way back that it came.
    let late = |phase: Phase| phase != Phase::BeforeHost;
    left.notes = hook::undo_all(root, journal, late, ctx)?;
    stop_units(root)?;
    for part in [Part::Node, Part::ControlPlane] {
        let changes = switch::switch(root, journal, part, None, ctx)?;
        left.kept.extend(changes.kept);
    }
    if root.is_live() {
        unit::reload()?;
    }
    left.notes.extend(setting::undo(root)?);
    let early = |phase: Phase| phase == Phase::BeforeHost;
    left.notes
        .extend(hook::undo_all(root, journal, early, ctx)?);
    remove_directories(root)?;
    hook::moment(root, journal, Phase::AfterLeave, ctx)?;
    journal.commit(begun)?;
    remove_state(root)?;
    Ok(left)
}

/// What the programs of a cluster will make or set on a host by themselves.
pub struct Traces<'a> {
    /// Directories.
    pub directories: &'a [&'a str],
    /// Kernel parameters, by path below `/proc/sys`.
    pub parameters: &'a [&'a str],
}

/// Notes how the host is where a cluster will leave its traces, so that they can be
/// told from what was there. To be called before the cluster comes to the host.
pub fn note_existing(root: &Root, traces: &Traces) -> Result<()> {
    let mut before = Before::load(root)?;
    let are_there = traces
        .directories
        .iter()
        .filter(|path| root.outside(path).exists())
        .map(PathBuf::from);
    before.existing.extend(are_there);
    for name in traces.parameters {
        if let Some(value) = setting::parameter(root, name)? {
            before.foreign.entry((*name).to_owned()).or_insert(value);
        }
    }
    before.save(root)
}

/// The directories of which [`note_existing`] noted that they were there.
pub fn existing(root: &Root) -> Result<BTreeSet<PathBuf>> {
    Ok(Before::load(root)?.existing)
}

/// A unit whose file is gone cannot be stopped by its name.
fn stop_units(root: &Root) -> Result<()> {
    let Some(number) = generation::current(root, Part::Node)?.filter(|_| root.is_live()) else {
        return Ok(());
    };
    let units = generation::load(root, number)?.units;
    unit::stop(&units.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Removes what is empty of the directories that chasi made, the deepest first.
fn remove_directories(root: &Root) -> Result<()> {
    let mut batch = file::Batch::default();
    for path in Before::load(root)?.directories.iter().rev() {
        let place = root.resolve(path)?;
        // A link in its place is someone else's.
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            root.allow("remove", &place)?;
            batch.remove_empty_directory(&place)?;
        }
    }
    batch.finish()
}

fn remove_state(root: &Root) -> Result<()> {
    clear(root)?;
    remove_all_but(root, &root.state("cluster"), &AGENTS_IN_CLUSTER)?;
    remove_all_but(root, &root.state(""), &[&AGENTS[..], &[LAST]].concat())?;
    remove_all_but(root, &root.state(""), &AGENTS)
}

/// Where a directory goes before it is removed: half of a store or of a generation
/// must not be taken for one.
fn doomed(root: &Root) -> PathBuf {
    root.state("leaving")
}

/// Removes what an interrupted leaving left.
pub(super) fn clear(root: &Root) -> Result<()> {
    let doomed = doomed(root);
    if fs::symlink_metadata(&doomed).is_err() {
        return Ok(());
    }
    root.allow("remove", &doomed)?;
    fs::remove_dir_all(&doomed).or_err(Kind::System, || {
        format!("cannot remove `{}`", doomed.display())
    })
}

fn remove_directory(root: &Root, directory: &Path, path: &Path) -> Result<()> {
    let doomed = doomed(root);
    root.allow("rename", path)?;
    fs::rename(path, &doomed)
        .and_then(|()| file::sync_directory(&root.state("")))
        .and_then(|()| file::sync_directory(directory))
        .or_err(Kind::System, || {
            format!("cannot move `{}` away", path.display())
        })?;
    clear(root)
}

fn remove_all_but(root: &Root, directory: &Path, kept: &[&str]) -> Result<()> {
    for path in object::list(directory)? {
        if path
            .file_name()
            .is_some_and(|name| kept.iter().any(|kept| name == *kept))
        {
            continue;
        }
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            remove_directory(root, directory, &path)?;
            continue;
        }
        root.allow("remove", &path)?;
        fs::remove_file(&path).or_err(Kind::System, || {
            format!("cannot remove `{}`", path.display())
        })?;
    }
    if !directory.is_dir() {
        return Ok(());
    }
    file::sync_directory(directory).or_err(Kind::System, || {
        format!("cannot sync `{}`", directory.display())
    })
}
