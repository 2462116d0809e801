//! Digests of files of a context, remembered between builds.
//!
//! A file whose [`Stamp`] is what it was need not be read again. As in git's
//! index, a stamp is only trusted when the file had been left alone for a while
//! before it was hashed: a write within the granularity of the file system's
//! clock would not show in it.
//!
//! Format: `stamps/<digest of the context's path>.json` in the cache directory;
//! a header line with the version, then one JSON array a line: path, device,
//! inode, size, modification time, change time, digest. It is only a cache: a
//! file that is missing, damaged or of another version means hashing again.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::cache::Cache;
use super::context::{Context, Stamp};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event;
use crate::file;

const HEADER: &str = "chasi stamps 1";

/// The coarsest clock of a file system in use (FAT counts two seconds).
const GRANULARITY: i128 = 2_000_000_000;

/// How many files are remembered for one context.
const LIMIT: usize = 1_000_000;

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// The remembered digests of one context.
#[derive(Debug)]
pub struct Stamps {
    path: PathBuf,
    known: HashMap<String, (Stamp, Digest)>,
    fresh: Mutex<HashMap<String, (Stamp, Digest)>>,
}

/// The digest of a file, and whether its stamp proves that it stays the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hashed {
    /// The content's digest.
    pub digest: Digest,
    /// The file's stamp when it was hashed.
    pub stamp: Stamp,
    /// Whether an unchanged stamp means unchanged content.
    pub settled: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Line(String, u64, u64, u64, i128, i128, Digest);

impl Stamps {
    /// What is remembered of a context.
    pub fn load(cache: &Cache, context: &Context) -> Result<Self> {
        let root = context.root().canonicalize().or_err(Kind::System, || {
            format!("cannot find `{}`", context.root().display())
        })?;
        let path = cache.stamps(&root);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(Stamps {
            path,
            known: parse(&text).unwrap_or_default(),
            fresh: Mutex::default(),
        })
    }

    /// The digests of files, in their order, hashed in parallel.
    pub fn hash(
        &self,
        events: &event::Context,
        context: &Context,
        files: &[(&str, Stamp)],
    ) -> Result<Vec<Hashed>> {
        files
            .par_iter()
            .with_max_len(1)
            .map(|(path, stamp)| {
                events.check_cancelled()?;
                self.hash_one(events, context, path, *stamp)
            })
            .collect()
    }

    fn hash_one(
        &self,
        events: &event::Context,
        context: &Context,
        path: &str,
        stamp: Stamp,
    ) -> Result<Hashed> {
        let remembered = self.known.get(path).filter(|(known, _)| *known == stamp);
        let (hashed, settled) = match remembered {
            Some((_, digest)) => (*digest, true),
            None => {
                let now = now();
                let digest = read(events, context, path, stamp)?;
                (
                    digest,
                    stamp.changed.max(stamp.modified) + GRANULARITY < now,
                )
            }
        };
        if settled && let Ok(mut fresh) = self.fresh.lock() {
            fresh.insert(path.to_owned(), (stamp, hashed));
        }
        Ok(Hashed {
            digest: hashed,
            stamp,
            settled,
        })
    }

    /// Keeps what was learnt for the next build.
    pub fn save(&self) -> Result<()> {
        let Ok(fresh) = self.fresh.lock() else {
            return Ok(());
        };
        if fresh
            .iter()
            .all(|(name, value)| self.known.get(name) == Some(value))
        {
            return Ok(());
        }
        // Another Kubefile with the same context may use the others.
        let others = self
            .known
            .iter()
            .filter(|(name, _)| !fresh.contains_key(*name));
        let mut names: Vec<_> = fresh.iter().chain(others).take(LIMIT).collect();
        names.sort_by_key(|(name, _)| *name);
        let mut text = format!("{HEADER}\n");
        for (name, (stamp, digest)) in names {
            let line = Line(
                name.clone(),
                stamp.device,
                stamp.inode,
                stamp.size,
                stamp.modified,
                stamp.changed,
                *digest,
            );
            let line =
                serde_json::to_string(&line).or_err(Kind::Failed, || "cannot write the cache")?;
            text.push_str(&line);
            text.push('\n');
        }
        file::write(&self.path, text.as_bytes(), 0o600)
    }
}

fn parse(text: &str) -> Option<HashMap<String, (Stamp, Digest)>> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return None;
    }
    lines
        .map(|line| {
            let Line(path, device, inode, size, modified, changed, digest) =
                serde_json::from_str(line).ok()?;
            let stamp = Stamp {
                device,
                inode,
                size,
                modified,
                changed,
            };
            Some((path, (stamp, digest)))
        })
        .collect()
}

fn read(events: &event::Context, context: &Context, path: &str, expected: Stamp) -> Result<Digest> {
    let (file, before) = context.open_file(path)?;
    let cannot = || format!("cannot read `{}`", context.shown(path));
    let mut reader = Hashing::new(&file);
    let mut buffer = vec![0; BUFFER.min(usize::try_from(before.size).unwrap_or(BUFFER) + 1)];
    while reader.read(&mut buffer).or_err(Kind::System, cannot)? > 0 {
        events.check_cancelled()?;
    }
    let (_, digest, _) = reader.finish();
    let after = Stamp::of_file(&file).or_err(Kind::System, cannot)?;
    if before != after || before != expected {
        return Err(changed(context, path));
    }
    Ok(digest)
}

/// A file did not stay what it was while the image was built.
pub fn changed(context: &Context, path: &str) -> Error {
    Error::new(
        Kind::Failed,
        format!(
            "`{}` was changed while the image was built",
            context.shown(path)
        ),
    )
    .hint("build again when nothing writes to the context")
}

fn now() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Fixture {
        cache: tempfile::TempDir,
        tree: tempfile::TempDir,
    }

    impl Fixture {
        /// A context with one file, written just now.
        fn new() -> Self {
            let fixture = Fixture {
                cache: tempfile::tempdir().unwrap(),
                tree: tempfile::tempdir().unwrap(),
            };
            fs::write(fixture.tree.path().join("a"), "one").unwrap();
            fixture
        }

        fn stamp(&self) -> Stamp {
            Stamp::of_file(&fs::File::open(self.tree.path().join("a")).unwrap()).unwrap()
        }

        fn hash_as(&self, stamps: &Stamps, stamp: Stamp) -> Result<Hashed> {
            let context = Context::open(self.tree.path(), &[]).unwrap();
            let events = event::Context::silent();
            Ok(stamps.hash(&events, &context, &[("a", stamp)])?[0])
        }

        fn load(&self) -> Stamps {
            let context = Context::open(self.tree.path(), &[]).unwrap();
            Stamps::load(&Cache::open(self.cache.path()).unwrap(), &context).unwrap()
        }
    }

    #[test]
    fn a_file_written_just_now_is_not_remembered() {
        let fixture = Fixture::new();
        let stamps = fixture.load();
        let hashed = fixture.hash_as(&stamps, fixture.stamp()).unwrap();
        assert_eq!((hashed.digest, hashed.settled), (Digest::of("one"), false));
        stamps.save().unwrap();
        assert!(fixture.load().known.is_empty());
    }

    #[test]
    fn a_remembered_file_is_not_read_again_until_its_stamp_differs() {
        let fixture = Fixture::new();
        let stamp = fixture.stamp();
        let mut stamps = fixture.load();
        // Remembering a wrong digest shows whether the file was read.
        stamps
            .known
            .insert("a".into(), (stamp, Digest::of("remembered")));
        let hashed = fixture.hash_as(&stamps, stamp).unwrap();
        assert_eq!(
            (hashed.digest, hashed.settled),
            (Digest::of("remembered"), true)
        );
        stamps.known.insert(
            "a".into(),
            (
                Stamp {
                    changed: 1,
                    ..stamp
                },
                Digest::of("remembered"),
            ),
        );
        assert_eq!(
            fixture.hash_as(&stamps, stamp).unwrap().digest,
            Digest::of("one")
        );
    }

    #[test]
    fn what_is_remembered_survives_and_damage_means_nothing_is_remembered() {
        let fixture = Fixture::new();
        let stamps = fixture.load();
        let stamp = fixture.stamp();
        stamps
            .fresh
            .lock()
            .unwrap()
            .insert("a\n\"".into(), (stamp, Digest::of("x")));
        stamps.save().unwrap();
        let stamps = fixture.load();
        assert_eq!(stamps.known["a\n\""], (stamp, Digest::of("x")));
        let path = stamps.path;
        for text in [
            "",
            "chasi stamps 2\n",
            "chasi stamps 1\n[",
            "chasi stamps 1\n[\"a\",1]\n",
        ] {
            fs::write(&path, text).unwrap();
            assert!(fixture.load().known.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_an_error() {
        let fixture = Fixture::new();
        let before = fixture.stamp();
        fs::write(fixture.tree.path().join("a"), "other").unwrap();
        let error = fixture.hash_as(&fixture.load(), before).unwrap_err();
        assert!(error.message().contains("was changed"), "{error}");
    }
}
