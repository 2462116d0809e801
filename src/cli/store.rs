//! The user's store, and how images in it are named on the command line.

use super::config;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::oci::{Blob, Reference, Store};

/// Opens the user's store. Makes it when there is none.
pub fn open() -> Result<Store> {
    Store::create(&config::store()?)
}

/// An image in the store, as it is named on the command line.
#[derive(Clone, Debug)]
pub enum Which {
    /// By its name.
    Name(Reference),
    /// By its digest alone.
    Digest(Digest),
}

impl std::str::FromStr for Which {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("sha256:") {
            return Ok(Which::Digest(text.parse()?));
        }
        Ok(Which::Name(text.parse()?))
    }
}

impl Which {
    /// Finds the image: one of its names, and the content.
    pub fn find(&self, store: &Store) -> Result<(Reference, Blob)> {
        match self {
            Which::Name(name) => Ok((name.clone(), store.resolve(name)?)),
            Which::Digest(digest) => store
                .tags()?
                .into_iter()
                .find(|(_, blob)| blob.digest == *digest)
                .ok_or_else(|| {
                    Error::new(
                        Kind::NotFound,
                        format!("there is no image {digest} in the store"),
                    )
                    .hint("`chasi images` lists what is there")
                }),
        }
    }
}
