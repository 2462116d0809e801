//! Backups, on a host.
//!
//! In chasi's directory, on control planes: `backup/etcd.db` is a snapshot that was
//! just taken, while it is read; `restore/` holds what a cluster is made from, until
//! it is made; `cluster/restore.json` says that it is being made, and from which backup.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blocking;
use super::distro::{connect, root};
use crate::agent::Scope;
use crate::agent::calls::backup::*;
use crate::agent::transfer::{self, Extent};
use crate::digest::{Digest, Hashing};
use crate::distro::kubeadm::etcd::Etcd;
use crate::distro::kubeadm::{etcd_restore, etcd_snapshot};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;
use crate::host::{Part, Root, generation};
use crate::kube;
use crate::oci::{ClusterImage, Store};

/// The most of one text of a host that is kept in a backup, in bytes.
const LARGEST: u64 = 4 << 20;
/// What is in `cluster/` and is not kept: it is of this host, or of this run.
const NOT_KEPT: [&str; 3] = ["lock", "fence", RESTORE];
const RESTORE: &str = "restore.json";
const HISTORY: &str = "history.jsonl";

fn taken(state: &Path) -> PathBuf {
    state.join("backup/etcd.db")
}

fn put(state: &Path) -> PathBuf {
    state.join("restore/etcd.db")
}

fn note(state: &Path) -> PathBuf {
    state.join("cluster").join(RESTORE)
}

pub(super) async fn take_snapshot(scope: Scope, call: TakeSnapshot) -> Result<Taken> {
    let path = taken(scope.root());
    let state = scope.root().to_owned();
    blocking(move || {
        remove_directory(&state.join("backup"))?;
        file::create_directories(&state.join("backup"))
    })
    .await?;
    let etcd = Etcd::open(root(), call.via)?;
    let (version, revision) = etcd_snapshot::position(&etcd).await?;
    let snapshot = etcd_snapshot::take(&etcd, &path).await?;
    Ok(Taken {
        snapshot,
        version,
        revision,
    })
}

pub(super) async fn read_snapshot(scope: Scope, call: ReadSnapshot) -> Result<()> {
    let path = taken(scope.root());
    let file = File::open(&path).or_err(Kind::System, || {
        format!("cannot read the snapshot `{}`", path.display())
    })?;
    let whole = Extent {
        file,
        offset: 0,
        size: call.snapshot.bytes,
    };
    transfer::pour(std::iter::once(Ok(whole)), scope.output, |_| {}).await
}

pub(super) async fn drop_snapshot(scope: Scope, _: DropSnapshot) -> Result<()> {
    let directory = scope.root().join("backup");
    blocking(move || remove_directory(&directory)).await
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
            .or_err(Kind::System, || {
                format!("cannot remove `{}`", path.display())
            }),
        _ => Ok(()),
    }
}

pub(super) async fn read_kept(scope: Scope, _: ReadKept) -> Result<Vec<(String, String)>> {
    let state = scope.root().to_owned();
    blocking(move || {
        let root = Root::host()?;
        let mut kept = Vec::new();
        for (part, name) in [
            (Part::Node, "node.json"),
            (Part::ControlPlane, "control-plane.json"),
        ] {
            if let Some(number) = generation::current(&root, part)? {
                let recipe = generation::load(&root, number)?.recipe;
                let text = serde_json::to_string_pretty(&recipe)
                    .or_err(Kind::Failed, || "a recipe cannot be written")?;
                kept.push((name.to_owned(), text));
            }
        }
        kept.extend(cluster_texts(&state.join("cluster"))?);
        Ok(kept)
    })
    .await
}

/// The texts in `cluster/`; of long ones the end.
fn cluster_texts(directory: &Path) -> Result<Vec<(String, String)>> {
    let problem = || format!("cannot read `{}`", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.or_err(Kind::System, problem)?,
    };
    let mut texts = Vec::new();
    for entry in entries {
        let entry = entry.or_err(Kind::System, problem)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_text = name.ends_with(".json") || name.ends_with(".jsonl");
        let is_file = entry.file_type().or_err(Kind::System, problem)?.is_file();
        if !is_text || !is_file || NOT_KEPT.contains(&name.as_str()) {
            continue;
        }
        let text = end_of(&entry.path()).or_err(Kind::System, problem)?;
        texts.push((format!("cluster-{name}"), text));
    }
    texts.sort();
    Ok(texts)
}

fn end_of(path: &Path) -> io::Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LARGEST)))?;
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `cluster/restore.json` says.
#[derive(Serialize, Deserialize)]
struct Note {
    backup: Digest,
}

/// The backup that the cluster is being made from.
pub(super) fn restoring(state: &Path) -> Option<Digest> {
    let note: Note = serde_json::from_slice(&fs::read(note(state)).ok()?).ok()?;
    Some(note.backup)
}

pub(super) async fn begin_restore(scope: Scope, call: BeginRestore) -> Result<()> {
    let state = scope.root().to_owned();
    blocking(move || {
        let directory = state.join("cluster");
        file::create_directories(&directory)?;
        let bytes = serde_json::to_vec(&Note {
            backup: call.backup,
        })
        .or_err(Kind::Failed, || "the note of a restore cannot be written")?;
        file::write(&note(&state), &bytes, 0o600)?;
        let history = directory.join(HISTORY);
        match call.history {
            Some(text) if !history.exists() => file::write(&history, text.as_bytes(), 0o600),
            _ => Ok(()),
        }
    })
    .await
}

pub(super) async fn put_snapshot(scope: Scope, call: PutSnapshot) -> Result<()> {
    let path = put(scope.root());
    let reader = scope.input.into_reader();
    blocking(move || {
        if let Some(directory) = path.parent() {
            file::create_directories(directory)?;
        }
        receive(&path, reader, &call)
    })
    .await
}

/// Writes what comes, and gives it its name when it is what it must be.
fn receive(path: &Path, reader: impl Read, call: &PutSnapshot) -> Result<()> {
    let expected = &call.snapshot;
    file::replace(path, 0o600, |file| {
        let mut file = Hashing::new(io::BufWriter::with_capacity(1 << 20, file));
        io::copy(
            &mut reader.take(expected.bytes.saturating_add(1)),
            &mut file,
        )?;
        file.flush()?;
        let (_, digest, bytes) = file.finish();
        match digest == expected.digest && bytes == expected.bytes {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot is not what its digest says",
            )),
        }
    })
}

pub(super) async fn restore_etcd(scope: Scope, call: RestoreEtcd) -> Result<()> {
    let (state, context) = (scope.root().to_owned(), scope.context.clone());
    blocking(move || {
        let host = Root::host()?;
        let number = generation::find(&host, &call.identity)?.ok_or_else(|| {
            let what = format!(
                "the generation {} has not been staged",
                call.identity.short()
            );
            Error::new(Kind::Failed, what).hint("run the same command again")
        })?;
        let recipe = generation::load(&host, number)?.recipe;
        let start = super::host::etcd_start(&recipe)?
            .ok_or_else(|| Error::new(Kind::Failed, "the generation has no control plane"))?;
        let store = Store::open(&state.join("store"))?;
        let image = ClusterImage::open(&store, &call.index)?;
        let wanted = etcd_restore::Restoration {
            root: root(),
            tree: &generation::tree(&host, number),
            start: &start,
            name: &call.name,
            token: &call.token,
            snapshot: &put(&state),
            scratch: &state.join("restore"),
        };
        etcd_restore::restore(&context, &store, &image, &wanted)
    })
    .await
}

pub(super) async fn end_restore(scope: Scope, call: EndRestore) -> Result<Vec<String>> {
    let connection = connect(call.address).await?;
    let mut removed = Vec::new();
    for node in kube::nodes(&connection).await? {
        if !call.nodes.contains(&node.name) {
            kube::delete_node(&connection, &node.name).await?;
            removed.push(node.name);
        }
    }
    let state = scope.root().to_owned();
    blocking(move || {
        remove_directory(&state.join("restore"))?;
        file::remove(&note(&state))
    })
    .await?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distro::kubeadm::etcd_snapshot::Snapshot;

    #[test]
    fn only_a_snapshot_that_is_what_was_said_gets_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.db");
        let call = |text: &str, bytes| PutSnapshot {
            snapshot: Snapshot {
                digest: Digest::of(text),
                bytes,
            },
        };
        for (content, expected, bytes) in [("abc", "abd", 3), ("abc", "ab", 2), ("ab", "abc", 3)] {
            receive(&path, content.as_bytes(), &call(expected, bytes)).unwrap_err();
            assert!(!path.exists());
        }
        receive(&path, &b"abc"[..], &call("abc", 3)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }

    #[test]
    fn what_belongs_to_the_cluster_is_kept_and_its_lock_is_not() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "lock",
            "fence",
            "restore.json",
            "objects.json",
            "history.jsonl",
            "x",
        ] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let kept = cluster_texts(directory.path()).unwrap();
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cluster-history.jsonl", "cluster-objects.json"]);
        assert!(
            cluster_texts(&directory.path().join("none"))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_note_that_is_damaged_is_none() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(restoring(state.path()), None);
        fs::create_dir(state.path().join("cluster")).unwrap();
        fs::write(note(state.path()), "{").unwrap();
        assert_eq!(restoring(state.path()), None);
    }
}
