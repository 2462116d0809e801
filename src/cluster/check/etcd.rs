//! etcd, as each of its members sees it.

use super::outcome::{Outcome, not_applicable, passed, unknown, wrong};
use super::registry::{Check, Need, Phase};
use super::site::Subject;
use crate::cluster::plan::size;
use crate::distro::kubeadm::etcd_health::EtcdHealth;
use crate::host::facts::Known;

const RUNNING: &[Phase] = &[Phase::Post, Phase::Upgrade];
const NEEDS: &[Need] = &[Need::Running];

pub(super) const CHECKS: &[Check] = &[
    Check::of_host(
        "etcd.health",
        "every control plane's etcd is a member, votes, and has a majority",
        "each member's status, and a read that a majority must confirm",
        health,
    )
    .at(RUNNING)
    .needing(NEEDS)
    .never_ignored("a change while etcd has no healthy majority can lose the cluster's data"),
    Check::of_host(
        "etcd.quota",
        "etcd's database has room",
        "the size of the database against its quota, and the alarms",
        quota,
    )
    .at(RUNNING)
    .needing(NEEDS),
];

fn member(subject: &Subject, judge: impl FnOnce(&EtcdHealth) -> Outcome) -> Outcome {
    if !subject.control_plane() {
        return not_applicable("no etcd runs there");
    }
    match &subject.measured.etcd {
        Known::Is(health) => judge(health),
        Known::Unknown(why) => unknown(why.as_str()),
    }
}

const LOGS: &str = "the logs below `/var/log/pods/kube-system_etcd-*` on the hosts say why";

fn health(subject: &Subject) -> Outcome {
    member(subject, |health| {
        let expected = "a member that votes, with a leader and a majority";
        if let Some(why) = health.no_quorum.as_ref().filter(|_| health.has_leader) {
            return wrong(format!("a majority does not answer: {why}"), expected, LOGS);
        }
        if !health.has_leader {
            return wrong("etcd has no leader", expected, LOGS);
        }
        if health.learner {
            let seen = "it is a learner: it has not got all data yet";
            return wrong(seen, expected, "wait, then check again");
        }
        if let Some(alarm) = health.alarms.iter().find(|alarm| *alarm != "NOSPACE") {
            let seen = format!("the alarm {alarm} is raised");
            return wrong(
                seen,
                expected,
                "restore the member that is damaged from the others: `etcdctl alarm list` names it",
            );
        }
        let wanted: Vec<&str> = subject.site.cluster.hosts.control_plane_names().collect();
        let missing: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| !health.members.iter().any(|member| member == name))
            .collect();
        let more: Vec<&str> = health
            .members
            .iter()
            .map(String::as_str)
            .filter(|name| !wanted.contains(name))
            .collect();
        if missing.is_empty() && more.is_empty() {
            return passed(format!(
                "{} members, {}",
                health.members.len(),
                health.version
            ));
        }
        let mut seen = Vec::new();
        if !missing.is_empty() {
            seen.push(format!("{} is no member", missing.join(" and ")));
        }
        if !more.is_empty() {
            let more: Vec<&str> = more
                .iter()
                .map(|name| {
                    if name.is_empty() {
                        "one that never started"
                    } else {
                        name
                    }
                })
                .collect();
            seen.push(format!(
                "{} is a member, and the Clusterfile has no such control plane",
                more.join(" and ")
            ));
        }
        wrong(
            seen.join("; "),
            "the control planes of the Clusterfile, and no others",
            "`chasi run` adds what is missing; `chasi node delete` removes what is gone",
        )
    })
}

/// From how much of the quota on somebody should act, in percent.
const FULL: u64 = 80;

fn quota(subject: &Subject) -> Outcome {
    member(subject, |health| {
        let hint = "compact and defragment it: `etcdctl compact`, `etcdctl defrag`, and `etcdctl alarm disarm`; then find who writes so much";
        if health.alarms.iter().any(|alarm| alarm == "NOSPACE") {
            return wrong(
                "the alarm NOSPACE is raised: nothing can be written",
                "a database with room",
                hint,
            );
        }
        let Some(quota) = health.quota.filter(|quota| *quota > 0) else {
            return unknown("etcd does not tell its quota");
        };
        let percent = health.size.saturating_mul(100) / quota;
        let seen = format!("{} of {} ({percent} %)", size(health.size), size(quota));
        match percent < FULL {
            true => passed(seen),
            false => wrong(
                seen,
                format!("less than {FULL} %: when it is full, nothing can be written"),
                hint,
            ),
        }
    })
}
