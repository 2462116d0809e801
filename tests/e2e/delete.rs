//! `chasi delete`: the hosts are what they were before chasi came.

use chasi::error::Kind;

use crate::lab::{succeed, until};
use crate::site::{HOSTS, Hosts, Site};
use crate::traces::Traces;

#[test]
fn deleting_leaves_the_hosts_as_they_were() {
    let mut site = Site::shared();
    site.installed();

    // Without consent nothing happens, and a look changes nothing.
    let refused = site.chasi(&["delete"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    let plan = site.json(&["delete", "--dry-run"]);
    assert_eq!(plan["hosts"], serde_json::json!(HOSTS));
    assert!(
        site.path("state/chasi/clusters")
            .read_dir()
            .unwrap()
            .count()
            > 0
    );

    // A host that is off is left for later, and the exit code tells.
    site.lab.run("poweroff", &["node-4"]);
    let part = site.chasi(&["delete", "--yes"]).output().unwrap();
    assert_eq!(
        part.status.code(),
        Some(Kind::Partial.exit_code().into()),
        "{part:?}"
    );
    assert!(String::from_utf8_lossy(&part.stderr).contains("node-4"));
    site.lab.run("start", &["node-4"]);
    let report = site.json(&["delete", "--yes"]);
    assert_eq!(report["hosts"], serde_json::json!(HOSTS));
    assert_eq!(report["left_out"], serde_json::json!([]));

    // Processes of the last login take a moment to go.
    until("that the hosts are as they were", 60, || {
        let bare = site.bare_traces.only(&HOSTS);
        let left = bare.differences(&Traces::of(&site.lab));
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join("\n")),
        }
    });
    assert_eq!(
        site.path("state/chasi/clusters")
            .read_dir()
            .unwrap()
            .count(),
        0
    );

    // Again: there is nothing to do, and nothing comes back.
    let plan = site.json(&["delete", "--dry-run"]);
    assert_eq!(plan["hosts"], serde_json::json!([]));
    succeed(&mut site.chasi(&["delete", "--yes"]));
    site.leaves(Hosts::Bare);
}
