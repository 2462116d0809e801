//! Draining for real.
//!
//! The node is cordoned with an annotation that names the run, so that a run that
//! comes after a crash knows that the cordon is not a person's. Evictions are asked
//! for all pods at the same time, again and again: the API decides by the budgets
//! which go when. A drain that is given up leaves the node as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, Preconditions};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::pods::{Fate, PodName, fate, is_ending};
use super::{Options, Simulation, Snapshot, simulate};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::kube::Connection;

/// Names the run that cordoned a node to drain it.
pub(in crate::kube) const DRAINED_BY: &str = "chasi.dev/drain";

/// How often pods are looked at, and refused evictions asked for again.
const BEAT: Duration = Duration::from_secs(1);
/// How often it is said again what is waited for.
const REMINDER: Duration = Duration::from_secs(30);
/// After how long it is said that a pod takes its time to end.
const LONG: Duration = Duration::from_secs(15);
/// How many things an error names.
const NAMED: usize = 8;

/// What a drain did.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// The pods that went.
    pub moved: Vec<PodName>,
    /// What was known before.
    pub simulation: Simulation,
}

/// Drains nodes, all at the same time: refuses what can never succeed, cordons,
/// evicts until the pods are gone. `run` is noted at the nodes. Ended by `gone`, or
/// by its deadline, it makes the nodes schedulable again, but for those that
/// somebody else had cordoned.
///
/// # Errors
/// [`Kind::NotFound`] when there is no such node, [`Kind::Check`] when it cannot
/// begin, [`Kind::Failed`] at the deadline, [`Kind::Interrupted`].
pub async fn drain(
    connection: &Connection,
    nodes: &[&str],
    options: &Options,
    run: &str,
    context: &Context,
    gone: &CancellationToken,
) -> Result<Drained> {
    let snapshot = Snapshot::read(connection).await?;
    let simulation = simulate(&snapshot, nodes, options);
    if let Some(unknown) = simulation.unknown.first() {
        return Err(no_node(unknown));
    }
    simulation.check(nodes)?;
    for doubt in simulation.doubts() {
        context.warn(doubt);
    }
    let mut ours = Vec::new();
    let work = async {
        // All of them first: what leaves one must not come to the next.
        for node in nodes {
            if cordon(connection, node, run).await? {
                ours.push(*node);
            }
        }
        evict(connection, nodes, options, context, gone).await
    };
    let error = match work.await {
        Ok(moved) => return Ok(Drained { moved, simulation }),
        Err(error) => error,
    };
    let restored = join_all(ours.iter().map(|node| uncordon(connection, node))).await;
    match restored.into_iter().find_map(Result::err) {
        None if ours.is_empty() => Err(error),
        None => Err(error.hint(format!(
            "`{}` takes pods again, as before",
            ours.join("`, `")
        ))),
        Some(second) => Err(error.and(second).hint(format!(
            "`chasi node uncordon {}` makes it take pods again",
            ours.join(" ")
        ))),
    }
}

/// Evicts what must go from all of the nodes; the first that fails ends the others.
async fn evict(
    connection: &Connection,
    nodes: &[&str],
    options: &Options,
    context: &Context,
    gone: &CancellationToken,
) -> Result<Vec<PodName>> {
    let gone = gone.child_token();
    let all = join_all(nodes.iter().map(|node| async {
        let work = Eviction {
            connection,
            node,
            options,
            context,
            pods: Api::all(connection.client().clone()),
            seen: BTreeMap::new(),
        };
        let result = work.run(&gone).await;
        if result.is_err() {
            gone.cancel();
        }
        result
    }))
    .await;
    let mut moved = Vec::new();
    let mut failed: Option<Error> = None;
    for result in all {
        match result {
            Ok(pods) => moved.extend(pods),
            // What was only ended by the other's failure explains nothing.
            Err(error) if failed.is_none() || error.kind() != Kind::Interrupted => {
                failed = Some(error);
            }
            Err(_) => {}
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(moved),
    }
}

fn no_node(node: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no node `{node}`"))
        .hint("`chasi node list` shows the nodes there are")
}

fn nodes(connection: &Connection) -> Api<Node> {
    Api::all(connection.client().clone())
}

/// Cordons a node. Tells whether it was not so before, or only for a drain that was
/// cut.
async fn cordon(connection: &Connection, node: &str, run: &str) -> Result<bool> {
    let problem = || format!("cannot cordon the node `{node}`");
    let found = nodes(connection)
        .get(node)
        .await
        .or_err(Kind::Failed, problem)?;
    let cordoned = found
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true));
    let by_drain = found
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(DRAINED_BY));
    if cordoned && !by_drain {
        return Ok(false);
    }
    let patch = serde_json::json!({
        "metadata": { "annotations": { DRAINED_BY: run } },
        "spec": { "unschedulable": true },
    });
    patch_node(connection, node, &patch)
        .await
        .or_err(Kind::Failed, problem)?;
    Ok(true)
}

async fn patch_node(
    connection: &Connection,
    node: &str,
    patch: &serde_json::Value,
) -> std::result::Result<(), kube::Error> {
    nodes(connection)
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(|_| ())
}

/// Makes a node take pods again.
///
/// # Errors
/// [`Kind::NotFound`] when there is no such node.
pub async fn uncordon(connection: &Connection, node: &str) -> Result<()> {
    let patch = serde_json::json!({
        "metadata": { "annotations": { DRAINED_BY: null } },
        "spec": { "unschedulable": null },
    });
    match patch_node(connection, node, &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(no_node(node)),
        result => result.or_err(Kind::Failed, || {
            format!("cannot make the node `{node}` take pods again")
        }),
    }
}

/// What came of asking for an eviction.
enum Answer {
    /// It goes.
    Goes,
    /// A budget does not let it go now; what the API says of it.
    Refused(String),
}

/// A pod that was seen on the node.
struct Seen {
    pod: PodName,
    since: Instant,
    told: Option<Instant>,
    why: String,
}

struct Eviction<'a> {
    connection: &'a Connection,
    node: &'a str,
    options: &'a Options,
    context: &'a Context,
    pods: Api<Pod>,
    /// By the pod's unique id.
    seen: BTreeMap<String, Seen>,
}

impl Eviction<'_> {
    /// Evicts until no pod is left that must move.
    async fn run(mut self, gone: &CancellationToken) -> Result<Vec<PodName>> {
        let begin = Instant::now();
        let patience = Duration::from_secs(self.options.timeout);
        let mut moved: Vec<PodName> = Vec::new();
        loop {
            let left = match self.left().await {
                Ok(left) => left,
                // An API server that is just ending; the deadline bounds it.
                Err(error) if begin.elapsed() >= patience => return Err(error),
                Err(_) => {
                    tokio::time::sleep(BEAT).await;
                    continue;
                }
            };
            let here: Vec<&str> = left
                .iter()
                .filter_map(|pod| pod.metadata.uid.as_deref())
                .collect();
            let went: Vec<String> = self
                .seen
                .keys()
                .filter(|uid| !here.contains(&uid.as_str()))
                .cloned()
                .collect();
            moved.extend(
                went.iter()
                    .filter_map(|uid| Some(self.seen.remove(uid)?.pod)),
            );
            self.context.emit(Event::Counted {
                host: Some(self.node.to_owned()),
                item: "pods moved".into(),
                done: moved.len() as u64,
                total: (moved.len() + left.len()) as u64,
            });
            if left.is_empty() {
                return Ok(moved);
            }
            if begin.elapsed() >= patience {
                return Err(self.late(&left));
            }
            self.evict(&left).await?;
            if gone
                .run_until_cancelled(tokio::time::sleep(BEAT))
                .await
                .is_none()
            {
                return Err(Error::new(
                    Kind::Interrupted,
                    format!("interrupted while the node `{}` was drained", self.node),
                ));
            }
        }
    }

    /// The pods that must still go.
    async fn left(&self) -> Result<Vec<Pod>> {
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let list = self.pods.list(&here).await.or_err(Kind::Failed, || {
            format!("cannot list the pods of the node `{}`", self.node)
        })?;
        let must_go = |pod: &Pod| !matches!(fate(pod, self.options), Fate::Stays(_));
        Ok(list.items.into_iter().filter(must_go).collect())
    }

    /// Asks for what has not been told to end, all at the same time.
    async fn evict(&mut self, left: &[Pod]) -> Result<()> {
        let now = Instant::now();
        let answers = join_all(left.iter().map(|pod| async {
            match fate(pod, self.options) {
                _ if is_ending(pod) => Ok(Answer::Goes),
                // It came between the look and the cordon.
                Fate::Blocks(obstacle) => Ok(Answer::Refused(format!(
                    "{obstacle} (`{}`)",
                    obstacle.option()
                ))),
                _ => self.ask(pod).await,
            }
        }))
        .await;
        for (pod, answer) in left.iter().zip(answers) {
            let name = PodName::of(pod);
            let why = match answer? {
                Answer::Goes => "it is ending".to_owned(),
                Answer::Refused(why) => why,
            };
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let seen = self.seen.entry(uid).or_insert(Seen {
                pod: name,
                since: now,
                told: None,
                why: String::new(),
            });
            let ends = is_ending(pod) || why == "it is ending";
            let new = seen.why != why && !ends;
            seen.why = why;
            let due = match seen.told {
                None => !ends || now - seen.since >= LONG,
                Some(told) => now - told >= REMINDER,
            };
            if due || new {
                seen.told = Some(now);
                self.context.emit(Event::Note {
                    host: Some(self.node.to_owned()),
                    text: format!("waiting for the pod {}: {}", seen.pod, seen.why),
                });
            }
        }
        Ok(())
    }

    async fn ask(&self, pod: &Pod) -> Result<Answer> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.connection.client().clone(), namespace);
        let parameters = EvictParams {
            delete_options: Some(DeleteParams {
                grace_period_seconds: self.options.grace_period,
                preconditions: Some(Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            }),
            ..EvictParams::default()
        };
        match api.evict(name, &parameters).await {
            Ok(_) => Ok(Answer::Goes),
            // It is gone, or another one has its name: the next look tells.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Answer::Goes),
            // A budget, or an API server that has too much to do, or one that is just
            // ending: all of them pass.
            Err(kube::Error::Api(status)) if matches!(status.code, 429 | 500 | 503) => {
                let causes: Vec<String> = status
                    .details
                    .iter()
                    .flat_map(|details| &details.causes)
                    .map(|cause| cause.message.clone())
                    .collect();
                Ok(Answer::Refused(match causes.is_empty() {
                    true => status.message.clone(),
                    false => causes.join("; "),
                }))
            }
            Err(kube::Error::Api(status)) => Err(Error::new(
                Kind::Failed,
                format!("the pod {} cannot be evicted", PodName::of(pod)),
            )
            .because(status.message.clone())),
            Err(error) => Ok(Answer::Refused(error.to_string())),
        }
    }

    /// What is left at the deadline.
    fn late(&self, left: &[Pod]) -> Error {
        let error = Error::new(
            Kind::Failed,
            format!(
                "the node `{}` is not drained after {} s: {} pods are left",
                self.node,
                self.options.timeout,
                left.len()
            ),
        );
        let named: Vec<String> = left
            .iter()
            .take(NAMED)
            .map(|pod| {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let why = self.seen.get(uid).map_or("", |seen| seen.why.as_str());
                format!("the pod {}: {why}", PodName::of(pod))
            })
            .collect();
        error
            .because(named.join("\n"))
            .hint("mend what keeps the pods, or give it more time with `--timeout SECONDS`")
    }
}
