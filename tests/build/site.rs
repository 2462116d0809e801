//! A place to build in: context, store, cache and home, removed in the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use chasi::oci::{ClusterImage, Reference, Store};
use serde_json::Value;

/// Where one user builds.
pub struct Site {
    directory: tempfile::TempDir,
}

/// What a build said.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["context", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Site { directory }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    pub fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the context.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.context().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn kubefile(&self, text: &str) -> &Self {
        self.file("Kubefile", text)
    }

    /// A command in the user's environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("CHASI_STORE", self.path("store"))
            .env("CHASI_CACHE", self.path("cache"));
        command
    }

    /// `chasi build -t site/image:1 ARGUMENTS CONTEXT`.
    pub fn build(&self, arguments: &[&str]) -> Outcome {
        self.build_as("site/image:1", arguments)
    }

    pub fn build_as(&self, name: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.command(chasi());
        command
            .args(["build", "--format", "json", "-t", name])
            .args(arguments)
            .arg(self.context());
        Outcome::of(&mut command)
    }

    /// Begins a build and does not wait for it.
    pub fn spawn(&self, name: &str) -> std::process::Child {
        use std::process::Stdio;
        std::process::Command::new(chasi())
            .env_clear()
            .env("HOME", self.path("home"))
            .env("CHASI_STORE", self.path("store"))
            .env("CHASI_CACHE", self.path("cache"))
            .args(["build", "-t", name])
            .arg(self.context())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Builds, and expects that it works.
    pub fn built(&self, arguments: &[&str]) -> Value {
        self.build(arguments).json()
    }

    pub fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    pub fn image(&self, name: &str) -> ClusterImage {
        let store = self.store();
        let reference: Reference = name.parse().unwrap();
        ClusterImage::open(&store, &store.resolve(&reference).unwrap()).unwrap()
    }

    /// The entries of the image's layers, the later ones over the earlier ones:
    /// path, type, mode, owner, and content or target.
    pub fn tree(&self, name: &str) -> Vec<(String, String)> {
        use chasi::oci::layer::{Limits, Node, Reader};
        use std::io::Read;
        let store = self.store();
        let mut tree = std::collections::BTreeMap::new();
        for layer in &self.image(name).rootfs[0].layers {
            let blob = store.open_blob(&layer.blob).unwrap();
            let mut reader = Reader::new(blob, "layer", Limits::default())
                .unwrap()
                .expecting(layer.diff_id);
            while let Some(entry) = reader.next_entry().unwrap() {
                let text = match &entry.node {
                    Node::Directory { meta } => {
                        format!("d {:o} {}:{}", meta.mode, meta.uid, meta.gid)
                    }
                    Node::Symlink { target, .. } => format!("l {target}"),
                    Node::File { meta, .. } => {
                        let mut content = String::new();
                        reader.content().read_to_string(&mut content).unwrap();
                        format!("f {:o} {}:{} {content}", meta.mode, meta.uid, meta.gid)
                    }
                    other => format!("{other:?}"),
                };
                tree.insert(entry.path.to_string(), text);
            }
            reader.finish().unwrap();
        }
        tree.into_iter().collect()
    }
}

impl Outcome {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Expects a failure with an exit code whose message has these parts.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "`{part}` is not in:\n{}",
                self.stderr
            );
        }
    }
}

/// The program under test.
pub fn chasi() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_chasi"))
}

/// How many layers of a summary were built, cached and included.
pub fn origins(summary: &Value) -> [usize; 3] {
    let mut counts = [0; 3];
    for layer in summary["rootfs"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rootfs| rootfs["layers"].as_array().unwrap())
    {
        match &layer["origin"] {
            Value::String(text) if text == "built" => counts[0] += 1,
            Value::String(text) if text == "cached" => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    counts
}
