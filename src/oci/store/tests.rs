use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::event::Context;
use crate::oci::{MAX_DESCRIPTORS, annotation, media};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A small image: a manifest with a configuration and one layer.
fn put_image(hold: &Hold, layer: &str) -> Blob {
    let config = hold.put(media::CONFIG, b"{}").unwrap();
    let layer = hold
        .put("application/vnd.oci.image.layer.v1.tar", layer.as_bytes())
        .unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": [layer]});
    hold.put(media::MANIFEST, manifest.to_string().as_bytes())
        .unwrap()
}

fn incoming(store: &Store) -> usize {
    fs::read_dir(store.root().join(INCOMING)).unwrap().count()
}

#[test]
fn blobs_are_named_by_their_content() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let mut writer = hold.writer().unwrap();
    writer.write_all(b"ab").unwrap();
    writer.write_all(b"c").unwrap();
    assert_eq!(writer.written(), 3);
    let blob = writer.commit("x/y").unwrap();
    assert_eq!(blob, Blob::of("x/y", b"abc"));
    assert!(store.contains(&blob));
    assert_eq!(store.read_verified(&blob, 3).unwrap(), b"abc");
    assert_eq!(
        store.read_verified(&blob, 2).unwrap_err().kind(),
        Kind::Integrity
    );
    assert_eq!(incoming(&store), 0);
}

#[test]
fn a_wrong_digest_or_size_leaves_nothing() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let right = Blob::of("x/y", b"abc");
    let table = [
        (
            "the x/y sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad has 4 bytes, expected 3",
            right.clone(),
            "abcd",
        ),
        ("has 2 bytes, expected 3", right.clone(), "ab"),
        ("has the digest", right.clone(), "abd"),
        ("has 3 bytes, expected 4", Blob { size: 4, ..right }, "abc"),
    ];
    for (expected, blob, content) in table {
        let mut writer = hold.writer().unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        let error = writer.commit_as(&blob).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.message().contains(expected), "{error}");
        assert!(!store.contains(&blob));
    }
    assert_eq!(incoming(&store), 0);
    assert_eq!(fs::read_dir(store.root().join(BLOBS)).unwrap().count(), 0);
}

#[test]
fn a_batch_appears_at_its_end() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let blobs: Vec<_> = (0..20)
        .map(|number| {
            (
                Blob::of("x/y", format!("{number}").as_bytes()),
                format!("{number}"),
            )
        })
        .collect();
    for keep in [false, true] {
        let mut batch = hold.batch();
        for (blob, content) in &blobs {
            let mut writer = hold.writer().unwrap();
            writer.write_all(content.as_bytes()).unwrap();
            writer.commit_in(&mut batch, blob).unwrap();
        }
        assert!(blobs.iter().all(|(blob, _)| !store.contains(blob)));
        if keep {
            batch.finish().unwrap();
        }
    }
    assert!(blobs.iter().all(|(blob, _)| store.contains(blob)));
    assert_eq!(incoming(&store), 0);
}

#[test]
fn names_are_set_moved_and_removed() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let (one, two) = (put_image(&hold, "1"), put_image(&hold, "2"));
    hold.tag(&name("b:1"), &one).unwrap();
    hold.tag(&name("a"), &one).unwrap();
    hold.tag(&name("b:1"), &two).unwrap();
    assert_eq!(
        store.tags().unwrap(),
        [(name("a"), one.clone()), (name("b:1"), two.clone())]
    );
    assert_eq!(store.resolve(&name("docker.io/library/b:1")).unwrap(), two);
    assert_eq!(
        store.resolve(&name("b:1").with_digest(two.digest)).unwrap(),
        two
    );
    assert_eq!(
        store
            .resolve(&name("b").with_digest(one.digest))
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    assert_eq!(store.untag(&name("a")).unwrap(), one);
    let error = store.untag(&name("a")).unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (Kind::NotFound, "there is no image `a` in the store")
    );
    assert_eq!(
        store
            .untag(&name("b").with_digest(two.digest))
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    assert_eq!(store.tags().unwrap().len(), 1);
}

#[test]
fn a_name_needs_a_tag_the_right_digest_and_whole_content() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = put_image(&hold, "1");
    assert_eq!(
        hold.tag(&name("a").with_digest(image.digest), &image)
            .unwrap_err()
            .kind(),
        Kind::Input
    );
    let other: Reference = format!("a:1@{}", Digest::of("")).parse().unwrap();
    assert_eq!(
        hold.tag(&other, &image).unwrap_err().kind(),
        Kind::Integrity
    );
    fs::remove_file(store.path_of(&Digest::of("1"))).unwrap();
    let error = hold.tag(&name("a"), &image).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("`a` is incomplete: the application/vnd.oci.image.layer.v1.tar sha256:"),
        "{error}"
    );
    assert!(store.tags().unwrap().is_empty());
}

#[test]
fn prune_removes_what_nothing_refers_to_and_only_alone() {
    let (_directory, store) = store();
    let ctx = Context::silent();
    let hold = store.hold().unwrap();
    let kept = put_image(&hold, "kept");
    let lost = put_image(&hold, "lost");
    hold.tag(&name("kept"), &kept).unwrap();
    fs::write(store.root().join(INCOMING).join(".tmpX"), "12345").unwrap();
    assert_eq!(store.prune(&ctx, false).unwrap_err().kind(), Kind::Locked);
    drop(hold);
    let expected = Pruned {
        blobs: 2,
        temporary_files: 1,
        bytes: lost.size + 4 + 5,
    };
    assert_eq!(store.prune(&ctx, true).unwrap(), expected);
    assert_eq!(store.prune(&ctx, false).unwrap(), expected);
    assert_eq!(store.prune(&ctx, false).unwrap(), Pruned::default());
    assert!(store.fsck(&ctx).unwrap().is_empty());
    assert!(store.contains(&kept) && !store.contains(&lost));
    store.untag(&name("kept")).unwrap();
    assert_eq!(store.prune(&ctx, false).unwrap().blobs, 3);
}

#[test]
fn prune_removes_nothing_when_a_document_is_damaged() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = put_image(&hold, "1");
    hold.tag(&name("a"), &image).unwrap();
    drop(hold);
    let content = fs::read_to_string(store.path_of(&image.digest)).unwrap();
    fs::write(
        store.path_of(&image.digest),
        content.replace("schemaVersion\":2", "schemaVersion\":3"),
    )
    .unwrap();
    assert_eq!(
        store.prune(&Context::silent(), false).unwrap_err().kind(),
        Kind::Integrity
    );
    assert_eq!(fs::read_dir(store.root().join(BLOBS)).unwrap().count(), 3);
}

#[test]
fn fsck_finds_every_damage_by_name() {
    type Damage = fn(&Store, &Blob);
    let table: [(&str, &str, Damage); 10] = [
        ("layout", "is not an OCI image layout", |store, _| {
            fs::remove_file(store.root().join("oci-layout")).unwrap()
        }),
        ("layout", "version `9`", |store, _| {
            fs::write(
                store.root().join("oci-layout"),
                r#"{"imageLayoutVersion":"9"}"#,
            )
            .unwrap()
        }),
        ("layout", "is not valid", |store, _| {
            fs::write(store.root().join("index.json"), "{").unwrap()
        }),
        ("names", "is not a reference", |store, _| {
            edit_index(store, "docker.io/library/a:1", "A B")
        }),
        ("names", "has no name", |store, _| {
            edit_index(store, annotation::REF_NAME, "other")
        }),
        ("files", "is not a blob", |store, _| {
            fs::write(store.root().join(BLOBS).join("README"), "").unwrap()
        }),
        ("files", "is not a blob", |store, _| {
            symlink("/etc/passwd", store.path_of(&Digest::of("x"))).unwrap()
        }),
        ("content", "its content has the digest", |store, _| {
            fs::write(store.path_of(&Digest::of("layer")), "LAYER").unwrap()
        }),
        ("references", "is missing", |store, _| {
            fs::remove_file(store.path_of(&Digest::of("layer"))).unwrap()
        }),
        ("references", "is missing", |store, image| {
            fs::remove_file(store.path_of(&image.digest)).unwrap()
        }),
    ];
    for (check, problem, damage) in table {
        let (_directory, store) = store();
        let hold = store.hold().unwrap();
        let image = put_image(&hold, "layer");
        hold.tag(&name("a:1"), &image).unwrap();
        drop(hold);
        assert!(store.fsck(&Context::silent()).unwrap().is_empty());
        damage(&store, &image);
        let findings: Vec<_> = store
            .fsck(&Context::silent())
            .unwrap_or_else(|error| panic!("{check}: {error:?}"))
            .into_iter()
            .filter(|finding| finding.check == check)
            .collect();
        assert!(
            findings.len() == 1 && findings[0].problem.contains(problem),
            "{check}, {problem}: {findings:?}"
        );
    }
}

fn edit_index(store: &Store, from: &str, to: &str) {
    let path = store.root().join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn damage_that_is_written_again_is_repaired() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let blob = hold.put("x/y", b"abc").unwrap();
    fs::write(store.path_of(&blob.digest), "abd").unwrap();
    assert_eq!(
        store.read_verified(&blob, 3).unwrap_err().kind(),
        Kind::Integrity
    );
    hold.put("x/y", b"abc").unwrap();
    assert_eq!(store.read_verified(&blob, 3).unwrap(), b"abc");
}

#[test]
fn links_in_a_layout_are_not_followed() {
    let (directory, store) = store();
    let secret = directory.path().join("secret");
    fs::write(&secret, "abc").unwrap();
    let blob = Blob::of("x/y", b"abc");
    symlink(&secret, store.path_of(&blob.digest)).unwrap();
    assert!(!store.contains(&blob));
    assert_eq!(
        store.read_verified(&blob, 3).unwrap_err().kind(),
        Kind::System
    );
    fs::remove_file(store.root().join("index.json")).unwrap();
    symlink(&secret, store.root().join("index.json")).unwrap();
    assert_eq!(store.tags().unwrap_err().kind(), Kind::System);
}

#[test]
fn what_is_not_a_layout_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error
            .message()
            .ends_with("is not an OCI image layout: it has no file `oci-layout`"),
        "{error}"
    );
}

#[test]
fn documents_that_lie_are_refused() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let layer = hold
        .put("application/vnd.oci.image.layer.v1.tar", b"1")
        .unwrap();
    let config = hold.put(media::CONFIG, b"{}").unwrap();
    let wrong_size = Blob {
        size: 2,
        ..layer.clone()
    };
    let as_manifest = Blob {
        media_type: media::MANIFEST.into(),
        ..layer.clone()
    };
    let many: Vec<_> = vec![&layer; MAX_DESCRIPTORS + 1];
    let table = [
        (
            "described in two ways",
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer, wrong_size]}),
        ),
        (
            "described in two ways",
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer, as_manifest]}),
        ),
        (
            "schema version 1",
            serde_json::json!({"schemaVersion": 1, "config": config, "layers": []}),
        ),
        (
            "says of itself",
            serde_json::json!({"schemaVersion": 2, "mediaType": media::INDEX, "config": config, "layers": []}),
        ),
        (
            "4097 descriptors",
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": many}),
        ),
        (
            "is not valid",
            serde_json::json!({"schemaVersion": 2, "layers": []}),
        ),
        (
            "is not understood",
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": [
            {"mediaType": "x/y", "size": 1, "digest": format!("sha512:{}", "0".repeat(128))}]}),
        ),
    ];
    for (expected, document) in table {
        let image = hold
            .put(media::MANIFEST, document.to_string().as_bytes())
            .unwrap();
        let error = hold.tag(&name("a"), &image).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert!(
            error.message().contains(expected),
            "{error}, expected {expected}"
        );
    }
    let mut nested = put_image(&hold, "2");
    for _ in 0..5 {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [nested]});
        nested = hold
            .put(media::INDEX, index.to_string().as_bytes())
            .unwrap();
    }
    assert!(
        hold.tag(&name("a"), &nested)
            .unwrap_err()
            .message()
            .contains("nested too deeply")
    );
}

#[test]
fn a_store_that_lost_its_index_is_not_emptied() {
    let (_directory, store) = store();
    put_image(&store.hold().unwrap(), "1");
    fs::remove_file(store.root().join("index.json")).unwrap();
    let error = Store::create(store.root()).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.message().contains("its index"), "{error}");
}

#[test]
fn many_create_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b/store");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let root = &root;
            scope.spawn(move || {
                let hold = Store::create(root).unwrap().hold().unwrap();
                let image = put_image(&hold, "1");
                hold.tag(&name(&format!("t:{thread}")), &image).unwrap();
            });
        }
    });
    assert_eq!(Store::open(&root).unwrap().tags().unwrap().len(), 8);
}

#[test]
fn a_document_that_is_lost_stops_prune() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = put_image(&hold, "1");
    hold.tag(&name("a"), &image).unwrap();
    drop(hold);
    fs::remove_file(store.path_of(&image.digest)).unwrap();
    let error = store.prune(&Context::silent(), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    store.untag(&name("a")).unwrap();
    assert_eq!(store.prune(&Context::silent(), false).unwrap().blobs, 2);
}

#[test]
fn a_digest_in_a_name_is_checked_and_not_kept() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = put_image(&hold, "1");
    let pinned: Reference = format!("a:1@{}", image.digest).parse().unwrap();
    hold.tag(&pinned, &image).unwrap();
    assert_eq!(store.tags().unwrap(), [(name("a:1"), image.clone())]);
    assert_eq!(store.resolve(&pinned).unwrap(), image);
}

#[test]
fn many_threads_write_and_name_at_once() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..5 {
                    let hold = store.hold().unwrap();
                    let image = put_image(&hold, &format!("{round}"));
                    hold.tag(&name(&format!("t{thread}:{round}")), &image)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(store.tags().unwrap().len(), 40);
    assert!(store.fsck(&Context::silent()).unwrap().is_empty());
}
