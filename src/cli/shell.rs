//! What every command is given: where results go, how errors look, and the
//! context of the library, fed by the reporter that suits the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::config;
use super::message::Style;
use super::reporter::{Choice, Log, Phase, Reporter};
use super::signals;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// Where the help lists them: behind a command's own options.
const GLOBAL: &str = "Options of every command";

/// Options that every command takes.
#[derive(Args)]
pub struct Global {
    /// How to show progress.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "HOW",
        help_heading = GLOBAL
    )]
    progress: Progress,
    /// Show warnings and errors only, as `--progress none`.
    #[arg(short, long, global = true, conflicts_with = "progress", help_heading = GLOBAL)]
    quiet: bool,
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
    run: String,
    begin: Instant,
    reporter: Arc<Reporter>,
    context: Context,
}

impl Shell {
    /// Chooses the reporter. A command that a service runs shows plain lines, which
    /// systemd puts into the journal.
    pub fn new(global: &Global, service: bool, keeps_log: bool) -> Self {
        let run = run_id();
        let style = style();
        let choice = match global.progress {
            _ if global.quiet => Choice::Quiet,
            Progress::None => Choice::Quiet,
            Progress::Json => Choice::Json,
            Progress::Auto if style.columns.is_some() && !service => Choice::Bars,
            Progress::Auto | Progress::Plain => Choice::Lines,
        };
        let log = match config::state() {
            Ok(state) if keeps_log => Log::new(state.join("logs"), run.clone(), first_line()),
            _ => Log::off(),
        };
        let reporter = Arc::new(Reporter::new(choice, style, log));
        Shell {
            run,
            begin: Instant::now(),
            context: Context::new(reporter.clone()),
            reporter,
        }
    }

    /// The context to give to the library.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The name of this run, in logs and journals: the time, and what makes it
    /// unique.
    pub fn run_id(&self) -> &str {
        &self.run
    }

    /// Where the full log of this run is, when there is one by now.
    pub fn log_path(&self) -> Option<PathBuf> {
        self.reporter.log_path()
    }

    /// How long each phase took, in order, for summaries.
    pub fn phases(&self) -> Vec<Phase> {
        self.reporter.phases()
    }

    /// How long the command has been at work.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Never lets `secret` appear in a message or in the log from now on.
    pub fn hide(&self, secret: &str) {
        self.reporter.hide(secret);
    }

    /// Writes a result to standard output. That nobody reads it to its end, as in
    /// `chasi images | head -1`, is no failure.
    pub fn result(&self, text: &str) -> Result<()> {
        self.reporter.clear();
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.or_err(Kind::System, || "cannot write to standard output"),
        }
    }

    /// Writes a result to standard output as JSON.
    pub fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)
            .or_err(Kind::Failed, || "cannot write the result as JSON")?;
        text.push('\n');
        self.result(&text)
    }

    /// Shows text for a person on standard error, such as a plan to confirm.
    pub fn message(&self, text: &str) {
        self.reporter.text(text);
    }

    /// Asks a person; only `y` and `yes` are consent. Without a person, and when
    /// Ctrl-C is the answer, it is no.
    pub async fn ask(&self, question: &str) -> bool {
        if !io::stdin().is_terminal() {
            return false;
        }
        self.reporter.clear();
        let mut stderr = io::stderr();
        // Like every write to standard error: nobody could be told.
        let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: reading from a terminal cannot be stopped, and the
        // runtime would wait for one of its threads.
        std::thread::spawn(move || {
            let mut answer = String::new();
            let read = io::stdin().lock().read_line(&mut answer);
            let yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
            // After Ctrl-C nobody listens.
            let _ = tell.send(read.is_ok() && yes);
        });
        matches!(
            self.context.cancel.run_until_cancelled(told).await,
            Some(Ok(true))
        )
    }

    /// Runs async work to its end. Ctrl-C and SIGTERM cancel its context, and the
    /// work stops at the next consistent point; a second one ends the process.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .or_err(Kind::System, || "cannot start the async runtime")?
            .block_on(async {
                let reporter = self.reporter.clone();
                signals::cancel_on_signal(&self.context.cancel, move |text| reporter.text(text))?;
                work.await.map_err(going_on)
            })
    }

    /// As [`Shell::block_on`], for work of the library that blocks.
    pub fn blocking<T>(&self, work: impl FnOnce(&Context) -> Result<T>) -> Result<T> {
        self.block_on(async { tokio::task::block_in_place(|| work(&self.context)) })
    }

    /// Says what went wrong, on standard error.
    pub fn report(&self, error: &Error) {
        self.reporter.failure(error);
    }
}

/// Says how to go on after an interruption: by the same command.
fn going_on(error: Error) -> Error {
    if error.kind() != Kind::Interrupted || !error.hints().is_empty() {
        return error;
    }
    error.hint(format!("to go on: `{}`", same_command()))
}

/// The command as it was typed, to be typed again. No option holds a secret.
pub(super) fn same_command() -> String {
    typed(std::env::args())
}

fn typed(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    words
        .map(|word| match word.is_empty() || !word.chars().all(plain) {
            true => format!("'{}'", word.replace('\'', r"'\''")),
            false => word,
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// What standard error can show.
fn style() -> Style {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    if !io::stderr().is_terminal() || dumb {
        return Style::PLAIN;
    }
    let columns = rustix::termios::tcgetwinsize(io::stderr())
        .map_or(80, |size| usize::from(size.ws_col))
        .max(40);
    Style {
        colour: !set("NO_COLOR"),
        columns: Some(columns),
    }
}

/// The first line of a log. Options are left out: one of them may hold what
/// should not be there.
fn first_line() -> String {
    let command = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with('-'))
        .unwrap_or_default();
    let directory = std::env::current_dir().unwrap_or_else(|_| Path::new("?").into());
    format!(
        "chasi {} {command}, in {}",
        env!("CARGO_PKG_VERSION"),
        directory.display()
    )
}

/// `20261121T093000Z-3f2a`: sorts by time, and two at the same second differ.
fn run_id() -> String {
    let now = jiff::Timestamp::now();
    let unique = (std::process::id() ^ now.subsec_nanosecond().unsigned_abs()) & 0xffff;
    format!("{}-{unique:04x}", now.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let words = ["chasi", "run", "-f", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(typed(words.into_iter()), r"chasi run -f 'a b' 'it'\''s' ''");
    }

    #[test]
    fn only_an_interruption_says_how_to_go_on() {
        let hints = |kind| going_on(Error::new(kind, "x")).hints().len();
        assert_eq!((hints(Kind::Interrupted), hints(Kind::Failed)), (1, 0));
        let told = Error::new(Kind::Interrupted, "x").hint("y");
        assert_eq!(going_on(told).hints(), ["y"]);
    }

    #[test]
    fn a_run_id_sorts_by_time_and_fits_a_file_name() {
        let id = run_id();
        let (time, unique) = id.split_once('-').unwrap();
        assert_eq!((time.len(), unique.len()), (16, 4));
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        );
    }
}
