//! Nodes that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::lab::{chasi, succeed, until};
use crate::site::{CONTROL_PLANES, HOSTS, Hosts, SPARE, Site, WORKER, without_host};
use crate::traces::Traces;
use crate::watched::Watched;

/// Two replicas of a web server on different nodes, of which one must stay.
const SHOP: &str = include_str!("node.yaml");

/// A command that must fail, with this code; gives what it said.
fn refused(output: Output, code: i32) -> String {
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// A cluster of its own in the site's lab, and its Clusterfile.
struct Cluster<'a> {
    site: &'a Site,
    file: &'static str,
}

impl Cluster<'_> {
    /// `chasi node ARGUMENTS`, which must succeed.
    fn node(&self, arguments: &[&str]) -> String {
        let all = [&["node"], arguments].concat();
        succeed(&mut self.site.chasi_with(&all, self.file))
    }

    /// The same, whatever comes of it.
    fn try_node(&self, arguments: &[&str]) -> Output {
        let all = [&["node"], arguments].concat();
        self.site.chasi_with(&all, self.file).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.node(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// `name=address` of a host of the lab.
    fn host(&self, name: &str) -> String {
        format!("{name}={}", self.site.lab.address(name))
    }

    fn watched(&self, arguments: &[&str]) -> Watched {
        let all = [&["node"], arguments].concat();
        Watched::start(self.site.chasi_with(&all, self.file))
    }

    /// The nodes that are ready, by name.
    fn ready(&self) -> Vec<String> {
        let nodes = self.json(&["list"]);
        let nodes = nodes.as_array().unwrap();
        nodes
            .iter()
            .filter(|node| node["ready"] == true && node["problem"].is_null())
            .map(|node| node["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// How etcd is counted now, by a plan that takes this control plane out.
    fn etcd(&self, plane: &str) -> String {
        let plan = self.json(&["delete", plane, "--dry-run", "--delete-emptydir-data"]);
        plan["quorum"][0].as_str().unwrap().to_owned()
    }

    /// The Clusterfile is what the cluster is.
    fn assert_nothing_to_do(&self) {
        let look = ["run", "--dry-run", "--format", "json"];
        let plan = succeed(&mut self.site.chasi_with(&look, self.file));
        let plan: Value = serde_json::from_str(&plan).unwrap();
        assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    }

    /// Hosts are what they were before chasi came.
    fn assert_bare(&self, hosts: &[&str]) {
        let before = self.site.bare_traces.only(hosts);
        // Processes of the last login take a moment to go.
        until("that the hosts are as they were", 60, || {
            let left = before.differences(&Traces::on(&self.site.lab, hosts));
            match left.is_empty() {
                true => Ok(()),
                false => Err(left.join("\n")),
            }
        });
    }
}

/// The pods that nobody has asked to go, by their unique ids: one that was evicted
/// before may still be on its way out.
fn staying_pods(site: &Site) -> BTreeSet<String> {
    let template = "{{range .items}}{{if not .metadata.deletionTimestamp}}\
        {{.metadata.uid}} {{end}}{{end}}";
    let ids = site.kubectl(
        "node-1",
        &format!("get pods -A -o go-template='{template}'"),
    );
    ids.split_whitespace().map(str::to_owned).collect()
}

/// The containers of workloads on these nodes, by pod and name: how often they were
/// restarted, and since when they run. Pods that go, or are still to start, do not count.
fn containers(site: &Site, nodes: &[&str]) -> BTreeMap<String, String> {
    let pods = site.kubectl("node-1", "get pods -A -o json");
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let is_workload = |pod: &&Value| {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        nodes.contains(&node)
            && pod["metadata"]["deletionTimestamp"].is_null()
            && pod["metadata"]["ownerReferences"][0]["kind"] != "Node"
    };
    let mut found = BTreeMap::new();
    for pod in pods["items"].as_array().unwrap().iter().filter(is_workload) {
        let containers = pod["status"]["containerStatuses"].as_array();
        for container in containers.into_iter().flatten() {
            let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
            let running = &container["state"]["running"];
            if !running.is_null() {
                found.insert(
                    format!("{name} {uid} {}", container["name"]),
                    format!(
                        "{} restarts, {}",
                        container["restartCount"], running["startedAt"]
                    ),
                );
            }
        }
    }
    assert!(!found.is_empty(), "{pods:#}");
    found
}

/// Every container that was there is there still, and runs since then.
fn assert_none_restarted(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (container, since) in before {
        assert_eq!(after.get(container), Some(since), "{container}: {after:#?}");
    }
}

/// Begins to ask the Service again and again on the first node, which stays, a line for
/// each request.
fn start_client(site: &Site) {
    let address = site.kubectl(
        "node-1",
        "-n shop get service web -o jsonpath={.spec.clusterIP}",
    );
    let script = CLIENT.replace("ADDRESS", &address);
    let start = "systemd-run --quiet --unit=client bash /run/client";
    site.lab.sh(
        "node-1",
        &format!("cat >/run/client <<'END'\n{script}END\n{start}"),
    );
    until("that the client gets answers", 120, || {
        let log = site
            .lab
            .sh("node-1", "cat /run/client.log; : >/run/client.log");
        match log.lines().last() {
            Some("ok") => Ok(()),
            _ => Err(log),
        }
    });
}

/// What it runs.
const CLIENT: &str = r#"
ask() {
  timeout 3 bash -c 'exec 3<>/dev/tcp/ADDRESS/80; printf "GET / HTTP/1.0\r\n\r\n" >&3; grep -q here <&3'
}
while sleep 0.2; do
  if ask 2>>/run/client.log; then echo ok; else date +'failed at %T'; fi >>/run/client.log
done
"#;

#[test]
fn nodes_come_and_go_under_a_client_that_notices_nothing() {
    let mut site = Site::shared();
    site.bare();
    let mut text = site.clusterfile();
    for host in ["node-2", "node-3"] {
        text = without_host(&text, host);
    }
    let small = text.replacen("[control-plane]", "[control-plane, worker]", 1);
    let text = small.clone();
    site.write("growing", &text);
    succeed(&mut site.chasi_with(&["run", "--yes"], "growing"));
    let cluster = Cluster {
        site: &site,
        file: "growing",
    };
    site.kubectl_with("node-1", "apply", SHOP);
    site.kubectl(
        "node-1",
        "-n shop rollout status deployment web --timeout=120s",
    );
    start_client(&site);
    let stay = ["node-1", WORKER];
    let at_first = containers(&site, &stay);

    // From 1 + 1 to 3 + 2. One of those that come does not answer, and the others do
    // not wait for it. This controller has never had the image.
    let worker = cluster.host(SPARE);
    let missing = format!("node-9={}9", site.lab.address(SPARE));
    let mut part = site.chasi_with(&["node", "add", &worker, &missing, "--yes"], "growing");
    part.env("CHASI_STORE", site.path("other-store"));
    let said = refused(part.output().unwrap(), 5);
    assert!(said.contains("node-9"), "{said}");
    assert!(said.contains(&format!("+    - name: {SPARE}")), "{said}");
    assert_eq!(site.text("growing"), text);
    cluster.node(&["add", &worker, "--yes", "--write"]);
    let planes = [cluster.host("node-2"), cluster.host("node-3")];
    // What is to come later comes later.
    let [now, later] = ["chasi/demo:1.34.4", "chasi/demo:later"];
    site.write("growing", &site.text("growing").replace(now, later));
    cluster.node(&[
        "add", &planes[0], &planes[1], "--role", "both", "--yes", "--write",
    ]);
    site.write("growing", &site.text("growing").replace(later, now));
    assert_eq!(cluster.ready().len(), 5);
    assert_eq!(cluster.etcd("node-3"), "etcd now: 3 of 3 healthy, 2 needed");
    cluster.assert_nothing_to_do();
    assert_none_restarted(&at_first, &containers(&site, &stay));

    // The servers go to where nodes will leave.
    site.kubectl("node-1", &format!("cordon node-1 {WORKER}"));
    site.kubectl("node-1", "-n shop rollout restart deployment web");
    site.kubectl(
        "node-1",
        "-n shop rollout status deployment web --timeout=120s",
    );
    site.kubectl("node-1", &format!("uncordon node-1 {WORKER}"));

    // And back, by the list alone. That somebody wants the run does not mean that he
    // wants nodes to go.
    let before_the_way_back = containers(&site, &stay);
    let gone = ["node-2", "node-3", SPARE];
    site.write("growing", &small);
    let run = |more: &[&str]| {
        let run = [&["run", "--delete-emptydir-data"], more].concat();
        site.chasi_with(&run, "growing")
    };
    let plan = succeed(&mut run(&["--dry-run", "--format", "json"]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let names = |list: &Value, field: &str| {
        let names = list.as_array().unwrap().iter();
        let names = names.map(|one| one[field].as_str().unwrap().to_owned());
        names.collect::<BTreeSet<_>>()
    };
    assert_eq!(
        names(&plan["unlisted"], "name"),
        names(&plan["removal"]["steps"], "node")
    );
    assert_eq!(
        names(&plan["unlisted"], "name"),
        gone.map(str::to_owned).into()
    );
    assert_eq!(
        plan["removal"]["quorum"][0],
        "etcd now: 3 of 3 healthy, 2 needed"
    );
    let kept = run(&["--yes"]).output().unwrap();
    let said = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(kept.status.success(), "{said}");
    assert!(said.contains("--delete-unlisted"), "{said}");
    assert_eq!(names(&cluster.json(&["list"]), "name").len(), 5);
    succeed(&mut run(&["--yes", "--delete-unlisted"]));
    assert_eq!(cluster.ready(), stay);
    cluster.assert_bare(&gone);
    cluster.assert_nothing_to_do();
    assert_none_restarted(&before_the_way_back, &containers(&site, &stay));

    let log = site.lab.sh("node-1", "cat /run/client.log");
    let failed: Vec<&str> = log.lines().filter(|line| *line != "ok").collect();
    let asked = log.lines().count();
    assert!(failed.is_empty(), "of {asked} requests: {failed:?}");
    assert!(asked > 200, "only {asked} requests");
}

#[test]
fn a_drain_that_a_budget_blocks_is_named_and_given_up() {
    let mut site = Site::shared();
    site.installed();
    let cluster = Cluster {
        site: &site,
        file: "Clusterfile",
    };
    // The second replica has no place: the control planes take no such pods.
    site.kubectl_with("node-1", "apply", SHOP);
    until("that one server is ready", 180, || {
        let ready = site.kubectl(
            "node-1",
            "-n shop get deployment web -o jsonpath={.status.readyReplicas}",
        );
        match ready.as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let schedulable = || {
        let node = site.kubectl("node-1", &format!("get node {WORKER} --no-headers"));
        assert!(!node.contains("SchedulingDisabled"), "{node}");
    };

    // As kubectl: what must be allowed is named, with its option.
    let drain = ["drain", WORKER, "--ignore-daemonsets", "--timeout", "5"];
    let said = refused(cluster.try_node(&drain), 4);
    assert!(said.contains("--delete-emptydir-data"), "{said}");
    let drain = [&drain[..], &["--delete-emptydir-data"]].concat();
    let said = refused(cluster.try_node(&drain), 1);
    for part in ["`shop/web`", "Deployment web", "not drained after 5 s"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    schedulable();

    // One that can never allow it is told before any pod moves.
    let before = staying_pods(&site);
    site.kubectl(
        "node-1",
        "-n shop patch pdb web --type=merge -p '{\"spec\":{\"minAvailable\":2}}'",
    );
    until("that the budget counts anew", 120, || {
        let desired = site.kubectl(
            "node-1",
            "-n shop get pdb web -o jsonpath={.status.desiredHealthy}",
        );
        match desired.as_str() {
            "2" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let said = refused(cluster.try_node(&drain), 4);
    assert!(said.contains("never lets"), "{said}");
    assert_upgrade_would_not_begin(&cluster);
    let after = staying_pods(&site);
    assert!(before.is_subset(&after), "{before:?} became {after:?}");
    schedulable();
    site.kubectl("node-1", "delete namespace shop --wait");
    site.leaves(Hosts::Installed);
}

/// Before an upgrade the same is found, and the versions go together.
fn assert_upgrade_would_not_begin(cluster: &Cluster) {
    let check = [
        "check",
        "upgrade",
        "--only",
        "versions,drain",
        "--format",
        "json",
    ];
    let output = cluster
        .site
        .chasi_with(&check, cluster.file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |id: &str, host: &str| {
        let mut findings = report["findings"].as_array().unwrap().iter();
        let found =
            findings.find(|one| one["check"] == id && (host.is_empty() || one["host"] == host));
        found.unwrap_or_else(|| panic!("{id}: {report:#}"))
    };
    let budget = found("drain.budgets", WORKER);
    assert_eq!(budget["state"], "wrong", "{budget:#}");
    assert!(
        budget["seen"].as_str().unwrap().contains("shop/web"),
        "{budget:#}"
    );
    assert_eq!(found("drain.budgets", "node-1")["state"], "passed");
    assert_eq!(found("drain.local-data", WORKER)["state"], "wrong");
    assert_eq!(found("versions.skew", "")["state"], "passed");
}

#[test]
fn a_controller_that_is_killed_is_run_again() {
    let mut site = Site::shared();
    site.installed();
    site.write("killed", &site.clusterfile());
    let cluster = Cluster {
        site: &site,
        file: "killed",
    };
    let spare = cluster.host(SPARE);
    let killed_at = |arguments: &[&str], step: &str| {
        let mut run = cluster.watched(arguments);
        run.wait_for_step(step, None);
        run.crash();
    };
    let add = ["add", &spare, "--yes", "--write"];
    for step in ["stage the new generation", "unpack", "start kubelet"] {
        killed_at(&add, step);
    }
    cluster.node(&add);
    assert_eq!(cluster.ready(), [&HOSTS[..], &[SPARE]].concat());
    cluster.assert_nothing_to_do();

    let delete = [
        "delete",
        SPARE,
        "--yes",
        "--write",
        "--delete-emptydir-data",
    ];
    for step in ["drain", "put the host back", "remove the node's object"] {
        killed_at(&delete, step);
    }
    cluster.node(&delete);
    assert_eq!(cluster.ready(), HOSTS);
    assert_eq!(site.text("killed"), site.clusterfile());
    cluster.assert_bare(&[SPARE]);
    cluster.assert_nothing_to_do();

    let replace = [
        "replace",
        WORKER,
        &spare,
        "--yes",
        "--write",
        "--delete-emptydir-data",
    ];
    for step in ["start kubelet", "drain", "put the host back"] {
        killed_at(&replace, step);
    }
    cluster.node(&replace);
    assert_eq!(cluster.ready(), [&CONTROL_PLANES[..], &[SPARE]].concat());
    cluster.assert_bare(&[WORKER]);
    cluster.assert_nothing_to_do();

    // A node that was deleted as dead, and comes back by itself.
    site.kubectl("node-1", &format!("delete node {SPARE}"));
    site.lab.sh(SPARE, "systemctl restart kubelet");
    until("that the node has registered itself", 60, || {
        let nodes = site.kubectl("node-1", "get nodes -o name");
        match nodes.contains(SPARE) {
            true => Ok(()),
            false => Err(nodes),
        }
    });
    let said = refused(cluster.try_node(&["reset", SPARE, "--yes"]), 4);
    assert!(said.contains("--force"), "{said}");
    cluster.node(&["reset", SPARE, "--yes", "--force"]);
    assert_eq!(cluster.ready(), CONTROL_PLANES);
    cluster.assert_bare(&[SPARE]);
}

#[test]
fn control_planes_that_are_dead_are_replaced_deleted_and_counted() {
    let mut site = Site::shared();
    site.installed();
    site.write("dying", &site.clusterfile());
    let cluster = Cluster {
        site: &site,
        file: "dying",
    };
    let [first, second, third] = CONTROL_PLANES;

    // Of three, one is off: another one cannot go.
    site.lab.run("poweroff", &[third]);
    let delete = |node, more: &[&'static str]| {
        let all = ["delete", node, "--yes", "--write", "--delete-emptydir-data"];
        cluster.try_node(&[&all[..], more].concat())
    };
    let said = refused(delete(second, &[]), 4);
    assert!(said.contains("2 of 3 healthy, 2 needed"), "{said}");
    assert!(said.contains("1 of 2 healthy, 2 needed"), "{said}");
    // The dead one is replaced.
    let spare = cluster.host(SPARE);
    refused(cluster.try_node(&["replace", third, &spare, "--yes"]), 9);
    let missing = format!("node-9={}9", site.lab.address(SPARE));
    let bad = cluster.try_node(&["replace", third, &missing, "--force", "--yes"]);
    let said = refused(bad, 4);
    assert!(said.contains("nothing was changed"), "{said}");
    cluster.node(&["replace", third, &spare, "--force", "--yes", "--write"]);
    assert_eq!(cluster.ready(), [first, second, WORKER, SPARE]);
    assert_eq!(cluster.etcd(SPARE), "etcd now: 3 of 3 healthy, 2 needed");
    cluster.assert_nothing_to_do();

    // Of two, one is off.
    cluster.node(&["delete", SPARE, "--yes", "--write"]);
    cluster.assert_bare(&[SPARE]);
    site.kubectl(first, "create configmap before");
    site.lab.run("poweroff", &[second]);
    let said = refused(delete(first, &[]), 4);
    assert!(said.contains("1 of 2 healthy, 2 needed"), "{said}");
    assert!(said.contains("0 of 1 healthy, 1 needed"), "{said}");
    refused(delete(second, &[]), 9);
    cluster.node(&["delete", second, "--force", "--yes", "--write"]);
    assert_eq!(cluster.ready(), [first, WORKER]);
    site.kubectl(first, "get configmap before");
    cluster.assert_nothing_to_do();

    // What was dead comes back, and is put back as it was.
    // One that a Clusterfile names still, and one that none does.
    site.lab.run("start", &[second, third]);
    succeed(&mut site.chasi(&["node", "reset", second, "--yes"]));
    let status = site.lab.status().unwrap();
    let known_hosts = site.path("home/.ssh/known_hosts");
    fs::create_dir_all(known_hosts.parent().unwrap()).unwrap();
    fs::copy(status["knownHosts"].as_str().unwrap(), known_hosts).unwrap();
    let mut reset = chasi();
    reset
        .args([
            "node",
            "reset",
            "--yes",
            "--address",
            &site.lab.address(third),
        ])
        .args(["--key", status["identityFile"].as_str().unwrap()])
        .env("XDG_STATE_HOME", site.path("state"))
        .env("HOME", site.path("home"));
    succeed(&mut reset);
    cluster.assert_bare(&[second, third]);
}
