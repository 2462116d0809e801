//! What PodDisruptionBudgets say to a drain (policy/v1,
//! kubernetes.io/docs/tasks/run-application/configure-pdb). The numbers are those
//! that the cluster's disruption controller keeps in their status.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use super::pods::{PodName, has_ended, is_ready, labels, phase};

/// A budget that stands against a drain.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct BudgetProblem {
    /// The budget: `namespace/name`.
    pub budget: String,
    /// Whether it gives way.
    pub verdict: Verdict,
    /// How many pods must stay healthy.
    pub desired: i32,
    /// How many are healthy now.
    pub healthy: i32,
    /// How many there are to be.
    pub expected: i32,
    /// Its pods on the node.
    pub pods: Vec<PodName>,
    /// Its pods that are not ready, wherever they are: at most eight.
    pub unready: Vec<PodName>,
}

/// Whether a budget gives way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It never allows a disruption: as many pods must stay healthy as there are.
    Never,
    /// The API never evicts a pod that has several budgets.
    Several,
    /// It allows one when more of its pods are healthy.
    WhenHealthy,
}

impl BudgetProblem {
    /// Whether waiting is of no use.
    pub fn is_final(&self) -> bool {
        self.verdict != Verdict::WhenHealthy
    }
}

impl fmt::Display for BudgetProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BudgetProblem {
            budget,
            desired,
            healthy,
            expected,
            ..
        } = self;
        let pods: Vec<String> = self.pods.iter().map(ToString::to_string).collect();
        let pods = pods.join(", ");
        match self.verdict {
            Verdict::Never => write!(
                f,
                "the PodDisruptionBudget `{budget}` never lets {pods} go: {desired} of {expected} pods must stay healthy"
            ),
            Verdict::Several => write!(
                f,
                "{pods} has several PodDisruptionBudgets, {budget}: the API evicts no such pod"
            ),
            Verdict::WhenHealthy => {
                write!(
                    f,
                    "the PodDisruptionBudget `{budget}` does not let {pods} go now: {desired} of {expected} pods must stay healthy, {healthy} are"
                )?;
                if !self.unready.is_empty() {
                    let unready: Vec<String> =
                        self.unready.iter().map(ToString::to_string).collect();
                    write!(f, "; not ready: {}", unready.join(", "))?;
                }
                Ok(())
            }
        }
    }
}

/// How many pods a problem names.
const NAMED: usize = 8;

/// What stands against moving these pods. `all` are the pods of the cluster.
pub(super) fn problems(
    moving: &[&Pod],
    all: &[Pod],
    budgets: &[PodDisruptionBudget],
) -> Vec<BudgetProblem> {
    let mut pods: BTreeMap<usize, Vec<&Pod>> = BTreeMap::new();
    let mut found = Vec::new();
    for pod in moving.iter().filter(|pod| is_counted(pod)) {
        let own: Vec<usize> = (0..budgets.len())
            .filter(|index| covers(&budgets[*index], pod))
            .collect();
        match own.as_slice() {
            [] => {}
            [one] => pods.entry(*one).or_default().push(pod),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|index| format!("`{}`", name(&budgets[*index])))
                    .collect();
                let mut problem = problem(&budgets[several[0]], Verdict::Several, &[*pod], all);
                problem.budget = names.join(" and ");
                found.push(problem);
            }
        }
    }
    for (index, pods) in pods {
        if let Some(verdict) = verdict(&budgets[index], &pods) {
            found.push(problem(&budgets[index], verdict, &pods, all));
        }
    }
    found
}

/// Whether an eviction of the pod asks its budgets at all: one that never ran does
/// not (`pkg/registry/core/pod/storage/eviction.go`).
fn is_counted(pod: &Pod) -> bool {
    !has_ended(pod) && phase(pod) != "Pending" && !super::pods::is_ending(pod)
}

fn verdict(budget: &PodDisruptionBudget, pods: &[&Pod]) -> Option<Verdict> {
    let status = budget.status.as_ref()?;
    let spec = budget.spec.as_ref()?;
    let unready_may_go = match spec.unhealthy_pod_eviction_policy.as_deref() {
        Some("AlwaysAllow") => true,
        _ => status.current_healthy >= status.desired_healthy && status.desired_healthy > 0,
    };
    let asks = pods.iter().any(|pod| is_ready(pod) || !unready_may_go);
    if !asks || status.expected_pods == 0 {
        return None;
    }
    if status.desired_healthy >= status.expected_pods {
        return Some(Verdict::Never);
    }
    (status.disruptions_allowed == 0).then_some(Verdict::WhenHealthy)
}

fn problem(
    budget: &PodDisruptionBudget,
    verdict: Verdict,
    pods: &[&Pod],
    all: &[Pod],
) -> BudgetProblem {
    let status = budget.status.clone().unwrap_or_default();
    let unready = all
        .iter()
        .filter(|pod| is_counted(pod) && !is_ready(pod) && covers(budget, pod));
    BudgetProblem {
        budget: name(budget),
        verdict,
        desired: status.desired_healthy,
        healthy: status.current_healthy,
        expected: status.expected_pods,
        pods: pods.iter().map(|pod| PodName::of(pod)).collect(),
        unready: unready.take(NAMED).map(PodName::of).collect(),
    }
}

fn name(budget: &PodDisruptionBudget) -> String {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    format!("{namespace}/{name}")
}

/// Whether a pod is one of a budget's.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    budget.metadata.namespace == pod.metadata.namespace
        && budget
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| selects(selector, labels(pod)))
}

/// Whether a selector selects labels; an empty one selects all.
pub(super) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let right = selector.match_expressions.iter().flatten().all(|one| {
        let value = labels.get(&one.key);
        let values = one.values.as_deref().unwrap_or_default();
        match one.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && right
}
