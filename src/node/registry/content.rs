//! A blob as the body of an answer.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::node::http::Body;

/// How much is read at once, in bytes. A connection holds two pieces at most:
/// one that is being sent and the next.
const PIECE: u64 = 128 << 10;

/// The bytes `range` of a file, read piece by piece as the client takes them.
pub fn stream(file: File, range: Range<u64>) -> Body {
    let file = Arc::new(file);
    let pieces = stream::try_unfold(range, move |rest| {
        let file = file.clone();
        async move {
            if rest.is_empty() {
                return Ok(None);
            }
            let end = rest.end.min(rest.start + PIECE);
            let piece = read(file, rest.start..end).await?;
            Ok::<_, io::Error>(Some((Frame::data(piece), end..rest.end)))
        }
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

/// Disks can be slow, and everything else the service does runs on this thread.
async fn read(file: Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let read = move || {
        let mut piece = vec![0; (range.end - range.start) as usize];
        // A file that is shorter than it was ends the connection early, and the
        // client sees that something is missing.
        file.read_exact_at(&mut piece, range.start)?;
        Ok(Bytes::from(piece))
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}
