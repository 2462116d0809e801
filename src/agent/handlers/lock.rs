//! A host's part of the cluster's lock. Nobody else can touch these files at the
//! same time: who changes them has the host's lock.

use std::path::{Path, PathBuf};

use super::blocking;
use crate::agent::Scope;
use crate::agent::calls::lock::{EnterFence, LockRecord, LockState, ReadLock, WriteLock};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// More than any of the two files has.
const LARGEST: u64 = 64 << 10;

fn record_path(root: &Path) -> PathBuf {
    root.join("cluster/lock")
}

fn fence_path(root: &Path) -> PathBuf {
    root.join("cluster/fence")
}

pub(super) async fn read_lock(scope: Scope, _: ReadLock) -> Result<LockState> {
    let root = scope.root().to_owned();
    blocking(move || state(&root)).await
}

pub(super) async fn write_lock(scope: Scope, request: WriteLock) -> Result<()> {
    let root = scope.root().to_owned();
    blocking(move || write(&root, &request.record)).await
}

pub(super) async fn enter_fence(scope: Scope, request: EnterFence) -> Result<()> {
    let root = scope.root().to_owned();
    blocking(move || enter(&root, request.fence)).await
}

fn state(root: &Path) -> Result<LockState> {
    let record: Option<LockRecord> = match read(&record_path(root))? {
        Some(text) => Some(parse(&record_path(root), &text)?),
        None => None,
    };
    if let Some(version @ (0 | 2..)) = record.as_ref().map(|record| record.version) {
        return Err(damaged(&record_path(root)).because(format!("its version is {version}")));
    }
    let entered: u64 = match read(&fence_path(root))? {
        Some(text) => parse(&fence_path(root), &text)?,
        None => 0,
    };
    let fence = entered.max(record.as_ref().map_or(0, |record| record.fence));
    Ok(LockState { record, fence })
}

fn write(root: &Path, record: &LockRecord) -> Result<()> {
    let state = state(root)?;
    let same_run = state
        .record
        .as_ref()
        .is_some_and(|known| known.run == record.run);
    if record.fence < state.fence || (record.fence == state.fence && !same_run) {
        return Err(outdated(record.fence, &state));
    }
    let text =
        serde_json::to_vec(record).or_err(Kind::Failed, || "cannot write the cluster's lock")?;
    file::create_directories(&root.join("cluster"))?;
    file::write(&record_path(root), &text, 0o600)
}

fn enter(root: &Path, fence: u64) -> Result<()> {
    let state = state(root)?;
    if fence < state.fence {
        return Err(outdated(fence, &state));
    }
    if read(&fence_path(root))?.is_some_and(|text| text == fence.to_string()) {
        return Ok(());
    }
    file::create_directories(&root.join("cluster"))?;
    file::write(&fence_path(root), fence.to_string().as_bytes(), 0o600)
}

fn outdated(fence: u64, state: &LockState) -> Error {
    let by = match &state.record {
        Some(record) => format!("{record}"),
        None => "another run".to_owned(),
    };
    Error::new(
        Kind::Locked,
        format!("this run has lost the cluster's lock to {by}"),
    )
    .because(format!(
        "its fence is {fence}, the host has seen {}",
        state.fence
    ))
    .hint("run the same command again when that run has ended")
}

fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read as _;
    let cannot = || format!("cannot read `{}`", path.display());
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file
            .take(LARGEST)
            .read_to_string(&mut text)
            .or_err(Kind::System, cannot)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).or_err(Kind::System, cannot),
    };
    Ok(Some(text))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|cause| damaged(path).because(cause))
}

fn damaged(path: &Path) -> Error {
    Error::new(
        Kind::Integrity,
        format!("`{}` on the host is damaged", path.display()),
    )
    .hint("no run is changing the host now; remove the file and run the same command again")
}
