//! kubeadm's, kubelet's and kube-proxy's configuration, from what was asked for.
//!
//! Formats: kubeadm v1beta4, `KubeletConfiguration` v1beta1,
//! `KubeProxyConfiguration` v1alpha1, as in k8s.io/kubernetes v1.33 to v1.34.

use serde_json::{Value, json};

use super::super::{API_PORT, Cluster, ENDPOINT_PORT, File, Host, Role};
use crate::error::{Kind, Result, ResultExt};

/// Where kubelet keeps its client certificate.
pub const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// The container runtime's socket.
const RUNTIME: &str = "unix:///run/containerd/containerd.sock";

/// The configuration files of a host.
pub fn files(cluster: &Cluster, host: &Host) -> Result<Vec<File>> {
    let mut files = vec![
        File {
            path: "etc/kubernetes/kubelet-config.yaml".into(),
            mode: 0o644,
            content: yaml(&[kubelet(cluster, host)])?,
        },
        File {
            path: "etc/kubernetes/kubelet.env".into(),
            mode: 0o644,
            content: kubelet_environment(host),
        },
    ];
    if host.role == Role::ControlPlane {
        files.push(File {
            path: super::CONFIG.into(),
            mode: 0o600,
            content: kubeadm(cluster, host)?,
        });
    }
    Ok(files)
}

/// The text of `kubeadm.yaml` for a control-plane host.
pub fn kubeadm(cluster: &Cluster, host: &Host) -> Result<String> {
    yaml(&[
        initialisation(cluster, host),
        cluster_wide(cluster, host),
        shared_kubelet(cluster, host),
        proxy(cluster, host),
    ])
}

/// What must be the same for the cluster's own objects to be the same: the
/// configuration without what belongs to one host.
pub fn cluster_identity(cluster: &Cluster, host: &Host) -> Value {
    let mut configuration = cluster_wide(cluster, host);
    if let Some(server) = configuration
        .get_mut("apiServer")
        .and_then(Value::as_object_mut)
    {
        server.remove("certSANs");
    }
    json!([
        configuration,
        shared_kubelet(cluster, host),
        proxy(cluster, host)
    ])
}

/// The names and addresses that the configuration puts into the certificate of a
/// host's API server.
pub(super) fn certificate_names(cluster: &Cluster, host: &Host) -> Vec<String> {
    let configuration = cluster_wide(cluster, host);
    let names = configuration["apiServer"]["certSANs"].as_array();
    names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn initialisation(cluster: &Cluster, host: &Host) -> Value {
    let own = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {
            "advertiseAddress": host.node_ip().to_string(),
            "bindPort": API_PORT,
        },
        "nodeRegistration": {
            "name": host.name,
            "criSocket": RUNTIME,
            "imagePullPolicy": "IfNotPresent",
            "taints": host.taints,
        },
    });
    under(own, document(cluster, "InitConfiguration"))
}

fn cluster_wide(cluster: &Cluster, host: &Host) -> Value {
    let mut names: Vec<String> = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
    names.extend(host.node_ips.iter().map(ToString::to_string));
    names.extend(cluster.api_server_names.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let validity = format!("{}h", cluster.certificate_hours);
    let own = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": cluster.name,
        "kubernetesVersion": format!("v{}", cluster.version),
        "controlPlaneEndpoint": format!("{}:{ENDPOINT_PORT}", cluster.endpoint()),
        "certificatesDir": "/etc/kubernetes/pki",
        "certificateValidityPeriod": validity,
        "caCertificateValidityPeriod": format!("{}h", cluster.ca_hours),
        "networking": {
            "podSubnet": cluster.pod_cidrs.join(","),
            "serviceSubnet": cluster.service_cidrs.join(","),
            "dnsDomain": cluster.dns_domain,
        },
        "apiServer": { "certSANs": names },
        "etcd": { "local": { "dataDir": "/var/lib/etcd" } },
    });
    let mut merged = under(own, document(cluster, "ClusterConfiguration"));
    // ECDSA keys are made in no time where RSA keys take seconds on a small machine.
    default(&mut merged, "encryptionAlgorithm", json!("ECDSA-P256"));
    argument(
        &mut merged,
        "controllerManager",
        "cluster-signing-duration",
        &validity,
    );
    // Without, an API server that is stopped waits for its watches, which do not end,
    // until kubelet kills it half a minute later, and refuses connections meanwhile;
    // with it, it ends when its requests have, two seconds later at most
    // (k8s.io/apiserver, NonBlockingRunWithContext).
    argument(
        &mut merged,
        "apiServer",
        "shutdown-send-retry-after",
        "true",
    );
    merged
}

/// The kubelet configuration that is the same for every node: kubeadm keeps it in
/// the cluster for nodes that come later.
fn shared_kubelet(cluster: &Cluster, host: &Host) -> Value {
    let own = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": "/etc/kubernetes/manifests",
        "clusterDomain": cluster.dns_domain,
        "clusterDNS": cluster.dns_address().map(|address| vec![address.to_string()]).unwrap_or_default(),
        "containerRuntimeEndpoint": RUNTIME,
        "cgroupDriver": host.cgroup_driver,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true, "cacheTTL": "0s" },
            "x509": { "clientCAFile": "/etc/kubernetes/pki/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "rotateCertificates": true,
    });
    let mut merged = under(own, document(cluster, "KubeletConfiguration"));
    default(&mut merged, "healthzBindAddress", json!("127.0.0.1"));
    default(&mut merged, "healthzPort", json!(10248));
    if host.cgroup_version == 1 {
        default(&mut merged, "failCgroupV1", json!(false));
    }
    if host.swap {
        default(&mut merged, "failSwapOn", json!(false));
    }
    merged
}

/// The kubelet configuration of one host.
fn kubelet(cluster: &Cluster, host: &Host) -> Value {
    let mut configuration = shared_kubelet(cluster, host);
    if let Some(path) = &host.resolv_conf {
        default(&mut configuration, "resolvConf", json!(path));
    }
    if !host.taints.is_empty() {
        configuration["registerWithTaints"] = json!(host.taints);
    }
    configuration
}

fn proxy(cluster: &Cluster, host: &Host) -> Value {
    let own = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": cluster.pod_cidrs.join(","),
    });
    let mut merged = under(own, document(cluster, "KubeProxyConfiguration"));
    default(&mut merged, "mode", json!("iptables"));
    if !host.conntrack_writable {
        // Zero leaves the table's size as it is; kube-proxy ends where it may not
        // write it.
        default(
            &mut merged,
            "conntrack",
            json!({ "maxPerCore": 0, "min": 0 }),
        );
    }
    merged
}

fn kubelet_environment(host: &Host) -> String {
    let addresses: Vec<String> = host.node_ips.iter().map(ToString::to_string).collect();
    format!(
        "KUBELET_EXTRA_ARGS=--node-ip={} --hostname-override={}\n",
        addresses.join(","),
        host.name
    )
}

/// The user's document of that kind.
fn document<'a>(cluster: &'a Cluster, kind: &str) -> Option<&'a Value> {
    cluster
        .documents
        .iter()
        .find(|document| document["kind"] == kind)
}

/// Puts `own` over the user's document: maps are merged, anything else of `own`
/// wins.
fn under(own: Value, user: Option<&Value>) -> Value {
    fn merge(base: &mut Value, over: Value) {
        match (base, over) {
            (Value::Object(base), Value::Object(over)) => {
                for (key, value) in over {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (Value::Array(base), Value::Array(over)) if base.iter().all(Value::is_string) => {
                for value in over {
                    if !base.contains(&value) {
                        base.push(value);
                    }
                }
            }
            (base, over) => *base = over,
        }
    }
    let mut merged = user.cloned().unwrap_or(Value::Null);
    merge(&mut merged, own);
    merged
}

/// Sets a field that the user has not set.
fn default(document: &mut Value, field: &str, value: Value) {
    if let Some(fields) = document.as_object_mut() {
        fields.entry(field).or_insert(value);
    }
}

/// Gives a control-plane component an argument that the user has not given.
fn argument(document: &mut Value, component: &str, name: &str, value: &str) {
    let section = &mut document[component];
    if section.is_null() {
        *section = json!({});
    }
    if section["extraArgs"].is_null() {
        section["extraArgs"] = json!([]);
    }
    if let Some(arguments) = section["extraArgs"].as_array_mut()
        && !arguments.iter().any(|argument| argument["name"] == name)
    {
        arguments.push(json!({ "name": name, "value": value }));
    }
}

fn yaml(documents: &[Value]) -> Result<String> {
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(document).or_err(
            Kind::Failed,
            || "cannot write kubeadm's configuration as YAML",
        )?);
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn cluster() -> Cluster {
        Cluster {
            name: "demo".into(),
            version: "1.34.4".into(),
            pod_cidrs: vec!["10.244.0.0/16".into()],
            service_cidrs: vec!["10.96.0.0/16".into()],
            dns_domain: "cluster.local".into(),
            certificate_hours: 87_600,
            ca_hours: 262_800,
            api_server_names: vec!["10.0.0.9".into()],
            documents: vec![json!({
                "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "maxPods": 200, "cgroupDriver": "ignored",
            })],
            sandbox_image: "registry.k8s.io/pause:3.10.1".into(),
        }
    }

    pub fn host() -> Host {
        Host {
            name: "m1".into(),
            node_ips: vec!["10.0.0.1".parse().unwrap()],
            role: Role::ControlPlane,
            taints: Vec::new(),
            cgroup_driver: "cgroupfs".into(),
            cgroup_version: 1,
            conntrack_writable: false,
            resolv_conf: None,
            swap: false,
        }
    }

    #[test]
    fn the_users_document_lies_under_what_chasi_must_set() {
        let merged = shared_kubelet(&cluster(), &host());
        assert_eq!(merged["maxPods"], 200);
        assert_eq!(merged["cgroupDriver"], "cgroupfs");
    }

    #[test]
    fn the_identity_of_the_clusters_objects_knows_no_host() {
        let mut other = host();
        other.name = "m2".into();
        other.node_ips = vec!["10.0.0.2".parse().unwrap()];
        assert_eq!(
            cluster_identity(&cluster(), &host()),
            cluster_identity(&cluster(), &other)
        );
    }

    #[test]
    fn dns_is_the_tenth_address_of_the_services() {
        assert_eq!(cluster().dns_address(), Some("10.96.0.10".parse().unwrap()));
    }
}
