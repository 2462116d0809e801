//! Images as users handle them: the store under attack and under load, archives
//! with skopeo on the other side, and registries, both Debian's real one and one
//! that misbehaves.

mod archive;
mod faulty;
mod names;
mod registry;
mod store;
mod support;
