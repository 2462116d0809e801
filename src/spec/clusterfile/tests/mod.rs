//! What a Clusterfile may say, and what it is told when it says something else.

mod example;
mod kubeadm;
mod sealer;
mod validation;

use std::path::Path;

use super::*;
use crate::spec::cluster::{
    HostKey, Identities, NodeAddresses, Privilege, Roles, SecretSource, Swap,
};

fn read(text: &str) -> Result<Clusterfile> {
    Clusterfile::parse("dir/Clusterfile", text, Some(Path::new("/home/me")))
}

/// A right Clusterfile with `more` at the end of its `spec`.
fn with(more: &str) -> String {
    format!(
        "apiVersion: chasi.dev/v1\n\
         kind: Cluster\n\
         metadata: {{name: demo}}\n\
         spec:\n  \
           image: chasi/demo:1.34.4\n  \
           hosts:\n  \
           - {{name: m1, address: 10.0.0.1, roles: [control-plane]}}\n{more}"
    )
}

/// Every error with line, column, marked text and hints.
pub(super) fn complaints(text: &str) -> String {
    let error = match read(text) {
        Ok(file) => {
            let lines = file
                .warnings
                .iter()
                .map(|warning| format!("{}: warning: {}\n", warning.line, warning.message));
            return lines.collect();
        }
        Err(error) => error,
    };
    let mut lines = String::new();
    for error in std::iter::once(&error).chain(error.others()) {
        assert_eq!(error.kind(), Kind::Input);
        let snippet = error.snippet().unwrap();
        let (line, column) = snippet.line_column();
        let marked = &snippet.text[snippet.span.clone()];
        lines.push_str(&format!("{line}:{column} [{marked}] {}\n", error.message()));
        for hint in error.hints() {
            lines.push_str(&format!("    {hint}\n"));
        }
    }
    lines
}

#[test]
fn the_smallest_file_gets_the_defaults() {
    let file = read(&with("")).unwrap();
    let cluster = file.cluster;
    assert!(file.warnings.is_empty());
    assert_eq!(cluster.name.as_str(), "demo");
    assert_eq!(cluster.network.pod_cidrs[0].to_string(), "10.244.0.0/16");
    assert_eq!(cluster.network.service_cidrs[0].to_string(), "10.96.0.0/16");
    assert_eq!(cluster.kubernetes.certificate_validity.to_string(), "10y");
    assert_eq!(cluster.kubernetes.ca_validity.to_string(), "30y");
    assert_eq!(cluster.settings.swap, Swap::Off);
    assert!(cluster.settings.set_hostname);
    let host = cluster.hosts.get("m1").unwrap();
    assert_eq!(host.roles, Roles::ControlPlane);
    assert_eq!(
        host.node_addresses,
        NodeAddresses::Given(vec!["10.0.0.1".parse().unwrap()])
    );
    let login = &host.ssh.login;
    assert_eq!(
        (login.user.as_str(), login.port, login.agent),
        ("root", 22, true)
    );
    assert!(matches!(host.ssh.privilege, Privilege::Root));
    assert_eq!(
        login.host_key,
        HostKey::KnownHosts(vec![
            "/home/me/.ssh/known_hosts".into(),
            "/etc/ssh/ssh_known_hosts".into()
        ])
    );
}

#[test]
fn a_host_speaks_over_the_cluster() {
    let text = with(
        "  - name: w1
    address: w1.example.com
    roles: [worker]
    ssh: {user: root, port: 2222, identityFiles: [keys/w1], hostKey: 'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'}
  ssh:
    user: admin
    identityFiles: [~/.ssh/site]
    passwordEnv: SITE_PASSWORD
    sudo: {passwordFile: /run/secret}
    jump: {address: gate.example.com}
",
    );
    let cluster = read(&text).unwrap().cluster;
    let [m1, w1] = [
        cluster.hosts.get("m1").unwrap(),
        cluster.hosts.get("w1").unwrap(),
    ];
    assert_eq!(m1.ssh.login.user.as_str(), "admin");
    assert_eq!(
        m1.ssh.login.identities,
        Identities::Named(vec!["/home/me/.ssh/site".into()])
    );
    assert!(matches!(
        &m1.ssh.privilege,
        Privilege::Sudo(Some(SecretSource::File(path))) if path == Path::new("/run/secret")
    ));
    let jump = m1.ssh.jump.as_ref().unwrap();
    assert_eq!(jump.login.user.as_str(), "admin");
    assert!(jump.login.password.is_none());
    assert_eq!(
        (w1.ssh.login.user.as_str(), w1.ssh.login.port),
        ("root", 2222)
    );
    assert_eq!(
        w1.ssh.login.identities,
        Identities::Named(vec!["dir/keys/w1".into()])
    );
    assert!(matches!(w1.ssh.privilege, Privilege::Root));
    assert!(matches!(w1.ssh.login.host_key, HostKey::Fingerprint(_)));
    assert_eq!(w1.node_addresses, NodeAddresses::DefaultRoute);
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = "apiVersion: chasi.dev/v1
kind: Cluster
metadata: {name: Demo}
spec:
  imagee: x
  image: https://x/y
  hosts:
  - name: m_1
    address: 10.0.0.256
    roles: [master]
    labels: {a b: c}
  - name: m2
    address: 10.0.0.2
    roles: []
    taints: ['a=b', {key: a, effct: NoSchedule}]
    ssh: {port: 70000, user: 12, identityFiles: ~/.ssh/x}
  kubernetes: {certificateValidity: 10 years}
  network: {podCIDRs: [10.244.0.1/16]}
  settings: {swap: of, sysctls: {ipforward: 1}, setHostname: yes}
";
    insta::assert_snapshot!(complaints(text));
}

#[test]
fn arguments_ask_for_a_cluster_as_sealer_has_it() {
    let cluster = Clusterfile::from_arguments(&Arguments {
        image: "chasi/demo:1.34.4",
        masters: "10.0.0.1,10.0.0.2-10.0.0.3",
        nodes: "w.example.com, fd00::1",
        user: Some("admin"),
        port: Some(2222),
        ..Arguments::default()
    });
    // The pod network is IPv4, and one node has no such address.
    let error = cluster.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(
        error.message(),
        "host `node-fd00-0-0-0-0-0-0-1` has no IPv4 node IP, but the pod network is IPv4"
    );
    let snippet = error.snippet().unwrap();
    assert_eq!(&snippet.text[snippet.span.clone()], " fd00::1");

    let file = Clusterfile::from_arguments(&Arguments {
        image: "chasi/demo:1.34.4",
        masters: "10.0.0.1,10.0.0.2-10.0.0.3",
        nodes: "w.example.com",
        user: Some("admin"),
        port: Some(2222),
        ..Arguments::default()
    })
    .unwrap();
    let names: Vec<_> = file
        .cluster
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "node-10-0-0-1",
            "node-10-0-0-2",
            "node-10-0-0-3",
            "w.example.com"
        ]
    );
    assert!(!file.cluster.settings.set_hostname);
    let login = &file.cluster.hosts.get("w.example.com").unwrap().ssh.login;
    assert_eq!((login.user.as_str(), login.port), ("admin", 2222));
}

#[test]
fn wrong_arguments_are_pointed_to() {
    let complaint = |masters, nodes| {
        let error = Clusterfile::from_arguments(&Arguments {
            image: "demo",
            masters,
            nodes,
            ..Arguments::default()
        })
        .unwrap_err();
        let snippet = error.snippet().unwrap();
        let marked = snippet.text[snippet.span.clone()].to_owned();
        (error.message().to_owned(), marked)
    };
    let (message, marked) = complaint("10.0.0.1,10.0.0.9-10.0.0.2", "");
    assert_eq!(message, "`10.0.0.9-10.0.0.2` is not a range of addresses");
    assert_eq!(marked, "10.0.0.9-10.0.0.2");
    let (message, _) = complaint("", "10.0.0.1");
    assert_eq!(message, "no host is a control plane");
    let (message, marked) = complaint("10.0.0.1", "10.0.0.1");
    assert_eq!(
        message,
        "the name `node-10-0-0-1` belongs to host `node-10-0-0-1` already"
    );
    assert_eq!(marked, "10.0.0.1");
}

#[test]
fn a_secret_is_never_in_an_error() {
    let text = with(
        "  ssh:\n    user: 1\n    passwd: hunter2ü\n    password: |\n      hunter2\n  envv: {}\n",
    );
    let error = read(&text).unwrap_err();
    for error in std::iter::once(&error).chain(error.others()) {
        let snippet = error.snippet().unwrap();
        assert!(!snippet.text.contains("hunter2"), "{}", snippet.text);
        assert_eq!(snippet.text.len(), text.len());
        assert!(!error.message().contains("hunter2"));
    }
}
