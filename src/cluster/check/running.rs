//! A cluster that runs: what of it is damaged.

use super::outcome::{Outcome, Place, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::{Site, Subject};
use crate::agent::calls::inspect::{ClusterInspection, Told};
use crate::host::facts::Known;

const RUNNING: &[Phase] = &[Phase::Post, Phase::Upgrade];
const NEEDS: &[Need] = &[Need::Running];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "cluster.api",
        "every control plane's API server is ready",
        "`/readyz` of each API server, asked on its host",
        api,
    )
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_host(
        "cluster.nodes",
        "every host is a node that is ready",
        "the nodes of the API, against the Clusterfile",
        node,
    )
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_host(
        "cluster.cordoned",
        "no node is cordoned",
        "the nodes of the API",
        cordoned,
    )
    .warning()
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_site(
        "cluster.strangers",
        "the Clusterfile names every node",
        "the nodes of the API, against the Clusterfile",
        strangers,
    )
    .warning()
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_site(
        "cluster.pods",
        "the system's pods are ready, those of the control plane among them",
        "the pods of `kube-system` and of the namespaces that the image made",
        pods,
    )
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_host(
        "cluster.services",
        "the host's services run",
        "systemd's state of the units that the generation brings",
        services,
    )
    .at(RUNNING),
    Check::of_host(
        "cluster.files",
        "the host's files are as chasi made them",
        "every managed file and link, and switches that were interrupted",
        files,
    )
    .at(RUNNING),
    Check::of_host(
        "certificates.expiry",
        "no certificate ends within 30 days",
        "kubeadm's certificates, those in kubeconfigs, and kubelet's, on every host",
        expiry,
    )
    .at(RUNNING)
    .needing(NEEDS),
    Check::of_site(
        "certificates.requests",
        "no request for a certificate waits",
        "CertificateSigningRequests that nobody approved or denied",
        requests,
    )
    .warning()
    .at(RUNNING)
    .needing(NEEDS),
];

const BARE: &str = "the host is not chasi's yet";

/// Judges a part of what the API says; blind where it says nothing.
pub(super) fn of_api<T>(
    site: &Site,
    part: impl Fn(&ClusterInspection) -> &Told<T>,
    judge: impl FnOnce(&T) -> Outcome,
) -> Outcome {
    match &site.running {
        Known::Unknown(why) => unknown(why.as_str()),
        Known::Is(found) => match part(found) {
            Ok(part) => judge(part),
            Err(why) => unknown(why.as_str()),
        },
    }
}

fn of_cluster(outcome: Outcome) -> Vec<(Place, Outcome)> {
    vec![(Place::Cluster {}, outcome)]
}

fn api(subject: &Subject) -> Outcome {
    if !subject.control_plane() {
        return not_applicable("no API server runs there");
    }
    match &subject.measured.api {
        Known::Unknown(why) => unknown(why.as_str()),
        Known::Is(Ok(())) => passed("ready"),
        Known::Is(Err(why)) => wrong(
            why.as_str(),
            "an API server that is ready",
            "`crictl ps -a` and the logs below `/var/log/pods/` on the host say why; `chasi run` starts what is stopped",
        ),
    }
}

fn node(subject: &Subject) -> Outcome {
    of_api(
        subject.site,
        |found| &found.nodes,
        |nodes| {
            let hint = "`journalctl -u kubelet` on the host says why; `chasi run` completes what is missing";
            let expected = "a node that is ready";
            match nodes.iter().find(|node| node.name == subject.name()) {
                None => wrong("the API knows no node of this name", expected, hint),
                Some(node) if node.ready => passed(node.version.as_str()),
                Some(node) => wrong(
                    node.reason.as_deref().unwrap_or("the node is not ready"),
                    expected,
                    hint,
                ),
            }
        },
    )
}

fn cordoned(subject: &Subject) -> Outcome {
    of_api(
        subject.site,
        |found| &found.nodes,
        |nodes| {
            let name = subject.name();
            match nodes.iter().find(|node| node.name == name) {
                None => not_applicable("the API knows no node of this name"),
                Some(node) if node.unschedulable => wrong(
                    "the node takes no new pods",
                    "a node that does",
                    format!("`chasi node uncordon {name}`, when its work is done"),
                ),
                Some(_) => passed("takes pods"),
            }
        },
    )
}

fn strangers(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(of_api(
        site,
        |found| &found.nodes,
        |nodes| {
            let strangers: Vec<&str> = nodes
                .iter()
                .map(|node| node.name.as_str())
                .filter(|name| site.cluster.hosts.get(name).is_none())
                .collect();
            match strangers.first() {
                None => passed(format!("{} nodes", nodes.len())),
                Some(first) => wrong(
                    format!("the Clusterfile does not name {}", strangers.join(", ")),
                    "a Clusterfile with every node",
                    format!("add them to the Clusterfile; or `chasi node delete {first}`"),
                ),
            }
        },
    ))
}

fn pods(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(of_api(
        site,
        |found| &found.pods,
        |pods| {
            let unready: Vec<String> = pods
                .iter()
                .filter(|pod| !pod.ready)
                .map(|pod| {
                    let reason = pod.reason.as_deref().unwrap_or("not ready");
                    let on = pod.node.as_deref().map(|node| format!(" on {node}"));
                    format!(
                        "`{}/{}`{}: {reason}",
                        pod.namespace,
                        pod.name,
                        on.unwrap_or_default()
                    )
                })
                .collect();
            match unready.is_empty() {
                true => passed(format!("{} pods are ready", pods.len())),
                false => wrong(
                    unready.join("; "),
                    "pods that are ready",
                    "`kubectl describe pod -n NAMESPACE NAME` and `kubectl logs` say why",
                ),
            }
        },
    ))
}

fn services(subject: &Subject) -> Outcome {
    if !subject.managed() {
        return not_applicable(BARE);
    }
    let stopped = &subject.report.stopped;
    match stopped.first() {
        None => passed("all run"),
        Some(first) => wrong(
            format!("{} does not run", stopped.join(" and ")),
            "services that run",
            format!("`journalctl -u {first}` on the host says why; `chasi run` starts them"),
        ),
    }
}

fn files(subject: &Subject) -> Outcome {
    if !subject.managed() {
        return not_applicable(BARE);
    }
    let managed = &subject.facts().managed;
    if let Some(operation) = managed.pending.first() {
        return wrong(
            format!("an operation was interrupted: {operation:?}"),
            "operations that ended",
            "`chasi run` completes or undoes it, as does a restart of the host",
        );
    }
    if let Some(why) = managed
        .parts
        .values()
        .find_map(|part| part.obstacle.as_ref())
    {
        return unknown(why.as_str());
    }
    let drift: Vec<String> = managed
        .parts
        .values()
        .flat_map(|part| &part.drift)
        .map(|change| format!("`{}`", change.path))
        .collect();
    match drift.is_empty() {
        true => passed("as they should be"),
        false => wrong(
            format!("missing or changed: {}", drift.join(", ")),
            "files as the generation has them",
            "`chasi run` puts them back; what you changed on purpose belongs into the Clusterfile",
        ),
    }
}

/// The window, in seconds.
const WINDOW: i64 = 30 * 24 * 3600;

fn expiry(subject: &Subject) -> Outcome {
    if !subject.managed() {
        return not_applicable(BARE);
    }
    let expiries = match &subject.measured.expiries {
        Known::Is(expiries) => expiries,
        Known::Unknown(why) => return unknown(why.as_str()),
    };
    let now = subject.facts().clock / 1_000_000_000;
    let days = |ends: i64| (ends - now) / (24 * 3600);
    let soon: Vec<String> = expiries
        .iter()
        .filter_map(|one| Some((one, *one.ends.as_ref().ok()?)))
        .filter(|(_, ends)| ends - now < WINDOW)
        .map(|(one, ends)| match ends > now {
            true => format!("`{}` ends in {} days", one.path, days(ends)),
            false => format!("`{}` ended {} days ago", one.path, -days(ends)),
        })
        .collect();
    if !soon.is_empty() {
        return wrong(
            soon.join(", "),
            "30 days at least",
            "`chasi certs renew`; kubelet renews its own while it reaches the API",
        );
    }
    let unread = expiries
        .iter()
        .find_map(|one| Some((one, one.ends.as_ref().err()?)));
    if let Some((one, why)) = unread {
        return unknown(format!("`{}`: {why}", one.path));
    }
    match expiries
        .iter()
        .filter_map(|one| one.ends.as_ref().ok())
        .min()
    {
        None => unknown("there is no certificate on the host"),
        Some(first) => passed(format!(
            "{} certificates, the first in {} days",
            expiries.len(),
            days(*first)
        )),
    }
}

fn requests(site: &Site) -> Vec<(Place, Outcome)> {
    of_cluster(of_api(
        site,
        |found| &found.requests,
        |requests| match requests.first() {
            None => passed("none"),
            Some(first) => wrong(
                format!("{} wait: {}", requests.len(), requests.join(", ")),
                "none",
                format!(
                    "look at it with `kubectl describe csr {first}`, then `kubectl certificate approve {first}` or `deny`"
                ),
            ),
        },
    ))
}
