//! Images as files: an OCI image layout in a tar archive or in a directory, as
//! skopeo (`oci-archive:`, `oci:`), podman and containerd read and write them.
//!
//! What is saved is deterministic: the same images give the same archive. What is
//! loaded is hostile: every blob is compared with its digest, every document and
//! every layer is checked, and only then a name is given.

mod load;
mod save;

pub use load::{Loaded, Source, load};
pub use save::{Target, save};
