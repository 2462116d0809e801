//! kubeadm's own documents in a Clusterfile: `ClusterConfiguration`,
//! `InitConfiguration`, `JoinConfiguration`, `KubeletConfiguration` and
//! `KubeProxyConfiguration`.
//!
//! What chasi also has a field for is taken over as if it stood there. What chasi
//! decides itself may be written only with the value that it has anyway; anything
//! else is refused with the reason. The rest is kept for kubeadm. Older versions
//! are brought to v1beta4 (`cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go`).

use serde_json::{Map, Value as Json, json};

use super::draft::{Draft, Said};
use super::kubeadm_rules::{self as rules, Rule, Verdict};
use super::problem::{Problem, Problems, nearest};
use super::tree::{Key, Node, Value};
use crate::spec::cluster::MaskSizes;
use crate::spec::network::{Cidr, Family};

/// One of kubeadm's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cluster,
    Init,
    Join,
    Kubelet,
    KubeProxy,
}

impl Kind {
    /// The kind of that name.
    pub(super) fn of(name: &str) -> Option<Kind> {
        Some(match name {
            "ClusterConfiguration" => Kind::Cluster,
            "InitConfiguration" => Kind::Init,
            "JoinConfiguration" => Kind::Join,
            "KubeletConfiguration" => Kind::Kubelet,
            "KubeProxyConfiguration" => Kind::KubeProxy,
            _ => return None,
        })
    }

    /// The names, for suggestions.
    pub(super) const NAMES: [&str; 5] = [
        "ClusterConfiguration",
        "InitConfiguration",
        "JoinConfiguration",
        "KubeletConfiguration",
        "KubeProxyConfiguration",
    ];

    /// The versions that are read. Sealer's examples leave the version out.
    fn versions(self) -> &'static [&'static str] {
        match self {
            Kind::Cluster | Kind::Init | Kind::Join => &[
                "kubeadm.k8s.io/v1beta4",
                "kubeadm.k8s.io/v1beta3",
                "kubeadm.k8s.io/v1beta2",
            ],
            Kind::Kubelet => &["kubelet.config.k8s.io/v1beta1"],
            Kind::KubeProxy => &["kubeproxy.config.k8s.io/v1alpha1"],
        }
    }
}

/// Reads a document into the draft.
pub(super) fn read(kind: Kind, document: &Node, draft: &mut Draft, problems: &Problems<'_>) {
    check_version(kind, document, problems);
    check_fields(kind, document, problems);
    for rule in rules::of(kind) {
        if let Some((key, value)) = find(document, rule.path) {
            check(rule, key, value, problems);
        }
    }
    match kind {
        Kind::Cluster => {
            take_over(document, draft, problems);
            draft.kubeadm.cluster = cluster_configuration(document, problems);
        }
        Kind::Kubelet => {
            take_domain(document, "clusterDomain", draft, problems);
            draft.kubeadm.kubelet = fields(document, &["clusterDomain", "clusterDNS"]);
        }
        Kind::KubeProxy => {
            take_cidrs(document, &["clusterCIDR"], Which::Pods, draft, problems);
            draft.kubeadm.kube_proxy = fields(document, &["clusterCIDR"]);
        }
        // All that is allowed in them is what chasi does anyway.
        Kind::Init | Kind::Join => {}
    }
}

fn check_version(kind: Kind, document: &Node, problems: &Problems<'_>) {
    let Some(node) = document.get("apiVersion") else {
        return;
    };
    let versions = kind.versions();
    if !node
        .as_text()
        .is_some_and(|version| versions.contains(&version))
    {
        problems.add(
            Problem::new(
                node.span.clone(),
                "this version of the document is not supported",
            )
            .hint(format!("write `{}`", versions[0])),
        );
    }
}

fn check_fields(kind: Kind, document: &Node, problems: &Problems<'_>) {
    let known = rules::fields(kind);
    for (key, _) in document.entries() {
        if known.contains(&key.name.as_str()) || ["apiVersion", "kind"].contains(&key.name.as_str())
        {
            continue;
        }
        let problem = Problem::new(key.span.clone(), format!("unknown field `{}`", key.name));
        problems.add(match nearest(&key.name, known.iter().copied()) {
            Some(known) => problem.hint(format!("did you mean `{known}`?")),
            None => problem,
        });
    }
}

/// The entry at a path of keys.
fn find<'n>(document: &'n Node, path: &[&str]) -> Option<(&'n Key, &'n Node)> {
    let (last, before) = path.split_last()?;
    let parent = before
        .iter()
        .try_fold(document, |node, name| node.get(name))?;
    let (key, value) = parent.entries().iter().find(|(key, _)| key.name == *last)?;
    // Nothing written is nothing said.
    (!matches!(value.value, Value::Null)).then_some((key, value))
}

fn check(rule: &Rule, key: &Key, value: &Node, problems: &Problems<'_>) {
    match rule.verdict {
        Verdict::Only(allowed) => {
            let written = plain(value);
            if written.is_some_and(|written| allowed.contains(&written.as_str())) {
                return;
            }
            let problem = Problem::new(
                value.span.clone(),
                format!("`{}` is decided by chasi", key.name),
            );
            problems.add(problem.hint(format!(
                "{}; remove it, or write {}",
                rule.why,
                either(allowed)
            )));
        }
        Verdict::Never => problems.add(
            Problem::new(
                key.span.clone(),
                format!("`{}` is decided by chasi", key.name),
            )
            .hint(rule.why),
        ),
        Verdict::Unused => problems.warn(
            &key.span,
            format!("`{}` has no effect: {}", key.name, rule.why),
        ),
    }
}

fn either(allowed: &[&str]) -> String {
    let quoted: Vec<_> = allowed.iter().map(|value| format!("`{value}`")).collect();
    quoted.join(" or ")
}

/// A scalar as it was written.
fn plain(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(written, _) => Some(written.clone()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The fields of a document as JSON, without its type and without `taken`.
fn fields(document: &Node, taken: &[&str]) -> Map<String, Json> {
    document
        .entries()
        .iter()
        .filter(|(key, value)| {
            let name = key.name.as_str();
            !["apiVersion", "kind"].contains(&name)
                && !taken.contains(&name)
                && !matches!(value.value, Value::Null)
        })
        .map(|(key, value)| (key.name.clone(), value.to_json()))
        .collect()
}

/// What chasi has fields for.
fn take_over(document: &Node, draft: &mut Draft, problems: &Problems<'_>) {
    take_cidrs(
        document,
        &["networking", "podSubnet"],
        Which::Pods,
        draft,
        problems,
    );
    take_cidrs(
        document,
        &["networking", "serviceSubnet"],
        Which::Services,
        draft,
        problems,
    );
    if let Some(networking) = document.get("networking") {
        take_domain(networking, "dnsDomain", draft, problems);
    }
    take(
        document,
        "certificateValidityPeriod",
        &mut draft.certificate_validity,
        problems,
    );
    take(
        document,
        "caCertificateValidityPeriod",
        &mut draft.ca_validity,
        problems,
    );
    if let Some((_, value)) = find(document, &["clusterName"])
        && value.as_text() != Some(draft.name.as_str())
    {
        problems.add(
            Problem::new(
                value.span.clone(),
                format!("the cluster is called `{}`", draft.name),
            )
            .hint("remove `clusterName`, or write the same in `metadata`"),
        );
    }
    let Some((_, names)) = find(document, &["apiServer", "certSANs"]) else {
        return;
    };
    let Value::List(names) = &names.value else {
        problems.say(
            &names.span,
            format!("expected a list, found {}", names.describe()),
        );
        return;
    };
    for name in names {
        match plain(name).unwrap_or_default().parse() {
            Ok(parsed) if draft.cert_sans.contains(&parsed) => {}
            Ok(parsed) => draft.cert_sans.push(parsed),
            Err(invalid) => problems.say(&name.span, invalid.to_string()),
        }
    }
}

/// A field that chasi has as well: it is taken over, or must be the same.
fn take<T>(document: &Node, field: &str, said: &mut Option<Said<T>>, problems: &Problems<'_>)
where
    T: std::str::FromStr<Err = crate::spec::Invalid> + PartialEq + std::fmt::Display,
{
    let Some((_, value)) = find(document, &[field]) else {
        return;
    };
    let parsed: T = match plain(value).unwrap_or_default().parse() {
        Ok(parsed) => parsed,
        Err(invalid) => return problems.say(&value.span, invalid.to_string()),
    };
    match said {
        Some(said) if said.value == parsed => {}
        Some(said) => problems.add(
            Problem::new(
                value.span.clone(),
                format!("`{field}` is `{}` in the cluster's `spec`", said.value),
            )
            .hint("keep one of the two"),
        ),
        None => *said = Some(Said::new(parsed, &value.span)),
    }
}

fn take_domain(document: &Node, field: &str, draft: &mut Draft, problems: &Problems<'_>) {
    take(document, field, &mut draft.dns_domain, problems);
}

#[derive(Clone, Copy)]
enum Which {
    Pods,
    Services,
}

fn take_cidrs(
    document: &Node,
    path: &[&str],
    which: Which,
    draft: &mut Draft,
    problems: &Problems<'_>,
) {
    let Some((key, value)) = find(document, path) else {
        return;
    };
    let text = plain(value).unwrap_or_default();
    let mut networks = Vec::new();
    for part in text.split(',') {
        match part.trim().parse::<Cidr>() {
            Ok(cidr) => networks.push(Said::new(cidr, &value.span)),
            Err(invalid) => return problems.say(&value.span, invalid.to_string()),
        }
    }
    let said = match which {
        Which::Pods => &mut draft.pod_cidrs,
        Which::Services => &mut draft.service_cidrs,
    };
    let values = |list: &[Said<Cidr>]| list.iter().map(|said| said.value).collect::<Vec<_>>();
    match said {
        Some(said) if values(&said.value) == values(&networks) => {}
        Some(said) => {
            let there: Vec<_> = values(&said.value)
                .iter()
                .map(ToString::to_string)
                .collect();
            problems.add(
                Problem::new(
                    value.span.clone(),
                    format!(
                        "`{}` is `{}` elsewhere in the file",
                        key.name,
                        there.join(",")
                    ),
                )
                .hint("keep one of the two"),
            );
        }
        None => *said = Some(Said::new(networks, &value.span)),
    }
}

/// `ClusterConfiguration` in the shape of v1beta4, without what was taken over.
fn cluster_configuration(document: &Node, problems: &Problems<'_>) -> Map<String, Json> {
    let mut configuration = fields(
        document,
        &[
            "networking",
            "certificateValidityPeriod",
            "caCertificateValidityPeriod",
            "clusterName",
            "useHyperKubeImage",
            "dns",
            "proxy",
        ],
    );
    if let Some(server) = configuration
        .get_mut("apiServer")
        .and_then(Json::as_object_mut)
    {
        server.remove("certSANs");
        server.remove("timeoutForControlPlane");
    }
    let components: [(&[&str], &[&str]); 4] = [
        (&["apiServer"], &rules::API_SERVER_ARGUMENTS),
        (&["controllerManager"], &rules::CONTROLLER_ARGUMENTS),
        (&["scheduler"], &rules::SCHEDULER_ARGUMENTS),
        (&["etcd", "local"], &rules::ETCD_ARGUMENTS),
    ];
    for (path, owned) in components {
        let node = path.iter().try_fold(document, |node, name| node.get(name));
        let Some(node) = node.and_then(|node| node.get("extraArgs")) else {
            continue;
        };
        let arguments = arguments(node, owned, problems);
        if let Some(component) = object_at(&mut configuration, path) {
            component.insert("extraArgs".into(), arguments);
        }
    }
    configuration
}

/// The object at a path, made where it is missing.
fn object_at<'j>(
    whole: &'j mut Map<String, Json>,
    path: &[&str],
) -> Option<&'j mut Map<String, Json>> {
    path.iter().try_fold(whole, |object, name| {
        object
            .entry(*name)
            .or_insert_with(|| json!({}))
            .as_object_mut()
    })
}

/// Arguments of a component as a list of `name` and `value`; before v1beta4 they
/// were a mapping.
fn arguments(node: &Node, owned: &[&str], problems: &Problems<'_>) -> Json {
    let mut list = Vec::new();
    let mut add = |name: &str, span: &std::ops::Range<usize>, value: Option<String>| {
        if owned.contains(&name) {
            let why = match name {
                "feature-gates" => "write `kubernetes.featureGates` in the cluster's `spec`",
                _ => "remove it",
            };
            problems.add(
                Problem::new(
                    span.clone(),
                    format!("the argument `{name}` is decided by chasi"),
                )
                .hint(why),
            );
        }
        match value {
            Some(value) => list.push(json!({ "name": name, "value": value })),
            None => problems.say(span, format!("the argument `{name}` has no value")),
        }
    };
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                add(&key.name, &key.span, plain(value));
            }
        }
        Value::List(items) => {
            for item in items {
                match item.get("name").and_then(Node::as_text) {
                    Some(name) => add(name, &item.span, item.get("value").and_then(plain)),
                    None => problems.say(&item.span, "expected `name` and `value`"),
                }
            }
        }
        _ => problems.say(
            &node.span,
            format!("expected a list, found {}", node.describe()),
        ),
    }
    Json::Array(list)
}

/// Puts what chasi's own fields say of components into kubeadm's documents.
pub(super) fn complete(draft: &mut Draft, sizes: &MaskSizes, families: &[Family]) {
    let gates: Vec<_> = draft
        .feature_gates
        .iter()
        .map(|(gate, on)| format!("{gate}={on}"))
        .collect();
    if !gates.is_empty() {
        for component in ["apiServer", "controllerManager", "scheduler"] {
            add_argument(
                &mut draft.kubeadm.cluster,
                component,
                "feature-gates",
                &gates.join(","),
            );
        }
        for document in [&mut draft.kubeadm.kubelet, &mut draft.kubeadm.kube_proxy] {
            if let Some(target) = object_at(document, &["featureGates"]) {
                let gates = draft.feature_gates.iter();
                target.extend(gates.map(|(gate, on)| (gate.to_string(), json!(on))));
            }
        }
    }
    for family in families {
        let name = match (families.len(), family) {
            (1, _) => "node-cidr-mask-size",
            (_, Family::V4) => "node-cidr-mask-size-ipv4",
            (_, Family::V6) => "node-cidr-mask-size-ipv6",
        };
        if sizes.of(*family) != MaskSizes::default().of(*family) {
            let size = sizes.of(*family).to_string();
            add_argument(&mut draft.kubeadm.cluster, "controllerManager", name, &size);
        }
    }
}

fn add_argument(cluster: &mut Map<String, Json>, component: &str, name: &str, value: &str) {
    let arguments = object_at(cluster, &[component])
        .map(|component| component.entry("extraArgs").or_insert_with(|| json!([])));
    if let Some(Json::Array(arguments)) = arguments {
        arguments.push(json!({ "name": name, "value": value }));
    }
}
