//! One connection, as both sides see it: a queue of frames to write, and for each
//! call the data that comes in and the credit for data that goes out.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::wire::{CHUNK, CHUNK_COST, Frame, Message, WINDOW, WireError, broken};
use crate::error::{Error, Kind, Result};

/// How many frames wait to be written before a sender has to wait.
const QUEUE: usize = 32;
/// When taken data has reached this much, the other side is told.
const CREDIT_STEP: usize = 256 << 10;
/// How much is written at a time.
const BATCH: usize = 256 << 10;

/// The part of a connection that its calls share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    queue: mpsc::Sender<Frame>,
    calls: Arc<Mutex<HashMap<u32, Open>>>,
}

/// The data of one call.
struct Open {
    incoming: mpsc::UnboundedSender<Part>,
    /// How much has come in and was not yet taken, as the sender counts it.
    outstanding: usize,
    /// What may go out; closed when the call is over.
    credit: Arc<Semaphore>,
}

enum Part {
    Chunk(Bytes),
    End,
    Abort(WireError),
}

impl Link {
    /// A link, and the queue of frames that [`write`] must serve.
    pub fn new() -> (Link, mpsc::Receiver<Frame>) {
        let (queue, frames) = mpsc::channel(QUEUE);
        (
            Link {
                queue,
                calls: Arc::default(),
            },
            frames,
        )
    }

    /// Queues a message. An error means that the connection has ended.
    pub async fn send(&self, call: u32, message: Message) -> Result<()> {
        self.queue
            .send(Frame::Message(call, message))
            .await
            .map_err(|_| ended())
    }

    /// Queues a message if there is room and the connection lives.
    pub fn try_send(&self, call: u32, message: Message) -> bool {
        self.queue.try_send(Frame::Message(call, message)).is_ok()
    }

    /// Begins a call: its data in both directions. `None` when a call of this
    /// number is under way.
    pub fn open(&self, call: u32) -> Option<(Sender, Receiver)> {
        let (incoming, parts) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(WINDOW));
        let mut calls = self.lock();
        if calls.contains_key(&call) {
            return None;
        }
        calls.insert(
            call,
            Open {
                incoming,
                outstanding: 0,
                credit: credit.clone(),
            },
        );
        let sender = Sender {
            link: self.clone(),
            call,
            credit,
            open: false,
        };
        Some((
            sender,
            Receiver {
                link: self.clone(),
                call,
                parts,
                taken: 0,
                ended: false,
            },
        ))
    }

    /// Ends a call: who sends its data is stopped, who receives gets an error
    /// after what has arrived.
    pub fn close(&self, call: u32) {
        if let Some(open) = self.lock().remove(&call) {
            open.credit.close();
        }
    }

    /// How many calls are under way.
    pub fn calls(&self) -> usize {
        self.lock().len()
    }

    /// Ends all calls.
    pub fn close_all(&self) {
        for (_, open) in self.lock().drain() {
            open.credit.close();
        }
    }

    /// Takes in what arrived for a call. Data of a call that has ended was under
    /// way then, and is forgotten.
    pub fn data(&self, call: u32, chunk: Bytes) -> Result<()> {
        let mut calls = self.lock();
        let Some(open) = calls.get_mut(&call) else {
            return Ok(());
        };
        open.outstanding += chunk.len() + CHUNK_COST;
        if open.outstanding > WINDOW {
            return Err(broken("more data than it has credit for"));
        }
        // Nobody may want the rest.
        let _ = open.incoming.send(Part::Chunk(chunk));
        Ok(())
    }

    /// The other side has no more data for a call.
    pub fn end(&self, call: u32) {
        if let Some(open) = self.lock().get(&call) {
            let _ = open.incoming.send(Part::End);
        }
    }

    /// The other side cannot send the rest of its data.
    pub fn abort(&self, call: u32, error: WireError) {
        if let Some(open) = self.lock().get(&call) {
            let _ = open.incoming.send(Part::Abort(error));
        }
    }

    /// The other side has taken data.
    pub fn credit(&self, call: u32, bytes: usize) -> Result<()> {
        if let Some(open) = self.lock().get(&call) {
            if bytes > WINDOW - open.credit.available_permits().min(WINDOW) {
                return Err(broken("credit for data that it never got"));
            }
            open.credit.add_permits(bytes);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Open>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes queued frames until the queue is closed or the stream breaks.
pub(super) async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BATCH + 2 * CHUNK);
    while let Some(frame) = frames.recv().await {
        encode(&frame, &mut buffer);
        while buffer.len() < BATCH {
            match frames.try_recv() {
                Ok(frame) => encode(&frame, &mut buffer),
                Err(_) => break,
            }
        }
        stream.write_all(&buffer).await?;
        stream.flush().await?;
        buffer.clear();
    }
    stream.shutdown().await
}

/// A message that is too large becomes the error that says so.
fn encode(frame: &Frame, buffer: &mut BytesMut) {
    if let (Err(error), Frame::Message(call, _)) = (frame.encode(buffer), frame) {
        let failed = Message::Failed {
            error: WireError::from(&error),
        };
        // An error is always small enough.
        let _ = Frame::Message(*call, failed).encode(buffer);
    }
}

pub(super) fn ended() -> Error {
    Error::new(Kind::Unreachable, "the connection to the agent has ended")
}

/// Sends the data of a call. Dropped after the first bytes and before
/// [`Sender::finish`], it tells the other side that the data is incomplete.
pub struct Sender {
    link: Link,
    call: u32,
    credit: Arc<Semaphore>,
    /// Something was sent, and the end was not.
    open: bool,
}

impl Sender {
    /// Sends bytes; waits for credit. An error means that nobody wants them any
    /// more.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<()> {
        self.open = true;
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            // At most a chunk and its cost, far below the limit of the type.
            let cost = (chunk.len() + CHUNK_COST) as u32;
            self.credit
                .acquire_many(cost)
                .await
                .map_err(|_| ended())?
                .forget();
            self.link
                .queue
                .send(Frame::Data(self.call, chunk))
                .await
                .map_err(|_| ended())?;
        }
        Ok(())
    }

    /// Ends the data.
    pub async fn finish(mut self) -> Result<()> {
        self.open = false;
        self.link.send(self.call, Message::End).await
    }

    /// Tells the other side why the rest of the data cannot be had.
    pub async fn abort(mut self, error: &Error) -> Result<()> {
        self.open = false;
        self.link
            .send(
                self.call,
                Message::Abort {
                    error: error.into(),
                },
            )
            .await
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.open || self.credit.is_closed() {
            return;
        }
        let error = WireError::from(&Error::new(
            Kind::Failed,
            "the sender stopped in the middle of the data",
        ));
        let (link, call) = (self.link.clone(), self.call);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { link.send(call, Message::Abort { error }).await });
        }
    }
}

/// Receives the data of a call.
pub struct Receiver {
    link: Link,
    call: u32,
    parts: mpsc::UnboundedReceiver<Part>,
    /// Taken, and the other side was not told yet.
    taken: usize,
    ended: bool,
}

impl Receiver {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let part = self.parts.recv().await;
        let (chunk, credit) = self.take(part)?;
        if let Some(bytes) = credit {
            self.link.send(self.call, Message::Credit { bytes }).await?;
        }
        Ok(chunk)
    }

    /// As a blocking reader, for `spawn_blocking`.
    pub fn into_reader(self) -> impl Read + Send + 'static {
        Blocking {
            receiver: self,
            chunk: Bytes::new(),
        }
    }

    fn take(&mut self, part: Option<Part>) -> Result<(Option<Bytes>, Option<usize>)> {
        match part {
            Some(Part::Chunk(chunk)) => {
                self.taken += chunk.len() + CHUNK_COST;
                let credit = (self.taken >= CREDIT_STEP).then(|| std::mem::take(&mut self.taken));
                if let (Some(bytes), Some(open)) = (credit, self.link.lock().get_mut(&self.call)) {
                    open.outstanding = open.outstanding.saturating_sub(bytes);
                }
                Ok((Some(chunk), credit))
            }
            Some(Part::End) => {
                self.ended = true;
                Ok((None, None))
            }
            Some(Part::Abort(error)) => Err(error.into()),
            None => Err(ended()),
        }
    }
}

struct Blocking {
    receiver: Receiver,
    chunk: Bytes,
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.receiver.ended {
            let part = self.receiver.parts.blocking_recv();
            let (chunk, credit) = self.receiver.take(part).map_err(io::Error::other)?;
            if let Some(bytes) = credit {
                let frame = Frame::Message(self.receiver.call, Message::Credit { bytes });
                self.receiver
                    .link
                    .queue
                    .blocking_send(frame)
                    .map_err(|_| io::Error::other(ended()))?;
            }
            self.chunk = chunk.unwrap_or_default();
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Ok(count)
    }
}
