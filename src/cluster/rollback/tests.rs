//! Which revision is gone back to.

use super::*;
use crate::agent::calls::history::RevisionHost;
use crate::oci::Blob;

/// A run that led to a revision with this content.
pub fn entry(number: u32, content: &str, outcome: RunOutcome) -> HistoryEntry {
    let host = RevisionHost {
        node: Some(Digest::of(content)),
        control_plane: Some(Digest::of(content)),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    };
    HistoryEntry {
        version: 2,
        run: format!("run-{number}"),
        who: "me@here".into(),
        when: "2026-01-02T03:04:05Z".parse().unwrap(),
        command: "upgrade".into(),
        image: Digest::of(content),
        kubernetes: "1.34.4".into(),
        ignored: Vec::new(),
        outcome,
        revision: Some(Revision {
            number,
            back_to: None,
            reference: "chasi/demo:1".into(),
            index: Blob::of("x", content.as_bytes()),
            objects: Digest::of(content),
            clusterfile: Digest::of("file"),
            hosts: [("m1".to_owned(), host)].into(),
        }),
    }
}

fn back(number: u32, to: u32, content: &str, outcome: RunOutcome) -> HistoryEntry {
    let mut entry = entry(number, content, outcome);
    entry.revision.as_mut().unwrap().back_to = Some(to);
    entry
}

/// A host came, and nothing else is another.
fn with_host(mut entry: HistoryEntry) -> HistoryEntry {
    let hosts = &mut entry.revision.as_mut().unwrap().hosts;
    let host = hosts["m1"].clone();
    hosts.insert("w1".into(), host);
    entry
}

#[test]
fn the_revision_before_is_the_last_one_that_leads_elsewhere() {
    use RunOutcome::{Done, Failed, Partial, Unfinished};
    for (what, entries, expected) in [
        ("nothing was done yet", vec![], None),
        ("a first run", vec![entry(1, "a", Done)], None),
        (
            "an upgrade",
            vec![entry(1, "a", Done), entry(2, "b", Done)],
            Some(1),
        ),
        (
            "an upgrade in two runs",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Partial),
                entry(3, "b", Done),
            ],
            Some(1),
        ),
        (
            "an upgrade that failed twice",
            vec![
                entry(1, "a", Done),
                entry(2, "ab", Failed),
                entry(3, "ab", Failed),
            ],
            Some(1),
        ),
        (
            "an upgrade that was interrupted",
            vec![entry(1, "a", Done), entry(2, "ab", Unfinished)],
            Some(1),
        ),
        ("a first run that failed", vec![entry(1, "a", Failed)], None),
        (
            "a rollback: one further",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                entry(3, "c", Done),
                back(4, 2, "b", Done),
            ],
            Some(1),
        ),
        (
            "a rollback that failed goes on",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                back(3, 1, "ab", Failed),
            ],
            Some(1),
        ),
        (
            "a rollback that left a host out goes on",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                back(3, 1, "a", Partial),
            ],
            Some(1),
        ),
        (
            "an upgrade after a rollback",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                back(3, 1, "a", Done),
                entry(4, "c", Done),
            ],
            Some(1),
        ),
        (
            "an upgrade after a rollback, failed",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                back(3, 1, "a", Done),
                entry(4, "ac", Failed),
            ],
            Some(1),
        ),
        (
            "a host that came after an upgrade",
            vec![
                entry(1, "a", Done),
                entry(2, "b", Done),
                with_host(entry(3, "b", Done)),
            ],
            Some(1),
        ),
    ] {
        let found = before(&entries).map(|revision| revision.number);
        assert_eq!(found.ok(), expected, "{what}");
    }
}

#[test]
fn a_revision_is_named_by_its_number_and_was_once_true() {
    let entries = [
        entry(1, "a", RunOutcome::Done),
        entry(2, "b", RunOutcome::Failed),
    ];
    assert_eq!(numbered(&entries, 1).unwrap().number, 1);
    for number in [2, 3] {
        let error = numbered(&entries, number).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

#[test]
fn back_is_older_and_at_most_one_minor_version() {
    for (from, to, is_well) in [
        ("1.34.4", "1.34.4", true),
        ("1.34.4", "1.34.3", true),
        ("1.34.4", "1.33.13", true),
        ("1.34.4", "1.32.1", false),
        ("1.34.3", "1.34.4", false),
        ("2.0.0", "1.34.4", false),
    ] {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let result = is_back(1, &from, &to);
        assert_eq!(result.is_ok(), is_well, "{from} {to}");
        if let Err(error) = result {
            assert_eq!((error.kind(), error.hints().len()), (Kind::Check, 1));
        }
    }
}
