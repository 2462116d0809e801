//! A host in a directory, images made of a few lines, and pictures of a host that
//! can be compared.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use chasi::digest::Digest;
use chasi::event::Context;
use chasi::host::generation::{self, Staged};
use chasi::host::journal::Journal;
use chasi::host::recipe::{Block, ExtraDirectory, ExtraFile};
use chasi::host::switch::{self, Changes};
use chasi::host::{Gate, Part, Recipe, Root};
use chasi::oci::image::{Layer, LayerKind};
use chasi::oci::layer::{EntryPath, Meta, Writer};
use chasi::oci::{Store, media};
use serde_json::json;

/// A directory that is gone with the test, in memory where that is possible: no
/// test is about how fast a disk syncs.
pub fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::Builder::new()
        .prefix("chasi-test-")
        .tempdir_in(memory)
    {
        Ok(directory) => directory,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// A host whose root directory is `files`.
pub struct Host {
    pub files: PathBuf,
    pub root: Root,
}

pub fn path(text: &str) -> EntryPath {
    text.parse().unwrap()
}

/// An entry of an image: `Program` and `File` with their content, `Link` with its
/// target.
#[derive(Clone, Debug)]
pub enum Entry {
    Program(String),
    File(String),
    Mode(u32, String),
    Link(String),
}

pub fn file(content: &str) -> Entry {
    Entry::File(content.into())
}

pub fn program(content: &str) -> Entry {
    Entry::Program(content.into())
}

pub fn link(target: &str) -> Entry {
    Entry::Link(target.into())
}

impl Host {
    pub fn at(files: &Path) -> Host {
        fs::create_dir_all(files).unwrap();
        let files = fs::canonicalize(files).unwrap();
        Host {
            root: Root::at(&files).unwrap(),
            files,
        }
    }

    pub fn gated(self, gate: std::sync::Arc<dyn Gate>) -> Host {
        Host {
            root: self.root.gated(gate),
            files: self.files,
        }
    }

    /// Writes a file as the host's user would.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.files.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.files.join(path)).unwrap()
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.files.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.files.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn store(&self) -> Store {
        Store::create(&self.root.state("store")).unwrap()
    }

    pub fn layer(&self, entries: &[(&str, Entry)]) -> Layer {
        let mut nodes = BTreeMap::new();
        for (name, entry) in entries {
            let path = path(name);
            for parent in std::iter::successors(path.parent(), EntryPath::parent) {
                nodes.entry(parent).or_insert(None);
            }
            nodes.insert(path, Some(entry));
        }
        let hold = self.store().hold().unwrap();
        let mut writer = Writer::new(hold.writer().unwrap(), 1).unwrap();
        for (path, entry) in nodes {
            let (mode, content) = match entry {
                None => {
                    writer.directory(&path, &Meta::new(0o755)).unwrap();
                    continue;
                }
                Some(Entry::Link(target)) => {
                    writer.symlink(&path, &Meta::new(0o777), target).unwrap();
                    continue;
                }
                Some(Entry::Program(content)) => (0o755, content),
                Some(Entry::File(content)) => (0o644, content),
                Some(Entry::Mode(mode, content)) => (*mode, content),
            };
            let size = content.len() as u64;
            let meta = Meta::new(mode);
            writer.file(&path, &meta, size, content.as_bytes()).unwrap();
        }
        let written = writer.finish().unwrap();
        Layer {
            blob: written.out.commit(media::LAYER_ZSTD).unwrap(),
            diff_id: written.diff_id,
            kind: LayerKind::App,
        }
    }

    pub fn recipe(&self, layers: &[&[(&str, Entry)]]) -> Recipe {
        let layers: Vec<_> = layers.iter().map(|entries| self.layer(entries)).collect();
        Recipe {
            image: Digest::of(format!("{layers:?}")),
            platform: "linux/amd64".parse().unwrap(),
            kubernetes: None,
            layers,
            context: json!({"host": {"name": "a"}}),
            files: Vec::new(),
            blocks: Vec::new(),
            directories: Vec::new(),
            source: serde_json::Value::Null,
        }
    }

    pub fn stage(&self, recipe: &Recipe) -> chasi::error::Result<Staged> {
        generation::stage(
            &self.root,
            &self.store(),
            recipe,
            |_| Ok(Vec::new()),
            &Context::silent(),
        )
    }

    pub fn switch(&self, part: Part, to: Option<u64>) -> chasi::error::Result<Changes> {
        let journal = Journal::open(&self.root, "test")?;
        switch::switch(&self.root, &journal, part, to, &Context::silent())
    }

    /// Stages a recipe and moves both switches to it.
    pub fn become_(&self, recipe: &Recipe) -> u64 {
        let number = self.stage(recipe).unwrap().number;
        for part in Part::ALL {
            self.switch(part, Some(number)).unwrap();
        }
        number
    }

    /// Everything on the host but the journal and the store.
    pub fn picture(&self) -> Picture {
        let state = self.root.state("");
        let without = [state.join("journal"), state.join("store")];
        let mut picture = BTreeMap::new();
        draw(
            &self.files,
            &self.files,
            &|path| without.iter().any(|other| path == other),
            &mut picture,
        );
        Picture(picture)
    }

    /// Everything on the host but the journal.
    pub fn whole_picture(&self) -> Picture {
        let journal = self.root.state("journal");
        let mut picture = BTreeMap::new();
        draw(
            &self.files,
            &self.files,
            &|path| path == journal,
            &mut picture,
        );
        Picture(picture)
    }

    /// Everything on the host that is not in chasi's directory, and where the
    /// switches point.
    pub fn live(&self) -> Picture {
        let state = self.root.state("");
        let mut picture = BTreeMap::new();
        let parts = Part::ALL.map(|part| state.join(part.name()));
        let is_hidden = |path: &Path| {
            path.starts_with(&state) && path != state && !parts.iter().any(|part| path == part)
        };
        draw(&self.files, &self.files, &is_hidden, &mut picture);
        picture.retain(|path, _| !path.is_empty());
        Picture(picture)
    }
}

/// What is at each path.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture(pub BTreeMap<String, String>);

impl Picture {
    /// The lines in which two pictures differ.
    pub fn difference(&self, other: &Picture) -> Vec<String> {
        let missing = self
            .0
            .iter()
            .filter(|(path, what)| other.0.get(*path) != Some(what))
            .map(|(path, what)| format!("- {path}: {what}"));
        let added = other
            .0
            .iter()
            .filter(|(path, what)| self.0.get(*path) != Some(what))
            .map(|(path, what)| format!("+ {path}: {what}"));
        missing.chain(added).collect()
    }

    #[track_caller]
    pub fn assert_same(&self, other: &Picture, what: &str) {
        let difference = self.difference(other);
        assert!(difference.is_empty(), "{what}:\n{}", difference.join("\n"));
    }
}

fn draw(
    top: &Path,
    at: &Path,
    is_hidden: &dyn Fn(&Path) -> bool,
    picture: &mut BTreeMap<String, String>,
) {
    if is_hidden(at) {
        return;
    }
    let metadata = fs::symlink_metadata(at).unwrap();
    let name = at.strip_prefix(top).unwrap().display().to_string();
    let owner = format!(
        "{:o} {}:{}",
        metadata.mode() & 0o7777,
        metadata.uid(),
        metadata.gid()
    );
    if metadata.is_dir() {
        picture.insert(name, format!("directory {owner}"));
        let mut entries: Vec<_> = fs::read_dir(at)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for entry in entries {
            draw(top, &entry, is_hidden, picture);
        }
    } else if metadata.is_symlink() {
        picture.insert(
            name,
            format!(
                "link {} {}:{}",
                fs::read_link(at).unwrap().display(),
                metadata.uid(),
                metadata.gid()
            ),
        );
    } else {
        let content = fs::read(at).unwrap();
        let text = match String::from_utf8(content) {
            Ok(text) if text.len() < 200 => format!("{text:?}"),
            Ok(text) => Digest::of(text).to_string(),
            Err(error) => Digest::of(error.into_bytes()).to_string(),
        };
        picture.insert(name, format!("file {owner} {text}"));
    }
}

/// Two generations that differ in every way that there is, on a host that had
/// something in many of the places.
pub fn prepare(host: &Host) {
    host.store();
    host.write("etc/hosts", "127.0.0.1 localhost");
    host.write("etc/hostname", "a\n");
    host.mode("etc/hostname", 0o600);
    // In the way of the first generation, and to come back.
    host.write("etc/containerd/config.toml", "old = true\n");
    host.mode("etc/containerd/config.toml", 0o640);
    host.write("usr/local/bin/ctr", "an older ctr\n");
    host.mode("usr/local/bin/ctr", 0o711);
    host.link("usr/local/bin/runc", "../../bin/runc");
    // Only root can give files away.
    let _ = std::os::unix::fs::lchown(
        host.files.join("usr/local/bin/runc"),
        Some(1000),
        Some(1000),
    );
    // What the first generation has as well, byte for byte.
    host.write("etc/crictl.yaml", "endpoint: x\n");
    host.mode("etc/crictl.yaml", 0o600);
    // In the way of the second generation.
    host.write("etc/second.conf", "mine\n");
    host.write("etc/kubernetes/manifests/user.yaml", "pod: user\n");
}

pub fn first(host: &Host) -> Recipe {
    let mut recipe = host.recipe(&[
        &[
            ("usr/local/bin/containerd", program("containerd 1")),
            ("usr/local/bin/ctr", program("ctr 1")),
            ("usr/bin/runc", program("runc 1")),
            ("usr/sbin/gone", program("gone 1")),
            ("opt/cni/bin/bridge", program("bridge 1")),
            ("etc/containerd/config.toml.j2", file("name = \"{{ host.name }}\"\nversion = 1\n")),
            ("etc/crictl.yaml", file("endpoint: x\n")),
            ("etc/removed.conf", file("1\n")),
            ("etc/hidden.conf", file("1\n")),
        ],
        &[
            ("etc/systemd/system/containerd.service", file("[Service]\nExecStart=/usr/local/bin/containerd\n[Install]\nWantedBy=multi-user.target\n")),
            ("etc/alias.conf", link("crictl.yaml")),
            ("etc/deep/er/only-first.conf", Entry::Mode(0o600, "secret 1\n".into())),
        ],
    ]);
    recipe.files = vec![
        ExtraFile {
            path: path("etc/kubernetes/manifests/etcd.yaml"),
            mode: 0o600,
            content: "etcd: 1\n".into(),
        },
        ExtraFile {
            path: path("etc/kubernetes/manifests/gone.yaml"),
            mode: 0o600,
            content: "gone: 1\n".into(),
        },
        ExtraFile {
            path: path("etc/kubernetes/kubelet.env"),
            mode: 0o644,
            content: "A=1\n".into(),
        },
    ];
    recipe.blocks = vec![Block {
        path: path("etc/hosts"),
        content: "127.0.0.1 api.one\n".into(),
    }];
    recipe.directories = vec![ExtraDirectory {
        path: path("var/lib/etcd"),
        mode: 0o700,
    }];
    recipe
}

pub fn second(host: &Host) -> Recipe {
    let mut recipe = host.recipe(&[
        &[
            ("usr/local/bin/containerd", program("containerd 2")),
            ("usr/local/bin/ctr", program("ctr 1")),
            ("usr/bin/runc", program("runc 2")),
            ("opt/cni/bin/bridge", program("bridge 1")),
            ("opt/cni/bin/vlan", program("vlan 2")),
            ("etc/containerd/config.toml.j2", file("name = \"{{ host.name }}\"\nversion = 2\n")),
            ("etc/crictl.yaml", file("endpoint: y\n")),
            ("etc/second.conf", file("2\n")),
        ],
        &[
            ("etc/systemd/system/containerd.service", file("[Service]\nExecStart=/usr/local/bin/containerd\n[Install]\nWantedBy=multi-user.target\n")),
            ("etc/systemd/system/kubelet.service", file("[Install]\nWantedBy=multi-user.target\n")),
            ("etc/alias.conf", file("no link any more\n")),
            ("etc/other/deep/only-second.conf", file("2\n")),
        ],
    ]);
    recipe.files = vec![
        ExtraFile {
            path: path("etc/kubernetes/manifests/etcd.yaml"),
            mode: 0o600,
            content: "etcd: 2\n".into(),
        },
        ExtraFile {
            path: path("etc/kubernetes/manifests/new.yaml"),
            mode: 0o600,
            content: "new: 2\n".into(),
        },
        ExtraFile {
            path: path("etc/kubernetes/kubelet.env"),
            mode: 0o600,
            content: "A=1\n".into(),
        },
    ];
    recipe.blocks = vec![Block {
        path: path("etc/hosts"),
        content: "127.0.0.1 api.two\n::1 api.two\n".into(),
    }];
    recipe
}
