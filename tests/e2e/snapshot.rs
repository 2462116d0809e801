//! What hosts and the API hold, to be compared with what they held before, or with
//! what other hosts hold. What a comparison leaves out is listed here, with the
//! reason, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chasi::digest::Digest;
use serde_json::Value;

use crate::lab::{Lab, until};
use crate::site::{CONTROL_PLANES, HOSTS, Site};

/// Paths, or beginnings of paths, that a run with nothing to do may change.
const PATHS: [(&str, &str); 2] = [
    (
        "/var/lib/chasi/lock",
        "names the run that holds the host, or held it last",
    ),
    (
        "/var/lib/chasi/cluster",
        "the cluster's lock and its fence; what else is there is compared by content",
    ),
];

/// Beginnings of the names of units that come and go.
const UNITS: [(&str, &str); 11] = [
    ("chasi-agent-", "the agent that looks, or looked"),
    ("session-", "a login over SSH"),
    ("user-", "root's slice, while somebody is logged in"),
    ("user@", "root's service manager, likewise"),
    ("run-", "mounts and scopes of pods' sandboxes"),
    (
        "systemd-hostnamed.",
        "ends by itself when nobody asks for the host's name",
    ),
    ("systemd-timedated.", "likewise"),
    ("systemd-tmpfiles-clean.", "runs 15 minutes after the boot"),
    ("apt-daily", "by the clock"),
    ("dpkg-db-backup.", "by the clock"),
    ("fstrim.", "by the clock"),
];

/// Kinds of API objects that change by themselves.
const KINDS: [(&str, &str); 2] = [
    (
        "Lease",
        "kubelets and controllers renew theirs every few seconds",
    ),
    ("Event", "told by controllers at any time"),
];

/// Everything that is compared before and after a run, by what it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// The files below chasi's directory, `/etc`, `/opt` and `/usr/local`, and the
    /// units, of all hosts.
    pub fn of_hosts(lab: &Lab) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for host in HOSTS {
            snapshot.add_files(lab, host);
            snapshot.add_units(lab, host);
        }
        snapshot
    }

    /// The status of an inode changes with everything that is done to a file, so it
    /// stands for the content too. Files in `cluster/` are few and have their sums.
    fn add_files(&mut self, lab: &Lab, host: &str) {
        let script = "cd /; find /var/lib/chasi /etc /opt /usr/local \
             -printf '%p\\t%y %m %U:%G %s %T@ %C@ %i %n %l\\n'; \
             for f in /var/lib/chasi/cluster/*; do case $f in */lock|*/fence) ;; \
             *) test -f \"$f\" && sha256sum \"$f\" | sed 's/^/content of /; s/  /\\t/' ;; esac; done; true";
        for line in lab.sh(host, script).lines() {
            let (path, state) = line.split_once('\t').unwrap();
            if !PATHS.iter().any(|(excluded, _)| path.starts_with(excluded)) {
                self.0.insert(format!("{host}: {path}"), state.to_owned());
            }
        }
    }

    /// A unit that was restarted has another invocation.
    fn add_units(&mut self, lab: &Lab, host: &str) {
        let properties = "Id,ActiveState,SubState,InvocationID,MainPID,NRestarts";
        let script = format!("systemctl show '*' --property={properties}");
        for unit in lab.sh(host, &script).split("\n\n") {
            let value = |key: &str| {
                let line = unit.lines().find(|line| line.starts_with(key));
                line.unwrap_or_default().to_owned()
            };
            let id = value("Id=").trim_start_matches("Id=").to_owned();
            if !UNITS.iter().any(|(excluded, _)| id.starts_with(excluded)) {
                self.0.insert(format!("{host}: {id}"), unit.to_owned());
            }
        }
    }

    /// All objects of the API.
    pub fn of_objects(site: &Site) -> Snapshot {
        let host = CONTROL_PLANES[0];
        let kinds = site.kubectl(host, "api-resources --verbs=list -o name");
        let kinds: Vec<&str> = kinds
            .lines()
            // Deprecated, and the same as asking the components.
            .filter(|kind| *kind != "componentstatuses")
            .collect();
        let list = site.kubectl(
            host,
            &format!("get {} -A -o json 2>/dev/null", kinds.join(",")),
        );
        let list: Value = serde_json::from_str(&list).unwrap();
        let mut snapshot = Snapshot::default();
        for object in list["items"].as_array().unwrap() {
            let kind = object["kind"].as_str().unwrap();
            if KINDS.iter().any(|(excluded, _)| *excluded == kind) {
                continue;
            }
            let mut object = object.clone();
            if kind == "Node" {
                // Kubelets report their node's condition, and the time of the report,
                // in its status.
                let node = object.as_object_mut().unwrap();
                node.remove("status");
                let metadata = node["metadata"].as_object_mut().unwrap();
                metadata.remove("resourceVersion");
                metadata.remove("managedFields");
            }
            let metadata = &object["metadata"];
            let (space, name) = (&metadata["namespace"], &metadata["name"]);
            let key = format!("{} {kind} {space} {name}", object["apiVersion"]);
            snapshot.0.insert(key, object.to_string());
        }
        snapshot
    }

    /// All objects, once the controllers have no more to do: what they write after
    /// an install is not the next run's doing.
    pub fn of_settled_objects(site: &Site) -> Snapshot {
        let mut last = Snapshot::of_objects(site);
        // Some only begin a moment after the others have ended.
        let mut same = 0;
        until("that the controllers rest", 300, || {
            let now = Snapshot::of_objects(site);
            let differences = last.differences(&now);
            last = now;
            same = match differences.is_empty() {
                true => same + 1,
                false => 0,
            };
            match same {
                0..3 => Err(differences.join("\n")),
                _ => Ok(()),
            }
        });
        last
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many hosts they are of.
    fn hosts(&self) -> usize {
        let hosts = self.0.keys().filter_map(|key| key.split_once(": "));
        hosts.map(|(host, _)| host).collect::<BTreeSet<_>>().len()
    }

    /// What is not the same, a line each.
    pub fn differences(&self, now: &Snapshot) -> Vec<String> {
        let gone = (self.0.iter()).filter(|(key, _)| !now.0.contains_key(*key));
        let new = (now.0.iter()).filter(|(key, _)| !self.0.contains_key(*key));
        let changed = (self.0.iter())
            .filter_map(|(key, old)| Some((key, old, now.0.get(key)?)))
            .filter(|(_, old, new)| old != new);
        gone.map(|(key, old)| format!("gone: {key}: {old}"))
            .chain(new.map(|(key, new)| format!("new: {key}: {new}")))
            .chain(changed.map(|(key, old, new)| format!("changed: {key}\n  {old}\n  {new}")))
            .collect()
    }

    /// Fails if the hosts do not become what they were: an agent may still be on its
    /// way out when its controller has ended.
    pub fn assert_again(&self, lab: &Lab) {
        until("that the hosts are what they were", 60, || {
            let differences = self.differences(&Snapshot::of_hosts(lab));
            match differences.is_empty() {
                true => Ok(()),
                false => Err(differences.join("\n")),
            }
        });
    }

    /// Fails if anything is not the same.
    pub fn assert_same(&self, now: &Snapshot) {
        let differences = self.differences(now);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

/// What chasi manages on hosts: the generations in use, and what they place on the
/// host. Keys, certificates and what Kubernetes keeps belong to no generation. Of
/// each file kind, mode, owner and content count; times and inodes are the day's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree(Snapshot);

impl Tree {
    /// Of all hosts. Looks at their disks, so they need not run.
    pub fn of(lab: &Lab) -> Tree {
        let mut tree = Snapshot::default();
        for host in HOSTS {
            tree.0.extend(tree_of(&lab.root(host), host));
        }
        Tree(tree)
    }

    /// Fails if they are not the same.
    pub fn assert_same(&self, other: &Tree) {
        let hosts = self.0.hosts();
        let enough = 250 * hosts;
        assert!(
            hosts > 0 && self.0.len() > enough,
            "there is too little to compare"
        );
        self.0.assert_same(&other.0);
    }
}

/// What chasi manages on one host: whole trees behind both switches, and every path
/// that a manifest names.
fn tree_of(root: &Path, host: &str) -> BTreeMap<String, String> {
    let state = root.join("var/lib/chasi");
    let mut found = BTreeMap::new();
    for part in ["node", "control-plane"] {
        let Ok(target) = fs::read_link(state.join(part)) else {
            continue;
        };
        let generation = state.join(target.parent().unwrap());
        let manifest = fs::read(generation.join("manifest.json")).unwrap();
        let digest = Digest::of(&manifest);
        found.insert(format!("{host}: {part}: manifest"), digest.to_string());
        let mut paths = vec![generation.join("tree")];
        while let Some(path) = paths.pop() {
            if path.symlink_metadata().unwrap().is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                paths.extend(entries.map(|entry| entry.unwrap().path()));
            }
            let name = path.strip_prefix(&generation).unwrap().display();
            found.insert(format!("{host}: {part}: {name}"), describe(&path));
        }
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for (path, _) in manifest["host"].as_object().unwrap() {
            let state = describe(&root.join(path));
            found.insert(format!("{host}: /{path}"), state);
        }
    }
    found
}

fn describe(path: &Path) -> String {
    let Ok(metadata) = path.symlink_metadata() else {
        return "nothing".into();
    };
    let owner = format!(
        "{:o} {}:{}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid()
    );
    if metadata.is_symlink() {
        format!("link to {}", fs::read_link(path).unwrap().display())
    } else if metadata.is_dir() {
        owner
    } else {
        format!("{owner} {}", Digest::of(fs::read(path).unwrap()))
    }
}
