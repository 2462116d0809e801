//! What an agent does last: it removes itself from a host that chasi does not
//! manage, so that a check that failed leaves nothing behind, and old agents from
//! one that it does.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::agent::host_lock::{HostLock, Presence};
use crate::error::{Error, Kind, Result};

/// Cleans up unless another agent runs from the same directory, and then lets go
/// of the lock.
pub(super) fn leave(root: &Path, presence: Presence, lock: Option<HostLock>) -> Result<()> {
    if !presence.is_last() {
        return Ok(());
    }
    let result = if is_unmanaged(root)? {
        remove_everything(root, presence.path())
    } else {
        remove_old_agents(root, presence.path())
    };
    drop((lock, presence));
    result
}

/// What a session makes before it changes anything: the lock of the host, and the
/// host's part of the cluster's lock.
const OF_A_SESSION: [&str; 3] = ["lock", "cluster/lock", "cluster/fence"];

/// Whether there is nothing but what a session itself makes.
pub(in crate::agent) fn is_unmanaged(root: &Path) -> Result<bool> {
    Ok(holds_only(root, &["agent", "lock", "cluster"])?
        && holds_only(&root.join("cluster"), &["lock", "fence"])?)
}

/// Whether a directory holds nothing but these names and empty directories.
fn holds_only(directory: &Path, names: &[&str]) -> Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(true),
        Err(cause) => return Err(cannot(directory, cause)),
    };
    for entry in entries {
        let entry = entry.map_err(|cause| cannot(directory, cause))?;
        let ours = names.iter().any(|name| entry.file_name() == *name);
        let is_empty =
            || fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
        if !ours && !is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove_everything(root: &Path, agents: &Path) -> Result<()> {
    for name in our_files(agents)? {
        remove_file(&agents.join(name))?;
    }
    remove_directory(agents)?;
    for name in OF_A_SESSION {
        remove_file(&root.join(name))?;
    }
    for entry in fs::read_dir(root)
        .map_err(|cause| cannot(root, cause))?
        .flatten()
    {
        remove_directory(&entry.path())?;
    }
    remove_directory(root)
}

/// Keeps the agent that runs, and the one that the host's own units run.
fn remove_old_agents(root: &Path, agents: &Path) -> Result<()> {
    let running = fs::read_link("/proc/self/exe").ok();
    let linked = fs::canonicalize(root.join("bin/chasi")).ok();
    for name in our_files(agents)? {
        let path = agents.join(name);
        let real = fs::canonicalize(&path).ok();
        if real.is_some() && (real == running || real == linked) {
            continue;
        }
        remove_file(&path)?;
    }
    Ok(())
}

/// Agents, and what a copy that broke off left.
fn our_files(agents: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(agents).map_err(|cause| cannot(agents, cause))? {
        let name = entry.map_err(|cause| cannot(agents, cause))?.file_name();
        let shown = name.to_string_lossy();
        if shown.starts_with("chasi-") || shown.starts_with(".chasi-") {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cannot(path, cause)),
        _ => Ok(()),
    }
}

/// A directory that holds something else stays.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(cause)
            if !matches!(
                cause.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(cannot(path, cause))
        }
        _ => Ok(()),
    }
}

fn cannot(path: &Path, cause: std::io::Error) -> Error {
    Error::new(
        Kind::System,
        format!("cannot remove the agent: `{}`", path.display()),
    )
    .because(cause)
}
