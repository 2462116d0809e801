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

/// Whether there is nothing but what a session itself makes.
fn is_unmanaged(root: &Path) -> Result<bool> {
    for entry in fs::read_dir(root).map_err(|cause| cannot(root, cause))? {
        let entry = entry.map_err(|cause| cannot(root, cause))?;
        let name = entry.file_name();
        if name == "agent" || name == "lock" {
            continue;
        }
        let is_empty_directory =
            fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty_directory {
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
    remove_file(&root.join("lock"))?;
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
