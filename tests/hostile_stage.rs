//! Layers that reach for what is not theirs, or are not what they say: staging
//! refuses each, writes nothing outside, and leaves nothing that could be taken
//! for a generation.

#[path = "support/host.rs"]
mod support;

use std::fs;
use std::io::Write;

use chasi::digest::Digest;
use chasi::error::Kind;
use chasi::host::{Part, Recipe};
use chasi::oci::image::{Layer, LayerKind};
use chasi::oci::{Blob, media};
use support::{Host, directory, file};
use tar::{EntryType, Header};

/// A tar archive, entry by entry, however wrong.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, path: &str, target: &str, content: &[u8]) -> Self {
        self.header(kind, path, target, content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn header(&mut self, kind: EntryType, path: &str, target: &str, size: u64) {
        let mut header = Header::new_ustar();
        // The safe setters refuse what this is about.
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    fn special(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.entry(kind, path, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn archive() -> Archive {
    Archive::default()
}

fn compressed(archive: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(archive).unwrap();
    encoder.finish().unwrap()
}

/// A layer in the host's store with this blob, said to unpack to an archive of this
/// digest.
fn layer(host: &Host, blob: &[u8], diff_id: Digest) -> Layer {
    let blob = host
        .store()
        .hold()
        .unwrap()
        .put(media::LAYER_ZSTD, blob)
        .unwrap();
    Layer {
        blob,
        diff_id,
        kind: LayerKind::App,
    }
}

fn honest(host: &Host, archive: Vec<u8>) -> Layer {
    layer(host, &compressed(&archive), Digest::of(&archive))
}

fn host() -> (tempfile::TempDir, Host) {
    let directory = directory();
    fs::write(directory.path().join("outside"), "outside\n").unwrap();
    let host = Host::at(&directory.path().join("host"));
    host.write("etc/shadow", "root:*\n");
    host.store();
    (directory, host)
}

fn recipe(host: &Host, layers: Vec<Layer>) -> Recipe {
    Recipe {
        layers,
        ..host.recipe(&[])
    }
}

/// Files in the places where something half done could be.
fn remains(host: &Host) -> Vec<String> {
    let picture = host.picture();
    let is_remains = |(path, what): &(&String, &String)| {
        ["objects/", "layers/", "generations/"]
            .iter()
            .any(|place| path.contains(&format!("var/lib/chasi/{place}")))
            && !what.starts_with("directory")
    };
    picture
        .0
        .iter()
        .filter(is_remains)
        .map(|(path, _)| path.clone())
        .collect()
}

fn refused(name: &str, host: &Host, outside: &std::path::Path, recipe: &Recipe, kind: Kind) {
    let before = host.live();
    let error = host.stage(recipe).unwrap_err();
    assert_eq!(error.kind(), kind, "{name}: {error:?}");
    before.assert_same(&host.live(), name);
    // A layer that was read before the image was refused is whole, and is nobody's.
    chasi::host::generation::prune(&host.root).unwrap();
    assert_eq!(remains(host), [""; 0], "{name}");
    assert_eq!(
        fs::read_to_string(outside.join("outside")).unwrap(),
        "outside\n",
        "{name}"
    );
    assert_eq!(fs::read_dir(outside).unwrap().count(), 2, "{name}");
    assert_eq!(
        chasi::host::generation::numbers(&host.root).unwrap(),
        [0; 0],
        "{name}"
    );
}

#[test]
fn entries_that_reach_out_are_refused() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    let cases: Vec<(&str, Archive)> = vec![
        ("a path that climbs", archive().file("../../outside", "x")),
        (
            "a path that climbs later",
            archive().file("etc/../../../outside", "x"),
        ),
        ("an absolute path", archive().file("/etc/shadow", "x")),
        (
            "a file through a link",
            archive()
                .special(Symlink, "etc/a", "/etc")
                .file("etc/a/shadow", "x"),
        ),
        (
            "a file through a link that climbs",
            archive()
                .special(Symlink, "usr/a", "../../../..")
                .file("usr/a/outside", "x"),
        ),
        (
            "a file in place of a link",
            archive()
                .special(Symlink, "etc/a", "/etc/shadow")
                .file("etc/a", "x"),
        ),
        (
            "a hard link to a file of the host",
            archive().special(Link, "etc/a", "/etc/shadow"),
        ),
        (
            "a hard link that climbs",
            archive().special(Link, "etc/a", "../../../etc/shadow"),
        ),
        (
            "a hard link to nothing",
            archive().special(Link, "etc/a", "etc/b"),
        ),
        (
            "a hard link to a link",
            archive()
                .special(Symlink, "etc/a", "/etc/shadow")
                .special(Link, "etc/b", "etc/a"),
        ),
        (
            "a hard link to a directory",
            archive()
                .special(Directory, "etc/a", "")
                .special(Link, "etc/b", "etc/a"),
        ),
        ("a character device", archive().special(Char, "etc/a", "")),
        ("a block device", archive().special(Block, "etc/a", "")),
        ("a named pipe", archive().special(Fifo, "etc/a", "")),
        (
            "an unknown type",
            archive().special(EntryType::new(b'Z'), "etc/a", ""),
        ),
        ("a whiteout with content", archive().file("etc/.wh.a", "x")),
        ("a whiteout of the parent", archive().file("etc/.wh...", "")),
        ("a whiteout of itself", archive().file("etc/.wh..", "")),
        (
            "a whiteout that is a link",
            archive().special(Symlink, "etc/.wh.a", "/etc"),
        ),
        (
            "a path through a file",
            archive().file("etc/a", "x").file("etc/a/b", "x"),
        ),
        (
            "a path that comes twice",
            archive().file("etc/a", "x").file("etc/a", "y"),
        ),
        (
            "a link with content",
            archive().entry(Symlink, "etc/a", "b", b"x"),
        ),
        ("a name that is no text", archive().file("etc/a\u{1}b", "x")),
        (
            "a place that is not an image's",
            archive().file("root/.ssh/authorized_keys", "x"),
        ),
        (
            "a top that is a link",
            archive().special(Symlink, "etc", "/etc"),
        ),
        (
            "a link that climbs out of the image",
            archive().special(Symlink, "usr/a", "../../etc/shadow"),
        ),
    ];
    for (name, archive) in cases {
        let (directory, host) = host();
        let recipe = recipe(&host, vec![honest(&host, archive.end())]);
        refused(name, &host, directory.path(), &recipe, Kind::Integrity);
    }
}

#[test]
fn layers_that_are_not_what_they_say_are_refused() {
    let archive = || archive().file("etc/a", &"content ".repeat(4096)).end();
    let digest = Digest::of(archive());
    let cut = |archive: Vec<u8>, length: usize| archive[..length].to_vec();
    let mut flipped = archive();
    flipped[700] ^= 1;
    let mut longer = archive();
    longer.extend_from_slice(&[1; 512]);
    let mut lying = Archive::default();
    lying.header(EntryType::Regular, "etc/a", "", 1 << 40);
    let lying = lying.end();
    let mut bomb = Archive::default();
    bomb.header(EntryType::Regular, "etc/a", "", 256 << 20);
    bomb.0.resize(bomb.0.len() + (256 << 20), 0);
    let bomb = bomb.end();
    let cases: Vec<(&str, Vec<u8>, Digest)> = vec![
        ("another digest", compressed(&archive()), Digest::of("x")),
        ("a flipped bit", compressed(&flipped), digest),
        (
            "a truncated archive",
            compressed(&cut(archive(), 4096)),
            digest,
        ),
        (
            "a truncated archive that says so",
            compressed(&cut(archive(), 4096)),
            Digest::of(cut(archive(), 4096)),
        ),
        ("a truncated frame", cut(compressed(&archive()), 60), digest),
        (
            "something behind the end",
            compressed(&longer),
            Digest::of(&longer),
        ),
        (
            "a size that is a lie",
            compressed(&lying),
            Digest::of(&lying),
        ),
        ("a bomb", compressed(&bomb), Digest::of(&bomb)),
        (
            "no archive at all",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            digest,
        ),
        ("nothing", Vec::new(), digest),
    ];
    for (name, blob, diff_id) in cases {
        let (directory, host) = host();
        let recipe = recipe(&host, vec![layer(&host, &blob, diff_id)]);
        refused(name, &host, directory.path(), &recipe, Kind::Integrity);
    }
}

#[test]
fn blobs_that_are_missing_or_damaged_are_refused() {
    let archive = archive().file("etc/a", "x").end();
    let (directory, host) = host();
    let good = honest(&host, archive.clone());
    let missing = Layer {
        blob: Blob::of(media::LAYER_ZSTD, b"missing"),
        ..good.clone()
    };
    refused(
        "a missing blob",
        &host,
        directory.path(),
        &recipe(&host, vec![missing]),
        Kind::NotFound,
    );
    let path = host.store().path_of(&good.blob.digest);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&path, &bytes).unwrap();
    refused(
        "a damaged blob",
        &host,
        directory.path(),
        &recipe(&host, vec![good.clone()]),
        Kind::Integrity,
    );
    fs::write(&path, &bytes[..middle]).unwrap();
    refused(
        "a truncated blob",
        &host,
        directory.path(),
        &recipe(&host, vec![good]),
        Kind::Integrity,
    );
}

#[test]
fn a_layer_cannot_lead_another_astray() {
    let (directory, host) = host();
    let first = archive().special(EntryType::Symlink, "etc/a", "/etc").end();
    let second = archive().file("etc/a/shadow", "mine\n").end();
    let layers = vec![honest(&host, first), honest(&host, second)];
    let recipe = recipe(&host, layers);
    let before = host.live();
    let error = host.stage(&recipe).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(
        error
            .message()
            .contains("goes through the symbolic link `etc/a`"),
        "{error}"
    );
    before.assert_same(&host.live(), "before and after");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    assert_eq!(
        chasi::host::generation::numbers(&host.root).unwrap(),
        [0; 0]
    );
}

#[test]
fn after_a_refusal_a_good_image_is_staged() {
    let (_directory, host) = host();
    let bad = honest(&host, archive().file("etc/a", "x").file("../b", "x").end());
    host.stage(&recipe(&host, vec![bad])).unwrap_err();
    let number = host
        .stage(&host.recipe(&[&[("etc/a", file("x\n"))]]))
        .unwrap()
        .number;
    host.switch(Part::Node, Some(number)).unwrap();
    assert_eq!((number, host.read("etc/a").as_str()), (1, "x\n"));
}

#[test]
fn a_template_that_cannot_be_rendered_says_where_and_leaves_nothing() {
    let (_directory, host) = host();
    let recipe = host.recipe(&[&[("etc/a.conf.j2", file("ok\n{{ host.no.such }}\n"))]]);
    let error = host.stage(&recipe).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(
        error.message().contains("`etc/a.conf.j2`, line 2"),
        "{error}"
    );
    assert_eq!(
        chasi::host::generation::numbers(&host.root).unwrap(),
        [0; 0]
    );
    let both = host.recipe(&[&[("etc/a.conf.j2", file("1")), ("etc/a.conf", file("2"))]]);
    assert_eq!(host.stage(&both).unwrap_err().kind(), Kind::Input);
}
