//! The client of registries, by the OCI distribution specification.
//!
//! Manifests and indexes are taken byte for byte and compared with their digest
//! when there is one; blobs stream into the store, which compares digest and
//! size. What breaks is tried again, blobs from where they broke. Docker's schema
//! 2 is kept as it is; schema 1 is refused.

mod challenge;
mod manifest;
mod pull;
mod push;
mod session;
mod transfer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::auth::Credentials;
use super::http::{Transport, Trust};
use super::mirror::Mirrors;
use crate::digest::Digest;

pub use pull::PulledImage;

/// How many blobs move at once, unless said otherwise.
const PARALLEL: usize = 4;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where to go instead.
    pub mirrors: Mirrors,
    /// Who we are.
    pub credentials: Credentials,
    /// Whom to trust.
    pub trust: Trust,
    /// How many blobs move at once; 0 is the default of 4.
    pub parallel: usize,
}

/// Pulls and pushes. Cheap to clone; clones share connections and tokens.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mirrors: Mirrors,
    credentials: Credentials,
    transport: Transport,
    /// Values of the header `Authorization`, by host and scope.
    tokens: Mutex<HashMap<(String, String), Token>>,
    /// Hosts for which it is known whether they speak plain HTTP.
    schemes: tokio::sync::Mutex<HashMap<String, &'static str>>,
    /// One blob is fetched once, also when several images need it.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    places: Semaphore,
}

/// The value of the header `Authorization`. Never shown.
#[derive(Clone)]
struct Token(reqwest::header::HeaderValue);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(settings: Settings) -> Self {
        let parallel = match settings.parallel {
            0 => PARALLEL,
            parallel => parallel,
        };
        Client {
            inner: Arc::new(Inner {
                mirrors: settings.mirrors,
                credentials: settings.credentials,
                transport: Transport::new(settings.trust),
                tokens: Mutex::new(HashMap::new()),
                schemes: tokio::sync::Mutex::new(HashMap::new()),
                fetching: Mutex::new(HashMap::new()),
                places: Semaphore::new(parallel),
            }),
        }
    }

    /// The rules by which it goes elsewhere.
    pub fn mirrors(&self) -> &Mirrors {
        &self.inner.mirrors
    }
}
