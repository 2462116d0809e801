//! What every command is given: where results go, how errors look, and the
//! context of the library, fed by the reporter that suits the terminal.

use std::io::Write;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event, Sink};

/// Options that every command takes.
#[derive(Args)]
pub struct Global {
    /// How to show progress.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "HOW"
    )]
    progress: Progress,
}

/// How progress is shown on standard error.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Progress {
    /// Bars on a terminal, plain lines otherwise.
    Auto,
    /// One line for each step.
    Plain,
    /// One JSON object for each event.
    Json,
    /// Only warnings and errors.
    None,
}

/// How a result is written to standard output.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Where results and messages go.
pub struct Shell {
    context: Context,
}

impl Shell {
    /// Chooses the reporter.
    pub fn new(global: &Global) -> Self {
        Shell {
            context: Context::new(Arc::new(Lines {
                progress: global.progress,
            })),
        }
    }

    /// The context to give to the library.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Writes a result to standard output.
    pub fn result(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .or_err(Kind::System, || "cannot write to standard output")
    }

    /// Writes a result to standard output as JSON.
    pub fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)
            .or_err(Kind::Failed, || "cannot write the result as JSON")?;
        text.push('\n');
        self.result(&text)
    }

    /// Runs async work to its end. Ctrl-C and SIGTERM cancel its context, and the
    /// work stops at the next consistent point.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .or_err(Kind::System, || "cannot start the async runtime")?
            .block_on(async {
                let terminate = signal(SignalKind::terminate())
                    .or_err(Kind::System, || "cannot listen for signals")?;
                tokio::spawn(cancel_on_signal(self.context.cancel.clone(), terminate));
                work.await
            })
    }

    /// As [`Shell::block_on`], for work of the library that blocks.
    pub fn blocking<T>(&self, work: impl FnOnce(&Context) -> Result<T>) -> Result<T> {
        self.block_on(async { tokio::task::block_in_place(|| work(&self.context)) })
    }

    /// Says what went wrong, on standard error.
    pub fn report(&self, error: &Error) {
        let mut text = String::from("error: ");
        if let Some(host) = error.host() {
            text.push_str(&format!("{host}: "));
        }
        text.push_str(error.message());
        text.push('\n');
        for cause in error.causes() {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        for hint in error.hints() {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        to_stderr(&text);
    }
}

async fn cancel_on_signal(cancel: CancellationToken, mut terminate: Signal) {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
}

/// One line for each event.
struct Lines {
    progress: Progress,
}

impl Sink for Lines {
    fn event(&self, event: Event) {
        if self.progress == Progress::Json {
            if let Ok(mut line) = serde_json::to_string(&event) {
                line.push('\n');
                to_stderr(&line);
            }
            return;
        }
        let line = match &event {
            Event::Warning { host, text } => on_host(host, &format!("warning: {text}")),
            _ if self.progress == Progress::None => return,
            Event::Note { host, text } => on_host(host, text),
            Event::StepEnded {
                host,
                step,
                ok,
                seconds,
            } => {
                let mark = if *ok { "done" } else { "FAILED" };
                on_host(host, &format!("{step}: {mark} ({seconds:.1} s)"))
            }
            _ => return,
        };
        to_stderr(&format!("{line}\n"));
    }
}

fn on_host(host: &Option<String>, text: &str) -> String {
    match host {
        Some(host) => format!("{host}: {text}"),
        None => text.to_owned(),
    }
}

fn to_stderr(text: &str) {
    // Nobody is left to be told that standard error is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
