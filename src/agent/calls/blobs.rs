//! Requests about the blobs of a host's store.

use serde::{Deserialize, Serialize};

use super::super::{Call, Effect};
use crate::oci::Blob;

/// Which of these blobs the host's store does not have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobsMissing {
    /// The blobs.
    pub blobs: Vec<Blob>,
}

impl Call for BlobsMissing {
    type Reply = Vec<Blob>;
    const NAME: &'static str = "blobs-missing";
    const EFFECT: Effect = Effect::Reads;
}

/// Puts blobs into the host's store. Their content is the call's data, one after
/// the other in this order. What has arrived whole when it fails is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutBlobs {
    /// The blobs.
    pub blobs: Vec<Blob>,
}

impl Call for PutBlobs {
    type Reply = ();
    const NAME: &'static str = "put-blobs";
    const EFFECT: Effect = Effect::Adds;
}

/// Reads blobs from the host's store. Their content is the reply's data, one after the
/// other in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetBlobs {
    /// The blobs.
    pub blobs: Vec<Blob>,
}

impl Call for GetBlobs {
    type Reply = ();
    const NAME: &'static str = "get-blobs";
    const EFFECT: Effect = Effect::Reads;
}

/// What the names in the host's store stand for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadTags {}

impl Call for ReadTags {
    type Reply = Vec<(String, Blob)>;
    const NAME: &'static str = "read-tags";
    const EFFECT: Effect = Effect::Reads;
}
