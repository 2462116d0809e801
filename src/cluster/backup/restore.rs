//! A cluster that is made from a backup: what the run has beside its image and its
//! Clusterfile.
//!
//! Each control plane has a note from before its first change until everything is done,
//! with the backup's identity. By it a run that was cut is told from a cluster that is
//! there: the one goes on, the other is refused. A member of etcd is never started
//! before all of them have their data.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::format::{self, Manifest, Whole};
use super::key::Identities;
use super::place::{Entered, Place};
use crate::agent::Client;
use crate::agent::calls::backup::PutSnapshot;
use crate::agent::calls::host::HostReport;
use crate::digest::Digest;
use crate::distro::kubeadm::etcd_snapshot::Snapshot;
use crate::distro::kubeadm::pki::Authorities;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::ClusterImage;
use crate::oci::image::LABEL_KUBERNETES;
use crate::spec;

/// Where the history of a host is in a backup.
const HISTORY: &str = "cluster-history.jsonl";
/// How many chunks of the snapshot are read ahead of the connection, and how large
/// they are.
const AHEAD: usize = 4;
const CHUNK: usize = 256 << 10;

/// A backup that was read to its end and is whole.
#[derive(Clone)]
pub struct Restoration {
    /// What it says of itself.
    pub manifest: Manifest,
    /// What stands for all of it.
    pub(in crate::cluster) identity: Digest,
    /// The keys of the cluster.
    pub(in crate::cluster) authorities: Authorities,
    /// The longest history of its control planes.
    pub(in crate::cluster) history: Option<String>,
    snapshot: Snapshot,
    entered: Arc<Entered>,
    name: String,
    identities: Identities,
}

impl Restoration {
    /// etcd's `--initial-cluster-token`: another one than that of the old cluster, and
    /// the same when the restore is run again.
    pub(in crate::cluster) fn token(&self) -> String {
        format!("restored-{}", self.identity.short())
    }
}

/// Reads a backup to its end. Nothing of one that is not whole is given out.
pub async fn open(
    context: &Context,
    place: &Place,
    name: &str,
    identities: Identities,
) -> Result<Restoration> {
    let entered = place.enter(context).await?;
    let work = async {
        let source = entered.open(context, name).await?;
        let identities = identities.clone();
        let reading = spawn_blocking(move || format::read(source, &identities, &mut io::sink()));
        reading
            .await
            .or_err(Kind::Failed, || "the backup could not be read")?
    };
    let Whole {
        manifest,
        identity,
        small,
    } = context.phase("read", work).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let keys = small.iter().filter_map(|(path, content)| {
        let name = path.strip_prefix("pki/")?;
        Some((name.to_owned(), text(content)))
    });
    let authorities = Authorities::from_files(keys.collect())?;
    let history = small
        .iter()
        .filter(|(path, _)| path.ends_with(&format!("/{HISTORY}")))
        .map(|(_, content)| text(content))
        .max_by_key(String::len);
    let entry = manifest.snapshot()?;
    let snapshot = Snapshot {
        digest: entry.digest,
        bytes: entry.size,
    };
    Ok(Restoration {
        identity,
        authorities,
        history,
        snapshot,
        entered: Arc::new(entered),
        name: name.to_owned(),
        identities,
        manifest,
    })
}

/// Whether a run may go on with what the hosts are: a restore needs fresh ones, or those
/// that it was begun on; any other run those of no restore.
pub(in crate::cluster) fn admit(
    restoration: Option<&Restoration>,
    cluster: &spec::Cluster,
    image: &ClusterImage,
    reports: &BTreeMap<String, HostReport>,
) -> Result<()> {
    let begun = reports
        .iter()
        .find_map(|(host, report)| Some((host, report.distro.restoring?)));
    let Some(wanted) = restoration else {
        return match begun {
            None => Ok(()),
            Some((host, _)) => Err(Error::new(
                Kind::Check,
                "a restore was begun here, and is not finished",
            )
            .on_host(host)
            .hint("run the same `chasi backup restore` again: it goes on")
            .hint("or give it up: `chasi delete`")),
        };
    };
    fits(wanted, cluster, image)?;
    if let Some(host) = cluster
        .hosts
        .control_plane_names()
        .find(|host| !reports.contains_key(*host))
    {
        return Err(Error::new(
            Kind::Unreachable,
            "a cluster is restored on all of its control planes together",
        )
        .on_host(host)
        .hint("make it reachable, or take it out of the Clusterfile and add it afterwards"));
    }
    match begun {
        Some((_, backup)) if backup == wanted.identity => return Ok(()),
        Some((host, _)) => {
            return Err(Error::new(
                Kind::Check,
                "a restore from another backup was begun here, and is not finished",
            )
            .on_host(host)
            .hint("finish it with that backup, or give it up: `chasi delete`"));
        }
        None => {}
    }
    let holds = |report: &HostReport| {
        let distro = &report.distro;
        distro.pki.is_some() || distro.etcd_data || distro.credential || distro.member.is_some()
    };
    match reports.iter().find(|(_, report)| holds(report)) {
        None => Ok(()),
        Some((host, _)) => Err(Error::new(
            Kind::Check,
            "the host holds a cluster, and a backup is restored on fresh hosts",
        )
        .on_host(host)
        .hint("when nothing on it is needed any more: `chasi delete`, then this command again")),
    }
}

/// The backup is of this cluster and of this Kubernetes version.
fn fits(wanted: &Restoration, cluster: &spec::Cluster, image: &ClusterImage) -> Result<()> {
    let manifest = &wanted.manifest;
    if manifest.cluster != cluster.name.as_str() {
        let (theirs, ours) = (&manifest.cluster, &cluster.name);
        let message = format!("the backup is of the cluster `{theirs}`, and not of `{ours}`");
        return Err(Error::new(Kind::Input, message).hint(format!(
            "name it so in the Clusterfile: `metadata.name: {theirs}`; its keys and addresses hold that name"
        )));
    }
    let versions = image
        .rootfs
        .iter()
        .filter_map(|rootfs| rootfs.labels.get(LABEL_KUBERNETES))
        .map(|version| version.trim_start_matches('v'));
    let mut others = versions.filter(|version| *version != manifest.kubernetes);
    match others.next() {
        None => Ok(()),
        Some(other) if image.digest != manifest.image => Err(Error::new(
            Kind::Input,
            format!(
                "the backup is of Kubernetes {}, and the image `{}` brings {other}",
                manifest.kubernetes, cluster.image
            ),
        )
        .hint(format!(
            "restore it with `{}`, and upgrade afterwards",
            manifest.reference
        ))),
        Some(_) => Ok(()),
    }
}

/// Brings the snapshot to a host. The backup is read once more for that, in a bounded
/// amount of memory and without a copy on this machine.
pub(in crate::cluster) async fn put_snapshot(
    context: &Context,
    wanted: &Restoration,
    client: &Client,
) -> Result<()> {
    let source = wanted.entered.open(context, &wanted.name).await?;
    let identities = wanted.identities.clone();
    let expected = wanted.identity;
    let call = PutSnapshot {
        snapshot: wanted.snapshot.clone(),
    };
    let send = |mut sender: crate::agent::Sender| async move {
        let (chunks, mut read) = mpsc::channel(AHEAD);
        let reading = spawn_blocking(move || {
            let mut out = io::BufWriter::with_capacity(CHUNK, Chunks(chunks));
            let whole = format::read(source, &identities, &mut out)?;
            out.flush()
                .or_err(Kind::Failed, || "the snapshot cannot be sent")?;
            Ok::<_, Error>(whole.identity)
        });
        let mut sent = Ok(());
        while let Some(chunk) = read.recv().await {
            sent = sender.send(chunk).await;
            if sent.is_err() {
                break;
            }
        }
        drop(read);
        let read = reading
            .await
            .or_err(Kind::Failed, || "the backup could not be read")?;
        match (sent, read) {
            (Err(error), _) => Err(error),
            (Ok(()), Ok(identity)) if identity == expected => sender.finish().await,
            (Ok(()), read) => {
                let changed =
                    || Error::new(Kind::Integrity, "the backup was changed while it was used");
                let error = read.err().unwrap_or_else(changed);
                let _ = sender.abort(&error).await;
                Err(error)
            }
        }
    };
    client.upload(call, send).await
}

/// What is written goes to the connection.
struct Chunks(mpsc::Sender<Bytes>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(chunk) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
