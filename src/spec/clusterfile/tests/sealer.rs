//! Sealer's Clusterfiles.

use super::*;
use crate::spec::cluster::{Effect, EnvironmentValue};

const FILE: &str = "apiVersion: sealer.cloud/v2
kind: Cluster
metadata:
  name: my-cluster
  annotations: {a: b}
spec:
  image: kubernetes:v1.34.4
  env:
    - key1=value1
    - key2=value2;value3
    - key3=a
    - key3=b
  ssh:
    passwd: xxxx
    pk: ~/.ssh/id_rsa
    pkPasswd:
    user: root
    port: '2222'
  hosts:
    - ips: [ 192.168.0.2, 192.168.0.3-192.168.0.4 ]
      roles: [ master ]
      env: [ etcd-dir=/data/etcd ]
    - ips: [ 192.168.0.5 ]
      roles: [ node ]
      ssh: { user: admin, passwd: yyyy }
      labels: { disk: ssd }
      taints: [ 'a=b:NoSchedule' ]
  hostAliases:
    - ip: 192.168.0.9
      hostnames: [ registry.local ]
  containerRuntime: { type: containerd }
status: {}
---
apiVersion: sealer.cloud/v1
kind: Config
metadata: { name: calico }
spec:
  path: etc/custom-resources.yaml
  data: |
    a: b
---
kind: ClusterConfiguration
networking:
  podSubnet: 100.64.0.0/10
";

#[test]
fn a_sealer_users_file_works_as_it_is() {
    let text = FILE.replace("100.64.0.0/10", "100.64.0.0/12");
    let file = read(&text).unwrap();
    let cluster = file.cluster;
    let names: Vec<_> = cluster
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "node-192-168-0-2",
            "node-192-168-0-3",
            "node-192-168-0-4",
            "node-192-168-0-5"
        ]
    );
    let master = cluster.hosts.get("node-192-168-0-3").unwrap();
    assert_eq!(master.roles, Roles::ControlPlane);
    assert_eq!(master.ssh.login.port, 2222);
    assert_eq!(
        master.ssh.login.identities,
        Identities::Named(vec!["/home/me/.ssh/id_rsa".into()])
    );
    assert_eq!(
        master.env["etcd-dir"],
        EnvironmentValue::One("/data/etcd".into())
    );
    let node = cluster.hosts.get("node-192-168-0-5").unwrap();
    assert!(matches!(node.ssh.privilege, Privilege::Sudo(None)));
    let Some(SecretSource::Clear(password)) = &node.ssh.login.password else {
        panic!("the password is not the host's own");
    };
    assert_eq!(password.reveal(), "yyyy");
    assert!(!format!("{node:?}").contains("yyyy"));
    assert_eq!(node.taints[0].effect, Effect::NoSchedule);
    for key in ["key2", "key3"] {
        assert!(matches!(&cluster.env[key], EnvironmentValue::Many(values) if values.len() == 2));
    }
    assert!(!cluster.settings.set_hostname);
    assert_eq!(
        cluster.settings.hosts[0].names[0].as_str(),
        "registry.local"
    );
    assert_eq!(cluster.overrides[0].path, "etc/custom-resources.yaml");
    assert_eq!(cluster.overrides[0].data, "a: b\n");
    assert_eq!(cluster.network.pod_cidrs[0].to_string(), "100.64.0.0/12");
    let warnings: Vec<_> = file.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(warnings, [14, 25], "two secrets in clear");
}

#[test]
fn what_cannot_be_honoured_is_told() {
    insta::assert_snapshot!(complaints(
        "apiVersion: sealer.cloud/v2
kind: Cluster
metadata: {name: my-cluster}
spec:
  image: kubernetes:v1.34.4
  cmd: [helm install x]
  appNames: [a]
  registry: {localRegistry: {domain: sea.hub}}
  dataRoot: /data
  containerRuntime: {type: docker}
  env: [nonsense, 1x=y]
  ssh: {passwd: xxxx, encrypted: true, port: ssh, pwd: x}
  hosts:
  - ips: [10.0.0.1, 10.0.0.9-10.0.0.2, a b]
    roles: [master]
  - ips: []
    roles: [node, db]
---
apiVersion: sealer.aliyun.com/v1alpha1
kind: Plugin
metadata: {name: SHELL}
spec: {action: PostInstall, on: role=node, data: x}
---
apiVersion: sealer.cloud/v1
kind: Plugin
spec: {type: TAINT, action: PreGuest, data: x}
---
apiVersion: sealer.cloud/v2
kind: Application
spec: {cmds: []}
---
apiVersion: sealer.cloud/v1
kind: Config
spec: {path: ../etc/passwd, data: x, strategy: merge, process: 'value|toBase64'}
---
apiVersion: sealer.cloud/v2
kind: Cluster
---
apiVersion: sealer.cloud/v1
kind: Cluster
"
    ));
}
