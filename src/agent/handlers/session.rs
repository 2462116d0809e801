//! The session itself.

use std::time::Duration;

use crate::agent::calls::TakeLock;
use crate::agent::{Holder, Scope};
use crate::error::Result;

pub(super) async fn take_lock(scope: Scope, request: TakeLock) -> Result<()> {
    let holder = Holder {
        run: request.run,
        who: request.who,
        since: jiff::Timestamp::now(),
        process: std::process::id(),
    };
    scope
        .take_lock(&holder, Duration::from_secs(request.patience))
        .await
}
