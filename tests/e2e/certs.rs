//! Certificates that end are renewed while the cluster is in use. Takes minutes, and
//! belongs to `scripts/campaign`.

use serde_json::Value;

use crate::lab::{succeed, until};
use crate::site::{CONTROL_PLANES, HOSTS, Hosts, Site};

/// What `chasi certs check` finds.
fn certificates(site: &Site) -> (Option<i32>, Vec<Value>) {
    let check = ["certs", "check", "--format", "json"];
    let output = site.chasi(&check).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = found["certificates"].as_array().unwrap().clone();
    (output.status.code(), all)
}

/// The digests of keys, and of certificates.
fn digests(site: &Site, pattern: &str) -> String {
    let files = format!("cd /etc/kubernetes/pki && sha256sum {pattern}");
    let of = |host: &&str| site.lab.sh(host, &files);
    CONTROL_PLANES.iter().map(of).collect()
}

#[test]
#[ignore = "takes minutes: scripts/campaign runs it"]
fn certificates_that_end_are_renewed_one_host_after_the_other() {
    let mut site = Site::shared();
    site.installed();
    let (code, all) = certificates(&site);
    assert_eq!(code, Some(0));
    for host in HOSTS {
        assert!(all.iter().any(|one| one["host"] == host), "{host}");
    }
    let nothing = site.json(&["certs", "renew", "--yes"]);
    assert_eq!(nothing["renewed"], serde_json::json!({}));

    // All of them, for ten days: now they end soon.
    let short = site.clusterfile().replacen(
        "\nspec:\n",
        "\nspec:\n  kubernetes:\n    certificateValidity: 240h\n",
        1,
    );
    site.write("short.yaml", &short);
    let (keys, leaves) = (
        "*.key etcd/*.key",
        "apiserver*.crt front-proxy-client.crt etcd/*r.crt",
    );
    let before = (digests(&site, keys), digests(&site, leaves));
    succeed(&mut site.chasi_with(&["certs", "renew", "--all", "--yes"], "short.yaml"));
    assert_eq!(digests(&site, keys), before.0);
    assert_ne!(digests(&site, leaves), before.1);
    let (code, all) = certificates(&site);
    assert_eq!(code, Some(4));
    let soon: Vec<&Value> = all
        .iter()
        .filter(|one| one["days"].as_i64().is_some_and(|days| days < 30))
        .collect();
    // Seven and four on each control plane, and kubelet's on every host.
    assert_eq!(soon.len(), 3 * 11 + 4, "{soon:#?}");

    // Back to what the Clusterfile says, and the cluster is at work all the same.
    let report = site.json(&["certs", "renew", "--yes"]);
    assert_eq!(report["renewed"].as_object().unwrap().len(), HOSTS.len());
    assert_eq!(certificates(&site).0, Some(0));
    site.wait_for_pods("node-1");
    let make = "create deployment late --image=docker.io/library/busybox:1.37 -- sleep 600";
    site.kubectl("node-2", make);
    site.kubectl("node-3", "rollout status deployment/late --timeout=120s");
    // The API server opens its connections to kubelets anew once it sees its certificate.
    let exec = "kubectl --kubeconfig /etc/kubernetes/admin.conf exec deployment/late -- true";
    until("that the API server reaches kubelets", 60, || {
        let output = site.lab.try_sh("node-1", exec);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
    site.kubectl("node-1", "delete deployment late --wait");
    let plan = site.json(&["run", "--dry-run"]);
    assert_eq!(plan["stages"], serde_json::json!([]), "{plan:#}");
    site.leaves(Hosts::Installed);
}
