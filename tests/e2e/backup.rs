//! Backups: a cluster whose hosts are all wiped is there again, with its objects. Takes
//! minutes, and belongs to `scripts/campaign`:
//! `cargo test --features e2e --test e2e -- --ignored --nocapture a_cluster_whose_hosts_are_wiped`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::lab::{chasi, succeed, until};
use crate::site::{Hosts, SPARE, Site, WORKER};
use crate::watched::Watched;

/// What a user accepts.
const BOUND: Duration = Duration::from_secs(30 * 60);
const VAULT: &str = include_str!("backup.yaml");

/// A command that must fail, with this code; gives what it said.
fn refused(output: Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// The first text in quotes behind a key of a Clusterfile.
fn quoted(clusterfile: &str, key: &str) -> String {
    let (_, rest) = clusterfile.split_once(key).unwrap();
    rest.split('"').nth(1).unwrap().to_owned()
}

/// What identifies the objects that must come back.
fn objects(site: &Site) -> String {
    let path =
        "-o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}'";
    let kinds = "configmaps,serviceaccounts,deployments,replicasets";
    site.kubectl("node-1", &format!("-n vault get {kinds} {path}"))
}

#[test]
#[ignore = "takes minutes: scripts/campaign runs it"]
fn a_cluster_whose_hosts_are_wiped_is_restored_with_its_objects() {
    let mut site = Site::shared();
    site.installed();
    site.kubectl_with("node-1", "apply", VAULT);
    let rollout = "-n vault rollout status deployment/keeper --timeout=120s";
    site.kubectl("node-1", rollout);
    let before = objects(&site);
    let token = site.kubectl("node-1", "-n vault create token keeper --duration=2h");

    // To a directory for a recipient, and for anyone to another host.
    let key = age::x25519::Identity::generate();
    let identity = site.path("key.txt");
    fs::write(&identity, key.to_string().expose_secret()).unwrap();
    let backups = site.path("backups");
    let place = backups.to_str().unwrap().to_owned();
    let recipient = key.to_public().to_string();
    let create = [
        "backup",
        "create",
        "--to",
        &place,
        "--recipient",
        &recipient,
    ];
    let missing = refused(site.chasi(&create).output().unwrap(), 8);
    assert!(missing.contains("mkdir -p"), "{missing}");
    fs::create_dir(&backups).unwrap();
    let begin = Instant::now();
    let made = site.json(&create);
    println!(
        "backup: {:?}, {} bytes of a snapshot of {}",
        begin.elapsed(),
        made["bytes"],
        made["snapshot_bytes"]
    );
    let file = PathBuf::from(made["file"].as_str().unwrap());
    assert_eq!(made["left_out"], serde_json::json!([]));
    elsewhere(&site);

    // It is listed as whole, and one that was changed is not.
    let list = |directory: &Path| {
        chasi()
            .args(["backup", "list", "--format", "json"])
            .arg(directory)
            .output()
            .unwrap()
    };
    let listed: Value = serde_json::from_slice(&list(&backups).stdout).unwrap();
    assert_eq!(
        (&listed[0]["whole"], &listed[0]["encrypted"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    let damaged = site.path("damaged");
    fs::create_dir(&damaged).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let copy = damaged.join(file.file_name().unwrap());
    fs::write(&copy, bytes).unwrap();
    refused(list(&damaged), 7);

    // What is written later is not in it. A cluster that is there is not overwritten.
    site.kubectl(
        "node-1",
        "-n vault create configmap late --from-literal=word=after",
    );
    let file = file.to_str().unwrap();
    let restore = [
        "backup",
        "restore",
        file,
        "--identity",
        identity.to_str().unwrap(),
        "--yes",
    ];
    let held = refused(site.chasi(&restore).output().unwrap(), 4);
    assert!(held.contains("chasi delete"), "{held}");
    let without = ["backup", "restore", file, "--yes"];
    let locked = refused(site.chasi(&without).output().unwrap(), 3);
    assert!(locked.contains("--identity"), "{locked}");

    // All hosts are wiped, and the worker is replaced by another machine.
    site.bare();
    let clusterfile = site.clusterfile();
    let host = |name: &str| site.lab.host(name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let clusterfile = clusterfile
        .replace(WORKER, SPARE)
        .replace(&site.lab.address(WORKER), &site.lab.address(SPARE))
        .replace(
            &text(&host(WORKER)["hostKey"]),
            &text(&host(SPARE)["hostKey"]),
        );
    site.write("restored.yaml", &clusterfile);
    let with = |arguments: &[&str]| site.chasi_with(arguments, "restored.yaml");
    let mut wrong = restore;
    wrong[2] = copy.to_str().unwrap();
    refused(with(&wrong).output().unwrap(), 7);

    // The controller is killed in the middle. Nobody else goes on from there.
    let begin = Instant::now();
    let watched = [&restore[..], &["--format", "json"]].concat();
    let mut first = Watched::start(with(&watched));
    first.wait_for_phase("restore");
    first.crash();
    let begun = refused(with(&["run", "--yes"]).output().unwrap(), 4);
    assert!(begun.contains("chasi backup restore"), "{begun}");
    let report = Watched::start(with(&watched)).succeed();
    println!(
        "restore: {:?}, phases {}",
        begin.elapsed(),
        report["phases"]
    );

    // Everything is there, and what came later is not.
    site.kubectl("node-1", rollout);
    assert_eq!(objects(&site), before);
    until("that the old node is gone", 30, || {
        let nodes = site.kubectl("node-1", "get nodes -o name");
        match nodes.contains(WORKER) || !nodes.contains(SPARE) {
            true => Err(nodes),
            false => Ok(()),
        }
    });
    site.wait_for_pods("node-1");
    println!("all pods: {:?}", begin.elapsed());
    assert!(begin.elapsed() < BOUND);
    let word = "-n vault get configmap kept -o jsonpath='{.data.word}'";
    assert_eq!(site.kubectl("node-1", word), "before");
    // No watcher sees the past.
    let list = site.kubectl("node-1", "get --raw /api/v1/namespaces/vault/configmaps");
    let list: Value = serde_json::from_str(&list).unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let revision: u64 = revision.parse().unwrap();
    assert!(revision > 1_000_000_000, "{revision}");
    // Tokens of the old cluster are valid.
    let who = site.lab.sh(
        "node-1",
        &format!(
            "kubectl --kubeconfig /dev/null --server https://{}:6443 --certificate-authority /etc/kubernetes/pki/ca.crt --token {} auth whoami",
            site.lab.address("node-1"),
            token.trim()
        ),
    );
    assert!(who.contains("system:serviceaccount:vault:keeper"), "{who}");
    let plan = succeed(&mut with(&["run", "--dry-run", "--format", "json"]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["stages"], serde_json::json!([]), "{plan:#}");
    let left = site
        .lab
        .sh("node-1", "ls /var/lib/chasi /var/lib/chasi/cluster");
    assert!(
        !left.contains("restore") && !left.contains("backup"),
        "{left}"
    );
    site.leaves(Hosts::Unknown);
}

/// The same over SSH, not encrypted: any tool unpacks it.
fn elsewhere(site: &Site) {
    let clusterfile = site.clusterfile();
    let key = quoted(&clusterfile, "identityFiles:");
    let known = quoted(&clusterfile, "knownHosts:");
    let place = format!("ssh://root@{}/root/backups", site.lab.address(SPARE));
    let way = ["--ssh-key", &key, "--known-hosts", &known];
    site.lab.sh(SPARE, "mkdir /root/backups");
    let create = [&["backup", "create", "--to", &place][..], &way].concat();
    let made = site.json(&create);
    let name = made["file"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    let listed = succeed(
        chasi()
            .args(["backup", "list", &place, "--format", "json"])
            .args(way),
    );
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&listed[0]["whole"], listed[0]["name"].as_str()),
        (&Value::Bool(true), Some(&name[..]))
    );
    let mode = site.lab.sh(
        SPARE,
        "stat -c '%a %n' /root/backups/*; ls -A /root/backups",
    );
    assert_eq!(mode, format!("600 /root/backups/{name}\n{name}\n"));
    // Read from there as well, by a look that changes nothing and is refused.
    let file = format!("{place}/{name}");
    let restore = [&["backup", "restore", &file, "--dry-run"][..], &way].concat();
    let held = refused(site.chasi(&restore).output().unwrap(), 4);
    assert!(held.contains("chasi delete"), "{held}");
}
