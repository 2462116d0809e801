//! Kernel modules and kernel parameters: what a generation's
//! `etc/modules-load.d/*.conf` and `etc/sysctl.d/*.conf` say, in the formats of
//! modules-load.d(5) and sysctl.d(5). systemd applies the same files at each boot.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::{read, write_kernel};
use crate::command::Command;
use crate::error::{Kind, Result, ResultExt};
use crate::host::Root;
use crate::host::before::{Before, Parameter};
use crate::host::generation::{self, Placed};

/// A setting that the kernel did not take.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The module or the parameter, such as `net.ipv4.ip_forward`.
    pub name: String,
    /// What it should be.
    pub wanted: String,
    /// What it is; none where there is no such parameter.
    pub seen: Option<String>,
    /// Why it was not taken.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the kernel does not take `{}` = {}",
            self.name, self.wanted
        )?;
        if let Some(seen) = &self.seen {
            write!(f, " (it is {seen})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What a generation asks of the kernel.
#[derive(Debug, Default, Eq, PartialEq)]
struct Wanted {
    modules: Vec<String>,
    /// By path below `/proc/sys`.
    parameters: BTreeMap<String, Value>,
}

#[derive(Debug, Eq, PartialEq)]
struct Value {
    value: String,
    /// Whether it may fail, `-` before the name.
    optional: bool,
}

/// Loads the modules and sets the parameters that a generation asks for. Returns
/// what the kernel refused; whether that matters, the caller knows.
pub fn apply_kernel(root: &Root, number: u64) -> Result<Vec<Refused>> {
    let wanted = wanted(root, number)?;
    let mut refused = Vec::new();
    // Parameters of a module are there only when it is loaded.
    for name in wanted.modules.iter().filter(|name| !is_loaded(root, name)) {
        refused.extend(load(root, name)?);
    }
    for (name, value) in &wanted.parameters {
        if !is_equal(root, name, &value.value) {
            refused.extend(set(root, name, value)?);
        }
    }
    Ok(refused)
}

/// What a parameter is now, by its path below `/proc/sys`; none where there is no
/// such parameter.
pub(in crate::host) fn parameter(root: &Root, name: &str) -> Result<Option<String>> {
    Ok(read(root, &path_of(name))?.map(|text| text.trim().to_owned()))
}

pub(super) fn undo(root: &Root) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut before = Before::load(root)?;
    let mut put_back = |name: &str, value: &str| {
        if let Err(error) = write_kernel(root, &path_of(name), value) {
            notes.push(format!(
                "`{}` could not be set to `{value}` again: {error}",
                dotted(name)
            ));
        }
    };
    for (name, parameter) in std::mem::take(&mut before.parameters) {
        // What someone set since is theirs.
        if is_equal(root, &name, &parameter.set) {
            put_back(&name, &parameter.before);
        }
    }
    for (name, value) in std::mem::take(&mut before.foreign) {
        if !is_equal(root, &name, &value) && parameter(root, &name)?.is_some() {
            put_back(&name, &value);
        }
    }
    for name in std::mem::take(&mut before.modules) {
        // One that is in use stays until the next boot.
        if root.is_live()
            && fs::read_to_string(format!("/sys/module/{name}/refcnt"))
                .is_ok_and(|count| count.trim() == "0")
        {
            Command::new("modprobe")
                .args(["--remove", "--quiet", "--"])
                .arg(&name)
                .output()?;
        }
    }
    before.save(root)?;
    Ok(notes)
}

fn load(root: &Root, name: &str) -> Result<Option<Refused>> {
    let refused = |why: String| Refused {
        name: name.to_owned(),
        wanted: "loaded".into(),
        seen: None,
        why,
    };
    if !root.is_live() {
        return Ok(Some(refused("it is another host's kernel".into())));
    }
    let mut before = Before::load(root)?;
    before.modules.insert(name.to_owned());
    before.save(root)?;
    let why = match Command::new("modprobe").arg("--").arg(name).output() {
        Ok(output) if output.code == Some(0) => return Ok(None),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error
            .causes()
            .last()
            .map_or_else(|| error.to_string(), |cause| format!("`modprobe`: {cause}")),
    };
    before.modules.remove(name);
    before.save(root)?;
    Ok(Some(refused(why)))
}

fn set(root: &Root, name: &str, value: &Value) -> Result<Option<Refused>> {
    let seen = parameter(root, name)?;
    if let Some(seen) = &seen {
        let mut before = Before::load(root)?;
        let earlier = before
            .parameters
            .remove(name)
            .map(|parameter| parameter.before);
        let parameter = Parameter {
            before: earlier.unwrap_or_else(|| seen.clone()),
            set: value.value.clone(),
        };
        before.parameters.insert(name.to_owned(), parameter);
        before.save(root)?;
    }
    match write_kernel(root, &path_of(name), &value.value) {
        Ok(()) => Ok(None),
        Err(_) if value.optional => Ok(None),
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such parameter; its module may not be loaded".to_owned()
                }
                _ => error.to_string(),
            };
            Ok(Some(Refused {
                name: dotted(name),
                wanted: value.value.clone(),
                seen,
                why,
            }))
        }
    }
}

fn is_loaded(root: &Root, name: &str) -> bool {
    // Names of files and of modules differ in this.
    let name = name.replace('-', "_");
    let is_file_system = |line: &str| line.split_whitespace().last() == Some(name.as_str());
    root.outside(&format!("/sys/module/{name}")).exists()
        || fs::read_to_string(root.outside("/proc/filesystems")).is_ok_and(|text| text.lines().any(is_file_system))
        // Built in without parameters of its own, it leaves only this trace.
        || (name == "br_netfilter" && root.outside("/proc/sys/net/bridge").exists())
}

/// The kernel separates numbers by tabs, people by spaces.
fn is_equal(root: &Root, name: &str, value: &str) -> bool {
    let seen = fs::read_to_string(root.outside(&path_of(name))).unwrap_or_default();
    !seen.is_empty() && seen.split_whitespace().eq(value.split_whitespace())
}

fn path_of(name: &str) -> String {
    format!("/proc/sys/{name}")
}

fn dotted(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect()
}

fn wanted(root: &Root, number: u64) -> Result<Wanted> {
    let manifest = generation::load(root, number)?;
    let tree = generation::tree(root, number);
    let mut wanted = Wanted::default();
    for (path, placed) in &manifest.host {
        let is = |directory: &str| {
            path.as_str().starts_with(directory) && path.as_str().ends_with(".conf")
        };
        if !matches!(placed, Placed::File(_)) || !(is("etc/sysctl.d/") || is("etc/modules-load.d/"))
        {
            continue;
        }
        let file = tree.join(path);
        let text = fs::read_to_string(&file)
            .or_err(Kind::System, || format!("cannot read `{}`", file.display()))?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        if is("etc/sysctl.d/") {
            wanted.parameters.extend(lines.filter_map(parse));
        } else {
            wanted
                .modules
                .extend(lines.filter(|name| is_module(name)).map(str::to_owned));
        }
    }
    Ok(wanted)
}

fn is_module(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// A line of sysctl.d(5). Patterns, exclusions and names that leave `/proc/sys` are
/// left to systemd, which knows what to do with them.
fn parse(line: &str) -> Option<(String, Value)> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let (optional, name) = match name.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, name),
    };
    // Whichever separator comes first is the separator.
    let name = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => dotted(name),
        _ => name.to_owned(),
    };
    let fits = |part: &str| !part.is_empty() && part != ".." && !part.contains(['*', '?', '[']);
    name.split('/').all(fits).then(|| {
        (
            name,
            Value {
                value: value.to_owned(),
                optional,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_sysctl_d_are_understood() {
        let parsed =
            |line: &str| parse(line).map(|(name, value)| (name, value.value, value.optional));
        let is =
            |name: &str, value: &str, optional| Some((name.to_owned(), value.to_owned(), optional));
        assert_eq!(
            parsed("net.ipv4.ip_forward = 1"),
            is("net/ipv4/ip_forward", "1", false)
        );
        assert_eq!(parsed("-kernel/panic=10"), is("kernel/panic", "10", true));
        assert_eq!(
            parsed("net.ipv4.conf.eth0/1.rp_filter=2"),
            is("net/ipv4/conf/eth0.1/rp_filter", "2", false)
        );
        for line in [
            "net.ipv4.conf.*.rp_filter=1",
            "../../etc/passwd=x",
            "a//b=1",
            "-net.x",
            "",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
