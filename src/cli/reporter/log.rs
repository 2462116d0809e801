//! The full log of a run: every event with its time, in a file of its own.
//!
//! It begins when the first phase, step or detail does, so that a command that
//! only asks leaves none. Only its owner can read it. The newest [`KEPT`] stay.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::event::{Ended, Event};

/// How many logs are kept.
const KEPT: usize = 50;
/// How large one gets at most, in bytes; a program that runs wild must not fill
/// the disk of the operator.
const LARGEST: u64 = 256 << 20;

/// The log of a run.
pub(in crate::cli) struct Log(Mutex<State>);

enum State {
    /// There is none.
    Off,
    /// It is made when there is something to say.
    Waiting(Place),
    Open {
        file: File,
        path: PathBuf,
        size: u64,
    },
}

/// Where it goes.
struct Place {
    directory: PathBuf,
    run: String,
    first: String,
}

impl Log {
    /// No log: for what a service runs, whose output is in the journal.
    pub(in crate::cli) fn off() -> Self {
        Log(Mutex::new(State::Off))
    }

    /// A log called `run` in `directory`, which need not exist. `first` is its
    /// first line.
    pub(in crate::cli) fn new(directory: PathBuf, run: String, first: String) -> Self {
        Log(Mutex::new(State::Waiting(Place {
            directory,
            run,
            first,
        })))
    }

    /// Where it is, once it has begun.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Open { path, .. } => Some(path.clone()),
            _ => None,
        }
    }

    pub(super) fn event(&self, event: &Event) {
        let (host, text) = match event {
            // Only the end of a transfer: there are thousands of these events.
            Event::Progress { done, total, .. } if Some(*done) != *total => return,
            Event::Progress {
                host, item, done, ..
            } => (host, format!("moved {item}: {done} bytes")),
            Event::Counted { .. } => return,
            Event::PhaseStarted { phase } => (&None, format!("phase {phase}: started")),
            Event::PhaseEnded { phase, seconds } => {
                (&None, format!("phase {phase}: ended after {seconds:.3} s"))
            }
            Event::StepStarted { host, step } => (host, format!("step {step}: started")),
            Event::StepEnded {
                host,
                step,
                how,
                seconds,
            } => {
                let how = match how {
                    Ended::Done => "done",
                    Ended::Failed => "failed",
                    Ended::Interrupted => "interrupted",
                };
                (host, format!("step {step}: {how} after {seconds:.3} s"))
            }
            Event::Note { host, text } => (host, format!("note: {text}")),
            Event::Warning { host, text } => (host, format!("warning: {text}")),
            Event::Detail { host, text } => (host, text.clone()),
        };
        let begins = !matches!(event, Event::Note { .. } | Event::Warning { .. });
        self.write(host.as_deref(), &text, begins);
    }

    pub(super) fn failure(&self, text: &str) {
        self.write(None, text, false);
    }

    fn write(&self, host: Option<&str>, text: &str, begins: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Waiting(place) = &*state
            && begins
        {
            // Without a place for a log the work goes on without one.
            *state = place.open().unwrap_or(State::Off);
        }
        let State::Open { file, size, .. } = &mut *state else {
            return;
        };
        let mut entry = lines(jiff::Timestamp::now(), host, text);
        if *size + entry.len() as u64 > LARGEST {
            entry = "the log is full; what follows is lost\n".into();
        }
        if *size > LARGEST || file.write_all(entry.as_bytes()).is_err() {
            *state = State::Off;
            return;
        }
        *size += entry.len() as u64;
    }
}

/// Each line of a text with time and host, so that the log can be searched.
fn lines(time: jiff::Timestamp, host: Option<&str>, text: &str) -> String {
    let host = host.unwrap_or("-");
    let mut entry = String::new();
    for line in text.trim_end().lines() {
        entry.push_str(&format!("{time:.3} {host} {line}\n"));
    }
    entry
}

impl Place {
    fn open(&self) -> io::Result<State> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let path = self.directory.join(format!("{}.log", self.run));
        let mut file = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let first = lines(jiff::Timestamp::now(), None, &self.first);
        file.write_all(first.as_bytes())?;
        sweep(&self.directory);
        Ok(State::Open {
            file,
            path,
            size: first.len() as u64,
        })
    }
}

/// Removes the oldest logs. Their names begin with their time.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    for old in logs.iter().rev().skip(KEPT) {
        // Another run may have removed it already.
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn step() -> Event {
        Event::StepStarted {
            host: Some("m1".into()),
            step: "start kubelet".into(),
        }
    }

    #[test]
    fn it_begins_with_the_first_work_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("chasi/logs");
        let log = Log::new(logs.clone(), "r1".into(), "chasi run".into());
        log.event(&Event::Note {
            host: None,
            text: "nothing yet".into(),
        });
        assert_eq!(log.path(), None);
        assert!(!logs.exists());
        log.event(&step());
        log.event(&Event::Detail {
            host: Some("m1".into()),
            text: "one\ntwo\n".into(),
        });
        let path = log.path().unwrap();
        assert_eq!(path, logs.join("r1.log"));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let text = fs::read_to_string(&path).unwrap();
        let without_time: Vec<_> = text
            .lines()
            .map(|line| line.split_once(' ').unwrap().1)
            .collect();
        assert_eq!(
            without_time,
            [
                "- chasi run",
                "m1 step start kubelet: started",
                "m1 one",
                "m1 two"
            ]
        );
    }

    #[test]
    fn the_newest_stay() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 3 {
            let log = Log::new(directory.path().into(), format!("{number:03}"), "x".into());
            log.event(&step());
        }
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, KEPT);
        assert!(!directory.path().join("002.log").exists());
        assert!(directory.path().join("003.log").exists());
    }

    #[test]
    fn no_place_for_a_log_is_no_failure() {
        let log = Log::new("/proc/nowhere".into(), "r".into(), "x".into());
        log.event(&step());
        assert_eq!(log.path(), None);
    }
}
