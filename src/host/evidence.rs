//! What a host's services and containers said, for the full log of a run that
//! failed. Only reads, never fails: what cannot be read is said in its place. What
//! the user's own pods say may hold secrets and is left out.
//!
//! Bounds: 200 lines of each journal, 16 KiB of each container's log, 4 MiB in all.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::unit;
use crate::command::Command;

/// The most that is told, in bytes.
const MOST: usize = 4 << 20;
/// How much of a container's log is told, in bytes.
const LOG_END: u64 = 16 << 10;
/// How many containers' logs are told, the newest.
const LOGS: usize = 40;
/// Where kubelet keeps containers' logs: `NAMESPACE_POD_UID/CONTAINER/N.log`.
const POD_LOGS: &str = "/var/log/pods";
/// How the namespaces of Kubernetes' own pods begin.
const OWN: &str = "kube-";

/// The journals of `services` and of the units that have failed, and what the
/// containers said last.
pub fn gather(services: &[&str]) -> String {
    let mut units: Vec<String> = services.iter().map(|&name| name.to_owned()).collect();
    for name in failed_units() {
        if !units.contains(&name) {
            units.push(name);
        }
    }
    let journals = units
        .iter()
        .map(|name| format!("== journal of {name}\n{}", unit::journal(name)));
    let logs = newest_logs(Path::new(POD_LOGS))
        .into_iter()
        .map(|path| format!("== {}\n{}", path.display(), end_of(&path)));
    let mut text = String::new();
    for part in journals.chain(logs) {
        if text.len() + part.len() > MOST {
            text.push_str("== there is more than fits here\n");
            break;
        }
        text.push_str(&part);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

fn failed_units() -> Vec<String> {
    let output = Command::new("systemctl")
        .args(["list-units", "--state=failed", "--plain", "--no-legend"])
        .output();
    let Ok(output) = output else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| unit::is_name(name))
        .map(str::to_owned)
        .collect()
}

/// The last log of each container of Kubernetes' own, those written to last.
fn newest_logs(directory: &Path) -> Vec<PathBuf> {
    let mut logs = Vec::new();
    let own = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(OWN))
    };
    for pod in children(directory).into_iter().filter(own) {
        for container in children(&pod) {
            let newest = children(&container)
                .into_iter()
                .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
                .max();
            logs.extend(newest);
        }
    }
    logs.sort_by(|a, b| b.cmp(a));
    logs.truncate(LOGS);
    logs.into_iter().map(|(_, path)| path).collect()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// The last lines of a file.
fn end_of(path: &Path) -> String {
    let read = || -> std::io::Result<(bool, Vec<u8>)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let start = size.saturating_sub(LOG_END);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_END).read_to_end(&mut bytes)?;
        Ok((start > 0, bytes))
    };
    match read() {
        Ok((cut, bytes)) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // The first line is only the rest of one.
            match text.split_once('\n').filter(|_| cut) {
                Some((_, whole)) => whole.to_owned(),
                None => text,
            }
        }
        Err(error) => format!("it cannot be read: {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_of_each_container_is_told_and_only_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("kube-system_p_1/c");
        std::fs::create_dir_all(&container).unwrap();
        let old = container.join("0.log");
        std::fs::write(&old, "old\n").unwrap();
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(earlier)
            .unwrap();
        let new = container.join("1.log");
        std::fs::write(&new, "x".repeat(20 << 10) + "\nlast\n").unwrap();
        let foreign = directory.path().join("shop_p_1/c");
        std::fs::create_dir_all(&foreign).unwrap();
        std::fs::write(foreign.join("0.log"), "the user's own\n").unwrap();
        assert_eq!(
            newest_logs(directory.path()).as_slice(),
            std::slice::from_ref(&new)
        );
        assert_eq!(end_of(&new), "last\n");
        assert_eq!(end_of(&old), "old\n");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(end_of(Path::new("/nowhere/x")).starts_with("it cannot be read"));
        assert!(newest_logs(Path::new("/nowhere")).is_empty());
    }
}
