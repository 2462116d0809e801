//! Saving and loading.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chasi::digest::Digest;
use chasi::oci::{Blob, media};

use crate::support::{User, image_of, layer, noise, raw_layer, reference, run, tar_of};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_same_image_gives_the_same_archive() {
    let (one, two) = (User::new(), User::new());
    for user in [&one, &two] {
        user.with_image("demo:1", 1);
        user.with_image("demo:2", 2);
    }
    two.with_image("unrelated:1", 3);
    one.run(&["save", "demo:1", "demo:2", "-o", text(&one.path("a.tar"))]);
    two.run(&["save", "demo:2", "demo:1", "-o", text(&two.path("b.tar"))]);
    assert_eq!(
        Digest::of(fs::read(one.path("a.tar")).unwrap()),
        Digest::of(fs::read(two.path("b.tar")).unwrap())
    );
    let left: Vec<_> = fs::read_dir(one.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with(".chasi-")),
        "{left:?}"
    );
}

#[test]
fn what_was_saved_is_loaded() {
    let from = User::new();
    let image = from.with_image("demo:1", 1);
    let file = from.path("demo.tar");
    from.run(&["save", "demo:1", "-o", text(&file)]);
    let directory = format!("{}/", text(&from.path("layout")));
    from.run(&["save", &image.digest.to_string(), "-o", &directory]);
    let compressed = from.path("demo.tar.zst");
    fs::write(
        &compressed,
        zstd::encode_all(fs::File::open(&file).unwrap(), 1).unwrap(),
    )
    .unwrap();
    for input in [&file, Path::new(&directory), &compressed] {
        let to = User::new();
        let loaded = to.json(&["load", "-i", text(input)]);
        assert_eq!(loaded[0]["reference"], "docker.io/library/demo:1");
        assert_eq!(
            to.json(&["inspect", "demo:1"])["digest"],
            image.digest.to_string()
        );
        assert_eq!(to.json(&["fsck"])["findings"], serde_json::json!([]));
        // Again, and under another name.
        to.run(&["load", "-i", text(input), "--name", "other:2"]);
        assert_eq!(to.json(&["images"]).as_array().unwrap().len(), 2);
        assert_eq!(to.json(&["prune"])["blobs"], 0);
    }
}

/// What skopeo wrote into a directory, by digest.
fn contents(directory: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| {
            let content = fs::read(path).unwrap();
            (Digest::of(&content).to_string(), content.len() as u64)
        })
        .collect()
}

#[test]
fn skopeo_reads_what_save_wrote_and_load_reads_what_skopeo_wrote() {
    let user = User::new();
    let image = user.with_image("demo:1", 1);
    let file = user.path("demo.tar");
    user.run(&["save", "demo:1", "-o", text(&file)]);

    let plain = user.path("dir");
    run(
        "skopeo",
        &[
            "copy",
            "--all",
            &format!("oci-archive:{}", text(&file)),
            &format!("dir:{}", text(&plain)),
        ],
    );
    let found = contents(&plain);
    for blob in image.blobs() {
        assert!(
            found
                .get(&blob.digest.to_string())
                .is_some_and(|size| *size == blob.size),
            "{blob:?}"
        );
    }

    let layout = format!("oci:{}:example.com/copied:7", text(&user.path("copied")));
    let archive = format!(
        "oci-archive:{}:example.com/copied:8",
        text(&user.path("copied.tar"))
    );
    for target in [&layout, &archive] {
        run(
            "skopeo",
            &[
                "copy",
                "--all",
                &format!("oci-archive:{}", text(&file)),
                target,
            ],
        );
    }
    let other = User::new();
    for input in ["copied", "copied.tar"] {
        let loaded = other.json(&["load", "-i", text(&user.path(input))]);
        assert_eq!(loaded[0]["digest"], image.digest.to_string());
    }
    assert_eq!(
        other.json(&["inspect", "example.com/copied:8"])["digest"],
        image.digest.to_string()
    );
}

/// The files of an archive.
fn files_of(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .map(|mut entry| {
            let mut content = Vec::new();
            std::io::copy(&mut entry, &mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        })
        .collect()
}

fn pack(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    tar_of(&files)
}

#[test]
fn hostile_archives_leave_nothing() {
    type Change = fn(&mut BTreeMap<String, Vec<u8>>, &str);
    let from = User::new();
    let image = from.with_image("demo:1", 1);
    let file = from.path("demo.tar");
    from.run(&["save", "demo:1", "-o", text(&file)]);
    let victim = format!(
        "blobs/sha256/{}",
        image.rootfs[0].layers[0].blob.digest.hex()
    );
    let table: [(&str, Change); 10] = [
        ("has the digest", |files, victim| {
            files.get_mut(victim).unwrap()[1000] ^= 1
        }),
        ("has the digest", |files, victim| {
            files.get_mut(victim).unwrap().truncate(1000)
        }),
        ("is incomplete", |files, victim| drop(files.remove(victim))),
        ("has no file `index.json`", |files, _| {
            drop(files.remove("index.json"))
        }),
        ("has no file `oci-layout`", |files, _| {
            drop(files.remove("oci-layout"))
        }),
        ("version `9`", |files, _| {
            drop(files.insert(
                "oci-layout".into(),
                br#"{"imageLayoutVersion":"9"}"#.to_vec(),
            ))
        }),
        ("is not valid", |files, _| {
            drop(files.insert("index.json".into(), b"[".to_vec()))
        }),
        ("there is no image", |files, _| {
            drop(files.insert(
                "index.json".into(),
                br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(),
            ))
        }),
        ("has no name", |files, _| {
            let index = String::from_utf8(files["index.json"].clone()).unwrap();
            files.insert(
                "index.json".into(),
                index
                    .replace("docker.io/library/demo:1", "latest")
                    .into_bytes(),
            );
        }),
        ("the path has a `..`", |files, _| {
            drop(files.insert("../../escape".into(), b"x".to_vec()))
        }),
    ];
    for (expected, change) in table {
        let mut files = files_of(&file);
        change(&mut files, &victim);
        let to = User::new();
        let hostile = to.path("hostile.tar");
        fs::write(&hostile, pack(&files)).unwrap();
        let output = to.chasi(&["load", "-i", text(&hostile)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(expected),
            "{expected}: {said}"
        );
        assert_nothing_left(&to);
        assert!(
            !to.directory
                .path()
                .parent()
                .unwrap()
                .join("escape")
                .exists()
        );
    }
}

fn assert_nothing_left(user: &User) {
    assert_eq!(user.json(&["images"]), serde_json::json!([]));
    user.run(&["prune"]);
    let left = fs::read_dir(user.path("store/blobs/sha256"))
        .unwrap()
        .count();
    let unfinished = fs::read_dir(user.path("store/.chasi/incoming"))
        .unwrap()
        .count();
    assert_eq!((left, unfinished), (0, 0));
    assert_eq!(user.json(&["fsck"])["findings"], serde_json::json!([]));
}

#[test]
fn every_truncation_of_an_archive_is_refused() {
    let from = User::new();
    from.with_image("demo:1", 1);
    let file = from.path("demo.tar");
    from.run(&["save", "demo:1", "-o", text(&file)]);
    let whole = fs::read(&file).unwrap();
    let to = User::new();
    for part in 1..12 {
        let cut = to.path("cut.tar");
        // The last kilobyte is the mark of the end.
        fs::write(&cut, &whole[..(whole.len() - 1024) * part / 12]).unwrap();
        to.fails(&["load", "-i", text(&cut)], 7);
    }
    assert_nothing_left(&to);
}

#[test]
fn layers_with_hostile_entries_are_refused_by_name() {
    let zeros = vec![0; 200 << 20];
    let table: [(&str, Vec<u8>); 5] = [
        (
            "`../../etc/passwd`: the path has a `..`",
            tar_of(&[("../../etc/passwd", b"x")]),
        ),
        (
            "`/etc/passwd`: the path is absolute",
            tar_of(&[("/etc/passwd", b"x")]),
        ),
        ("`etc/.wh...`", tar_of(&[("etc/.wh...", b"")])),
        ("as only bombs are", tar_of(&[("opt/zeros", &zeros)])),
        (
            "there is something behind the end",
            [tar_of(&[("a", b"x")]), noise(1, 600)].concat(),
        ),
    ];
    for (expected, archive) in table {
        let from = User::new();
        let hold = from.store().hold().unwrap();
        let hostile = raw_layer(&hold, &archive);
        let image = image_of(&hold, vec![hostile.clone()]);
        hold.tag(&reference("hostile:1"), &image.index).unwrap();
        let file = from.path("hostile.tar");
        from.run(&["save", "hostile:1", "-o", text(&file)]);
        let to = User::new();
        let said = to.fails(&["load", "-i", text(&file)], 7);
        assert!(said.contains(expected), "{said}, expected {expected}");
        assert!(
            said.contains(&format!("layer {} (app)", hostile.blob.digest)),
            "{said}"
        );
        assert_nothing_left(&to);
    }
}

#[test]
fn a_layer_that_is_not_what_its_diff_id_says_is_refused() {
    let from = User::new();
    let hold = from.store().hold().unwrap();
    let mut lying = layer(
        &hold,
        chasi::oci::image::LayerKind::Cni,
        "opt/cni/bin/x",
        b"x",
    );
    lying.diff_id = Digest::of("something else");
    let image = image_of(&hold, vec![lying]);
    hold.tag(&reference("lying:1"), &image.index).unwrap();
    let file = from.path("lying.tar");
    from.run(&["save", "lying:1", "-o", text(&file)]);
    let to = User::new();
    let said = to.fails(&["load", "-i", text(&file)], 7);
    assert!(said.contains("its content has the digest"), "{said}");
    assert_nothing_left(&to);
}

#[test]
fn an_ordinary_image_is_not_loaded() {
    let user = User::new();
    let store = user.store();
    let hold = store.hold().unwrap();
    let config = hold.put(media::CONFIG, b"{}").unwrap();
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": config, "layers": Vec::<Blob>::new()});
    let manifest = hold
        .put(media::MANIFEST, manifest.to_string().as_bytes())
        .unwrap();
    hold.tag(&reference("ordinary:1"), &manifest).unwrap();
    let file = user.path("ordinary.tar");
    user.run(&["save", "ordinary:1", "-o", text(&file)]);
    let said = User::new().fails(&["load", "-i", text(&file)], 3);
    assert!(
        said.contains("not a cluster image") && said.contains("hint: `chasi build`"),
        "{said}"
    );
}

#[test]
fn saving_checks_what_it_reads() {
    let user = User::new();
    let image = user.with_image("demo:1", 1);
    let layer = user.store().path_of(&image.rootfs[0].layers[0].blob.digest);
    let mut content = fs::read(&layer).unwrap();
    content[100] ^= 1;
    fs::write(&layer, content).unwrap();
    let file = user.path("demo.tar");
    fs::write(&file, "old").unwrap();
    let said = user.fails(&["save", "demo:1", "-o", text(&file)], 7);
    assert!(said.contains("does not match its digest"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"old");
}
