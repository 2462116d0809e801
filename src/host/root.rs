//! Where a host's files are, and the one seam through which everything that
//! changes them goes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Error, Kind, Result, ResultExt};
use crate::oci::layer::EntryPath;

/// Is asked before each effect on the file system. In life there is none; tests
/// let it fail, or end the process, at each effect in turn.
pub trait Gate: Send + Sync {
    /// `effect` is about to happen to `path`; an error happens in its place.
    fn pass(&self, effect: &'static str, path: &Path) -> io::Result<()>;
}

/// A host's file system and chasi's directory in it.
#[derive(Clone)]
pub struct Root {
    files: PathBuf,
    state: EntryPath,
    gate: Option<Arc<dyn Gate>>,
}

/// Chasi's directory on every host, below the root.
const STATE: &str = "var/lib/chasi";

impl Root {
    /// The host that this process runs on.
    pub fn host() -> Result<Self> {
        Root::at(Path::new("/"))
    }

    /// A host whose root directory is `files`.
    pub fn at(files: &Path) -> Result<Self> {
        Ok(Root {
            files: files.to_owned(),
            state: STATE.parse()?,
            gate: None,
        })
    }

    /// The same host, with every effect asked of `gate` first.
    pub fn gated(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Whether this is the host that the process runs on, so that the kernel's
    /// settings and systemd are this host's.
    pub fn is_live(&self) -> bool {
        self.files == Path::new("/")
    }

    /// A path below chasi's directory.
    pub fn state(&self, path: impl AsRef<Path>) -> PathBuf {
        self.files.join(self.state.as_str()).join(path)
    }

    /// An absolute path of the host, as it is written.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.files.join(path.trim_start_matches('/'))
    }

    /// The same path as programs on the host see it.
    pub fn state_on_host(&self, path: &str) -> String {
        format!("/{}/{path}", self.state)
    }

    /// Where a path of the host is. Links on the way, which belong to the host's
    /// administrator, are followed, but never out of the host's root directory; the
    /// last name is not resolved.
    pub fn resolve(&self, path: &EntryPath) -> Result<PathBuf> {
        if self.is_live() {
            return Ok(self.files.join(path));
        }
        let Some(parent) = path.parent() else {
            return Ok(self.files.join(path));
        };
        Ok(self.resolve_directory(&parent)?.join(path.name()))
    }

    fn resolve_directory(&self, path: &EntryPath) -> Result<PathBuf> {
        let attempt = || -> io::Result<PathBuf> {
            let root = std::fs::File::open(&self.files)?;
            let directory = rustix::fs::openat2(
                root,
                path.as_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            )?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
            std::fs::read_link(format!("/proc/self/fd/{number}"))
        };
        match attempt() {
            Ok(directory) => Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
                Some(parent) => Ok(self.resolve_directory(&parent)?.join(path.name())),
                None => Ok(self.files.join(path)),
            },
            Err(error) => {
                Err(Error::new(Kind::System, format!("cannot resolve `/{path}`")).because(error))
            }
        }
    }

    /// Asks the gate. Called before each effect, and nowhere else.
    pub(super) fn pass(&self, effect: &'static str, path: &Path) -> io::Result<()> {
        match &self.gate {
            Some(gate) => gate.pass(effect, path),
            None => Ok(()),
        }
    }

    /// As [`Root::pass`], with an error that names the effect.
    pub(super) fn allow(&self, effect: &'static str, path: &Path) -> Result<()> {
        self.pass(effect, path).or_err(Kind::System, || {
            format!("cannot {effect} `{}`", path.display())
        })
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Root").field(&self.files).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_the_host_are_followed_within_its_root() {
        let directory = tempfile::tempdir().unwrap();
        let files = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir_all(files.join("data/etc")).unwrap();
        symlink("/data/etc", files.join("etc")).unwrap();
        symlink("../../../../../data", files.join("opt")).unwrap();
        let root = Root::at(&files).unwrap();
        let resolve = |path: &str| root.resolve(&path.parse().unwrap()).unwrap();
        assert_eq!(resolve("etc/hosts"), files.join("data/etc/hosts"));
        assert_eq!(resolve("opt/x"), files.join("data/x"));
        assert_eq!(resolve("etc/new/deep/x"), files.join("data/etc/new/deep/x"));
        assert_eq!(resolve("new"), files.join("new"));
    }
}
