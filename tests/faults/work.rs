//! What is done to a host, what a host begins as, and what it must become.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use chasi::digest::Digest;
use chasi::error::{Error, Kind, Result};
use chasi::event::Context;
use chasi::host::generation::{self, Node};
use chasi::host::journal::{self, Journal};
use chasi::host::object::Objects;
use chasi::host::{Part, Recipe, leave, switch};
use chasi::oci::{Blob, Reference, Store, media};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Verdict, watched};
use crate::support::{Host, Picture, file, first, prepare, program, second};

/// What hosts are made of: made once, the same for all.
#[derive(Serialize, Deserialize)]
pub struct Material {
    pub source: PathBuf,
    pub first: Recipe,
    pub second: Recipe,
    /// Generations that nobody needs any more.
    old: Vec<Recipe>,
}

impl Material {
    pub fn make(directory: &Path) -> Material {
        let source = Host::at(&directory.join("source"));
        let old = |number: usize| {
            let version = if number < 2 { "1.33" } else { "1.34" };
            let text = format!("old {number}\n");
            let mut recipe =
                source.recipe(&[&[("etc/x.conf", file(&text)), ("usr/bin/x", program(&text))]]);
            recipe.kubernetes = Some(version.into());
            recipe
        };
        let material = Material {
            first: first(&source),
            second: second(&source),
            old: (0..6).map(old).collect(),
            source: source.files.clone(),
        };
        let all_old: Vec<_> = material.old.iter().collect();
        for (tag, recipes) in [
            ("1", vec![&material.first]),
            ("2", vec![&material.second]),
            ("old", all_old),
        ] {
            name_image(&source.store(), tag, &recipes);
        }
        let text = serde_json::to_vec(&material).unwrap();
        fs::write(directory.join("material.json"), text).unwrap();
        material
    }

    pub fn load(directory: &Path) -> Material {
        serde_json::from_slice(&fs::read(directory.join("material.json")).unwrap()).unwrap()
    }

    /// Brings an image into the host's store, under a name.
    fn receive(
        &self,
        host: &Host,
        image: &str,
        tag: &str,
        reached: &mut dyn FnMut(Reached),
    ) -> Result<()> {
        let source = Store::open(&self.source.join("var/lib/chasi/store"))?;
        let root = source.resolve(&name(image))?;
        let content = |blob: &Blob| source.read_verified(blob, 1 << 20);
        let store = host_store(host)?;
        let hold = store.hold()?;
        #[derive(Deserialize)]
        struct Manifest {
            config: Blob,
            layers: Vec<Blob>,
        }
        let manifest: Manifest = serde_json::from_slice(&content(&root)?).unwrap();
        let put_whole = |blob: &Blob, reached: &mut dyn FnMut(Reached)| -> Result<()> {
            if !store.contains(blob) {
                let mut writer = hold.writer()?;
                writer.write_all(&content(blob)?).map_err(told)?;
                writer.commit_as(blob)?;
                reached(Reached::Blobs(vec![blob.clone()]));
            }
            Ok(())
        };
        put_whole(&manifest.config, reached)?;
        let mut batch = hold.batch();
        for (number, layer) in manifest.layers.iter().enumerate() {
            if store.contains(layer) {
                continue;
            }
            let bytes = content(layer)?;
            if number % 2 == 0 {
                let assembly = hold.assemble(layer)?;
                let (head, tail) = bytes.split_at(bytes.len() / 2);
                assembly.write_at(head.len() as u64, tail)?;
                assembly.write_at(0, head)?;
                assembly.commit_in(&mut batch)?;
            } else {
                let mut writer = hold.writer()?;
                writer.write_all(&bytes).map_err(told)?;
                writer.commit_in(&mut batch, layer)?;
            }
        }
        batch.finish()?;
        reached(Reached::Blobs(manifest.layers));
        put_whole(&root, reached)?;
        hold.tag(&name(tag), &root)?;
        reached(Reached::Name(tag.to_owned(), root.digest));
        Ok(())
    }
}

fn host_store(host: &Host) -> Result<Store> {
    Store::create(&host.root.state("store"))
}

/// A process that another thread has just begun holds our locks for a moment, until
/// it becomes another program.
fn prune_store(host: &Host) -> Result<()> {
    let store = host_store(host)?;
    for _ in 0..200 {
        match store.prune(&Context::silent(), false) {
            Err(error) if error.kind() == Kind::Locked => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            pruned => return pruned.map(drop),
        }
    }
    store.prune(&Context::silent(), false).map(drop)
}

fn told(cause: std::io::Error) -> Error {
    Error::new(Kind::System, "cannot write").because(cause)
}

fn name(tag: &str) -> Reference {
    format!("registry.example/cluster:{tag}").parse().unwrap()
}

/// An image of all layers of these recipes.
fn name_image(store: &Store, tag: &str, recipes: &[&Recipe]) {
    let hold = store.hold().unwrap();
    let layers: Vec<_> = recipes
        .iter()
        .flat_map(|recipe| recipe.layers.iter().map(|layer| &layer.blob))
        .collect();
    let config = hold.put(media::CONFIG, b"{}").unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config,
        "layers": layers,
    });
    let root = hold.put(media::MANIFEST, manifest.to_string().as_bytes());
    hold.tag(&name(tag), &root.unwrap()).unwrap();
}

/// What has been promised: whatever happens from now on, it is so.
#[derive(Clone, Debug, PartialEq)]
pub enum Reached {
    Blobs(Vec<Blob>),
    Name(String, Digest),
    Staged(Digest),
    /// This many of the parts have switched.
    Switched(usize),
    Left,
}

/// What is done to a host, each as a run does it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// An image comes into the store.
    Receive,
    /// Another image takes its name, and what was only in the first goes.
    Replace,
    First,
    Second,
    /// Old generations come.
    Age,
    /// Old generations go.
    Prune,
    Leave,
    /// Whatever was interrupted is settled.
    Settle,
}

impl Work {
    pub fn run(
        self,
        host: &Host,
        material: &Material,
        reached: &mut dyn FnMut(Reached),
    ) -> Result<()> {
        switch::recover(&host.root)?;
        match self {
            Work::Settle => Ok(()),
            Work::Receive => {
                material.receive(host, "1", "latest", reached)?;
                prune_store(host)
            }
            Work::Replace => {
                material.receive(host, "2", "latest", reached)?;
                prune_store(host)
            }
            Work::First => become_(host, &material.first, reached),
            Work::Second => become_(host, &material.second, reached),
            Work::Age => material
                .old
                .iter()
                .try_for_each(|recipe| stage(host, recipe, reached).map(drop)),
            Work::Prune => generation::prune(&host.root).map(drop),
            Work::Leave => {
                let journal = Journal::open(&host.root, "leave")?;
                leave::leave(&host.root, &journal, &Context::silent())?;
                reached(Reached::Left);
                Ok(())
            }
        }
    }
}

pub fn stage(host: &Host, recipe: &Recipe, reached: &mut dyn FnMut(Reached)) -> Result<u64> {
    let store = host_store(host)?;
    let none = |_: &Path| Ok(Vec::new());
    let staged = generation::stage(&host.root, &store, recipe, none, &Context::silent())?;
    reached(Reached::Staged(staged.identity));
    Ok(staged.number)
}

fn become_(host: &Host, recipe: &Recipe, reached: &mut dyn FnMut(Reached)) -> Result<()> {
    let number = stage(host, recipe, reached)?;
    for (part, count) in Part::ALL.into_iter().zip(1..) {
        host.switch(part, Some(number))?;
        reached(Reached::Switched(count));
    }
    Ok(())
}

/// A host to begin with, and what it becomes when nothing disturbs it.
pub struct Scenario {
    pub name: String,
    pub work: Work,
    pub start: Host,
    pub end: Picture,
    /// What the host may be in between: one whole generation in each part. The
    /// first is the one at the start.
    whole: Vec<Picture>,
    /// The names of the system calls that change files, in their order.
    pub effects: Vec<Effect>,
}

/// What happens before, and then what is disturbed.
const STORIES: [(&[Work], Work); 7] = [
    (&[], Work::Receive),
    (&[Work::Receive], Work::Replace),
    (&[], Work::First),
    (&[Work::First], Work::Second),
    (&[Work::First, Work::Second], Work::First),
    (&[Work::First, Work::Age], Work::Prune),
    (&[Work::First, Work::Second], Work::Leave),
];

impl Scenario {
    pub fn all(directory: &Path, material: &Material) -> Vec<Scenario> {
        STORIES
            .iter()
            .map(|(history, work)| Scenario::new(directory, material, history, *work))
            .collect()
    }

    /// A host that chasi has never come to.
    pub fn bare(files: &Path) -> Host {
        let host = Host::at(files);
        prepare(&host);
        fs::remove_dir_all(host.files.join("var")).unwrap();
        fs::create_dir_all(host.files.join("var/lib")).unwrap();
        host
    }

    fn new(directory: &Path, material: &Material, history: &[Work], work: Work) -> Scenario {
        let name = format!("{work:?} after {history:?}");
        let start = Scenario::bare(&directory.join(&name));
        let receives = matches!(work, Work::Receive | Work::Replace);
        if !receives {
            for image in ["1", "2", "old"] {
                material.receive(&start, image, image, &mut |_| {}).unwrap();
            }
        }
        for work in history {
            work.run(&start, material, &mut |_| {}).unwrap();
        }
        let mut whole = vec![start.live()];
        if work == Work::Leave {
            let leaving = copy(&start, &directory.join(format!("{name}, leaving")));
            for part in [Part::Node, Part::ControlPlane] {
                leaving.switch(part, None).unwrap();
                whole.push(leaving.live());
            }
        }
        let undisturbed = copy(&start, &directory.join(format!("{name}, done")));
        let mut effects = Vec::new();
        let mut seen = |reached: Reached| {
            if matches!(reached, Reached::Switched(_) | Reached::Left) {
                whole.push(undisturbed.live());
            }
        };
        watched(
            || work.run(&undisturbed, material, &mut |_| {}),
            |effect| {
                effects.push(effect);
                Verdict::Happen
            },
        )
        .unwrap();
        // Once more from the start, to see what it is on the way.
        fs::remove_dir_all(&undisturbed.files).unwrap();
        copy(&start, &undisturbed.files);
        work.run(&undisturbed, material, &mut seen).unwrap();
        let end = undisturbed.whole_picture();
        work.run(&undisturbed, material, &mut |_| {}).unwrap();
        end.assert_same(&undisturbed.whole_picture(), &format!("{name}, done twice"));
        Scenario {
            name,
            work,
            start,
            end,
            whole,
            effects,
        }
    }

    /// Settles the host: then it is whole, and done again it is what it would have
    /// been.
    pub fn check(&self, host: &Host, material: &Material, what: &str) {
        self.check_but(host, material, what, |_| false);
    }

    /// As [`Scenario::check`], without the files that may be left.
    pub fn check_but(
        &self,
        host: &Host,
        material: &Material,
        what: &str,
        may_be_left: impl Fn(&str) -> bool,
    ) {
        self.check_settled(host, &[], what);
        if let Err(error) = self.work.run(host, material, &mut |_| {}) {
            panic!("{what}: done again: {error:?}");
        }
        assert_eq!(journal::pending(&host.root).unwrap(), [], "{what}");
        check_sound(host, what);
        let mut found = host.whole_picture();
        found.0.retain(|path, _| !may_be_left(path));
        self.end.assert_same(&found, what);
    }

    /// Settles the host, which is whole then, and has what was promised.
    pub fn check_settled(&self, host: &Host, promised: &[Reached], what: &str) {
        if let Err(error) = switch::recover(&host.root) {
            panic!("{what}: settling: {error:?}");
        }
        check_sound(host, what);
        let switched = promised.iter().filter_map(|reached| match reached {
            Reached::Switched(count) => Some(*count),
            Reached::Left => Some(self.whole.len() - 1),
            _ => None,
        });
        let from = switched.max().unwrap_or(0);
        self.check_whole(host, from, what);
        for reached in promised {
            check_kept(host, reached, what);
        }
    }

    /// The host is whole: what it was at the start, or at a later point, `from` at
    /// the least.
    pub fn check_whole(&self, host: &Host, from: usize, what: &str) {
        let live = self.in_use(host.live());
        let differences = self.whole[from..]
            .iter()
            .map(|whole| self.in_use(whole.clone()).difference(&live));
        let nearest = differences.min_by_key(Vec::len).unwrap();
        assert!(
            nearest.is_empty(),
            "{what}: the host is not one whole generation:\n{}",
            nearest.join("\n")
        );
    }

    /// Without what may come and go at any time: chasi's own directory, and, when
    /// chasi leaves, the directories that it removes one by one at the end.
    fn in_use(&self, mut live: Picture) -> Picture {
        live.0.remove("var/lib/chasi");
        if self.work == Work::Leave {
            live.0.retain(|_, what| !what.starts_with("directory"));
        }
        live
    }
}

/// Whatever has a name is whole: stores, blobs, objects, generations.
pub fn check_sound(host: &Host, what: &str) {
    let state = host.root.state("");
    if state.join("store/oci-layout").exists() {
        for part in ["index.json", "blobs/sha256", ".chasi/incoming"] {
            assert!(state.join("store").join(part).exists(), "{what}: no {part}");
        }
    }
    for entry in fs::read_dir(state.join("store/blobs/sha256"))
        .into_iter()
        .flatten()
    {
        let path = entry.unwrap().path();
        let digest = Digest::of(fs::read(&path).unwrap());
        assert_eq!(
            path.file_name().unwrap().to_str().unwrap(),
            digest.hex(),
            "{what}: a blob is not what its name says"
        );
    }
    if state.join("objects").is_dir() {
        let damage = Objects::open(&host.root).unwrap().check(&Context::silent());
        assert_eq!(damage.unwrap(), [], "{what}: objects");
    }
    let mut numbers = generation::numbers(&host.root).unwrap();
    numbers.retain(|number| !generation::is_damaged(&host.root, *number));
    for number in numbers {
        let manifest = generation::load(&host.root, number)
            .unwrap_or_else(|error| panic!("{what}: generation {number}: {error:?}"));
        let tree = generation::tree(&host.root, number);
        for (path, node) in &manifest.tree {
            let place = tree.join(path);
            let is_right = match node {
                Node::File(file) => {
                    fs::read(&place).is_ok_and(|content| Digest::of(content) == file.content)
                }
                Node::Link { target } => {
                    fs::read_link(&place).is_ok_and(|found| found == Path::new(target))
                }
                Node::Directory(_) => place.is_dir(),
            };
            assert!(is_right, "{what}: `{path}` of generation {number}");
        }
    }
}

fn check_kept(host: &Host, reached: &Reached, what: &str) {
    match reached {
        Reached::Blobs(blobs) => {
            let store = Store::at(&host.root.state("store"));
            for blob in blobs {
                assert!(store.contains(blob), "{what}: {blob:?} is lost");
            }
        }
        Reached::Name(tag, digest) => {
            let found =
                Store::open(&host.root.state("store")).and_then(|store| store.resolve(&name(tag)));
            let found = found.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!(found.digest, *digest, "{what}");
        }
        Reached::Staged(identity) => {
            let found = generation::find(&host.root, identity).unwrap();
            assert!(found.is_some(), "{what}: what was staged is lost");
        }
        Reached::Switched(_) | Reached::Left => {}
    }
}

/// The same host once more.
pub fn copy(host: &Host, to: &Path) -> Host {
    let status = Command::new("cp")
        .arg("-a")
        .arg("-T")
        .arg(&host.files)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
    Host::at(to)
}
