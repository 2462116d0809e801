//! A Clusterfile, or its hosts section, for the hosts of a lab. Written by hand
//! and not by a serialiser, because people read it and go on from it.

use std::fmt::Write as _;

use super::{HostStatus, LabStatus};

/// kubelet's own thresholds are shares of the disk. The hosts of a lab all see the
/// machine's one disk, of which they need little, however full it is.
const EVICTION: &str = "\
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1Gi
  imagefs.available: 1Gi
imageGCHighThresholdPercent: 100
";

/// What to write.
#[derive(Clone, Debug)]
pub struct Clusterfile<'a> {
    /// The lab.
    pub lab: &'a LabStatus,
    /// How many of the hosts become control planes, the first ones; the others
    /// become workers.
    pub masters: usize,
    /// The user that chasi logs in as.
    pub user: &'a str,
    /// Whether nodes have IPv6 addresses as well.
    pub dual_stack: bool,
}

impl Clusterfile<'_> {
    /// The sections `ssh` and `hosts`, to be put below `spec`.
    pub fn sections(&self) -> String {
        let mut text = String::new();
        let lab = self.lab;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  ssh:");
        let _ = writeln!(text, "    user: {}", quote(self.user));
        let _ = writeln!(
            text,
            "    identityFiles: [{}]",
            quote(&lab.identity_file.to_string_lossy())
        );
        let _ = writeln!(
            text,
            "    knownHosts: [{}]",
            quote(&lab.known_hosts.to_string_lossy())
        );
        let _ = writeln!(text, "  hosts:");
        for (index, host) in lab.hosts.iter().enumerate() {
            let role = if index < self.masters {
                "control-plane"
            } else {
                "worker"
            };
            let addresses: Vec<_> = self.node_ips(host).iter().map(|ip| quote(ip)).collect();
            let _ = writeln!(text, "    - name: {}", host.name);
            if let Some(address) = host.addresses.first() {
                let _ = writeln!(text, "      address: {address}");
            }
            let _ = writeln!(text, "      nodeIPs: [{}]", addresses.join(", "));
            let _ = writeln!(text, "      roles: [{role}]");
            let _ = writeln!(text, "      ssh:");
            let _ = writeln!(text, "        hostKey: {}", quote(&host.host_key));
        }
        text
    }

    /// The whole file.
    pub fn whole(&self, image: &str) -> String {
        format!(
            "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata:\n  name: {}\nspec:\n  image: {}\n{}{EVICTION}",
            self.lab.name,
            quote(image),
            self.sections()
        )
    }

    /// With two interfaces, SSH uses the first and Kubernetes the second.
    fn node_ips(&self, host: &HostStatus) -> Vec<String> {
        let addresses = match host.second_addresses.as_slice() {
            [] => &host.addresses,
            second => second,
        };
        let wanted = if self.dual_stack { 2 } else { 1 };
        addresses
            .iter()
            .take(wanted)
            .map(ToString::to_string)
            .collect()
    }
}

/// A YAML double-quoted scalar: JSON's strings are a part of those.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Condition, Link, Power};

    fn lab(nics: u8) -> LabStatus {
        let hosts = (1..=2u8).map(|index| HostStatus {
            name: format!("node-{index}"),
            addresses: vec![
                format!("10.77.0.1{index}").parse().unwrap(),
                "fd00::1".parse().unwrap(),
            ],
            second_addresses: match nics {
                1 => Vec::new(),
                _ => vec![
                    format!("10.77.1.1{index}").parse().unwrap(),
                    "fd00:1::1".parse().unwrap(),
                ],
            },
            power: Power::On,
            init: None,
            host_key: "SHA256:abc".into(),
            links: vec![Link::default()],
            root: "/r".into(),
        });
        LabStatus {
            name: "demo".parse().unwrap(),
            condition: Condition::Up,
            identity_file: "/s/a b/id".into(),
            known_hosts: "/s/known_hosts".into(),
            hosts: hosts.collect(),
        }
    }

    #[test]
    fn the_first_hosts_are_control_planes() {
        let lab = lab(1);
        let file = Clusterfile {
            lab: &lab,
            masters: 1,
            user: "root",
            dual_stack: false,
        };
        insta::assert_snapshot!(file.whole("a/b:1"), @r#"
        apiVersion: chasi.dev/v1
        kind: Cluster
        metadata:
          name: demo
        spec:
          image: "a/b:1"
          ssh:
            user: "root"
            identityFiles: ["/s/a b/id"]
            knownHosts: ["/s/known_hosts"]
          hosts:
            - name: node-1
              address: 10.77.0.11
              nodeIPs: ["10.77.0.11"]
              roles: [control-plane]
              ssh:
                hostKey: "SHA256:abc"
            - name: node-2
              address: 10.77.0.12
              nodeIPs: ["10.77.0.12"]
              roles: [worker]
              ssh:
                hostKey: "SHA256:abc"
        ---
        apiVersion: kubelet.config.k8s.io/v1beta1
        kind: KubeletConfiguration
        evictionHard:
          memory.available: 100Mi
          nodefs.available: 1Gi
          imagefs.available: 1Gi
        imageGCHighThresholdPercent: 100
        "#);
    }

    #[test]
    fn kubernetes_uses_the_second_interface_if_there_is_one() {
        let lab = lab(2);
        let file = Clusterfile {
            lab: &lab,
            masters: 2,
            user: "ops",
            dual_stack: true,
        };
        let text = file.sections();
        assert!(
            text.contains("address: 10.77.0.12\n      nodeIPs: [\"10.77.1.12\", \"fd00:1::1\"]\n")
        );
        assert!(!text.contains("worker"));
    }
}
