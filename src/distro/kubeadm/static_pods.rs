//! Static-pod manifests of the control plane and of etcd, as kubeadm writes them.
//!
//! Rendered at staging with the kubeadm of the staged generation itself, in
//! kubeadm's dry-run mode, so nothing of the host is touched and the manifests
//! are a function of kubeadm's version and its configuration.
//!
//! Each has a digest of itself in its container's environment: so it can be told
//! whether what runs is what the manifest says, or still what it said before
//! ([`super::running`]).

use std::fs;
use std::path::Path;

use super::super::{EtcdStart, EtcdState, File};
use crate::command::Command;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// The components in the order in which their manifests are listed.
pub(super) const COMPONENTS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Where etcd's manifest is on a host.
pub const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// The variable with a manifest's digest.
pub(super) const MARK: &str = "CHASI_MANIFEST";

/// Renders the manifests with the kubeadm in `tree` and its configuration
/// `config`.
pub fn render(context: &Context, tree: &Path, config: &str, etcd: &EtcdStart) -> Result<Vec<File>> {
    let scratch =
        tempfile::tempdir().or_err(Kind::System, || "cannot make a temporary directory")?;
    let config_path = scratch.path().join("kubeadm.yaml");
    let manifests = scratch.path().join("manifests");
    fs::write(&config_path, config)
        .and_then(|()| fs::create_dir(&manifests))
        .or_err(Kind::System, || {
            format!("cannot write into `{}`", scratch.path().display())
        })?;
    for phase in [["control-plane", "all"], ["etcd", "local"]] {
        Command::new(super::program(tree))
            .args(["init", "phase"])
            .args(phase)
            .arg("--dry-run")
            .arg("--config")
            .arg(&config_path)
            .env("KUBEADM_INIT_DRYRUN_DIR", &manifests)
            .told(context)
            .run()?;
    }
    COMPONENTS
        .iter()
        .map(|component| {
            let path = manifests.join(format!("{component}.yaml"));
            let mut content = fs::read_to_string(&path).or_err(Kind::Failed, || {
                format!("kubeadm wrote no manifest for {component}")
            })?;
            if *component == "etcd" {
                content = with_members(&content, etcd)?;
            }
            Ok(File {
                path: format!("etc/kubernetes/manifests/{component}.yaml"),
                mode: 0o600,
                content: marked(&content)?,
            })
        })
        .collect()
}

/// kubeadm knows a first member and joining ones; chasi starts all members of a
/// new cluster at once, so it writes the members itself.
fn with_members(manifest: &str, etcd: &EtcdStart) -> Result<String> {
    const FLAG: &str = "- --initial-cluster=";
    let members: Vec<String> = etcd
        .members
        .iter()
        .map(|(name, address)| match address {
            std::net::IpAddr::V4(address) => format!("{name}=https://{address}:2380"),
            std::net::IpAddr::V6(address) => format!("{name}=https://[{address}]:2380"),
        })
        .collect();
    let state = match etcd.state {
        EtcdState::New => "new",
        EtcdState::Existing => "existing",
    };
    let mut lines = Vec::new();
    let mut found = 0;
    for line in manifest.lines() {
        if let Some(indent) = line.find(FLAG).filter(|at| line[..*at].trim().is_empty()) {
            let indent = &line[..indent];
            lines.push(format!("{indent}{FLAG}{}", members.join(",")));
            lines.push(format!("{indent}- --initial-cluster-state={state}"));
            found += 1;
        } else if !line.contains("- --initial-cluster-state=") {
            lines.push(line.to_owned());
        }
    }
    if found != 1 {
        return Err(Error::new(
            Kind::Failed,
            "kubeadm's manifest of etcd does not name the cluster's members as expected",
        ));
    }
    Ok(lines.join("\n") + "\n")
}

/// A manifest with its own digest in it. Two manifests that differ in nothing else
/// have the same, and so the pod of one is not restarted for the other.
fn marked(manifest: &str) -> Result<String> {
    const FIRST: &str = "\n  containers:\n  - command:\n";
    const ENV: &str = "\n    env:\n";
    let mark = format!(
        "    - name: {MARK}\n      value: \"{}\"\n",
        Digest::of(manifest).short()
    );
    // kubeadm hands on the variables of a proxy.
    if let Some((head, rest)) = manifest.split_once(ENV) {
        return Ok(format!("{head}{ENV}{mark}{rest}"));
    }
    let (head, rest) = manifest.split_once(FIRST).ok_or_else(|| {
        Error::new(
            Kind::Failed,
            "kubeadm's manifest of a static pod has no container as expected",
        )
    })?;
    Ok(format!(
        "{head}\n  containers:\n  - env:\n{mark}    command:\n{rest}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_are_named_and_their_state_is_said_once() {
        let manifest = "spec:\n    - --initial-cluster=m1=https://10.0.0.1:2380\n    - --name=m1\n";
        let etcd = EtcdStart {
            members: vec![
                ("m1".into(), "10.0.0.1".parse().unwrap()),
                ("m2".into(), "fd00::2".parse().unwrap()),
            ],
            state: EtcdState::New,
        };
        let once = with_members(manifest, &etcd).unwrap();
        assert_eq!(
            once,
            "spec:\n    - --initial-cluster=m1=https://10.0.0.1:2380,m2=https://[fd00::2]:2380\n    - --initial-cluster-state=new\n    - --name=m1\n"
        );
        assert_eq!(with_members(&once, &etcd).unwrap(), once);
    }

    #[test]
    fn a_mark_follows_from_the_manifest_and_stands_in_the_environment() {
        let plain = "kind: Pod\nspec:\n  containers:\n  - command:\n    - etcd\n    image: x\n";
        let proxied = "kind: Pod\nspec:\n  containers:\n  - command:\n    - etcd\n    env:\n    - name: no_proxy\n      value: x\n    image: x\n";
        for (text, variables) in [(plain, 1), (proxied, 2)] {
            let read: serde_json::Value = serde_saphyr::from_str(&marked(text).unwrap()).unwrap();
            let container = &read["spec"]["containers"][0];
            assert_eq!(container["command"][0], "etcd");
            assert_eq!(container["image"], "x");
            let env = container["env"].as_array().unwrap();
            assert_eq!(env.len(), variables);
            assert_eq!(env[0]["name"], MARK);
            assert_eq!(env[0]["value"], Digest::of(text).short().to_string());
        }
        assert!(marked("spec: {}\n").is_err());
    }

    #[test]
    fn a_manifest_that_is_not_as_expected_is_refused() {
        let etcd = EtcdStart {
            members: Vec::new(),
            state: EtcdState::New,
        };
        assert!(with_members("spec: {}\n", &etcd).is_err());
    }
}
