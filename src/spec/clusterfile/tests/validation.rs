//! Each way in which a Clusterfile of chasi's kind can be wrong.

use super::*;

/// The complaints about a right file with `more` at the end of its `spec`.
fn about(more: &str) -> String {
    complaints(&with(more))
}

#[test]
fn files_that_are_no_clusterfile() {
    let all: String = [
        "",
        "# nothing\n",
        "hello",
        "- a\n- b\n",
        "a: [1\n",
        "spec:\n\t- x\n",
        "spec: x\nspec: y\n",
        "apiVersion: chasi.dev/v1\nkind: Cluster\napiVersion: kubelet.config.k8s.io/v1beta1\n",
        "apiVersion: chasi.dev/v2\nkind: Cluster\n",
        "kind: Cluster\n",
        "apiVersion: chasi.dev/v1\nkind: Clster\n",
        "apiVersion: chasi.dev/v1\n",
        "apiVersion: apps/v1\nkind: Deployment\n",
        "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {name: a}\n",
        "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: a\nspec: []\n",
        "a: &a [*b]\n",
        "a: &a {b: 1}\nc: {<<: *a}\n",
    ]
    .iter()
    .map(|text| format!("--- {text:?}\n{}", complaints(text)))
    .collect();
    insta::assert_snapshot!(all);
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let below = level - 1;
        let list = vec![format!("*a{below}"); 9].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let complaint = complaints(&text);
    assert!(complaint.contains("too many aliases"), "{complaint}");
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    assert!(complaints(&deep).contains("recursion limit exceeded"));
}

#[test]
fn an_alias_is_as_good_as_the_value() {
    let text = with(
        "  - {name: m2, address: 10.0.0.2, roles: &roles [control-plane]}
  - {name: m3, address: 10.0.0.3, roles: *roles}
",
    );
    assert_eq!(
        read(&text).unwrap().cluster.hosts.control_planes().count(),
        3
    );
    let wrong = text.replace(
        "roles: &roles [control-plane]",
        "roles: &roles [contrl-plane]",
    );
    // Both places are told: the definition, and the use.
    assert_eq!(
        complaints(&wrong)
            .matches("did you mean `control-plane`?")
            .count(),
        2
    );
}

#[test]
fn a_large_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Clusterfile");
    std::fs::write(&path, with(&format!("# {}\n", "x".repeat(1 << 20)))).unwrap();
    let error = Clusterfile::read(&path, None).unwrap_err();
    assert!(error.message().ends_with("is larger than 1 MiB"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(
        Clusterfile::read(&path, None).unwrap_err().kind(),
        Kind::Input
    );
    let missing = Clusterfile::read(&directory.path().join("none"), None).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[test]
fn hosts() {
    insta::assert_snapshot!(about(
        "  - {name: m1, address: 10.0.0.2, roles: [worker]}
  - {name: m3, address: 10.0.0.1, roles: [worker]}
  - {name: m4, address: h4, nodeIPs: [10.0.0.1], roles: [worker]}
  - {name: m5, address: 10.0.0.5, nodeIPs: [10.0.0.5, 10.0.0.6], roles: [worker]}
  - {name: m6, address: 10.0.0.7, nodeIPs: [], roles: [worker]}
  - {name: m7, address: 10.0.0.8, nodeIPs: [10.0.0.8], nodeInterface: eth0, roles: [worker]}
  - {name: m8, address: 10.244.3.1, roles: [worker]}
  - {name: m9, address: 10.0.0.9, nodeIPs: ['fd00::9'], roles: [worker]}
  - {name: m10, address: 10.0.0.10, roles: [worker], labels: {kubernetes.io/hostname: x}}
  - {name: m11, address: 10.0.0.11, roles: [worker], taints: ['a=b:NoSchedule', 'a=c:NoSchedule', 'a:NoExecute']}
  - {name: m12, address: h12, nodeInterface: averyverylonginterface, roles: [worker]}
  - name: m13
    roles: [worker]
  - m14
"
    ));
}

#[test]
fn control_planes() {
    let none = with("").replace("control-plane", "worker");
    let complaint = complaints(&none);
    assert!(
        complaint.contains("no host is a control plane"),
        "{complaint}"
    );
    let host = |number: u8| {
        format!("  - {{name: m{number}, address: 10.0.0.{number}, roles: [control-plane]}}\n")
    };
    assert_eq!(
        about(&host(2)),
        "7: warning: two control planes survive no failure: when one is lost, etcd has no majority\n"
    );
    let four: String = (2..=4).map(host).collect();
    assert_eq!(
        about(&four),
        "7: warning: 4 control planes survive no more failures than 3\n"
    );
}

#[test]
fn networks() {
    let all: String = [
        "podCIDRs: []",
        "podCIDRs: [10.244.0.0/16, 10.245.0.0/16]",
        "podCIDRs: [10.244.0.0/16, 'fd00::/48', 10.1.0.0/16]",
        "podCIDRs: [10.96.0.0/12]",
        "podCIDRs: [10.244.0.0/33]",
        "podCIDRs: [10.244.0.0]",
        "podCIDRs: ['fd00:1::/56'], serviceCIDRs: [10.96.0.0/16]",
        "serviceCIDRs: [10.0.0.0/8], podCIDRs: [192.168.0.0/16]",
        "serviceCIDRs: [10.96.0.0/29]",
        "nodeCIDRMaskSizes: {ipv4: 8}",
        "nodeCIDRMaskSizes: {ipv4: 33}",
        "nodeCIDRMaskSizes: {ipv4: 300}",
        "podCIDRs: [10.244.0.0/25], nodeCIDRMaskSizes: {ipv4: 25}, dnsDomain: Cluster",
        "podCIDRs: [10.128.0.0/9], serviceCIDRs: [172.16.0.0/16], nodeCIDRMaskSizes: {ipv4: 28}",
    ]
    .iter()
    .map(|network| {
        let more = format!(
            "  - {{name: w1, address: 10.0.0.2, roles: [worker]}}\n  network: {{{network}}}\n"
        );
        format!("--- {network}\n{}", about(&more))
    })
    .collect();
    insta::assert_snapshot!(all);
}

#[test]
fn both_families_need_both_addresses() {
    let dual = "  network: {podCIDRs: [10.244.0.0/16, 'fd00:10:244::/56']}\n";
    assert!(about(dual).contains("host `m1` has no IPv6 node IP"));
    let text = with(dual).replace("roles:", "nodeIPs: [10.0.0.1, 'fd00::1'], roles:");
    let cluster = read(&text).unwrap().cluster;
    // The services follow the pods.
    let services: Vec<_> = cluster
        .network
        .service_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(services, ["10.96.0.0/16", "fd00:10:96::/112"]);
}

#[test]
fn access() {
    insta::assert_snapshot!(about(
        "  - {name: w1, address: 10.0.0.2, roles: [worker], ssh: {hostKey: 'MD5:00', port: 0}}
  ssh:
    hostKey: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
    passwordFile: a
    passwordEnv: B
    identityFiles: [~other/x, '']
    user: a b
    agent: yes
    jump: {adress: x}
"
    ));
}

#[test]
fn one_key_cannot_belong_to_two_hosts() {
    let key = "ssh: {hostKey: 'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'}";
    let more = format!("  - {{name: w1, address: 10.0.0.2, roles: [worker], {key}}}\n");
    let text = with(&more).replace(
        "roles: [control-plane]",
        &format!("roles: [control-plane], {key}"),
    );
    assert!(complaints(&text).contains("belongs to host `m1` already"));
}

#[test]
fn settings() {
    insta::assert_snapshot!(about(
        "  kubernetes:
    certificateValidity: 20y
    caValidity: 10y
    apiServerCertSANs: [a b, '*.example.com']
    featureGates: {foo: true, Bar: 1}
  controlPlaneEndpoint: https://vip:6443
  settings:
    modules: [a/b]
    swap: maybe
    hosts: [{ip: 10.0.0.300, names: []}, {ip: 10.0.0.3, names: []}]
    sysctls: {vm.swappiness: 10, kernel: 1}
  registry: {fallThroug: true}
  env: {1A: x, B: [1, two], C: {}}
"
    ));
}

#[test]
fn an_authority_outlives_what_it_signs_unless_it_is_told_not_to() {
    let cluster = read(&with("  kubernetes: {certificateValidity: 50y}\n"))
        .unwrap()
        .cluster;
    assert_eq!(cluster.kubernetes.ca_validity.to_string(), "50y");
}

#[test]
fn values_of_variables_are_as_they_were_written() {
    let cluster = read(&with(
        "  env: {VERSION: 1.30, ON: true, LIST: [1.10, a]}\n  settings: {sysctls: {net.ipv4.ip_forward: 1}}\n",
    ))
    .unwrap()
    .cluster;
    let env = serde_json::to_value(&cluster.env).unwrap();
    assert_eq!(
        env,
        serde_json::json!({ "VERSION": "1.30", "ON": "true", "LIST": ["1.10", "a"] })
    );
    assert_eq!(cluster.settings.sysctls["net.ipv4.ip_forward"], "1");
}

mod values {
    use crate::spec::certificate::{Fingerprint, Validity};
    use crate::spec::cluster::Taint;
    use crate::spec::network::{Address, Cidr, Endpoint};

    #[test]
    fn validities_have_units() {
        let hours = |text: &str| {
            text.parse::<Validity>()
                .map(|validity| validity.hours())
                .ok()
        };
        assert_eq!(hours("10y"), Some(87_600));
        assert_eq!(hours("1d"), Some(24));
        assert_eq!(hours("87600h0m0s"), Some(87_600));
        for wrong in [
            "",
            "10",
            "y",
            "-1y",
            "1.5y",
            "0h",
            "101y",
            "10m",
            "99999999999y",
            "1y2d",
            "+1d",
        ] {
            assert_eq!(hours(wrong), None, "{wrong}");
        }
        assert_eq!("8760h".parse::<Validity>().unwrap().to_string(), "1y");
    }

    #[test]
    fn networks_know_their_addresses() {
        let cidr: Cidr = "10.96.0.0/16".parse().unwrap();
        assert_eq!(cidr.nth(10), Some("10.96.0.10".parse().unwrap()));
        assert_eq!(cidr.nth(65_536), None);
        assert!(cidr.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(!cidr.overlaps(&"10.97.0.0/16".parse().unwrap()));
        assert!(!cidr.overlaps(&"::/0".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        for wrong in [
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0/8",
            "::1/64",
            "10.0.0.0/8/8",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints_have_a_port() {
        let show = |text: &str| {
            text.parse::<Endpoint>()
                .map(|endpoint| endpoint.to_string())
        };
        assert_eq!(show("vip.example.com").unwrap(), "vip.example.com:6443");
        assert_eq!(show("[fd00::1]:7443").unwrap(), "[fd00::1]:7443");
        assert_eq!(show("fd00::1").unwrap(), "[fd00::1]:6443");
        assert_eq!(show("10.0.0.1:443").unwrap(), "10.0.0.1:443");
        for wrong in [
            "a:0",
            "a:x",
            "[fd00::1",
            "https://a",
            "10.0.0.256",
            "a:b:c",
            "",
        ] {
            assert!(show(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_address_is_no_name() {
        assert!("10.0.0.256".parse::<Address>().is_err());
        assert!("fd00::g".parse::<Address>().is_err());
        assert!("Host.Example".parse::<Address>().is_ok());
    }

    #[test]
    fn taints_are_written_as_kubectl_has_them() {
        for text in ["a=b:NoSchedule", "example.com/a:NoExecute"] {
            assert_eq!(text.parse::<Taint>().unwrap().to_string(), text);
        }
        for wrong in ["a", "a:b", "a=b", ":NoSchedule", "a=b c:NoSchedule"] {
            assert!(wrong.parse::<Taint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        let text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), text);
        for wrong in ["", "SHA256:", "SHA256:47DE", "MD5:00:11", &text[7..]] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
