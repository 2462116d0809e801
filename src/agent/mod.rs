//! Between controller and host: the program that chasi runs on a host, and the
//! protocol it is spoken to with.
//!
//! The controller copies its own binary to the host ([`InstallOptions`]), starts
//! it over SSH in a systemd scope of its own, and speaks to it over standard
//! input and output ([`connect`] gives a [`Client`]). The agent alone changes a
//! host. It changes nothing before it has the host's lock, does one change at a
//! time, and finishes the one in hand when the connection ends.
//!
//! # Protocol
//! Frames in both directions: a big-endian `u32` length of what follows (at most
//! 1 MiB), a kind (`u8`), the number of a call (`u32`), and the payload:
//! - kind 0: a [`wire::Message`] in JSON;
//! - kind 1: a part of such a message, the rest follows in the next frame;
//! - kind 2: bytes of the call's data, in this direction.
//!
//! The first frame on either side is a `hello` with the protocol's version. Then
//! the controller makes calls ([`Call`]), many at a time; each ends with one reply
//! or one error. A call can carry data in either direction, bounded by credit:
//! each side may send [`wire::WINDOW`] bytes that the other has not yet taken.
//! Events of the agent arrive in between. A peer that breaks these rules ends the
//! connection with an error; nothing it sends can make the other side panic or
//! use more than a bounded amount of memory.
//!
//! Each side asks or answers every ten seconds. A controller that hears nothing
//! for [`CONTROLLER_PATIENCE`] takes the agent for lost; an agent that hears
//! nothing for [`AGENT_PATIENCE`], which is longer, takes the controller for lost
//! and stops. So when an agent has stopped, its controller knows.
//!
//! # A new request
//! A struct in `calls.rs` with `impl Call`, an async function in `handlers/`, and
//! a line in [`handlers::router`].

mod call;
pub mod calls;
mod client;
mod exchange;
mod fanout;
mod handlers;
mod host_lock;
mod install;
mod link;
mod lock;
mod server;
mod transfer;
pub mod wire;

use std::time::Duration;

pub use call::{Call, Effect};
pub use client::Client;
pub use fanout::{Destination, distribute};
pub use handlers::router;
pub use host_lock::{Holder, HostLock};
pub use install::{InstallOptions, connect};
pub use link::{Receiver, Sender};
pub use lock::ClusterLock;
pub use server::{Router, Scope, Server};
pub use transfer::{Sent, fetch_blobs, send_blobs};

/// Where chasi keeps everything on a host.
pub const ROOT: &str = "/var/lib/chasi";

/// How long the controller waits for any sign of life of an agent.
pub const CONTROLLER_PATIENCE: Duration = Duration::from_secs(30);

/// How long an agent waits for any sign of life of its controller.
pub const AGENT_PATIENCE: Duration = Duration::from_secs(60);
