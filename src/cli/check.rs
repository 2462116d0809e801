//! `chasi check`: know before you touch.

mod junit;

use std::fmt::Write as _;

use clap::ValueEnum;

use super::Shell;
use super::cluster::Known;
use super::message::{Style, wrapped};
use crate::cluster::check::{self, Finding, Outcome, Phase, Report, Selection, Severity};
use crate::error::Result;

/// How wide a report is at most: the usual terminal, also where it is read later.
const COLUMNS: usize = 80;
/// How many places are named in one line before they are counted.
const MOST_PLACES: usize = 4;

/// Look at hosts, at what lies between them, and at a cluster, and change nothing.
///
/// `docs/checks.md` lists all checks. Exits with 0 when nothing of severity `error`
/// is wrong, and with 4 when something is, or could not be looked at.
#[derive(clap::Args)]
pub struct Args {
    /// When: `pre` before an install, `post` when a cluster is there, `upgrade`
    /// before it gets another version.
    #[arg(
        value_enum,
        value_name = "pre|post|upgrade",
        hide_possible_values = true
    )]
    phase: When,
    /// The cluster image that is to be installed [default: that of the Clusterfile]
    #[arg(value_name = "REF")]
    image: Option<String>,
    #[command(flatten)]
    known: Known,
    /// Only these checks: ids, or names of areas, with commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// What these checks find does not count. It is still shown.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Form,
}

/// [`Phase`], on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    Pre,
    Post,
    Upgrade,
}

impl From<When> for Phase {
    fn from(when: When) -> Self {
        match when {
            When::Pre => Phase::Pre,
            When::Post => Phase::Post,
            When::Upgrade => Phase::Upgrade,
        }
    }
}

/// How a report is written to standard output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For pipelines.
    Junit,
}

impl Args {
    /// Checks, and prints what was found.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let selection = Selection::new(&self.only, &self.ignore)?;
        let request = self.known.choose(shell)?.check(
            shell,
            self.phase.into(),
            self.image.as_deref(),
            selection,
        )?;
        let report = shell.block_on(check::check(shell.context(), &request))?;
        match self.format {
            Form::Json => shell.json(&report)?,
            Form::Table => shell.result(&describe(&report))?,
            Form::Junit => shell.result(&junit::document(&report))?,
        }
        report.verdict()
    }
}

/// The report for people: what is wrong first, each with what to do; then a line for
/// each check that passed.
fn describe(report: &Report) -> String {
    let mut text = String::new();
    let mut groups: Vec<(&Finding, Vec<String>)> = Vec::new();
    for finding in &report.findings {
        let place = finding.place.to_string();
        match groups.iter_mut().find(|(one, _)| is_same(one, finding)) {
            Some((_, places)) => places.push(place),
            None => groups.push((finding, vec![place])),
        }
    }
    let mut groups = groups.into_iter().peekable();
    while let Some((finding, places)) = groups.next() {
        // What one cause hides from many checks is told once.
        let mut checks = vec![finding.check];
        while let Some((next, _)) =
            groups.next_if(|(next, on)| hides_the_same(finding, next) && *on == places)
        {
            checks.push(next.check);
        }
        entry(&mut text, finding, &checks, &places);
    }
    let counts = &report.counts;
    let mut parts = vec![
        format!("{} wrong", counts.errors),
        format!("{} warnings", counts.warnings),
        format!("{} unknown", counts.unknown),
        format!("{} passed", counts.passed),
        format!("{} not applicable", counts.not_applicable),
    ];
    if counts.ignored > 0 {
        parts.insert(3, format!("{} ignored", counts.ignored));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{}", parts.join(", "));
    if let Some(ways) = &report.ways {
        let _ = write!(
            text,
            "{} of {} ways between hosts measured; ",
            ways.measured, ways.all
        );
    }
    let _ = writeln!(text, "{:.1} s", report.seconds);
    text
}

/// Whether two findings are one entry: the same check, or the same reason for which
/// several could not look.
fn is_same(one: &Finding, other: &Finding) -> bool {
    let same_check = one.check == other.check && one.ignored == other.ignored;
    same_check
        && match (&one.outcome, &other.outcome) {
            (Outcome::Passed { .. }, Outcome::Passed { .. }) => true,
            (one, other) => one == other,
        }
}

/// Whether the same kept two checks from looking, and both count the same.
fn hides_the_same(one: &Finding, other: &Finding) -> bool {
    matches!(one.outcome, Outcome::Unknown { .. })
        && one.outcome == other.outcome
        && (one.severity, one.ignored) == (other.severity, other.ignored)
}

fn entry(text: &mut String, finding: &Finding, checks: &[&str], places: &[String]) {
    let word = match (&finding.outcome, finding.severity) {
        _ if finding.ignored && finding.outcome.is_trouble() => "ignored",
        (Outcome::Wrong { .. }, Severity::Error) => "wrong",
        (Outcome::Wrong { .. }, Severity::Warning) => "warning",
        (Outcome::Unknown { .. }, _) => "unknown",
        (Outcome::Passed { .. }, _) => "passed",
        (Outcome::NotApplicable { .. }, _) => "n/a",
    };
    let on = match places.len() {
        0..=MOST_PLACES => places.join(", "),
        many => format!(
            "{} and {} more",
            places[..MOST_PLACES - 1].join(", "),
            many + 1 - MOST_PLACES
        ),
    };
    let check = match checks {
        [one] => (*one).to_owned(),
        several => format!("{} checks", several.len()),
    };
    line(text, &format!("{word:<8} {check:<24} "), &on, 34);
    match &finding.outcome {
        Outcome::Wrong {
            seen,
            expected,
            hint,
        } => {
            line(text, "         ", seen, 11);
            line(text, "         expected: ", expected, 11);
            line(text, "         hint: ", hint, 11);
        }
        Outcome::Unknown { why } => {
            line(text, "         ", why, 11);
            if checks.len() > 1 {
                line(text, "         ", &checks.join(", "), 9);
            }
        }
        Outcome::Passed { .. } | Outcome::NotApplicable { .. } => {}
    }
}

/// Adds a line, or several where it is too long for one.
fn line(text: &mut String, start: &str, rest: &str, indent: usize) {
    let style = Style {
        columns: Some(COLUMNS),
        ..Style::PLAIN
    };
    let rest = wrapped(rest, start.chars().count(), indent, style);
    let line = format!("{start}{rest}");
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::check::{Counts, Place, Sampled};

    pub(super) fn report() -> Report {
        let finding = |check, severity, place, outcome| Finding {
            check,
            severity,
            ignored: false,
            place,
            outcome,
        };
        let passed = |host: &str| {
            let seen = Outcome::Passed { seen: host.into() };
            finding("system.init", Severity::Error, Place::host(host), seen)
        };
        let mut findings = vec![
            finding(
                "network.reach",
                Severity::Error,
                Place::between("node-1", "node-4"),
                Outcome::Wrong {
                    seen: "tcp 10250 (kubelet): no answer within 2 s; node-4 drops it: `tcp dport 10250 drop` in the chain `input` & others <x>".into(),
                    expected: "an answer".into(),
                    hint: "on node-4: `nft delete rule inet filter input handle 4`".into(),
                },
            ),
            finding(
                "identity.product-uuid",
                Severity::Warning,
                Place::host("node-1"),
                Outcome::Unknown { why: "the file cannot be read".into() },
            ),
        ];
        findings.extend(
            ["system.clock", "system.init", "kernel.version"].map(|check| {
                let why = "the host cannot be entered".into();
                let place = Place::host("node-2");
                finding(check, Severity::Error, place, Outcome::Unknown { why })
            }),
        );
        findings.extend(["n1", "n2", "n3", "n4", "n5"].map(passed));
        findings.push(Finding {
            ignored: true,
            ..findings[0].clone()
        });
        Report {
            cluster: "shop".into(),
            phase: Phase::Pre,
            counts: Counts {
                errors: 1,
                unknown: 4,
                passed: 5,
                ignored: 1,
                ..Counts::default()
            },
            findings,
            ways: Some(Sampled {
                measured: 12,
                all: 12,
            }),
            seconds: 1.25,
        }
    }

    #[test]
    fn a_report_for_people_is_narrow_and_says_what_to_do() {
        let text = describe(&report());
        assert!(
            text.lines().all(|line| line.chars().count() <= COLUMNS),
            "{text}"
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_report_as_json_is_pinned() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&report()).unwrap());
    }
}
