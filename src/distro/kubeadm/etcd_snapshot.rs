//! Snapshots of etcd: its database at one revision, with its digest behind it.
//!
//! They come over the JSON form of etcd's API, `/v3/maintenance/snapshot`
//! (etcd.io/docs/v3.6/dev-guide/api_grpc_gateway): a line for each part, which is
//! base64 in an object. The last 32 bytes of all parts are the SHA-256 of those
//! before them (etcd's `server/etcdserver/api/v3rpc/maintenance.go`). A snapshot has
//! its name only when that was compared and the file is synced.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::etcd::Etcd;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file;

/// How long a snapshot may take. etcd's data is at most some gigabytes.
const PATIENCE: Duration = Duration::from_secs(600);
/// The longest line. etcd sends 32 KiB of data at a time.
const MOST_LINE: usize = 4 << 20;
/// The length of the digest at the end.
const DIGEST: usize = 32;
/// How many parts may wait to be written.
const AHEAD: usize = 16;

/// A snapshot that was written and compared with its digest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The digest of the file as a whole.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The member's version, and the revision that it is at.
///
/// # Errors
/// [`Kind::Failed`] when it does not say.
pub async fn position(etcd: &Etcd) -> Result<(String, u64)> {
    let status = etcd.ask("/v3/maintenance/status", &json!({})).await?;
    let version = status["version"].as_str().unwrap_or_default().to_owned();
    // The JSON form of the API writes numbers as text.
    let revision = status["header"]["revision"].as_str();
    let revision = revision.and_then(|text| text.parse().ok());
    let revision =
        revision.ok_or_else(|| Error::new(Kind::Failed, "etcd does not say its revision"))?;
    Ok((version, revision))
}

/// Takes a snapshot from one member, into a file that is readable by root alone.
///
/// # Errors
/// [`Kind::Failed`] when etcd does not give one, [`Kind::Integrity`] when it is not
/// what its digest says, [`Kind::System`] when it cannot be written.
pub async fn take(etcd: &Etcd, path: &Path) -> Result<Snapshot> {
    let (parts, arriving) = sync_channel(AHEAD);
    let target = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || write(&target, &arriving));
    let received = receive(etcd, parts).await;
    let written = writing
        .await
        .or_err(Kind::Failed, || "writing the snapshot ended unexpectedly")?;
    // Why nothing more came tells more than that it was cut.
    received?;
    written
}

/// A part of the snapshot, or its end: without it, what came is not all.
enum Part {
    Data(Vec<u8>),
    End,
}

async fn receive(etcd: &Etcd, parts: SyncSender<Part>) -> Result<()> {
    let problem = || "etcd's snapshot cannot be received";
    let answer = etcd
        .stream("/v3/maintenance/snapshot", &json!({}), PATIENCE)
        .await?;
    let mut stream = answer.bytes_stream();
    let mut lines = Lines::default();
    while let Some(bytes) = stream.next().await {
        for data in lines.take(&bytes.or_err(Kind::Failed, problem)?)? {
            let parts = parts.clone();
            // The disk may be slower than the network.
            let sent = tokio::task::spawn_blocking(move || parts.send(Part::Data(data)));
            if sent.await.or_err(Kind::Failed, problem)?.is_err() {
                // The writer says why it has stopped.
                return Ok(());
            }
        }
    }
    lines.finish()?;
    // As above.
    let _ = parts.send(Part::End);
    Ok(())
}

/// The answer's lines, as they come.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

/// What is in a line.
#[derive(Deserialize)]
struct Line {
    result: Option<Sent>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Sent {
    #[serde(default)]
    blob: String,
}

impl Lines {
    /// The parts that are whole now.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.begun.extend_from_slice(bytes);
        let mut whole = Vec::new();
        let mut from = 0;
        while let Some(end) = self.begun[from..].iter().position(|byte| *byte == b'\n') {
            whole.push(part(&self.begun[from..from + end])?);
            from += end + 1;
        }
        self.begun.drain(..from);
        match self.begun.len() <= MOST_LINE {
            true => Ok(whole),
            false => Err(not_understood()),
        }
    }

    /// Fails when a line was cut.
    fn finish(&self) -> Result<()> {
        match self.begun.is_empty() {
            true => Ok(()),
            false => Err(not_understood()),
        }
    }
}

fn not_understood() -> Error {
    Error::new(
        Kind::Failed,
        "etcd's snapshot comes in a way that is not understood",
    )
}

fn part(line: &[u8]) -> Result<Vec<u8>> {
    let line: Line = serde_json::from_slice(line).map_err(|_| not_understood())?;
    match line {
        Line {
            error: Some(error), ..
        } => {
            let said = error["message"].as_str().unwrap_or("it gave no reason");
            Err(Error::new(Kind::Failed, "etcd gives no snapshot").because(said.to_owned()))
        }
        Line {
            result: Some(sent), ..
        } => STANDARD.decode(sent.blob).map_err(|_| not_understood()),
        Line { .. } => Err(not_understood()),
    }
}

/// Writes what arrives, and gives the file its name when it is what its end says.
fn write(path: &Path, arriving: &Receiver<Part>) -> Result<Snapshot> {
    let mut found = None;
    let written = file::replace(path, 0o600, |file| {
        let mut file = Hashing::new(io::BufWriter::with_capacity(1 << 20, file));
        let is_sound = copy(&mut file, arriving)?;
        file.flush()?;
        let (_, digest, bytes) = file.finish();
        found = Some(Snapshot { digest, bytes }).filter(|_| is_sound);
        match is_sound {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    });
    match (written, found) {
        (Ok(()), Some(snapshot)) => Ok(snapshot),
        (Err(error), _) if !is_invalid(&error) => Err(error),
        _ => Err(Error::new(
            Kind::Integrity,
            "etcd's snapshot is not what its digest says, or was cut",
        )
        .hint("run the same command again")),
    }
}

fn is_invalid(error: &Error) -> bool {
    let mut causes = error.causes();
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
    })
}

/// Writes the parts; tells whether they came to their end, and the last bytes are the
/// digest of those before.
fn copy(file: &mut impl io::Write, arriving: &Receiver<Part>) -> io::Result<bool> {
    let mut body = Hashing::new(io::sink());
    let mut last: Vec<u8> = Vec::new();
    loop {
        match arriving.recv() {
            Ok(Part::Data(data)) => {
                file.write_all(&data)?;
                last.extend_from_slice(&data);
                let before = last.len().saturating_sub(DIGEST);
                body.write_all(&last[..before])?;
                last.drain(..before);
            }
            Ok(Part::End) => {
                let (_, digest, _) = body.finish();
                return Ok(digest.bytes() == last.as_slice());
            }
            Err(_) => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(data: &[u8]) -> Vec<u8> {
        let blob = STANDARD.encode(data);
        format!(
            "{{\"result\":{{\"header\":{{}},\"remaining_bytes\":\"0\",\"blob\":\"{blob}\"}}}}\n"
        )
        .into_bytes()
    }

    fn snapshot(body: &[u8]) -> Vec<u8> {
        [body, Digest::of(body).bytes()].concat()
    }

    fn written(parts: Vec<Part>) -> (Result<Snapshot>, Option<Vec<u8>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.db");
        let (send, receive) = sync_channel(parts.len());
        parts.into_iter().for_each(|part| send.send(part).unwrap());
        drop(send);
        let result = write(&path, &receive);
        (result, std::fs::read(&path).ok())
    }

    #[test]
    fn what_is_whole_gets_its_name_and_nothing_else_does() {
        let all = snapshot(b"the database");
        for cut in [1, 12, 20, all.len()] {
            let parts = all.chunks(cut).map(|part| Part::Data(part.to_vec()));
            let (result, file) = written(parts.chain([Part::End]).collect());
            let expected = Snapshot {
                digest: Digest::of(&all),
                bytes: all.len() as u64,
            };
            assert_eq!(result.unwrap(), expected);
            assert_eq!(file.unwrap(), all);
        }
        let mut flipped = all.clone();
        flipped[3] ^= 1;
        for parts in [
            vec![Part::Data(flipped), Part::End],
            vec![Part::Data(all[..20].to_vec()), Part::End],
            vec![Part::Data(all.clone())],
            vec![Part::End],
            vec![],
        ] {
            let (result, file) = written(parts);
            assert_eq!(result.unwrap_err().kind(), Kind::Integrity);
            assert_eq!(file, None);
        }
    }

    #[test]
    fn lines_are_put_together_and_judged() {
        let text = [line(b"abc"), line(b""), line(&[0; 9])].concat();
        for size in [1, 7, text.len()] {
            let mut lines = Lines::default();
            let mut parts = Vec::new();
            for bytes in text.chunks(size) {
                parts.extend(lines.take(bytes).unwrap());
            }
            lines.finish().unwrap();
            assert_eq!(parts, [b"abc".to_vec(), Vec::new(), vec![0; 9]]);
        }
        let mut cut = Lines::default();
        cut.take(&text[..text.len() - 1]).unwrap();
        assert!(cut.finish().is_err());
        for bad in [&b"{}\n"[..], b"x\n", b"{\"result\":{\"blob\":\"%\"}}\n"] {
            assert!(Lines::default().take(bad).is_err());
        }
        let refused = Lines::default()
            .take(b"{\"error\":{\"message\":\"no leader\"}}\n")
            .unwrap_err();
        assert!(
            refused
                .causes()
                .any(|cause| cause.to_string() == "no leader")
        );
        let long = vec![b'x'; MOST_LINE + 1];
        assert!(Lines::default().take(&long).is_err());
    }
}
