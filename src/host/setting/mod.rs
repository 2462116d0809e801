//! Settings of a host that are no files of a generation: its name, swap, kernel
//! modules and kernel parameters.
//!
//! What was true before is written to `host.json` before it is changed, so that
//! [`undo`] can put it back. It puts back only what is still as chasi left it.

mod kernel;
mod swap;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Root;
use super::before::{Before, Hostname};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

pub(super) use kernel::parameter;
pub use kernel::{Refused, apply_kernel};

/// What the settings should be.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The host's name; `None` leaves it as it is.
    pub hostname: Option<String>,
    /// Whether swap is to be off.
    pub swap_off: bool,
}

const HOSTNAME: &str = "/proc/sys/kernel/hostname";
const HOSTNAME_FILE: &str = "/etc/hostname";

/// Whether the settings are as they should be, now and after the next boot.
pub fn settled(root: &Root, settings: &Settings) -> Result<bool> {
    let is_named = match &settings.hostname {
        None => true,
        Some(name) => {
            read(root, HOSTNAME)?.as_deref().map(str::trim) == Some(name)
                && read(root, HOSTNAME_FILE)?.as_deref().map(str::trim) == Some(name)
        }
    };
    Ok(is_named && (!settings.swap_off || swap::is_off(root)?))
}

/// Makes them so. What is right is not touched.
pub fn apply(root: &Root, settings: &Settings) -> Result<()> {
    if settled(root, settings)? {
        return Ok(());
    }
    if let Some(name) = &settings.hostname {
        set_hostname(root, name)?;
    }
    if settings.swap_off {
        swap::turn_off(root)?;
    }
    Ok(())
}

/// Puts back what was before chasi, as far as it is still what chasi made of it.
/// Returns what could not be put back, and why.
pub fn undo(root: &Root) -> Result<Vec<String>> {
    let mut notes = kernel::undo(root)?;
    notes.extend(swap::turn_on(root)?);
    undo_hostname(root)?;
    Ok(notes)
}

fn set_hostname(root: &Root, name: &str) -> Result<()> {
    // sethostname(2): at most 64 bytes; what else a node's name must be, the
    // Clusterfile's check says.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(Error::new(
            Kind::Input,
            format!("`{}` cannot be the name of a host", name.escape_debug()),
        ));
    }
    let mut before = Before::load(root)?;
    let kernel = read(root, HOSTNAME)?.unwrap_or_default().trim().to_owned();
    let first = before.hostname.take();
    before.hostname = Some(match first {
        // The name that it had before the first change is the one that counts.
        Some(first) => Hostname {
            set: name.to_owned(),
            ..first
        },
        None => Hostname {
            kernel,
            file: read(root, HOSTNAME_FILE)?,
            set: name.to_owned(),
        },
    });
    before.save(root)?;
    write_file(root, HOSTNAME_FILE, &format!("{name}\n"))?;
    write_kernel(root, HOSTNAME, name)
        .or_err(Kind::System, || format!("cannot call the host `{name}`"))
}

fn undo_hostname(root: &Root) -> Result<()> {
    let mut before = Before::load(root)?;
    let Some(hostname) = before.hostname.take() else {
        return Ok(());
    };
    if read(root, HOSTNAME_FILE)?.as_deref().map(str::trim) == Some(hostname.set.as_str()) {
        match &hostname.file {
            Some(text) => write_file(root, HOSTNAME_FILE, text)?,
            None => {
                let path = root.outside(HOSTNAME_FILE);
                root.allow("remove", &path)?;
                file::remove(&path)?;
            }
        }
    }
    if read(root, HOSTNAME)?.as_deref().map(str::trim) == Some(hostname.set.as_str()) {
        write_kernel(root, HOSTNAME, &hostname.kernel).or_err(Kind::System, || {
            format!("cannot call the host `{}`", hostname.kernel)
        })?;
    }
    before.save(root)
}

/// A small file of the host; none if it is not there.
fn read(root: &Root, path: &str) -> Result<Option<String>> {
    match fs::read_to_string(root.outside(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => {
            Ok(Some(text.or_err(Kind::System, || {
                format!("cannot read `{path}`")
            })?))
        }
    }
}

/// Writes a file of the host; its mode stays.
fn write_file(root: &Root, path: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let place: PathBuf = root.outside(path);
    let mode = fs::metadata(&place).map_or(0o644, |found| found.permissions().mode() & 0o7777);
    root.allow("write", &place)?;
    file::write(&place, text.as_bytes(), mode)
}

/// Writes a file of the kernel's, which takes a value by one write and cannot be
/// replaced.
fn write_kernel(root: &Root, path: &str, value: &str) -> io::Result<()> {
    let path: &Path = &root.outside(path);
    root.pass("set", path)?;
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

#[cfg(test)]
mod tests;
