//! What a drain would do, without doing it.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};

use super::budget::{self, BudgetProblem};
use super::pods::{Fate, Obstacle, PodName, Reason, controller, fate, has_ended, is_ending};
use super::room::{self, Homeless};
use super::{Options, Snapshot};
use crate::error::{Error, Kind, Result};

/// A pod that is left where it is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The pod.
    pub pod: PodName,
    /// Why.
    pub reason: Reason,
}

/// A pod that keeps the drain from beginning.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Blocked {
    /// The pod.
    pub pod: PodName,
    /// Why.
    pub obstacle: Obstacle,
}

/// A pod that must move.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    /// The pod.
    pub pod: PodName,
    /// Its node.
    pub node: String,
    /// Whether it was told to end already, by somebody else.
    pub ending: bool,
}

/// What draining some nodes at the same time would do.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Simulation {
    /// The nodes that the API does not know.
    pub unknown: Vec<String>,
    /// The pods that must move.
    pub moving: Vec<Moving>,
    /// The pods that stay.
    pub skipped: Vec<Skipped>,
    /// The pods that keep it from beginning.
    pub blocked: Vec<Blocked>,
    /// The budgets that stand against it, now or for ever.
    pub budgets: Vec<BudgetProblem>,
    /// The pods that fit on none of the nodes that remain.
    pub homeless: Vec<Homeless>,
    /// The nodes that remain and take ordinary pods.
    pub remaining: Vec<String>,
}

impl Simulation {
    /// Why the drain cannot begin; empty when it can.
    pub fn refusals(&self) -> Vec<String> {
        let blocked = self.blocked.iter().map(|one| {
            let (pod, obstacle) = (&one.pod, one.obstacle);
            format!("the pod {pod}: {obstacle} (`{}`)", obstacle.option())
        });
        let budgets = self.budgets.iter().filter(|problem| problem.is_final());
        blocked.chain(budgets.map(ToString::to_string)).collect()
    }

    /// Fails when the drain of these nodes cannot begin, with what can be done about it.
    ///
    /// # Errors
    /// [`Kind::Check`].
    pub fn check(&self, nodes: &[&str]) -> Result<()> {
        let refusals = self.refusals();
        if refusals.is_empty() {
            return Ok(());
        }
        let what = format!(
            "`{}` cannot be drained; nothing was changed",
            nodes.join("`, `")
        );
        let mut error = Error::new(Kind::Check, what).because(refusals.join("\n"));
        let mut options: Vec<&str> = self
            .blocked
            .iter()
            .map(|one| one.obstacle.option())
            .collect();
        options.sort_unstable();
        options.dedup();
        if !options.is_empty() {
            error = error.hint(format!("add `{}`, when that is meant", options.join(" ")));
        }
        if self.budgets.iter().any(BudgetProblem::is_final) {
            error = error.hint("run more replicas than must stay healthy, or relax the budget for now: `kubectl edit poddisruptionbudgets -A`");
        }
        Err(error)
    }

    /// Why it may take long, or leave pods without a place; empty when nothing
    /// speaks for it.
    pub fn doubts(&self) -> Vec<String> {
        let budgets = self.budgets.iter().filter(|problem| !problem.is_final());
        let homeless = self.homeless.iter().map(|one| {
            format!(
                "no other node has room for the pod {}: {}",
                one.pod, one.why
            )
        });
        budgets.map(ToString::to_string).chain(homeless).collect()
    }
}

/// What draining `nodes` at the same time would do.
pub fn simulate(snapshot: &Snapshot, nodes: &[&str], options: &Options) -> Simulation {
    let mut found = Simulation::default();
    let is_known = |name: &&str| snapshot.nodes.iter().any(|node| node_name(node) == *name);
    found.unknown = nodes
        .iter()
        .filter(|name| !is_known(name))
        .map(|name| (*name).to_owned())
        .collect();
    let mut moving: Vec<&Pod> = Vec::new();
    let concerned = snapshot.pods.iter().filter_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        nodes.contains(&node).then_some((pod, node))
    });
    for (pod, node) in concerned {
        let name = PodName::of(pod);
        match fate(pod, options) {
            Fate::Stays(reason) => found.skipped.push(Skipped { pod: name, reason }),
            Fate::Blocks(obstacle) => {
                // Once it is allowed it goes like the others: what stands against that
                // is told with it, and not only then.
                if obstacle != Obstacle::DaemonSet {
                    moving.push(pod);
                }
                found.blocked.push(Blocked {
                    pod: name,
                    obstacle,
                });
            }
            Fate::Moves => {
                moving.push(pod);
                found.moving.push(Moving {
                    pod: name,
                    node: node.to_owned(),
                    ending: is_ending(pod),
                });
            }
        }
    }
    let others: Vec<&Node> = snapshot
        .nodes
        .iter()
        .filter(|node| !nodes.contains(&node_name(node)))
        .collect();
    found.remaining = others
        .iter()
        .filter(|node| takes_ordinary_pods(node))
        .map(|node| node_name(node).to_owned())
        .collect();
    found.budgets = budget::problems(&moving, &snapshot.pods, &snapshot.budgets);
    // What moves makes no room where it goes away from, and what nobody makes anew
    // needs none.
    let staying: Vec<Pod> = snapshot
        .pods
        .iter()
        .filter(|pod| !has_ended(pod))
        .filter(|pod| {
            !moving
                .iter()
                .any(|one| one.metadata.uid == pod.metadata.uid)
        })
        .cloned()
        .collect();
    moving.retain(|pod| controller(pod).is_some() && !is_ending(pod));
    found.homeless = room::homeless(&moving, &others, &staying);
    found
}

fn node_name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a node takes pods that ask for nothing special.
fn takes_ordinary_pods(node: &Node) -> bool {
    super::fit::refuses(node, &Pod::default()).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::drain::Verdict;

    /// `name`, and what is special about it.
    fn pod(name: &str, node: &str, special: Value) -> Value {
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name,
                "labels": { "app": "web", "pod-template-hash": "abc" },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc",
                    "uid": "u", "controller": true,
                }],
            },
            "spec": { "nodeName": node, "containers": [{
                "name": "c", "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } } }] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        merge(&mut pod, special);
        pod
    }

    fn node(name: &str, special: Value) -> Value {
        let mut node = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "spec": {},
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "110" },
            },
        });
        merge(&mut node, special);
        node
    }

    fn budget(status: Value, spec: Value) -> Value {
        let mut budget = json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": { "matchLabels": { "app": "web" } } },
            "status": status,
        });
        merge(&mut budget["spec"], spec);
        budget
    }

    fn merge(base: &mut Value, over: Value) {
        match (base, over) {
            (Value::Object(base), Value::Object(over)) => {
                for (key, value) in over {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (base, over) => *base = over,
        }
    }

    fn snapshot(nodes: Vec<Value>, pods: Vec<Value>, budgets: Vec<Value>) -> Snapshot {
        Snapshot {
            nodes: serde_json::from_value(nodes.into()).unwrap(),
            pods: serde_json::from_value(pods.into()).unwrap(),
            budgets: serde_json::from_value(budgets.into()).unwrap(),
        }
    }

    fn two_nodes() -> Vec<Value> {
        vec![node("a", json!({})), node("b", json!({}))]
    }

    #[test]
    fn pods_are_treated_as_kubectl_treats_them() {
        let no_owner = json!({ "metadata": { "ownerReferences": [] } });
        let daemon = json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true }] } });
        let mirror = json!({ "metadata": {
            "ownerReferences": [], "annotations": { "kubernetes.io/config.mirror": "x" } } });
        let data = json!({ "spec": { "volumes": [{ "name": "v", "emptyDir": {} }] } });
        let done =
            json!({ "metadata": { "ownerReferences": [] }, "status": { "phase": "Succeeded" } });
        let none = Options::default();
        let ignoring = Options {
            ignore_daemonsets: true,
            ..Options::default()
        };
        let forced = Options {
            force: true,
            ..Options::default()
        };
        let with_data = Options {
            delete_emptydir_data: true,
            ..Options::default()
        };
        for (special, options, expected) in [
            (json!({}), &none, "moves"),
            (no_owner.clone(), &none, "blocked unmanaged"),
            (no_owner, &forced, "moves"),
            (daemon.clone(), &none, "blocked daemon-set"),
            (daemon, &ignoring, "skipped daemon-set"),
            (mirror, &none, "skipped mirror"),
            (data.clone(), &none, "blocked local-data"),
            (data, &with_data, "moves"),
            (done, &none, "skipped finished"),
        ] {
            let pods = vec![pod("p", "a", special.clone()), pod("q", "b", json!({}))];
            let found = simulate(&snapshot(two_nodes(), pods, vec![]), &["a"], options);
            let word = |value: Value| value.as_str().unwrap().to_owned();
            let said = match (&found.moving[..], &found.skipped[..], &found.blocked[..]) {
                ([_], [], []) => "moves".to_owned(),
                ([], [one], []) => {
                    format!(
                        "skipped {}",
                        word(serde_json::to_value(one.reason).unwrap())
                    )
                }
                ([], [], [one]) => {
                    format!(
                        "blocked {}",
                        word(serde_json::to_value(one.obstacle).unwrap())
                    )
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(said, expected, "{special}");
        }
    }

    #[test]
    fn budgets_that_never_allow_it_are_told_from_those_that_do_not_now() {
        let status = |allowed, healthy, desired, expected| {
            json!({ "disruptionsAllowed": allowed, "currentHealthy": healthy,
                "desiredHealthy": desired, "expectedPods": expected })
        };
        let unready =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
        let always = json!({ "unhealthyPodEvictionPolicy": "AlwaysAllow" });
        let other = json!({ "selector": { "matchLabels": { "app": "other" } } });
        let pending = json!({ "status": { "phase": "Pending" } });
        for (of_pod, of_budget, status, expected) in [
            (json!({}), json!({}), status(1, 2, 1, 2), None),
            (
                json!({}),
                json!({}),
                status(0, 2, 2, 2),
                Some(Verdict::Never),
            ),
            (
                json!({}),
                json!({}),
                status(0, 1, 1, 2),
                Some(Verdict::WhenHealthy),
            ),
            (json!({}), other, status(0, 2, 2, 2), None),
            // One that is not ready may go as long as enough others are.
            (unready.clone(), json!({}), status(0, 1, 1, 2), None),
            (
                unready.clone(),
                json!({}),
                status(0, 0, 1, 2),
                Some(Verdict::WhenHealthy),
            ),
            (unready, always, status(0, 0, 1, 2), None),
            (pending, json!({}), status(0, 2, 2, 2), None),
        ] {
            let pods = vec![pod("p", "a", of_pod)];
            let budgets = vec![budget(status.clone(), of_budget)];
            let found = simulate(
                &snapshot(two_nodes(), pods, budgets),
                &["a"],
                &Options::default(),
            );
            let verdict = found.budgets.first().map(|problem| problem.verdict);
            assert_eq!(verdict, expected, "{status}");
            assert_eq!(
                found.refusals().is_empty(),
                expected != Some(Verdict::Never)
            );
        }
    }

    #[test]
    fn what_can_be_done_about_a_refusal_is_said() {
        let data = json!({ "spec": { "volumes": [{ "name": "v", "emptyDir": {} }] } });
        let unmanaged = json!({ "metadata": { "ownerReferences": [] } });
        let budget = || {
            budget(
                json!({ "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 }),
                json!({}),
            )
        };
        let relax = "run more replicas than must stay healthy, or relax the budget for now: `kubectl edit poddisruptionbudgets -A`";
        for (pods, budgets, expected) in [
            (vec![pod("p", "a", json!({}))], vec![], None),
            (
                vec![
                    pod("p", "a", data.clone()),
                    pod("q", "a", data.clone()),
                    pod("r", "a", unmanaged),
                ],
                vec![],
                Some(vec![
                    "add `--delete-emptydir-data --force`, when that is meant",
                ]),
            ),
            (
                vec![pod("p", "a", json!({}))],
                vec![budget()],
                Some(vec![relax]),
            ),
            // Both at once: who allows the one must not find the other only then.
            (
                vec![pod("p", "a", data)],
                vec![budget()],
                Some(vec![
                    "add `--delete-emptydir-data`, when that is meant",
                    relax,
                ]),
            ),
        ] {
            let found = simulate(
                &snapshot(two_nodes(), pods, budgets),
                &["a"],
                &Options::default(),
            );
            let error = found.check(&["a"]).err();
            let hints = error.as_ref().map(|error| error.hints().to_vec());
            assert_eq!(
                hints,
                expected.map(|hints| hints.iter().map(|hint| (*hint).to_owned()).collect())
            );
            assert!(
                error.is_none_or(|error| error.to_string().starts_with("`a` cannot be drained"))
            );
        }
    }

    #[test]
    fn a_pod_with_two_budgets_is_never_evicted() {
        let status = json!({ "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2 });
        let mut second = budget(status.clone(), json!({}));
        second["metadata"]["name"] = "second".into();
        let budgets = vec![budget(status, json!({})), second];
        let pods = vec![pod("p", "a", json!({}))];
        let found = simulate(
            &snapshot(two_nodes(), pods, budgets),
            &["a"],
            &Options::default(),
        );
        assert_eq!(found.budgets[0].verdict, Verdict::Several);
        let said = &found.refusals()[0];
        assert!(said.contains("`shop/web` and `shop/second`"), "{said}");
    }

    #[test]
    fn a_problem_names_the_budget_the_pod_and_the_owner() {
        let status = json!({ "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 });
        let pods = vec![pod("web-abc-1", "a", json!({}))];
        let found = simulate(
            &snapshot(two_nodes(), pods, vec![budget(status, json!({}))]),
            &["a"],
            &Options::default(),
        );
        assert_eq!(
            found.refusals(),
            [
                "the PodDisruptionBudget `shop/web` never lets `shop/web-abc-1` of Deployment web go: 1 of 1 pods must stay healthy"
            ]
        );
    }

    #[test]
    fn what_fits_nowhere_is_told_with_the_reasons() {
        let apart = json!({ "spec": { "affinity": { "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": { "matchLabels": { "app": "web" } } }] } } } });
        let large = |cpu: &str| {
            json!({ "spec": { "containers": [{ "name": "c",
                "resources": { "requests": { "cpu": cpu, "memory": "1Gi" } } }] } })
        };
        let tainted = node(
            "b",
            json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } }),
        );
        let tolerating = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
        let zone = json!({ "spec": { "nodeSelector": { "zone": "x" } } });
        let b = || node("b", json!({}));
        for (other, there, special, expected) in [
            (b(), vec![], json!({}), None),
            (b(), vec![], large("3"), Some("1 node: too little CPU")),
            (
                b(),
                vec![large("1.8")],
                json!({}),
                Some("1 node: too little CPU"),
            ),
            (
                b(),
                vec![],
                zone,
                Some("1 node: not a node that it asks for"),
            ),
            (
                tainted.clone(),
                vec![],
                json!({}),
                Some("1 node: a taint that it does not tolerate"),
            ),
            (tainted, vec![], tolerating, None),
            (
                b(),
                vec![json!({})],
                apart,
                Some("1 node: a pod there keeps it away"),
            ),
            (
                node("b", json!({ "spec": { "unschedulable": true } })),
                vec![],
                json!({}),
                Some("1 node: cordoned"),
            ),
        ] {
            let mut pods = vec![pod("p", "a", special.clone())];
            pods.extend(there.into_iter().map(|special| pod("there", "b", special)));
            let nodes = vec![node("a", json!({})), other];
            let found = simulate(&snapshot(nodes, pods, vec![]), &["a"], &Options::default());
            let why = found.homeless.first().map(|one| one.why.as_str());
            assert_eq!(why, expected, "{special}");
        }
        // Two that fit one at a time do not fit together, and nothing is left at all
        // when every node goes.
        let pods = vec![pod("p", "a", large("1.5")), pod("q", "a", large("1.5"))];
        let both = snapshot(two_nodes(), pods, vec![]);
        let found = simulate(&both, &["a"], &Options::default());
        assert_eq!(
            (found.homeless.len(), found.remaining),
            (1, vec!["b".to_owned()])
        );
        let found = simulate(&both, &["a", "b"], &Options::default());
        assert_eq!((found.homeless.len(), found.remaining.len()), (2, 0));
        assert_eq!(found.homeless[0].why, "there is no other node");
    }
}
