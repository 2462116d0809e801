//! From a Kubefile to a cluster image.
//!
//! A build resolves what the Kubefile names (downloads, base and included
//! cluster images), assembles the tree of each layer from files of the context,
//! downloads and archives, finds the container images that the Kubernetes objects
//! in it name, and writes: layers in parallel, each split into pieces that are
//! written again only when they changed, while container images are pulled.
//! Nothing is ever executed, so an image can be built for every platform, without
//! root.
//!
//! The same input gives the same image, wherever and whenever it is built: paths
//! are sorted, times are zero, owners and modes are normalised, and everything
//! that was resolved is compared with its digest and written into a lock file.
//!
//! A build that is killed leaves a store that is sound: blobs appear whole, and
//! the image has its name only when all of it is there.

mod archive;
mod assemble;
mod cache;
mod checksums;
mod clusters;
mod context;
mod download;
mod images;
mod layers;
mod lock;
mod manifests;
mod netrc;
mod pattern;
mod pieces;
mod plan;
mod plugins;
mod run;
mod stamps;
mod stoppable;
mod summary;
mod templates;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use cache::Cache;
pub use manifests::Unseen;
pub use netrc::Netrc;
pub use run::build;
pub use summary::{Image, Layer, Origin, Rootfs, Summary};

use crate::oci::http::Transport;
use crate::oci::{Platform, Reference, Store, registry};

/// The name of a Kubefile, unless another one is given.
pub const KUBEFILE: &str = "Kubefile";

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Request {
    /// The directory with the image's files.
    pub context: PathBuf,
    /// The Kubefile.
    pub kubefile: PathBuf,
    /// The lock file.
    pub lock_file: PathBuf,
    /// Whether everything must resolve to what the lock file says.
    pub locked: bool,
    /// The name that the image gets.
    pub reference: Reference,
    /// What hosts it is for; at least one.
    pub platforms: Vec<Platform>,
    /// Values for `ARG`.
    pub arguments: BTreeMap<String, String>,
    /// Whether layers of earlier builds may be used.
    pub reuse: bool,
}

/// What a build works with.
#[derive(Clone)]
pub struct Tools {
    /// Where the image goes, and where base and included images are looked for.
    pub store: Store,
    /// What is kept between builds.
    pub cache: Cache,
    /// For images.
    pub registry: registry::Client,
    /// For downloads.
    pub transport: Arc<Transport>,
    /// Credentials of download servers.
    pub netrc: Netrc,
}
