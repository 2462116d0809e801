//! All checks, by their stable ids, and how some are chosen.

use std::collections::BTreeSet;
use std::fmt;

use super::outcome::{Outcome, Place, Severity};
use super::sample::RULE;
use super::site::{Site, Subject};
use crate::error::{Error, Kind, Result};

/// When a check is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before a cluster is installed, or hosts are added.
    Pre,
    /// When a cluster is there: what is damaged?
    Post,
    /// Before a cluster gets another version.
    Upgrade,
}

impl Phase {
    /// All phases.
    pub const ALL: [Phase; 3] = [Phase::Pre, Phase::Post, Phase::Upgrade];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Pre => "pre",
            Phase::Post => "post",
            Phase::Upgrade => "upgrade",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What must be gathered for a check, beyond what every host says of itself.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Need {
    /// The cluster image, from the controller's store.
    Image,
    /// How large the image is on each host.
    Sizes,
    /// How far the hosts' clocks are apart.
    Clock,
    /// What the hosts' packet filters drop.
    Filter,
    /// How fast the disk of etcd's data is.
    Writes,
    /// What lies between the hosts.
    Ways,
    /// Who has the control plane's address.
    Vip,
    /// What runs: the API, etcd, certificates.
    Running,
    /// What draining each node would do.
    Drains,
}

impl Need {
    /// Whether it takes more than a question to one host.
    pub(super) fn is_measured(self) -> bool {
        matches!(self, Need::Sizes | Need::Writes | Need::Ways | Need::Vip)
    }
}

/// How a check judges.
#[derive(Clone, Copy)]
pub(super) enum Judge {
    /// Each host that could be entered.
    Host(fn(&Subject) -> Outcome),
    /// Whatever it finds to look at: the cluster, or pairs of hosts.
    Site(fn(&Site) -> Vec<(Place, Outcome)>),
}

/// Something that must hold.
pub struct Check {
    /// Its stable id, `area.name`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// What it looks at.
    pub looks_at: &'static str,
    /// How bad it is when it does not.
    pub severity: Severity,
    /// When it is asked for.
    pub phases: &'static [Phase],
    /// Why it cannot be ignored, where it cannot: data would be lost.
    pub never_ignored: Option<&'static str>,
    pub(super) needs: &'static [Need],
    pub(super) judge: Judge,
}

impl Check {
    /// The part of the id that it has in common with others.
    pub fn area(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }

    pub(super) const fn of_host(
        id: &'static str,
        title: &'static str,
        looks_at: &'static str,
        judge: fn(&Subject) -> Outcome,
    ) -> Check {
        Check::new(id, title, looks_at, Judge::Host(judge))
    }

    pub(super) const fn of_site(
        id: &'static str,
        title: &'static str,
        looks_at: &'static str,
        judge: fn(&Site) -> Vec<(Place, Outcome)>,
    ) -> Check {
        Check::new(id, title, looks_at, Judge::Site(judge))
    }

    const fn new(
        id: &'static str,
        title: &'static str,
        looks_at: &'static str,
        judge: Judge,
    ) -> Check {
        Check {
            id,
            title,
            looks_at,
            severity: Severity::Error,
            phases: &Phase::ALL,
            never_ignored: None,
            needs: &[],
            judge,
        }
    }

    /// It does not hinder anybody.
    pub(super) const fn warning(mut self) -> Check {
        self.severity = Severity::Warning;
        self
    }

    /// Only then.
    pub(super) const fn at(mut self, phases: &'static [Phase]) -> Check {
        self.phases = phases;
        self
    }

    pub(super) const fn needing(mut self, needs: &'static [Need]) -> Check {
        self.needs = needs;
        self
    }

    /// It cannot be ignored, because of what would be lost.
    pub(super) const fn never_ignored(mut self, why: &'static str) -> Check {
        self.never_ignored = Some(why);
        self
    }
}

/// All checks, by area.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [
        super::access::CHECKS,
        super::identity::CHECKS,
        super::system::CHECKS,
        super::resources::CHECKS,
        super::network::CHECKS,
        super::between::CHECKS,
        super::residue::CHECKS,
        super::running::CHECKS,
        super::etcd::CHECKS,
        super::change::CHECKS,
    ]
    .into_iter()
    .flatten()
}

/// Which checks somebody wants, and which do not count.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// Only these; all of the phase where it is empty.
    only: BTreeSet<&'static str>,
    /// These do not count.
    ignored: BTreeSet<&'static str>,
}

impl Selection {
    /// From ids, or names of areas, as somebody typed them.
    pub fn new(only: &[String], ignored: &[String]) -> Result<Self> {
        let only = ids(only)?;
        let ignored = ids(ignored)?;
        for check in all().filter(|check| ignored.contains(check.id)) {
            if let Some(why) = check.never_ignored {
                let id = check.id;
                return Err(
                    Error::new(Kind::Usage, format!("the check `{id}` cannot be ignored"))
                        .because(why)
                        .hint(format!(
                            "leave `{id}` out of `--ignore`, and mend what it finds"
                        )),
                );
            }
        }
        Ok(Selection { only, ignored })
    }

    /// The ids that do not count.
    pub fn ignored(&self) -> impl Iterator<Item = &'static str> {
        self.ignored.iter().copied()
    }

    pub(super) fn ignores(&self, check: &Check) -> bool {
        self.ignored.contains(check.id)
    }

    /// The checks of a phase that are wanted.
    pub(super) fn of(&self, phase: Phase) -> Vec<&'static Check> {
        all()
            .filter(|check| match self.only.is_empty() {
                true => check.phases.contains(&phase),
                false => self.only.contains(check.id),
            })
            .collect()
    }
}

/// The ids that these words mean.
fn ids(words: &[String]) -> Result<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    for word in words {
        let before = found.len();
        let meant = all().filter(|check| check.id == word || check.area() == word);
        found.extend(meant.map(|check| check.id));
        let known = all().any(|check| check.id == word || check.area() == word);
        if found.len() == before && !known {
            return Err(no_check(word));
        }
    }
    Ok(found)
}

fn no_check(word: &str) -> Error {
    let error = Error::new(Kind::Usage, format!("there is no check `{word}`"));
    let mut near: Vec<(usize, &str)> = all()
        .flat_map(|check| [check.id, check.area()])
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= 3 || known.ends_with(&format!(".{word}")))
        .collect();
    near.sort_unstable();
    near.dedup();
    near.truncate(3);
    let near: Vec<&str> = near.into_iter().map(|(_, known)| known).collect();
    match near.is_empty() {
        true => error.hint(format!(
            "give an id of `docs/checks.md`, or an area: `{}`",
            areas().join("`, `")
        )),
        false => error.hint(format!("did you mean `{}`?", near.join("` or `"))),
    }
}

/// The areas, each once.
fn areas() -> Vec<&'static str> {
    let mut areas: Vec<&str> = Vec::new();
    for check in all() {
        if !areas.contains(&check.area()) {
            areas.push(check.area());
        }
    }
    areas
}

/// The page of all checks, for `docs/checks.md`.
pub fn page() -> String {
    let mut text = PREFACE.replace("RULE", RULE);
    let by_area = areas().into_iter().flat_map(|area| {
        let of_area = all().filter(move |check| check.area() == area);
        of_area.enumerate()
    });
    for (place, check) in by_area {
        if place == 0 {
            text.push_str(&format!(
                "\n## {}\n\n| id | must hold | looks at | severity | when |\n|---|---|---|---|---|\n",
                check.area()
            ));
        }
        let phases: Vec<&str> = check.phases.iter().map(|phase| phase.name()).collect();
        let severity = match check.never_ignored {
            Some(why) => format!("{}, never ignored: {why}", check.severity.name()),
            None => check.severity.name().to_owned(),
        };
        text.push_str(&format!(
            "| `{}` | {} | {} | {severity} | {} |\n",
            check.id,
            check.title,
            check.looks_at,
            phases.join(", ")
        ));
    }
    text
}

const PREFACE: &str = "# Checks

`chasi check pre -f Clusterfile` looks at everything without which an install fails half-way, `chasi check upgrade` at what must hold before a cluster gets another version, and `chasi check post` at what is damaged in a cluster that is there. Nothing is changed on any host.

Each check says one of these of each host, of the way between two hosts, or of the cluster:

| state | what it means |
|---|---|
| `passed` | it was looked at, and is as it should be |
| `wrong` | it was looked at, and is not as it should be: what was seen, what was expected, what to do |
| `unknown` | it could not be looked at, and why. This never counts as passed |
| `not-applicable` | there is nothing to look at |

The exit code is 4 when a check of severity `error` is `wrong` or `unknown`. `--only` and `--ignore` take ids, or names of areas, with commas. An ignored check is still made and shown; it does not count. `--format json` gives every finding, `--format junit` what pipelines read: there a failure is a `wrong`, an error is an `unknown`, and what does not count is skipped.

Ways between hosts are measured for real: while the checks run, each host listens on the TCP and UDP ports that its role needs and that nobody has, and the others connect or send there and expect what they said to come back. Where somebody listens already, only a connection is made; of UDP something is told only when the pod network is up, by sending through it. Which ways: RULE. The last line says how many of how many. The ports of each role are in [ports.md](ports.md).

This page is made from the checks; `UPDATE_DOCS=1 cargo test --test cli` writes it.
";
