//! `chasi run`: bring a cluster to what a Clusterfile says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::Shell;
use super::cluster::{Chosen, Edit};
use super::consent::{Consent, Shown};
use super::message::{Style, wrapped};
use super::node::{Departure, Unlisting};
use super::reporter::{Phase, duration};
use super::rolling::Rolling;
use super::table::Table;
use crate::cluster::check::{Finding, Outcome, Selection};
use crate::cluster::connect::Prepared as _;
use crate::cluster::plan::{Action, Plan, Stage};
use crate::cluster::removal::Report as Removed;
use crate::cluster::run::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::event::{Context, Event};
use crate::spec::plugin::PluginName;

/// How wide a plan is at most: the usual terminal, also where it is read later.
const COLUMNS: usize = 80;

/// Install a cluster image on hosts, or bring a cluster to what its Clusterfile
/// says now.
///
/// Running it again is how a run that was interrupted, or that failed, goes on.
/// What is as it should be is not touched.
#[derive(clap::Args)]
pub struct Args {
    /// The cluster image to run, when there is no Clusterfile.
    #[arg(value_name = "IMAGE", conflicts_with = "file")]
    image: Option<String>,
    /// The Clusterfile.
    #[arg(short, long, value_name = "CLUSTERFILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    hosts: super::cluster::HostArgs,
    /// What these checks find does not hinder the run: ids of `docs/checks.md`, or
    /// names of areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    /// A plugin that is not undone where the Clusterfile no longer wants it: what it
    /// did stays. For one whose way back fails.
    #[arg(long, value_name = "PLUGIN")]
    leave_plugin: Vec<PluginName>,
    #[command(flatten)]
    rolling: Rolling,
    #[command(flatten)]
    consent: Consent,
    #[command(
        flatten,
        next_help_heading = "Nodes that the Clusterfile does not name any more"
    )]
    unlisting: Unlisting,
}

impl Args {
    /// Whether nothing will be changed.
    pub fn only_looks(&self) -> bool {
        self.consent.dry_run
    }

    /// Prepares, asks, applies.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let chosen = match (&self.file, &self.image) {
            (Some(file), _) => Chosen::from_file(shell, file)?,
            (None, Some(image)) => Chosen::from_arguments(shell, image, &self.hosts)?,
            (None, None) => {
                return Err(Error::new(
                    Kind::Usage,
                    "neither a Clusterfile nor an image was given",
                )
                .hint("`chasi run -f Clusterfile`, or `chasi run IMAGE --masters ADDRESSES`"));
            }
        };
        let selection = Selection::new(&[], &self.ignore)?;
        let mut request = chosen.request(shell, self.consent.dry_run, selection)?;
        request.leave_plugins = self.leave_plugin;
        request.pace = self.rolling.pace();
        request.drain = self.rolling.drain();
        let with = With::Unlisting(&self.unlisting);
        shell.block_on(apply(shell, &self.consent, request, &chosen, with))
    }
}

/// What belongs to a run beside the hosts of the Clusterfile.
pub enum With<'a> {
    /// Nothing.
    Nothing,
    /// Nodes that it does not name any more.
    Unlisting(&'a Unlisting),
    /// An edit of it, and whether that is to be written.
    Edit(&'a Edit, bool),
}

/// Brings a cluster to what was asked for: looks, asks, applies, reports.
pub async fn apply(
    shell: &Shell,
    consent: &Consent,
    request: run::Request,
    chosen: &Chosen,
    with: With<'_>,
) -> Result<()> {
    let context = shell.context();
    let hosts = chosen.clusterfile.cluster.hosts.iter().count();
    let drain = request.drain.clone();
    let prepared = run::prepare(context, request).await?;
    tell(context, &prepared.findings);
    let (edit, unlisting) = match with {
        With::Unlisting(unlisting) => (None, Some(unlisting)),
        With::Edit(edit, write) => (Some((edit, write)), None),
        With::Nothing => (None, None),
    };
    let departure = match unlisting {
        Some(unlisting) => unlisting.look(shell, chosen, &prepared, &drain).await,
        None => Ok(Departure::default()),
    };
    let departure = match departure {
        Ok(departure) => departure,
        Err(error) => {
            prepared.abandon().await;
            return Err(error);
        }
    };
    let patch = |written| edit.map_or_else(String::new, |(edit, _)| edit.tell(written));
    let plan = prepared.plan.clone();
    let shown = Shown {
        text: &(describe(&plan, hosts) + &departure.describe()),
        patch: patch(false),
        value: departure.beside(&plan),
    };
    let is_said = unlisting.is_some_and(Unlisting::is_said) && departure.is_possible();
    let question = Some("Apply this plan?").filter(|_| is_said || !plan.is_empty());
    let decided = consent.decide(shell, prepared, &shown, question).await?;
    let Some(prepared) = decided else {
        return Ok(());
    };
    let deletes = match unlisting {
        Some(unlisting) => {
            let shown = question.is_some();
            unlisting.is_wanted(shell, consent, &departure, shown).await
        }
        None => false,
    };
    if let Err(error) = context.check_cancelled() {
        prepared.abandon().await;
        return Err(error);
    }
    // What is wanted is written down before it is made so: cut in between, the next
    // run finds it there.
    if let Some((edit, true)) = edit {
        edit.write()?;
    }
    chosen.remember()?;
    let arriving = prepared.arriving.clone();
    let report = prepared.apply(context).await?;
    // Those that were to come first, and have not come.
    let nodes = &report.state.nodes;
    let is_late = |host: &str| {
        arriving.iter().any(|one| one.name == host) || !nodes.iter().any(|node| node.name == host)
    };
    let left = report.left_out.iter().map(|one| one.host.clone());
    let late: Vec<String> = left.filter(|host| is_late(host)).collect();
    let deletes = deletes && late.is_empty();
    departure.tell_staying(shell, !deletes, &late);
    let removed = match unlisting {
        Some(unlisting) if deletes => unlisting.delete(shell, &departure, drain).await,
        _ => Ok(Removed::default()),
    };
    let gone = removed.as_ref().map_or(&[][..], |removed| &removed.removed);
    let summary = Summary::new(shell, &report, gone);
    let written = edit.is_some_and(|(_, write)| write);
    consent.print(shell, &summary, || summary.to_string() + &patch(written))?;
    super::cluster::not_done(&[report.left_out, removed?.left_out].concat())
}

/// The same as a part of something that was asked for already, and that leaves the
/// cluster its image: nothing is asked, and nothing reported but what was left out.
pub async fn follow(shell: &Shell, chosen: &Chosen) -> Result<()> {
    let asked = chosen.request_as_it_runs(shell, false, Selection::default());
    // The image stays while it is needed.
    let (request, _running) = asked.await?;
    let prepared = run::prepare(shell.context(), request).await?;
    chosen.remember()?;
    let report = prepared.apply(shell.context()).await?;
    super::cluster::not_done(&report.left_out)
}

/// Tells what the checks found and that does not hinder the run, once for all places
/// of which it is the same. What could not be looked at, and would only have been a
/// warning, is for the log.
fn tell(context: &Context, findings: &[Finding]) {
    let mut same: Vec<(&Finding, Vec<String>)> = Vec::new();
    for finding in findings {
        let place = finding.place.to_string();
        let like = |one: &&mut (&Finding, _)| {
            one.0.ignored == finding.ignored && one.0.says() == finding.says()
        };
        match same.iter_mut().find(like) {
            Some((_, places)) => places.push(place),
            None => same.push((finding, vec![place])),
        }
    }
    for (finding, places) in same {
        let text = format!("{}: {}", places.join(", "), finding.says());
        match (&finding.outcome, finding.ignored) {
            (_, true) => context.warn(format!("ignored: {text}")),
            (Outcome::Wrong { .. }, false) => context.warn(text),
            _ => context.emit(Event::Detail { host: None, text }),
        }
    }
}

/// The plan for people: a line for each thing to do, with the hosts that do it.
fn describe(plan: &Plan, hosts: usize) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match plan.is_empty() {
        true => match plan.back_to {
            Some(number) => writeln!(
                text,
                "Nothing to do: the hosts of `{}` are as they were at revision {number}.",
                plan.cluster
            ),
            None => writeln!(
                text,
                "Nothing to do: the hosts are as the Clusterfile of `{}` says.",
                plan.cluster
            ),
        },
        false => writeln!(
            text,
            "Cluster `{}`: {} (Kubernetes {}, {})\n",
            plan.cluster,
            plan.image,
            plan.version,
            plan.digest.short()
        ),
    };
    let lines = lines(plan, hosts);
    let width = lines.iter().map(|(action, _)| action.chars().count()).max();
    let width = width.unwrap_or_default();
    let style = Style {
        columns: Some(COLUMNS),
        ..Style::PLAIN
    };
    for (action, on) in lines {
        let indent = width + 4;
        let on = wrapped(&on, indent, indent, style);
        let _ = writeln!(text, "  {action:<width$}  {on}");
    }
    for (plugin, changes) in changes(plan) {
        let says = format!("the plugin `{plugin}` may change: {changes}");
        let _ = writeln!(text, "\n  {}", wrapped(&says, 2, 4, style));
    }
    for note in plan.notes.iter().filter(|_| !plan.is_empty()) {
        let _ = writeln!(text, "\n  {}", wrapped(note, 2, 4, style));
    }
    for one in &plan.left_out {
        let _ = writeln!(text, "\nleft out: {}: {}", one.host, one.reason);
    }
    text
}

/// What the plugins of a plan may change, where they say so.
fn changes(plan: &Plan) -> BTreeMap<&str, String> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    steps
        .filter_map(|step| match &step.action {
            Action::RunPlugin {
                plugin, changes, ..
            } => Some((plugin.as_str(), changes.describe())),
            _ => None,
        })
        .filter(|(_, changes)| !changes.is_empty())
        .collect()
}

/// What is done and where, in order. The same step of several hosts is one line.
fn lines(plan: &Plan, hosts: usize) -> Vec<(String, String)> {
    let mut groups: Vec<(String, Vec<&str>, &Stage, bool)> = Vec::new();
    for stage in &plan.stages {
        let first = groups.len();
        for step in &stage.steps {
            let action = step.action.describe();
            match groups[first..]
                .iter_mut()
                .find(|(same, ..)| *same == action)
            {
                Some((_, on, ..)) => on.push(&step.host),
                None => groups.push((action, vec![&step.host], stage, step.undoable)),
            }
        }
    }
    groups
        .into_iter()
        .map(|(action, on, stage, undoable)| {
            let mut text = match on.len() == hosts && hosts > 2 {
                true => format!("all {hosts} hosts"),
                false => on.join(", "),
            };
            if on.len() > 1 && on.iter().all(|host| stage.is_rolling(host)) {
                let most = stage.turns.iter().map(Vec::len).max();
                text.push_str(&match most {
                    Some(most @ 2..) => format!(", {most} workers at a time"),
                    _ => ", one after the other".to_owned(),
                });
            }
            if !undoable {
                text.push_str(" (cannot be undone)");
            }
            (action, text)
        })
        .collect()
}

/// How a run ended, for people and for programs. `docs/run.md` describes the JSON.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Nodes that the Clusterfile did not name any more, and that are gone now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<String>,
    nodes: Vec<Node<'a>>,
    phases: Vec<Phase>,
    /// All together, which is more than the phases.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<PathBuf>,
}

/// A node, with the same names as in `chasi status`.
#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    ready: bool,
    version: &'a str,
    roles: Vec<String>,
}

impl<'a> Summary<'a> {
    fn new(shell: &Shell, report: &'a Report, removed: &[String]) -> Self {
        let nodes = report.state.nodes.iter();
        let nodes = nodes.filter(|node| !removed.contains(&node.name));
        let nodes = nodes.map(|node| Node {
            name: &node.name,
            ready: node.ready,
            version: &node.version,
            roles: node.roles(),
        });
        Summary {
            report,
            removed: removed.to_vec(),
            nodes: nodes.collect(),
            phases: shell.phases(),
            seconds: shell.elapsed().as_secs_f64(),
            log: shell.log_path(),
        }
    }
}

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cluster, image) = (&self.report.cluster, &self.report.image);
        let changed = self.report.steps > 0 || !self.removed.is_empty();
        match (changed, self.report.left_out.is_empty()) {
            (false, true) => match self.report.back_to {
                Some(number) => writeln!(
                    f,
                    "Nothing to do: cluster `{cluster}` is as it was at revision {number}.\n"
                )?,
                None => writeln!(
                    f,
                    "Nothing to do: cluster `{cluster}` is as its Clusterfile says.\n"
                )?,
            },
            (true, true) => match self.report.back_to {
                Some(number) => writeln!(
                    f,
                    "Cluster `{cluster}` is back at revision {number}, from {image}.\n"
                )?,
                None => writeln!(f, "Cluster `{cluster}` is up, from {image}.\n")?,
            },
            (_, false) => writeln!(f, "Cluster `{cluster}` is up in part, from {image}.\n")?,
        }
        if !self.report.ignored.is_empty() {
            writeln!(f, "Ignored checks: {}.\n", self.report.ignored.join(", "))?;
        }
        if !self.removed.is_empty() {
            writeln!(f, "{} left the cluster.\n", self.removed.join(", "))?;
        }
        let mut nodes = Table::new(["NODE", "STATE", "ROLES", "VERSION"]);
        for node in &self.nodes {
            let state = if node.ready { "Ready" } else { "NotReady" };
            nodes.row([node.name, state, &node.roles.join(","), node.version]);
        }
        write!(f, "{nodes}")?;
        if changed {
            let mut times = Table::new(["PHASE", "TIME"]);
            for phase in &self.phases {
                times.row([phase.name.clone(), duration(phase.seconds)]);
            }
            times.row(["all".to_owned(), duration(self.seconds)]);
            write!(f, "\n{times}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connect::LeftOut;
    use crate::cluster::plan::Step;
    use crate::digest::Digest;
    use crate::spec::plugin::{Changes, Phase};

    fn step(host: &str, action: Action) -> Step {
        Step {
            host: host.into(),
            undoable: !matches!(action, Action::ApplyObjects { .. }),
            action,
        }
    }

    #[derive(Default)]
    struct Told(std::sync::Mutex<Vec<String>>);

    impl crate::event::Sink for Told {
        fn event(&self, event: Event) {
            if let Event::Warning { text, .. } = event {
                self.0.lock().unwrap().push(text);
            }
        }
    }

    #[test]
    fn what_is_the_same_of_several_hosts_is_told_once() {
        let finding = |host: &str, seen: &str, ignored| Finding {
            check: "system.swap",
            severity: crate::cluster::check::Severity::Warning,
            ignored,
            place: crate::cluster::check::Place::host(host),
            outcome: Outcome::Wrong {
                seen: seen.into(),
                expected: "none".into(),
                hint: "x".into(),
            },
        };
        let told = std::sync::Arc::new(Told::default());
        tell(
            &Context::new(told.clone()),
            &[
                finding("m1", "swap is on", false),
                finding("m2", "swap is on", true),
                finding("m3", "swap is on", false),
                finding("m4", "much swap is on", false),
            ],
        );
        assert_eq!(
            *told.0.lock().unwrap(),
            [
                "m1, m3: swap is on (expected: none) [system.swap]",
                "ignored: m2: swap is on (expected: none) [system.swap]",
                "m4: much swap is on (expected: none) [system.swap]",
            ]
        );
    }

    fn example() -> Plan {
        let identity = Digest::of("x");
        let start = ["m1", "m2", "m3"].map(|host| step(host, Action::StartKubelet));
        Plan {
            cluster: "shop".into(),
            image: "chasi/demo:1".into(),
            digest: identity,
            version: "1.34.4".into(),
            stages: vec![
                Stage {
                    name: "certificates".into(),
                    turns: Vec::new(),
                    steps: ["m2", "m3"]
                        .map(|host| step(host, Action::CreateCertificates))
                        .into(),
                },
                Stage {
                    name: "start".into(),
                    turns: ["m1", "m2", "m3"].map(|host| vec![host.into()]).into(),
                    steps: start.into(),
                },
                Stage {
                    name: "objects".into(),
                    turns: Vec::new(),
                    steps: vec![step(
                        "m1",
                        Action::ApplyObjects {
                            identity,
                            prune: false,
                        },
                    )],
                },
            ],
            left_out: vec![LeftOut {
                host: "w9".into(),
                reason: "no route to host".into(),
                causes: Vec::new(),
                hints: Vec::new(),
            }],
            back_to: None,
            notes: Vec::new(),
            unlisted: Vec::new(),
        }
    }

    #[test]
    fn the_same_step_of_several_hosts_is_one_line() {
        insta::assert_snapshot!(describe(&example(), 3), @r"
        Cluster `shop`: chasi/demo:1 (Kubernetes 1.34.4, 2d711642b726)

          create the control plane's certificates  m2, m3
          start kubelet                            all 3 hosts, one after the other
          apply the cluster's own objects          m1 (cannot be undone)

        left out: w9: no route to host
        ");
    }

    /// `docs/run.md` promises it.
    #[test]
    fn the_plan_as_json_is_pinned() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&example()).unwrap());
    }

    #[test]
    fn what_plugins_may_change_and_what_has_no_way_back_is_shown() {
        let run = |name: &str, undo: bool, paths: &[&str]| {
            let action = Action::RunPlugin {
                plugin: name.parse().unwrap(),
                phase: Phase::AfterHost,
                why: "it has not run here yet".into(),
                changes: Changes {
                    paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                    ..Changes::default()
                },
                undo,
            };
            Step {
                host: "m1".into(),
                undoable: undo,
                action,
            }
        };
        let plan = Plan {
            stages: vec![Stage {
                name: "hosts".into(),
                turns: Vec::new(),
                steps: vec![
                    run("data-disk", false, &["/etc/fstab"]),
                    run("license", true, &[]),
                ],
            }],
            left_out: Vec::new(),
            ..example()
        };
        insta::assert_snapshot!(describe(&plan, 3), @r"
        Cluster `shop`: chasi/demo:1 (Kubernetes 1.34.4, 2d711642b726)

          run the plugin `data-disk` (after-host)  m1 (cannot be undone)
          run the plugin `license` (after-host)    m1

          the plugin `data-disk` may change: /etc/fstab
        ");
    }

    #[test]
    fn many_hosts_do_not_make_a_line_too_long() {
        let hosts = (0..30).map(|number| step(&format!("worker-{number}"), Action::StartKubelet));
        let plan = Plan {
            stages: vec![Stage {
                name: "start".into(),
                turns: Vec::new(),
                steps: hosts.collect(),
            }],
            ..example()
        };
        let text = describe(&plan, 40);
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
    }
}
