//! The cluster's own objects that kubeadm knows: CoreDNS, kube-proxy, the
//! configuration that it keeps in the cluster, and the permissions that nodes
//! need.

use std::path::Path;

use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};

/// Nodes may renew their certificates. kubeadm has the same rule in its phase
/// `bootstrap-token`, which chasi has no use for otherwise.
const PERMISSIONS: &str = include_str!("permissions.yaml");

/// Renders the addons and permissions as YAML documents.
pub fn render(tree: &Path, config_path: &Path) -> Result<String> {
    let mut text = PERMISSIONS.to_owned();
    for addon in ["kube-proxy", "coredns"] {
        let output = Command::new(super::program(tree))
            .args([
                "init",
                "phase",
                "addon",
                addon,
                "--print-manifest",
                "--config",
            ])
            .arg(config_path)
            .run()?;
        let manifest = String::from_utf8(output.stdout).or_err(Kind::Failed, || {
            format!("kubeadm's manifest of {addon} is not text")
        })?;
        if !manifest.contains("kind:") {
            return Err(Error::new(
                Kind::Failed,
                format!("kubeadm printed no manifest of {addon}"),
            ));
        }
        text.push_str("\n---\n");
        text.push_str(&manifest);
    }
    Ok(text)
}

/// Keeps kubeadm's and kubelet's configuration in the cluster, where kubeadm and
/// its users look for it.
pub fn upload_configuration(tree: &Path, config_path: &Path) -> Result<()> {
    Command::new(super::program(tree))
        .args(["init", "phase", "upload-config", "all", "--config"])
        .arg(config_path)
        .run()
        .map(|_| ())
}
