//! A docker-registry on loopback, and images in it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chasi::digest::Digest;
use serde_json::{Value, json};

/// A registry; it ends when this is dropped.
pub struct Registry {
    program: Child,
    pub address: String,
    runtime: tokio::runtime::Runtime,
    _storage: tempfile::TempDir,
}

/// An image that was pushed.
pub struct Pushed {
    pub digest: Digest,
    pub manifests: Vec<Digest>,
}

impl Registry {
    pub fn start() -> Self {
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("config.yml");
        let root = storage.path().join("data");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: 127.0.0.1:0}}\n",
                root.display()
            ),
        )
        .unwrap();
        let (program, address) = serve(&config);
        Registry {
            program,
            address,
            runtime: tokio::runtime::Runtime::new().unwrap(),
            _storage: storage,
        }
    }

    /// Pushes an image for some platforms under a tag: in Docker's format, or in
    /// OCI's.
    pub fn push(&self, name: &str, tag: &str, platforms: &[&str], docker: bool) -> Pushed {
        self.runtime
            .block_on(self.push_async(name, tag, platforms, docker))
    }

    async fn push_async(&self, name: &str, tag: &str, platforms: &[&str], docker: bool) -> Pushed {
        let types = match docker {
            true => [
                "application/vnd.docker.distribution.manifest.list.v2+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ],
            false => [
                "application/vnd.oci.image.index.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ],
        };
        let [index_type, manifest_type, config_type, layer_type] = types;
        let (mut listed, mut manifests) = (Vec::new(), Vec::new());
        for platform in platforms {
            let (os, architecture) = platform.split_once('/').unwrap();
            let layer = gzip(format!("layer of {name}:{tag} for {platform}").as_bytes());
            let config = json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
            let config = self
                .blob(name, config_type, &config.to_string().into_bytes())
                .await;
            let layer = self.blob(name, layer_type, &layer).await;
            let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
            let text = serde_json::to_vec_pretty(&manifest).unwrap();
            let digest = Digest::of(&text);
            let size = text.len();
            self.manifest(name, &digest.to_string(), manifest_type, text)
                .await;
            manifests.push(digest);
            listed.push(json!({
                "mediaType": manifest_type, "digest": digest.to_string(), "size": size,
                "platform": {"os": os, "architecture": architecture}
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": listed});
        let text = serde_json::to_vec_pretty(&index).unwrap();
        let digest = Digest::of(&text);
        self.manifest(name, tag, index_type, text).await;
        Pushed { digest, manifests }
    }

    async fn blob(&self, name: &str, media_type: &str, content: &[u8]) -> Value {
        let client = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .build()
            .unwrap();
        let begin = format!("http://{}/v2/{name}/blobs/uploads/", self.address);
        let begun = client
            .post(begin)
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        let mut place: reqwest::Url = begun.headers()["location"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let digest = Digest::of(content).to_string();
        place.query_pairs_mut().append_pair("digest", &digest);
        let put = client
            .put(place)
            .body(content.to_vec())
            .send()
            .await
            .unwrap();
        put.error_for_status().unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    async fn manifest(&self, name: &str, tag: &str, media_type: &str, text: Vec<u8>) {
        let client = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .build()
            .unwrap();
        let place = format!("http://{}/v2/{name}/manifests/{tag}", self.address);
        let put = client
            .put(place)
            .header("content-type", media_type)
            .body(text)
            .send();
        put.await.unwrap().error_for_status().unwrap();
    }
}

/// Starts the program, which says on which port it listens.
fn serve(config: &Path) -> (Child, String) {
    let mut program = Command::new("docker-registry")
        .arg("serve")
        .arg(config)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split(['"', ' ', ',']).next().unwrap().to_owned())
        })
        .unwrap();
    // Its log must be read, or it stops.
    std::thread::spawn(move || lines.for_each(drop));
    (program, address)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
