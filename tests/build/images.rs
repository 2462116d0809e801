//! Container images, and cluster images that begin with or include others.

use serde_json::Value;

use crate::registry::Registry;
use crate::site::{Site, origins};

const BOTH: [&str; 2] = ["linux/amd64", "linux/arm64"];

fn named(summary: &Value) -> Vec<(String, Vec<String>)> {
    let images = summary["images"].as_array().unwrap().iter();
    images
        .map(|image| {
            let by = image["named_by"].as_array().unwrap().iter();
            (
                image["reference"].as_str().unwrap().to_owned(),
                by.map(|by| by.as_str().unwrap().to_owned()).collect(),
            )
        })
        .collect()
}

#[test]
fn container_images_are_kept_byte_for_byte_without_other_platforms() {
    let (site, registry) = (Site::new(), Registry::start());
    let oci = registry.push("app/oci", "1", &BOTH, false);
    let docker = registry.push("app/docker", "1", &BOTH, true);
    let host = &registry.address;
    site.kubefile(&format!(
        "FROM scratch\nIMAGE {host}/app/oci:1\nIMAGE {host}/app/docker:1@{}\n",
        docker.digest
    ));
    site.built(&["--platform", "linux/arm64"]);
    let image = site.image("site/image:1");
    let store = site.store();
    for (container, pushed) in image.images.iter().rev().zip([oci, docker]) {
        assert_eq!(container.root.digest, pushed.digest);
        let digests: Vec<_> = container.blobs.iter().map(|blob| blob.digest).collect();
        assert!(digests.contains(&pushed.manifests[1]) && !digests.contains(&pushed.manifests[0]));
        for blob in &container.blobs {
            store.read_verified(blob, 1 << 20).unwrap();
        }
    }
    assert!(image.images[0].root.media_type.contains("docker"));
}

#[test]
fn images_are_found_where_they_are_named_and_the_report_says_where() {
    let (site, registry) = (Site::new(), Registry::start());
    let host = &registry.address;
    for name in ["a", "b", "c", "d"] {
        registry.push(name, "1", &["linux/amd64"], false);
    }
    site.kubefile(&format!("FROM scratch\nIMAGE {host}/a:1\nIMAGES images.txt\nLAYER app\nCOPY chasi /chasi\n"))
        .file("images.txt", format!("# more\n{host}/b:1\n{host}/a:1\n"))
        .file(
            "chasi/manifests/pod.yaml",
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{image: '{host}/c:1'}}]}}\n"),
        )
        .file(
            "chasi/manifests/more.yaml.j2",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {{{{ name }}}}}}\nspec:\n  containers:\n  - image: {host}/d:1\n  - image: {{{{ image }}}}\n"
            ),
        )
        .file("etc/ignored.yaml", "image: not/this:1\n");
    let outcome = site.build(&["--platform", "linux/amd64"]);
    let summary = outcome.json();
    let context = site.context().display().to_string();
    assert_eq!(
        named(&summary),
        [
            (
                format!("{host}/a:1"),
                vec![
                    format!("{context}/Kubefile:2"),
                    format!("{context}/images.txt:3")
                ]
            ),
            (
                format!("{host}/b:1"),
                vec![format!("{context}/images.txt:2")]
            ),
            (
                format!("{host}/c:1"),
                vec!["chasi/manifests/pod.yaml: Pod p".to_owned()]
            ),
            (
                format!("{host}/d:1"),
                vec!["chasi/manifests/more.yaml.j2: Pod __EXPRESSION__".to_owned()]
            ),
        ]
    );
    assert_eq!(summary["unseen"].as_array().unwrap().len(), 1);
    assert!(
        outcome.stderr.contains("spec.containers[1].image"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_missing_image_is_an_error_that_says_who_names_it() {
    let (site, registry) = (Site::new(), Registry::start());
    let host = &registry.address;
    site.kubefile(&format!("FROM scratch\nIMAGE {host}/none:1\n"));
    site.build(&[]).fails(8, &["none:1"]);
    site.kubefile("FROM scratch\nLAYER app\nCOPY chasi /chasi\n").file(
        "chasi/manifests/pod.yaml",
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{image: '{host}/none:1'}}]}}\n"),
    );
    site.build(&[])
        .fails(8, &["none:1", "chasi/manifests/pod.yaml: Pod p"]);
    site.file("chasi/manifests/pod.yaml", "a: [\n");
    site.build(&[]).fails(3, &["pod.yaml` is not YAML"]);
    assert!(site.store().tags().unwrap().is_empty());
}

#[test]
fn a_tag_that_moved_is_refused_when_locked() {
    let (site, registry) = (Site::new(), Registry::start());
    let first = registry.push("app", "1", &["linux/amd64"], false);
    site.kubefile(&format!("FROM scratch\nIMAGE {}/app:1\n", registry.address));
    site.built(&["--platform", "linux/amd64"]);
    site.built(&["--platform", "linux/amd64", "--locked"]);
    let second = registry.push("app", "1", &BOTH, false);
    let outcome = site.build(&["--platform", "linux/amd64", "--locked"]);
    outcome.fails(7, &[&first.digest.to_string(), &second.digest.to_string()]);
    site.built(&["--platform", "linux/amd64"]);
    site.built(&["--platform", "linux/amd64", "--locked"]);
    // Another platform was never locked.
    site.build(&["--platform", "linux/arm64", "--locked"])
        .fails(4, &["is not in"]);
}

#[test]
fn mirrors_of_references_change_where_from_and_not_what() {
    let (site, registry) = (Site::new(), Registry::start());
    let pushed = registry.push("hub/library/app", "1", &["linux/amd64"], true);
    site.kubefile("FROM scratch\nIMAGE app:1\n");
    let rule = format!("docker.io=http://{}/hub", registry.address);
    let summary = site.built(&["--platform", "linux/amd64", "--mirror", &rule]);
    assert_eq!(summary["images"][0]["reference"], "docker.io/library/app:1");
    assert_eq!(summary["images"][0]["digest"], pushed.digest.to_string());
    let config = site.path("config.yaml");
    std::fs::write(
        &config,
        format!(
            "mirrors:\n  - {{from: docker.io, to: 'http://{}/hub'}}\n",
            registry.address
        ),
    )
    .unwrap();
    let mut command = site.command(crate::site::chasi());
    command
        .env("CHASI_CONFIG", &config)
        .args([
            "build",
            "--platform",
            "linux/amd64",
            "--no-cache",
            "-t",
            "b:1",
        ])
        .arg(site.context());
    command.assert().success();
    std::fs::write(&config, "mirrors:\n  - {form: docker.io}\n").unwrap();
    let outcome = crate::site::Outcome::of(&mut command);
    outcome.fails(3, &["is not a configuration file", "form"]);
}

#[test]
fn cluster_images_are_begun_with_and_included() {
    let (site, registry) = (Site::new(), Registry::start());
    let host = &registry.address;
    registry.push("a", "1", &["linux/amd64"], false);
    registry.push("b", "1", &["linux/amd64"], false);
    let build = |name: &str, text: &str| {
        site.kubefile(text)
            .build_as(name, &["--platform", "linux/amd64"])
            .json()
    };
    site.file("x", "x").file("y", "y").file("z", "z");
    build(
        "site/base:1",
        &format!(
            "FROM scratch\nLABEL org.opencontainers.image.title=base dev.chasi.distribution=kubeadm\nENV A=base B=base\nIMAGE {host}/a:1\nLAYER os\nCOPY x etc/x\nCOPY x etc/all\n"
        ),
    );
    build(
        "site/more:1",
        &format!(
            "FROM site/base:1\nLABEL org.opencontainers.image.title=more one=more\nENV B=more\nIMAGE {host}/b:1\nLAYER cni\nCOPY y etc/y\nCOPY y etc/all\n"
        ),
    );
    let summary = build(
        "site/all:1",
        "FROM site/base:1\nINCLUDE site/more:1\nENV C=all\nLAYER app\nCOPY z etc/z\n",
    );
    assert_eq!(origins(&summary), [1, 0, 2]);
    let image = site.image("site/all:1");
    let rootfs = &image.rootfs[0];
    let kinds: Vec<_> = rootfs
        .layers
        .iter()
        .map(|layer| layer.kind.name())
        .collect();
    assert_eq!(kinds, ["os", "cni", "app"]);
    assert_eq!(rootfs.labels["org.opencontainers.image.title"], "base");
    assert_eq!(
        (
            rootfs.labels["one"].as_str(),
            rootfs.env["B"].as_str(),
            rootfs.env["C"].as_str()
        ),
        ("more", "more", "all")
    );
    assert_eq!(image.images.len(), 2);
    assert_eq!(
        site.tree("site/all:1")[1],
        ("etc/all".into(), "f 644 0:0 y".into())
    );
    let built = &summary["images"][0]["named_by"];
    assert_eq!(built[0], "included from site/base:1");
    let arm = site
        .kubefile("FROM site/base:1\n")
        .build(&["--platform", "linux/arm64"]);
    arm.fails(
        8,
        &[
            "`site/base:1` has nothing for `linux/arm64`",
            "it was built for `linux/amd64`",
        ],
    );
    let none = site
        .kubefile(&format!("FROM scratch\nINCLUDE {host}/none:1\n"))
        .build(&[]);
    none.fails(8, &["none:1", "is not in the store either"]);
}

#[test]
fn images_that_do_not_go_together_are_refused() {
    let site = Site::new();
    for version in ["1.33", "1.34"] {
        site.kubefile(&format!(
            "FROM scratch\nLABEL dev.chasi.kubernetes.version={version}\n"
        ));
        site.build_as(&format!("site/kubernetes:{version}"), &[])
            .json();
    }
    let text = "FROM site/kubernetes:1.33\nINCLUDE site/kubernetes:1.34\n";
    site.kubefile(text).build(&[]).fails(
        3,
        &[
            "`1.33` in `site/kubernetes:1.33`",
            "`1.34` in `site/kubernetes:1.34`",
        ],
    );
    site.kubefile(&format!("{text}LABEL dev.chasi.kubernetes.version=1.34\n"))
        .built(&[]);
}
