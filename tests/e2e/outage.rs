//! A control plane that is off, and a service that is.

use serde_json::Value;

use crate::lab::{Condition, succeed, until};
use crate::site::{CONTROL_PLANES, HOSTS, Hosts, Site, WORKER};
use crate::watched::Watched;

#[test]
fn with_a_control_plane_off_the_others_serve_and_a_run_does_the_rest() {
    let mut site = Site::shared();
    site.installed();
    // The first one: the one that is asked first by everybody.
    let (off, others) = HOSTS.split_first().unwrap();
    let kubeconfig = site.kubectl(CONTROL_PLANES[0], "config view --raw");
    assert!(kubeconfig.contains(".chasi.internal:6444"), "{kubeconfig}");
    site.lab.run("poweroff", &[off]);

    // By the balancer of each other host, the worker's too: reading and writing.
    for host in others {
        let write = format!("cat >/run/test.conf <<'END'\n{kubeconfig}\nEND");
        site.lab.sh(host, &write);
        let kubectl = "kubectl --kubeconfig /run/test.conf --request-timeout=10s";
        until("that the API answers", 120, || {
            let name = format!("written-on-{host}");
            let work = format!(
                "{kubectl} create configmap {name} && {kubectl} get nodes && {kubectl} delete configmap {name}"
            );
            let output = site.lab.try_sh(host, &work);
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            }
        });
    }

    until("that the status tells it", 120, || {
        let status = site.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        let right = nodes.iter().all(|node| {
            let problem = node["problem"].as_str().unwrap_or_default();
            match node["name"] == *off {
                true => node["ready"] == false && problem.contains("cannot connect"),
                false => node["ready"] == true && problem.is_empty(),
            }
        });
        not_if(!right, || format!("{status:#}"))
    });

    // Nothing to do, and that is not all: the exit code tells.
    let (steps, told) = run_without(&site, off, "Clusterfile");
    assert_eq!(steps, 0, "{told}");
    // Something to do on all hosts.
    let settings = "spec:\n  settings:\n    sysctls:\n      net.ipv4.tcp_retries2: 12\n";
    site.write(
        "changed",
        &site.clusterfile().replacen("spec:\n", settings, 1),
    );
    let (steps, told) = run_without(&site, off, "changed");
    assert!(steps >= others.len(), "{told}");
    let is_changed = |host: &str| {
        let file = site
            .lab
            .root(host)
            .join("etc/sysctl.d/95-chasi-clusterfile.conf");
        file.exists()
    };
    assert!(others.iter().all(|host| is_changed(host)));

    // Back again, it becomes ready by itself, and the next run does its part alone.
    site.lab.run("start", &[off]);
    until("that the node is ready", 120, || {
        let node = site.kubectl("node-2", &format!("get node {off} --no-headers"));
        not_if(!node.contains(" Ready "), || node)
    });
    assert!(!is_changed(off));
    let look = ["run", "--dry-run", "--format", "json"];
    let plan = succeed(&mut site.chasi_with(&look, "changed"));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    for stage in plan["stages"].as_array().unwrap() {
        for step in stage["steps"].as_array().unwrap() {
            assert_eq!(step["host"], *off, "{plan:#}");
        }
    }
    succeed(&mut site.chasi_with(&["run", "--yes"], "changed"));
    assert!(is_changed(off));
    succeed(&mut site.chasi(&["run", "--yes"]));
    assert!(!HOSTS.iter().any(|host| is_changed(host)));
    let plan = site.json(&["run", "--dry-run"]);
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    site.wait_for_pods("node-1");
    site.leaves(Hosts::Installed);
}

#[test]
fn a_service_that_was_stopped_is_started_again() {
    let mut site = Site::shared();
    site.installed();
    // Stopped by somebody, not failed.
    site.lab.sh(WORKER, "systemctl stop containerd");
    let plan = site.json(&["run", "--dry-run"]);
    let [stage] = plan["stages"].as_array().unwrap().as_slice() else {
        panic!("{plan:#}");
    };
    let steps = stage["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["host"] == WORKER), "{plan:#}");
    let units = serde_json::json!(["containerd.service"]);
    assert_eq!(steps[0]["action"]["units"], units, "{plan:#}");
    site.json(&["run", "--yes"]);
    site.lab.sh(WORKER, "systemctl is-active containerd");
    let plan = site.json(&["run", "--dry-run"]);
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    site.leaves(Hosts::Installed);
}

/// Runs a Clusterfile while a host is off; gives how many steps were done.
fn run_without(site: &Site, off: &str, clusterfile: &str) -> (usize, String) {
    let run = site.chasi_with(&["run", "--yes", "--format", "json"], clusterfile);
    let ended = Watched::start(run).end();
    assert_eq!(ended.code, Some(5), "{}", ended.told);
    assert_eq!(ended.failure["kind"], "partial", "{}", ended.told);
    let left_out = ended.report["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0]["host"], off);
    let reason = left_out[0]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot connect"), "{reason}");
    let steps = ended.report["steps"].as_u64().unwrap() as usize;
    (steps, ended.told)
}

fn not_if(wrong: bool, reason: impl FnOnce() -> String) -> Condition {
    match wrong {
        true => Err(reason()),
        false => Ok(()),
    }
}
