//! Pull and push with Debian's registry and with skopeo.

use std::collections::BTreeSet;
use std::fs;

use chasi::digest::Digest;
use chasi::error::Kind;
use chasi::event::Context;
use chasi::oci::mirror::Mirrors;
use chasi::oci::registry::{Client, Settings};
use chasi::oci::{Blob, Platform};

use crate::support::{Registry, User, container_image, reference, run, script};

fn amd64() -> [Platform; 1] {
    [Platform::linux("amd64").unwrap()]
}

fn digests(blobs: &[Blob]) -> BTreeSet<Digest> {
    blobs.iter().map(|blob| blob.digest).collect()
}

#[test]
fn a_cluster_image_goes_to_a_registry_and_comes_back() {
    let registry = Registry::start();
    let from = User::new();
    let image = from.with_image("demo:1", 1);
    let name = format!("{}/site/demo:1", registry.address);
    assert_eq!(
        from.json(&["push", "demo:1", &name])["digest"],
        image.digest.to_string()
    );
    let there = registry.blobs();
    // Again: nothing is sent.
    from.run(&["push", &image.digest.to_string(), &name]);
    assert_eq!(registry.blobs(), there);

    let to = User::new();
    let pulled = to.json(&["pull", &name]);
    assert_eq!(pulled["digest"], image.digest.to_string());
    assert_eq!(
        to.json(&["inspect", &name])["digest"],
        image.digest.to_string()
    );
    assert_eq!(to.json(&["fsck"])["findings"], serde_json::json!([]));
    assert_eq!(to.json(&["prune"])["blobs"], 0);

    // What was lost is fetched again, and only that.
    let lost = &image.rootfs[0].layers[0].blob;
    fs::remove_file(to.store().path_of(&lost.digest)).unwrap();
    to.fails(&["fsck"], 7);
    to.run(&["pull", &name]);
    assert_eq!(to.json(&["fsck"])["findings"], serde_json::json!([]));

    // By digest, whatever the tag stands for by now.
    let pinned = format!("{}/site/demo:old@{}", registry.address, image.digest);
    let other = User::new();
    assert_eq!(
        other.json(&["pull", &pinned])["digest"],
        image.digest.to_string()
    );
    let old = format!("{}/site/demo:old", registry.address);
    for name in [&pinned, &old] {
        assert_eq!(
            other.json(&["inspect", name])["digest"],
            image.digest.to_string()
        );
    }
    let nameless = format!("{}/site/demo@{}", registry.address, image.digest);
    let said = other.fails(&["pull", &nameless], 2);
    assert!(said.contains("would have no name"), "{said}");

    // And the world's tools agree.
    let directory = from.path("dir");
    let source = format!("docker://{name}");
    let target = format!("dir:{}", directory.display());
    run(
        "skopeo",
        &["copy", "--all", "--src-tls-verify=false", &source, &target],
    );
    let manifest = fs::read(directory.join("manifest.json")).unwrap();
    assert_eq!(Digest::of(manifest), image.digest);
}

#[test]
fn skopeo_moves_a_cluster_image_to_a_registry() {
    let registry = Registry::start();
    let from = User::new();
    let hold = from.store().hold().unwrap();
    let (root, blobs) = container_image(&hold, false, &["amd64"], 1);
    let mut builder = chasi::oci::image::Builder::new();
    let layer = crate::support::layer(&hold, chasi::oci::image::LayerKind::App, "opt/x", b"x");
    builder.rootfs(
        amd64()[0].clone(),
        Default::default(),
        Default::default(),
        vec![layer],
    );
    builder
        .image(reference("busybox:1.37"), root, blobs)
        .unwrap();
    let image = builder.write(&hold).unwrap();
    hold.tag(&reference("demo:1"), &image.index).unwrap();
    let file = from.path("demo.tar").display().to_string();
    from.run(&["save", "demo:1", "-o", &file]);
    let name = format!("{}/site/demo:1", registry.address);
    let source = format!("oci-archive:{file}");
    let target = format!("docker://{name}");
    run(
        "skopeo",
        &["copy", "--all", "--dest-tls-verify=false", &source, &target],
    );
    assert_eq!(
        User::new().json(&["pull", &name])["digest"],
        image.digest.to_string()
    );
}

#[tokio::test]
async fn container_images_keep_every_byte() {
    let registry = Registry::start();
    let from = User::new();
    let hold = from.store().hold().unwrap();
    let ctx = Context::silent();
    let client = Client::new(Settings::default());
    for oci in [false, true] {
        let (root, blobs) = container_image(&hold, oci, &["amd64", "arm64"], 3);
        let name = reference(&format!("{}/library/image:{oci}", registry.address));
        client.push(&ctx, &hold, &root, &name).await.unwrap();
        for name in [name.clone(), name.with_digest(root.digest)] {
            let to = User::new();
            let to = to.store().hold().unwrap();
            let pulled = client
                .pull_container_image(&ctx, &to, &name, &amd64())
                .await
                .unwrap();
            assert_eq!(pulled.root, root);
            assert_eq!(pulled.blobs[0], root);
            // The index, and of its two manifests one with what belongs to it.
            let mut expected = digests(&blobs[..3]);
            expected.insert(root.digest);
            assert_eq!(digests(&pulled.blobs), expected);
            for blob in &pulled.blobs {
                assert_eq!(
                    to.read_verified(blob, 1 << 20).unwrap(),
                    hold.read_verified(blob, 1 << 20).unwrap()
                );
            }
            let both = [
                Platform::linux("amd64").unwrap(),
                Platform::linux("arm64").unwrap(),
            ];
            let pulled = client
                .pull_container_image(&ctx, &to, &name, &both)
                .await
                .unwrap();
            assert_eq!(pulled.blobs.len(), 7);
            let s390x = [Platform::linux("s390x").unwrap()];
            let error = client
                .pull_container_image(&ctx, &to, &name, &s390x)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(
                error.message().ends_with("is not made for `linux/s390x`"),
                "{error}"
            );
            assert_eq!(error.hints(), ["it is made for linux/amd64, linux/arm64"]);
        }
        // A manifest alone, by its digest.
        let manifest = &blobs[2];
        let to = User::new();
        let to = to.store().hold().unwrap();
        let single = name.with_digest(manifest.digest);
        let pulled = client
            .pull_container_image(&ctx, &to, &single, &amd64())
            .await
            .unwrap();
        assert_eq!(
            (pulled.root.digest, pulled.blobs.len()),
            (manifest.digest, 3)
        );
        let arm64 = [Platform::linux("arm64").unwrap()];
        let error = client
            .pull_container_image(&ctx, &to, &single, &arm64)
            .await
            .unwrap_err();
        assert!(
            error.message().ends_with("is not made for `linux/arm64`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn mirrors_lead_elsewhere_and_names_stay() {
    let registry = Registry::start();
    let from = User::new();
    let hold = from.store().hold().unwrap();
    let ctx = Context::silent();
    let (root, _) = container_image(&hold, false, &["amd64", "arm64"], 4);
    let real = reference(&format!("{}/mirror/k8s/pause:3.10.1", registry.address));
    Client::new(Settings::default())
        .push(&ctx, &hold, &root, &real)
        .await
        .unwrap();
    let mut mirrors = Mirrors::new();
    mirrors
        .add(
            "registry.k8s.io",
            &format!("http://{}/mirror/k8s", registry.address),
        )
        .unwrap();
    let client = Client::new(Settings {
        mirrors,
        ..Settings::default()
    });
    let to = User::new();
    let to = to.store().hold().unwrap();
    let name = reference("registry.k8s.io/pause:3.10.1");
    let pulled = client
        .pull_container_image(&ctx, &to, &name, &amd64())
        .await
        .unwrap();
    assert_eq!(pulled.root.digest, root.digest);

    // As the command line and the configuration file say it.
    let user = User::new();
    let image = user.with_image("demo:1", 1);
    fs::write(
        user.path("config.yaml"),
        format!(
            "mirrors:\n  - from: images.example.com\n    to: http://{}/m\n",
            registry.address
        ),
    )
    .unwrap();
    user.run(&["push", "demo:1", "images.example.com/demo:1"]);
    fs::write(user.path("config.yaml"), "").unwrap();
    let rule = format!("images.example.com=http://{}/m", registry.address);
    user.run(&["rmi", "demo:1"]);
    let pulled = user.json(&["pull", "images.example.com/demo:1", "--mirror", &rule]);
    assert_eq!(pulled["digest"], image.digest.to_string());
    assert_eq!(pulled["reference"], "images.example.com/demo:1");
}

#[test]
fn what_is_not_there_is_said() {
    let registry = Registry::start();
    let user = User::new();
    let said = user.fails(&["pull", &format!("{}/nothing:1", registry.address)], 8);
    assert!(
        said.contains("answers 404") && said.contains("MANIFEST_UNKNOWN"),
        "{said}"
    );
    // An ordinary image is not a cluster image.
    let hold = user.store().hold().unwrap();
    let (root, _) = container_image(&hold, false, &["amd64", "arm64"], 5);
    hold.tag(&reference("ordinary:1"), &root).unwrap();
    let name = format!("{}/ordinary:1", registry.address);
    user.run(&["push", "ordinary:1", &name]);
    let said = User::new().fails(&["pull", &name], 3);
    assert!(said.contains("not a cluster image"), "{said}");
}

/// `chasi` with the password `abc`; a test vector of bcrypt.
const HTPASSWD: &str = "chasi:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i\n";

#[test]
fn credentials_come_from_dockers_and_skopeos_files_and_helpers() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
    let registry = Registry::start_in(
        directory,
        "auth: {htpasswd: {realm: test, path: $DIR/htpasswd}}",
        "",
    );
    let user = User::new();
    user.with_image("demo:1", 1);
    let name = format!("{}/site/demo:1", registry.address);
    let said = user.fails(&["push", "demo:1", &name], 9);
    assert!(
        said.contains("skopeo login") && said.contains(&registry.address),
        "{said}"
    );

    // base64 of `chasi:wrong` and of `chasi:abc`
    let auths = |auth: &str| {
        format!(
            r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
            registry.address
        )
    };
    fs::create_dir_all(user.path(".docker")).unwrap();
    fs::write(user.path(".docker/config.json"), auths("Y2hhc2k6d3Jvbmc=")).unwrap();
    let said = user.fails(&["push", "demo:1", &name], 9);
    assert!(
        said.contains("answers 401") && !said.contains("wrong") && !said.contains("Y2hhc2k6"),
        "{said}"
    );
    fs::write(user.path(".docker/config.json"), auths("Y2hhc2k6YWJj")).unwrap();
    user.run(&["push", "demo:1", &name]);

    fs::remove_dir_all(user.path(".docker")).unwrap();
    fs::create_dir_all(user.path(".config/containers")).unwrap();
    fs::write(
        user.path(".config/containers/auth.json"),
        auths("Y2hhc2k6YWJj"),
    )
    .unwrap();
    user.run(&["pull", &name]);

    fs::create_dir_all(user.path("docker")).unwrap();
    fs::create_dir_all(user.path("bin")).unwrap();
    script(
        &user.path("bin/docker-credential-test"),
        "#!/bin/sh\nread server\necho \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"chasi\\\",\\\"Secret\\\":\\\"abc\\\"}\"\n",
    );
    fs::write(user.path("docker/config.json"), r#"{"credsStore": "test"}"#).unwrap();
    fs::remove_dir_all(user.path(".config")).unwrap();
    let path = format!(
        "{}:{}",
        user.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let output = user
        .chasi(&["pull", &name])
        .env("DOCKER_CONFIG", user.path("docker"))
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", crate::support::said(&output));
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    parameters
        .subject_alt_names
        .push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(directory.path().join("crt"), certificate.pem()).unwrap();
    fs::write(directory.path().join("key"), key.serialize_pem()).unwrap();
    let tls = "  tls: {certificate: $DIR/crt, key: $DIR/key}";
    let registry = Registry::start_in(directory, "", tls);
    let host = registry.address.replace("127.0.0.1", "localhost");
    let user = User::new();
    let image = user.with_image("demo:1", 1);
    let name = format!("{host}/site/demo:1");
    let config = |text: String| fs::write(user.path("config.yaml"), text).unwrap();

    // On loopback plain HTTP is the default, and this registry does not speak it.
    user.fails(&["push", "demo:1", &name], 1);
    // With another authority: no second try, and the way out.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(user.path("other.pem"), other.cert.pem()).unwrap();
    config(format!("registries:\n  \"{host}\": {{ca: other.pem}}\n"));
    let said = user.fails(&["push", "demo:1", &name], 9);
    assert!(
        said.contains("certificate") && said.contains("certs.d"),
        "{said}"
    );

    fs::write(user.path("own.pem"), certificate.pem()).unwrap();
    config(format!("registries:\n  \"{host}\": {{ca: own.pem}}\n"));
    user.run(&["push", "demo:1", &name]);
    config(format!("registries:\n  \"{host}\": {{insecure: true}}\n"));
    assert_eq!(
        user.json(&["pull", &name])["digest"],
        image.digest.to_string()
    );
    // Insecure allows plain HTTP as well.
    let plain = Registry::start();
    let host = plain.address.clone();
    config(format!("registries:\n  \"{host}\": {{insecure: true}}\n"));
    user.run(&["push", "demo:1", &format!("{host}/x:1")]);
}

#[test]
fn a_pull_that_was_killed_goes_on() {
    let registry = Registry::start();
    let from = User::new();
    let image = from.with_image("demo:1", 1);
    let name = format!("{}/site/demo:1", registry.address);
    from.run(&["push", "demo:1", &name]);
    let to = User::new();
    for round in 0..8 {
        let mut pull = to
            .chasi(&["pull", &name])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 * round));
        pull.kill().unwrap();
        pull.wait().unwrap();
        assert_eq!(to.json(&["fsck"])["findings"], serde_json::json!([]));
    }
    to.run(&["pull", &name]);
    assert_eq!(
        to.json(&["inspect", &name])["digest"],
        image.digest.to_string()
    );
}
