//! What was done to the cluster: a file to which lines are added, and from which none
//! is ever taken.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::blocking;
use crate::agent::Scope;
use crate::agent::calls::history::{HistoryEntry, ReadHistory, RecordRun};
use crate::agent::server::farewell::is_unmanaged;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// How much of the file's end is read, in bytes, and how many runs are told.
const END: u64 = 8 << 20;
const MOST: usize = 1000;
/// No line is longer, in bytes: a thousand hosts with some labels each.
const LONGEST: usize = 1 << 20;

pub(super) async fn record_run(scope: Scope, call: RecordRun) -> Result<()> {
    let root = scope.root().to_owned();
    blocking(move || match is_unmanaged(&root)? {
        true => Ok(()),
        false => record(&root, &call.entry),
    })
    .await
}

pub(super) async fn read_history(scope: Scope, call: ReadHistory) -> Result<Vec<HistoryEntry>> {
    let root = scope.root().to_owned();
    blocking(move || {
        let mut entries = read(&root)?;
        let most = usize::try_from(call.most).unwrap_or(MOST).min(MOST);
        entries.drain(..entries.len().saturating_sub(most));
        Ok(entries)
    })
    .await
}

fn path(root: &Path) -> PathBuf {
    root.join("cluster/history.jsonl")
}

fn record(root: &Path, entry: &HistoryEntry) -> Result<()> {
    let path = path(root);
    let cannot = || format!("cannot write `{}`", path.display());
    if read(root)?.contains(entry) {
        return Ok(());
    }
    let mut line = serde_json::to_vec(entry).or_err(Kind::Failed, cannot)?;
    if line.len() > LONGEST {
        return Err(Error::new(Kind::Failed, cannot()).because("the line is too long"));
    }
    line.push(b'\n');
    if let Some(directory) = path.parent() {
        file::create_directories(directory)?;
    }
    let is_new = !path.exists();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .or_err(Kind::System, cannot)?;
    // A line that was cut short stays one of its own.
    if !ends_with_line(&mut file).or_err(Kind::System, cannot)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line)
        .and_then(|()| file.sync_all())
        .or_err(Kind::System, cannot)?;
    match path.parent() {
        Some(directory) if is_new => file::sync_directory(directory).or_err(Kind::System, cannot),
        _ => Ok(()),
    }
}

fn ends_with_line(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == [b'\n'])
}

/// The runs in the last part of the file, the oldest first. Lines that cannot be
/// understood are passed over: they were cut short, or are of a later chasi.
fn read(root: &Path) -> Result<Vec<HistoryEntry>> {
    let path = path(root);
    let cannot = || format!("cannot read `{}`", path.display());
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.or_err(Kind::System, cannot)?,
    };
    let size = file.metadata().or_err(Kind::System, cannot)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(END)))
        .or_err(Kind::System, cannot)?;
    let mut bytes = Vec::new();
    file.take(END)
        .read_to_end(&mut bytes)
        .or_err(Kind::System, cannot)?;
    let entries = bytes.split(|byte| *byte == b'\n');
    let read = entries
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|entry: &HistoryEntry| (1..=2).contains(&entry.version));
    let mut entries: Vec<HistoryEntry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for entry in read {
        match places.get(&entry.run) {
            Some(place) => entries[*place] = entry,
            None => {
                places.insert(entry.run.clone(), entries.len());
                entries.push(entry);
            }
        }
    }
    entries.drain(..entries.len().saturating_sub(MOST));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::agent::calls::history::{Revision, RevisionHost, RunOutcome};
    use crate::digest::Digest;
    use crate::oci::Blob;

    fn entry(run: &str) -> HistoryEntry {
        HistoryEntry {
            version: 1,
            run: run.into(),
            who: "me@here".into(),
            when: "2026-01-02T03:04:05Z".parse().unwrap(),
            command: "run".into(),
            image: Digest::of("image"),
            kubernetes: "1.34.4".into(),
            ignored: vec!["system.swap".into()],
            outcome: RunOutcome::Done,
            revision: None,
        }
    }

    fn with_revision(run: &str) -> HistoryEntry {
        let host = RevisionHost {
            node: Some(Digest::of("generation")),
            control_plane: Some(Digest::of("generation")),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            taints: Vec::new(),
        };
        HistoryEntry {
            version: 2,
            command: "rollback".into(),
            revision: Some(Revision {
                number: 3,
                back_to: Some(1),
                reference: "chasi/demo:1.34.4".into(),
                index: Blob::of("application/vnd.oci.image.index.v1+json", b"image"),
                objects: Digest::of("objects"),
                clusterfile: Digest::of("text"),
                hosts: BTreeMap::from([("m1".to_owned(), host)]),
            }),
            ..entry(run)
        }
    }

    fn runs(root: &Path) -> Vec<String> {
        let entries = read(root).unwrap();
        entries.into_iter().map(|entry| entry.run).collect()
    }

    #[test]
    fn runs_are_added_once_and_a_torn_line_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(runs(root.path()), Vec::<String>::new());
        for run in ["r1", "r2", "r1"] {
            record(root.path(), &entry(run)).unwrap();
        }
        assert_eq!(runs(root.path()), ["r1", "r2"]);
        // The machine lost its power in the middle of a line.
        let path = path(root.path());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        assert_eq!(runs(root.path()), ["r1"]);
        record(root.path(), &entry("r3")).unwrap();
        assert_eq!(runs(root.path()), ["r1", "r3"]);
        assert!(
            std::fs::read(&path)
                .unwrap()
                .starts_with(&whole[..whole.len() - 20])
        );
    }

    #[test]
    fn the_last_line_of_a_run_counts() {
        let root = tempfile::tempdir().unwrap();
        let begun = HistoryEntry {
            outcome: RunOutcome::Unfinished,
            ..with_revision("r1")
        };
        for entry in [begun.clone(), entry("r2")] {
            record(root.path(), &entry).unwrap();
        }
        assert_eq!(read(root.path()).unwrap(), [begun, entry("r2")]);
        record(root.path(), &with_revision("r1")).unwrap();
        let expected = [with_revision("r1"), entry("r2")];
        assert_eq!(read(root.path()).unwrap(), expected);
    }

    #[test]
    fn a_long_history_is_read_from_its_end() {
        let root = tempfile::tempdir().unwrap();
        record(root.path(), &entry("r0")).unwrap();
        let path = path(root.path());
        let mut text = std::fs::read_to_string(&path).unwrap();
        for number in 0..5000 {
            text.push_str(&serde_json::to_string(&entry(&format!("n{number}"))).unwrap());
            text.push('\n');
        }
        std::fs::write(&path, text).unwrap();
        let found = runs(root.path());
        assert_eq!(
            (found.len(), found.last().unwrap().as_str()),
            (MOST, "n4999")
        );
    }

    /// Other versions of chasi read it.
    #[test]
    fn the_format_is_pinned() {
        insta::assert_snapshot!(serde_json::to_string(&entry("r1")).unwrap());
    }

    #[test]
    fn the_format_of_a_revision_is_pinned() {
        let entry = with_revision("r1");
        insta::assert_snapshot!(serde_json::to_string_pretty(&entry).unwrap());
    }

    #[test]
    fn lines_of_all_versions_are_read_and_later_ones_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let later = HistoryEntry {
            version: 3,
            ..entry("r3")
        };
        for entry in [entry("r1"), with_revision("r2"), later] {
            record(root.path(), &entry).unwrap();
        }
        let found = read(root.path()).unwrap();
        assert_eq!(found, [entry("r1"), with_revision("r2")]);
    }
}
