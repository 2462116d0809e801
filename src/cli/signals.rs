//! Ctrl-C and SIGTERM: the first asks the work to stop at the next consistent
//! point, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::shell::same_command;
use crate::error::{Kind, Result, ResultExt};

/// Listens from now on, in the background. `say` tells the person what happens.
pub(super) fn cancel_on_signal(
    cancel: &CancellationToken,
    say: impl Fn(&str) + Send + 'static,
) -> Result<()> {
    let listen = |kind| signal(kind).or_err(Kind::System, || "cannot listen for signals");
    let interrupt = listen(SignalKind::interrupt())?;
    let terminate = listen(SignalKind::terminate())?;
    tokio::spawn(watch(cancel.clone(), interrupt, terminate, say));
    Ok(())
}

async fn watch(
    cancel: CancellationToken,
    mut interrupt: Signal,
    mut terminate: Signal,
    say: impl Fn(&str),
) {
    either(&mut interrupt, &mut terminate).await;
    say("stopping at the next consistent point; press Ctrl-C again to stop at once\n");
    cancel.cancel();
    either(&mut interrupt, &mut terminate).await;
    say(&format!(
        "stopped at once; to go on: `{}`\n",
        same_command()
    ));
    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
