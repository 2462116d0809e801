//! `chasi check` on lab hosts: bare ones pass, and what is made wrong is found, in the
//! right place.

use serde_json::Value;

use crate::lab::succeed;
use crate::site::{CONTROL_PLANES, HOSTS, Hosts, Site, WORKER};
use crate::snapshot::Snapshot;

/// What a check of the site said, and the exit code.
struct Checked {
    code: i32,
    report: Value,
    told: String,
}

impl Checked {
    fn of(site: &Site, arguments: &[&str]) -> Checked {
        let output = site
            .chasi(&[&["check"], arguments, &["--format", "json"]].concat())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {told}"));
        Checked {
            code: output.status.code().unwrap(),
            report,
            told,
        }
    }

    fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().unwrap()
    }

    /// What is wrong, as `id place`.
    fn wrong(&self) -> Vec<String> {
        self.findings()
            .iter()
            .filter(|finding| finding["state"] == "wrong" && finding["severity"] == "error")
            .map(|finding| {
                let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
                format!("{} {}{}{}", text("check"), text("host"), text("from"), {
                    let to = text("to");
                    if to.is_empty() {
                        to
                    } else {
                        format!(" to {to}")
                    }
                })
            })
            .collect()
    }

    /// The finding of a check at a place.
    fn finding(&self, check: &str, field: &str, name: &str) -> &Value {
        self.findings()
            .iter()
            .find(|finding| finding["check"] == check && finding[field] == name)
            .unwrap()
    }
}

fn ways_to(host: &str) -> impl Iterator<Item = &'static str> {
    HOSTS.into_iter().filter(move |from| *from != host)
}

#[test]
fn bare_hosts_pass_and_are_left_as_they_are() {
    let mut site = Site::shared();
    site.bare();
    let before = Snapshot::of_hosts(&site.lab);
    let checked = Checked::of(&site, &["pre"]);
    assert_eq!(checked.wrong(), Vec::<String>::new(), "{}", checked.told);
    assert_eq!(checked.code, 0, "{:#}\n{}", checked.report, checked.told);
    assert_eq!(checked.report["ways"]["measured"], 12);
    let echoed = checked.finding("network.reach", "to", WORKER);
    assert_eq!(echoed["state"], "passed", "{echoed}");
    println!(
        "chasi check pre on 4 bare hosts: {} findings of {}, {:.1} s",
        checked.findings().len(),
        checked.report["counts"],
        checked.report["seconds"].as_f64().unwrap()
    );
    before.assert_again(&site.lab);
    site.leaves(Hosts::Bare);
}

#[test]
fn network_faults_are_found_between_the_right_hosts() {
    let mut site = Site::shared();
    site.bare();

    // A switch that carries less than the interfaces believe.
    site.lab.run("net", &[WORKER, "mtu", "1400"]);
    let checked = Checked::of(&site, &["pre", "--only", "network"]);
    let expected: Vec<String> = ways_to(WORKER)
        .map(|from| format!("network.mtu {from} to {WORKER}"))
        .collect();
    assert_eq!(checked.wrong(), expected, "{:#}", checked.report);
    assert_eq!(checked.code, 4);
    let seen = checked.finding("network.mtu", "to", WORKER)["seen"]
        .as_str()
        .unwrap();
    assert!(seen.contains("up to 1400 bytes arrive"), "{seen}");
    site.lab.run("net", &[WORKER, "restore"]);

    // A packet filter that the host itself cannot tell of: it has no tools.
    let filter = "add table inet chasi-test; \
         add chain inet chasi-test in { type filter hook input priority 0; }; \
         add rule inet chasi-test in tcp dport 10250 drop; \
         add rule inet chasi-test in udp dport 8472 drop";
    site.nft(WORKER, filter);
    let checked = Checked::of(&site, &["pre", "--only", "network"]);
    let expected: Vec<String> = ways_to(WORKER)
        .map(|from| format!("network.reach {from} to {WORKER}"))
        .collect();
    assert_eq!(checked.wrong(), expected, "{:#}", checked.report);
    let finding = checked.finding("network.reach", "to", WORKER);
    let seen = finding["seen"].as_str().unwrap();
    for part in [
        "tcp 10250 (kubelet): no answer",
        "udp 8472",
        "cannot be read",
    ] {
        assert!(seen.contains(part), "{seen}");
    }
    site.nft(WORKER, "delete table inet chasi-test");

    // Nothing passes between two hosts, and all else does.
    let other = site.lab.address("node-2");
    site.nft(
        "node-3",
        &format!(
            "add table inet chasi-test; \
             add chain inet chasi-test in {{ type filter hook input priority 0; }}; \
             add rule inet chasi-test in ip saddr {other} drop"
        ),
    );
    let checked = Checked::of(&site, &["pre", "--only", "network.reach"]);
    // What node-3 asks of node-2 is answered, and the answer does not arrive.
    let expected = [
        "network.reach node-2 to node-3",
        "network.reach node-3 to node-2",
    ];
    assert_eq!(checked.wrong(), expected, "{:#}", checked.report);
    let finding = checked.finding("network.reach", "from", "node-2");
    let seen = checked
        .findings()
        .iter()
        .find(|one| one["from"] == "node-2" && one["to"] == "node-3")
        .unwrap_or(finding)["seen"]
        .as_str()
        .unwrap();
    assert!(seen.contains("nothing arrives at"), "{seen}");
    site.nft("node-3", "delete table inet chasi-test");
    site.leaves(Hosts::Bare);
}

#[test]
fn a_host_that_is_cut_off_is_not_passed() {
    let mut site = Site::shared();
    site.bare();
    site.lab.run("net", &[WORKER, "cut"]);
    let checked = Checked::of(&site, &["pre", "--only", "access,system,network.reach"]);
    site.lab.run("net", &[WORKER, "restore"]);
    assert_eq!(checked.code, 4);
    assert_eq!(checked.wrong(), [format!("access.ssh {WORKER}")]);
    for finding in checked
        .findings()
        .iter()
        .filter(|one| one["host"] == WORKER)
    {
        assert_ne!(finding["state"], "passed", "{finding}");
    }
    site.leaves(Hosts::Bare);
}

#[test]
fn a_listener_is_named_and_can_be_ignored() {
    let mut site = Site::shared();
    site.bare();
    let listen = "systemd-socket-activate --listen=10250 sleep infinity";
    let listens = "until ss -tln | grep -q :10250; do sleep 0.05; done";
    let squat = format!("systemd-run --quiet --unit=squatter {listen}; {listens}");
    site.lab.sh("node-3", &squat);
    let checked = Checked::of(&site, &["pre", "--only", "network.ports"]);
    assert_eq!(checked.wrong(), ["network.ports node-3"]);
    let seen = checked.finding("network.ports", "host", "node-3")["seen"].clone();
    let seen = seen.as_str().unwrap();
    assert!(
        seen.starts_with("port 10250 is in use by `systemd-socket"),
        "{seen}"
    );
    let ignored = [
        "pre",
        "--only",
        "network.ports",
        "--ignore",
        "network.ports",
    ];
    let checked = Checked::of(&site, &ignored);
    assert_eq!(
        (checked.code, &checked.report["counts"]["ignored"]),
        (0, &1.into())
    );
    site.lab.sh("node-3", "systemctl stop squatter");
    site.leaves(Hosts::Bare);
}

#[test]
fn a_cluster_that_is_well_passes_and_what_is_damaged_is_found() {
    let mut site = Site::shared();
    site.installed();
    site.wait_for_pods("node-1");
    let checked = Checked::of(&site, &["post"]);
    assert_eq!(
        checked.wrong(),
        Vec::<String>::new(),
        "{:#}",
        checked.report
    );
    assert_eq!(checked.code, 0, "{:#}\n{}", checked.report, checked.told);
    println!(
        "chasi check post on 4 hosts: {} findings of {}, {:.1} s",
        checked.findings().len(),
        checked.report["counts"],
        checked.report["seconds"].as_f64().unwrap()
    );
    // The image brings the tools that tell of this rule.
    let rule = "INPUT -p tcp --dport 10250 -j DROP";
    site.lab.sh(WORKER, &format!("iptables -I {rule}"));
    let checked = Checked::of(&site, &["post", "--only", "network.reach"]);
    site.lab.sh(WORKER, &format!("iptables -D {rule}"));
    let expected: Vec<String> = CONTROL_PLANES
        .into_iter()
        .map(|from| format!("network.reach {from} to {WORKER}"))
        .collect();
    assert_eq!(checked.wrong(), expected, "{:#}", checked.report);
    let finding = checked.finding("network.reach", "to", WORKER);
    let seen = finding["seen"].as_str().unwrap();
    assert!(seen.contains("`node-4` drops or rejects it"), "{seen}");
    let hint = finding["hint"].as_str().unwrap();
    assert!(hint.contains("iptables -D INPUT"), "{hint}");
    succeed(&mut site.chasi(&["check", "post", "--only", "network.reach"]));
    site.leaves(Hosts::Installed);
}
