//! After the last change: waiting until the cluster is healthy.
//!
//! Healthy is: every node that the run is about is ready, and so is every pod of
//! the cluster's own objects on them. What is waited for is told as steps by host;
//! what takes long is named once with the reason that Kubernetes gives. What
//! waiting does not mend ends the wait early.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::connect;
use super::desired::Desired;
use crate::agent::Client;
use crate::agent::calls::distro::ClusterReport;
use crate::distro::Role;
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Ended, Event};
use crate::kube::{PodState, Trouble};

/// How long all nodes and pods may take.
const SETTLING: Duration = Duration::from_secs(300);
/// How often they are looked at.
const BEAT: Duration = Duration::from_millis(500);
/// How long nothing may become ready while something looks as if it never will.
/// Longer than what starting pods get over by themselves: an add-on that needs the
/// API crashes until it is there.
const STUCK: Duration = Duration::from_secs(90);
/// How long a pod that crashed must be ready to count as that: between two crashes
/// it runs for a moment.
const STEADY: Duration = Duration::from_secs(20);
/// After how long it is said why something is not ready.
const LONG: Duration = Duration::from_secs(20);
/// How many things an error names.
const NAMED: usize = 8;
/// How much of a reason is shown, in characters; a runtime repeats itself.
const REASON: usize = 300;

/// What is waited for.
#[derive(Clone, Debug)]
struct Unready {
    host: Option<String>,
    what: String,
    why: String,
    /// The pod, when it is one.
    pod: Option<PodState>,
}

/// Waits until the nodes `expected` and the system's pods on them are ready. Where
/// they are not all that the cluster has (`complete` is false), some pods may have
/// no place.
pub(super) async fn verify(
    context: &Context,
    desired: &Desired,
    clients: &BTreeMap<String, Client>,
    expected: &[&str],
    complete: bool,
) -> Result<ClusterReport> {
    let begin = Instant::now();
    let mut watch = Watch::new(context, begin);
    loop {
        if context.cancel.is_cancelled() {
            return Err(Error::new(
                Kind::Interrupted,
                "interrupted while waiting for nodes and pods; all changes are made",
            ));
        }
        let (unready, total) = match ask(desired, clients).await {
            Ok(report) => {
                let unready = unready(&report, expected, complete);
                let unready = watch.with_unsteady(unready, Instant::now());
                if unready.is_empty() {
                    watch.ready();
                    return Ok(report);
                }
                (unready, expected.len() + report.pods.len())
            }
            Err(error) if error.kind() == Kind::Interrupted => continue,
            Err(error) => (vec![no_answer(&error)], expected.len()),
        };
        let now = Instant::now();
        watch.look(&unready, total, now);
        if now - begin >= SETTLING || watch.is_stuck(now) {
            let waited = (now - begin).as_secs();
            return Err(unhealthy(desired, &unready, total, waited));
        }
        // Woken by Ctrl-C, which the loop then sees.
        let _ = context
            .cancel
            .run_until_cancelled(tokio::time::sleep(BEAT))
            .await;
    }
}

/// Asks the API by way of the first control plane that answers.
async fn ask(desired: &Desired, clients: &BTreeMap<String, Client>) -> Result<ClusterReport> {
    let control_planes = desired
        .hosts
        .iter()
        .filter(|host| host.node.role == Role::ControlPlane)
        .filter_map(|host| Some((host.node.node_ip(), clients.get(&host.node.name)?)));
    connect::ask_api(control_planes).await
}

fn no_answer(error: &Error) -> Unready {
    Unready {
        host: error.host().map(str::to_owned),
        what: "the API server".to_owned(),
        why: std::iter::once(error.to_string())
            .chain(error.causes().map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(": "),
        pod: None,
    }
}

/// What is not ready yet.
fn unready(report: &ClusterReport, expected: &[&str], complete: bool) -> Vec<Unready> {
    let mut unready = Vec::new();
    for name in expected {
        let node = report.nodes.iter().find(|node| node.name == *name);
        let why = match node {
            None => "it has not registered",
            Some(node) if node.ready => continue,
            Some(node) => node.reason.as_deref().unwrap_or("it gives no reason"),
        };
        unready.push(Unready {
            host: Some((*name).to_owned()),
            what: "the node".to_owned(),
            why: why.to_owned(),
            pod: None,
        });
    }
    // Pods of nodes that are off or failed are not this run's business.
    let ours = |pod: &&PodState| {
        pod.node
            .as_deref()
            .map_or(complete, |node| expected.contains(&node))
    };
    for pod in report.pods.iter().filter(|pod| !pod.ready).filter(ours) {
        unready.push(Unready {
            host: pod.node.clone(),
            what: format!("the pod `{}/{}`", pod.namespace, pod.name),
            why: pod.reason.clone().unwrap_or_default(),
            pod: Some(pod.clone()),
        });
    }
    if report.pods.is_empty() {
        unready.push(Unready {
            host: None,
            what: "the system".to_owned(),
            why: "none of its pods has been created".to_owned(),
            pod: None,
        });
    }
    unready
}

/// What is known of the wait so far, and what was told of it.
struct Watch<'a> {
    context: &'a Context,
    /// The steps that were told as begun, by host, and since when.
    steps: BTreeMap<Option<String>, Instant>,
    seen: BTreeMap<String, Seen>,
    /// Pods that crashed, as they were last seen, and when that was.
    crashed: BTreeMap<String, (Unready, Instant)>,
    /// How many things were ready at most, and since when.
    ready: usize,
    progress: Instant,
}

/// One thing that is not ready.
struct Seen {
    since: Instant,
    troubled: Option<Instant>,
    told: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(context: &'a Context, now: Instant) -> Self {
        Watch {
            context,
            steps: BTreeMap::new(),
            seen: BTreeMap::new(),
            crashed: BTreeMap::new(),
            ready: 0,
            progress: now,
        }
    }

    /// What is not ready now, and what crashed only just now.
    fn with_unsteady(&mut self, mut unready: Vec<Unready>, now: Instant) -> Vec<Unready> {
        for one in &unready {
            if one.trouble() == Some(Trouble::Crashes) || self.crashed.contains_key(one.name()) {
                let last = (one.clone(), now);
                self.crashed.insert(one.name().to_owned(), last);
            }
        }
        self.crashed.retain(|_, (_, last)| now - *last < STEADY);
        for (name, (one, _)) in &self.crashed {
            if !unready.iter().any(|other| other.name() == name) {
                unready.push(one.clone());
            }
        }
        unready
    }

    /// Takes in what is not ready now.
    fn look(&mut self, unready: &[Unready], total: usize, now: Instant) {
        let ready = total.saturating_sub(unready.len());
        if ready > self.ready {
            (self.ready, self.progress) = (ready, now);
        }
        self.tell_steps(unready, now);
        self.context.emit(Event::Counted {
            host: None,
            item: "nodes and pods ready".into(),
            done: ready as u64,
            total: total as u64,
        });
        let names: BTreeSet<&str> = unready.iter().map(|one| one.name()).collect();
        self.seen.retain(|name, _| names.contains(name.as_str()));
        for one in unready {
            let seen = self.seen.entry(one.name().to_owned()).or_insert(Seen {
                since: now,
                troubled: None,
                told: None,
            });
            seen.troubled = match one.trouble() {
                Some(_) => seen.troubled.or(Some(now)),
                None => None,
            };
            // A message counts seconds; the word before it says whether it is new.
            let reason = one.why.split(':').next().unwrap_or_default();
            if now - seen.since >= LONG && seen.told.as_deref() != Some(reason) {
                seen.told = Some(reason.to_owned());
                self.context.emit(Event::Note {
                    host: one.host.clone(),
                    text: format!("{} is not ready: {}", one.what, one.shown()),
                });
            }
        }
    }

    /// A step for each host that has something unready.
    fn tell_steps(&mut self, unready: &[Unready], now: Instant) {
        let hosts: BTreeSet<Option<String>> = unready.iter().map(|one| one.host.clone()).collect();
        let done: Vec<_> = self
            .steps
            .keys()
            .filter(|host| !hosts.contains(*host))
            .cloned()
            .collect();
        for host in done {
            self.end(host, Ended::Done);
        }
        for host in hosts {
            if let std::collections::btree_map::Entry::Vacant(place) = self.steps.entry(host) {
                self.context.emit(Event::StepStarted {
                    host: place.key().clone(),
                    step: step(place.key().as_deref()),
                });
                place.insert(now);
            }
        }
    }

    fn end(&mut self, host: Option<String>, how: Ended) {
        if let Some(since) = self.steps.remove(&host) {
            self.context.emit(Event::StepEnded {
                step: step(host.as_deref()),
                host,
                how,
                seconds: since.elapsed().as_secs_f64(),
            });
        }
    }

    /// All is well.
    fn ready(&mut self) {
        self.tell_steps(&[], Instant::now());
    }

    /// Whether it is of no use to wait longer.
    fn is_stuck(&self, now: Instant) -> bool {
        let long = |since: Instant| now - since >= STUCK;
        long(self.progress)
            && self
                .seen
                .values()
                .any(|seen| seen.troubled.is_some_and(long))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let how = match self.context.cancel.is_cancelled() {
            true => Ended::Interrupted,
            false => Ended::Failed,
        };
        while let Some((host, _)) = self.steps.first_key_value() {
            self.end(host.clone(), how);
        }
    }
}

fn step(host: Option<&str>) -> String {
    match host {
        Some(_) => "wait until the node and its pods are ready",
        None => "wait until every pod has a node",
    }
    .to_owned()
}

impl Unready {
    /// What tells it from the others.
    fn name(&self) -> &str {
        match (&self.pod, &self.host) {
            (None, Some(host)) => host,
            _ => &self.what,
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        self.pod.as_ref()?.trouble
    }

    /// The reason, as much as can be read at a glance.
    fn shown(&self) -> String {
        let mut shown: String = self.why.chars().take(REASON).collect();
        if shown.len() < self.why.len() {
            shown.push('…');
        }
        shown
    }

    /// What to do about it.
    fn hint(&self, cluster: &str, image: &str) -> String {
        let Some(pod) = &self.pod else {
            return "`journalctl -u kubelet` on the host; its end is in the log of this run".into();
        };
        let (namespace, name) = (&pod.namespace, &pod.name);
        let kubectl = |rest: &str| {
            format!(
                "`chasi kubeconfig -c {cluster} -o kubeconfig`, then `kubectl --kubeconfig kubeconfig -n {namespace} {rest}`"
            )
        };
        match pod.trouble {
            Some(Trouble::Crashes) => kubectl(&format!("logs {name} --all-containers --previous")),
            Some(Trouble::Image) => format!(
                "`chasi inspect {image}` lists the container images that the cluster image brings; name the one that is missing in its Kubefile (`IMAGE …`), or correct the pod's"
            ),
            Some(Trouble::Configuration | Trouble::Unschedulable) | None => {
                kubectl(&format!("describe pod {name}"))
            }
        }
    }

    fn error(&self, cluster: &str, image: &str) -> Error {
        let error = Error::new(Kind::Failed, format!("{} is not ready", self.what))
            .because(self.shown())
            .hint(self.hint(cluster, image));
        match &self.host {
            Some(host) => error.on_host(host),
            None => error,
        }
    }
}

fn unhealthy(desired: &Desired, unready: &[Unready], total: usize, waited: u64) -> Error {
    let count = unready.len();
    let mut unready: Vec<&Unready> = unready.iter().collect();
    // What keeps the others waiting comes first.
    unready.sort_by_key(|one| one.trouble().is_none());
    let error = Error::new(
        Kind::Failed,
        format!("the cluster is not healthy: {count} of {total} nodes and pods are not ready after {waited} s"),
    )
    .hint("when the cause below is mended, run the same command again: it waits again");
    unready.iter().take(NAMED).fold(error, |error, one| {
        error.and(one.error(&desired.cluster.name, &desired.image))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::Sink;

    #[derive(Default)]
    struct Told(Mutex<Vec<Event>>);

    impl Sink for Told {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn pod(node: Option<&str>, why: &str, trouble: Option<Trouble>) -> PodState {
        PodState {
            namespace: "kube-system".into(),
            name: "dns".into(),
            node: node.map(str::to_owned),
            ready: false,
            reason: Some(why.into()),
            trouble,
        }
    }

    fn waiting(pod: PodState) -> Vec<Unready> {
        let report = ClusterReport {
            nodes: Vec::new(),
            pods: vec![pod],
        };
        unready(&report, &[], true)
    }

    #[test]
    fn a_node_that_is_not_there_and_a_pod_without_a_node_are_waited_for() {
        let report = ClusterReport {
            nodes: Vec::new(),
            pods: vec![pod(None, "no node fits", None), pod(Some("off"), "x", None)],
        };
        let without = unready(&report, &["m1"], false);
        assert_eq!(without.len(), 1, "{without:?}");
        let found = unready(&report, &["m1"], true);
        let said: Vec<_> = found
            .iter()
            .map(|one| (one.host.as_deref(), one.what.as_str(), one.why.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (Some("m1"), "the node", "it has not registered"),
                (None, "the pod `kube-system/dns`", "no node fits"),
            ]
        );
    }

    #[test]
    fn trouble_ends_the_wait_early_and_slowness_does_not() {
        let context = Context::silent();
        let begin = Instant::now();
        let late = begin + STUCK;
        for (trouble, stuck) in [(None, false), (Some(Trouble::Image), true)] {
            let mut watch = Watch::new(&context, begin);
            let unready = waiting(pod(None, "x", trouble));
            watch.look(&unready, 5, begin);
            assert!(!watch.is_stuck(begin));
            watch.look(&unready, 5, late);
            assert_eq!(watch.is_stuck(late), stuck);
            // Something else became ready only just now.
            watch.look(&unready, 6, late);
            assert!(!watch.is_stuck(late));
        }
    }

    #[test]
    fn a_pod_that_crashed_must_stay_ready() {
        let context = Context::silent();
        let begin = Instant::now();
        let mut watch = Watch::new(&context, begin);
        let crashed = waiting(pod(None, "x", Some(Trouble::Crashes)));
        assert_eq!(watch.with_unsteady(crashed, begin).len(), 1);
        let soon = begin + STEADY / 2;
        assert_eq!(watch.with_unsteady(Vec::new(), soon).len(), 1);
        assert_eq!(watch.with_unsteady(Vec::new(), begin + STEADY).len(), 0);
        let other = waiting(pod(None, "x", Some(Trouble::Image)));
        assert_eq!(watch.with_unsteady(other, begin).len(), 1);
        assert_eq!(watch.with_unsteady(Vec::new(), begin).len(), 0);
    }

    #[test]
    fn each_reason_is_told_once_and_only_when_it_takes_long() {
        let told = Arc::new(Told::default());
        let context = Context::new(told.clone());
        let begin = Instant::now();
        let mut watch = Watch::new(&context, begin);
        for (seconds, why) in [
            (0, "ContainerCreating"),
            (19, "CrashLoopBackOff: back-off 10s"),
            (20, "CrashLoopBackOff: back-off 20s"),
            (30, "CrashLoopBackOff: back-off 40s"),
        ] {
            let now = begin + Duration::from_secs(seconds);
            watch.look(&waiting(pod(Some("m1"), why, None)), 2, now);
        }
        // It is on no node that the run is about.
        assert_eq!(watch.seen.len(), 0);
        for (seconds, why) in [
            (0, "ContainerCreating"),
            (19, "CrashLoopBackOff: back-off 10s"),
            (20, "CrashLoopBackOff: back-off 20s"),
            (30, "CrashLoopBackOff: back-off 40s"),
        ] {
            let now = begin + Duration::from_secs(seconds);
            watch.look(&waiting(pod(None, why, None)), 2, now);
        }
        let notes: Vec<_> = told
            .0
            .lock()
            .unwrap()
            .iter()
            .filter_map(|event| match event {
                Event::Note { text, .. } => Some(text.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(
            notes,
            ["the pod `kube-system/dns` is not ready: CrashLoopBackOff: back-off 20s"]
        );
    }

    #[test]
    fn every_step_that_began_ends() {
        let told = Arc::new(Told::default());
        let context = Context::new(told.clone());
        let mut watch = Watch::new(&context, Instant::now());
        watch.look(&waiting(pod(None, "x", None)), 2, Instant::now());
        drop(watch);
        let told = told.0.lock().unwrap();
        let ended = |event: &&Event| {
            matches!(
                event,
                Event::StepEnded {
                    how: Ended::Failed,
                    ..
                }
            )
        };
        assert_eq!(told.iter().filter(ended).count(), 1);
    }

    #[test]
    fn what_to_do_names_the_pod() {
        for (trouble, part) in [
            (Some(Trouble::Crashes), "-n kube-system logs dns"),
            (Some(Trouble::Image), "chasi inspect x/y:1"),
            (None, "-n kube-system describe pod dns"),
        ] {
            let unready = waiting(pod(None, "x", trouble));
            assert!(unready[0].hint("c", "x/y:1").contains(part));
        }
    }
}
