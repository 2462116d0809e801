//! What becomes of the library's events: a view on standard error, and the full
//! log of the run in a file.
//!
//! Invariants: a secret that was made known with [`Reporter::hide`] appears in
//! neither; control characters of hosts never reach a terminal; a failure to
//! write is never a failure of the run.

mod bars;
mod json;
mod lines;
mod log;
mod secrets;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::message::{self, Style};
use crate::error::Error;
use crate::event::{Event, Sink};

pub(super) use self::log::Log;

/// One way to show events.
trait View: Send + Sync {
    /// Shows an event.
    fn event(&self, event: &Event);
    /// Shows text that ends with a line end.
    fn text(&self, text: &str);
    /// Shows how the command failed, and where its log is.
    fn failure(&self, error: &Error, log: Option<&Path>);
    /// Takes away what is only for the time of the work.
    fn clear(&self) {}
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// Bars.
    Bars,
    /// A line for each step.
    Lines,
    /// A JSON object for each event.
    Json,
    /// Warnings and errors only.
    Quiet,
}

/// How long a phase took.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// Shows and logs events.
pub(super) struct Reporter {
    view: Box<dyn View>,
    log: Log,
    phases: Mutex<Vec<Phase>>,
    secrets: secrets::Secrets,
}

impl Reporter {
    pub(super) fn new(choice: Choice, style: Style, log: Log) -> Self {
        Reporter {
            view: match choice {
                Choice::Bars => Box::new(bars::Bars::new(style)),
                Choice::Lines => Box::new(lines::Lines::new(style, lines::Amount::Steps)),
                Choice::Json => Box::new(json::Json::new()),
                Choice::Quiet => Box::new(lines::Lines::new(style, lines::Amount::Warnings)),
            },
            log,
            phases: Mutex::default(),
            secrets: secrets::Secrets::default(),
        }
    }

    /// Never lets `secret` appear from now on.
    pub(super) fn hide(&self, secret: &str) {
        self.secrets.add(secret);
    }

    /// Shows text for a person, such as a plan to confirm.
    pub(super) fn text(&self, text: &str) {
        self.view.text(&self.secrets.hide(text));
    }

    /// Shows and logs how the command failed.
    pub(super) fn failure(&self, error: &Error) {
        self.view.clear();
        self.log.failure(&self.secrets.hide(&message::error(
            error,
            Style::PLAIN,
            message::Amount::All,
        )));
        self.view.failure(error, self.log.path().as_deref());
    }

    /// Takes bars away, so that something else can be printed.
    pub(super) fn clear(&self) {
        self.view.clear();
    }

    /// The phases that ended, in order.
    pub(super) fn phases(&self) -> Vec<Phase> {
        self.phases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where the log is, when there is one by now.
    pub(super) fn log_path(&self) -> Option<PathBuf> {
        self.log.path()
    }
}

impl Sink for Reporter {
    fn event(&self, event: Event) {
        let event = self.secrets.hide_in(event);
        if let Event::PhaseEnded { phase, seconds } = &event {
            let phase = Phase {
                name: phase.clone(),
                seconds: *seconds,
            };
            self.phases
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(phase);
        }
        self.log.event(&event);
        self.view.event(&event);
    }
}

/// Writes to standard error. Nobody is left to be told when that fails.
fn to_stderr(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// `m1: ` before a text of a host's.
fn on_host(host: Option<&str>, text: &str) -> String {
    match host {
        Some(host) => format!("{host}: {text}"),
        None => text.to_owned(),
    }
}

/// A duration as people say it.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    // Negative and unbounded values do not occur; the cast saturates anyway.
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let said: Vec<_> = [0.04, 9.94, 9.96, 59.4, 61.0, 3725.0].map(duration).into();
        assert_eq!(
            said,
            ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 1 s", "1 h 2 min"]
        );
    }
}
