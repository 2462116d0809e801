//! Settings of a host that are no files of a generation: its name, and swap.

use serde::{Deserialize, Serialize};

use super::Root;
use crate::command::Command;
use crate::error::{Kind, Result, ResultExt};
use crate::file;

/// What the settings should be.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The host's name; `None` leaves it as it is.
    pub hostname: Option<String>,
    /// Whether swap is to be off.
    pub swap_off: bool,
}

/// Whether the settings are as they should be.
pub fn settled(_: &Root, settings: &Settings) -> Result<bool> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let named = settings
        .hostname
        .as_ref()
        .is_none_or(|wanted| *wanted == name);
    let swaps = std::fs::read_to_string("/proc/swaps")
        .or_err(Kind::System, || "cannot read `/proc/swaps`")?;
    Ok(named && (!settings.swap_off || swaps.lines().count() <= 1))
}

/// Makes them so.
pub fn apply(root: &Root, settings: &Settings) -> Result<()> {
    if settled(root, settings)? {
        return Ok(());
    }
    if let Some(name) = &settings.hostname {
        file::write(
            "/etc/hostname".as_ref(),
            format!("{name}\n").as_bytes(),
            0o644,
        )?;
        rustix::system::sethostname(name.as_bytes())
            .or_err(Kind::System, || "cannot set the host's name")?;
    }
    if settings.swap_off {
        Command::new("swapoff").arg("--all").run()?;
    }
    Ok(())
}
