//! What must hold before a run changes something: before it touches hosts at all, and
//! before it changes a cluster that is in use.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::outcome::{Finding, Outcome, Place, Severity};
use super::registry::{Need, Phase, Selection};
use super::{gather, judge};
use crate::agent::Client;
use crate::agent::calls::host::HostReport;
use crate::agent::calls::node::SimulateDrain;
use crate::error::{Error, Kind, Result};
use crate::kube::drain::Options;
use crate::oci::{ClusterImage, Store};
use crate::spec;

/// What to look at before hosts are changed: those that were entered, whose reports
/// are there already.
pub(in crate::cluster) async fn before_run(
    cluster: &spec::Cluster,
    image: (&ClusterImage, &Store),
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
    selection: &Selection,
) -> Result<Vec<Finding>> {
    let mut checks = selection.of(Phase::Pre);
    // What is measured between hosts that are in use was measured before they were.
    if reports.values().all(|report| report.managed) {
        checks.retain(|check| check.needs.iter().all(|need| !need.is_measured()));
    }
    let clients = clients
        .iter()
        .map(|(name, client)| (name.clone(), Ok(client.clone())))
        .collect();
    let reports = reports
        .iter()
        .map(|(name, report)| (name.clone(), Ok(report.clone())))
        .collect();
    let site = gather::site(cluster, Ok(image), reports, &clients, &checks).await;
    refuse(judge(&site, &checks, selection))
}

/// What a plan does to a cluster that is in use.
pub(in crate::cluster) struct Change<'a> {
    /// Whether hosts get another image.
    pub image: bool,
    /// Whether the cluster goes back to what it was, which may be what mends it.
    pub back: bool,
    /// Whether an earlier run began with this, or with something else, and did not end.
    pub continues: bool,
    /// The control planes that are restarted, one after the other.
    pub planes: BTreeSet<&'a str>,
    /// The nodes that are drained.
    pub drained: BTreeSet<&'a str>,
    /// How they are drained.
    pub drain: &'a Options,
    /// The hosts that this run does without.
    pub left_out: BTreeSet<&'a str>,
}

impl Change<'_> {
    /// Whether there is anything to be checked. With the same image, most often nothing
    /// restarts, and only what the hosts know of each other changes.
    pub fn matters(&self) -> bool {
        self.image
    }
}

/// What must hold before a cluster that is in use is changed, beyond [`before_run`].
/// What is damaged is no reason not to go on with a change that was begun: going on
/// may mend it. But what holds the cluster's data must bear the change in any case.
pub(in crate::cluster) async fn before_change(
    cluster: &spec::Cluster,
    image: (&ClusterImage, &Store),
    (clients, reports): (&BTreeMap<String, Client>, &BTreeMap<String, HostReport>),
    selection: &Selection,
    change: &Change<'_>,
) -> Result<Vec<Finding>> {
    let mut checks = selection.of(Phase::Upgrade);
    checks.retain(|check| {
        // The rest was looked at before the plan was made.
        let is_new = !check.phases.contains(&Phase::Pre) || check.needs.contains(&Need::Sizes);
        // A simulation with the options of this run says it better.
        let is_simulated = ["drain.budgets", "drain.unmanaged", "drain.local-data"];
        // What may be gone back to was judged with the plan.
        let is_forward = change.back && check.area() == "versions";
        is_new
            && !is_forward
            && !is_simulated.contains(&check.id)
            && (check.area() != "drain" || !change.drained.is_empty())
    });
    let entered = clients
        .iter()
        .map(|(name, client)| (name.clone(), Ok(client.clone())))
        .collect();
    let known = reports
        .iter()
        .map(|(name, report)| (name.clone(), Ok(report.clone())))
        .collect();
    let site = gather::site(cluster, Ok(image), known, &entered, &checks).await;
    let mut findings = judge(&site, &checks, selection);
    drop(site);
    weigh(&mut findings, change);
    let members = cluster.hosts.control_plane_names().count();
    if let Err(error) = bears(&findings, change, members) {
        return Err(error.hint(UNCHANGED));
    }
    let findings = refuse(findings)?;
    drains(clients, reports, change).await?;
    Ok(findings)
}

/// What speaks against this change, of all that was found.
fn weigh(findings: &mut Vec<Finding>, change: &Change) {
    findings.retain(|finding| match &finding.place {
        Place::Host { host } if finding.check.starts_with("drain.") => {
            change.drained.contains(host.as_str())
        }
        _ => true,
    });
    for finding in findings.iter_mut() {
        let begun = (change.continues || change.back)
            && ["cluster.", "certificates."]
                .iter()
                .any(|area| finding.check.starts_with(area));
        // Their pods are not ready, and nobody waits for them.
        let missing = finding.check == "cluster.pods" && !change.left_out.is_empty();
        let mended = finding.check == "etcd.health"
            && (change.continues || change.back)
            && matches!(&finding.place, Place::Host { host } if change.planes.contains(host.as_str()));
        if begun || missing || mended {
            finding.severity = Severity::Warning;
        }
    }
}

/// Whether etcd keeps its majority while one control plane after the other restarts.
/// Those that are not healthy and are changed go first, so they do not count twice.
fn bears(findings: &[Finding], change: &Change, members: usize) -> Result<()> {
    let healthy = |finding: &&Finding| {
        finding.check == "etcd.health" && matches!(finding.outcome, Outcome::Passed { .. })
    };
    let healthy: BTreeSet<&Place> = findings
        .iter()
        .filter(healthy)
        .map(|finding| &finding.place)
        .collect();
    let restarts = change
        .planes
        .iter()
        .any(|name| healthy.contains(&Place::host(*name)));
    let mended = change
        .planes
        .iter()
        .filter(|name| !healthy.contains(&Place::host(**name)))
        .count();
    // With one or two there is no majority without one of them, and a short pause.
    let up = healthy.len() + mended - usize::from(restarts && members > 2);
    if change.planes.is_empty() || up * 2 > members {
        return Ok(());
    }
    let what = format!(
        "only {} of {members} members of etcd are healthy: while another one restarts, etcd would have no majority, and nobody could read or write",
        healthy.len()
    );
    let missing: Vec<&str> = change.left_out.iter().copied().collect();
    let error = Error::new(Kind::Check, what);
    Err(match missing.is_empty() {
        true => error.hint("`chasi check post` says what is wrong with the others"),
        false => error.hint(format!(
            "switch {} on, or take it out for good: `chasi node delete {} --force`",
            missing.join(" and "),
            missing.join(" ")
        )),
    })
}

/// Whether each drain of the change can begin, as a drain by hand is asked.
async fn drains(
    clients: &BTreeMap<String, Client>,
    reports: &BTreeMap<String, HostReport>,
    change: &Change<'_>,
) -> Result<()> {
    let planes = super::super::live::control_planes(clients, reports);
    let simulate = |node: &'_ str| {
        let (planes, node) = (planes.clone(), node.to_owned());
        async move {
            let mut last = Error::new(Kind::Unreachable, "no control plane can be asked");
            for (_, address, client) in planes {
                let call = SimulateDrain {
                    address,
                    nodes: vec![node.clone()],
                    options: change.drain.clone(),
                };
                match client.call(call).await {
                    Ok(simulation) => return simulation.check(&[&node]),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    };
    let answers = join_all(change.drained.iter().map(|node| simulate(node))).await;
    let refusals = answers.into_iter().filter_map(Result::err);
    match refusals.reduce(Error::and) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// What every refusal ends with.
const UNCHANGED: &str = "nothing has been changed on any host";

/// Ends the run when a check found an error, or could not look; gives back what is
/// worth telling.
pub(super) fn refuse(mut findings: Vec<Finding>) -> Result<Vec<Finding>> {
    let errors: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.refuses())
        .collect();
    let Some(first) = errors.first() else {
        findings.retain(|finding| finding.outcome.is_trouble());
        return Ok(findings);
    };
    let one = |finding: &Finding| match (&finding.place, &finding.outcome) {
        (Place::Host { host }, Outcome::Wrong { seen, expected, .. }) => {
            Error::new(Kind::Check, format!("{seen} [{}]", finding.check))
                .on_host(host.clone())
                .because(format!("expected: {expected}"))
        }
        (Place::Host { host }, _) => {
            Error::new(Kind::Check, finding.to_string()).on_host(host.clone())
        }
        _ => Error::new(Kind::Check, finding.to_string()),
    };
    // Each with its host: what only concerns hosts that join does not hold up others.
    let mut error = match errors.as_slice() {
        [_] => one(first),
        several => several.iter().fold(
            Error::new(Kind::Check, format!("{} checks failed", several.len())),
            |error, finding| error.and(one(finding)),
        ),
    };
    let mut hints: Vec<String> = Vec::new();
    for finding in errors {
        let hint = match &finding.outcome {
            Outcome::Wrong { hint, .. } => hint.clone(),
            _ => format!("to take the risk: `--ignore {}`", finding.check),
        };
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    for hint in hints {
        error = error.hint(hint);
    }
    Err(error.hint(UNCHANGED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(planes: &[&'a str], left_out: &[&'a str], options: &'a Options) -> Change<'a> {
        Change {
            image: true,
            back: false,
            continues: false,
            planes: planes.iter().copied().collect(),
            drained: ["m1"].into(),
            drain: options,
            left_out: left_out.iter().copied().collect(),
        }
    }

    fn finding(check: &'static str, host: &str, passed: bool) -> Finding {
        let outcome = match passed {
            true => Outcome::Passed {
                seen: String::new(),
            },
            false => Outcome::Wrong {
                seen: "it does not answer".into(),
                expected: String::new(),
                hint: String::new(),
            },
        };
        Finding {
            check,
            severity: Severity::Error,
            ignored: false,
            place: Place::host(host),
            outcome,
        }
    }

    fn etcd(hosts: &[(&str, bool)]) -> Vec<Finding> {
        let one = |(host, passed): &(&str, bool)| finding("etcd.health", host, *passed);
        hosts.iter().map(one).collect()
    }

    #[test]
    fn etcd_keeps_its_majority_while_one_after_the_other_restarts() {
        let options = Options::default();
        let all = ["m1", "m2", "m3"];
        let healthy = etcd(&all.map(|host| (host, true)));
        assert!(bears(&healthy, &change(&all, &[], &options), 3).is_ok());
        // One is switched off.
        let two = etcd(&[("m1", true), ("m2", true)]);
        let error = bears(&two, &change(&["m1", "m2"], &["m3"], &options), 3).unwrap_err();
        assert!(error.message().starts_with("only 2 of 3 members"));
        assert!(error.hints()[0].contains("chasi node delete m3 --force"));
        // Of five, one may be.
        let four = etcd(&["m1", "m2", "m3", "m4"].map(|host| (host, true)));
        let planes = ["m1", "m2", "m3", "m4"];
        assert!(bears(&four, &change(&planes, &["m5"], &options), 5).is_ok());
        // One that is ill and is changed first.
        let ill = etcd(&[("m1", false), ("m2", true), ("m3", true)]);
        assert!(bears(&ill, &change(&all, &[], &options), 3).is_ok());
        assert!(bears(&ill, &change(&["m1"], &[], &options), 3).is_ok());
        assert!(bears(&ill, &change(&["m2", "m3"], &[], &options), 3).is_err());
        // One or two have no majority to spare, ever.
        assert!(bears(&etcd(&[("m1", true)]), &change(&["m1"], &[], &options), 1).is_ok());
        let none = etcd(&[("m1", false), ("m2", false), ("m3", true)]);
        assert!(bears(&none, &change(&[], &[], &options), 3).is_ok());
    }

    #[test]
    fn what_a_change_left_half_way_does_not_keep_it_from_going_on() {
        let options = Options::default();
        let found = || {
            vec![
                finding("cluster.nodes", "m1", false),
                finding("etcd.health", "m1", false),
                finding("etcd.health", "m2", false),
                finding("versions.skew", "m1", false),
                finding("drain.room", "m1", false),
                finding("drain.room", "m2", false),
            ]
        };
        let severities = |continues: bool| {
            let mut findings = found();
            let change = Change {
                continues,
                ..change(&["m1"], &[], &options)
            };
            weigh(&mut findings, &change);
            let errors = findings
                .iter()
                .filter(|one| one.severity == Severity::Error);
            errors
                .map(|one| format!("{} {}", one.check, one.place))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            severities(true),
            ["etcd.health m2", "versions.skew m1", "drain.room m1"]
        );
        assert_eq!(severities(false).len(), 5);
        let mut findings = found();
        let back = Change {
            back: true,
            ..change(&["m1"], &[], &options)
        };
        weigh(&mut findings, &back);
        assert_eq!(findings[0].severity, Severity::Warning);
    }

    #[test]
    fn pods_of_a_host_that_is_off_are_not_waited_for() {
        let options = Options::default();
        let mut findings = vec![finding("cluster.pods", "w1", false)];
        weigh(&mut findings, &change(&[], &["w1"], &options));
        assert_eq!(findings[0].severity, Severity::Warning);
    }
}
