//! A host is killed before each system call by which a piece of work changes its
//! files, and again while it settles and works on: what it becomes in the end is
//! what it would have been.
//!
//! The killing is a real one: a child, which is this test binary, kills itself.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use crate::effect::{Verdict, watched};
use crate::support::{Host, directory};
use crate::work::{Material, Scenario, Work, copy};
use crate::{Dice, asked_for, for_all, seed};

const ORDER: &str = "CHASI_FAULTS_CHILD";

/// The child: does its work until it is killed. Nothing in an ordinary run.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let (work, at, directory, files): (Work, usize, String, String) =
        serde_json::from_str(&order).unwrap();
    let material = Material::load(Path::new(&directory));
    let host = Host::at(Path::new(&files));
    let mut passed = 0;
    let end = |_| {
        if passed == at {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            std::thread::park();
        }
        passed += 1;
        Verdict::Happen
    };
    watched(|| work.run(&host, &material, &mut |_| {}), end).unwrap();
}

/// Does the work and kills it before the effect with this number; if there is none,
/// it comes to its end.
fn killed_at(host: &Host, directory: &Path, work: Work, at: usize) {
    let order = (work, at, directory, &host.files);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(ORDER, serde_json::to_string(&order).unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.signal() == Some(9) || output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A kill, and those that follow it while the host settles and goes on.
struct Story<'a> {
    scenario: &'a Scenario,
    kills: Vec<(Work, usize)>,
    seed: Option<u64>,
}

fn tell(story: &Story, directory: &Path, material: &Material, place: &Path) {
    let mut what = story.scenario.name.clone();
    if let Some(seed) = story.seed {
        what += &format!(" (CHASI_SEED={seed})");
    }
    let host = copy(&story.scenario.start, place);
    for (work, at) in &story.kills {
        what += &format!(", {work:?} killed at {at}");
        killed_at(&host, directory, *work, *at);
    }
    story.scenario.check(&host, material, &what);
}

/// Before and after each record of the journal, and at every so many effects.
fn systematic(scenario: &Scenario, every: usize) -> impl Iterator<Item = usize> {
    let is_record = |at: usize| {
        let around = at.saturating_sub(1)..=at + 1;
        around
            .filter_map(|at| scenario.effects.get(at))
            .any(|effect| effect.name == "fdatasync")
    };
    // The last is that it is not killed at all.
    (0..=scenario.effects.len()).filter(move |at| at % every == 0 || is_record(*at))
}

#[test]
fn killed_at_every_effect_the_host_converges() {
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let every = if asked_for().is_some() { 1 } else { 16 };
    let stories: Vec<_> = scenarios
        .iter()
        .flat_map(|scenario| {
            systematic(scenario, every).map(move |at| Story {
                scenario,
                kills: vec![(scenario.work, at)],
                seed: None,
            })
        })
        .collect();
    let run = |story: &Story, place: &Path| tell(story, directory.path(), &material, place);
    for_all("kills, systematic", &stories, directory.path(), run);
}

#[test]
fn killed_again_while_it_settles_and_goes_on_the_host_converges() {
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let seed = seed();
    println!("CHASI_SEED={seed}");
    let stories: Vec<_> = (0..asked_for().unwrap_or(80) as u64)
        .map(|number| random(&scenarios, seed + number))
        .collect();
    let run = |story: &Story, place: &Path| tell(story, directory.path(), &material, place);
    for_all("kills, random", &stories, directory.path(), run);
}

fn random(scenarios: &[Scenario], seed: u64) -> Story<'_> {
    let mut dice = Dice::new(seed);
    let scenario = &scenarios[dice.below(scenarios.len())];
    let mut kills = vec![(scenario.work, dice.below(scenario.effects.len()))];
    while dice.below(3) > 0 {
        kills.push(match dice.below(2) {
            0 => (Work::Settle, dice.below(40)),
            _ => (scenario.work, dice.below(scenario.effects.len())),
        });
    }
    Story {
        scenario,
        kills,
        seed: Some(seed),
    }
}
