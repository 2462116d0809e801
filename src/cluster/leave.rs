//! What a host says when the cluster was taken off it.

use crate::event::{Context, Event};
use crate::host::leave::Left;

/// Tells what it noted; gives the files that a user had changed, and that therefore
/// stayed.
pub(super) fn kept(context: &Context, host: &str, left: Left) -> Vec<String> {
    for text in left.notes {
        let host = Some(host.to_owned());
        context.emit(Event::Warning { host, text });
    }
    left.kept
}
