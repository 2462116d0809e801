//! Making a backup: a control plane takes the snapshot, the others tell what chasi
//! keeps on them, and everything passes through the controller into one file.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::format::{self, Manifest, Name, Small};
use super::key::{Identities, Recipients};
use super::place::{Draft, Entered, Place};
use crate::agent::calls::backup::{DropSnapshot, ReadKept, ReadSnapshot, TakeSnapshot, Taken};
use crate::agent::calls::blobs::ReadTags;
use crate::agent::calls::distro::ReadAuthorities;
use crate::cluster::connect::{connect, farewell};
use crate::cluster::live::{self, Leader};
use crate::cluster::{image, status};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::oci::Reference;

/// Which cluster, and where its backup goes.
pub struct Request {
    /// The cluster, and how to reach it.
    pub look: status::Request,
    /// Where to.
    pub place: Place,
    /// Who can read it.
    pub recipients: Recipients,
    /// What describes the cluster: a name, and a text.
    pub described: (String, String),
}

/// A backup that was made, and read back.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The cluster.
    pub cluster: String,
    /// When it was made.
    pub when: Timestamp,
    /// The Kubernetes version.
    pub kubernetes: String,
    /// etcd's revision.
    pub revision: u64,
    /// The length of etcd's snapshot in bytes.
    pub snapshot_bytes: u64,
    /// Hosts that could not be asked for what chasi keeps on them.
    pub left_out: Vec<String>,
}

/// Makes a backup.
///
/// # Errors
/// [`Kind::Locked`] while another run changes the control plane that is asked.
pub async fn create(context: &Context, request: &Request) -> Result<Report> {
    let entered = request.place.enter(context).await?;
    let look = &request.look;
    let options = look.visitor.changing(false);
    let leader = context
        .phase("connect", live::leader(context, look, &options, None))
        .await?;
    let host = leader.client.host().to_owned();
    let made = make(context, request, &entered, &leader).await;
    // What is left is removed by the next one.
    let _ = leader.client.call(DropSnapshot {}).await;
    farewell([leader.client]).await;
    made.map_err(|error| match error.host() {
        None => error.on_host(host),
        Some(_) => error,
    })
}

async fn make(
    context: &Context,
    request: &Request,
    entered: &Entered,
    leader: &Leader,
) -> Result<Report> {
    let (mut small, left_out) = context
        .phase("gather", gather(context, request, leader))
        .await?;
    let (name, text) = &request.described;
    small.insert(name.clone(), text.clone().into_bytes());
    let taking = leader.client.call(TakeSnapshot {
        via: leader.address,
    });
    let taking = context.step(
        Some(leader.client.host()),
        "take a snapshot of etcd",
        taking,
    );
    let taken = context.phase("snapshot", taking).await?;
    let manifest = describe(request, leader, &taken).await?;
    let snapshot = &taken.snapshot;
    let manifest = manifest.with(&small, snapshot.digest, snapshot.bytes);
    let draft = entered.begin(context, &request.look.visitor.run).await?;
    let archive = Archive {
        manifest: &manifest,
        small,
        recipients: &request.recipients,
        taken: &taken,
    };
    match archive.write(context, leader, draft).await {
        Ok((draft, digest, bytes)) => {
            let name = Name::of(&manifest, &digest, request.recipients.encrypts()).to_string();
            draft.name(context, &name).await?;
            Ok(Report {
                file: entered.shown(&name),
                digest,
                bytes,
                encrypted: request.recipients.encrypts(),
                cluster: manifest.cluster,
                when: manifest.when,
                kubernetes: manifest.kubernetes,
                revision: manifest.revision,
                snapshot_bytes: taken.snapshot.bytes,
                left_out,
            })
        }
        Err((draft, error)) => {
            if let Some(draft) = draft {
                draft.abandon().await;
            }
            Err(error)
        }
    }
}

/// The keys, and what chasi keeps on all hosts that can be asked.
async fn gather(
    context: &Context,
    request: &Request,
    leader: &Leader,
) -> Result<(Small, Vec<String>)> {
    let mut small = Small::new();
    for (name, content) in leader.client.call(ReadAuthorities {}).await?.files() {
        small.insert(format!("pki/{name}"), content.as_bytes().to_vec());
    }
    let own = leader.client.host().to_owned();
    let mut kept = BTreeMap::new();
    kept.insert(own.clone(), leader.client.call(ReadKept {}).await?);
    let targets: Vec<_> = request
        .look
        .targets
        .iter()
        .filter(|target| target.name != own)
        .cloned()
        .collect();
    let mut left_out = Vec::new();
    let entered = connect(context, &targets, &request.look.visitor.looking()).await;
    let asked = join_all(entered.into_iter().map(|(name, client)| async move {
        let answer = match client {
            Ok(client) => {
                let answer = client.call(ReadKept {}).await;
                farewell([client]).await;
                answer
            }
            Err(error) => Err(error),
        };
        (name, answer)
    }))
    .await;
    for (name, answer) in asked {
        match answer {
            Ok(texts) => _ = kept.insert(name, texts),
            Err(error) => {
                context.warn(format!(
                    "the backup is without what chasi keeps on `{name}`: {error}"
                ));
                left_out.push(name);
            }
        }
    }
    for (host, texts) in kept {
        for (name, text) in texts {
            small.insert(format!("hosts/{host}/{name}"), text.into_bytes());
        }
    }
    Ok((small, left_out))
}

/// What the cluster is, by the control plane's word.
async fn describe(request: &Request, leader: &Leader, taken: &Taken) -> Result<Manifest> {
    let unknown = || {
        Error::new(Kind::Failed, "the host does not know which image it runs")
            .hint("`chasi run` brings the cluster to what its Clusterfile says")
    };
    let image = leader.host.image().ok_or_else(unknown)?;
    let generations = &leader.host.facts.managed.generations;
    let kubernetes = generations
        .iter()
        .find(|one| one.image == image)
        .and_then(|one| one.kubernetes.clone())
        .ok_or_else(unknown)?;
    let cluster = &request.look.cluster;
    let named: Reference = cluster.image.to_string().parse()?;
    let tags = leader.client.call(ReadTags {}).await?;
    let reference = image::choose(tags, image, &named).map(|(name, _)| name);
    Ok(Manifest {
        version: 0,
        chasi: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.name.to_string(),
        when: Timestamp::now(),
        image,
        reference: reference.unwrap_or(named).to_string(),
        kubernetes,
        etcd: taken.version.clone(),
        revision: taken.revision,
        entries: Vec::new(),
    })
}

/// A backup on its way into its file.
struct Archive<'a> {
    manifest: &'a Manifest,
    small: Small,
    recipients: &'a Recipients,
    taken: &'a Taken,
}

impl Archive<'_> {
    /// Writes it, and reads it back; gives the digest and the length of the file.
    async fn write(
        self,
        context: &Context,
        leader: &Leader,
        mut draft: Draft,
    ) -> Result<(Draft, Digest, u64), (Option<Draft>, Error)> {
        let encrypted = self.recipients.encrypts();
        let expected = self.manifest.clone();
        let written = context.phase("write", self.pour(leader, &mut draft)).await;
        let (digest, bytes) = match written {
            Ok(written) => written,
            Err(error) => return Err((Some(draft), error)),
        };
        let compared = async {
            let source = draft.read_back(context).await?;
            let work = spawn_blocking(move || compare(source, encrypted, &expected));
            let (found, length) = work
                .await
                .or_err(Kind::Failed, || "the backup could not be read back")??;
            match found == digest && length == bytes {
                true => Ok(()),
                false => Err(Error::new(
                    Kind::Integrity,
                    "what was written is not what is read back",
                )
                .hint("look after the disk there, and run the same command again")),
            }
        };
        match context.phase("verify", compared).await {
            Ok(()) => Ok((draft, digest, bytes)),
            Err(error) => Err((Some(draft), error)),
        }
    }

    /// Streams the snapshot from its host, and everything before it, into the draft.
    async fn pour(self, leader: &Leader, draft: &mut Draft) -> Result<(Digest, u64)> {
        let sink = draft.sink()?;
        let call = ReadSnapshot {
            snapshot: self.taken.snapshot.clone(),
        };
        let (manifest, small) = (self.manifest.clone(), self.small);
        let recipients = self.recipients.clone();
        let work = leader.client.download(call, |receiver| async move {
            let writing = spawn_blocking(move || -> io::Result<(Digest, u64)> {
                let snapshot = receiver.into_reader();
                let out = Hashing::new(io::BufWriter::with_capacity(1 << 20, sink));
                let out = format::write(out, &manifest, &small, snapshot, &recipients)?;
                let (mut buffer, digest, bytes) = out.finish();
                buffer.flush()?;
                let sink = buffer
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)?;
                sink.seal()?;
                Ok((digest, bytes))
            });
            writing
                .await
                .or_err(Kind::Failed, || "writing the backup ended unexpectedly")?
                .or_err(Kind::System, || "cannot write the backup")
        });
        work.await.map(|(_, written)| written)
    }
}

/// Reads a file to its end. One that is not encrypted is looked into as well.
fn compare(source: impl io::Read, encrypted: bool, expected: &Manifest) -> Result<(Digest, u64)> {
    let mut source = Hashing::new(source);
    if !encrypted {
        let whole = format::read(&mut source, &Identities::none(), &mut io::sink())?;
        if whole.manifest != *expected {
            return Err(Error::new(
                Kind::Integrity,
                "another backup is read back than was written",
            ));
        }
    }
    io::copy(&mut source, &mut io::sink())
        .or_err(Kind::System, || "cannot read the backup back")?;
    let (_, digest, bytes) = source.finish();
    Ok((digest, bytes))
}
