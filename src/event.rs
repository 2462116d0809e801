//! What the library tells while it works.
//!
//! The library never prints. It sends [`Event`]s to a [`Sink`]; the command line
//! turns them into bars, plain lines or JSON lines. Events are facts about the
//! past ("this step ended"), never instructions about display.

use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Something that happened. Serialised as one JSON object a line by
/// `--progress json`; the `event` field names the variant.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A phase of the whole command began, for instance `checks` or `stage`.
    PhaseStarted {
        /// The phase's name.
        phase: String,
    },
    /// A phase ended.
    PhaseEnded {
        /// The phase's name.
        phase: String,
        /// How long it took.
        seconds: f64,
    },
    /// A step began, on a host when there is one.
    StepStarted {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// What is being done, in the imperative: `start kubelet`.
        step: String,
    },
    /// A step ended.
    StepEnded {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The same text as in `StepStarted`.
        step: String,
        /// How.
        how: Ended,
        /// How long it took.
        seconds: f64,
    },
    /// Bytes of a long transfer or computation moved on.
    Progress {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// What moves: `layer cni`, `docker.io/library/busybox:1.37`.
        item: String,
        /// Bytes done so far.
        done: u64,
        /// Bytes in all, when known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// Some of a known number of things are done.
    Counted {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// What is counted, in the plural: `container images`.
        item: String,
        /// How many are done.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// Something that a person should know, and nothing failed.
    Note {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// A sentence.
        text: String,
    },
    /// Something that is probably wrong, and the work goes on.
    Warning {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// A sentence.
        text: String,
    },
    /// Detail for the run's full log only: the output of a program, a journal.
    Detail {
        /// The host's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The text, possibly of many lines.
        text: String,
    },
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was stopped before its end.
    Interrupted,
}

impl Ended {
    /// How work with this result ended.
    pub fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Ended::Done,
            Err(error) if error.kind() == Kind::Interrupted => Ended::Interrupted,
            Err(_) => Ended::Failed,
        }
    }
}

impl Event {
    /// The same event, said to have happened on `host` if it names none. Phases
    /// belong to the whole command and stay as they are.
    pub fn on_host(mut self, name: &str) -> Self {
        match &mut self {
            Event::PhaseStarted { .. } | Event::PhaseEnded { .. } => {}
            Event::StepStarted { host, .. }
            | Event::StepEnded { host, .. }
            | Event::Progress { host, .. }
            | Event::Counted { host, .. }
            | Event::Note { host, .. }
            | Event::Warning { host, .. }
            | Event::Detail { host, .. } => {
                host.get_or_insert_with(|| name.to_owned());
            }
        }
        self
    }
}

/// Where events go.
pub trait Sink: Send + Sync {
    /// Takes one event. Must not block for long.
    fn event(&self, event: Event);
}

/// Forgets every event.
pub struct Silent;

impl Sink for Silent {
    fn event(&self, _: Event) {}
}

/// What every long operation of the library is given: where to tell, and whether
/// to stop. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    sink: Arc<dyn Sink>,
    /// Cancelled by Ctrl-C; work stops at the next consistent point.
    pub cancel: CancellationToken,
}

impl Context {
    /// A context that tells `sink` and has not been cancelled.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Context {
            sink,
            cancel: CancellationToken::new(),
        }
    }

    /// A context that tells nobody.
    pub fn silent() -> Self {
        Context::new(Arc::new(Silent))
    }

    /// Sends an event.
    pub fn emit(&self, event: Event) {
        self.sink.event(event);
    }

    /// Sends a note that belongs to no host.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(Event::Note {
            host: None,
            text: text.into(),
        });
    }

    /// Sends a warning that belongs to no host.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(Event::Warning {
            host: None,
            text: text.into(),
        });
    }

    /// Fails with [`Kind::Interrupted`] once cancelled. For loops without an
    /// await point.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        Ok(())
    }

    /// Runs `work` as a step: tells its start, its end and its duration.
    pub async fn step<T>(
        &self,
        host: Option<&str>,
        step: impl Into<String>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let step = step.into();
        let host = host.map(str::to_owned);
        self.emit(Event::StepStarted {
            host: host.clone(),
            step: step.clone(),
        });
        let begin = std::time::Instant::now();
        let result = work.await;
        self.emit(Event::StepEnded {
            host,
            step,
            how: Ended::of(&result),
            seconds: begin.elapsed().as_secs_f64(),
        });
        result
    }

    /// As [`Context::step`], for work that blocks.
    pub fn step_blocking<T>(
        &self,
        host: Option<&str>,
        step: impl Into<String>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let step = step.into();
        let host = host.map(str::to_owned);
        self.emit(Event::StepStarted {
            host: host.clone(),
            step: step.clone(),
        });
        let begin = std::time::Instant::now();
        let result = work();
        self.emit(Event::StepEnded {
            host,
            step,
            how: Ended::of(&result),
            seconds: begin.elapsed().as_secs_f64(),
        });
        result
    }

    /// Runs `work` as a phase of the command.
    pub async fn phase<T>(&self, phase: &str, work: impl Future<Output = T>) -> T {
        self.emit(Event::PhaseStarted {
            phase: phase.to_owned(),
        });
        let begin = std::time::Instant::now();
        let result = work.await;
        self.emit(Event::PhaseEnded {
            phase: phase.to_owned(),
            seconds: begin.elapsed().as_secs_f64(),
        });
        result
    }
}
