//! The checks as a specification: each one fails for its reason, and only then.

mod between;
mod cases;
mod world;

use super::gate::refuse;
use super::*;
use cases::{CASES, CONSTANT, Case, Step};
use world::World;

/// What one check says of a world.
fn outcomes(id: &str, changes: &[Step]) -> Vec<Outcome> {
    let mut world = World::bare();
    for change in changes {
        change(&mut world);
    }
    let check = all().find(|check| check.id == id).unwrap();
    judge_one(&world.site(), check)
        .into_iter()
        .map(|(_, outcome)| outcome)
        .collect()
}

fn count(outcomes: &[Outcome], state: &str) -> usize {
    let is = |outcome: &&Outcome| outcome.state() == state;
    outcomes.iter().filter(is).count()
}

#[test]
fn every_check_has_a_case() {
    let known: Vec<&str> = CASES.iter().map(|case| case.id).collect();
    let without: Vec<&str> = all()
        .map(|check| check.id)
        .filter(|id| !known.contains(id) && !CONSTANT.contains(id))
        .collect();
    assert!(without.is_empty(), "no case for {without:?}");
    for id in known {
        assert!(all().any(|check| check.id == id), "`{id}` is no check");
    }
}

#[test]
fn every_check_passes_where_all_is_well() {
    for Case { id, pass, .. } in CASES {
        let found = outcomes(id, &[*pass]);
        assert!(count(&found, "passed") > 0, "{id}: {found:?}");
        assert_eq!(count(&found, "wrong"), 0, "{id}: {found:?}");
        assert_eq!(count(&found, "unknown"), 0, "{id}: {found:?}");
    }
}

#[test]
fn every_check_fails_for_its_reason_and_says_what_to_do() {
    for Case { id, pass, fail, .. } in CASES {
        let found = outcomes(id, &[*pass, *fail]);
        assert_eq!(count(&found, "wrong"), 1, "{id}: {found:?}");
        for outcome in found {
            if let Outcome::Wrong {
                seen,
                expected,
                hint,
            } = outcome
            {
                let said = [&seen, &expected, &hint];
                assert!(said.iter().all(|text| !text.is_empty()), "{id}: {said:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_looked_at_is_unknown_and_not_passed() {
    for Case {
        id, pass, blind, ..
    } in CASES
    {
        let Some(blind) = blind else { continue };
        let found = outcomes(id, &[*pass, *blind]);
        assert!(count(&found, "unknown") > 0, "{id}: {found:?}");
        assert_eq!(count(&found, "wrong"), 0, "{id}: {found:?}");
    }
}

#[test]
fn no_check_passes_on_a_host_that_cannot_be_entered() {
    for check in all() {
        let mut world = World::bare();
        world.close("w1", site::Stage::Ssh);
        let found = judge_one(&world.site(), check);
        let of_host = found
            .iter()
            .filter(|(place, _)| *place == Place::host("w1"));
        for (_, outcome) in of_host {
            assert!(outcome.is_trouble(), "{}: {outcome:?}", check.id);
        }
    }
}

#[test]
fn ids_are_unique_and_have_an_area() {
    let mut ids: Vec<&str> = all().map(|check| check.id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(ids.iter().all(|id| id.split('.').count() == 2));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn ids_and_areas_choose_and_unknown_ones_are_refused() {
    let only = Selection::new(&words(&["residue", "system.swap"]), &[]).unwrap();
    let chosen: Vec<&str> = only.of(Phase::Pre).iter().map(|check| check.id).collect();
    assert!(chosen.contains(&"residue.runtime") && chosen.contains(&"system.swap"));
    assert!(!chosen.contains(&"system.init"));
    let error = Selection::new(&words(&["network.port"]), &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.hints()[0].contains("`network.ports`"), "{error:?}");
}

#[test]
fn what_would_lose_data_cannot_be_ignored() {
    for id in ["identity.node", "identity", "residue.etcd"] {
        let error = Selection::new(&[], &words(&[id])).unwrap_err();
        assert!(error.message().contains("cannot be ignored"), "{error:?}");
    }
}

fn findings(changes: &[Step], ignored: &[&str]) -> Vec<Finding> {
    let mut world = World::bare();
    for change in changes {
        change(&mut world);
    }
    let selection = Selection::new(&[], &words(ignored)).unwrap();
    judge(&world.site(), &selection.of(Phase::Pre), &selection)
}

#[test]
fn a_run_is_refused_with_everything_at_once() {
    let no_init: Step = |world| world.facts("w1").systemd = false;
    let no_memory: Step = |world| world.facts("m1").memory = 1;
    let error = refuse(findings(&[no_init], &[])).unwrap_err();
    assert_eq!((error.kind(), error.host()), (Kind::Check, Some("w1")));
    assert!(error.message().contains("[system.init]"), "{error:?}");
    let error = refuse(findings(&[no_init, no_memory], &[])).unwrap_err();
    assert_eq!(error.message(), "2 checks failed");
    let last = error.hints().last().unwrap();
    assert_eq!(last, "nothing has been changed on any host");
}

#[test]
fn what_is_ignored_does_not_refuse_and_is_told() {
    let no_init: Step = |world| world.facts("w1").systemd = false;
    let told = refuse(findings(&[no_init], &["system.init"])).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ignored);
}

#[test]
fn what_could_not_be_seen_refuses_too() {
    let blind: Step = |world| world.facts("m1").cpus = 0;
    let error = refuse(findings(&[blind], &[])).unwrap_err();
    assert!(
        error.message().contains("could not be looked at"),
        "{error:?}"
    );
    assert!(
        error.hints()[0].contains("--ignore resources.cpu"),
        "{error:?}"
    );
}

#[test]
fn the_disk_that_is_needed_is_counted_and_not_guessed() {
    let expected = |world: &mut World| {
        world.measured("w1").etcd = Known::Unknown("no etcd runs there".into());
        world
            .facts("w1")
            .disks
            .get_mut("/var/lib/chasi")
            .unwrap()
            .free = 0;
        let check = all().find(|check| check.id == "resources.disk").unwrap();
        let mut found = judge_one(&world.site(), check);
        match found.remove(1).1 {
            Outcome::Wrong { expected, .. } => expected,
            other => panic!("{other:?}"),
        }
    };
    // 100 MiB of programs and 100 MiB of a container image, each three times as large
    // unpacked: copied, programs unpacked, the container image once more and unpacked.
    let all_of_it = expected(&mut World::bare());
    assert!(all_of_it.starts_with("943.7 MB"), "{all_of_it}");
    let mut world = World::bare();
    let programs = world.image.as_ref().unwrap().rootfs[0].layers[0]
        .blob
        .clone();
    world.measured("w1").missing = Known::Is(vec![programs]);
    let without_images = expected(&mut world);
    assert!(without_images.starts_with("419.4 MB"), "{without_images}");
    world.measured("w1").missing = Known::Is(Vec::new());
    let check = all().find(|check| check.id == "resources.disk").unwrap();
    assert_eq!(judge_one(&world.site(), check)[1].1.state(), "passed");
}

#[test]
fn what_is_wrong_comes_first() {
    let swap: Step = |world| {
        let path = "/swap".into();
        world.facts("m1").swap = vec![crate::host::facts::Swap { path, size: 1 }];
    };
    let no_init: Step = |world| world.facts("w1").systemd = false;
    let found = findings(&[swap, no_init], &[]);
    assert_eq!(
        (found[0].check, found[1].check),
        ("system.init", "system.swap")
    );
    let counts = Counts::of(&found);
    assert_eq!((counts.errors, counts.warnings), (1, 1));
}
