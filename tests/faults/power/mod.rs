//! Power cuts. A process that is killed loses nothing that it wrote; a machine
//! does. Here a piece of work runs on a file system of its own ([`fuse`]), which
//! writes down every change and every sync. From that, what a power cut at any
//! moment leaves is computed ([`cut`] is the model), and a host begins from it: it
//! must have all that was promised, be whole, and become what it would have been.
//!
//! Syncs can be left out afterwards as well: for each kind of sync there is a cut
//! that shows what it is for, or a reason why there is none.

mod cut;
mod fuse;
mod image;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, Once};

use crate::effect::{Verdict, watched};
use crate::support::{Host, directory};
use crate::work::{Material, Reached, Scenario, Work};
use crate::{Dice, asked_for, for_all, seed};
use cut::{Cut, Event, Luck, Model, Synced};
use fuse::Recorder;
use image::Image;

/// What happened while a piece of work was done, from its beginning.
struct Recording<'a> {
    scenario: &'a Scenario,
    start: Image,
    events: Vec<Event>,
}

impl<'a> Recording<'a> {
    fn all(scenarios: &'a [Scenario], material: &Material, directory: &Path) -> Vec<Recording<'a>> {
        scenarios
            .iter()
            .map(|scenario| {
                let start = Image::load(&scenario.start.files);
                let events = record(&start, scenario.work, material, directory);
                Recording {
                    scenario,
                    start,
                    events,
                }
            })
            .collect()
    }

    fn promised(&self, at: usize) -> Vec<Reached> {
        promises(&self.events[..at])
    }
}

fn promises(events: &[Event]) -> Vec<Reached> {
    let reached = |event: &Event| match event {
        Event::Reached(reached) => Some(reached.clone()),
        _ => None,
    };
    events.iter().filter_map(reached).collect()
}

/// Does a piece of work on a file system that begins as `start`.
fn record(start: &Image, work: Work, material: &Material, top: &Path) -> Vec<Event> {
    let mounted = top.join("mounted");
    std::fs::create_dir_all(&mounted).unwrap();
    let mounted = std::fs::canonicalize(mounted).unwrap();
    let recorder = Recorder::new(start.clone());
    let session = fuser::spawn_mount(recorder.clone(), &mounted, &fuser::Config::default());
    let session = session.unwrap();
    let host = Host::at(&mounted);
    let mut reached = |reached| recorder.lock().events.push(Event::Reached(reached));
    let result = watched(
        || work.run(&host, material, &mut reached),
        |effect| {
            if effect.name == "syncfs" {
                let path = format!("/proc/self/fd/{}", effect.argument);
                let path = std::fs::read_link(path).unwrap();
                let path = path.strip_prefix(&mounted).unwrap();
                let path = format!("/{}", path.display());
                recorder.lock().sync(Synced::All, path);
            }
            Verdict::Happen
        },
    );
    // A process that another thread has just begun has our files open for a moment.
    while rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::empty()).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // Not waited for: a container that began meanwhile may have our mount as well.
    drop(session);
    std::fs::remove_dir(mounted).unwrap();
    result.unwrap();
    std::mem::take(&mut recorder.lock().events)
}

/// Mounting needs `/dev/fuse` and root.
fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::getuid().is_root();
    if !can {
        println!("left out: power cuts need /dev/fuse and root");
    }
    can
}

/// What is there after a cut must have all that was promised, and become what it
/// would have been.
fn check(
    scenario: &Scenario,
    material: &Material,
    left: &Image,
    promised: &[Reached],
    place: &Path,
    what: &str,
) {
    left.save(place);
    let host = Host::at(place);
    scenario.check_settled(&host, promised, what);
    scenario.check(&host, material, what);
}

#[test]
fn without_power_at_any_moment_the_host_converges() {
    if !can_mount() {
        return;
    }
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let recordings = Recording::all(&scenarios, &material, directory.path());
    let seed = seed();
    println!("CHASI_SEED={seed}");
    let seeds: Vec<_> = (0..asked_for().unwrap_or(200) as u64)
        .map(|number| seed + number)
        .collect();
    for_all("power cuts", &seeds, directory.path(), |seed, place| {
        cut_at_random(*seed, &recordings, &material, place);
    });
}

/// One cut, and often another one while the host settles and goes on.
fn cut_at_random(seed: u64, recordings: &[Recording], material: &Material, place: &Path) {
    let mut dice = Dice::new(seed);
    let recording = &recordings[dice.below(recordings.len())];
    let scenario = recording.scenario;
    let none = HashSet::new();
    let first = random_cut(recording.events.len(), &mut dice);
    let mut what = format!("{} (CHASI_SEED={seed}), {first:?}", scenario.name);
    let mut left = cut::cut(&recording.start, &recording.events, &none, first, &mut dice);
    let mut promised = recording.promised(first.at);
    while dice.below(3) == 0 {
        std::fs::create_dir_all(place).unwrap();
        let events = record(&left, scenario.work, material, place);
        let again = random_cut(events.len(), &mut dice);
        what += &format!(", {again:?}");
        left = cut::cut(&left, &events, &none, again, &mut dice);
        promised.extend(promises(&events[..again.at]));
    }
    check(scenario, material, &left, &promised, place, &what);
}

fn random_cut(events: usize, dice: &mut Dice) -> Cut {
    Cut {
        at: dice.below(events + 1),
        model: [Model::Journal, Model::Posix][dice.below(2)],
        luck: [Luck::Bad, Luck::Names, Luck::Mixed][dice.below(3)],
    }
}

/// A kind of sync: what is synced, and where.
fn class(synced: Synced, path: &str) -> String {
    let kind = match synced {
        Synced::File(_) => "file",
        Synced::Directory(_) => "directory",
        Synced::All => "all",
    };
    let Some(state) = path.strip_prefix("/var/lib/chasi") else {
        return format!("{kind} of the host");
    };
    let is_random = |name: &str| {
        name.starts_with(".chasi-")
            || name.starts_with(".tmp")
            || (name.len() > 20 && name.chars().all(|c| c.is_ascii_hexdigit()))
            || name.len() == 2
    };
    let mut names: Vec<_> = state
        .split('/')
        .map(|name| if is_random(name) { "*" } else { name })
        .collect();
    if names.get(1) == Some(&"originals") {
        names.truncate(2);
    }
    format!("{kind} {}", names.join("/"))
}

thread_local! {
    /// Whether this thread's panics are what is looked for.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the check fails.
fn diverges(check: impl FnOnce()) -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                usual(panic);
            }
        }));
    });
    EXPECTED.set(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    EXPECTED.set(false);
    result.is_err()
}

/// A kind of sync, in each recording: the numbers of the events.
type Class = (String, Vec<(usize, HashSet<usize>)>);

fn classes(recordings: &[Recording]) -> Vec<Class> {
    let mut classes: BTreeMap<String, BTreeMap<usize, HashSet<usize>>> = BTreeMap::new();
    for (number, recording) in recordings.iter().enumerate() {
        for (at, event) in recording.events.iter().enumerate() {
            if let Event::Sync(synced, path) = event {
                let class = classes.entry(class(*synced, path)).or_default();
                class.entry(number).or_default().insert(at);
            }
        }
    }
    let flat = |(name, events): (String, BTreeMap<_, _>)| (name, events.into_iter().collect());
    classes.into_iter().map(flat).collect()
}

/// Cuts that would show that these syncs are missing: soon after each.
fn revealing(events: usize, ignored: &HashSet<usize>, most: usize) -> Vec<(Cut, u64)> {
    let mut dice = Dice::new(1);
    let mut after: Vec<_> = ignored.iter().copied().collect();
    after.sort_unstable();
    let mut cuts = Vec::new();
    for luck in [Luck::Bad, Luck::Names] {
        for seed in 0..2 {
            for distance in [1, 2, 3, 5, 8, 20, 60] {
                for at in after.iter().map(|at| at + distance) {
                    let cut = Cut {
                        at: at.min(events),
                        model: Model::Posix,
                        luck,
                    };
                    cuts.push((cut, seed));
                }
            }
        }
    }
    while cuts.len() > most {
        cuts.swap_remove(dice.below(cuts.len()));
    }
    cuts
}

#[test]
fn no_sync_can_be_left_out() {
    if !can_mount() {
        return;
    }
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let recordings = Recording::all(&scenarios, &material, directory.path());
    let classes = classes(&recordings);
    let superfluous = Mutex::new(Vec::new());
    let run = |(name, events): &Class, place: &Path| {
        let is_needed = |(number, ignored): &(usize, HashSet<usize>)| {
            recordings[*number].needs(ignored, &material, place)
        };
        if !events.iter().any(is_needed) {
            superfluous.lock().unwrap().push(name.clone());
        }
    };
    for_all("kinds of syncs left out", &classes, directory.path(), run);
    let superfluous = superfluous.into_inner().unwrap();
    assert!(
        superfluous.is_empty(),
        "no power cut shows what these are for: {superfluous:?}"
    );
}

impl Recording<'_> {
    /// Whether there is a cut after which it shows that these syncs did nothing.
    fn needs(&self, ignored: &HashSet<usize>, material: &Material, place: &Path) -> bool {
        let most = asked_for().map_or(40, |_| 400);
        let mut cuts = revealing(self.events.len(), ignored, most).into_iter();
        cuts.any(|(cut, seed)| {
            let mut dice = Dice::new(seed);
            let left = cut::cut(&self.start, &self.events, ignored, cut, &mut dice);
            let promised = self.promised(cut.at);
            let found =
                diverges(|| check(self.scenario, material, &left, &promised, place, "left out"));
            let _ = std::fs::remove_dir_all(place);
            found
        })
    }
}
