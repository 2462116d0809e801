//! kubeadm's documents beside a cluster.

use serde_json::json;

use super::*;

fn beside(document: &str) -> String {
    format!("{}---\n{document}", with(""))
}

#[test]
fn what_chasi_has_fields_for_is_taken_over_and_the_rest_kept() {
    let text = beside(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
networking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16, dnsDomain: example.local}
certificateValidityPeriod: 8760h0m0s
kubernetesVersion:
clusterName: demo
apiServer:
  certSANs: [api.example.com, 10.9.9.9]
  extraArgs:
  - {name: audit-log-maxage, value: '30'}
etcd: {local: {dataDir: /var/lib/etcd, extraArgs: [{name: quota-backend-bytes, value: '8589934592'}]}}
encryptionAlgorithm: RSA-2048
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 200
clusterDomain: example.local
cgroupDriver: systemd
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.1.0.0/16
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {criSocket: 'unix:///run/containerd/containerd.sock'}
",
    );
    let cluster = read(&text).unwrap().cluster;
    assert_eq!(cluster.network.pod_cidrs[0].to_string(), "10.1.0.0/16");
    assert_eq!(cluster.network.service_cidrs[0].to_string(), "10.2.0.0/16");
    assert_eq!(cluster.network.dns_domain.as_str(), "example.local");
    assert_eq!(cluster.kubernetes.certificate_validity.to_string(), "1y");
    assert_eq!(cluster.kubernetes.api_server_cert_sans.len(), 2);
    insta::assert_snapshot!(serde_json::to_string_pretty(&cluster.kubeadm).unwrap());
}

#[test]
fn arguments_of_older_versions_become_lists() {
    let text = beside(
        "apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
apiServer:
  extraArgs: {audit-log-maxage: 30, authorization-mode: 'Node,RBAC'}
  timeoutForControlPlane: 4m0s
scheduler: {extraArgs: {v: '4'}}
",
    );
    let file = read(&text).unwrap();
    assert_eq!(
        serde_json::Value::Object(file.cluster.kubeadm.cluster),
        json!({
            "apiServer": { "extraArgs": [
                { "name": "audit-log-maxage", "value": "30" },
                { "name": "authorization-mode", "value": "Node,RBAC" },
            ] },
            "scheduler": { "extraArgs": [{ "name": "v", "value": "4" }] },
        })
    );
    assert_eq!(
        file.warnings[0].message,
        "`timeoutForControlPlane` has no effect: chasi has its own deadlines"
    );
}

#[test]
fn what_chasi_decides_is_refused_when_it_differs() {
    insta::assert_snapshot!(complaints(&beside(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.19.8
controlPlaneEndpoint: apiserver.cluster.local:6443
imageRepository: sea.hub:5000/library
certificatesDir: /etc/pki
clusterName: other
networking: {podSubnet: 10.1.0.0}
etcd: {external: {endpoints: []}, local: {dataDir: /data, extraArgs: [{name: name, value: x}, {value: y}]}}
apiServer: {certSANs: [a b], extraArgs: {feature-gates: A=true, x: }}
controllerManager: {extraArgs: 1}
dns: {disabled: true}
aipServer: {}
---
apiVersion: kubeadm.k8s.io/v1beta9
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.0.0.1, bindPort: 7443}
nodeRegistration: {name: x, taints: [], ignorePreflightErrors: [all]}
bootstrapTokens: []
---
kind: JoinConfiguration
discovery: {bootstrapToken: {token: abcdef.0123456789abcdef}}
---
kind: KubeletConfiguration
clusterDNS: [10.96.0.10]
clusterDomain: other.local
maxPod: 200
---
kind: KubeletConfiguration
---
kind: KubeProxyConfiguration
clusterCIDR: 10.3.0.0/16
"
    )));
}

#[test]
fn two_places_that_differ_are_told() {
    let text = with("  network: {podCIDRs: [10.7.0.0/16], dnsDomain: a.local}\n")
        + "---\nkind: ClusterConfiguration\nnetworking: {podSubnet: 10.8.0.0/16, dnsDomain: b.local}\n";
    insta::assert_snapshot!(complaints(&text), @r"
    11:25 [10.8.0.0/16] `podSubnet` is `10.7.0.0/16` elsewhere in the file
        keep one of the two
    11:49 [b.local] `dnsDomain` is `a.local` in the cluster's `spec`
        keep one of the two
    ");
}

#[test]
fn gates_and_node_networks_reach_every_component() {
    let text = with(
        "  kubernetes: {featureGates: {Foo: true, Bar: false}}
  network: {podCIDRs: [10.244.0.0/16], nodeCIDRMaskSizes: {ipv4: 25}}
",
    );
    let kubeadm = read(&text).unwrap().cluster.kubeadm;
    let gates = json!({ "name": "feature-gates", "value": "Bar=false,Foo=true" });
    assert_eq!(kubeadm.cluster["apiServer"]["extraArgs"], json!([gates]));
    assert_eq!(kubeadm.cluster["scheduler"]["extraArgs"], json!([gates]));
    let size = json!({ "name": "node-cidr-mask-size", "value": "25" });
    assert_eq!(
        kubeadm.cluster["controllerManager"]["extraArgs"],
        json!([gates, size])
    );
    let gates = json!({ "Bar": false, "Foo": true });
    assert_eq!(kubeadm.kubelet["featureGates"], gates);
    assert_eq!(kubeadm.kube_proxy["featureGates"], gates);
}
