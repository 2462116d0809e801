//! The node service, as the hosts run it: the real binary on sockets that the test
//! holds as systemd does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and shows what the service logged"
)]

mod api;
mod balancer;
mod host;
mod registry;
