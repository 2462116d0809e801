//! From a Kubefile to a cluster image.

pub mod context;
pub mod manifests;
pub mod pattern;
pub mod stamps;
