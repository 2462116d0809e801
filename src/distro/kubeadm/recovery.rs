//! An etcd that goes on alone, from its own data, when those that had the majority
//! are gone for good: etcd's `--force-new-cluster`
//! (etcd.io/docs/v3.6/op-guide/recovery).
//!
//! The flag is put into the static pod's manifest, and taken out again as soon as
//! the member decides alone, which it does not yet when it only names no others:
//! started with it once more, later, it would throw the others out. Each state is
//! recognised by what the manifest says and whom etcd names, so that an interrupted
//! recovery goes on where it was.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::etcd::Etcd;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

const FLAG: &str = "- --force-new-cluster";
/// How often etcd is looked at.
const BEAT: Duration = Duration::from_millis(500);

fn manifest(root: &Path) -> PathBuf {
    root.join("etc/kubernetes/manifests/etcd.yaml")
}

/// Whether a recovery was begun here and has not ended.
pub fn is_under_way(root: &Path) -> bool {
    std::fs::read_to_string(manifest(root)).is_ok_and(|text| text.contains(FLAG))
}

/// Makes the member at `address`, on this host, the only one. Waits `patience` for
/// each of the two restarts.
pub async fn recover(root: &Path, address: IpAddr, patience: Duration) -> Result<()> {
    let path = manifest(root);
    let text = std::fs::read_to_string(&path)
        .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
    let plain = without_flag(&text);
    let etcd = Etcd::open(root, address)?;
    if text == plain && !etcd.is_alone().await {
        let forced = with_flag(&plain).ok_or_else(|| {
            Error::new(
                Kind::Failed,
                "the manifest of etcd is not as expected: it has no options",
            )
        })?;
        file::write(&path, forced.as_bytes(), 0o600)?;
    }
    if is_under_way(root) {
        let end = Instant::now() + patience;
        while !etcd.is_alone().await {
            wait(end, "etcd has not become a cluster of its own").await?;
        }
        file::write(&path, plain.as_bytes(), 0o600)?;
    }
    let end = Instant::now() + patience;
    while runs_with_flag() || !etcd.answers(address).await || !etcd.is_alone().await {
        wait(end, "etcd has not started as usual again").await?;
    }
    Ok(())
}

/// Whether a process was started with the flag.
fn runs_with_flag() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return false;
    };
    let flag = FLAG.trim_start_matches("- ").as_bytes();
    entries.flatten().any(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|one| one == flag)
    })
}

/// Waits a moment, but not behind the end.
async fn wait(end: Instant, problem: &str) -> Result<()> {
    if Instant::now() >= end {
        return Err(Error::new(Kind::Failed, problem).hint(
            "its log is below `/var/log/pods/`; then run the same command again: it goes on",
        ));
    }
    tokio::time::sleep(BEAT).await;
    Ok(())
}

/// Puts the flag before the first option; `None` when there is no option.
fn with_flag(manifest: &str) -> Option<String> {
    let at = manifest.find("- --")?;
    let line = manifest[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent = &manifest[line..at];
    Some(format!(
        "{}{indent}{FLAG}\n{}",
        &manifest[..line],
        &manifest[line..]
    ))
}

fn without_flag(manifest: &str) -> String {
    manifest
        .split_inclusive('\n')
        .filter(|line| line.trim() != FLAG)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_and_goes_and_leaves_no_trace() {
        let manifest = "spec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir=/var/lib/etcd\n    - --name=m1\n";
        let forced = with_flag(manifest).unwrap();
        assert!(
            forced.contains("    - etcd\n    - --force-new-cluster\n    - --data-dir="),
            "{forced}"
        );
        assert_eq!(without_flag(&forced), manifest);
        assert_eq!(without_flag(manifest), manifest);
        assert_eq!(with_flag("spec: {}\n"), None);
    }
}
