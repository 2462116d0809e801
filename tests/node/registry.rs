//! The node-local registry: what container runtimes ask of it, what skopeo copies
//! from it, and what it refuses to do for clients that mean no good.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::TryRecvError;

use chasi::digest::Digest;
use chasi::host::Recipe;
use chasi::host::generation::Manifest;
use chasi::oci::image::{Builder, Layer, LayerKind};
use chasi::oci::layer::{Meta, Writer};
use chasi::oci::store::Hold;
use chasi::oci::{Blob, Store, media};

use crate::host::{Node, PATIENCE, eventually};

/// A container image for one platform, as Docker pushes it: a list, pinned by
/// digest or not, whose other platforms were left out.
struct Image {
    list: Blob,
    manifest: Blob,
    layer: Blob,
    blobs: Vec<Blob>,
}

/// Content that does not repeat, so that a mixed up part shows.
fn content(name: &str, size: usize) -> Vec<u8> {
    let mut content = Vec::new();
    for number in 0.. {
        if content.len() >= size {
            break;
        }
        content.extend_from_slice(Digest::of(format!("{name} {number}")).hex().as_bytes());
    }
    content.truncate(size);
    content
}

fn image(hold: &Hold, name: &str, layer_size: usize, others: &[Blob]) -> Image {
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}}, "rootfs": {"type": "layers", "diff_ids": [Digest::of(name)]}});
    let config = hold
        .put(
            "application/vnd.docker.container.image.v1+json",
            config.to_string().as_bytes(),
        )
        .unwrap();
    let layer = hold
        .put(
            "application/vnd.docker.image.rootfs.diff.tar",
            &content(name, layer_size),
        )
        .unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST, "config": config, "layers": [layer]});
    // White space that no library would write: bytes must survive, not meaning.
    let manifest = format!(" {manifest}\n");
    let manifest = hold
        .put(media::DOCKER_MANIFEST, manifest.as_bytes())
        .unwrap();
    let entry = |blob: &Blob, architecture: &str| serde_json::json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size, "platform": {"architecture": architecture, "os": "linux"}});
    let mut entries = vec![entry(&manifest, "amd64")];
    entries.extend(others.iter().map(|other| entry(other, "s390x")));
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": media::DOCKER_LIST, "manifests": entries});
    let list = hold
        .put(media::DOCKER_LIST, list.to_string().as_bytes())
        .unwrap();
    Image {
        blobs: vec![list.clone(), manifest.clone(), config, layer.clone()],
        list,
        manifest,
        layer,
    }
}

/// Writes a cluster image with these container images into the host's store.
fn cluster_image(node: &Node, name: &str, images: &[(&str, &Image)]) {
    let hold = store(node);
    let path = format!("usr/bin/{name}").parse().unwrap();
    let secret = b"secret of the cluster";
    let mut writer = Writer::new(hold.writer().unwrap(), 1).unwrap();
    writer
        .file(&path, &Meta::new(0o755), secret.len() as u64, &secret[..])
        .unwrap();
    let written = writer.finish().unwrap();
    let layer = Layer {
        blob: written.out.commit(media::LAYER_ZSTD).unwrap(),
        diff_id: written.diff_id,
        kind: LayerKind::App,
    };
    let mut builder = Builder::new();
    builder.rootfs(
        "linux/amd64".parse().unwrap(),
        BTreeMap::new(),
        BTreeMap::new(),
        vec![layer],
    );
    for (reference, image) in images {
        builder
            .image(
                reference.parse().unwrap(),
                image.list.clone(),
                image.blobs.clone(),
            )
            .unwrap();
    }
    let image = builder.write(&hold).unwrap();
    hold.tag(&name.parse().unwrap(), &image.index).unwrap();
}

fn store(node: &Node) -> Hold {
    Store::create(&node.path("var/lib/chasi/store"))
        .unwrap()
        .hold()
        .unwrap()
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> String {
        let error: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        error["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Asks with exactly these bytes before the end of the head.
fn ask(node: &Node, request: &str) -> Answer {
    let mut stream = TcpStream::connect(node.registry()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{request}\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    read(&mut stream).unwrap_or_else(|| panic!("no answer to {request}"))
}

fn get(node: &Node, target: &str) -> Answer {
    ask(node, &format!("GET {target} HTTP/1.1"))
}

fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Some(Answer {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    })
}

/// A running host with `registry.k8s.io/pause:3.10.1` and an image that is pinned.
fn host() -> (Node, Image, Image) {
    let mut node = Node::new();
    let hold = store(&node);
    let pause = image(&hold, "pause", 300_000, &[]);
    let pinned = image(
        &hold,
        "pinned",
        10,
        &[Blob::of(media::DOCKER_MANIFEST, b"left out")],
    );
    let reference = format!("quay.io/a/b/c@{}", pinned.list.digest);
    cluster_image(
        &node,
        "demo",
        &[
            ("registry.k8s.io/pause:3.10.1", &pause),
            (&reference, &pinned),
        ],
    );
    node.start();
    (node, pause, pinned)
}

#[test]
fn containerd_finds_an_image_by_its_original_name() {
    let (node, pause, pinned) = host();
    // As containerd's resolver and fetcher ask.
    let head = ask(
        &node,
        "HEAD /v2/pause/manifests/3.10.1?ns=registry.k8s.io HTTP/1.1",
    );
    assert_eq!(head.status, 200);
    assert_eq!(
        head.headers["docker-content-digest"],
        pause.list.digest.to_string()
    );
    assert_eq!(head.headers["content-type"], media::DOCKER_LIST);
    assert_eq!(head.headers["content-length"], pause.list.size.to_string());
    assert!(head.body.is_empty());
    for (target, blob, media_type) in [
        ("manifests", &pause.list, media::DOCKER_LIST),
        ("manifests", &pause.manifest, media::DOCKER_MANIFEST),
        ("blobs", &pause.layer, "application/octet-stream"),
        ("blobs", &pause.manifest, "application/octet-stream"),
    ] {
        let answer = get(
            &node,
            &format!("/v2/pause/{target}/{}?ns=registry.k8s.io", blob.digest),
        );
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(Digest::of(&answer.body), blob.digest);
        assert_eq!(answer.headers["content-type"], media_type);
        assert_eq!(
            answer.headers["docker-content-digest"],
            blob.digest.to_string()
        );
        assert_eq!(answer.headers["etag"], format!("\"{}\"", blob.digest));
    }
    let list = get(
        &node,
        &format!("/v2/a/b/c/manifests/{}?ns=quay.io", pinned.list.digest),
    );
    assert_eq!(Digest::of(&list.body), pinned.list.digest);
}

#[test]
fn plain_clients_put_the_registry_into_the_path() {
    let (node, pause, _) = host();
    let base = get(&node, "/v2/");
    assert_eq!((base.status, base.body.as_slice()), (200, &b"{}"[..]));
    assert_eq!(
        base.headers["docker-distribution-api-version"],
        "registry/2.0"
    );
    let answer = get(&node, "/v2/registry.k8s.io/pause/manifests/3.10.1");
    assert_eq!(Digest::of(&answer.body), pause.list.digest);
    let tags = get(&node, "/v2/registry.k8s.io/pause/tags/list");
    assert_eq!(
        tags.body,
        br#"{"name":"registry.k8s.io/pause","tags":["3.10.1"]}"#
    );
    let pinned = get(&node, "/v2/quay.io/a/b/c/tags/list");
    assert_eq!(pinned.body, br#"{"name":"quay.io/a/b/c","tags":[]}"#);
}

#[test]
fn skopeo_copies_every_byte() {
    let (node, pause, _) = host();
    let target = node.path("copy");
    let output = Command::new("skopeo")
        .args([
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
        ])
        .arg(format!(
            "docker://{}/registry.k8s.io/pause:3.10.1",
            node.registry()
        ))
        .arg(format!("dir:{}", target.display()))
        .output()
        .expect("skopeo is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list = std::fs::read(target.join("manifest.json")).unwrap();
    assert_eq!(Digest::of(list), pause.list.digest);
    for blob in &pause.blobs[1..] {
        let copied = [
            blob.digest.hex(),
            format!("{}.manifest.json", blob.digest.hex()),
        ]
        .iter()
        .find_map(|name| std::fs::read(target.join(name)).ok())
        .unwrap();
        assert_eq!(Digest::of(copied), blob.digest);
    }
}

#[test]
fn what_is_not_there_is_answered_in_the_specifications_words() {
    let (node, pause, pinned) = host();
    let (known, unknown) = (pause.layer.digest, Digest::of("unknown"));
    for (target, status, code) in [
        (
            "/v2/pause/manifests/3.9?ns=registry.k8s.io".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/pause/manifests/3.10.1?ns=docker.io".to_owned(),
            404,
            "NAME_UNKNOWN",
        ),
        ("/v2/pause/manifests/3.10.1".to_owned(), 404, "NAME_UNKNOWN"),
        (
            format!("/v2/registry.k8s.io/pause/manifests/{unknown}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/registry.k8s.io/pause/manifests/{known}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/registry.k8s.io/pause/blobs/{unknown}"),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            format!("/v2/registry.k8s.io/pause/blobs/{}", pinned.layer.digest),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            format!("/v2/registry.k8s.io/other/blobs/{known}"),
            404,
            "NAME_UNKNOWN",
        ),
        (
            "/v2/registry.k8s.io/other/tags/list".to_owned(),
            404,
            "NAME_UNKNOWN",
        ),
        (
            "/v2/registry.k8s.io/pause/blobs/sha256:1".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "/v2/registry.k8s.io/PAUSE/manifests/1".to_owned(),
            400,
            "NAME_INVALID",
        ),
        ("/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
        ("/".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let answer = get(&node, &target);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{target}"
        );
        assert_eq!(answer.headers["content-type"], "application/json");
        let head = ask(&node, &format!("HEAD {target} HTTP/1.1"));
        assert_eq!((head.status, head.body.len()), (status, 0), "{target}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "NONSENSE"] {
        let answer = ask(
            &node,
            &format!("{method} /v2/registry.k8s.io/pause/blobs/uploads/ HTTP/1.1"),
        );
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "UNSUPPORTED"),
            "{method}"
        );
        assert_eq!(answer.headers["allow"], "GET, HEAD");
    }
}

#[test]
fn the_clusters_own_layers_are_not_served() {
    let (node, _, _) = host();
    let store = Store::open(&node.path("var/lib/chasi/store")).unwrap();
    let (_, index) = store.tags().unwrap().remove(0);
    let image = chasi::oci::ClusterImage::open(&store, &index).unwrap();
    let layer = &image.rootfs[0].layers[0].blob;
    for digest in [layer.digest, index.digest, image.images[0].manifest.digest] {
        let answer = get(&node, &format!("/v2/registry.k8s.io/pause/blobs/{digest}"));
        assert_eq!(answer.status, 404);
    }
}

#[test]
fn a_part_of_a_blob_can_be_had() {
    let (node, pause, _) = host();
    let whole = content("pause", 300_000);
    let part = |range: &str, more: &str| {
        let target = format!("/v2/pause/blobs/{}?ns=registry.k8s.io", pause.layer.digest);
        ask(
            &node,
            &format!("GET {target} HTTP/1.1\r\nrange: {range}{more}"),
        )
    };
    for (range, from, to) in [
        ("bytes=0-", 0, 300_000),
        ("bytes=131071-131072", 131_071, 131_073),
        ("bytes=200000-", 200_000, 300_000),
        ("bytes=299999-400000", 299_999, 300_000),
        ("bytes=-7", 299_993, 300_000),
    ] {
        let answer = part(range, "");
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(
            answer.headers["content-range"],
            format!("bytes {from}-{}/300000", to - 1)
        );
        assert_eq!(answer.headers["content-length"], (to - from).to_string());
        assert!(answer.body == whole[from..to], "{range}");
    }
    let beyond = part("bytes=300000-", "");
    assert_eq!(
        (beyond.status, beyond.code().as_str()),
        (416, "SIZE_INVALID")
    );
    assert_eq!(beyond.headers["content-range"], "bytes */300000");
    for answer in [
        part("bytes=0-1,5-6", ""),
        part("lines=1-", ""),
        part("bytes=0-1", "\r\nif-range: \"other\""),
    ] {
        assert_eq!(answer.status, 200);
        assert!(answer.body == whole);
    }
    let same = format!("\r\nif-range: \"{}\"", pause.layer.digest);
    assert_eq!(part("bytes=0-1", &same).status, 206);
    let known = format!("\r\nif-none-match: \"{}\"", pause.layer.digest);
    assert_eq!(part("bytes=0-1", &known).status, 304);
}

#[test]
fn a_new_image_is_served_without_a_restart() {
    let mut node = Node::new();
    node.start();
    let target = "/v2/a/manifests/1?ns=one.example";
    assert_eq!(get(&node, target).status, 404, "there is no store yet");
    let hold = store(&node);
    let (one, two) = (image(&hold, "one", 10, &[]), image(&hold, "two", 10, &[]));
    cluster_image(&node, "first", &[("one.example/a:1", &one)]);
    assert_eq!(Digest::of(get(&node, target).body), one.list.digest);
    cluster_image(
        &node,
        "second",
        &[("one.example/a:1", &two), ("two.example/b", &two)],
    );
    assert_eq!(
        Digest::of(get(&node, "/v2/b/manifests/latest?ns=two.example").body),
        two.list.digest
    );
    let status = node.status().registry;
    let images: Vec<String> = status.images.iter().map(ToString::to_string).collect();
    assert_eq!(images, ["one.example/a:1", "two.example/b:latest"]);
    assert_eq!((status.conflicts.len(), status.problem), (1, None));
    hold.untag(&"first".parse().unwrap()).unwrap();
    assert_eq!(Digest::of(get(&node, target).body), two.list.digest);
    assert!(node.status().registry.conflicts.is_empty());
}

#[test]
fn a_tag_means_what_the_running_generation_says() {
    let mut node = Node::new();
    let hold = store(&node);
    let (one, two) = (image(&hold, "one", 10, &[]), image(&hold, "two", 10, &[]));
    cluster_image(&node, "first", &[("a.example/a:1", &one)]);
    cluster_image(&node, "second", &[("a.example/a:1", &two)]);
    node.start();
    let served = || Digest::of(get(&node, "/v2/a/manifests/1?ns=a.example").body);
    assert_eq!(served(), one.list.digest);
    run_generation(&node, 1, "second");
    assert_eq!(served(), two.list.digest);
    let hidden = node.status().registry.conflicts.remove(0).hidden;
    assert_eq!(hidden, one.list.digest);
    run_generation(&node, 2, "first");
    assert_eq!(served(), one.list.digest);
    // A generation that cannot be read is told, and the registry goes on.
    std::fs::write(node.path("var/lib/chasi/generations/3"), b"").unwrap();
    chasi::file::link(
        &node.path("var/lib/chasi/node"),
        Path::new("generations/3/tree"),
    )
    .unwrap();
    assert_eq!(get(&node, "/v2/a/manifests/1?ns=a.example").status, 200);
}

/// Lets the host run a generation made from a cluster image of its store.
fn run_generation(node: &Node, number: u64, image: &str) {
    let (_, index) = store(node)
        .tags()
        .unwrap()
        .into_iter()
        .find(|(name, _)| name.familiar() == image)
        .unwrap();
    let recipe = Recipe {
        image: index.digest,
        platform: "linux/amd64".parse().unwrap(),
        kubernetes: None,
        layers: Vec::new(),
        context: serde_json::json!({}),
        files: Vec::new(),
        blocks: Vec::new(),
        directories: Vec::new(),
        source: serde_json::Value::Null,
    };
    let manifest = Manifest {
        format: 1,
        identity: Digest::of(image),
        recipe,
        tree: BTreeMap::new(),
        host: BTreeMap::new(),
        units: Vec::new(),
    };
    let directory = node.path(&format!("var/lib/chasi/generations/{number}"));
    std::fs::create_dir_all(directory.join("tree")).unwrap();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(directory.join("manifest.json"), manifest).unwrap();
    let target = format!("generations/{number}/tree");
    chasi::file::link(&node.path("var/lib/chasi/node"), Path::new(&target)).unwrap();
}

#[test]
fn damage_is_told_and_hides_nothing_else() {
    let (node, pause, pinned) = host();
    let blob = |blob: &Blob| {
        node.path("var/lib/chasi/store/blobs/sha256")
            .join(blob.digest.hex())
    };
    // A layer that is gone, and one that is shorter than it says.
    std::fs::remove_file(blob(&pinned.layer)).unwrap();
    let target = format!("/v2/a/b/c/blobs/{}?ns=quay.io", pinned.layer.digest);
    assert_eq!(get(&node, &target).code(), "BLOB_UNKNOWN");
    assert_eq!(ask(&node, &format!("HEAD {target} HTTP/1.1")).status, 404);
    std::fs::write(blob(&pause.layer), b"short").unwrap();
    let target = format!("/v2/pause/blobs/{}?ns=registry.k8s.io", pause.layer.digest);
    assert_eq!(get(&node, &target).status, 500);
    assert_eq!(
        get(&node, "/v2/pause/manifests/3.10.1?ns=registry.k8s.io").status,
        200
    );
    // A cluster image that cannot be read, beside one that can.
    let hold = store(&node);
    let other = image(&hold, "other", 10, &[]);
    cluster_image(&node, "other", &[("other.example/a", &other)]);
    std::fs::write(blob(&pinned.list), b"nonsense").unwrap();
    let tags = hold.tags().unwrap();
    hold.tag(&"again".parse().unwrap(), &tags[0].1)
        .unwrap_or_default();
    hold.untag(&"other".parse().unwrap()).unwrap();
    cluster_image(&node, "other", &[("other.example/a", &other)]);
    assert_eq!(
        get(&node, "/v2/a/manifests/latest?ns=other.example").status,
        200
    );
    let problem = node.status().registry.problem.unwrap();
    assert!(problem.contains("cannot be used"), "{problem}");
    // An index that is not one: what was served goes on.
    std::fs::write(node.path("var/lib/chasi/store/index.json"), b"{").unwrap();
    assert_eq!(
        get(&node, "/v2/a/manifests/latest?ns=other.example").status,
        200
    );
    assert!(node.status().registry.problem.is_some());
}

#[test]
fn requests_that_are_too_large_or_no_requests_get_an_error_and_cost_nothing() {
    let (node, _, _) = host();
    let long = "a".repeat(20_000);
    let many: String = (0..100)
        .map(|number| format!("\r\nx-{number}: y"))
        .collect();
    for request in [
        format!("GET /v2/{long} HTTP/1.1"),
        format!("GET /v2/ HTTP/1.1\r\nx: {long}"),
        format!("GET /v2/ HTTP/1.1{many}"),
    ] {
        let mut stream = TcpStream::connect(node.registry()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may hang up before it has taken everything, and then its
        // answer may be lost as well.
        let _ = stream.write_all(format!("{request}\r\n\r\n").as_bytes());
        if let Some(answer) = read(&mut stream) {
            assert!(
                matches!(answer.status, 400 | 414 | 431),
                "{}",
                answer.status
            );
        }
    }
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(node.registry()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(read(&mut stream).is_none_or(|answer| answer.status == 400));
    }
    assert_eq!(get(&node, "/v2/").status, 200);
}

#[test]
fn idle_clients_do_not_keep_others_out_for_good() {
    let (node, _, _) = host();
    // More than are served at once: some say nothing, some a part of a request,
    // some ask and do not read the answer.
    let target = format!(
        "GET /v2/registry.k8s.io/pause/blobs/{} HTTP/1.1\r\nhost: a\r\n\r\n",
        Digest::of(content("pause", 300_000))
    );
    let idle: Vec<TcpStream> = (0..160)
        .map(|number| {
            let mut stream = TcpStream::connect(node.registry()).unwrap();
            let text = ["", "GET /v2/", &target][number % 3];
            stream.write_all(text.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(get(&node, "/v2/").status, 200);
    drop(idle);
}

#[test]
fn a_restart_refuses_nobody() {
    let (mut node, pause, _) = host();
    let address = node.registry();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let answers = Arc::new(AtomicUsize::new(0));
    let target = format!("/v2/pause/blobs/{}?ns=registry.k8s.io", pause.layer.digest);
    let (digest, counted) = (pause.layer.digest, answers.clone());
    let client = std::thread::spawn(move || {
        while ended.try_recv() == Err(TryRecvError::Empty) {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let answer = read(&mut stream).expect("every request is answered");
            assert_eq!(Digest::of(answer.body), digest);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    for _ in 0..5 {
        let before = answers.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            (answers.load(Ordering::SeqCst) > before + 2).then_some(())
        });
        node.stop();
        node.start();
    }
    drop(end);
    client.join().unwrap();
}

#[test]
fn without_its_sockets_the_service_says_how_to_start_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_chasi"))
        .arg("node-service")
        .env_remove("LISTEN_PID")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("systemctl start chasi-node.service"),
        "{said}"
    );
}

#[test]
fn the_status_socket_answers_nothing_else() {
    let (node, _, _) = host();
    let mut stream = std::os::unix::net::UnixStream::connect(node.path("status.sock")).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let images = eventually("the images are listed", || {
        let images = node.status().registry.images;
        (!images.is_empty()).then_some(images)
    });
    assert_eq!(images.len(), 2);
}
