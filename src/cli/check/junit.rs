//! A report as JUnit's XML, which pipelines show: a test case for each thing that was
//! looked at. A failure is what is wrong, an error what could not be looked at; what
//! does not decide over the exit code is skipped, with its text.

use std::fmt::Write as _;

use crate::cluster::check::{Finding, Outcome, Report, Severity};

/// The whole document.
pub(super) fn document(report: &Report) -> String {
    let mut cases = String::new();
    let (mut failures, mut errors, mut skipped) = (0, 0, 0);
    for finding in &report.findings {
        let counts = finding.severity == Severity::Error && !finding.ignored;
        let element = match &finding.outcome {
            Outcome::Passed { .. } => None,
            Outcome::Wrong { .. } if counts => {
                failures += 1;
                Some("failure")
            }
            Outcome::Unknown { .. } if counts => {
                errors += 1;
                Some("error")
            }
            _ => {
                skipped += 1;
                Some("skipped")
            }
        };
        case(&mut cases, finding, element);
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"chasi check {} {}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{:.3}\">\n{cases}  </testsuite>\n</testsuites>\n",
        report.phase,
        escaped(&report.cluster),
        report.findings.len(),
        report.seconds
    )
}

fn case(text: &mut String, finding: &Finding, element: Option<&str>) {
    let start = format!(
        "    <testcase classname=\"{}\" name=\"{}\"",
        escaped(finding.check),
        escaped(&finding.place.to_string())
    );
    // Writing to a String cannot fail.
    let _ = match element {
        None => writeln!(text, "{start}/>"),
        Some(element) => writeln!(
            text,
            "{start}>\n      <{element} message=\"{}\"/>\n    </testcase>",
            escaped(&message(finding))
        ),
    };
}

fn message(finding: &Finding) -> String {
    let said = match &finding.outcome {
        Outcome::Passed { seen } => seen.clone(),
        Outcome::Wrong {
            seen,
            expected,
            hint,
        } => format!("{seen}\nexpected: {expected}\nhint: {hint}"),
        Outcome::Unknown { why } => format!("could not look: {why}"),
        Outcome::NotApplicable { why } => format!("not applicable: {why}"),
    };
    match (finding.ignored, finding.severity) {
        (true, _) => format!("ignored: {said}"),
        (false, Severity::Warning) if finding.outcome.is_trouble() => format!("warning: {said}"),
        (false, _) => said,
    }
}

/// Text for an attribute: XML 1.0 has no way to write most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other if other.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_report_for_pipelines_is_pinned() {
        insta::assert_snapshot!(document(&report()));
    }

    #[test]
    fn what_hosts_say_cannot_break_the_document() {
        assert_eq!(
            escaped("<a b=\"&\u{1b}[0m\">\r\n"),
            "&lt;a b=&quot;&amp;\u{fffd}[0m&quot;&gt;\u{fffd}&#10;"
        );
    }
}
