//! Where chasi keeps things of the user's, by the XDG base directory
//! specification.

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::oci::Store;

/// The user's home directory.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

fn base(variable: &str, below_home: &str) -> Result<PathBuf> {
    let given = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    given
        .or_else(|| Some(home()?.join(below_home)))
        .map(|base| base.join("chasi"))
        .ok_or_else(|| {
            Error::new(Kind::Usage, "the environment variable `HOME` is not set")
                .hint(format!("set `HOME`, or `{variable}`"))
        })
}

/// What is worth keeping but can be made again: logs, notes.
pub fn state() -> Result<PathBuf> {
    base("XDG_STATE_HOME", ".local/state")
}

/// The store of images.
pub fn store() -> Result<Store> {
    let root = match std::env::var_os("CHASI_STORE").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => base("XDG_DATA_HOME", ".local/share")?.join("store"),
    };
    Store::create(&root)
}
