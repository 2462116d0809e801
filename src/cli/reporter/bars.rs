//! A terminal: a line for each host that is at work, with its current step and
//! for how long, a bar for each transfer, and above them what is finished.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::message::{Style, clean, wrapped};
use super::{View, duration, lines, on_host};
use crate::error::Error;
use crate::event::{Ended, Event};

/// How many bars are shown at once: they fit the smallest usual terminal of 24
/// lines and leave room for what is finished.
const SHOWN: usize = 16;
/// How often a bar's elapsed time is drawn.
const TICK: Duration = Duration::from_millis(120);
/// Names of hosts are cut to this in bars, so that the rest fits 80 columns.
const HOST_COLUMNS: usize = 14;

/// Bars on standard error.
pub(super) struct Bars {
    style: Style,
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<String>,
    bars: HashMap<Key, ProgressBar>,
}

/// What a bar is for: a step, or a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: Option<String>,
    what: String,
    transfer: bool,
}

impl Bars {
    pub(super) fn new(style: Style) -> Self {
        Bars {
            style,
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line above the bars.
    fn above(&self, text: &str) {
        // Like every write to standard error: nobody could be told.
        let _ = self.multi.println(text);
    }

    fn begin(&self, host: Option<&str>, step: &str) {
        let mut state = self.lock();
        if state.bars.len() >= SHOWN {
            return;
        }
        let bar = ProgressBar::new_spinner()
            .with_style(template(STEP))
            .with_prefix(clean(host.unwrap_or_default()))
            .with_message(one_line(step));
        let bar = self.multi.add(bar);
        bar.enable_steady_tick(TICK);
        let key = Key {
            host: host.map(str::to_owned),
            what: step.to_owned(),
            transfer: false,
        };
        state.bars.insert(key, bar);
    }

    fn end(&self, host: Option<&str>, step: &str, how: Ended, seconds: f64) {
        let mut state = self.lock();
        let key = Key {
            host: host.map(str::to_owned),
            what: step.to_owned(),
            transfer: false,
        };
        if let Some(bar) = state.bars.remove(&key) {
            self.multi.remove(&bar);
        }
        // A transfer that failed sends no last event.
        let no_step_left = !state
            .bars
            .keys()
            .any(|key| key.host.as_deref() == host && !key.transfer);
        if no_step_left {
            state.bars.retain(|key, bar| {
                let keep = key.host.as_deref() != host || !key.transfer;
                if !keep {
                    self.multi.remove(bar);
                }
                keep
            });
        }
        let in_phase = state.phase.is_some();
        drop(state);
        // In a phase of many steps on many hosts only what failed is worth a line.
        if how != Ended::Done || !in_phase {
            let text = clean(&on_host(host, step));
            let mark = match how {
                Ended::Done => self.style.bold("+"),
                Ended::Failed => self.style.red("x"),
                Ended::Interrupted => self.style.yellow("-"),
            };
            self.above(&format!(
                "{mark} {text} {}",
                self.style.dim(&duration(seconds))
            ));
        }
    }

    fn progress(
        &self,
        host: Option<&str>,
        item: &str,
        done: u64,
        total: Option<u64>,
        style: &'static str,
    ) {
        let mut state = self.lock();
        let key = Key {
            host: host.map(str::to_owned),
            what: item.to_owned(),
            transfer: true,
        };
        if total.is_some_and(|total| done >= total) {
            if let Some(bar) = state.bars.remove(&key) {
                self.multi.remove(&bar);
            }
            return;
        }
        let full = state.bars.len() >= SHOWN;
        let bar = match state.bars.entry(key) {
            std::collections::hash_map::Entry::Occupied(bar) => bar.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if full => return,
            std::collections::hash_map::Entry::Vacant(place) => {
                let bar = ProgressBar::new(total.unwrap_or_default())
                    .with_style(template(style))
                    .with_prefix(clean(host.unwrap_or_default()))
                    .with_message(one_line(item));
                place.insert(self.multi.add(bar))
            }
        };
        bar.set_position(done);
    }

    fn paragraph(&self, name: &str, painted: &str, text: &str) {
        let used = if name.is_empty() { 0 } else { name.len() + 2 };
        let text = wrapped(&clean(text), used, used.min(2), self.style);
        match name {
            "" => self.above(&text),
            _ => self.above(&format!("{painted}: {text}")),
        }
    }
}

/// A host at work: 80 columns hold the name, a step of up to 50 and the time.
const STEP: &str = "{prefix:14!} {spinner} {wide_msg} {elapsed}";
/// A transfer whose size is known.
const TRANSFER: &str =
    "{prefix:14!} {bar:14} {decimal_bytes:>10} / {decimal_total_bytes:<10} {wide_msg}";
/// A transfer whose size is not known.
const UNKNOWN: &str = "{prefix:14!} {spinner} {decimal_bytes:>10} {wide_msg}";
/// Things that are counted.
const COUNT: &str = "{prefix:14!} {bar:14} {pos:>10} / {len:<10} {wide_msg}";

fn template(template: &str) -> ProgressStyle {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.progress_chars("=> ").tick_chars("|/-\\ ")
}

fn one_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

impl View for Bars {
    fn event(&self, event: &Event) {
        match event {
            Event::PhaseStarted { phase } => self.lock().phase = Some(phase.clone()),
            Event::PhaseEnded { phase, seconds } => {
                self.lock().phase = None;
                let phase = format!("{:<HOST_COLUMNS$}", clean(phase));
                self.above(&format!(
                    "{} {} {}",
                    self.style.bold("+"),
                    self.style.bold(&phase),
                    self.style.dim(&duration(*seconds))
                ));
            }
            Event::StepStarted { host, step } => self.begin(host.as_deref(), step),
            Event::StepEnded {
                host,
                step,
                how,
                seconds,
            } => self.end(host.as_deref(), step, *how, *seconds),
            Event::Progress {
                host,
                item,
                done,
                total,
            } => {
                let style = if total.is_some() { TRANSFER } else { UNKNOWN };
                self.progress(host.as_deref(), item, *done, *total, style);
            }
            Event::Counted {
                host,
                item,
                done,
                total,
            } => self.progress(host.as_deref(), item, *done, Some(*total), COUNT),
            Event::Note { host, text } => {
                self.paragraph("", "", &on_host(host.as_deref(), text));
            }
            Event::Warning { host, text } => {
                let text = on_host(host.as_deref(), text);
                self.paragraph("warning", &self.style.yellow("warning"), &text);
            }
            Event::Detail { .. } => {}
        }
    }

    fn text(&self, text: &str) {
        self.multi.suspend(|| super::to_stderr(&clean(text)));
    }

    fn failure(&self, error: &Error, log: Option<&Path>) {
        self.multi
            .suspend(|| super::to_stderr(&lines::failure(error, log, self.style)));
    }

    fn clear(&self) {
        let mut state = self.lock();
        for (_, bar) in state.bars.drain() {
            self.multi.remove(&bar);
        }
        // As above: a terminal that is gone takes no notice.
        let _ = self.multi.clear();
    }
}
