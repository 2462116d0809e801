//! Where a pod may go at all: taints and tolerations, selectors of nodes, and pods
//! that keep each other away.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration};

use super::budget::selects;
use super::pods::labels;

/// Why a node takes no such pod, whatever else is there; `None` when it does.
pub(super) fn refuses(node: &Node, pod: &Pod) -> Option<&'static str> {
    let spec = node.spec.as_ref();
    if spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
        return Some("cordoned");
    }
    let ready = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready {
        return Some("not ready");
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let untolerated = spec
        .and_then(|spec| spec.taints.as_ref())
        .into_iter()
        .flatten()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .any(|taint| !tolerations.iter().any(|one| tolerates(one, taint)));
    if untolerated {
        return Some("a taint that it does not tolerate");
    }
    (!is_wanted(node, pod)).then_some("not a node that it asks for")
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let same_effect = effect.is_empty() || effect == taint.effect;
    let same_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
    };
    match key.is_empty() {
        true => same_effect && toleration.operator.as_deref() == Some("Exists"),
        false => same_effect && key == taint.key && same_value,
    }
}

/// Whether a pod's selector and required affinity name a node.
fn is_wanted(node: &Node, pod: &Pod) -> bool {
    let none = BTreeMap::new();
    let has = node.metadata.labels.as_ref().unwrap_or(&none);
    let Some(spec) = pod.spec.as_ref() else {
        return true;
    };
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| has.get(key) == Some(value));
    let terms = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .map(|selector| selector.node_selector_terms.as_slice());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    selected && terms.is_none_or(|terms| terms.iter().any(|term| meets(term, has, name)))
}

fn meets(term: &NodeSelectorTerm, has: &BTreeMap<String, String>, name: &str) -> bool {
    let right = |operator: &str, values: &[String], value: Option<&str>| {
        let among = value.is_some_and(|value| values.iter().any(|one| one == value));
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = values.first().and_then(|text| number(text));
        match operator {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => value
                .and_then(number)
                .zip(bound)
                .is_some_and(|(a, b)| a > b),
            "Lt" => value
                .and_then(number)
                .zip(bound)
                .is_some_and(|(a, b)| a < b),
            _ => false,
        }
    };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term that asks for nothing selects nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            right(&one.operator, values, has.get(&one.key).map(String::as_str))
        })
        && fields.iter().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            right(&one.operator, values, Some(name))
        })
}

/// Whether one of two pods keeps the other away from its host, by a required
/// anti-affinity over host names.
pub(super) fn repels(one: &Pod, other: &Pod) -> bool {
    keeps_away(one, other) || keeps_away(other, one)
}

fn keeps_away(pod: &Pod, other: &Pod) -> bool {
    let terms = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    terms
        .into_iter()
        .flatten()
        .any(|term| term.topology_key == "kubernetes.io/hostname" && means(term, pod, other))
}

fn means(term: &PodAffinityTerm, pod: &Pod, other: &Pod) -> bool {
    let own = pod.metadata.namespace.as_ref();
    let theirs = other.metadata.namespace.as_ref();
    let there = match term.namespaces.as_deref() {
        None | Some([]) => own == theirs,
        Some(named) => theirs.is_some_and(|theirs| named.contains(theirs)),
    };
    there
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, labels(other)))
}
