//! The agent's answers: a function for each request, by subject.

mod session;

use super::server::Router;

/// Everything that chasi's agent understands.
pub fn router() -> Router {
    Router::new().on(session::take_lock)
}
