//! The lock of a host: an exclusive flock on `lock` in chasi's directory, held by
//! the one agent that may change the host. The file's content (one line of JSON,
//! a [`Holder`]) tells others who that is; what counts is the flock, which ends
//! with the process.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

/// How often a taken lock is looked at again.
const POLL: Duration = Duration::from_millis(100);
/// More than any holder takes.
const LARGEST: u64 = 64 << 10;

/// Who holds a lock.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The run's identifier.
    pub run: String,
    /// Who started it, and where: `user@machine`.
    pub who: String,
    /// Since when.
    pub since: jiff::Timestamp,
    /// The agent's process.
    pub process: u32,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        write!(
            f,
            "run {} of {} (since {since}, process {})",
            self.run, self.who, self.process
        )
    }
}

/// The lock, until it is dropped or the process ends.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

impl HostLock {
    /// Takes the lock in `root`, which is created when it does not exist. Waits
    /// `patience` for another holder, whom it names, and fails with
    /// [`Kind::Locked`] then.
    pub async fn take(
        ctx: &Context,
        root: &Path,
        holder: &Holder,
        patience: Duration,
    ) -> Result<HostLock> {
        file::create_directories(root)?;
        let path = root.join("lock");
        let deadline = Instant::now() + patience;
        let mut told = None;
        loop {
            if let Some(lock) = attempt(&path, holder)? {
                return Ok(lock);
            }
            let other = read(&path);
            if Instant::now() >= deadline {
                return Err(locked(other));
            }
            if let Some(other) = other.filter(|other| told.as_ref() != Some(other)) {
                ctx.note(format!(
                    "waiting up to {} s for run {} of {} to finish here",
                    patience.as_secs(),
                    other.run,
                    other.who
                ));
                told = Some(other);
            }
            let waited = ctx
                .cancel
                .run_until_cancelled(tokio::time::sleep(POLL))
                .await;
            if waited.is_none() {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
        }
    }

    /// Who holds the lock in `root`, if anyone does.
    pub fn holder(root: &Path) -> Result<Option<Holder>> {
        let path = root.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(&path, error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read(&path).unwrap_or_else(unknown))),
            Err(TryLockError::Error(error)) => Err(cannot(&path, error)),
        }
    }
}

/// Tries once; `None` when somebody else has it.
fn attempt(path: &Path, holder: &Holder) -> Result<Option<HostLock>> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| cannot(path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(cannot(path, error)),
    }
    // The last agent of an unmanaged host removes everything, this file too: a
    // lock on a removed file would exclude nobody.
    let ours = file.metadata().map_err(|error| cannot(path, error))?;
    match std::fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
        _ => return Ok(None),
    }
    let mut line =
        serde_json::to_vec(holder).or_err(Kind::Failed, || "cannot describe the lock's holder")?;
    line.push(b'\n');
    file.set_len(0)
        .and_then(|()| file.write_all(&line))
        .map_err(|error| cannot(path, error))?;
    Ok(Some(HostLock { _file: file }))
}

/// What the holder wrote; nothing when it is only just writing it.
fn read(path: &Path) -> Option<Holder> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(LARGEST)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

fn unknown() -> Holder {
    Holder {
        run: "unknown".into(),
        who: "unknown".into(),
        since: jiff::Timestamp::UNIX_EPOCH,
        process: 0,
    }
}

fn locked(holder: Option<Holder>) -> Error {
    let holder = holder.unwrap_or_else(unknown);
    Error::new(Kind::Locked, format!("another run is changing this host: {holder}"))
        .hint("wait for it to end and run the same command again; a run that was stopped ends its step in hand first")
        .hint(format!("`ps -fp {}` on the host shows its agent", holder.process))
}

fn cannot(path: &Path, cause: std::io::Error) -> Error {
    Error::new(Kind::System, format!("cannot lock `{}`", path.display())).because(cause)
}

/// Says that an agent runs from this directory: a shared flock on `agent/`. Who
/// can turn it into an exclusive one is the last.
#[derive(Debug)]
pub(super) struct Presence {
    directory: File,
    path: PathBuf,
}

impl Presence {
    /// Announces this agent. The directory is created when it does not exist.
    pub fn announce(root: &Path) -> Result<Presence> {
        let path = root.join("agent");
        file::create_directories(&path)?;
        let attempt = || {
            let directory = File::open(&path)?;
            directory.lock_shared()?;
            Ok(directory)
        };
        let directory = attempt().map_err(|error| cannot(&path, error))?;
        Ok(Presence { directory, path })
    }

    /// Whether no other agent runs from here. Until this is dropped, none can
    /// announce itself.
    pub fn is_last(&self) -> bool {
        self.directory.try_lock().is_ok()
    }

    /// Where the agents' binaries are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Sink};
    use std::sync::{Arc, Mutex};

    fn holder(run: &str) -> Holder {
        Holder {
            run: run.into(),
            who: "me@here".into(),
            since: jiff::Timestamp::UNIX_EPOCH,
            process: 7,
        }
    }

    #[tokio::test]
    async fn one_holds_it_and_the_next_is_told_who() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::silent();
        let first = HostLock::take(&ctx, root.path(), &holder("one"), Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(HostLock::holder(root.path()).unwrap(), Some(holder("one")));
        let error = HostLock::take(&ctx, root.path(), &holder("two"), Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Locked);
        assert!(error.message().contains("run one of me@here"), "{error}");
        drop(first);
        assert_eq!(HostLock::holder(root.path()).unwrap(), None);
        HostLock::take(&ctx, root.path(), &holder("two"), Duration::ZERO)
            .await
            .unwrap();
    }

    struct Notes(Mutex<Vec<String>>);
    impl Sink for Notes {
        fn event(&self, event: Event) {
            if let Event::Note { text, .. } = event {
                self.0.lock().unwrap().push(text);
            }
        }
    }

    #[tokio::test]
    async fn waiting_ends_when_the_holder_does() {
        let root = tempfile::tempdir().unwrap();
        let notes = Arc::new(Notes(Mutex::default()));
        let ctx = Context::new(notes.clone());
        let first = HostLock::take(&ctx, root.path(), &holder("one"), Duration::ZERO)
            .await
            .unwrap();
        let waiting = tokio::spawn({
            let (ctx, root) = (ctx.clone(), root.path().to_owned());
            async move { HostLock::take(&ctx, &root, &holder("two"), Duration::from_secs(60)).await }
        });
        while notes.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert!(notes.0.lock().unwrap()[0].contains("run one of me@here"));
        assert_eq!(HostLock::holder(root.path()).unwrap(), Some(holder("two")));
        drop(second);
    }

    #[tokio::test]
    async fn a_lock_whose_file_was_removed_excludes_nobody_and_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::silent();
        let path = root.path().join("lock");
        let first = HostLock::take(&ctx, root.path(), &holder("one"), Duration::ZERO)
            .await
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = HostLock::take(&ctx, root.path(), &holder("two"), Duration::ZERO)
            .await
            .unwrap();
        drop(first);
        assert_eq!(HostLock::holder(root.path()).unwrap(), Some(holder("two")));
        drop(second);
    }

    #[test]
    fn the_last_agent_knows_that_it_is_the_last() {
        let root = tempfile::tempdir().unwrap();
        let first = Presence::announce(root.path()).unwrap();
        let second = Presence::announce(root.path()).unwrap();
        assert!(!first.is_last());
        drop(first);
        assert!(second.is_last());
    }
}
