//! The store when processes die, run at once, and have no room.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{User, said};

/// An archive to load, as an arbitrary amount of writing.
fn archive(user: &User) -> (String, String) {
    let image = user.with_image("demo:1", 1);
    let file = user.path("demo.tar").to_str().unwrap().to_owned();
    user.run(&["save", "demo:1", "-o", &file]);
    (file, image.digest.to_string())
}

#[test]
fn a_writer_killed_at_any_point_leaves_a_sound_store() {
    let from = User::new();
    let (file, digest) = archive(&from);
    let whole = User::new();
    let begin = Instant::now();
    whole.run(&["load", "-i", &file]);
    let duration = begin.elapsed();
    let user = User::new();
    let rounds = 25;
    let mut killed = 0;
    for round in 0..rounds {
        let mut writer = user
            .chasi(&["load", "-i", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the whole run, whatever the machine's speed.
        std::thread::sleep(duration * round / rounds);
        writer.kill().unwrap();
        killed += u32::from(!writer.wait().unwrap().success());
        assert_eq!(
            user.json(&["fsck"])["findings"],
            serde_json::json!([]),
            "round {round}"
        );
        // A load that ended leaves nothing to do for the next one.
        if !user.json(&["images"]).as_array().unwrap().is_empty() {
            user.run(&["rmi", "demo:1"]);
        }
        if round % 5 == 4 {
            user.run(&["prune"]);
            let unfinished = fs::read_dir(user.path("store/.chasi/incoming")).unwrap();
            assert_eq!(unfinished.count(), 0);
        }
    }
    assert!(killed > 0);
    user.run(&["load", "-i", &file]);
    assert_eq!(user.json(&["inspect", "demo:1"])["digest"], digest);
    assert_eq!(user.json(&["fsck"])["findings"], serde_json::json!([]));
}

#[test]
fn writers_and_prune_at_once_leave_a_sound_store() {
    let from = User::new();
    let (file, digest) = archive(&from);
    let user = User::new();
    user.store();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (user, file) = (&user, &file);
                scope.spawn(move || {
                    for round in 0..4 {
                        user.run(&["load", "-i", file, "--name", &format!("w{writer}:{round}")]);
                    }
                })
            })
            .collect();
        let mut locked = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            let output = user.chasi(&["prune"]).output().unwrap();
            match output.status.code() {
                Some(0) => {}
                Some(6) => locked += 1,
                _ => panic!("{}", said(&output)),
            }
        }
        assert!(locked > 0, "nobody ever wrote while prune ran");
    });
    let images = user.json(&["images"]);
    assert_eq!(images.as_array().unwrap().len(), 16);
    assert!(
        images
            .as_array()
            .unwrap()
            .iter()
            .all(|image| image["digest"] == digest)
    );
    assert_eq!(user.json(&["fsck"])["findings"], serde_json::json!([]));
    assert_eq!(user.json(&["prune"])["temporary_files"], 0);
}

/// Needs root, as the tests with hosts do: a small file system is mounted in a
/// mount namespace of its own.
#[test]
fn a_full_disk_leaves_a_sound_store() {
    let from = User::new();
    let (file, _) = archive(&from);
    let user = User::new();
    fs::create_dir(user.path("store")).unwrap();
    let script = r#"
        set -eu
        mount -t tmpfs -o size=2m,mode=700 tmpfs "$CHASI_STORE"
        code=0; "$0" load -i "$1" || code=$?
        echo "code $code"
        "$0" fsck
        "$0" prune
        ls "$CHASI_STORE/blobs/sha256" "$CHASI_STORE/.chasi/incoming" | wc -w
        # With more room it works.
        mount -o remount,size=20m "$CHASI_STORE"
        "$0" load -i "$1"
        "$0" fsck
    "#;
    let chasi = user.chasi(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(chasi.get_program())
        .arg(&file)
        .env("CHASI_STORE", user.path("store"))
        .env("CHASI_CONFIG", user.path("config.yaml"))
        .env("HOME", user.directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("code 10\n"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    // Two directories are named, and nothing in them.
    assert!(text.contains("\n2\n"), "{text}");
}

#[test]
fn a_long_prune_is_waited_for() {
    let user = User::new();
    let store = user.store();
    user.with_image("demo:1", 1);
    let lock = fs::File::options()
        .write(true)
        .open(user.path("store/.chasi/blobs.lock"))
        .unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| store.hold().map(drop));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!writer.is_finished());
        drop(lock);
        writer.join().unwrap().unwrap();
    });
}
