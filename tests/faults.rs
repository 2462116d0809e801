//! A host is ended at every effect on its file system in turn, and after each of
//! them settled and changed again: it must become what it would have been without
//! the interruption, and never be anything but one whole generation.
//!
//! The ending is a real one: a child, which is this test binary, kills itself. How
//! many endings are tried, and whether the settling is ended as well, the
//! variable `CHASI_FAULTS` says: a number of random ones beyond the systematic
//! ones.

#[path = "support/host.rs"]
mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chasi::error::Result;
use chasi::host::{Gate, Part, Root, switch};
use support::{Host, Picture, directory, first, prepare, second};

/// Counts effects, and at one of them does something.
struct Trap {
    passed: AtomicU64,
    at: u64,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Kill,
    /// This effect fails, and the next ones do not.
    FailOnce,
    /// This effect fails, and all after it: a full disk.
    FailOnwards,
}

impl Trap {
    fn new(at: u64, then: Then) -> Arc<Trap> {
        Arc::new(Trap {
            passed: AtomicU64::new(0),
            at,
            then,
        })
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Gate for Trap {
    fn pass(&self, _: &'static str, _: &Path) -> io::Result<()> {
        let now = self.passed.fetch_add(1, Ordering::SeqCst);
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        match self.then {
            Then::Kill if now == self.at => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                unreachable!("killed")
            }
            Then::FailOnce if now == self.at => full(),
            Then::FailOnwards if now >= self.at => full(),
            _ => Ok(()),
        }
    }
}

/// What is done to a host. Both switches, as a run does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    First,
    Second,
    Leave,
    Settle,
}

const WORKS: [(&str, Work); 4] = [
    ("first", Work::First),
    ("second", Work::Second),
    ("leave", Work::Leave),
    ("settle", Work::Settle),
];

impl Work {
    fn run(self, host: &Host) -> Result<()> {
        switch::recover(&host.root)?;
        let plain = Host {
            root: Root::at(&host.files).unwrap(),
            files: host.files.clone(),
        };
        let to = match self {
            Work::First => Some(host.stage(&first(&plain))?.number),
            Work::Second => Some(host.stage(&second(&plain))?.number),
            Work::Leave => None,
            Work::Settle => return Ok(()),
        };
        for part in Part::ALL {
            host.switch(part, to)?;
        }
        Ok(())
    }

    fn name(self) -> &'static str {
        WORKS.iter().find(|(_, work)| *work == self).unwrap().0
    }
}

/// The child: does its work until it is killed. Nothing in an ordinary run.
#[test]
fn child() {
    let Ok(order) = std::env::var("CHASI_FAULTS_CHILD") else {
        return;
    };
    let [work, at, files] = order.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let work = WORKS.iter().find(|(name, _)| *name == work).unwrap().1;
    let host = Host::at(Path::new(files)).gated(Trap::new(at.parse().unwrap(), Then::Kill));
    work.run(&host).unwrap();
}

/// Whether it was killed; otherwise it came to its end.
fn killed_at(files: &Path, work: Work, at: u64) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(
            "CHASI_FAULTS_CHILD",
            format!("{} {at} {}", work.name(), files.display()),
        )
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(
        killed || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    killed
}

/// A host to begin with, and what it becomes when nothing interrupts.
struct Scenario {
    work: Work,
    start: Host,
    end: Picture,
    /// What the host may be in between: one whole generation in each part.
    whole: Vec<Picture>,
    effects: u64,
}

impl Scenario {
    /// `history` leads to where it begins.
    fn new(directory: &Path, history: &[Work], work: Work) -> Scenario {
        let name = format!("{history:?}-{work:?}");
        let start = Host::at(&directory.join(&name));
        prepare(&start);
        // Layers are made before, so that they do not count.
        first(&start);
        second(&start);
        for work in history {
            work.run(&start).unwrap();
        }
        let undisturbed = copy(&start, &directory.join(format!("{name}-end")));
        let mut whole = vec![undisturbed.live()];
        let trap = Trap::new(u64::MAX, Then::Kill);
        let counted = Host::at(&undisturbed.files).gated(trap.clone());
        let to = match work {
            Work::First => Some(counted.stage(&first(&undisturbed)).unwrap().number),
            Work::Second => Some(counted.stage(&second(&undisturbed)).unwrap().number),
            _ => None,
        };
        for part in Part::ALL {
            counted.switch(part, to).unwrap();
            whole.push(undisturbed.live());
        }
        Scenario {
            work,
            start,
            end: undisturbed.picture(),
            whole,
            effects: trap.passed(),
        }
    }

    fn all(directory: &Path) -> Vec<Scenario> {
        vec![
            Scenario::new(directory, &[], Work::First),
            Scenario::new(directory, &[Work::First], Work::Second),
            Scenario::new(directory, &[Work::First, Work::Second], Work::First),
            Scenario::new(directory, &[Work::First], Work::Leave),
        ]
    }

    fn check_settled(&self, host: &Host, what: &str) {
        switch::recover(&host.root).unwrap();
        self.check_whole(&host.live(), what);
    }

    fn check_whole(&self, live: &Picture, what: &str) {
        if self.whole.contains(live) {
            return;
        }
        let nearest = self
            .whole
            .iter()
            .map(|whole| whole.difference(live))
            .min_by_key(Vec::len)
            .unwrap();
        panic!(
            "{what}: the host is not one whole generation:\n{}",
            nearest.join("\n")
        );
    }

    fn check_end(&self, host: &Host, what: &str) {
        self.work.run(host).unwrap();
        self.end.assert_same(&host.picture(), what);
    }
}

fn copy(host: &Host, to: &Path) -> Host {
    let status = Command::new("cp")
        .arg("-a")
        .arg(&host.files)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
    Host::at(to)
}

#[test]
fn killed_at_every_effect_the_host_converges() {
    let directory = directory();
    for scenario in Scenario::all(directory.path()) {
        for at in 0.. {
            let what = format!("{:?}, killed at {at}", scenario.work);
            let host = copy(&scenario.start, &directory.path().join("now"));
            let killed = killed_at(&host.files, scenario.work, at);
            scenario.check_settled(&host, &what);
            scenario.check_end(&host, &what);
            std::fs::remove_dir_all(&host.files).unwrap();
            // Layers are unpacked side by side, so the number of effects may differ a little.
            if !killed {
                assert!(at + 5 > scenario.effects, "{what}: it was not");
                break;
            }
        }
    }
}

/// A small generator, so that a failure can be run again: the seed is in its
/// message.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn killed_again_while_it_settles_the_host_converges() {
    let directory = directory();
    let scenarios = Scenario::all(directory.path());
    let count: u64 = std::env::var("CHASI_FAULTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(100);
    for seed in 1..=count {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let scenario = &scenarios[usize::try_from(dice.below(scenarios.len() as u64)).unwrap()];
        let host = copy(&scenario.start, &directory.path().join("now"));
        let mut what = format!("seed {seed}, {:?}", scenario.work);
        let at = dice.below(scenario.effects);
        what += &format!(", killed at {at}");
        killed_at(&host.files, scenario.work, at);
        while dice.below(3) > 0 {
            let (work, at) = match dice.below(2) {
                0 => (Work::Settle, dice.below(40)),
                _ => (scenario.work, dice.below(scenario.effects)),
            };
            what += &format!(", {work:?} killed at {at}");
            killed_at(&host.files, work, at);
        }
        scenario.check_settled(&host, &what);
        scenario.check_end(&host, &what);
        std::fs::remove_dir_all(&host.files).unwrap();
    }
}

#[test]
fn an_error_at_any_effect_leaves_one_whole_generation() {
    let directory = directory();
    for scenario in Scenario::all(directory.path()) {
        for at in 0..scenario.effects {
            for then in [Then::FailOnce, Then::FailOnwards] {
                let what = format!("{:?}, failed at {at}", scenario.work);
                let host = copy(&scenario.start, &directory.path().join("now"));
                let trap = Trap::new(at, then);
                let trapped = Host::at(&host.files).gated(trap.clone());
                let result = scenario.work.run(&trapped);
                // Without another error the switch settles itself.
                if matches!(then, Then::FailOnce) {
                    let live = host.live();
                    if let Err(error) = &result {
                        scenario.check_whole(&live, &format!("{what}: {error:?}"));
                    }
                }
                scenario.check_settled(&host, &what);
                scenario.check_end(&host, &what);
                std::fs::remove_dir_all(&host.files).unwrap();
            }
        }
    }
}

#[test]
fn both_ways_to_fail_are_told_apart_in_the_journal() {
    let directory = directory();
    let scenario = Scenario::new(directory.path(), &[Work::First], Work::Second);
    let mut outcomes = BTreeMap::new();
    for at in 0..scenario.effects {
        let host = copy(&scenario.start, &directory.path().join("now"));
        killed_at(&host.files, scenario.work, at);
        for settled in switch::recover(&host.root).unwrap() {
            *outcomes
                .entry(format!("{:?}", settled.outcome))
                .or_insert(0) += 1;
        }
        std::fs::remove_dir_all(&host.files).unwrap();
    }
    assert!(
        outcomes["Undone"] > 10 && outcomes["Completed"] > 10,
        "{outcomes:?}"
    );
}
