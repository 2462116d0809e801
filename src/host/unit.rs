//! systemd units: what their files say of starting with the host, and the few
//! things that chasi asks of systemd.

use std::time::{Duration, Instant};

use crate::command::Command;
use crate::error::{Error, Kind, Result};
use crate::event::Context;

/// The kinds of units that an image may bring.
const SUFFIXES: [&str; 7] = [
    ".service", ".socket", ".timer", ".path", ".mount", ".target", ".slice",
];
/// How often a unit that is starting is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How many lines of a failed unit's journal are told.
const JOURNAL_LINES: &str = "200";

/// Whether this can be the name of a unit (systemd.unit(5)).
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.len() <= 255
        && name.chars().all(fits)
        && SUFFIXES.iter().any(|suffix| {
            name.strip_suffix(suffix)
                .is_some_and(|stem| !stem.is_empty())
        })
}

/// The `[Install]` section of a unit file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    alias: Vec<String>,
}

impl Install {
    /// Reads the section; a unit without one has nothing in it. Fails when what is
    /// named is not a unit.
    pub fn parse(text: &str) -> Result<Self> {
        let mut install = Install::default();
        let mut section = String::new();
        let joined = text.replace("\\\n", " ");
        for line in joined.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                section = name.to_owned();
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "Install") else {
                continue;
            };
            let list = match key.trim() {
                "WantedBy" => &mut install.wanted_by,
                "RequiredBy" => &mut install.required_by,
                "Alias" => &mut install.alias,
                _ => continue,
            };
            // An empty value takes back what was said before.
            if value.trim().is_empty() {
                list.clear();
            }
            for name in value.split_whitespace() {
                if !is_name(name) {
                    return Err(Error::new(
                        Kind::Input,
                        format!("`{}` is not the name of a unit", name.escape_debug()),
                    ));
                }
                list.push(name.to_owned());
            }
        }
        Ok(install)
    }

    /// Whether the unit starts by itself.
    pub fn starts(&self) -> bool {
        !self.wanted_by.is_empty() || !self.required_by.is_empty()
    }

    /// The links that enable the unit `name`, below the directory of units. A
    /// template is not enabled: it has no instance.
    pub fn links(&self, name: &str) -> Vec<String> {
        if name.contains("@.") {
            return Vec::new();
        }
        let wanted = self.wanted_by.iter().map(|by| format!("{by}.wants/{name}"));
        let required = self
            .required_by
            .iter()
            .map(|by| format!("{by}.requires/{name}"));
        wanted
            .chain(required)
            .chain(self.alias.iter().cloned())
            .collect()
    }
}

/// What systemd says of a unit.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// `active`, `inactive`, `failed`, `activating`, ….
    pub active: String,
    /// `running`, `exited`, `auto-restart`, ….
    pub sub: String,
    /// `success`, `exit-code`, `oom-kill`, ….
    pub result: String,
    /// Whether systemd knows its file.
    pub loaded: bool,
    /// Whether its file has changed since systemd read it.
    pub needs_reload: bool,
    /// How often systemd has started it again by itself.
    pub restarts: u32,
}

/// Lets systemd read all unit files again.
pub fn reload() -> Result<()> {
    Command::new("systemctl")
        .arg("daemon-reload")
        .run()
        .map(drop)
}

/// Starts units; those that run are left alone. Waits until systemd says that they
/// are up, for a service of type `notify` until it says so itself.
pub fn start(units: &[&str]) -> Result<()> {
    act("start", units)
}

/// Stops units; those that do not run, or are not known, are left alone.
pub fn stop(units: &[&str]) -> Result<()> {
    let known: Vec<_> = units
        .iter()
        .copied()
        .filter(|unit| state(unit).is_ok_and(|state| state.loaded))
        .collect();
    act("stop", &known)
}

/// Restarts units, and starts those that do not run.
pub fn restart(units: &[&str]) -> Result<()> {
    act("restart", units)
}

/// Forgets that units failed, so that their limits on restarts begin anew.
pub fn reset_failed(units: &[&str]) -> Result<()> {
    if !units.is_empty() {
        // A unit that never failed, or is not loaded, is not an error.
        Command::new("systemctl")
            .arg("reset-failed")
            .arg("--")
            .args(units)
            .output()?;
    }
    Ok(())
}

fn act(verb: &str, units: &[&str]) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    Command::new("systemctl")
        .arg(verb)
        .arg("--")
        .args(units)
        .run()
        .map(drop)
        .map_err(|cause| {
            let mut text = String::new();
            for unit in units {
                if state(unit).is_ok_and(|state| state.active != "active") {
                    text.push_str(&journal(unit));
                }
            }
            let cause = match text.is_empty() {
                true => cause,
                false => Error::new(Kind::Failed, format!("{cause}\n{text}")).because(cause),
            };
            Error::new(Kind::Failed, format!("cannot {verb} {}", names(units)))
                .because(cause)
                .hint(format!(
                    "`journalctl -u {}` on the host says more",
                    units.join(" -u ")
                ))
        })
}

fn names(units: &[&str]) -> String {
    units
        .iter()
        .map(|unit| format!("`{unit}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What systemd says of a unit.
pub fn state(unit: &str) -> Result<State> {
    let output = Command::new("systemctl")
        .args([
            "show",
            "--property=ActiveState,SubState,Result,LoadState,NeedDaemonReload,NRestarts",
            "--",
        ])
        .arg(unit)
        .run()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| {
        let of_key = |line: &str| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned());
        text.lines().find_map(of_key).unwrap_or_default()
    };
    Ok(State {
        active: value("ActiveState"),
        sub: value("SubState"),
        result: value("Result"),
        loaded: value("LoadState") == "loaded",
        needs_reload: value("NeedDaemonReload") == "yes",
        restarts: value("NRestarts").parse().unwrap_or_default(),
    })
}

/// Waits until a unit is active, for at most `patience`. Fails at once when it has
/// failed for good, with the end of its journal.
pub fn wait_active(unit: &str, patience: Duration, ctx: &Context) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        ctx.check_cancelled()?;
        let state = state(unit)?;
        if state.active == "active" {
            return Ok(());
        }
        if state.active == "failed" || Instant::now() >= deadline {
            let what = match state.active.as_str() {
                "failed" => format!("`{unit}` has failed ({})", state.result),
                active => format!(
                    "`{unit}` is not active after {} s, but {active} ({})",
                    patience.as_secs(),
                    state.sub
                ),
            };
            return Err(Error::new(Kind::Failed, what)
                .because(journal(unit))
                .hint(format!("`journalctl -u {unit}` on the host says more")));
        }
        std::thread::sleep(POLL);
    }
}

/// The last lines of a unit's journal, or why there are none.
pub fn journal(unit: &str) -> String {
    let output = Command::new("journalctl")
        .args([
            "--no-pager",
            "--output=short-iso",
            "--lines",
            JOURNAL_LINES,
            "--unit",
        ])
        .arg(unit)
        .output();
    match output {
        Ok(output) if !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("the journal of `{unit}` cannot be read: {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_says_of_starting_becomes_links() {
        let text = "[Unit]\nWantedBy=no.target\n[Install]\n# WantedBy=no.target\nWantedBy=a.target b.target\\\n c.target\nRequiredBy = d.target\nAlias=e.service\n";
        let install = Install::parse(text).unwrap();
        assert_eq!(
            install.links("x.service"),
            [
                "a.target.wants/x.service",
                "b.target.wants/x.service",
                "c.target.wants/x.service",
                "d.target.requires/x.service",
                "e.service"
            ]
        );
        assert!(install.starts());
        assert_eq!(install.links("x@.service"), [""; 0]);
    }

    #[test]
    fn an_empty_value_takes_back_what_was_said() {
        let install = Install::parse("[Install]\nWantedBy=a.target\nWantedBy=\n").unwrap();
        assert_eq!(install, Install::default());
        assert!(!install.starts());
    }

    #[test]
    fn a_unit_cannot_reach_out_of_the_directory_of_units() {
        assert!(Install::parse("[Install]\nAlias=../../cron.d/x.service\n").is_err());
        for name in [
            "a/b.service",
            ".service",
            "a",
            "",
            "ä.service",
            "..",
            "a.service\n",
        ] {
            assert!(!is_name(name), "{name}");
        }
        for name in ["a.service", "dev-x\\x2d.mount", "a@b.service"] {
            assert!(is_name(name), "{name}");
        }
    }
}
