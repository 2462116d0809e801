//! An etcd member's data made from a snapshot, before the member starts for the first
//! time: etcd's own `etcdutl snapshot restore`
//! (etcd.io/docs/v3.6/op-guide/recovery), taken out of etcd's container image.
//!
//! The data is made beside its place and renamed into it, so a crash leaves either
//! nothing or all of it; data that is there stays. The revision is raised and
//! everything before it marked as compacted, so that no watcher takes up where the old
//! cluster was. All members are given the same token, which is not that of the old
//! cluster: a member that starts without the snapshot's data, or one of the old
//! cluster, does not get in.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::super::EtcdStart;
use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::oci::image::Platform;
use crate::oci::layer::EntryPath;
use crate::oci::{ClusterImage, Store};

/// Where etcd's tool is in its image: `registry.k8s.io/etcd` has it there since 3.5.
const TOOL: &str = "usr/local/bin/etcdutl";
/// Where etcd keeps its data on a host.
const DATA: &str = "var/lib/etcd";
/// Where the data is made.
const BESIDE: &str = ".chasi-restore";
/// By how much the revision is raised: more than what was written after the snapshot
/// (etcd's documentation: 1500 writes a second for a week).
const BUMP: &str = "1000000000";

/// Which member's data is to be made, and from what.
pub struct Restoration<'a> {
    /// The root of the host's file system.
    pub root: &'a Path,
    /// The tree of the generation with the member's manifest.
    pub tree: &'a Path,
    /// How the member starts.
    pub start: &'a EtcdStart,
    /// Its name.
    pub name: &'a str,
    /// What makes this cluster of members another one than the old.
    pub token: &'a str,
    /// The snapshot.
    pub snapshot: &'a Path,
    /// A directory of our own, for the tool.
    pub scratch: &'a Path,
}

/// Makes the data, unless there is some.
pub fn restore(
    context: &Context,
    store: &Store,
    image: &ClusterImage,
    wanted: &Restoration,
) -> Result<()> {
    let data = wanted.root.join(DATA);
    let member = data.join("member");
    let problem = || format!("cannot make etcd's data in `{}`", data.display());
    let beside = data.join(BESIDE);
    // What a crash left, also right after the data came to its place.
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).or_err(Kind::System, problem);
        }
        _ => {}
    }
    if member.is_dir() {
        return Ok(());
    }
    let own = wanted.start.members.iter();
    let own = own.clone().find(|(name, _)| name == wanted.name);
    let (_, address) = own.ok_or_else(|| {
        let message = format!("`{}` is no member of the new etcd", wanted.name);
        Error::new(Kind::Failed, message)
    })?;
    let tool = unpack_tool(store, image, wanted)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)
        .or_err(Kind::System, problem)?;
    Command::new(&tool)
        .args(["snapshot", "restore"])
        .arg(wanted.snapshot)
        .arg("--data-dir")
        .arg(&beside)
        .args(["--name", wanted.name])
        .args(["--initial-cluster", &members(wanted.start)])
        .args(["--initial-advertise-peer-urls", &peer(*address)])
        .args(["--initial-cluster-token", wanted.token])
        .args(["--bump-revision", BUMP, "--mark-compacted"])
        .told(context)
        .run()
        .map_err(|error| {
            error.hint("the cluster image needs an etcd image whose `etcdutl` knows `--bump-revision` (3.6, or 3.5.10 and later)")
        })?;
    sync_tree(&beside)
        .and_then(|()| fs::rename(beside.join("member"), &member))
        .and_then(|()| fs::remove_dir_all(&beside))
        .and_then(|()| file::sync_directory(&data))
        .or_err(Kind::System, problem)
}

fn peer(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("https://{address}:2380"),
        IpAddr::V6(address) => format!("https://[{address}]:2380"),
    }
}

fn members(start: &EtcdStart) -> String {
    let members = start.members.iter();
    let members = members.map(|(name, address)| format!("{name}={}", peer(*address)));
    members.collect::<Vec<_>>().join(",")
}

/// Brings `etcdutl` out of the image that the member's manifest names.
fn unpack_tool(store: &Store, image: &ClusterImage, wanted: &Restoration) -> Result<PathBuf> {
    let manifest = wanted.tree.join("etc/kubernetes/manifests/etcd.yaml");
    let text = fs::read_to_string(&manifest).or_err(Kind::System, || {
        format!("cannot read `{}`", manifest.display())
    })?;
    let manifest: serde_json::Value = serde_saphyr::from_str(&text)
        .or_err(Kind::Failed, || "the manifest of etcd cannot be read")?;
    let name = manifest["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default();
    let carried = image.images.iter();
    let carried = carried
        .clone()
        .find(|one| one.reference.to_string() == name);
    let carried = carried.ok_or_else(|| {
        let message = format!("the cluster image does not bring etcd's image `{name}`");
        Error::new(Kind::NotFound, message)
    })?;
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let path: EntryPath = TOOL.parse()?;
    let target = wanted.scratch.join("etcdutl");
    let problem = || format!("cannot write `{}`", target.display());
    file::remove(&target)?;
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&target)
        .or_err(Kind::System, problem)?;
    carried
        .copy_file(store, &Platform::linux(architecture)?, &path, &mut out)
        .map_err(|error| match error.kind() {
            Kind::NotFound => error.hint(
                "bring etcd's image from `registry.k8s.io/etcd` into the cluster image: it has `etcdutl`",
            ),
            _ => error,
        })?;
    Ok(target)
}

/// Makes everything below a directory durable.
fn sync_tree(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => fs::File::open(entry.path())?.sync_all()?,
        }
    }
    file::sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distro::EtcdState;

    #[test]
    fn all_members_are_named_with_their_peers() {
        let start = EtcdStart {
            members: vec![
                ("m1".into(), "10.0.0.1".parse().unwrap()),
                ("m2".into(), "fd00::2".parse().unwrap()),
            ],
            state: EtcdState::New,
        };
        assert_eq!(
            members(&start),
            "m1=https://10.0.0.1:2380,m2=https://[fd00::2]:2380"
        );
    }
}
