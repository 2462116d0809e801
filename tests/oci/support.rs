//! What the tests of images share: a user's directory, sample images, and
//! Debian's registry.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chasi::digest::Digest;
use chasi::oci::image::{Builder, Layer, LayerKind};
use chasi::oci::layer::{Meta, Writer};
use chasi::oci::store::Hold;
use chasi::oci::{Blob, ClusterImage, Platform, Reference, Store, media};

/// The places of one user, removed at the end.
pub struct User {
    pub directory: tempfile::TempDir,
}

impl User {
    pub fn new() -> Self {
        let user = User {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(user.path("config.yaml"), "").unwrap();
        user
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn store(&self) -> Store {
        Store::create(&self.path("store")).unwrap()
    }

    /// Puts a sample image into the store.
    pub fn with_image(&self, name: &str, seed: u8) -> ClusterImage {
        let hold = self.store().hold().unwrap();
        let image = sample(&hold, seed);
        hold.tag(&reference(name), &image.index).unwrap();
        image
    }

    /// The program, with this user's environment and no other.
    pub fn chasi(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chasi"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path())
            .env("CHASI_STORE", self.path("store"))
            .env("CHASI_CONFIG", self.path("config.yaml"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.chasi(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program; it must succeed and write JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments = [arguments, &["--format", "json"]].concat();
        serde_json::from_str(&self.run(&arguments)).unwrap()
    }

    /// Runs the program; it must fail with this exit code. Returns what it said.
    pub fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.chasi(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            said(&output)
        );
        said(&output)
    }
}

pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Runs another program; it must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        said(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&state.to_be_bytes()[..5]);
    }
    bytes.truncate(length);
    bytes
}

pub fn layer(hold: &Hold, kind: LayerKind, path: &str, content: &[u8]) -> Layer {
    let mut writer = Writer::new(hold.writer().unwrap(), 1).unwrap();
    writer
        .file(
            &path.parse().unwrap(),
            &Meta::new(0o755),
            content.len() as u64,
            content,
        )
        .unwrap();
    let written = writer.finish().unwrap();
    Layer {
        blob: written.out.commit(media::LAYER_ZSTD).unwrap(),
        diff_id: written.diff_id,
        kind,
    }
}

/// A layer whose archive is whatever the test wants.
pub fn raw_layer(hold: &Hold, archive: &[u8]) -> Layer {
    let blob = hold
        .put(media::LAYER_ZSTD, &zstd::encode_all(archive, 3).unwrap())
        .unwrap();
    Layer {
        blob,
        diff_id: Digest::of(archive),
        kind: LayerKind::App,
    }
}

/// A cluster image of one rootfs with these layers.
pub fn image_of(hold: &Hold, layers: Vec<Layer>) -> ClusterImage {
    let mut builder = Builder::new();
    builder.rootfs(
        Platform::linux("amd64").unwrap(),
        Default::default(),
        Default::default(),
        layers,
    );
    builder.write(hold).unwrap()
}

/// A cluster image with two layers, one of them of some megabytes, and two
/// container images: a Docker list and an OCI index.
pub fn sample(hold: &Hold, seed: u8) -> ClusterImage {
    let mut builder = Builder::new();
    let labels = [("dev.chasi.kubernetes.version", "v1.34.4")];
    builder.rootfs(
        Platform::linux("amd64").unwrap(),
        labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        Default::default(),
        vec![
            layer(
                hold,
                LayerKind::Runtime,
                "usr/bin/runtime",
                &noise(seed, 3 << 20),
            ),
            layer(hold, LayerKind::Kubernetes, "usr/bin/kubelet", &[seed]),
        ],
    );
    for (name, oci) in [
        ("registry.k8s.io/pause:3.10.1", true),
        ("busybox:1.37", false),
    ] {
        let (root, blobs) = container_image(hold, oci, &["amd64"], seed);
        builder.image(reference(name), root, blobs).unwrap();
    }
    builder.write(hold).unwrap()
}

/// An index with a manifest for each architecture, as OCI or as Docker makes them.
/// The index also lists `arm64`, whether or not it is there.
pub fn container_image(
    hold: &Hold,
    oci: bool,
    architectures: &[&str],
    seed: u8,
) -> (Blob, Vec<Blob>) {
    let [index_type, manifest_type, config_type, layer_type] = if oci {
        [
            media::INDEX,
            media::MANIFEST,
            media::CONFIG,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ]
    } else {
        [
            media::DOCKER_LIST,
            media::DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ]
    };
    let mut blobs = Vec::new();
    let mut listed = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let config = serde_json::json!({"os": "linux", "architecture": architecture, "seed": seed, "oci": oci});
        let layer = noise(seed ^ architecture.as_bytes()[1], 200_000);
        let put = |media_type: &str, content: &[u8]| match architectures.contains(&architecture) {
            true => hold.put(media_type, content).unwrap(),
            false => Blob::of(media_type, content),
        };
        let config = put(config_type, config.to_string().as_bytes());
        let layer = put(layer_type, &layer);
        // Not canonical: whoever writes it again changes the digest.
        let manifest = serde_json::json!({"layers": [layer], "config": config, "mediaType": manifest_type, "schemaVersion": 2});
        let manifest = put(
            manifest_type,
            serde_json::to_string_pretty(&manifest).unwrap().as_bytes(),
        );
        if architectures.contains(&architecture) {
            blobs.extend([config, layer, manifest.clone()]);
        }
        let mut descriptor = serde_json::to_value(&manifest).unwrap();
        descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        listed.push(descriptor);
    }
    let index =
        serde_json::json!({"manifests": listed, "schemaVersion": 2, "mediaType": index_type});
    let index = hold
        .put(
            index_type,
            serde_json::to_string_pretty(&index).unwrap().as_bytes(),
        )
        .unwrap();
    (index, blobs)
}

/// Debian's registry on a loopback port; killed when dropped.
pub struct Registry {
    child: Child,
    directory: tempfile::TempDir,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Registry {
    pub fn start() -> Self {
        Registry::start_in(tempfile::tempdir().unwrap(), "", "")
    }

    /// In a directory that has been prepared, with lines added to its configuration
    /// and to the section `http` of it. `$DIR` in them is the directory.
    pub fn start_in(directory: tempfile::TempDir, lines: &str, http: &str) -> Self {
        let root = directory.path().display().to_string();
        // A port that was free a moment ago may be taken when the registry wants it.
        let (child, address) = (0..20)
            .find_map(|_| start_registry(&root, lines, http))
            .expect("docker-registry starts");
        Registry {
            child,
            directory,
            address,
        }
    }

    /// How many blobs it holds.
    pub fn blobs(&self) -> usize {
        count_files(&self.directory.path().join("data/docker/registry/v2/blobs"))
    }
}

fn start_registry(root: &str, lines: &str, http: &str) -> Option<(Child, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n\
         http:\n  addr: {address}\n{http}\n{lines}\n"
    );
    let path = format!("{root}/config.yml");
    std::fs::write(&path, config.replace("$DIR", root)).unwrap();
    let mut child = Command::new("docker-registry")
        .args(["serve", &path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is installed");
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        if TcpStream::connect(&address).is_ok() {
            return Some((child, address));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { count_files(&path) } else { 1 })
        .sum()
}

/// A tar archive with these files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        // Written by hand, because the crate refuses what hostile archives have.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Writes an executable script.
pub fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o755))
        .unwrap();
}
