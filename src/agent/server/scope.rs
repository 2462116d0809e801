//! What a handler is given beside the request.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::State;
use crate::agent::exchange::Exchange;
use crate::agent::host_lock::{Holder, HostLock};
use crate::agent::link::Link;
use crate::agent::wire::Message;
use crate::agent::{Receiver, Sender};
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event, Sink};

/// How many events wait for the connection before they are lost.
const EVENTS: usize = 1024;
/// The largest text of one event; longer ones are sent in pieces.
const LARGEST_TEXT: usize = 256 << 10;

/// What a handler is given beside the request.
pub struct Scope {
    /// Where to tell, and whether to stop. In a request that
    /// [changes](crate::agent::Effect::Changes) the host it is never cancelled.
    pub context: Context,
    /// Cancelled when the controller has gone or does not want the reply any more.
    /// A request that changes the host may look at it where stopping is safe.
    pub gone: CancellationToken,
    /// The data that comes with the request.
    pub input: Receiver,
    /// The data that goes with the reply.
    pub output: Sender,
    state: Arc<State>,
}

impl Scope {
    pub(super) fn new(
        state: Arc<State>,
        context: Context,
        gone: CancellationToken,
        input: Receiver,
        output: Sender,
    ) -> Scope {
        Scope {
            context,
            gone,
            input,
            output,
            state,
        }
    }

    /// Where chasi keeps everything on this host.
    pub fn root(&self) -> &Path {
        &self.state.root
    }

    /// Begins to exchange blobs with other hosts, and ends what was exchanged before.
    pub(in crate::agent) fn begin_exchange(&self, exchange: Arc<Exchange>) {
        let mut current = self
            .state
            .exchange
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = current.replace(exchange) {
            previous.end();
        }
    }

    /// What is being exchanged with other hosts.
    pub(in crate::agent) fn exchange(&self) -> Result<Arc<Exchange>> {
        let current = self
            .state
            .exchange
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let none = || Error::new(Kind::Failed, "this session does not exchange blobs");
        current.clone().ok_or_else(none)
    }

    /// Begins to answer probes from other hosts until the token is cancelled, at the
    /// latest with the session; ends what was begun before.
    pub(in crate::agent) fn begin_probes(&self) -> CancellationToken {
        let token = self.state.gone.child_token();
        self.set_probes(Some(token.clone()));
        token
    }

    /// Ends what [`Scope::begin_probes`] began.
    pub(in crate::agent) fn end_probes(&self) {
        self.set_probes(None);
    }

    fn set_probes(&self, token: Option<CancellationToken>) {
        let mut current = self
            .state
            .probes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = std::mem::replace(&mut *current, token) {
            previous.cancel();
        }
    }

    /// Cancelled when the session ends.
    pub(in crate::agent) fn session_end(&self) -> &CancellationToken {
        &self.state.gone
    }

    /// Takes the host's lock for the rest of the session.
    pub(in crate::agent) async fn take_lock(
        &self,
        holder: &Holder,
        patience: Duration,
    ) -> Result<()> {
        let mut held = self.state.lock.lock().await;
        if held.is_some() {
            return Err(Error::new(
                Kind::Failed,
                "this session has the host's lock already",
            ));
        }
        *held = Some(HostLock::take(&self.context, &self.state.root, holder, patience).await?);
        Ok(())
    }
}

/// A sink whose events travel to the controller. It never blocks: when the
/// connection is too slow, progress is dropped, and other events are dropped and
/// counted.
pub(super) fn forward_events(link: Link) -> Arc<dyn Sink> {
    let (queue, mut events) = mpsc::channel(EVENTS);
    let lost = Arc::new(AtomicU64::new(0));
    let sink = Arc::new(Forward {
        queue,
        lost: lost.clone(),
    });
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let mut batch = vec![event];
            if let count @ 1.. = lost.swap(0, Ordering::Relaxed) {
                let text = format!(
                    "{count} messages of the agent were lost, because the connection is slow"
                );
                batch.push(Event::Warning { host: None, text });
            }
            for event in batch {
                if link.send(0, Message::Event { event }).await.is_err() {
                    return;
                }
            }
        }
    });
    sink
}

struct Forward {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Forward {
    fn queue(&self, event: Event) {
        let optional = matches!(event, Event::Progress { .. } | Event::Counted { .. });
        if self.queue.try_send(event).is_err() && !optional {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink for Forward {
    fn event(&self, event: Event) {
        match event {
            Event::Detail { host, mut text } => {
                while text.len() > LARGEST_TEXT {
                    let rest = text.split_off(text.floor_char_boundary(LARGEST_TEXT));
                    self.queue(Event::Detail {
                        host: host.clone(),
                        text: std::mem::replace(&mut text, rest),
                    });
                }
                self.queue(Event::Detail { host, text });
            }
            event => self.queue(event),
        }
    }
}
