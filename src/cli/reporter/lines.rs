//! One plain line for each finished step: for pipelines and files. A line that
//! says what is still going on comes after a while without any other.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::message::{self, Style, clean};
use super::{View, duration, on_host, to_stderr};
use crate::error::Error;
use crate::event::{Ended, Event};

/// After how long without a line it is said what is still going on. Many
/// pipelines end a job that is silent for some minutes.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How many steps such a line names.
const NAMED: usize = 4;

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    /// Everything but output of programs.
    Steps,
    /// Warnings and errors.
    Warnings,
}

/// Events as lines.
pub(super) struct Lines {
    style: Style,
    amount: Amount,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    running: Mutex<Running>,
    changed: Condvar,
}

#[derive(Default)]
struct Running {
    steps: Vec<(Option<String>, String, Instant)>,
    last_line: Option<Instant>,
    watched: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    pub(super) fn new(style: Style, amount: Amount) -> Self {
        Lines {
            style,
            amount,
            shared: Arc::default(),
        }
    }

    fn begin(&self, host: Option<&str>, step: &str) {
        let mut running = self.shared.lock();
        running
            .steps
            .push((host.map(str::to_owned), step.to_owned(), Instant::now()));
        if !running.watched && self.amount == Amount::Steps {
            running.watched = true;
            let shared = Arc::downgrade(&self.shared);
            std::thread::spawn(move || watch(&shared));
        }
    }

    fn end(&self, host: Option<&str>, step: &str) {
        let mut running = self.shared.lock();
        let found = running
            .steps
            .iter()
            .position(|(on, name, _)| on.as_deref() == host && name == step);
        if let Some(found) = found {
            running.steps.remove(found);
        }
    }

    fn line(&self, text: &str) {
        self.shared.lock().last_line = Some(Instant::now());
        to_stderr(&format!("{text}\n"));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.changed.notify_all();
    }
}

/// Says what is still going on, until nobody holds the lines any more.
fn watch(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let running = shared.lock();
        let (mut running, _) = shared
            .changed
            .wait_timeout(running, HEARTBEAT / 6)
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let silent = running.last_line.is_none_or(|last| now - last >= HEARTBEAT);
        if let Some(text) = heartbeat(&running.steps, now).filter(|_| silent) {
            running.last_line = Some(now);
            to_stderr(&text);
        }
        // Not held while this thread sleeps between two rounds of the loop.
        drop(running);
    }
}

/// What is still going on, when something has been for a while.
fn heartbeat(steps: &[(Option<String>, String, Instant)], now: Instant) -> Option<String> {
    let long: Vec<String> = steps
        .iter()
        .filter(|(_, _, began)| now.saturating_duration_since(*began) >= HEARTBEAT)
        .map(|(host, step, began)| {
            let elapsed = duration(now.saturating_duration_since(*began).as_secs_f64());
            format!("{} ({elapsed})", clean(&on_host(host.as_deref(), step)))
        })
        .collect();
    if long.is_empty() {
        return None;
    }
    let named = long
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    Some(match long.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("still at it: {named} and {more} more\n"),
        _ => format!("still at it: {named}\n"),
    })
}

/// The line for an event, if it has one.
fn line(event: &Event, amount: Amount, style: Style) -> Option<String> {
    let text = match event {
        Event::Warning { host, text } => {
            let text = clean(&on_host(host.as_deref(), text));
            return Some(format!("{}: {text}", style.yellow("warning")));
        }
        _ if amount == Amount::Warnings => return None,
        Event::Note { host, text } => on_host(host.as_deref(), text),
        Event::StepEnded {
            host,
            step,
            how,
            seconds,
        } => {
            let step = clean(&on_host(host.as_deref(), step));
            let how = match how {
                Ended::Done => "done".to_owned(),
                Ended::Failed => style.red("failed"),
                Ended::Interrupted => style.yellow("interrupted"),
            };
            return Some(format!("{step}: {how} ({})", duration(*seconds)));
        }
        Event::PhaseStarted { phase } => return Some(style.bold(&clean(phase))),
        Event::PhaseEnded { phase, seconds } => {
            let phase = clean(phase);
            return Some(format!("{phase}: ended ({})", duration(*seconds)));
        }
        Event::StepStarted { .. }
        | Event::Progress { .. }
        | Event::Counted { .. }
        | Event::Detail { .. } => return None,
    };
    Some(clean(text.trim_end()))
}

impl View for Lines {
    fn event(&self, event: &Event) {
        match event {
            Event::StepStarted { host, step } => self.begin(host.as_deref(), step),
            Event::StepEnded { host, step, .. } => self.end(host.as_deref(), step),
            _ => {}
        }
        if let Some(line) = line(event, self.amount, self.style) {
            self.line(&line);
        }
    }

    fn text(&self, text: &str) {
        self.line(clean(text).trim_end());
    }

    fn failure(&self, error: &Error, log: Option<&Path>) {
        to_stderr(&failure(error, log, self.style));
    }
}

/// The text of a failure, with the place of the log.
pub(super) fn failure(error: &Error, log: Option<&Path>, style: Style) -> String {
    let mut text = message::error(error, style, message::Amount::Ends);
    if let Some(path) = log {
        text.push_str(&format!("  {}: {}\n", style.bold("log"), path.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(how: Ended) -> Event {
        Event::StepEnded {
            host: Some("m1".into()),
            step: "start\x1b[31m kubelet".into(),
            how,
            seconds: 3.21,
        }
    }

    #[test]
    fn a_finished_step_is_one_clean_line() {
        let text = line(&ended(Ended::Done), Amount::Steps, Style::PLAIN).unwrap();
        assert_eq!(text, "m1: start\u{fffd}[31m kubelet: done (3.2 s)");
        let text = line(&ended(Ended::Failed), Amount::Steps, Style::PLAIN).unwrap();
        assert!(text.ends_with(": failed (3.2 s)"));
        let text = line(&ended(Ended::Interrupted), Amount::Steps, Style::PLAIN).unwrap();
        assert!(text.ends_with(": interrupted (3.2 s)"));
    }

    #[test]
    fn quiet_is_warnings_only() {
        assert_eq!(
            line(&ended(Ended::Failed), Amount::Warnings, Style::PLAIN),
            None
        );
        let warning = Event::Warning {
            host: None,
            text: "careful".into(),
        };
        let text = line(&warning, Amount::Warnings, Style::PLAIN).unwrap();
        assert_eq!(text, "warning: careful");
    }

    #[test]
    fn long_steps_are_named_and_the_rest_counted() {
        let now = Instant::now() + Duration::from_secs(100);
        let step = |number: u64| {
            let began = now - Duration::from_secs(30 + number);
            (Some(format!("m{number}")), "pull images".to_owned(), began)
        };
        assert_eq!(heartbeat(&[], now), None);
        let fresh = (None, "fresh".to_owned(), now);
        assert_eq!(heartbeat(std::slice::from_ref(&fresh), now), None);
        assert_eq!(
            heartbeat(&[fresh, step(0)], now).unwrap(),
            "still at it: m0: pull images (30 s)\n"
        );
        let many: Vec<_> = (0..6).map(step).collect();
        assert!(heartbeat(&many, now).unwrap().ends_with(" and 2 more\n"));
    }
}
