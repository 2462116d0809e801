//! What the user wrote: the Kubefile and the Clusterfile, parsed with positions,
//! with defaults, validated. Nothing outside the text is looked at.

pub mod certificate;
pub mod cluster;
pub mod clusterfile;
pub mod kubefile;
pub mod name;
pub mod network;
pub mod patch;
pub mod plugin;
mod text;

pub use cluster::{
    Cluster, Effect, Environment, EnvironmentValue, FileOverride, Host, Hosts, HostsEntry,
    Kubernetes, Network, NodeAddresses, Plugin, Registry, Roles, Settings, Ssh, Swap, Taint,
};
pub use clusterfile::Clusterfile;
pub use text::{Invalid, Place};
