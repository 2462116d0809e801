//! Backups of a cluster, and clusters made from them.
//!
//! A backup is one file ([`format`]) with everything that the cluster image and the
//! hosts do not bring: what etcd holds, the keys of the cluster's authorities, and what
//! describes the cluster. It is made by one control plane and the controller
//! ([`create`]). A cluster is made from it by what `chasi run` does, with three things
//! in between ([`restore`]): the authorities are those of the backup, each etcd gets
//! its data before it starts for the first time, and the objects of nodes that are no
//! more are removed.

mod create;
mod format;
mod key;
mod list;
mod place;
mod restore;

pub use create::{Report, Request, create};
pub use format::Manifest;
pub use key::{Identities, Recipients};
pub use list::{Listed, list};
pub use place::Place;
pub use restore::{Restoration, open};
pub(super) use restore::{admit, put_snapshot};
