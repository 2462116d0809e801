//! A disk that is full, and one that fails: whatever a system call answers, the
//! host stays whole, and with a good disk again it becomes what it would have been.

use std::path::Path;

use crate::effect::{Effect, Verdict, watched};
use crate::support::directory;
use crate::work::{Material, Scenario, Work, copy};
use crate::{asked_for, for_all};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    /// One call fails.
    Fails,
    /// From one call on nothing can be added. What is there can still be removed.
    IsFull,
}

impl Disk {
    fn verdict(self, effect: Effect, now: usize, at: usize) -> Verdict {
        match self {
            Disk::Fails if now == at => Verdict::Fail(libc::EIO),
            Disk::IsFull if now >= at && effect.allocates => Verdict::Fail(libc::ENOSPC),
            _ => Verdict::Happen,
        }
    }
}

#[test]
fn whatever_the_disk_answers_the_host_stays_whole() {
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let every = if asked_for().is_some() { 1 } else { 16 };
    let mut cases = Vec::new();
    for scenario in &scenarios {
        for at in (0..scenario.effects.len()).step_by(every) {
            cases.push((scenario, at, Disk::Fails));
            cases.push((scenario, at, Disk::IsFull));
        }
    }
    let run = |(scenario, at, disk): &(&Scenario, usize, Disk), place: &Path| {
        let effect = scenario.effects[*at].name;
        let what = format!("{}, the disk {disk:?} at {at} ({effect})", scenario.name);
        let host = copy(&scenario.start, place);
        let mut now = 0;
        let result = watched(
            || scenario.work.run(&host, &material, &mut |_| {}),
            |effect| {
                now += 1;
                disk.verdict(effect, now - 1, *at)
            },
        );
        // A switch that fails settles itself, if nothing else fails.
        let is_switch = matches!(scenario.work, Work::First | Work::Second);
        if let (Err(error), Disk::Fails, true) = (&result, disk, is_switch) {
            scenario.check_whole(&host, 0, &format!("{what}: {error:?}"));
        }
        // What could not be removed stays until the next staging or pruning.
        let may_be_left = |path: &str| {
            *disk == Disk::Fails && effect.starts_with("unlink") && path.contains("/incoming/")
        };
        scenario.check_but(&host, &material, &what, may_be_left);
    };
    for_all("disk errors", &cases, directory.path(), run);
}
