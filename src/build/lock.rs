//! The lock file: the digest of everything that a build resolved.
//!
//! `Kubefile.lock` lies beside the Kubefile and belongs into version control. It
//! is JSON with sorted keys, so that a change of one version is a change of few
//! lines. Each platform has its own part, because URLs differ between them; a
//! build replaces the parts of the platforms that it builds for.
//!
//! `--locked` does not change what is resolved. It compares: anything that is not
//! in the lock file, or resolves to something else, is an error.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The version of the format.
const VERSION: u32 = 1;

/// The largest lock file that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// A lock file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    platforms: BTreeMap<String, Resolved>,
}

/// What was resolved for one platform.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// Base and included cluster images, by reference.
    pub clusters: BTreeMap<String, Digest>,
    /// Container images, by reference.
    pub images: BTreeMap<String, Digest>,
    /// Downloads, by URL.
    pub urls: BTreeMap<String, Digest>,
}

impl Default for Lock {
    fn default() -> Self {
        Lock {
            version: VERSION,
            platforms: BTreeMap::new(),
        }
    }
}

impl Lock {
    /// Reads a lock file; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        use std::io::Read;
        let damaged = || format!("`{}` is not a lock file", path.display());
        let remedy = "restore it from version control; or remove it, and a build without `--locked` writes a new one";
        let mut text = String::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(LIMIT).read_to_string(&mut text),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => Err(cause),
        }
        .or_err(Kind::System, || format!("cannot read `{}`", path.display()))?;
        let lock: Lock = serde_json::from_str(&text)
            .or_err(Kind::Input, damaged)
            .map_err(|error| error.hint(remedy))?;
        if lock.version != VERSION {
            return Err(Error::new(Kind::Input, damaged())
                .because(format!(
                    "its version is {}, this chasi knows {VERSION}",
                    lock.version
                ))
                .hint(remedy));
        }
        Ok(Some(lock))
    }

    /// Writes the lock file, unless it says the same already.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .or_err(Kind::Failed, || "cannot write the lock file")?;
        text.push('\n');
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        file::write(path, text.as_bytes(), 0o644)
    }

    /// Sets what was resolved for a platform.
    pub fn set(&mut self, platform: impl ToString, resolved: Resolved) {
        self.platforms.insert(platform.to_string(), resolved);
    }

    /// What is locked for a platform.
    pub fn get(&self, platform: impl ToString) -> Resolved {
        self.platforms
            .get(&platform.to_string())
            .cloned()
            .unwrap_or_default()
    }
}

/// Compares what was resolved with what is locked. `path` is the lock file's.
pub fn check(
    path: &Path,
    locked: &BTreeMap<String, Digest>,
    name: &str,
    digest: &Digest,
) -> Result<()> {
    match locked.get(name) {
        Some(expected) if expected == digest => Ok(()),
        Some(expected) => Err(Error::new(
            Kind::Integrity,
            format!(
                "`{name}` is {digest} now, but {expected} in `{}`",
                path.display()
            ),
        )
        .hint("build without `--locked` to accept what it is now")),
        None => Err(Error::new(
            Kind::Check,
            format!("`{name}` is not in `{}`", path.display()),
        )
        .hint("build without `--locked` once to add it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Resolved {
        Resolved {
            urls: BTreeMap::from([
                ("https://b".to_owned(), Digest::of(text)),
                ("https://a".to_owned(), Digest::of("a")),
            ]),
            images: BTreeMap::from([("docker.io/library/x:1".to_owned(), Digest::of("x"))]),
            ..Resolved::default()
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let mut lock = Lock::default();
        lock.set("linux/amd64", resolved("b"));
        insta::assert_snapshot!(serde_json::to_string_pretty(&lock).unwrap());
    }

    #[test]
    fn a_build_replaces_only_its_own_platforms() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Kubefile.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        let mut lock = Lock::default();
        lock.set("linux/amd64", resolved("b"));
        lock.set("linux/arm64", resolved("c"));
        lock.write(&path).unwrap();
        let mut lock = Lock::read(&path).unwrap().unwrap();
        lock.set("linux/arm64", resolved("d"));
        assert_eq!(lock.get("linux/amd64"), resolved("b"));
        assert_eq!(lock.get("linux/arm64"), resolved("d"));
    }

    #[test]
    fn what_differs_is_refused_with_both_digests() {
        let path = Path::new("Kubefile.lock");
        let locked = resolved("b").urls;
        check(path, &locked, "https://b", &Digest::of("b")).unwrap();
        let error = check(path, &locked, "https://b", &Digest::of("c")).unwrap_err();
        assert!(error.message().contains(&Digest::of("b").to_string()));
        assert!(error.message().contains(&Digest::of("c").to_string()));
        let error = check(path, &locked, "https://z", &Digest::of("c")).unwrap_err();
        assert_eq!(error.message(), "`https://z` is not in `Kubefile.lock`");
    }

    #[test]
    fn a_damaged_lock_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Kubefile.lock");
        for text in [
            "",
            "{}",
            "{\"version\":2,\"platforms\":{}}",
            "{\"version\":1,\"platforms\":{},\"more\":1}",
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Lock::read(&path).unwrap_err().kind(), Kind::Input, "{text}");
        }
    }
}
