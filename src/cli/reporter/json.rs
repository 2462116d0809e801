//! `--progress json`: one JSON object a line. `docs/progress.md` describes them,
//! and a snapshot pins them.

use std::path::Path;

use serde::Serialize;

use super::{View, to_stderr};
use crate::error::{Error, Kind};
use crate::event::Event;

/// Events as JSON lines.
pub(super) struct Json {
    now: fn() -> jiff::Timestamp,
}

impl Json {
    pub(super) fn new() -> Self {
        Json {
            now: jiff::Timestamp::now,
        }
    }

    fn line(&self, content: impl Serialize) -> String {
        #[derive(Serialize)]
        struct Line<T> {
            time: String,
            #[serde(flatten)]
            content: T,
        }
        let line = Line {
            time: format!("{:.3}", (self.now)()),
            content,
        };
        match serde_json::to_string(&line) {
            Ok(mut text) => {
                text.push('\n');
                text
            }
            // All that is written here has text for keys.
            Err(_) => String::new(),
        }
    }
}

/// How a command failed. The last line.
#[derive(Serialize)]
#[serde(tag = "event", rename = "failed")]
struct Failed<'a> {
    #[serde(flatten)]
    error: Failure<'a>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Failure<'a>>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    message: &'a str,
    causes: Vec<String>,
    hints: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    path: &'a str,
    line: usize,
    column: usize,
}

impl<'a> Failure<'a> {
    fn new(error: &'a Error) -> Self {
        Failure {
            kind: error.kind(),
            host: error.host(),
            message: error.message(),
            causes: error.causes().map(ToString::to_string).collect(),
            hints: error.hints(),
            place: error.snippet().map(|snippet| {
                let (line, column) = snippet.line_column();
                Place {
                    path: &snippet.path,
                    line,
                    column,
                }
            }),
        }
    }
}

impl View for Json {
    fn event(&self, event: &Event) {
        to_stderr(&self.line(event));
    }

    fn text(&self, text: &str) {
        let text = text.trim_end().to_owned();
        to_stderr(&self.line(Event::Note { host: None, text }));
    }

    fn failure(&self, error: &Error, log: Option<&Path>) {
        to_stderr(&self.failed(error, log));
    }
}

impl Json {
    fn failed(&self, error: &Error, log: Option<&Path>) -> String {
        self.line(Failed {
            error: Failure::new(error),
            exit_code: error.kind().exit_code(),
            log: log.map(|path| path.display().to_string()),
            others: error.others().iter().map(Failure::new).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Snippet;

    /// One of each event, as `docs/progress.md` shows them.
    fn examples() -> Vec<Event> {
        let host = Some("m1".to_owned());
        vec![
            Event::PhaseStarted {
                phase: "stage".into(),
            },
            Event::StepStarted {
                host: host.clone(),
                step: "start kubelet".into(),
            },
            Event::Progress {
                host: host.clone(),
                item: "layer cni".into(),
                done: 1024,
                total: Some(4096),
            },
            Event::Counted {
                host: host.clone(),
                item: "container images".into(),
                done: 2,
                total: 10,
            },
            Event::StepEnded {
                host: host.clone(),
                step: "start kubelet".into(),
                how: crate::event::Ended::Done,
                seconds: 1.25,
            },
            Event::Note {
                host: host.clone(),
                text: "the container runtime was there already".into(),
            },
            Event::Warning {
                host: None,
                text: "two control planes survive no failure".into(),
            },
            Event::Detail {
                host,
                text: "kubelet started\n".into(),
            },
            Event::PhaseEnded {
                phase: "stage".into(),
                seconds: 2.5,
            },
        ]
    }

    #[test]
    fn the_format_is_pinned() {
        let json = Json {
            now: || jiff::Timestamp::constant(1_795_262_400, 250_000_000),
        };
        let mut text: String = examples().iter().map(|event| json.line(event)).collect();
        let error = Error::new(Kind::Input, "unknown field `imagee`")
            .at(Snippet {
                path: "Clusterfile".into(),
                text: "spec:\n  imagee: x\n".into(),
                span: 8..14,
                label: String::new(),
            })
            .hint("did you mean `image`?")
            .and(
                Error::new(Kind::Failed, "cannot start `kubelet`")
                    .on_host("m1")
                    .because("it exited with 1"),
            );
        text.push_str(&json.failed(&error, Some(Path::new("/var/log/x.log"))));
        insta::assert_snapshot!(text);
        let documented = include_str!("../../../docs/progress.md");
        for line in text.lines() {
            assert!(
                documented.contains(line),
                "docs/progress.md lacks the line {line}"
            );
        }
    }
}
