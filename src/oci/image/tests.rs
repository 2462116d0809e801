use std::fs;

use super::*;
use crate::event::Context;
use crate::oci::layer::{EntryPath, Meta, Writer};
use crate::oci::store::Hold;
use crate::oci::{annotation, media};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path()).unwrap();
    (directory, store)
}

fn layer(hold: &Hold, path: &str, kind: LayerKind) -> Layer {
    let path: EntryPath = path.parse().unwrap();
    let mut writer = Writer::new(hold.writer().unwrap(), 1).unwrap();
    writer
        .file(&path, &Meta::new(0o755), 1, b"x".as_slice())
        .unwrap();
    let written = writer.finish().unwrap();
    Layer {
        blob: written.out.commit(media::LAYER_ZSTD).unwrap(),
        diff_id: written.diff_id,
        kind,
    }
}

/// A container image for two platforms as Docker makes them, of which only the
/// first is there.
fn docker_list(hold: &Hold) -> (Blob, Vec<Blob>) {
    let config = hold
        .put("application/vnd.docker.container.image.v1+json", b"{}")
        .unwrap();
    let layer = hold
        .put(
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            b"layer",
        )
        .unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST, "config": config, "layers": [layer]});
    let manifest = hold
        .put(media::DOCKER_MANIFEST, manifest.to_string().as_bytes())
        .unwrap();
    let other = Blob::of(media::DOCKER_MANIFEST, b"left out");
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": media::DOCKER_LIST, "manifests": [manifest, other]});
    let list = hold
        .put(media::DOCKER_LIST, list.to_string().as_bytes())
        .unwrap();
    (list.clone(), vec![config, layer, manifest, list])
}

fn builder(hold: &Hold) -> Builder {
    let mut builder = Builder::new();
    fill(&mut builder, hold);
    builder
}

fn fill(builder: &mut Builder, hold: &Hold) {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    };
    builder.rootfs(
        "linux/amd64".parse().unwrap(),
        map(&[
            (LABEL_DISTRIBUTION, "kubeadm"),
            (LABEL_KUBERNETES, "v1.34.4"),
            ("a", "b"),
        ]),
        map(&[("PATH", "/usr/bin"), ("EMPTY", "")]),
        vec![
            layer(hold, "usr/bin/a", LayerKind::Runtime),
            layer(hold, "usr/bin/b", LayerKind::Kubernetes),
        ],
    );
    builder.rootfs(
        "linux/arm/v7".parse().unwrap(),
        map(&[]),
        map(&[]),
        vec![layer(hold, "usr/bin/c", LayerKind::App)],
    );
    let (root, blobs) = docker_list(hold);
    builder
        .image("registry.k8s.io/pause:3.10.1".parse().unwrap(), root, blobs)
        .unwrap();
}

#[test]
fn what_was_built_is_opened() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = builder(&hold).write(&hold).unwrap();
    // The format is pinned.
    assert_eq!(
        image.digest.to_string(),
        "sha256:5c2e6b18f91e2be3e5b19f2c58f821eb9eb452201b00bd32b500e16d24da82b7"
    );
    let rootfs = image.rootfs(&Platform::linux("amd64").unwrap()).unwrap();
    assert_eq!(rootfs.labels[LABEL_KUBERNETES], "v1.34.4");
    assert_eq!(rootfs.env["EMPTY"], "");
    let kinds: Vec<_> = rootfs.layers.iter().map(|layer| layer.kind).collect();
    assert_eq!(kinds, [LayerKind::Runtime, LayerKind::Kubernetes]);
    assert_eq!(image.rootfs[1].platform.to_string(), "linux/arm/v7");
    assert_eq!(image.images.len(), 1);
    assert_eq!(image.images[0].root.media_type, media::DOCKER_LIST);
    assert_eq!(image.images[0].blobs.len(), 4);
    // A whole transfer is exactly what the store finds below the root.
    let reachable = store.reachable(&image.index).unwrap();
    let mut found: Vec<_> = reachable
        .contents
        .iter()
        .chain(&reachable.documents)
        .map(|blob| blob.digest)
        .collect();
    let mut listed: Vec<_> = image.blobs().iter().map(|blob| blob.digest).collect();
    assert_eq!(listed.last(), Some(&image.digest));
    found.sort();
    listed.sort();
    assert_eq!(found, listed);
    assert!(reachable.missing.is_empty());
    hold.tag(&"demo".parse().unwrap(), &image.index).unwrap();
    drop(hold);
    store.prune(&Context::silent(), false).unwrap();
    assert_eq!(ClusterImage::open(&store, &image.index).unwrap(), image);
}

#[test]
fn the_order_of_the_parts_does_not_matter() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let (root, mut blobs) = docker_list(&hold);
    let other: Reference = "other".parse().unwrap();
    let mut one = builder(&hold);
    one.image(other.clone(), root.clone(), blobs.clone())
        .unwrap();
    blobs.reverse();
    let mut two = Builder::new();
    two.image(other, root, blobs).unwrap();
    fill(&mut two, &hold);
    assert_eq!(one.write(&hold).unwrap(), two.write(&hold).unwrap());
}

#[test]
fn one_reference_has_one_meaning() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let (root, blobs) = docker_list(&hold);
    let mut builder = builder(&hold);
    let name: Reference = "registry.k8s.io/pause:3.10.1".parse().unwrap();
    builder.image(name.clone(), root, blobs.clone()).unwrap();
    let error = builder
        .image(name, blobs[2].clone(), blobs[..2].to_vec())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
}

#[test]
fn incomplete_and_padded_container_images_are_refused() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let (root, blobs) = docker_list(&hold);
    let [config, layer, manifest, _] = blobs.as_slice() else {
        panic!()
    };
    let extra = hold.put("x/y", b"extra").unwrap();
    let table: [(&str, &Blob, Vec<&Blob>); 6] = [
        (
            "lacks the application/vnd.docker.container.image.v1+json",
            &root,
            vec![layer, manifest],
        ),
        (
            "lacks the application/vnd.docker.image.rootfs.diff.tar.gzip",
            &root,
            vec![config, manifest],
        ),
        (
            "lacks the application/vnd.docker.distribution.manifest.v2+json",
            &root,
            vec![],
        ),
        (
            "which nothing in it refers to",
            &root,
            vec![config, layer, manifest, &extra],
        ),
        ("where a manifest is expected", layer, vec![]),
        (
            "which nothing in it refers to",
            manifest,
            vec![config, layer, &root],
        ),
    ];
    for (expected, root, blobs) in table {
        let mut builder = builder(&hold);
        builder
            .image(
                "other".parse().unwrap(),
                root.clone(),
                blobs.into_iter().cloned(),
            )
            .unwrap();
        let error = builder.write(&hold).unwrap_err();
        let text: String = error.causes().map(ToString::to_string).collect();
        assert_eq!(error.kind(), Kind::Integrity, "{expected}: {text}");
        assert!(text.contains(expected), "{text}, expected {expected}");
    }
}

/// The documents of a cluster image, as they would stand in JSON.
struct Documents {
    index: serde_json::Value,
    manifest: serde_json::Value,
    config: serde_json::Value,
    carrier: serde_json::Value,
}

impl Documents {
    fn read(store: &Store, image: &ClusterImage) -> Self {
        let read = |blob: &Blob| {
            serde_json::from_slice(&fs::read(store.path_of(&blob.digest)).unwrap()).unwrap()
        };
        Documents {
            index: read(&image.index),
            manifest: read(&image.rootfs[0].manifest),
            config: read(&image.rootfs[0].config),
            carrier: read(&image.images[0].manifest),
        }
    }

    /// Writes them with digests and sizes that are right.
    fn write(mut self, hold: &Hold) -> Blob {
        let put = |media_type: &str, value: &serde_json::Value| {
            hold.put(media_type, value.to_string().as_bytes()).unwrap()
        };
        let set = |place: &mut serde_json::Value, blob: Blob| {
            place["digest"] = blob.digest.to_string().into();
            place["size"] = blob.size.into();
        };
        set(
            &mut self.manifest["config"],
            put(media::CONFIG, &self.config),
        );
        set(
            &mut self.index["manifests"][0],
            put(media::MANIFEST, &self.manifest),
        );
        set(
            &mut self.index["manifests"][2],
            put(media::MANIFEST, &self.carrier),
        );
        put(media::INDEX, &self.index)
    }
}

#[test]
fn hostile_documents_are_refused() {
    type Change = fn(&mut Documents);
    let table: [(&str, Change); 22] = [
        ("not a cluster image", |d| {
            d.index["artifactType"] = "x/y".into()
        }),
        ("two rootfs for `linux/amd64`", |d| {
            d.index["manifests"][1] = d.index["manifests"][0].clone()
        }),
        ("has no platform", |d| {
            d.index["manifests"][0]
                .as_object_mut()
                .unwrap()
                .remove("platform");
        }),
        ("is for `linux/amd64`", |d| {
            d.index["manifests"][0]["platform"]["architecture"] = "arm64".into()
        }),
        ("not part of a platform", |d| {
            d.index["manifests"][0]["platform"]["architecture"] = "../x".into()
        }),
        ("index lists a", |d| {
            d.index["manifests"][0]["mediaType"] = media::DOCKER_MANIFEST.into()
        }),
        ("2 layers and 1 diff ids", |d| {
            d.config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
        }),
        ("no valid diff id", |d| {
            d.config["rootfs"]["diff_ids"][0] = "sha256:00".into()
        }),
        ("has no kind", |d| {
            d.manifest["layers"][0]
                .as_object_mut()
                .unwrap()
                .remove("annotations");
        }),
        ("has no valid kind", |d| {
            d.manifest["layers"][0]["annotations"][annotation::LAYER_KIND] = "root".into()
        }),
        ("is a `application/x-executable`", |d| {
            d.manifest["layers"][0]["mediaType"] = "application/x-executable".into()
        }),
        ("as configuration", |d| {
            d.manifest["config"]["mediaType"] = "x/y".into()
        }),
        ("not an environment variable", |d| {
            d.config["config"]["Env"] = serde_json::json!(["novalue"])
        }),
        ("is set twice", |d| {
            d.config["config"]["Env"] = serde_json::json!(["A=1", "A=2"])
        }),
        ("two container images", |d| {
            let again = d.index["manifests"][2].clone();
            d.index["manifests"].as_array_mut().unwrap().push(again);
        }),
        ("has no platform", |d| {
            d.index["manifests"][2]
                .as_object_mut()
                .unwrap()
                .remove("annotations");
        }),
        ("not fully qualified", |d| {
            d.index["manifests"][2]["annotations"][annotation::IMAGE_REFERENCE] = "pause".into()
        }),
        ("names another reference", |d| {
            d.index["manifests"][2]["annotations"][annotation::IMAGE_REFERENCE] = "a.b/c:1".into()
        }),
        ("another artifact type", |d| {
            d.carrier["artifactType"] = "x/y".into()
        }),
        ("has a configuration", |d| {
            d.carrier["config"]["size"] = 3.into()
        }),
        ("is empty", |d| d.carrier["layers"] = serde_json::json!([])),
        ("lists a blob twice", |d| {
            let again = d.carrier["layers"][1].clone();
            d.carrier["layers"].as_array_mut().unwrap().push(again);
        }),
    ];
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = builder(&hold).write(&hold).unwrap();
    let unchanged = Documents::read(&store, &image).write(&hold);
    assert_eq!(
        ClusterImage::open(&store, &unchanged).unwrap().images,
        image.images
    );
    for (expected, change) in table {
        let mut documents = Documents::read(&store, &image);
        change(&mut documents);
        // The second container image of the table is written as the first.
        let index = documents.write(&hold);
        let error = ClusterImage::open(&store, &index)
            .map(|_| panic!("{expected}"))
            .unwrap_err();
        let text: String = error.causes().map(|cause| format!("{cause}\n")).collect();
        assert!(text.contains(expected), "{text}, expected {expected}");
    }
}

#[test]
fn an_ordinary_image_is_not_a_cluster_image() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let (list, _) = docker_list(&hold);
    let error = ClusterImage::open(&store, &list).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.hints()[0].contains("chasi build"), "{error:?}");
}

#[test]
fn a_layer_is_read_with_its_name_and_checked() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let mut layer = layer(&hold, "usr/bin/a", LayerKind::Cni);
    layer
        .read(&store, Limits::default())
        .unwrap()
        .finish()
        .unwrap();
    layer.diff_id = Digest::of("other");
    let error = layer
        .read(&store, Limits::default())
        .unwrap()
        .finish()
        .unwrap_err();
    assert!(
        error
            .message()
            .starts_with(&format!("layer {} (cni): ", layer.blob.digest)),
        "{error}"
    );
}

#[test]
fn kinds_have_names() {
    for kind in LayerKind::ALL {
        assert_eq!(kind.name().parse::<LayerKind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    assert!("root".parse::<LayerKind>().is_err());
}

/// All places in a JSON value, as pointers.
fn pointers(value: &serde_json::Value, at: String, all: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                pointers(value, format!("{at}/{}", key.replace('/', "~1")), all);
            }
        }
        serde_json::Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                pointers(value, format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
    all.push(at);
}

#[test]
fn documents_with_any_value_anywhere_never_panic() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let image = builder(&hold).write(&hold).unwrap();
    let values = [
        serde_json::json!(null),
        serde_json::json!(-1),
        serde_json::json!("../../x"),
        serde_json::json!([]),
        serde_json::json!({"a": {}}),
    ];
    let mut refused = 0;
    for which in 0..3 {
        let place = |documents: &mut Documents| match which {
            0 => std::mem::take(&mut documents.manifest),
            1 => std::mem::take(&mut documents.config),
            _ => std::mem::take(&mut documents.carrier),
        };
        let mut all = Vec::new();
        pointers(
            &place(&mut Documents::read(&store, &image)),
            String::new(),
            &mut all,
        );
        for (number, pointer) in all.iter().enumerate() {
            let mut documents = Documents::read(&store, &image);
            let mut changed = place(&mut documents);
            *changed.pointer_mut(pointer).unwrap() = values[number % values.len()].clone();
            match which {
                0 => documents.manifest = changed,
                1 => documents.config = changed,
                _ => documents.carrier = changed,
            }
            // A document that is no object any more cannot be given its digests.
            if documents.manifest["config"].is_object() {
                let index = documents.write(&hold);
                refused += u32::from(ClusterImage::open(&store, &index).is_err());
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn sizes_without_compression_are_counted_once_and_kept() {
    let (_directory, store) = store();
    let hold = store.hold().unwrap();
    let layer = layer(&hold, "usr/bin/x", LayerKind::Os);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &[7; 300_000]).unwrap();
    let gzip = gzip.finish().unwrap();
    let contained = hold
        .put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip)
        .unwrap();
    let config = hold.put(media::CONFIG, b"{}").unwrap();
    let image = ClusterImage {
        digest: config.digest,
        index: config.clone(),
        rootfs: vec![Rootfs {
            platform: Platform::linux("amd64").unwrap(),
            manifest: config.clone(),
            config: config.clone(),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            layers: vec![layer.clone()],
        }],
        images: vec![ContainerImage {
            reference: "docker.io/library/x:1".parse().unwrap(),
            manifest: config.clone(),
            root: config.clone(),
            blobs: vec![config, contained.clone()],
        }],
    };
    let context = Context::silent();
    let sizes = image.unpacked_sizes(&context, &store).unwrap();
    assert_eq!(sizes.len(), 2, "documents are no layers");
    assert_eq!(sizes[&contained.digest], 300_000);
    // Blocks of 512 bytes: the directories, the file, its content and the end.
    assert_eq!(sizes[&layer.blob.digest] % 512, 0);
    assert!(sizes[&layer.blob.digest] > layer.blob.size);
    // The second time nothing is read.
    fs::write(store.path_of(&contained.digest), vec![0; gzip.len()]).unwrap();
    assert_eq!(image.unpacked_sizes(&context, &store).unwrap(), sizes);
    fs::remove_file(store.root().join(".chasi/sizes.json")).unwrap();
    assert_ne!(image.unpacked_sizes(&context, &store).unwrap(), sizes);
}
