//! Answers about plugins.

use crate::agent::Scope;
use crate::agent::calls::hook::*;
use crate::error::Result;
use crate::host::hook::{self, Reply};
use crate::host::journal::Journal;
use crate::host::{Root, switch};

pub(super) async fn read(_: Scope, _: ReadHooks) -> Result<Vec<Remembered>> {
    super::blocking(|| {
        let remembered = |one: hook::Applied| Remembered {
            plugin: one.hook.plugin.name,
            phase: one.hook.phase,
            undo: one.hook.plugin.undo,
            description: one.hook.plugin.description,
        };
        let applied = hook::applied(&Root::host()?)?;
        Ok(applied.into_iter().map(remembered).collect())
    })
    .await
}

pub(super) async fn check(scope: Scope, call: CheckHooks) -> Result<Vec<Option<String>>> {
    let context = scope.context.clone();
    super::blocking(move || {
        let root = Root::host()?;
        let none = hook::Secrets::new();
        let due = |one: &hook::Hook| {
            let secrets = call.secrets.get(&one.plugin.name).unwrap_or(&none);
            hook::due(&root, &call.identity, one, secrets, &context)
        };
        call.hooks.iter().map(due).collect()
    })
    .await
}

pub(super) async fn apply(scope: Scope, call: ApplyHook) -> Result<Reply> {
    let context = scope.context.clone();
    super::blocking(move || {
        let (root, journal) = ready(&call.run)?;
        let told = (&call.hook, &call.secrets);
        hook::apply(&root, &journal, &call.identity, told, &context)
    })
    .await
}

pub(super) async fn undo(scope: Scope, call: UndoHook) -> Result<Option<String>> {
    let context = scope.context.clone();
    super::blocking(move || {
        let (root, journal) = ready(&call.run)?;
        let which = (&call.plugin, call.phase);
        hook::undo(&root, &journal, which, call.leave, &context)
    })
    .await
}

pub(super) async fn moment(scope: Scope, call: RunMoment) -> Result<()> {
    let context = scope.context.clone();
    super::blocking(move || {
        // A host that was left already stays as it is: not even a journal is begun.
        if !hook::awaits(&Root::host()?, call.phase)? {
            return Ok(());
        }
        let (root, journal) = ready(&call.run)?;
        hook::moment(&root, &journal, call.phase, &context)
    })
    .await
}

pub(super) async fn forget(_: Scope, call: ForgetHook) -> Result<bool> {
    super::blocking(move || hook::forget(&Root::host()?, &call.plugin)).await
}

/// The host with nothing pending, and the journal of the run.
fn ready(run: &str) -> Result<(Root, Journal)> {
    let root = Root::host()?;
    switch::recover(&root)?;
    let journal = Journal::open(&root, run)?;
    Ok((root, journal))
}
