//! Edits of lists of hosts: what is meant comes out, and nothing else changes.

use proptest::prelude::*;

use super::*;
use crate::spec::patch::patch;

const CHASI: &str = "\
# The shop in the basement
apiVersion: chasi.dev/v1
kind: Cluster
metadata: {name: shop}
spec:
  image: chasi/demo:1   # do not touch
  hosts:
    # the first
    - name: m1
      address: 10.0.0.1
      roles: [control-plane]

    # rack 3
    - name: w1
      address: 10.0.0.2   # behind the door
      roles:
        - worker
      labels:
        disk: ssd
      # taints: []
    -   name: w2
        address: 10.0.0.3
        roles: [worker]
  # after the hosts
  settings: {swap: keep}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 50
";

const SEALER: &str = "\
apiVersion: sealer.cloud/v2
kind: Cluster
metadata:
  name: shop
spec:
  image: chasi/demo:1
  hosts:
  - ips: [10.0.0.1, 10.0.0.2-10.0.0.4]
    roles: [master]
  - ips:
    - 10.0.0.5
    - 10.0.0.6  # the last
    roles: [node]
";

fn new(name: &str, address: &str, roles: Roles) -> NewHost {
    NewHost {
        name: (!name.is_empty()).then(|| name.parse().unwrap()),
        address: address.parse().unwrap(),
        roles,
        user: None,
        port: None,
        identity_file: None,
        host_key: None,
    }
}

fn edited(text: &str, gone: &[&str], new: &[NewHost]) -> String {
    edit("Clusterfile", text, None, gone, new).unwrap().text
}

#[test]
fn a_host_is_added_behind_the_last_one_in_its_style() {
    let mut host = new("w3", "10.0.0.9", Roles::Worker);
    host.user = Some("ops".parse().unwrap());
    host.port = Some(2222);
    assert_eq!(
        patch("Clusterfile", CHASI, &edited(CHASI, &[], &[host])),
        "--- Clusterfile\n+++ Clusterfile\n@@ -21,6 +21,12 @@\n     -   name: w2\n         address: 10.0.0.3\n         roles: [worker]\n+    -   name: w3\n+        address: 10.0.0.9\n+        roles: [worker]\n+        ssh:\n+          user: ops\n+          port: 2222\n   # after the hosts\n   settings: {swap: keep}\n ---\n"
    );
}

#[test]
fn a_host_that_goes_takes_its_lines_and_no_others() {
    assert_eq!(
        patch("Clusterfile", CHASI, &edited(CHASI, &["w1"], &[])),
        "--- Clusterfile\n+++ Clusterfile\n@@ -11,12 +11,6 @@\n       roles: [control-plane]\n \n     # rack 3\n-    - name: w1\n-      address: 10.0.0.2   # behind the door\n-      roles:\n-        - worker\n-      labels:\n-        disk: ssd\n       # taints: []\n     -   name: w2\n         address: 10.0.0.3\n"
    );
}

#[test]
fn sealers_lists_lose_addresses_also_out_of_ranges() {
    for (gone, expected) in [
        ("node-10-0-0-3", "[10.0.0.1, 10.0.0.2, 10.0.0.4]"),
        ("node-10-0-0-4", "[10.0.0.1, 10.0.0.2-10.0.0.3]"),
        ("node-10-0-0-1", "[10.0.0.2-10.0.0.4]"),
    ] {
        let text = edited(SEALER, &[gone], &[]);
        assert!(text.contains(&format!("ips: {expected}\n")), "{text}");
    }
    let text = edited(SEALER, &["node-10-0-0-5"], &[]);
    assert!(
        text.contains("ips:\n    - 10.0.0.6  # the last\n"),
        "{text}"
    );
    let text = edited(SEALER, &["node-10-0-0-5", "node-10-0-0-6"], &[]);
    assert!(text.ends_with("roles: [master]\n"), "{text}");
    let text = edited(SEALER, &[], &[new("", "10.0.0.9", Roles::Worker)]);
    assert!(
        text.ends_with("  - ips: [10.0.0.9]\n    roles: [node]\n"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_edited_is_refused_with_what_to_do() {
    let flow = "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {name: shop}\nspec: {image: a/b:1, hosts: [{name: m1, address: 10.0.0.1, roles: [control-plane]}]}\n";
    let error = edit(
        "Clusterfile",
        flow,
        None,
        &[],
        &[new("w", "10.0.0.9", Roles::Worker)],
    )
    .unwrap_err();
    assert!(
        error.hints()[0].contains("put 10.0.0.9 in by hand"),
        "{error:?}"
    );
    let error = edit("Clusterfile", CHASI, None, &["w9"], &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    // What the edit asks for must make sense.
    let twice = new("w1", "10.0.0.9", Roles::Worker);
    assert_eq!(
        edit("Clusterfile", CHASI, None, &[], &[twice])
            .unwrap_err()
            .kind(),
        Kind::Input
    );
    assert!(edit("Clusterfile", CHASI, None, &["m1"], &[]).is_err());
}

#[test]
fn the_end_of_lines_and_of_the_file_stay_as_they_are() {
    let list = "apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {name: shop}\nspec:\n  image: a/b:1\n  hosts:\n  - name: m1\n    address: 10.0.0.1\n    roles: [control-plane]";
    let host = || [new("w", "10.0.0.9", Roles::Worker)];
    let text = edited(list, &[], &host());
    assert!(
        text.starts_with(list) && text.ends_with("roles: [worker]"),
        "{text}"
    );
    let dos = format!("{list}\n").replace('\n', "\r\n");
    let text = edited(&dos, &[], &host());
    assert!(text.starts_with(&dos), "{text}");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
}

proptest! {
    /// Whatever the style of the list: what is meant comes out, and lines are only
    /// added and taken out.
    #[test]
    fn an_edit_changes_the_list_and_nothing_else(
        indent in 0_usize..4,
        wide in 0_usize..3,
        comments in proptest::collection::vec(any::<bool>(), 6),
        gone in proptest::collection::btree_set(0_usize..6, 0..5),
        added in 0_usize..4,
    ) {
        let dash = " ".repeat(2 + indent);
        let key = " ".repeat(2 + indent + 2 + wide);
        let item = |name: &str, rest: &str| {
            format!("{dash}-{}name: {name}\n{key}address: {rest}\n", " ".repeat(1 + wide))
        };
        let write = |gone: &dyn Fn(usize) -> bool, added: usize| {
            let mut text = String::from("apiVersion: chasi.dev/v1\nkind: Cluster\nmetadata: {name: shop}\nspec:\n  image: a/b:1\n  hosts:\n");
            for (index, comment) in comments.iter().enumerate() {
                if *comment {
                    text += &format!("{dash}# number {index}\n\n");
                }
                let role = if index == 5 { "control-plane" } else { "worker" };
                if !gone(index) {
                    text += &item(&format!("h{index}"), &format!("10.0.0.1{index} # x\n{key}roles: [{role}]"));
                }
                if index == 5 {
                    for one in 0..added {
                        text += &item(&format!("n{one}"), &format!("10.0.1.{one}\n{key}roles: [worker]"));
                    }
                }
                if *comment {
                    text += &format!("{key}# more: of it\n");
                }
            }
            text + "  settings: {swap: keep}\n# the end\n"
        };
        let text = write(&|_| false, 0);
        let names: Vec<String> = gone.iter().filter(|one| **one != 5).map(|one| format!("h{one}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hosts: Vec<NewHost> = (0..added).map(|one| new(&format!("n{one}"), &format!("10.0.1.{one}"), Roles::Worker)).collect();
        let edited = edit("Clusterfile", &text, None, &names, &hosts).unwrap();
        prop_assert_eq!(edited.text, write(&|index| index != 5 && gone.contains(&index), added));
        let found: Vec<String> = edited.clusterfile.cluster.hosts.iter().map(|host| host.name.to_string()).collect();
        let expected: Vec<String> = (0..6).map(|one| format!("h{one}"))
            .filter(|name| !names.contains(&name.as_str()))
            .chain((0..added).map(|one| format!("n{one}")))
            .collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn another_image_changes_one_line() {
    let image: ImageName = "chasi/demo:2".parse().unwrap();
    for text in [
        CHASI.to_owned(),
        SEALER.to_owned(),
        CHASI.replace("image: chasi/demo:1", "image: \"chasi/demo:1\""),
        CHASI.replace("image: chasi/demo:1", "image: 'chasi/demo:1'"),
        CHASI.replace(
            "image: chasi/demo:1   # do not touch",
            "image: >-\n    chasi/demo:1",
        ),
    ] {
        let edited = set_image("Clusterfile", &text, None, &image).unwrap();
        assert_eq!(edited.clusterfile.cluster.image, image);
        let plain = |text: &str| text.replace(['"', '\''], "");
        assert_eq!(
            plain(&edited.text),
            plain(&text).replace("demo:1", "demo:2")
        );
    }
}
