//! Processes of the host.

use std::collections::HashMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::Source;

/// A process.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// Its name, at most 15 characters.
    pub name: String,
}

/// Programs that belong to Kubernetes or to a container runtime.
const KUBERNETES: [&str; 12] = [
    "containerd",
    "crio",
    "dockerd",
    "etcd",
    "k3s",
    "k3s-server",
    "kube-apiserver",
    "kube-controller",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "rke2",
];

pub(super) fn all(source: &Source) -> impl Iterator<Item = Process> {
    source.names("/proc").into_iter().filter_map(|name| {
        let id = name.parse().ok()?;
        let name = source.text(&format!("/proc/{name}/comm"))?;
        Some(Process { id, name })
    })
}

pub(super) fn of_kubernetes(source: &Source) -> Vec<Process> {
    let mut found: Vec<_> = all(source)
        .filter(|process| KUBERNETES.contains(&process.name.as_str()))
        .collect();
    found.sort_by_key(|process| process.id);
    found
}

/// Programs that manage the packet filter and are in use: firewalld as a process, ufw
/// by its own switch.
pub(super) fn firewalls(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if all(source).any(|process| process.name == "firewalld") {
        found.push("firewalld".to_owned());
    }
    let ufw = source.text("/etc/ufw/ufw.conf").unwrap_or_default();
    if ufw.lines().any(|line| line.trim() == "ENABLED=yes") {
        found.push("ufw".to_owned());
    }
    found
}

/// Which process has which socket, by the sockets' numbers.
pub(super) fn sockets(source: &Source) -> HashMap<u64, Process> {
    let mut sockets = HashMap::new();
    for process in all(source) {
        let directory = source.path(&format!("/proc/{}/fd", process.id));
        for file in fs::read_dir(directory).into_iter().flatten().flatten() {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let socket = target
                .to_str()
                .and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(number) = socket.and_then(|number| number.parse().ok()) {
                sockets.insert(number, process.clone());
            }
        }
    }
    sockets
}
