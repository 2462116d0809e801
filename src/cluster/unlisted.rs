//! Nodes that chasi made and that the Clusterfile does not name any more. Pure.
//!
//! The API and etcd know who is in the cluster, and each node the way into its host.
//! A node that somebody else made is none of chasi's, and a host that the
//! Clusterfile has by another name is still named.

use serde::{Deserialize, Serialize};

use crate::distro::EtcdMember;
use crate::kube::{NodeState, Way};
use crate::spec::{self, Roles};

/// A node that is in the cluster, and not in the Clusterfile.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Unlisted {
    /// Its name.
    pub name: String,
    /// Where SSH reaches its host, as far as that is known: its address in the
    /// cluster when nothing else is.
    pub address: String,
    /// What it does.
    pub roles: Roles,
    /// The whole way into its host, where it was noted.
    pub way: Option<Way>,
}

/// The nodes, and the members of etcd that are not even nodes, that the Clusterfile
/// does not name; by name.
pub fn unlisted(
    cluster: &spec::Cluster,
    nodes: &[NodeState],
    etcd: &[EtcdMember],
) -> Vec<Unlisted> {
    let is_listed = |name: &str, address: &str| {
        let is =
            |host: &spec::Host| host.name.as_str() == name || host.address.to_string() == address;
        cluster.hosts.iter().any(is)
    };
    let known = nodes.iter().filter(|node| node.ours).filter_map(|node| {
        let address = node.address.map(|address| address.to_string());
        let address = node
            .way
            .as_ref()
            .map(|way| way.address.clone())
            .or(address)?;
        Some(Unlisted {
            name: node.name.clone(),
            address,
            roles: roles(node),
            way: node.way.clone(),
        })
    });
    let is_node = |member: &EtcdMember| {
        let is = |node: &NodeState| node.name == member.name || node.address == member.address;
        nodes.iter().any(is)
    };
    // It began to join, and went no further.
    let members = etcd.iter().filter(|member| !is_node(member));
    let members = members.filter_map(|member| {
        Some(Unlisted {
            name: Some(&member.name).filter(|name| !name.is_empty())?.clone(),
            address: member.address?.to_string(),
            roles: Roles::ControlPlane,
            way: None,
        })
    });
    let mut found: Vec<Unlisted> = known
        .chain(members)
        .filter(|one| !is_listed(&one.name, &one.address))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn roles(node: &NodeState) -> Roles {
    let roles = node.roles();
    let has = |role: &str| roles.iter().any(|one| one == role);
    match (has("control-plane"), has("worker")) {
        (true, true) => Roles::ControlPlaneAndWorker,
        (true, false) => Roles::ControlPlane,
        (false, _) => Roles::Worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Clusterfile;

    fn cluster() -> spec::Cluster {
        let text = "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata:\n  name: shop\nspec:\n  \
            image: chasi/demo:1\n  hosts:\n    - name: m1\n      address: 10.0.0.1\n      \
            roles: [control-plane]\n    - name: w1\n      address: 10.0.0.2\n      roles: [worker]\n";
        Clusterfile::parse("Clusterfile", text, None)
            .unwrap()
            .cluster
    }

    fn node(name: &str, number: u8, role: &str) -> NodeState {
        NodeState {
            name: name.into(),
            ready: true,
            reason: None,
            version: "v1.34.4".into(),
            unschedulable: false,
            drained_by: None,
            labels: [(format!("node-role.kubernetes.io/{role}"), String::new())].into(),
            taints: Vec::new(),
            created: None,
            address: Some([10, 0, 0, number].into()),
            ours: true,
            own_labels: Default::default(),
            own_taints: Vec::new(),
            way: None,
        }
    }

    fn member(name: &str, number: u8) -> EtcdMember {
        EtcdMember {
            id: number.to_string(),
            name: name.into(),
            address: Some([10, 0, 0, number].into()),
            started: !name.is_empty(),
            learner: false,
            healthy: true,
        }
    }

    #[test]
    fn only_what_chasi_made_and_nobody_names_any_more_is_found() {
        let way = Way {
            address: "m3.site".into(),
            port: 2222,
            user: "ops".into(),
            host_key: None,
        };
        let nodes = [
            node("m1", 1, "control-plane"),
            // The Clusterfile has this host by another name.
            node("w0", 2, "worker"),
            node("w3", 5, "worker"),
            NodeState {
                way: Some(way.clone()),
                ..node("m3", 3, "control-plane")
            },
            NodeState {
                ours: false,
                ..node("foreign", 4, "worker")
            },
            NodeState {
                address: None,
                ..node("nowhere", 9, "worker")
            },
        ];
        let etcd = [
            member("m1", 1),
            member("m3", 3),
            member("m4", 7),
            member("", 8),
        ];
        let found = unlisted(&cluster(), &nodes, &etcd);
        let said: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.address.as_str(), one.roles))
            .collect();
        assert_eq!(
            said,
            [
                ("m3", "m3.site", Roles::ControlPlane),
                ("m4", "10.0.0.7", Roles::ControlPlane),
                ("w3", "10.0.0.5", Roles::Worker),
            ]
        );
        assert_eq!(found[0].way, Some(way));
    }
}
