//! The cluster's own objects that kubeadm knows: CoreDNS, kube-proxy, the
//! configuration that it keeps in the cluster, and the permissions that nodes
//! need.

use std::path::Path;

use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// Nodes may renew their certificates. kubeadm has the same rule in its phase
/// `bootstrap-token`, which chasi has no use for otherwise.
const PERMISSIONS: &str = include_str!("permissions.yaml");

/// Renders the addons and permissions as YAML documents. Without `forward` CoreDNS
/// answers for the cluster alone: where hosts have no name servers to pass other
/// questions on to, it would not start.
pub fn render(context: &Context, tree: &Path, config_path: &Path, forward: bool) -> Result<String> {
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
            .told(context)
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
        if addon == "coredns" && !forward {
            text.push_str(&without_forward(&manifest)?);
        } else {
            text.push_str(&manifest);
        }
    }
    Ok(text)
}

/// Takes the `forward` block out of the Corefile in kubeadm's manifest.
fn without_forward(manifest: &str) -> Result<String> {
    let mut kept = String::with_capacity(manifest.len());
    let mut inside = false;
    let mut found = false;
    for line in manifest.lines() {
        if line.trim_start().starts_with("forward . ") {
            inside = line.trim_end().ends_with('{');
            found = true;
        } else if inside {
            inside = line.trim() != "}";
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if found && !inside {
        return Ok(kept);
    }
    Err(Error::new(
        Kind::Failed,
        "kubeadm's configuration of CoreDNS is not as expected: it forwards nothing",
    ))
}

/// Keeps kubeadm's and kubelet's configuration in the cluster, where kubeadm and
/// its users look for it.
pub fn upload_configuration(context: &Context, tree: &Path, config_path: &Path) -> Result<()> {
    Command::new(super::program(tree))
        .args(["init", "phase", "upload-config", "all", "--config"])
        .arg(config_path)
        .told(context)
        .run()
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_forward_block_goes() {
        let manifest = "  Corefile: |\n    .:53 {\n        ready\n        forward . /etc/resolv.conf {\n           max_concurrent 1000\n        }\n        cache 30 {\n           x\n        }\n    }\n";
        assert_eq!(
            without_forward(manifest).unwrap(),
            "  Corefile: |\n    .:53 {\n        ready\n        cache 30 {\n           x\n        }\n    }\n"
        );
        assert!(without_forward("Corefile: |\n").is_err());
    }
}
