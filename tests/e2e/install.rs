//! From bare hosts to a cluster that does what clusters do, and again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, until};
use crate::site::{HOSTS, Hosts, Site};
use crate::snapshot::Snapshot;

#[test]
fn four_bare_hosts_become_a_cluster_and_a_second_run_changes_nothing() {
    let mut site = Site::shared();
    site.bare();
    let report = site.install();
    assert_nodes_are_ready(&report["state"]);
    site.wait_for_pods("node-1");

    let probe = Probe::start(&site);
    probe.assert_names_resolve_in_pods();
    probe.assert_pods_reach_pods_of_other_nodes();
    probe.assert_services_answer_from_every_node();
    assert_nothing_changes(&site);
    probe.stop();
    site.leaves(Hosts::Installed);
}

fn assert_nodes_are_ready(state: &Value) {
    let nodes = state["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4, "{state:#}");
    for node in nodes {
        assert_eq!(node["ready"], true, "{state:#}");
        assert_eq!(node["version"], "v1.34.4", "{state:#}");
    }
}

/// The second run, the plan and the status change nothing on any host and no object.
fn assert_nothing_changes(site: &Site) {
    let objects = Snapshot::of_settled_objects(site);
    let hosts = Snapshot::of_hosts(&site.lab);
    // Something was looked at.
    assert!(objects.len() > 200, "{}", objects.len());
    assert!(hosts.len() > 4000, "{}", hosts.len());

    let plan = site.json(&["run", "--dry-run"]);
    assert_eq!(plan["stages"].as_array().unwrap().len(), 0, "{plan:#}");
    let again = site.json(&["run", "--yes"]);
    assert_eq!(again["steps"], 0, "{again:#}");
    let status = site.json(&["status"]);
    assert_nodes_are_ready(&status);
    assert_eq!(status["unready_pods"].as_array().unwrap().len(), 0);

    hosts.assert_again(&site.lab);
    objects.assert_same(&Snapshot::of_objects(site));
}

/// Pods on every node, and what they and the hosts can reach.
struct Probe<'a> {
    site: &'a Site,
    /// The address of each node's pod, and the pod's name.
    pods: BTreeMap<String, (String, String)>,
}

const MANIFEST: &str = include_str!("probe.yaml");

impl<'a> Probe<'a> {
    fn start(site: &'a Site) -> Probe<'a> {
        site.kubectl_with("node-1", "apply", MANIFEST);
        site.kubectl("node-1", "-n probe rollout status ds/probe --timeout=120s");
        let pods = site.kubectl("node-1", "-n probe get pods -o json");
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let pods: BTreeMap<_, _> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| {
                let place = (
                    text(&pod["status"]["podIP"]),
                    text(&pod["metadata"]["name"]),
                );
                (text(&pod["spec"]["nodeName"]), place)
            })
            .collect();
        assert!(pods.keys().eq(HOSTS.iter()), "{pods:?}");
        Probe { site, pods }
    }

    fn stop(self) {
        self.site
            .kubectl("node-1", "delete namespace probe --wait --timeout=120s");
    }

    /// What a shell command in a node's pod says.
    fn inside(&self, node: &str, script: &str) -> Result<String, String> {
        let (_, pod) = &self.pods[node];
        let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
        let exec = format!("{kubectl} -n probe exec {pod} -- sh -c '{script}' 2>&1");
        let output = self.site.lab.try_sh("node-1", &exec);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(said),
        }
    }

    fn service_address(&self, name: &str) -> String {
        let path = "-o jsonpath='{.spec.clusterIP}'";
        self.site
            .kubectl("node-1", &format!("get service {name} {path}"))
    }

    fn assert_names_resolve_in_pods(&self) {
        let kubernetes = self.service_address("-n default kubernetes");
        let service = self.service_address("-n probe probe");
        for node in HOSTS {
            // Without a final dot and with few parts, the search list is used too.
            for (name, address) in [
                ("kubernetes.default.svc.cluster.local", &kubernetes),
                ("probe.probe.svc.cluster.local", &service),
            ] {
                until_answered(&format!("{name} from {node}"), || {
                    let said = self.inside(node, &format!("nslookup {name}"))?;
                    Ok((said.contains(&format!("Address: {address}")), said))
                });
            }
            until_answered(&format!("a Service by its name from {node}"), || {
                let said = self.inside(node, "timeout 10 wget -qO- http://probe")?;
                Ok((said.starts_with("node-"), said))
            });
            // A name of pods, and not of a Service.
            until("that the pods have names", 60, || {
                let said = self.inside(node, "nslookup names.probe.svc.cluster.local")?;
                let known = |ip: &String| said.contains(&format!("Address: {ip}\n"));
                match self.pods.values().all(|(ip, _)| known(ip)) {
                    true => Ok(()),
                    false => Err(said),
                }
            });
            let absent = self.inside(node, "nslookup nobody.probe.svc.cluster.local");
            assert!(absent.is_err_and(|said| said.contains("NXDOMAIN")));
        }
    }

    fn assert_pods_reach_pods_of_other_nodes(&self) {
        for from in HOSTS {
            for (to, (address, _)) in &self.pods {
                until_answered(&format!("{to} from {from}"), || {
                    let get = format!("timeout 10 wget -qO- http://{address}:8080");
                    let said = self.inside(from, &get)?;
                    Ok((said == format!("{to}\n"), said))
                });
            }
        }
    }

    /// By the Service's address on each host, and by its port on each host's address
    /// from outside.
    fn assert_services_answer_from_every_node(&self) {
        let probe = self.service_address("-n probe probe");
        let web = self.service_address("-n demo web");
        for host in HOSTS {
            for (address, expected) in [(&probe, "node-"), (&web, " on node-4")] {
                until_answered(&format!("{address} on {host}"), || {
                    let answer = get_on_host(&self.site.lab, host, address, 80)?;
                    Ok((answer.contains(expected), answer))
                });
            }
            until_answered(&format!("{host} from outside"), || {
                let answer = get(&self.site.lab.address(host), 30080);
                let answer = answer.map_err(|error| error.to_string())?;
                Ok((answer.contains("\r\n\r\nnode-"), answer))
            });
        }
        let api = self.service_address("-n default kubernetes");
        for host in HOSTS {
            until_answered(&format!("the API from {host}"), || {
                let connect = format!("timeout 10 bash -c '</dev/tcp/{api}/443'");
                let output = self.site.lab.try_sh(host, &connect);
                Ok((output.status.success(), format!("{output:?}")))
            });
        }
    }
}

/// Waits until an answer is the right one: what nodes do for Services and names
/// follows the API, and is a moment behind it.
fn until_answered(what: &str, ask: impl Fn() -> Result<(bool, String), String>) {
    until(&format!("the answer of {what}"), 60, || match ask()? {
        (true, _) => Ok(()),
        (false, said) => Err(said),
    });
}

/// An HTTP answer, asked for by bash: hosts have no program for that.
fn get_on_host(lab: &Lab, host: &str, address: &str, port: u16) -> Result<String, String> {
    let get = r#"printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3"#;
    let script = format!("exec 3<>/dev/tcp/{address}/{port}; {get}");
    let output = lab.try_sh(host, &format!("timeout 10 bash -c '{script}'"));
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn get(address: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
