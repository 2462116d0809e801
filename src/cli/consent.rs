//! What commands that change hosts have in common: they can show what they would
//! do, and they ask before they do it.

use std::io::IsTerminal as _;

use serde::Serialize;

use super::{Format, Shell};
use crate::cluster::connect::Prepared;
use crate::error::{Error, Kind, Result};
use crate::event::Event;

/// How to show and confirm a plan.
#[derive(clap::Args)]
pub struct Consent {
    /// Print the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before changing hosts.
    #[arg(short, long)]
    yes: bool,
    /// How to print the plan of a dry run, and the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Consent {
    /// For what belongs to a change that was agreed to.
    pub fn agreed(&self) -> Consent {
        Consent {
            dry_run: false,
            yes: true,
            format: self.format,
        }
    }
}

/// A change, as it is shown before it is made.
pub struct Shown<'a, T> {
    /// For programs.
    pub value: T,
    /// For people.
    pub text: &'a str,
    /// What a dry run says of the Clusterfile beside it.
    pub patch: String,
}

impl Consent {
    /// Shows a plan and asks whether to carry it out. Fails without consent, and
    /// where nobody can give it.
    pub async fn ask(&self, shell: &Shell, plan: &str, question: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(
                Error::new(Kind::Usage, "nobody is there to confirm the plan")
                    .hint("add `--yes` to apply it without asking, or `--dry-run` to see it"),
            );
        }
        shell.message(plan);
        match shell.ask(question).await {
            true => Ok(()),
            false => Err(super::cluster::refused()),
        }
    }

    /// What becomes of a change that was looked at: it is given back when it is to be
    /// made. In a dry run it is shown and given up; without consent it is given up too.
    /// Where there is no question, nothing has to be asked.
    pub async fn decide<P: Prepared>(
        &self,
        shell: &Shell,
        prepared: P,
        shown: &Shown<'_, impl Serialize>,
        question: Option<&str>,
    ) -> Result<Option<P>> {
        if self.dry_run {
            prepared.abandon().await;
            let text = || shown.text.to_owned() + &shown.patch;
            return self.print(shell, &shown.value, text).map(|()| None);
        }
        shell.context().emit(Event::Detail {
            host: None,
            text: shown.text.to_owned(),
        });
        let asked = match question {
            Some(question) => self.ask(shell, shown.text, question).await,
            None => Ok(()),
        };
        match asked.and_then(|()| shell.context().check_cancelled()) {
            Ok(()) => Ok(Some(prepared)),
            Err(error) => {
                prepared.abandon().await;
                Err(error)
            }
        }
    }

    /// Asks what `--yes` does not answer, and a plan's question neither. No, where
    /// nobody is there or wants to be asked.
    pub async fn ask_apart(&self, shell: &Shell, plan: &str, question: &str) -> bool {
        if self.yes || !std::io::stdin().is_terminal() {
            return false;
        }
        shell.message(plan);
        shell.ask(question).await
    }

    /// Prints a plan or a result.
    pub fn print(
        &self,
        shell: &Shell,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.format {
            Format::Json => shell.json(value),
            Format::Table => shell.result(&text()),
        }
    }
}
