//! From a Kubefile to a cluster image.

pub mod archive;
pub mod cache;
pub mod context;
pub mod layers;
pub mod lock;
pub mod manifests;
pub mod netrc;
pub mod pattern;
pub mod pieces;
pub mod stamps;
pub mod tree;
