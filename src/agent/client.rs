//! The controller's side of the connection to one agent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::codec::FramedRead;

use super::CONTROLLER_PATIENCE;
use super::call::Call;
use super::calls::Bye;
use super::link::{self, Link, Receiver, Sender, ended};
use super::wire::{DecodeError, Frame, FrameDecoder, Message, PROTOCOL, broken};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// How many calls are made at once; more wait. Below what the agent allows.
const MOST_CALLS: usize = 32;
/// How often a quiet agent is asked whether it is there.
const PING: Duration = Duration::from_secs(10);
/// How long an agent may take to greet.
const GREETING: Duration = Duration::from_secs(30);
/// How long to wait for the reason of an end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long an agent may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(60);

/// An agent, as the controller sees it. Cheap to clone; all clones speak over the
/// same connection, which ends with the last.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    host: String,
    context: Context,
    shared: Arc<Shared>,
    link: Link,
    next: AtomicU32,
    turns: Semaphore,
    reader: tokio::task::AbortHandle,
}

/// What the task that reads shares with the callers.
struct Shared {
    pending: Mutex<HashMap<u32, oneshot::Sender<Result<Value>>>>,
    /// Why the connection has ended, once it has.
    ended: watch::Sender<Option<Arc<Error>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Greets the agent at the other end of `stream`. Its events go to `context`
    /// with the name of the host. When the connection ends unasked, `last_words`
    /// may tell why: how the agent's process ended, and what it said.
    pub async fn greet(
        context: &Context,
        host: &str,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        last_words: impl Future<Output = Option<String>> + Send + 'static,
    ) -> Result<Client> {
        let (reader, writer) = tokio::io::split(stream);
        let (link, queue) = Link::new();
        let writing = tokio::spawn(link::write(writer, queue));
        let mut frames = FramedRead::new(reader, FrameDecoder::default());
        let hello = Message::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        link.send(0, hello).await?;
        let first = context
            .cancel
            .run_until_cancelled(timeout(GREETING, frames.next()))
            .await
            .ok_or_else(|| Error::new(Kind::Interrupted, "interrupted").on_host(host))?;
        if let Err(error) = check_greeting(first.ok().flatten()) {
            return Err(explain(error, last_words).await.on_host(host));
        }

        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        let reading = tokio::spawn({
            let (shared, link, context, host) = (
                shared.clone(),
                link.clone(),
                context.clone(),
                host.to_owned(),
            );
            async move {
                let error = read(&mut frames, &shared, &link, &context, &host).await;
                writing.abort();
                shared.end(explain(error, last_words).await.on_host(host));
                link.close_all();
            }
        });
        Ok(Client {
            inner: Arc::new(Inner {
                host: host.to_owned(),
                context: context.clone(),
                shared,
                link,
                next: AtomicU32::new(1),
                turns: Semaphore::new(MOST_CALLS),
                reader: reading.abort_handle(),
            }),
        })
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// Makes a call and waits for its reply. The errors of the agent arrive whole,
    /// with the host's name.
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply> {
        self.exchange(call, |_, _| async { Ok(()) })
            .await
            .map(|(reply, ())| reply)
    }

    /// Makes a call that comes with data. `send` sends it and must end with
    /// [`Sender::finish`], or with [`Sender::abort`] and the error.
    pub async fn upload<C, F>(&self, call: C, send: impl FnOnce(Sender) -> F) -> Result<C::Reply>
    where
        C: Call,
        F: Future<Output = Result<()>>,
    {
        self.exchange(call, |sender, _| send(sender))
            .await
            .map(|(reply, ())| reply)
    }

    /// Makes a call whose reply comes with data, which `receive` takes.
    pub async fn download<C, T, F>(
        &self,
        call: C,
        receive: impl FnOnce(Receiver) -> F,
    ) -> Result<(C::Reply, T)>
    where
        C: Call,
        F: Future<Output = Result<T>>,
    {
        self.exchange(call, |_, receiver| receive(receiver)).await
    }

    /// Ends the session in order: the agent finishes, and removes itself from a
    /// host that chasi does not manage.
    pub async fn bye(self) -> Result<()> {
        timeout(FAREWELL, self.call(Bye {}))
            .await
            .unwrap_or_else(|_| {
                let message = format!("the agent did not stop within {} s", FAREWELL.as_secs());
                Err(Error::new(Kind::Unreachable, message).on_host(self.host()))
            })
    }

    /// Waits until the connection has ended, and says why.
    pub async fn ended(&self) -> Arc<Error> {
        let mut ended = self.inner.shared.ended.subscribe();
        match ended
            .wait_for(Option::is_some)
            .await
            .map(|error| error.clone())
        {
            Ok(Some(error)) => error,
            _ => Arc::new(link::ended()),
        }
    }

    /// Whether the connection lives, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.inner.shared.ended.borrow().is_none()
    }

    /// One call: the request, the data beside it, and the reply. When both fail,
    /// the error of the side that failed first counts: the agent's, unless
    /// `transfer` gave up for a reason of its own.
    async fn exchange<C, T, F>(
        &self,
        call: C,
        transfer: impl FnOnce(Sender, Receiver) -> F,
    ) -> Result<(C::Reply, T)>
    where
        C: Call,
        F: Future<Output = Result<T>>,
    {
        let inner = &*self.inner;
        let work = async {
            let _turn = inner
                .turns
                .acquire()
                .await
                .or_err(Kind::Failed, || "no calls are taken any more")?;
            let body = serde_json::to_value(&call).or_err(Kind::Failed, || {
                format!("the request `{}` cannot be written", C::NAME)
            })?;
            let under_way = UnderWay::begin(inner)?;
            let number = under_way.number;
            let (sender, receiver) = inner
                .link
                .open(number)
                .ok_or_else(|| Error::new(Kind::Failed, "the numbers of calls are used up"))?;
            let request = Message::Request {
                name: C::NAME.to_owned(),
                body,
            };
            inner
                .link
                .send(number, request)
                .await
                .map_err(|_| inner.shared.reason())?;
            let (transferred, reply) =
                tokio::join!(transfer(sender, receiver), under_way.reply(inner));
            match (transferred, reply) {
                (Ok(value), Ok(reply)) => {
                    let reply = serde_json::from_value(reply).map_err(|cause| {
                        broken(format!(
                            "a reply to `{}` that cannot be understood",
                            C::NAME
                        ))
                        .because(cause)
                    })?;
                    Ok((reply, value))
                }
                (Err(own), Err(_)) if own.kind() != Kind::Unreachable => Err(own),
                (_, Err(agents)) => Err(agents),
                (Err(own), Ok(_)) => Err(own),
            }
        };
        let result = inner.context.cancel.run_until_cancelled(work).await;
        result
            .unwrap_or_else(|| Err(Error::new(Kind::Interrupted, "interrupted")))
            .map_err(|error| {
                if error.host().is_none() {
                    error.on_host(&inner.host)
                } else {
                    error
                }
            })
    }
}

/// A call that waits for its reply. Dropped before that, it is cancelled.
struct UnderWay<'a> {
    inner: &'a Inner,
    number: u32,
    reply: Option<oneshot::Receiver<Result<Value>>>,
}

impl<'a> UnderWay<'a> {
    fn begin(inner: &'a Inner) -> Result<Self> {
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        inner.shared.pending().insert(number, sender);
        // Looked at after the insertion, so that the end cannot be missed.
        if inner.shared.ended.borrow().is_some() {
            inner.shared.pending().remove(&number);
            return Err(inner.shared.reason());
        }
        Ok(UnderWay {
            inner,
            number,
            reply: Some(reply),
        })
    }

    async fn reply(mut self, inner: &Inner) -> Result<Value> {
        let Some(reply) = self.reply.as_mut() else {
            return Err(ended());
        };
        let result = reply.await.unwrap_or_else(|_| Err(inner.shared.reason()));
        self.reply = None;
        result
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.inner.link.close(self.number);
        self.inner.shared.pending().remove(&self.number);
        if self.reply.is_some() {
            self.inner.link.try_send(self.number, Message::Cancel);
        }
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Result<Value>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has ended: all who wait are told.
    fn end(&self, error: Error) {
        self.ended.send_replace(Some(Arc::new(error)));
        self.pending().clear();
    }

    /// Why the connection has ended, as an error of the call that finds out.
    fn reason(&self) -> Error {
        match self.ended.borrow().as_deref() {
            Some(first) => {
                let mut error = Error::from(super::wire::WireError::from(first));
                if error.hints().is_empty() {
                    error = error.hint(
                        "the agent finishes its step in hand; run the same command again to go on",
                    );
                }
                error
            }
            None => ended(),
        }
    }
}

/// Adds what is known of the agent's end.
async fn explain(error: Error, last_words: impl Future<Output = Option<String>>) -> Error {
    match timeout(LAST_WORDS, last_words).await {
        Ok(Some(words)) => error.because(words),
        _ => error,
    }
}

fn check_greeting(first: Option<Result<Frame, DecodeError>>) -> Result<()> {
    match first {
        Some(Ok(Frame::Message(
            _,
            Message::Hello {
                protocol: PROTOCOL, ..
            },
        ))) => Ok(()),
        Some(Ok(Frame::Message(_, Message::Hello { protocol, version }))) => Err(Error::new(
            Kind::Failed,
            format!(
                "the agent is chasi {version} and speaks protocol {protocol}, this is chasi {} with protocol {PROTOCOL}",
                env!("CARGO_PKG_VERSION")
            ),
        )),
        Some(Ok(Frame::Message(_, Message::Failed { error }))) => Err(error.into()),
        Some(Err(DecodeError::Broken(error))) => Err(error.hint(
            "a login script on the host may print something: `ssh HOST true` must print nothing",
        )),
        Some(Ok(_)) => Err(broken("no greeting")),
        Some(Err(DecodeError::Io(cause))) => Err(ended().because(cause)),
        None => Err(Error::new(Kind::Unreachable, "the agent did not answer")),
    }
}

/// Takes in frames until the connection ends; returns why.
async fn read(
    frames: &mut FramedRead<impl AsyncRead + Unpin, FrameDecoder>,
    shared: &Shared,
    link: &Link,
    context: &Context,
    host: &str,
) -> Error {
    let mut heard = Instant::now();
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            _ = ping.tick() => {
                if heard.elapsed() >= CONTROLLER_PATIENCE {
                    let message = format!("the agent has been silent for {} s", heard.elapsed().as_secs());
                    return Error::new(Kind::Unreachable, message);
                }
                // Also while the agent speaks: it wants to hear from us. A queue
                // that is full will be heard as well.
                link.try_send(0, Message::Ping);
                continue;
            }
        };
        heard = Instant::now();
        let taken = match frame {
            Some(Ok(frame)) => take(frame, shared, link, context, host),
            Some(Err(DecodeError::Broken(error))) => Err(error),
            Some(Err(DecodeError::Io(cause))) => Err(ended().because(cause)),
            None => Err(ended()),
        };
        if let Err(error) = taken {
            return error;
        }
    }
}

fn take(frame: Frame, shared: &Shared, link: &Link, context: &Context, host: &str) -> Result<()> {
    let answer = |call: u32, result: Result<Value>| {
        // A reply that nobody waits for any more was cancelled too late.
        if let Some(waiting) = shared.pending().remove(&call) {
            let _ = waiting.send(result);
        }
        link.close(call);
    };
    match frame {
        Frame::Data(call, data) => link.data(call, data)?,
        Frame::Message(0, Message::Failed { error }) => return Err(error.into()),
        Frame::Message(call, Message::Reply { body }) => answer(call, Ok(body)),
        Frame::Message(call, Message::Failed { error }) => answer(call, Err(error.into())),
        Frame::Message(call, Message::End) => link.end(call),
        Frame::Message(call, Message::Abort { error }) => link.abort(call, error),
        Frame::Message(call, Message::Credit { bytes }) => link.credit(call, bytes)?,
        Frame::Message(_, Message::Event { event }) => context.emit(event.on_host(host)),
        Frame::Message(_, Message::Ping) => _ = link.try_send(0, Message::Pong),
        Frame::Message(_, Message::Pong) => {}
        Frame::Message(_, Message::Hello { .. } | Message::Request { .. } | Message::Cancel) => {
            return Err(broken("a message that only a controller sends"));
        }
    }
    Ok(())
}
