//! `chasi build`, run as a user runs it: a process of its own, a context, a store
//! and a cache of its own, download servers and a registry on loopback.

mod cache;
mod context;
mod downloads;
mod images;
mod registry;
mod server;
mod site;
mod store;
