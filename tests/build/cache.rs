//! What is built again, what is not, and that it makes no difference.

use std::fs;
use std::time::{Duration, SystemTime};

use assert_cmd::Command;

use crate::site::{Outcome, Site, chasi, origins};

/// A context with one large file and many small ones, always the same.
fn fill(site: &Site) {
    let noise = |seed: u32, count: u32| -> Vec<u8> {
        // Numbers of a linear congruential generator: the same everywhere, hard to compress.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(|_| next()).collect()
    };
    site.kubefile("FROM scratch\nLABEL a=1 b=2\nENV X=y Z=w\nLAYER app\nCOPY tree /opt/tree\nCOPY big usr/bin/\n");
    site.file("big", noise(1, 20 << 20)).mode("big", 0o755);
    for index in 0..300 {
        site.file(
            &format!("tree/d{}/f{index}", index % 5),
            noise(index, 200_000),
        );
    }
}

fn age(site: &Site, by: Duration) {
    for entry in walk(&site.context()) {
        let file = fs::File::open(entry).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn the_digest_does_not_depend_on_place_time_or_cores() {
    let (one, two) = (Site::new(), Site::new());
    fill(&one);
    fill(&two);
    age(&two, Duration::from_secs(1_000_000));
    let first = one.built(&[]);
    let mut pinned = two.command("taskset");
    pinned
        .args(["-c", "0"])
        .arg(chasi())
        .args(["build", "--format", "json", "-t", "other/name:2"])
        .arg(two.context());
    let second = Outcome::of(&mut pinned).json();
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(one.built(&["--no-cache"])["digest"], first["digest"]);
}

#[test]
fn only_what_changed_is_written_again() {
    let site = Site::new();
    fill(&site);
    let first = site.built(&[]);
    let [built, 0, 0] = origins(&first) else {
        panic!("{first}")
    };
    assert!(built >= 4, "{first}");
    let second = site.built(&[]);
    assert_eq!(origins(&second), [0, built, 0]);
    assert_eq!(second["digest"], first["digest"]);
    // The same content under a new stamp is not written again either.
    age(&site, Duration::from_secs(5));
    assert_eq!(origins(&site.built(&[])), [0, built, 0]);
    site.file("tree/d3/f3", "changed");
    let third = site.built(&[]);
    assert_eq!(origins(&third), [1, built - 1, 0]);
    assert_ne!(third["digest"], first["digest"]);
    site.mode("tree/d3/f3", 0o755);
    assert_eq!(origins(&site.built(&[])), [1, built - 1, 0]);
    let fresh = site.built(&["--no-cache"]);
    assert_eq!(origins(&fresh), [built, 0, 0]);
}

#[test]
fn a_cache_without_its_blobs_or_with_damage_is_not_believed() {
    let site = Site::new();
    site.kubefile("FROM scratch\nLAYER app\nCOPY a etc/\n")
        .file("a", "a");
    let first = site.built(&[]);
    fs::remove_dir_all(site.path("store")).unwrap();
    let second = site.built(&[]);
    assert_eq!(origins(&second), [1, 0, 0]);
    for file in walk(&site.path("cache")) {
        fs::write(file, "damaged").unwrap();
    }
    let third = site.built(&[]);
    assert_eq!(origins(&third), [1, 0, 0]);
    assert_eq!(
        (&second["digest"], &third["digest"]),
        (&first["digest"], &first["digest"])
    );
}

#[test]
fn a_changed_file_is_seen_at_once_even_with_the_same_size_and_time() {
    let site = Site::new();
    site.kubefile("FROM scratch\nLAYER app\nCOPY a etc/\n")
        .file("a", "one");
    let path = site.context().join("a");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    for content in ["two", "six", "ten"] {
        site.built(&[]);
        fs::write(&path, content).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        site.built(&[]);
        assert_eq!(
            site.tree("site/image:1")[1].1,
            format!("f 644 0:0 {content}")
        );
    }
}

#[test]
fn a_cache_of_another_user_or_a_full_disk_is_said() {
    let site = Site::new();
    site.kubefile("FROM scratch\nLAYER app\nCOPY a etc/\n")
        .file("a", "a");
    fs::write(site.path("cache"), "").unwrap();
    let mut command: Command = site.command(chasi());
    command.args(["build", "-t", "a:1"]).arg(site.context());
    Outcome::of(&mut command).fails(10, &["cannot create the directory", "cache"]);
}
