//! What was staged or received is damaged where it lies: it does not come into use,
//! and running again makes it anew.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chasi::error::Kind;
use chasi::host::{Part, generation};

use crate::for_all;
use crate::support::{Host, Picture, directory};
use crate::work::{Material, Scenario, Work, check_sound, copy, stage};

/// What can happen to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped,
    Shorter,
    Empty,
    Zeros,
    Mode,
    Missing,
}

const ALL: [Damage; 6] = [
    Damage::Flipped,
    Damage::Shorter,
    Damage::Empty,
    Damage::Zeros,
    Damage::Mode,
    Damage::Missing,
];

impl Damage {
    fn happen(self, path: &Path) {
        let mut content = fs::read(path).unwrap();
        match self {
            Damage::Flipped => content[0] ^= 1,
            Damage::Shorter => drop(content.pop()),
            Damage::Empty => content.clear(),
            Damage::Zeros => content.fill(0),
            Damage::Mode => {
                return fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            }
            Damage::Missing => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, content).unwrap();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            files.extend(files_below(&path));
        } else if kind.is_file() {
            files.push(path);
        }
    }
    files
}

/// What programs see on the host: which generation it is does not matter.
fn visible(host: &Host) -> Picture {
    let mut live = host.live();
    live.0.remove("var/lib/chasi");
    for part in Part::ALL {
        live.0.remove(&format!("var/lib/chasi/{}", part.name()));
    }
    live
}

#[test]
fn what_was_damaged_after_it_was_staged_is_never_switched_to() {
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let scenario = scenarios.iter().find(|it| it.work == Work::Second).unwrap();
    let right = copy(&scenario.start, &directory.path().join("right"));
    Work::Second.run(&right, &material, &mut |_| {}).unwrap();
    let staged = copy(&scenario.start, &directory.path().join("staged"));
    let number = stage(&staged, &material.second, &mut |_| {}).unwrap();
    let tree = generation::tree(&staged.root, number);
    let manifest = generation::load(&staged.root, number).unwrap();
    let mut cases = Vec::new();
    for path in files_below(&tree) {
        let path = path.strip_prefix(&staged.files).unwrap().to_owned();
        cases.extend(ALL.map(|damage| (path.clone(), damage)));
    }
    assert!(cases.len() > 50, "{}", manifest.tree.len());
    let before = visible(&staged);
    let run = |(path, damage): &(PathBuf, Damage), place: &Path| {
        let what = format!("{} {damage:?}", path.display());
        let host = copy(&staged, place);
        damage.happen(&host.files.join(path));
        let switched = Part::ALL.map(|part| host.switch(part, Some(number)));
        let refused: Vec<_> = switched
            .iter()
            .filter_map(|result| result.as_ref().err())
            .collect();
        for error in &refused {
            assert_eq!(error.kind(), Kind::Integrity, "{what}: {error:?}");
        }
        if !refused.is_empty() {
            before.assert_same(&visible(&host), &what);
        }
        Work::Second.run(&host, &material, &mut |_| {}).unwrap();
        let after = visible(&host);
        visible(&right).assert_same(&after, &what);
        for part in Part::ALL {
            let current = generation::current(&host.root, part).unwrap();
            assert_eq!(
                current.is_some_and(|now| now == number),
                refused.is_empty(),
                "{what}"
            );
        }
        // What did not change with the switch is in use already, damaged or not.
        if !refused.is_empty() {
            check_sound(&host, &what);
        }
    };
    for_all("damaged files", &cases, directory.path(), run);
}

#[test]
fn a_damaged_layer_is_refused_and_changes_nothing() {
    let directory = directory();
    let material = Material::make(directory.path());
    let scenarios = Scenario::all(directory.path(), &material);
    let scenario = scenarios.iter().find(|it| it.work == Work::First).unwrap();
    let mut cases = Vec::new();
    for path in files_below(&scenario.start.root.state("store/blobs/sha256")) {
        let path = path.strip_prefix(&scenario.start.files).unwrap().to_owned();
        for damage in [
            Damage::Flipped,
            Damage::Shorter,
            Damage::Zeros,
            Damage::Missing,
        ] {
            cases.push((path.clone(), damage));
        }
    }
    let run = |(path, damage): &(PathBuf, Damage), place: &Path| {
        let what = format!("{} {damage:?}", path.display());
        let host = copy(&scenario.start, place);
        damage.happen(&host.files.join(path));
        let before = visible(&host);
        match scenario.work.run(&host, &material, &mut |_| {}) {
            // This layer is another image's.
            Ok(()) => {}
            Err(error) => {
                let expected = matches!(error.kind(), Kind::Integrity | Kind::NotFound);
                assert!(expected, "{what}: {error:?}");
                before.assert_same(&visible(&host), &what);
                assert_eq!(generation::numbers(&host.root).unwrap(), [0; 0], "{what}");
            }
        }
    };
    for_all("damaged layers", &cases, directory.path(), run);
}
