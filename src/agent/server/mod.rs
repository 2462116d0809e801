//! The agent's side of the connection: takes calls, runs them by their
//! [`Effect`], and stops in order when the controller goes.

pub(in crate::agent) mod farewell;
mod router;
mod scope;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::{Call, Effect};
use super::calls::Bye;
use super::exchange::Exchange;
use super::host_lock::{HostLock, Presence};
use super::link::{self, Link};
use super::wire::{DecodeError, Frame, FrameDecoder, Message, PROTOCOL, WireError, broken};
use super::{AGENT_PATIENCE, Receiver, Sender};
use crate::error::{Error, Kind, Result};
use crate::event::Context;

pub use router::Router;
pub use scope::Scope;

/// How many calls may be under way.
const MOST_CALLS: usize = 64;
/// How long the last words to a controller may take.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// An agent that serves one controller.
pub struct Server {
    root: PathBuf,
    router: Router,
}

/// What the calls of a session share.
pub(super) struct State {
    pub root: PathBuf,
    pub lock: tokio::sync::Mutex<Option<HostLock>>,
    /// Cancelled when the controller has gone.
    pub gone: CancellationToken,
    pub context: Context,
    /// What is being exchanged with other hosts.
    pub exchange: Mutex<Option<Arc<Exchange>>>,
    /// Ends the sockets that probes from other hosts are answered on.
    pub probes: Mutex<Option<CancellationToken>>,
    link: Link,
    router: Router,
    /// Held by the change in hand.
    changes: tokio::sync::Mutex<()>,
    /// How to stop each call.
    cancel: Mutex<HashMap<u32, CancellationToken>>,
    tasks: TaskTracker,
}

/// How a session ended.
enum End {
    /// By this call of [`Bye`].
    Bye(u32),
    /// The connection ended, the controller fell silent, or we were told to stop.
    Gone,
    /// The controller does not keep to the protocol.
    Broken(Error),
}

impl Server {
    /// An agent that keeps its things in `root` and understands what `router`
    /// knows.
    pub fn new(root: impl Into<PathBuf>, router: Router) -> Server {
        Server {
            root: root.into(),
            router,
        }
    }

    /// Serves the controller at the other end of `reader` and `writer` until it
    /// goes or `stop` is cancelled. Returns when the change in hand is complete.
    pub async fn serve(
        self,
        reader: impl AsyncRead + Unpin + Send,
        writer: impl AsyncWrite + Unpin + Send + 'static,
        stop: CancellationToken,
    ) -> Result<()> {
        let presence = Presence::announce(&self.root)?;
        let session = Session::start(self.root, self.router, writer);
        let end = session.run(reader, &stop).await;
        let lock = session.state.lock.lock().await.take();
        let farewell = farewell::leave(&session.state.root, presence, lock);
        session.close(&end, farewell.as_ref().err()).await;
        match end {
            End::Broken(error) => Err(error),
            End::Bye(_) | End::Gone => farewell,
        }
    }

    /// Serves another agent until it goes or `stop` is cancelled. Never gets the
    /// host's lock, so it can only be asked.
    pub(super) async fn serve_peer(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        stop: CancellationToken,
    ) {
        let (reader, writer) = tokio::io::split(stream);
        let session = Session::start(self.root, self.router, writer);
        let end = session.run(reader, &stop).await;
        session.close(&end, None).await;
    }
}

/// One conversation.
struct Session {
    state: Arc<State>,
    writer: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Session {
    fn start(
        root: PathBuf,
        router: Router,
        writer: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Session {
        let (link, queue) = Link::new();
        let state = State {
            root,
            lock: tokio::sync::Mutex::new(None),
            gone: CancellationToken::new(),
            context: Context::new(scope::forward_events(link.clone())),
            exchange: Mutex::default(),
            probes: Mutex::default(),
            link,
            router,
            changes: tokio::sync::Mutex::new(()),
            cancel: Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Session {
            state: Arc::new(state),
            writer: tokio::spawn(link::write(writer, queue)),
        }
    }

    /// Takes calls until the end, and waits for what must not be interrupted.
    async fn run(&self, reader: impl AsyncRead + Unpin, stop: &CancellationToken) -> End {
        let end = stop.run_until_cancelled(self.state.converse(reader)).await;
        let end = end.unwrap_or(End::Gone);
        self.state.stop(&end).await;
        end
    }

    /// Says the last words and lets go of the connection.
    async fn close(self, end: &End, problem: Option<&Error>) {
        let Session { state, mut writer } = self;
        state.last_words(end, problem).await;
        drop(state);
        // Who does not read our last words is gone as well.
        if timeout(LAST_WORDS, &mut writer).await.is_err() {
            writer.abort();
        }
    }
}

impl State {
    /// Greets and takes calls until the end.
    async fn converse(self: &Arc<Self>, reader: impl AsyncRead + Unpin) -> End {
        let mut frames = FramedRead::new(reader, FrameDecoder::default());
        let hello = Message::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if self.link.send(0, hello).await.is_err() {
            return End::Gone;
        }
        let mut greeted = false;
        loop {
            let frame = match timeout(AGENT_PATIENCE, frames.next()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(DecodeError::Broken(error)))) => return End::Broken(error),
                Ok(Some(Err(DecodeError::Io(_))) | None) | Err(_) => return End::Gone,
            };
            let step = match frame {
                Frame::Message(
                    _,
                    Message::Hello {
                        protocol: PROTOCOL, ..
                    },
                ) if !greeted => {
                    greeted = true;
                    Ok(None)
                }
                _ if !greeted => Err(broken("no greeting of this version of chasi")),
                frame => self.take(frame),
            };
            match step {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => return End::Broken(error),
            }
        }
    }

    /// Takes one frame.
    fn take(self: &Arc<Self>, frame: Frame) -> Result<Option<End>> {
        match frame {
            Frame::Data(call, data) => self.link.data(call, data)?,
            Frame::Message(call, Message::Request { name, .. }) if name == Bye::NAME => {
                return Ok(Some(End::Bye(call)));
            }
            Frame::Message(call, Message::Request { name, body }) => {
                self.begin(call, &name, body)?
            }
            Frame::Message(call, Message::Cancel) => {
                if let Some(token) = self.cancel().get(&call) {
                    token.cancel();
                }
            }
            Frame::Message(call, Message::End) => self.link.end(call),
            Frame::Message(call, Message::Abort { error }) => self.link.abort(call, error),
            Frame::Message(call, Message::Credit { bytes }) => self.link.credit(call, bytes)?,
            // A queue that is full shows that we are here.
            Frame::Message(_, Message::Ping) => _ = self.link.try_send(0, Message::Pong),
            Frame::Message(_, Message::Pong) => {}
            Frame::Message(
                _,
                Message::Hello { .. }
                | Message::Reply { .. }
                | Message::Failed { .. }
                | Message::Event { .. },
            ) => {
                return Err(broken("a message that only an agent sends"));
            }
        }
        Ok(None)
    }

    fn begin(self: &Arc<Self>, call: u32, name: &str, body: Value) -> Result<()> {
        if self.link.calls() >= MOST_CALLS {
            return Err(broken(format!("more than {MOST_CALLS} calls at once")));
        }
        let (output, input) = self
            .link
            .open(call)
            .ok_or_else(|| broken("two calls of one number"))?;
        let cancel = self.gone.child_token();
        self.cancel().insert(call, cancel.clone());
        let (state, name) = (self.clone(), name.to_owned());
        self.tasks.spawn(async move {
            let result = state.run(&name, body, input, output, cancel).await;
            state.cancel().remove(&call);
            state.link.close(call);
            let message = match result {
                Ok(body) => Message::Reply { body },
                Err(error) => Message::Failed {
                    error: WireError::from(&error),
                },
            };
            // Nobody is left to hear it when the connection has ended.
            let _ = state.link.send(call, message).await;
        });
        Ok(())
    }

    /// Runs a call the way its effect demands.
    async fn run(
        self: &Arc<Self>,
        name: &str,
        body: Value,
        input: Receiver,
        output: Sender,
        cancel: CancellationToken,
    ) -> Result<Value> {
        let Some(route) = self.router.find(name) else {
            return Err(Error::new(
                Kind::Failed,
                format!("the agent does not know the request `{name}`"),
            ));
        };
        if route.effect != Effect::Reads && self.lock.lock().await.is_none() {
            return Err(Error::new(
                Kind::Failed,
                format!("the request `{name}` needs the host's lock"),
            ));
        }
        let interrupted = || {
            Error::new(
                Kind::Interrupted,
                format!("the request `{name}` was stopped"),
            )
        };
        let mut context = self.context.clone();
        let scope = |context| Scope::new(self.clone(), context, cancel.clone(), input, output);
        match route.effect {
            Effect::Reads => {
                context.cancel = cancel.clone();
                let work = route.run(scope(context), body);
                cancel
                    .run_until_cancelled(work)
                    .await
                    .unwrap_or_else(|| Err(interrupted()))
            }
            Effect::Adds => {
                context.cancel = cancel.clone();
                route.run(scope(context), body).await
            }
            Effect::Changes => {
                let Some(_alone) = cancel.run_until_cancelled(self.changes.lock()).await else {
                    return Err(interrupted());
                };
                // It may have been cancelled just before its turn came.
                if cancel.is_cancelled() {
                    return Err(interrupted());
                }
                context.cancel = CancellationToken::new();
                route.run(scope(context), body).await
            }
        }
    }

    /// Stops what can be stopped and waits for the rest.
    async fn stop(&self, end: &End) {
        // After `bye` the calls that were made before it still get their replies.
        if !matches!(end, End::Bye(_)) {
            self.gone.cancel();
            self.link.close_all();
        }
        self.tasks.close();
        self.tasks.wait().await;
        // Now for what goes on beside the calls.
        self.gone.cancel();
    }

    async fn last_words(&self, end: &End, problem: Option<&Error>) {
        let message = match (end, problem) {
            (End::Gone, _) => return,
            (End::Bye(call), None) => Frame::Message(*call, Message::Reply { body: Value::Null }),
            (End::Bye(call), Some(error)) => Frame::Message(
                *call,
                Message::Failed {
                    error: error.into(),
                },
            ),
            (End::Broken(error), _) => Frame::Message(
                0,
                Message::Failed {
                    error: error.into(),
                },
            ),
        };
        if let Frame::Message(call, message) = message {
            let _ = timeout(LAST_WORDS, self.link.send(call, message)).await;
        }
    }

    fn cancel(&self) -> std::sync::MutexGuard<'_, HashMap<u32, CancellationToken>> {
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
