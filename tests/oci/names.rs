//! The commands about images in the store.

use crate::support::User;

#[test]
fn images_are_listed_described_named_and_removed() {
    let user = User::new();
    assert_eq!(user.json(&["images"]), serde_json::json!([]));
    let image = user.with_image("demo:1", 1);
    let digest = image.digest.to_string();

    let listed = user.json(&["images"]);
    assert_eq!(listed[0]["reference"], "demo:1");
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[0]["kubernetes"], "v1.34.4");
    assert_eq!(listed[0]["platforms"], serde_json::json!(["linux/amd64"]));
    assert_eq!(listed[0]["container_images"], 2);
    assert_eq!(listed[0]["size"], image.size());
    assert!(user.run(&["images"]).contains("demo:1"));

    for name in ["demo:1", &digest] {
        let described = user.json(&["inspect", name]);
        assert_eq!(described["digest"], digest);
        assert_eq!(described["reference"], "docker.io/library/demo:1");
        assert_eq!(described["rootfs"][0]["layers"][0]["kind"], "runtime");
        assert_eq!(
            described["images"][1]["reference"],
            "registry.k8s.io/pause:3.10.1"
        );
    }
    let text = user.run(&["inspect", "demo:1"]);
    assert!(
        text.contains("registry.k8s.io/pause:3.10.1") && text.contains(&digest),
        "{text}"
    );

    assert_eq!(
        user.json(&["tag", "demo:1", "example.com/site:2"])["digest"],
        digest
    );
    assert_eq!(
        user.json(&["inspect", "example.com/site:2"])["digest"],
        digest
    );

    // The content stays as long as it has a name.
    user.json(&["rmi", "demo:1"]);
    assert_eq!(
        user.json(&["inspect", "example.com/site:2"])["digest"],
        digest
    );
    assert_eq!(user.json(&["fsck"])["findings"], serde_json::json!([]));
    let removed = user.json(&["rmi", "example.com/site:2"]);
    assert_eq!(removed["pruned"]["bytes"], image.size());
    assert_eq!(user.json(&["prune"])["blobs"], 0);
}

#[test]
fn what_is_not_there_is_said_with_a_remedy() {
    let user = User::new();
    user.with_image("demo:1", 1);
    let digest = format!("sha256:{}", "0".repeat(64));
    for arguments in [
        &["inspect", "other:1"][..],
        &["inspect", &digest],
        &["tag", "other:1", "x"],
        &["rmi", "demo:1", "other:1"],
        &["save", "other:1", "-o", "/nonexistent/x"],
        &["push", "other:1"],
    ] {
        let said = user.fails(arguments, 8);
        assert!(
            said.contains("there is no image") && said.contains("chasi images"),
            "{said}"
        );
    }
    // Nothing was removed by the half of `rmi` that could have been.
    assert_eq!(user.json(&["images"]).as_array().unwrap().len(), 1);
    let said = user.fails(&["inspect", "UPPER"], 2);
    assert!(said.contains("is not an image reference"), "{said}");
}

#[test]
fn a_damaged_image_does_not_hide_the_others() {
    let user = User::new();
    let store = user.store();
    user.with_image("good:1", 1);
    let bad = user.with_image("bad:1", 2);
    std::fs::write(store.path_of(&bad.rootfs[0].manifest.digest), "{}").unwrap();
    let listed = user.json(&["images"]);
    assert_eq!(listed[0]["reference"], "bad:1");
    assert!(
        listed[0]["problem"]
            .as_str()
            .unwrap()
            .contains("cannot be used")
    );
    assert_eq!(listed[1]["kubernetes"], "v1.34.4");
    assert!(user.run(&["images"]).contains("damaged"));
    let said = user.fails(&["fsck"], 7);
    assert!(
        said.contains("content: ") && said.contains("references: docker.io/library/bad:1"),
        "{said}"
    );
    // Nothing is removed while it is not clear what is needed.
    user.fails(&["prune"], 7);
}

#[test]
fn fsck_tells_damage_from_not_being_able_to_look() {
    let user = User::new();
    let said = user.fails(&["fsck", "--store", "/nonexistent"], 10);
    assert!(said.contains("cannot lock"), "{said}");
    user.store();
    std::fs::write(user.path("store/index.json"), "{").unwrap();
    let said = user.fails(&["fsck"], 7);
    assert!(said.contains("layout: "), "{said}");
}
