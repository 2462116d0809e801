//! What no check can see before: a disk that fills up while chasi works, an agent that
//! is killed, a link that is cut while something is copied.

use serde_json::Value;

use crate::lab::until;
use crate::site::{CONTROL_PLANES, Hosts, Site, WORKER};
use crate::snapshot::Tree;
use crate::watched::{Ended, Watched};

const RUN: [&str; 4] = ["run", "--yes", "--format", "json"];

#[test]
fn a_full_disk_a_killed_agent_and_a_cut_link_hold_up_one_host_each() {
    let mut site = Site::shared();
    let undisturbed = site.undisturbed();
    site.bare();
    let run = || Watched::start(site.chasi(&RUN));

    // Two Ctrl-C end the controller at once.
    let mut stopped = run();
    stopped.wait_for("bytes that move", |event| event["event"] == "progress");
    stopped.interrupt();
    stopped.interrupt();
    let ended = stopped.end();
    assert_eq!(ended.code, Some(130), "{}", ended.told);
    assert!(ended.told.contains("to go on: `"), "{}", ended.told);

    // A disk with room enough for the checks is filled by somebody else, and an agent
    // is killed. (A disk that is a tmpfs is refused, and here it is meant.)
    let killed = CONTROL_PLANES[1];
    let size = 6_u64 << 30;
    let mount = format!("mount -t tmpfs -o mode=755,size={size} none /var/lib/chasi");
    site.lab
        .sh(WORKER, &format!("mkdir -p /var/lib/chasi && {mount}"));
    let ignoring = [&RUN[..], &["--ignore", "resources.filesystem"]].concat();
    let mut first = Watched::start(site.chasi(&ignoring));
    first.wait_for_phase("copy");
    site.lab.sh(
        WORKER,
        "dd if=/dev/zero of=/var/lib/chasi/foreign bs=1M status=none || true",
    );
    first.wait_for_step("stage the new generation", Some(killed));
    site.lab
        .sh(killed, "systemctl kill --signal=KILL 'chasi-agent-*.scope'");
    let ended = first.end();
    assert_eq!(ended.code, Some(5), "{}", ended.told);
    let without = left_out(&ended);
    assert_eq!(without.len(), 2, "{without:?}");
    let of = |host: &str| without.iter().find(|one| one["host"] == host).unwrap();
    let full = of(WORKER)["reason"].as_str().unwrap();
    assert!(
        full.contains("No space left") || full.contains("disk is full"),
        "{full}"
    );
    assert!(
        !of(WORKER)["hints"].as_array().unwrap().is_empty(),
        "{without:?}"
    );
    let lost = of(killed)["reason"].as_str().unwrap();
    assert!(lost.contains("agent"), "{lost}");

    // With another disk, the link of that host is cut while it gets the image.
    until("that the disk is free", 60, || {
        let output = site.lab.try_sh(WORKER, "umount /var/lib/chasi");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
    let mut second = run();
    second.wait_for_step("copy", Some(WORKER));
    site.lab.run("net", &[WORKER, "cut"]);
    let ended = second.end();
    site.lab.run("net", &[WORKER, "restore"]);
    assert_eq!(ended.code, Some(5), "{}", ended.told);
    let without = left_out(&ended);
    assert_eq!(without.len(), 1, "{without:?}");
    assert_eq!(without[0]["host"], WORKER);

    run().succeed();
    undisturbed.assert_same(&Tree::of(&site.lab));
    site.wait_for_pods("node-1");
    site.leaves(Hosts::Unknown);
}

fn left_out(ended: &Ended) -> Vec<Value> {
    ended.report["left_out"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", ended.told))
        .clone()
}
