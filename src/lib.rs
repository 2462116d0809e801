//! chasi turns a recipe into a cluster image, moves it to machines, and brings a
//! cluster from whatever it is to what the image and the Clusterfile say, without
//! ever leaving a host half changed.
//!
//! The rooms, from the top down. A room calls only rooms below its own line; the
//! test `tests/architecture.rs` keeps it so.

// line: cli
// line: cluster, lab
// line: agent
// line: distro, node
// line: kube, remote, host, build
// line: oci, spec
// line: command
// line: event, digest, file
// line: error

// Only here, not in integration tests, which are crates of their own.
#![warn(clippy::unwrap_used, clippy::expect_used)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod build;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod digest;
pub mod distro;
pub mod error;
pub mod event;
pub mod file;
pub mod host;
pub mod kube;
pub mod lab;
pub mod node;
pub mod oci;
pub mod remote;
pub mod spec;
