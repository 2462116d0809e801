//! The journal: what an agent has begun to change on its host, and how that
//! ended.
//!
//! ```text
//! journal/RUN.jsonl   one for each run, a record a line
//! ```
//!
//! Invariants:
//! - A record is synced before [`Journal::begin`] and the like return: what was
//!   not recorded has not begun.
//! - A line that cannot be read was torn by a crash while it was written, so what
//!   it would have announced has not begun, or its end was not recorded; it is
//!   passed over. Unknown fields and operations are left to newer versions.
//! - Of two switches of one part, the first has ended before the second begins.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::object::list;
use super::{Part, Root};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// The journals of this many runs are kept, and those with something pending.
const KEPT: usize = 32;
/// A journal larger than this, in bytes, was not written by chasi.
const LARGEST: u64 = 64 << 20;

/// A change of the host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Operation {
    /// One of the two switches moves.
    Switch {
        /// Which one.
        part: Part,
        /// The generation that it points to.
        #[serde(default)]
        from: Option<u64>,
        /// The generation that it will point to; none when chasi leaves.
        #[serde(default)]
        to: Option<u64>,
    },
    /// Anything that is simply done again when it was interrupted.
    Step {
        /// What is done, in the imperative: `start kubelet`.
        step: String,
    },
    /// Chasi leaves the host.
    Leave,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sequence: u64,
    time: jiff::Timestamp,
    #[serde(flatten)]
    record: Record,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Record {
    Begin {
        #[serde(flatten)]
        operation: Operation,
    },
    /// A point of the operation was passed that matters for its undoing.
    Reached {
        point: String,
    },
    Commit,
    Abandon {
        reason: String,
    },
    #[serde(other)]
    Unknown,
}

/// An operation that was begun, and whose end is not recorded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    /// The run that began it.
    pub run: String,
    /// Its number in the run.
    pub sequence: u64,
    /// What was begun.
    pub operation: Operation,
    /// The points that it passed.
    pub reached: Vec<String>,
}

impl Pending {
    /// Whether it passed a point.
    pub fn has_reached(&self, point: &str) -> bool {
        self.reached.iter().any(|reached| reached == point)
    }
}

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    root: Root,
    path: PathBuf,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    next: u64,
}

/// An operation that has begun. Its end must be recorded.
#[derive(Debug)]
#[must_use = "record how it ended"]
pub struct Begun {
    sequence: u64,
}

impl Journal {
    /// Opens the journal of a run, which may have been written to before. Removes
    /// the oldest journals of other runs. `run` is letters, digits and `-`.
    pub fn open(root: &Root, run: &str) -> Result<Self> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if run.is_empty() || run.len() > 128 || !run.chars().all(is_name) {
            return Err(Error::new(
                Kind::Input,
                format!("`{}` is not the name of a run", run.escape_debug()),
            ));
        }
        let directory = directory(root);
        if !directory.is_dir() {
            root.allow("create", &directory)?;
            file::create_directories(&directory)?;
        }
        remove_old(root)?;
        let path = directory.join(format!("{run}.jsonl"));
        let lines = read(&path)?;
        let next = lines
            .iter()
            .map(|line| line.sequence + 1)
            .max()
            .unwrap_or(0);
        let failed = || format!("cannot open the journal `{}`", path.display());
        root.allow("create", &path)?;
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .or_err(Kind::System, failed)?;
        file::sync_directory(&directory).or_err(Kind::System, failed)?;
        end_torn_line(root, &path, &file)?;
        Ok(Journal {
            root: root.clone(),
            path,
            writer: Mutex::new(Writer { file, next }),
        })
    }

    /// Records that an operation begins. It may begin when this has returned.
    pub fn begin(&self, operation: Operation) -> Result<Begun> {
        let mut writer = self.writer();
        let sequence = writer.next;
        writer.next += 1;
        self.append(&mut writer.file, sequence, Record::Begin { operation })?;
        Ok(Begun { sequence })
    }

    /// Records that an operation passed a point.
    pub fn reached(&self, begun: &Begun, point: &str) -> Result<()> {
        let record = Record::Reached {
            point: point.to_owned(),
        };
        self.append(&mut self.writer().file, begun.sequence, record)
    }

    /// Records that an operation has ended.
    pub fn commit(&self, begun: Begun) -> Result<()> {
        self.append(&mut self.writer().file, begun.sequence, Record::Commit)
    }

    /// Records that an operation was undone, or is of no concern any more.
    pub fn abandon(&self, begun: Begun, reason: &str) -> Result<()> {
        let record = Record::Abandon {
            reason: reason.to_owned(),
        };
        self.append(&mut self.writer().file, begun.sequence, record)
    }

    /// What is recorded of an operation that has begun.
    pub fn pending(&self, begun: &Begun) -> Result<Pending> {
        let run = run_of(&self.path).unwrap_or_default();
        pending_of(&run, read(&self.path)?)
            .into_iter()
            .map(|(_, pending)| pending)
            .find(|pending| pending.sequence == begun.sequence)
            .ok_or_else(|| Error::new(Kind::Failed, "the operation is not in the journal"))
    }

    /// Takes up an operation of this run that is pending, to end it.
    pub fn resume(&self, pending: &Pending) -> Begun {
        Begun {
            sequence: pending.sequence,
        }
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        // What a panicking writer left is a torn line at worst, and those are passed over.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, file: &mut File, sequence: u64, record: Record) -> Result<()> {
        let line = Line {
            sequence,
            time: jiff::Timestamp::now(),
            record,
        };
        let mut attempt = || -> std::io::Result<()> {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            self.root.pass("record", &self.path)?;
            file.write_all(&text)?;
            file.sync_data()?;
            self.root.pass("recorded", &self.path)
        };
        attempt().or_err(Kind::System, || {
            format!("cannot write the journal `{}`", self.path.display())
        })
    }
}

/// All operations that were begun and have not ended, in the order in which they
/// began.
pub fn pending(root: &Root) -> Result<Vec<Pending>> {
    let mut all = Vec::new();
    for path in list(&directory(root))? {
        if let Some(run) = run_of(&path) {
            all.extend(pending_of(&run, read(&path)?));
        }
    }
    all.sort_by_key(|(time, _)| *time);
    Ok(all.into_iter().map(|(_, pending)| pending).collect())
}

fn pending_of(run: &str, lines: Vec<Line>) -> Vec<(jiff::Timestamp, Pending)> {
    let mut open = BTreeMap::new();
    for Line {
        sequence,
        time,
        record,
    } in lines
    {
        match record {
            Record::Begin { operation } => {
                let pending = Pending {
                    run: run.to_owned(),
                    sequence,
                    operation,
                    reached: Vec::new(),
                };
                open.insert(sequence, (time, pending));
            }
            Record::Reached { point } => {
                if let Some((_, pending)) = open.get_mut(&sequence) {
                    pending.reached.push(point);
                }
            }
            Record::Commit | Record::Abandon { .. } => {
                open.remove(&sequence);
            }
            Record::Unknown => {}
        }
    }
    open.into_values().collect()
}

fn directory(root: &Root) -> PathBuf {
    root.state("journal")
}

fn run_of(path: &Path) -> Option<String> {
    Some(
        path.file_name()?
            .to_str()?
            .strip_suffix(".jsonl")?
            .to_owned(),
    )
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file
            .and_then(|file| file.take(LARGEST).read_to_end(&mut text))
            .or_err(Kind::System, || {
                format!("cannot read the journal `{}`", path.display())
            })?,
    };
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Lets the next record begin on a line of its own.
fn end_torn_line(root: &Root, path: &Path, mut file: &File) -> Result<()> {
    let mut attempt = || -> std::io::Result<()> {
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            std::os::unix::fs::FileExt::read_exact_at(file, &mut last, length - 1)?;
        }
        if last != [b'\n'] {
            root.pass("record", path)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    };
    attempt().or_err(Kind::System, || {
        format!("cannot write the journal `{}`", path.display())
    })
}

fn remove_old(root: &Root) -> Result<()> {
    let mut journals = Vec::new();
    for path in list(&directory(root))? {
        let modified = path.metadata().and_then(|found| found.modified());
        let modified = modified.or_err(Kind::System, || {
            format!("cannot look at `{}`", path.display())
        })?;
        journals.push((modified, path));
    }
    journals.sort();
    let surplus = journals.len().saturating_sub(KEPT);
    for (_, path) in journals.into_iter().take(surplus) {
        let Some(run) = run_of(&path) else { continue };
        if pending_of(&run, read(&path)?).is_empty() {
            root.allow("remove", &path)?;
            file::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path()).unwrap();
        (directory, root)
    }

    fn switch(to: u64) -> Operation {
        Operation::Switch {
            part: Part::Node,
            from: None,
            to: Some(to),
        }
    }

    #[test]
    fn what_has_not_ended_is_pending() {
        let (_directory, root) = root();
        let journal = Journal::open(&root, "one").unwrap();
        let first = journal.begin(switch(1)).unwrap();
        let second = journal.begin(switch(2)).unwrap();
        let third = journal.begin(Operation::Leave).unwrap();
        journal.reached(&second, "saved").unwrap();
        journal.commit(first).unwrap();
        journal.abandon(third, "no need").unwrap();
        let pending = pending(&root).unwrap();
        assert_eq!(
            pending,
            [Pending {
                run: "one".into(),
                sequence: second.sequence,
                operation: switch(2),
                reached: vec!["saved".into()]
            }]
        );
        Journal::open(&root, "one").unwrap().commit(second).unwrap();
        assert_eq!(super::pending(&root).unwrap(), []);
    }

    #[test]
    fn a_torn_line_is_passed_over_and_the_next_record_is_not() {
        let (_directory, root) = root();
        let begun = Journal::open(&root, "one")
            .unwrap()
            .begin(switch(1))
            .unwrap();
        let path = root.state("journal/one.jsonl");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"sequence\":0,\"rec\0\0");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(pending(&root).unwrap().len(), 1);
        Journal::open(&root, "one").unwrap().commit(begun).unwrap();
        assert_eq!(pending(&root).unwrap(), []);
    }

    #[test]
    fn what_a_newer_version_wrote_is_read() {
        let (_directory, root) = root();
        drop(Journal::open(&root, "one").unwrap());
        let path = root.state("journal/one.jsonl");
        std::fs::write(
            &path,
            r#"{"sequence":0,"time":"2026-11-21T00:00:00Z","record":"begin","operation":"teleport","where":"moon","v":9}
{"sequence":0,"time":"2026-11-21T00:00:00Z","record":"pause"}
{"sequence":1,"time":"2026-11-21T00:00:00Z","record":"begin","operation":"switch","part":"node","to":3,"new":true}
"#,
        )
        .unwrap();
        let operations: Vec<_> = pending(&root)
            .unwrap()
            .into_iter()
            .map(|pending| pending.operation)
            .collect();
        assert_eq!(operations, [Operation::Unknown, switch(3)]);
    }

    #[test]
    fn old_journals_are_removed_unless_something_is_pending() {
        let (_directory, root) = root();
        let old = Journal::open(&root, "old").unwrap();
        let _begun = old.begin(switch(1)).unwrap();
        for run in 0..KEPT + 8 {
            let journal = Journal::open(&root, &format!("run-{run}")).unwrap();
            let begun = journal.begin(Operation::Leave).unwrap();
            journal.commit(begun).unwrap();
        }
        let names = list(&directory(&root)).unwrap();
        assert!(names.len() <= KEPT + 2, "{}", names.len());
        assert!(
            names
                .iter()
                .any(|path| run_of(path).as_deref() == Some("old"))
        );
    }

    #[test]
    fn a_run_is_not_a_path() {
        let (_directory, root) = root();
        for run in ["", "..", "a/b", "a b", &"x".repeat(200)] {
            assert_eq!(Journal::open(&root, run).unwrap_err().kind(), Kind::Input);
        }
    }
}
