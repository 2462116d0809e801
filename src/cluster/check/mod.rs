//! What must hold before anything is touched, and what is damaged: checks of
//! hosts, of what lies between them, and of the cluster.
//!
//! A check is an entry of a registry ([`all`]): a stable id, a severity, when it is
//! asked for, and a judgement. What is judged was gathered before, from all hosts at
//! once, and is a value: no judgement asks a host. "Could not look" is an outcome of
//! its own and never counts as passed. Nothing here changes a host.

mod access;
mod between;
mod change;
mod etcd;
mod gate;
mod gather;
mod identity;
mod measure;
mod network;
mod outcome;
mod registry;
mod residue;
mod resources;
mod running;
mod sample;
mod site;
mod system;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use self::gather::Clients;
use self::outcome::unknown;
use self::registry::Judge;
use self::site::{Closed, Site};
use super::connect::{Visitor, connect, farewell, untouched};
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::host::facts::Known;
use crate::oci::{ClusterImage, Store};
use crate::remote::Target;
use crate::spec;

pub(super) use gate::{Change, before_change, before_run};
pub use outcome::{Finding, Outcome, Place, Severity};
pub use registry::{Check, Phase, Selection, all, page};

/// What to check, where, as whom.
pub struct Request {
    /// What was asked for.
    pub cluster: spec::Cluster,
    /// How to get into each host.
    pub targets: Vec<Target>,
    /// In whose name.
    pub visitor: Visitor,
    /// The cluster image, with the store that it is in; or why it cannot be looked at.
    pub image: std::result::Result<(ClusterImage, Store), String>,
    /// When.
    pub phase: Phase,
    /// Which checks, and which do not count.
    pub selection: Selection,
}

/// What the checks said.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The cluster's name.
    pub cluster: String,
    /// When.
    pub phase: Phase,
    /// Everything that was looked at; what is wrong first.
    pub findings: Vec<Finding>,
    /// How many of each state.
    pub counts: Counts,
    /// How many of the ways between hosts were measured, where any were.
    pub ways: Option<Sampled>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How many of the ways between hosts were measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Sampled {
    /// Measured.
    pub measured: usize,
    /// Between all hosts that could be entered, both directions counted.
    pub all: usize,
}

/// How many findings are of each state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Wrong, of severity error.
    pub errors: usize,
    /// Wrong, of severity warning.
    pub warnings: usize,
    /// Could not be looked at.
    pub unknown: usize,
    /// As it should be.
    pub passed: usize,
    /// Nothing to look at.
    pub not_applicable: usize,
    /// Wrong or unknown, and ignored; not among the others.
    pub ignored: usize,
}

impl Counts {
    fn of(findings: &[Finding]) -> Self {
        let mut counts = Counts::default();
        for finding in findings {
            let count = match (&finding.outcome, finding.severity) {
                (outcome, _) if outcome.is_trouble() && finding.ignored => &mut counts.ignored,
                (Outcome::Wrong { .. }, Severity::Error) => &mut counts.errors,
                (Outcome::Wrong { .. }, Severity::Warning) => &mut counts.warnings,
                (Outcome::Unknown { .. }, _) => &mut counts.unknown,
                (Outcome::Passed { .. }, _) => &mut counts.passed,
                (Outcome::NotApplicable { .. }, _) => &mut counts.not_applicable,
            };
            *count += 1;
        }
        counts
    }
}

impl Report {
    /// Fails when a check of severity error is wrong or could not look.
    pub fn verdict(&self) -> Result<()> {
        let refusing = || self.findings.iter().filter(|finding| finding.refuses());
        let wrong = refusing()
            .filter(|finding| matches!(finding.outcome, Outcome::Wrong { .. }))
            .count();
        let unseen = refusing().count() - wrong;
        let message = match (wrong, unseen) {
            (0, 0) => return Ok(()),
            (1, 0) => "1 thing is wrong".to_owned(),
            (wrong, 0) => format!("{wrong} things are wrong"),
            (0, 1) => "1 thing that must hold could not be looked at".to_owned(),
            (0, unseen) => format!("{unseen} things that must hold could not be looked at"),
            (1, unseen) => {
                format!("1 thing is wrong, and {unseen} that must hold could not be looked at")
            }
            (wrong, unseen) => format!(
                "{wrong} things are wrong, and {unseen} that must hold could not be looked at"
            ),
        };
        Err(Error::new(Kind::Check, message)
            .hint("mend it and check again; or `--ignore ID` what you take the risk of"))
    }
}

/// Looks at all hosts. Fails only when nothing could be looked at for a reason of the
/// controller's own; what the checks found is in the report.
pub async fn check(context: &Context, request: &Request) -> Result<Report> {
    examine(context, request).await.map_err(untouched)
}

async fn examine(context: &Context, request: &Request) -> Result<Report> {
    let begin = Instant::now();
    let checks = request.selection.of(request.phase);
    let options = request.visitor.looking();
    let entering = connect(context, &request.targets, &options);
    let entered = context.phase("connect", entering).await;
    let mut clients = BTreeMap::new();
    let mut interrupted = None;
    for (name, client) in entered {
        let client = match client {
            Err(error) if error.kind() == Kind::Interrupted => {
                interrupted = Some(error);
                continue;
            }
            client => client.map_err(|error| Closed::because(&error)),
        };
        clients.insert(name, client);
    }
    let findings = match interrupted {
        Some(error) => Err(error),
        None => {
            let looking = look(request, &clients, &checks);
            context.phase("checks", looking).await
        }
    };
    farewell(clients.into_values().filter_map(std::result::Result::ok)).await;
    // What could not be looked at because of that says nothing of the hosts.
    context.check_cancelled()?;
    let (findings, ways) = findings?;
    Ok(Report {
        cluster: request.cluster.name.to_string(),
        phase: request.phase,
        counts: Counts::of(&findings),
        ways,
        findings,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

async fn look(
    request: &Request,
    clients: &Clients,
    checks: &[&'static Check],
) -> Result<(Vec<Finding>, Option<Sampled>)> {
    let reports = gather::reports(clients).await;
    let image = match &request.image {
        Ok((image, store)) => Ok((image, store)),
        Err(why) => Err(why.clone()),
    };
    let site = gather::site(&request.cluster, image, reports, clients, checks).await;
    let ways = match &site.ways {
        Known::Is(ways) => Some(Sampled {
            measured: ways.measured.len(),
            all: ways.all,
        }),
        Known::Unknown(_) => None,
    };
    Ok((judge(&site, checks, &request.selection), ways))
}

/// What all these checks say of a site, what is wrong first.
fn judge(site: &Site, checks: &[&'static Check], selection: &Selection) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for check in checks {
        findings.extend(
            judge_one(site, check)
                .into_iter()
                .map(|(place, outcome)| Finding {
                    check: check.id,
                    severity: check.severity,
                    ignored: selection.ignores(check),
                    place,
                    outcome,
                }),
        );
    }
    findings.sort_by_key(rank);
    findings
}

/// Errors, what could not be seen of them, warnings, and then the rest.
fn rank(finding: &Finding) -> u8 {
    match (&finding.outcome, finding.severity, finding.ignored) {
        (Outcome::Wrong { .. }, Severity::Error, false) => 0,
        (Outcome::Unknown { .. }, Severity::Error, false) => 1,
        (Outcome::Wrong { .. }, _, false) => 2,
        (Outcome::Unknown { .. }, _, false) => 3,
        (Outcome::Wrong { .. } | Outcome::Unknown { .. }, _, true) => 4,
        (Outcome::Passed { .. }, ..) => 5,
        (Outcome::NotApplicable { .. }, ..) => 6,
    }
}

fn judge_one(site: &Site, check: &Check) -> Vec<(Place, Outcome)> {
    let judge = match check.judge {
        Judge::Site(judge) => return judge(site),
        Judge::Host(judge) => judge,
    };
    site.hosts
        .iter()
        .map(|host| {
            let place = Place::host(host.host.name.as_str());
            let outcome = match &host.report {
                Err(_) => unknown("the host cannot be entered"),
                Ok(report) => judge(&site::Subject {
                    site,
                    host: host.host,
                    report,
                    measured: host,
                }),
            };
            (place, outcome)
        })
        .collect()
}

#[cfg(test)]
mod tests;
