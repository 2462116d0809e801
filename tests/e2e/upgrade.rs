//! A cluster gets another Kubernetes while it is in use, and goes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{chasi, succeed, until};
use crate::site::{HOSTS, Hosts, Site, WORKER};
use crate::snapshot::Tree;
use crate::watched::Watched;

/// Two replicas of a web server on different nodes, of which one must stay.
const SHOP: &str = include_str!("node.yaml");

const OLD: &str = "chasi/demo:1.34.3";
const NEW: &str = "chasi/demo:1.34.4";
/// The new one, but for a kubelet that ends at once.
const BROKEN: &str = "chasi/demo:broken";

/// What moves the pods of the shop, whose data may be lost.
const MOVING: &str = "--delete-emptydir-data";

fn build(site: &Site, reference: &str, context: &Path, arguments: &[&str]) {
    let lock = site
        .path(&reference.replace(['/', ':'], "-"))
        .with_extension("lock");
    succeed(
        chasi()
            .args(["--quiet", "build", "-t", reference, "--lock-file"])
            .arg(lock)
            .args(arguments)
            .arg(context)
            .env("CHASI_STORE", site.path("store")),
    );
}

/// The other two images, in the site's store.
fn build_images(site: &Site) {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    let (base, argument) = (
        "chasi/kubernetes:1.34.3",
        "KUBERNETES=chasi/kubernetes:1.34.3",
    );
    build(
        site,
        base,
        &images.join("kubernetes"),
        &["--build-arg", "VERSION=1.34.3"],
    );
    build(site, OLD, &images.join("demo"), &["--build-arg", argument]);
    let broken = tempfile::tempdir().unwrap();
    let kubelet = broken.path().join("kubelet");
    fs::write(
        &kubelet,
        "#!/bin/sh\necho this kubelet cannot start >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&kubelet, fs::Permissions::from_mode(0o755)).unwrap();
    let recipe = format!("FROM {NEW}\nLAYER app\nCOPY kubelet /usr/local/bin/kubelet\n");
    fs::write(broken.path().join("Kubefile"), recipe).unwrap();
    build(site, BROKEN, broken.path(), &[]);
}

/// Something that asks again and again on a host, and notes when it got which answer.
struct Client<'a> {
    site: &'a Site,
    host: &'static str,
    name: &'static str,
}

impl<'a> Client<'a> {
    /// `ask` is a shell command that succeeds when there is an answer.
    fn start(site: &'a Site, host: &'static str, name: &'static str, ask: &str) -> Client<'a> {
        let script = format!(
            "ask() {{ {ask}; }}\n\
             while sleep 0.2; do if ask >/dev/null 2>>/run/{name}.errors; then answer=ok; else answer=failed; fi\n\
             echo \"$(date +%s%3N) $answer\"; done >>/run/{name}.log\n"
        );
        site.lab.sh(
            host,
            &format!(
                "cat >/run/{name} <<'END'\n{script}END\nsystemd-run --quiet --unit={name} bash /run/{name}"
            ),
        );
        let client = Client { site, host, name };
        until("that the client gets answers", 60, || {
            match site.lab.sh(host, &format!("cat /run/{name}.log || true")) {
                log if log.ends_with("ok\n") => Ok(()),
                log => Err(log),
            }
        });
        client.site.lab.sh(host, &format!(": >/run/{name}.log"));
        client
    }

    /// When it got no answer, in milliseconds since 1970, and how often it asked.
    fn failures(&self) -> (Vec<u64>, usize) {
        let log = self
            .site
            .lab
            .sh(self.host, &format!("cat /run/{}.log", self.name));
        let answers: Vec<(u64, &str)> = log
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(time, answer)| (time.parse().unwrap(), answer))
            .collect();
        let failed = answers.iter().filter(|(_, answer)| *answer == "failed");
        (failed.map(|(time, _)| *time).collect(), answers.len())
    }

    fn errors(&self) -> String {
        self.site
            .lab
            .sh(self.host, &format!("cat /run/{}.errors", self.name))
    }

    fn stop(&self) {
        self.site
            .lab
            .sh(self.host, &format!("systemctl stop {}", self.name));
    }
}

/// When the steps of a host's turn were under way, from its drain to its return, by the
/// events of a run: in milliseconds since 1970.
fn turn(told: &str, host: &str) -> (u64, u64) {
    let time = |words: &str, kind: &str| {
        let mut events = told
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let event = events.find(|event| {
            event["event"] == kind && event["host"] == host && event["step"] == words
        });
        let event = event.unwrap_or_else(|| panic!("{host} did not `{words}`:\n{told}"));
        let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        u64::try_from(time.as_millisecond()).unwrap()
    };
    (
        time("drain the node", "step-started"),
        time("let the node take pods again", "step-ended"),
    )
}

/// The version of every node's kubelet, and whether somebody is cordoned.
fn nodes(site: &Site) -> Vec<String> {
    let template = "{{range .items}}{{.metadata.name}} {{.status.nodeInfo.kubeletVersion}} \
                    {{if .spec.unschedulable}}cordoned{{else}}open{{end}}{{\"\\n\"}}{{end}}";
    let nodes = site.kubectl("node-1", &format!("get nodes -o go-template='{template}'"));
    nodes.lines().map(str::to_owned).collect()
}

fn all_run(site: &Site, version: &str) {
    let expected: Vec<String> = HOSTS
        .iter()
        .map(|host| format!("{host} v{version} open"))
        .collect();
    assert_eq!(nodes(site), expected);
}

fn nothing_to_do(site: &Site, file: &str) {
    let mut look = site.chasi_with(&["run", "--dry-run", "--format", "json"], file);
    let plan: Value = serde_json::from_str(&succeed(&mut look)).unwrap();
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
}

/// A command that must be refused before anything is changed; gives what it says.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("nothing"), "{said}");
    said
}

#[test]
fn a_cluster_gets_another_kubernetes_under_work_and_goes_back() {
    let mut site = Site::shared();
    build_images(&site);
    site.bare();
    let text = site.clusterfile();
    let text = text
        .replace("[control-plane]", "[control-plane, worker]")
        .replace(NEW, OLD);
    site.write("rolling", &text);
    succeed(&mut site.chasi_with(&["run", "--yes"], "rolling"));
    all_run(&site, "1.34.3");
    let old = Tree::of(&site.lab);
    site.kubectl_with("node-1", "apply", SHOP);
    site.kubectl(
        "node-1",
        "-n shop rollout status deployment web --timeout=120s",
    );

    // What would end half-way is not begun.
    let upgrade = |arguments: &[&str]| {
        let mut command = site.chasi_with(&["upgrade", "--yes"], "rolling");
        command.args(arguments);
        command
    };
    let said = refused(&mut upgrade(&[NEW]));
    assert!(said.contains(MOVING), "{said}");
    site.kubectl(
        "node-1",
        "-n shop patch pdb web -p '{\"spec\": {\"minAvailable\": 2}}'",
    );
    let said = refused(&mut upgrade(&[NEW, MOVING]));
    assert!(said.contains("shop/web"), "{said}");
    site.kubectl(
        "node-1",
        "-n shop patch pdb web -p '{\"spec\": {\"minAvailable\": 1}}'",
    );
    all_run(&site, "1.34.3");

    let address = site.kubectl(
        "node-1",
        "-n shop get service web -o jsonpath={.spec.clusterIP}",
    );
    let ask = format!(
        "timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; grep -q here <&3'"
    );
    let shop = ["node-1", WORKER].map(|host| Client::start(&site, host, "shop", &ask));
    let ask = "timeout 5 kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /api/v1/namespaces/default";
    let api = Client::start(&site, "node-1", "api", ask);

    // The controller dies when the second control plane is under way; the next run goes
    // on from there, and what has been done is not done again.
    let start = |image: &str, more: &[&str]| {
        let mut command = upgrade(&[image, MOVING, "--write", "--format", "json"]);
        command.args(more);
        Watched::start(command)
    };
    let mut first = start(NEW, &[]);
    first.wait_for_step("switch the control plane", Some("node-2"));
    first.crash();
    let ended = start(NEW, &[]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.told);
    let again = |host: &str| {
        ended.told.contains(&format!(
            "\"step-started\",\"host\":\"{host}\",\"step\":\"switch the control plane"
        ))
    };
    assert!(!again("node-1") && again("node-3"), "{}", ended.told);
    all_run(&site, "1.34.4");
    nothing_to_do(&site, "rolling");

    let first = ended.told;

    // A kubelet that cannot start: the upgrade stops at the first node, which goes back
    // to what it was; the cluster serves on all the time.
    let new = Tree::of(&site.lab);
    let ended = start(BROKEN, &["--rollback-on-failure"]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.told);
    assert_eq!(ended.failure["host"], "node-1", "{}", ended.failure);
    for host in ["node-2", "node-3", WORKER] {
        let begun = format!("\"step-started\",\"host\":\"{host}\",\"step\":\"drain");
        assert!(!ended.told.contains(&begun), "{}", ended.told);
    }
    all_run(&site, "1.34.4");
    new.assert_same(&Tree::of(&site.lab));
    nothing_to_do(&site, "rolling");

    for client in &shop {
        let turns = match client.host {
            "node-1" => vec![turn(&first, "node-1"), turn(&ended.told, "node-1")],
            host => vec![turn(&first, host)],
        };
        let (mut failed, asked) = client.failures();
        failed.retain(|time| !turns.iter().any(|(from, to)| (from..=to).contains(&time)));
        assert!(asked > 100, "{asked}");
        assert!(
            failed.is_empty(),
            "{}: {failed:?}\n{}",
            client.host,
            client.errors()
        );
        client.stop();
    }
    let (failed, asked) = api.failures();
    assert!(
        asked > 100 && failed.len() * 1000 <= asked,
        "{failed:?} of {asked}\n{}",
        api.errors()
    );
    api.stop();

    // Back to what was at first; what was written to the API meanwhile stays.
    let write = "-n shop create configmap meanwhile --from-literal=written=then";
    site.kubectl("node-1", write);
    let mut back = site.chasi_with(&["rollback", "--to", "1", "--yes", "--write"], "rolling");
    succeed(back.arg(MOVING));
    all_run(&site, "1.34.3");
    old.assert_same(&Tree::of(&site.lab));
    let read = "-n shop get configmap meanwhile -o jsonpath={.data.written}";
    assert_eq!(site.kubectl("node-1", read), "then");
    site.kubectl(
        "node-1",
        "-n shop rollout status deployment web --timeout=120s",
    );
    nothing_to_do(&site, "rolling");
    site.leaves(Hosts::Unknown);
}
