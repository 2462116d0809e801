//! What goes into a host's generation beside the image: what its templates can
//! refer to, and files that the Clusterfile and the other hosts decide.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Known;
use crate::distro::kubeadm::config;
use crate::distro::{self, Role};
use crate::error::{Kind, Result, ResultExt};
use crate::host::recipe::{Block, ExtraFile};
use crate::node::balancer::{Seeds, seeds};
use crate::oci::image::Rootfs;
use crate::spec;
use crate::spec::cluster::NodeAddresses;

/// What templates of the image can refer to; `images/README.md` lists it.
pub(super) fn context(
    cluster: &spec::Cluster,
    shared: &distro::Cluster,
    known: &Known,
    rootfs: &Rootfs,
    node: &distro::Host,
) -> Value {
    let mut environment: BTreeMap<String, Value> = rootfs
        .env
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    for (name, value) in cluster.env.iter().chain(&known.host.env) {
        environment.insert(name.to_string(), json!(value));
    }
    json!({
        "host": {
            "name": node.name,
            "node_ip": node.node_ip().to_string(),
            "node_ips": node.node_ips,
            "role": node.role,
            "facts": {
                "arch": known.facts.architecture,
                "cgroup_version": node.cgroup_version,
                "restrict_oom_score_adj": known.facts.restrict_oom_score_adj,
            },
        },
        "cluster": {
            "name": shared.name,
            "version": shared.version,
            "pod_cidrs": shared.pod_cidrs,
            "service_cidrs": shared.service_cidrs,
            "cluster_dns": shared.dns_address().map(|address| address.to_string()),
            "dns_domain": shared.dns_domain,
            "api_host": shared.endpoint(),
            "api_port": distro::ENDPOINT_PORT,
            "registry_port": distro::REGISTRY_PORT,
            "registry_fall_through": cluster.registry.fall_through,
            "sandbox_image": shared.sandbox_image,
            "cgroup_driver": node.cgroup_driver,
            "env": environment,
        },
    })
}

/// Files of the distribution, of chasi's own services, and of the Clusterfile.
pub(super) fn files(
    cluster: &spec::Cluster,
    shared: &distro::Cluster,
    node: &distro::Host,
    servers: &[SocketAddr],
) -> Result<Vec<ExtraFile>> {
    let mut files = Vec::new();
    let mut add = |path: &str, mode: u32, content: String| -> Result<()> {
        let path = path
            .trim_start_matches('/')
            .parse()
            .or_err(Kind::Failed, || {
                format!("`{path}` cannot be a path in a generation")
            })?;
        files.push(ExtraFile {
            path,
            mode,
            content,
        });
        Ok(())
    };
    for file in config::files(shared, node)? {
        add(&file.path, file.mode, file.content)?;
    }
    for unit in crate::node::UNITS {
        add(unit.path, 0o644, unit.content.to_owned())?;
    }
    let local = (node.role == Role::ControlPlane)
        .then(|| SocketAddr::new(node.node_ip(), distro::API_PORT));
    let servers = Seeds {
        local,
        servers: servers.to_vec(),
    };
    add(seeds::PATH, 0o644, servers.content())?;
    if !cluster.settings.sysctls.is_empty() {
        let lines: String = cluster
            .settings
            .sysctls
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        add("etc/sysctl.d/95-chasi-clusterfile.conf", 0o644, lines)?;
    }
    if !cluster.settings.modules.is_empty() {
        let lines: String = cluster
            .settings
            .modules
            .iter()
            .map(|name| format!("{name}\n"))
            .collect();
        add("etc/modules-load.d/95-chasi-clusterfile.conf", 0o644, lines)?;
    }
    Ok(files)
}

/// Names that must resolve without any DNS: the cluster's endpoint, the hosts,
/// and what the Clusterfile adds.
pub(super) fn hosts_block(cluster: &spec::Cluster, shared: &distro::Cluster) -> Result<Block> {
    let mut lines = vec![format!("127.0.0.1 {}", shared.endpoint())];
    for host in &cluster.hosts {
        if let NodeAddresses::Given(addresses) = &host.node_addresses {
            lines.extend(
                addresses
                    .iter()
                    .map(|address| format!("{address} {}", host.name)),
            );
        }
    }
    for entry in &cluster.settings.hosts {
        let names: Vec<String> = entry.names.iter().map(ToString::to_string).collect();
        lines.push(format!("{} {}", entry.ip, names.join(" ")));
    }
    Ok(Block {
        path: "etc/hosts".parse().or_err(
            Kind::Failed,
            || "`etc/hosts` cannot be a path in a generation",
        )?,
        content: lines.join("\n") + "\n",
    })
}
