//! Which units a switch concerns.

use std::collections::BTreeSet;
use std::fs;

use super::Changes;
use super::found::program_target;
use super::survey::Way;
use crate::host::Part;
use crate::host::generation::{self, Manifest, Placed, UNITS};
use crate::oci::layer::EntryPath;

/// Fills in the units of `changes`, from its generations, paths and programs.
pub(super) fn fill(way: &Way, changes: &mut Changes) {
    if way.part != Part::Node {
        return;
    }
    let units = |manifest: Option<&Manifest>| -> BTreeSet<String> {
        manifest
            .map(|manifest| manifest.units.iter().cloned().collect())
            .unwrap_or_default()
    };
    let (old, new) = (units(way.old), units(way.new));
    changes.started = new.difference(&old).cloned().collect();
    changes.stopped = old.difference(&new).cloned().collect();
    let Some((manifest, number)) = way.new.zip(changes.to) else {
        return;
    };
    let changed: Vec<String> = changes
        .paths
        .iter()
        .map(|change| change.path.clone())
        .chain(
            changes
                .programs
                .iter()
                .flat_map(|path| names_of_program(way, manifest, path)),
        )
        .collect();
    let is_affected = |unit: &&String| {
        let text = text(way, manifest, number, unit);
        changed
            .iter()
            .any(|path| is_own(path, unit) || is_named(&text, path))
    };
    changes.affected = old
        .intersection(&new)
        .filter(is_affected)
        .cloned()
        .collect();
}

/// A program's path on the host, and the one through the switch.
fn names_of_program(way: &Way, manifest: &Manifest, path: &str) -> Vec<String> {
    let mut names = vec![path.to_owned()];
    if let Some(Placed::Program { tree }) = manifest.host.get(path.trim_start_matches('/')) {
        names.push(program_target(way.root, tree.as_str()));
    }
    names
}

/// Whether a path is a unit's file, or one of its drop-ins.
fn is_own(path: &str, unit: &str) -> bool {
    path.strip_prefix(&format!("/{UNITS}/{unit}"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(".d/"))
}

/// Whether a text names a path, and not only a longer one.
fn is_named(text: &str, path: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "/-_.".contains(c);
    text.match_indices(path)
        .any(|(at, found)| !text[at + found.len()..].starts_with(goes_on))
}

/// The text of a unit and its drop-ins; of one that cannot be read, nothing.
fn text(way: &Way, manifest: &Manifest, number: u64, unit: &str) -> String {
    let tree = generation::tree(way.root, number);
    let of_unit = |path: &&EntryPath| is_own(&format!("/{path}"), unit);
    manifest
        .host
        .iter()
        .filter(|(_, placed)| matches!(placed, Placed::File(_)))
        .map(|(path, _)| path)
        .filter(of_unit)
        .filter_map(|path| fs::read_to_string(tree.join(path)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_when_nothing_longer_is() {
        let text = "ExecStart=/usr/local/bin/a --config=/etc/a.yaml\nEnvironmentFile=-/etc/b\n";
        for path in ["/usr/local/bin/a", "/etc/a.yaml", "/etc/b"] {
            assert!(is_named(text, path), "{path}");
        }
        for path in ["/usr/local/bin", "/etc/a", "/etc/c"] {
            assert!(!is_named(text, path), "{path}");
        }
    }

    #[test]
    fn drop_ins_belong_to_their_unit() {
        assert!(is_own("/etc/systemd/system/a.service", "a.service"));
        assert!(is_own(
            "/etc/systemd/system/a.service.d/x.conf",
            "a.service"
        ));
        assert!(!is_own("/etc/systemd/system/a.service2", "a.service"));
    }
}
