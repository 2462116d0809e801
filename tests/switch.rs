//! What staging and switching do to a host, seen from outside.

#[path = "support/host.rs"]
mod support;

use chasi::error::Kind;
use chasi::host::generation;
use chasi::host::recipe::Block;
use chasi::host::switch::{self, Change, What};
use chasi::host::{Part, Recipe};
use proptest::prelude::*;
use support::{Entry, Host, directory, file, first, link, path, prepare, program, second};

fn host() -> (tempfile::TempDir, Host) {
    let directory = directory();
    let host = Host::at(&directory.path().join("host"));
    prepare(&host);
    (directory, host)
}

#[test]
fn a_generation_comes_to_life_and_leaves_without_a_trace() {
    let (_directory, host) = host();
    let before = host.live();
    let recipe = first(&host);
    let number = host.become_(&recipe);
    assert_eq!(
        host.read("etc/containerd/config.toml"),
        "name = \"a\"\nversion = 1\n"
    );
    assert_eq!(
        host.read("etc/hosts"),
        "127.0.0.1 localhost\n# BEGIN chasi (the line above had no end)\n127.0.0.1 api.one\n# END chasi\n"
    );
    let target = |path: &str| {
        std::fs::read_link(host.files.join(path))
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        target("usr/local/bin/runc"),
        "/var/lib/chasi/node/usr/bin/runc"
    );
    assert_eq!(
        target("opt/cni/bin/bridge"),
        "/var/lib/chasi/node/opt/cni/bin/bridge"
    );
    assert_eq!(
        target("etc/systemd/system/multi-user.target.wants/containerd.service"),
        "/etc/systemd/system/containerd.service"
    );
    assert_eq!(host.read("var/lib/chasi/node/usr/local/bin/ctr"), "ctr 1");
    for part in Part::ALL {
        assert!(
            switch::diff(&host.root, part, Some(number))
                .unwrap()
                .is_empty()
        );
        host.switch(part, None).unwrap();
    }
    before.assert_same(&host.live(), "the host before and after");
}

#[test]
fn there_and_back_is_byte_identical() {
    let (_directory, host) = host();
    let (one, two) = (first(&host), second(&host));
    host.become_(&one);
    let at_one = host.live();
    let number = host.become_(&two);
    assert_eq!(number, 2);
    assert_eq!(host.read("etc/second.conf"), "2\n");
    assert_eq!(
        host.read("var/lib/chasi/originals/etc/second.conf"),
        "mine\n"
    );
    assert!(!host.files.join("etc/deep").exists());
    host.become_(&one);
    at_one.assert_same(
        &host.live(),
        "the first generation, before and after the second",
    );
    assert_eq!(host.read("etc/second.conf"), "mine\n");
}

#[test]
fn staging_again_finds_what_is_there() {
    let (_directory, host) = host();
    let recipe = first(&host);
    let staged = host.stage(&recipe).unwrap();
    let picture = host.picture();
    let again = host.stage(&recipe).unwrap();
    assert_eq!(
        (staged.number, staged.reused, again.number, again.reused),
        (1, false, 1, true)
    );
    picture.assert_same(&host.picture(), "staged once and twice");
}

#[test]
fn what_a_user_changed_is_kept_and_told() {
    let (_directory, host) = host();
    let (one, two) = (first(&host), second(&host));
    let number = host.become_(&one);
    host.write("etc/containerd/config.toml", "changed by hand\n");
    host.write("etc/removed.conf", "changed by hand\n");
    std::fs::remove_file(host.files.join("usr/local/bin/ctr")).unwrap();
    host.write("usr/local/bin/ctr", "my ctr\n");
    let drift = switch::diff(&host.root, Part::Node, Some(number)).unwrap();
    assert!(drift.is_empty());
    assert_eq!(
        drift.kept,
        [
            "/etc/containerd/config.toml",
            "/etc/removed.conf",
            "/usr/local/bin/ctr"
        ]
    );
    host.become_(&two);
    assert_eq!(host.read("etc/containerd/config.toml"), "changed by hand\n");
    assert_eq!(host.read("etc/removed.conf"), "changed by hand\n");
    assert_eq!(host.read("usr/local/bin/ctr"), "my ctr\n");
}

#[test]
fn what_is_missing_or_has_another_mode_is_made_right() {
    let (_directory, host) = host();
    let number = host.become_(&first(&host));
    let right = host.live();
    std::fs::remove_file(host.files.join("etc/crictl.yaml")).unwrap();
    std::fs::remove_file(host.files.join("usr/local/bin/ctr")).unwrap();
    host.mode("etc/kubernetes/kubelet.env", 0o666);
    host.write("etc/hosts", "127.0.0.1 localhost");
    let changes = host.switch(Part::Node, Some(number)).unwrap();
    let change = |path: &str, what| Change {
        path: path.into(),
        what,
    };
    assert_eq!(
        changes.paths,
        [
            change("/etc/crictl.yaml", What::Add),
            change("/etc/hosts", What::Change),
            change("/etc/kubernetes/kubelet.env", What::Change),
            change("/usr/local/bin/ctr", What::Add),
        ]
    );
    right.assert_same(&host.live(), "the generation before and after");
}

#[test]
fn an_obstacle_is_told_and_nothing_is_changed() {
    let (_directory, host) = host();
    let number = host.stage(&first(&host)).unwrap().number;
    std::fs::remove_file(host.files.join("etc/crictl.yaml")).unwrap();
    host.write("etc/crictl.yaml/x", "in the way\n");
    let before = host.picture();
    let error = host.switch(Part::Node, Some(number)).unwrap_err();
    assert_eq!(error.kind(), Kind::Check);
    assert!(error.message().contains("`/etc/crictl.yaml`"), "{error}");
    before.assert_same(&host.picture(), "before and after the refusal");
}

#[test]
fn units_are_told_by_what_changes_for_them() {
    let (_directory, host) = host();
    host.become_(&first(&host));
    let number = host.stage(&second(&host)).unwrap().number;
    let changes = switch::diff(&host.root, Part::Node, Some(number)).unwrap();
    assert_eq!(
        changes.programs,
        ["/usr/local/bin/containerd", "/usr/local/bin/runc"]
    );
    assert_eq!(changes.started, ["kubelet.service"]);
    assert_eq!(changes.affected, ["containerd.service"]);
    let back = switch::diff(&host.root, Part::Node, None).unwrap();
    assert_eq!(back.stopped, ["containerd.service"]);
}

#[test]
fn damage_in_the_tree_does_not_come_into_use() {
    let (_directory, host) = host();
    let before = host.live();
    let number = host.stage(&first(&host)).unwrap().number;
    let object = generation::tree(&host.root, number).join("etc/crictl.yaml");
    std::fs::write(object, "endpoint: !\n").unwrap();
    let error = host.switch(Part::Node, Some(number)).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    before.assert_same(&host.live(), "before and after the refusal");
    // Staged again, it is made anew.
    let again = host.stage(&first(&host)).unwrap();
    assert_eq!((again.number, again.reused), (2, false));
    host.switch(Part::Node, Some(2)).unwrap();
    assert_eq!(host.read("etc/crictl.yaml"), "endpoint: x\n");
}

#[test]
fn generations_are_kept_as_long_as_they_are_needed() {
    let (_directory, host) = host();
    let mut numbers = Vec::new();
    for version in ["1.33", "1.33", "1.34", "1.34", "1.34", "1.34"] {
        let content = format!("{} {version}", numbers.len());
        let mut recipe = host.recipe(&[&[("etc/x.conf", file(&content))]]);
        recipe.kubernetes = Some(version.into());
        numbers.push(host.stage(&recipe).unwrap().number);
        if numbers.len() == 1 {
            host.switch(Part::Node, Some(1)).unwrap();
        }
    }
    let swept = generation::prune(&host.root).unwrap();
    // 1 is in use, 2 is the one before the last change, 3 is neither.
    assert_eq!(generation::numbers(&host.root).unwrap(), [1, 2, 4, 5, 6]);
    assert_eq!(swept.objects, 1);
    assert!(generation::remove(&host.root, 1).is_err());
    host.switch(Part::Node, Some(6)).unwrap();
    assert_eq!(host.read("etc/x.conf"), "5 1.34");
}

/// What one of the generations, or the user, has at a path; none is nothing.
type Contents = Vec<Option<u8>>;

const PLACES: [&str; 8] = [
    "etc/a.conf",
    "etc/d/b.conf",
    "etc/d/e/c.conf",
    "etc/link.conf",
    "etc/kubernetes/manifests/m.yaml",
    "usr/bin/p",
    "usr/local/bin/q",
    "opt/x/y",
];

fn random_recipe(host: &Host, contents: &Contents, block: Option<u8>) -> Recipe {
    let entry = |(place, content): (&&'static str, &Option<u8>)| {
        let content = (*content)?;
        let entry = match *place {
            "etc/link.conf" if content.is_multiple_of(2) => link(&format!("target-{content}")),
            place if place.starts_with("etc/") => Entry::Mode(
                0o600 + u32::from(content) * 4,
                format!("{place} {content}\n"),
            ),
            place => program(&format!("{place} {content}")),
        };
        Some((*place, entry))
    };
    let entries: Vec<_> = PLACES.iter().zip(contents).filter_map(entry).collect();
    let mut recipe = host.recipe(&[&entries]);
    recipe.blocks = block
        .map(|content| Block {
            path: path("etc/hosts"),
            content: format!("127.0.0.1 api-{content}\n"),
        })
        .into_iter()
        .collect();
    recipe
}

fn place_on_host(place: &str) -> String {
    place.replace("usr/bin/", "usr/local/bin/")
}

fn contents() -> impl Strategy<Value = Contents> {
    proptest::collection::vec(proptest::option::of(0..3_u8), PLACES.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn there_and_back_is_byte_identical_for_any_two_generations(
        one in contents(),
        two in contents(),
        users in contents(),
        blocks in (proptest::option::of(0..3_u8), proptest::option::of(0..3_u8)),
        edits in proptest::collection::vec(proptest::bool::weighted(0.2), PLACES.len()),
    ) {
        let directory = directory();
        let host = Host::at(&directory.path().join("host"));
        host.store();
        for (place, content) in PLACES.iter().zip(&users) {
            if let Some(content) = content {
                // Often byte for byte what a generation has.
                host.write(&place_on_host(place), &format!("{place} {content}\n"));
            }
        }
        let before = host.live();
        let (one_recipe, two_recipe) = (random_recipe(&host, &one, blocks.0), random_recipe(&host, &two, blocks.1));
        host.become_(&one_recipe);
        let at_one = host.live();
        host.become_(&two_recipe);
        host.become_(&one_recipe);
        at_one.assert_same(&host.live(), "the first generation, before and after the second");

        // What a user changes survives every switch.
        let edited: Vec<String> = PLACES
            .iter()
            .zip(&one)
            .zip(&edits)
            .filter(|((_, content), edit)| content.is_some() && **edit)
            .map(|((place, _), _)| place_on_host(place))
            .collect();
        for place in &edited {
            std::fs::remove_file(host.files.join(place)).unwrap();
            host.write(place, "edited\n");
        }
        host.become_(&two_recipe);
        host.become_(&one_recipe);
        for part in Part::ALL {
            host.switch(part, None).unwrap();
        }
        let after = host.live();
        for place in &edited {
            prop_assert_eq!(host.read(place), "edited\n");
        }
        let is_edit = |line: &String| edited.iter().any(|place| {
            // The directories that an edited file keeps are its own as well.
            line.split(' ').nth(1).is_some_and(|at| place.starts_with(at.trim_end_matches(':')))
        });
        let difference: Vec<_> = before.difference(&after).into_iter().filter(|line| !is_edit(line)).collect();
        prop_assert!(difference.is_empty(), "{}", difference.join("\n"));
    }
}
