//! A control group for each host, so that a host sees its own group as the root
//! and hosts do not see each other's pods; and so that whatever a host runs can be
//! found and ended without remembering any process.
//!
//! Three kinds of machines:
//! - cgroup v1, also beside v2 ("hybrid"): a group `/chasi-lab-N/HOST` in every
//!   hierarchy, made here. systemd, where it is process 1, does not mind: it has no
//!   unit there.
//! - cgroup v2 with systemd: groups at the top belong to systemd, so it is asked
//!   for a delegated scope, `system.slice/chasi-lab-N-HOST.scope`.
//! - cgroup v2 without systemd: `/chasi-lab-N/HOST`, controllers switched on.
//!
//! The machine's own mounts and groups are never changed, but for the controllers
//! that the third kind needs switched on at the top.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::Process;
use super::state::Number;
use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};

/// How long killed processes may take to leave their groups.
const LEAVE: Duration = Duration::from_secs(20);

/// How long a supervisor whose host has ended may take to clean up.
const CLEAN_UP: Duration = Duration::from_secs(3);

/// Where systemd puts scopes, in the hierarchy. It is always there, so nothing is
/// left when the last scope goes.
const SLICE: &str = "system.slice";

/// A mounted hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Hierarchy {
    mount: PathBuf,
    /// As `/proc/PID/cgroup` names it: `cpu,cpuacct`, `name=systemd`, or nothing
    /// for v2.
    controllers: String,
}

/// The control groups of the machine.
#[derive(Clone, Debug)]
pub struct Groups {
    hierarchies: Vec<Hierarchy>,
    kind: Kinds,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kinds {
    /// v1, or v1 and v2.
    Legacy,
    /// v2, and systemd manages it.
    Scopes,
    /// v2, and nobody manages it.
    Unified,
}

impl Groups {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Groups> {
        let path = "/proc/self/mountinfo";
        let mounts =
            fs::read_to_string(path).or_err(Kind::System, || format!("cannot read `{path}`"))?;
        Groups::from_mounts(&mounts, Path::new("/run/systemd/system").exists())
    }

    fn from_mounts(mounts: &str, systemd: bool) -> Result<Groups> {
        let hierarchies: Vec<_> = mounts.lines().filter_map(parse_mount).collect();
        let kind = match hierarchies.iter().any(|h| !h.controllers.is_empty()) {
            true => Kinds::Legacy,
            false if hierarchies.is_empty() => {
                return Err(Error::new(Kind::System, "no control groups are mounted")
                    .hint("mount -t cgroup2 none /sys/fs/cgroup"));
            }
            false if systemd => Kinds::Scopes,
            false => Kinds::Unified,
        };
        Ok(Groups { hierarchies, kind })
    }

    /// Makes the host's groups and says what to put before a command line so that
    /// the command starts in them.
    pub fn prepare(&self, number: Number, host: &str) -> Result<Vec<OsString>> {
        if self.kind == Kinds::Scopes {
            let unit = format!("--unit={}", scope(number, host));
            return Ok(["systemd-run", "--scope", "--quiet", "--collect"]
                .into_iter()
                .chain([
                    &*unit,
                    "--property=Delegate=yes",
                    "--property=TasksMax=infinity",
                    "--",
                ])
                .map(OsString::from)
                .collect());
        }
        let mut groups = Vec::new();
        for hierarchy in &self.hierarchies {
            let lab = hierarchy.mount.join(number.label());
            let group = lab.join(host);
            for directory in [&lab, &group] {
                create(directory, hierarchy).or_err(Kind::System, || {
                    format!("cannot make the control group `{}`", directory.display())
                })?;
            }
            groups.push(group);
        }
        Ok(joining(&groups))
    }

    /// What to put before a command line so that it starts in the same groups as a
    /// process that runs.
    pub fn joining(&self, process: Process) -> Result<Vec<OsString>> {
        let path = format!("/proc/{}/cgroup", process.pid);
        let text =
            fs::read_to_string(&path).or_err(Kind::System, || format!("cannot read `{path}`"))?;
        let groups: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
                let hierarchy = self
                    .hierarchies
                    .iter()
                    .find(|h| h.controllers == controllers)?;
                Some(hierarchy.mount.join(group.trim_start_matches('/')))
            })
            .filter(|group| group.is_dir())
            .collect();
        Ok(joining(&groups))
    }

    /// Kills every process in a host's groups and removes the groups. Fine if
    /// there are none.
    pub fn remove_host(&self, number: Number, host: &str) -> Result<()> {
        match self.kind {
            Kinds::Scopes => self.stop_scopes(number, Some(host)),
            _ => kill_all(
                &self.own(&Path::new(&number.label()).join(host)),
                remove_tree,
            ),
        }
    }

    /// As [`Groups::remove_host`] for all of the lab's groups.
    pub fn remove_lab(&self, number: Number) -> Result<()> {
        match self.kind {
            Kinds::Scopes => self.stop_scopes(number, None),
            _ => kill_all(&self.own(Path::new(&number.label())), remove_tree),
        }
    }

    /// A group of our own in every hierarchy.
    fn own(&self, path: &Path) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| hierarchy.mount.join(path))
            .collect()
    }

    /// Kills what is in the scopes and lets systemd remove them: removed behind its
    /// back, it would keep their names.
    fn stop_scopes(&self, number: Number, host: Option<&str>) -> Result<()> {
        let prefix = format!("{}-", number.label());
        let wanted = |name: &str| match host {
            Some(host) => name == scope(number, host),
            None => name.starts_with(&prefix),
        };
        let groups: Vec<_> = self
            .own(Path::new(SLICE))
            .iter()
            .flat_map(|slice| fs::read_dir(slice).into_iter().flatten().flatten())
            .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect();
        kill_all(&groups, |group| match processes(group).is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::ResourceBusy.into()),
        })?;
        // It fails when systemd has forgotten them by itself.
        let pattern = scope(number, host.unwrap_or("*"));
        Command::new("systemctl")
            .args(["stop", "--quiet", "--", &pattern])
            .output()?;
        Ok(())
    }
}

/// Kills all processes in groups until `done` is content with each group.
fn kill_all(groups: &[PathBuf], done: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let begin = Instant::now();
    let mut hosts_ended = false;
    loop {
        // A frozen process of v1 dies only once it is thawed.
        groups.iter().for_each(|group| thaw(group));
        let left: Vec<_> = groups
            .iter()
            .flat_map(|group| processes(group))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(Process::with_id)
            .collect();
        let (inits, others): (Vec<Process>, Vec<Process>) = left
            .iter()
            .partition(|process| process.is_init_of_namespace());
        // The end of a host's process 1 is the end of the host, and its supervisor
        // then cleans up and ends by itself, if it is let.
        hosts_ended |= !inits.is_empty();
        let patient = hosts_ended && begin.elapsed() < CLEAN_UP;
        for process in inits.iter().chain(others.iter().filter(|_| !patient)) {
            // It may be gone by now; those that are not come again in the next round.
            let _ = process.signal(Signal::KILL);
        }
        match groups.iter().try_for_each(|group| done(group)) {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LEAVE => {
                let pids: Vec<_> = left.iter().map(|process| process.pid.to_string()).collect();
                return Err(error).or_err(Kind::System, || {
                    format!("processes do not end: {}", pids.join(", "))
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn scope(number: Number, host: &str) -> String {
    format!("{}-{host}.scope", number.label())
}

/// A shell that enters the groups and becomes the command. Entering has to be done
/// by the process itself, before it becomes the command, so that none of its
/// children is ever elsewhere.
fn joining(groups: &[PathBuf]) -> Vec<OsString> {
    let enter = r#"while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;
    ["sh", "-c", enter, "chasi-lab"]
        .into_iter()
        .map(OsString::from)
        .chain(groups.iter().map(|group| group.clone().into_os_string()))
        .chain([OsString::from("--")])
        .collect()
}

/// A line of `/proc/PID/mountinfo`, see proc(5).
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    let mount = PathBuf::from(before.split(' ').nth(4)?);
    match kind {
        "cgroup2" => Some(Hierarchy {
            mount,
            controllers: String::new(),
        }),
        "cgroup" => {
            // The rest of the options say how it is mounted.
            let controllers: Vec<_> = options
                .split(',')
                .filter(|option| {
                    ![
                        "rw",
                        "ro",
                        "xattr",
                        "clone_children",
                        "noprefix",
                        "cpuset_v2_mode",
                    ]
                    .contains(option)
                        && !option.starts_with("release_agent=")
                })
                .collect();
            Some(Hierarchy {
                mount,
                controllers: controllers.join(","),
            })
        }
        _ => None,
    }
}

fn create(group: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let Some(parent) = group.parent() else {
        return Ok(());
    };
    let controllers = &hierarchy.controllers;
    if controllers
        .split(',')
        .any(|controller| controller == "cpuset")
    {
        // A group without them admits no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(group.join(file), fs::read(parent.join(file))?)?;
        }
    }
    if controllers.is_empty() {
        for controller in fs::read_to_string(parent.join("cgroup.controllers"))?.split_whitespace()
        {
            fs::write(
                parent.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )?;
        }
    }
    Ok(())
}

/// All processes in a group and below it.
fn processes(group: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    each(group, &mut |directory| {
        let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        Ok(())
    })
    .unwrap_or_default();
    found
}

fn thaw(group: &Path) {
    let _ = each(group, &mut |directory| {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let path = directory.join(file);
            if path.exists() {
                // Its parent may still be frozen, or it is gone.
                let _ = fs::write(path, value);
            }
        }
        Ok(())
    });
}

fn remove_tree(group: &Path) -> io::Result<()> {
    each(group, &mut |directory| match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
}

/// Calls `visit` for a group and those below it, children before parents.
fn each(group: &Path, visit: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each(&entry.path(), visit)?;
        }
    }
    visit(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
24 1 0:4 / /proc rw,relatime - proc proc rw
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
39 30 0:35 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
40 30 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str =
        "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_kind_of_machine_follows_from_what_is_mounted() {
        let kind = |mounts, systemd| Groups::from_mounts(mounts, systemd).map(|groups| groups.kind);
        assert_eq!(kind(V1, false).unwrap(), Kinds::Legacy);
        assert_eq!(kind(V1, true).unwrap(), Kinds::Legacy);
        assert_eq!(kind(V2, true).unwrap(), Kinds::Scopes);
        assert_eq!(kind(V2, false).unwrap(), Kinds::Unified);
        assert_eq!(kind("", true).unwrap_err().kind(), Kind::System);
    }

    #[test]
    fn hierarchies_have_the_names_that_proc_pid_cgroup_uses() {
        let groups = Groups::from_mounts(V1, false).unwrap();
        let names: Vec<_> = groups
            .hierarchies
            .iter()
            .map(|h| h.controllers.as_str())
            .collect();
        assert_eq!(names, ["cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(
            groups.hierarchies[2].mount,
            Path::new("/sys/fs/cgroup/unified")
        );
    }

    #[test]
    fn the_shell_enters_each_group_and_becomes_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let groups = [directory.path().join("a b"), directory.path().join("c")];
        groups
            .iter()
            .for_each(|group| fs::create_dir(group).unwrap());
        let line = joining(&groups);
        let run = |line: &[OsString]| {
            std::process::Command::new(&line[0])
                .args(&line[1..])
                .args(["printf", "%s", "--"])
                .output()
                .unwrap()
        };
        assert_eq!(run(&line).stdout, b"--");
        assert_eq!(fs::read(groups[0].join("cgroup.procs")).unwrap(), b"0\n");
        fs::remove_dir_all(&groups[1]).unwrap();
        let output = run(&line);
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(125), &b""[..])
        );
    }

    #[test]
    fn on_v2_with_systemd_a_delegated_scope_is_asked_for() {
        let line = Groups::from_mounts(V2, true)
            .unwrap()
            .prepare(Number(77), "node-1")
            .unwrap();
        assert_eq!(line[0], "systemd-run");
        assert!(line.contains(&"--unit=chasi-lab-77-node-1.scope".into()));
        assert!(line.contains(&"--property=Delegate=yes".into()));
    }
}
