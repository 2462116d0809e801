//! kubeadm, used phase by phase as the source of correct manifests, certificates
//! and cluster objects; each effect is a step of ours.

pub mod config;
pub mod credential;
pub mod etcd;
pub mod etcd_health;
pub mod etcd_restore;
pub mod etcd_snapshot;
pub mod etcd_version;
pub mod expiry;
pub mod objects;
pub mod pki;
pub mod recovery;
pub mod renewal;
pub mod running;
pub mod runtime;
pub mod server;
pub mod static_pods;
pub mod teardown;

use std::path::{Path, PathBuf};

/// Where kubeadm's configuration lies on a control-plane host.
pub const CONFIG: &str = "etc/kubernetes/kubeadm.yaml";

/// The kubeadm of a generation, given the generation's tree.
pub fn program(tree: &Path) -> PathBuf {
    tree.join("usr/local/bin/kubeadm")
}

/// Container images that only control planes run.
pub fn is_control_plane_image(reference: &str) -> bool {
    let repository = reference
        .rsplit_once(':')
        .map_or(reference, |(repository, _)| repository);
    matches!(
        repository.rsplit('/').next(),
        Some("kube-apiserver" | "kube-controller-manager" | "kube-scheduler" | "etcd")
    )
}
