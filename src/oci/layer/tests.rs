use std::io::{Cursor, Read, Write};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::error::{Kind, Result};

fn path(text: &str) -> EntryPath {
    text.parse().unwrap()
}

/// Writes everything that the writer can write.
fn sample(writer: &mut Writer<Vec<u8>>) {
    let mut special = Meta::new(0o4755);
    special
        .xattrs
        .insert("security.capability".into(), vec![1, b'\n', 0, 255]);
    special.uid = 3_000_000_000;
    let file = |writer: &mut Writer<Vec<u8>>, name: &str, meta: &Meta, content: &[u8]| {
        writer
            .file(&path(name), meta, content.len() as u64, content)
            .unwrap();
    };
    writer.directory(&path("etc"), &Meta::new(0o755)).unwrap();
    file(writer, "etc/empty", &Meta::new(0o600), b"");
    let divided = format!("opt/{}/{}", "d".repeat(120), "f".repeat(90));
    file(writer, &divided, &Meta::new(0o644), &[7; 5000]);
    let long = format!("opt/{}/{}", "e".repeat(120), "g".repeat(200));
    writer
        .symlink(&path(&long), &Meta::new(0o777), &"t".repeat(150))
        .unwrap();
    writer
        .directory(&path("opt/ünïcode"), &Meta::new(0o1777))
        .unwrap();
    writer
        .symlink(&path("usr/bin/link"), &Meta::new(0o777), "../bin/tool")
        .unwrap();
    file(writer, "usr/bin/tool", &special, b"#!/bin/sh\n");
}

fn pack(workers: u32, write: impl FnOnce(&mut Writer<Vec<u8>>)) -> (Vec<u8>, Digest) {
    let mut writer = Writer::new(Vec::new(), workers).unwrap();
    write(&mut writer);
    let written = writer.finish().unwrap();
    (written.out, written.diff_id)
}

/// Reads a layer to its end: the entries with the content of files.
fn unpack(bytes: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(bytes, "layer x", limits)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader
            .content()
            .read_to_end(&mut content)
            .map_err(|cause| crate::error::Error::new(Kind::Integrity, cause.to_string()))?;
        entries.push((entry, content));
    }
    reader.finish()?;
    Ok(entries)
}

#[test]
fn the_bytes_of_a_layer_are_pinned() {
    let (bytes, diff_id) = pack(1, sample);
    let pinned = [diff_id, Digest::of(&bytes)].map(|digest| digest.to_string());
    assert_eq!(
        pinned,
        [
            "sha256:0eb294cb603e9c4d9e58cc21afee28412a8de7705456cc1b726b737360293195",
            "sha256:5329e32207e671bdd45481eea274697e90b6d4f076878169b5c526629261a838",
        ]
    );
}

#[test]
fn the_number_of_workers_does_not_change_the_bytes() {
    let mut noise = Vec::new();
    let mut state = 1u64;
    for _ in 0..3_000_000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        noise.extend_from_slice(&(state >> 40).to_le_bytes()[..3]);
    }
    let write = |writer: &mut Writer<Vec<u8>>| {
        sample(writer);
        let size = noise.len() as u64;
        writer
            .file(
                &path("usr/noise"),
                &Meta::new(0o644),
                size,
                noise.as_slice(),
            )
            .unwrap();
    };
    let one = pack(1, write);
    assert_eq!(one, pack(2, write));
    assert_eq!(one, pack(5, write));
}

#[test]
fn what_was_written_is_read() {
    let (bytes, diff_id) = pack(1, sample);
    let entries = unpack(&bytes, Limits::default()).unwrap();
    let names: Vec<String> = entries
        .iter()
        .map(|(entry, _)| entry.path.as_str().chars().take(14).collect())
        .collect();
    assert_eq!(
        names,
        [
            "etc",
            "etc/empty",
            "opt/dddddddddd",
            "opt/eeeeeeeeee",
            "opt/ünïcode",
            "usr/bin/link",
            "usr/bin/tool",
        ]
    );
    let (tool, content) = &entries[6];
    let Node::File { meta, size: 10 } = &tool.node else {
        panic!("{tool:?}")
    };
    assert_eq!(content, b"#!/bin/sh\n");
    assert_eq!((meta.mode, meta.uid, meta.gid), (0o4755, 3_000_000_000, 0));
    assert_eq!(meta.xattrs["security.capability"], [1, b'\n', 0, 255]);
    let mut plain = Vec::new();
    zstd::Decoder::new(bytes.as_slice())
        .unwrap()
        .read_to_end(&mut plain)
        .unwrap();
    assert_eq!(Digest::of(&plain), diff_id);
    // The other tar reader on this machine agrees.
    let listed = crate::command::Command::new("tar")
        .args(["-t", "-f", "-"])
        .input(plain)
        .run()
        .unwrap();
    assert_eq!(
        String::from_utf8(listed.stdout).unwrap().lines().count(),
        names.len()
    );
}

#[test]
fn entries_out_of_order_are_not_written() {
    let mut writer = Writer::new(Vec::new(), 1).unwrap();
    writer.directory(&path("b"), &Meta::new(0o755)).unwrap();
    writer.directory(&path("a"), &Meta::new(0o755)).unwrap_err();
    writer.directory(&path("b"), &Meta::new(0o755)).unwrap_err();
}

#[test]
fn a_file_that_changes_its_size_is_not_written() {
    for content in [&b"ab"[..], b"abcd"] {
        let mut writer = Writer::new(Vec::new(), 1).unwrap();
        writer
            .file(&path("a"), &Meta::new(0o644), 3, content)
            .unwrap_err();
    }
}

/// An archive made by hand: what no honest program writes.
struct Forge(Vec<u8>);

impl Forge {
    fn new() -> Self {
        Forge(Vec::new())
    }

    fn raw(mut self, kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..name.len()].copy_from_slice(name);
            gnu.linkname[..link.len()].copy_from_slice(link);
        }
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.raw(b'0', name.as_bytes(), b"", b"x")
    }

    fn empty(self, name: &str) -> Self {
        self.raw(b'0', name.as_bytes(), b"", b"")
    }

    fn directory(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            pax::push(&mut data, key, value);
        }
        self.raw(b'x', b"pax", b"", &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

#[test]
fn hostile_entries_are_refused_by_layer_and_path() {
    let deep = vec!["d"; 130].join("/");
    let name = "n".repeat(256);
    let table: Vec<(&str, Forge)> = vec![
        ("`../x`: the path has a `..`", Forge::new().file("../x")),
        (
            "`a/../../x`: the path has a `..`",
            Forge::new().file("a/../../x"),
        ),
        (
            "`a/..`: the path has a `..`",
            Forge::new().directory("a/.."),
        ),
        (
            "`/etc/passwd`: the path is absolute",
            Forge::new().file("/etc/passwd"),
        ),
        ("the path is empty", Forge::new().file("")),
        (
            "`.`: the archive's root is not a directory",
            Forge::new().symlink(".", "/etc"),
        ),
        ("control character", Forge::new().file("a\nb")),
        (
            "control character",
            Forge::new().pax(&[("path", b"a\0b")]).file("a"),
        ),
        ("not UTF-8", Forge::new().raw(b'0', b"a\xff", b"", b"")),
        (
            "`a/b`: the path goes through the symbolic link `a`",
            Forge::new().symlink("a", "/etc").file("a/b"),
        ),
        (
            "`a/b/c`: the path goes through the symbolic link `a`",
            Forge::new().symlink("a", "..").file("a/b/c"),
        ),
        (
            "`a/b`: the path goes through the symbolic link `a`",
            Forge::new().symlink("a", "x").hardlink("a/b", "f"),
        ),
        (
            "`a/.wh.b`: the path goes through the symbolic link `a`",
            Forge::new().symlink("a", "/etc").empty("a/.wh.b"),
        ),
        (
            "`a/.wh..wh..opq`: the path goes through",
            Forge::new().symlink("a", "/etc").empty("a/.wh..wh..opq"),
        ),
        (
            "`a`: the path comes twice",
            Forge::new().file("a/b").symlink("a", "/etc"),
        ),
        (
            "`a`: the path comes twice",
            Forge::new().directory("a").symlink("a", "/etc"),
        ),
        (
            "`a`: the path comes twice",
            Forge::new().empty("a/.wh.b").symlink("a", "/etc"),
        ),
        (
            "`a`: the path comes twice",
            Forge::new().file("a").file("a"),
        ),
        (
            "`./a`: the path comes twice",
            Forge::new().symlink("a", "x").file("./a"),
        ),
        (
            "`a/b`: the path goes through the file `a`",
            Forge::new().file("a").file("a/b"),
        ),
        ("`a/.wh...`: ", Forge::new().empty("a/.wh...")),
        ("`.wh..`: ", Forge::new().empty(".wh..")),
        ("`a/.wh.`: ", Forge::new().empty("a/.wh.")),
        (
            "the whiteout's name is reserved",
            Forge::new().empty(".wh..wh.aufs"),
        ),
        ("root cannot be opaque", Forge::new().empty(".wh..wh..opq")),
        (
            "a whiteout is not an empty file",
            Forge::new().file(".wh.a"),
        ),
        (
            "a whiteout is not an empty file",
            Forge::new().symlink(".wh.a", "x"),
        ),
        (
            "target `f` is not a file that came earlier",
            Forge::new().hardlink("a", "f"),
        ),
        (
            "target `a` is not a file that came earlier",
            Forge::new().hardlink("a", "a"),
        ),
        (
            "target `d` is not a file",
            Forge::new().directory("d").hardlink("a", "d"),
        ),
        (
            "target `s` is not a file",
            Forge::new().symlink("s", "/etc/shadow").hardlink("a", "s"),
        ),
        (
            "target is refused: the path is absolute",
            Forge::new().hardlink("a", "/etc/shadow"),
        ),
        (
            "target is refused: the path has a `..`",
            Forge::new().hardlink("a", "../shadow"),
        ),
        (
            "`dev/sda`: device files are refused",
            Forge::new().raw(b'4', b"dev/sda", b"", b""),
        ),
        (
            "device files are refused",
            Forge::new().raw(b'3', b"null", b"", b""),
        ),
        (
            "named pipes are refused",
            Forge::new().raw(b'6', b"p", b"", b""),
        ),
        (
            "sparse files are refused",
            Forge::new().raw(b'S', b"s", b"", b""),
        ),
        (
            "sparse files are refused",
            Forge::new().pax(&[("GNU.sparse.major", b"1")]).file("s"),
        ),
        (
            "entries of type 'V' are refused",
            Forge::new().raw(b'V', b"v", b"", b""),
        ),
        (
            "not a file has content",
            Forge::new().raw(b'5', b"d", b"", b"x"),
        ),
        ("target is empty", Forge::new().symlink("a", "")),
        (
            "target is empty, longer",
            Forge::new()
                .pax(&[("linkpath", &[b'x'; 5000])])
                .symlink("a", ""),
        ),
        (
            "names deep",
            Forge::new().pax(&[("path", deep.as_bytes())]).file("a"),
        ),
        (
            "a name of more than 255",
            Forge::new().pax(&[("path", name.as_bytes())]).file("a"),
        ),
        (
            "longer than 4096",
            Forge::new()
                .pax(&[("path", &b"abc/".repeat(1100))])
                .file("a"),
        ),
        (
            "a PAX header is malformed",
            Forge::new().raw(b'x', b"", b"", b"9 a=b\n").file("a"),
        ),
        (
            "the two sizes of the entry differ",
            Forge::new().pax(&[("size", b"0")]).file("a"),
        ),
        (
            "record `uid` is not a number",
            Forge::new().pax(&[("uid", b"-1")]).file("a"),
        ),
        (
            "record `uid` is not a number",
            Forge::new().pax(&[("uid", b"4294967296")]).file("a"),
        ),
        (
            "attribute `trusted.overlay.opaque` is refused",
            Forge::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .file("a"),
        ),
        (
            "global PAX record `path` is refused",
            Forge::new().raw(b'g', b"", b"", b"10 path=x\n").file("a"),
        ),
        (
            "ends after an extended header",
            Forge::new().pax(&[("path", b"a")]),
        ),
    ];
    for (expected, forge) in table {
        let error = unpack(&forge.end(), Limits::default())
            .map(|entries| panic!("{expected}: {entries:?}"))
            .unwrap_err();
        let text = format!(
            "{error}: {}",
            error
                .causes()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ")
        );
        assert!(
            text.starts_with("layer x: ") && text.contains(expected),
            "{text}, expected {expected}"
        );
        assert_eq!(error.kind(), Kind::Integrity);
    }
}

#[test]
fn honest_archives_of_others_are_read() {
    let archive = Forge::new()
        .raw(
            b'g',
            b"pax_global_header",
            b"",
            b"52 comment=0123456789012345678901234567890123456789\n",
        )
        .directory("./")
        .directory("./a/")
        .directory("a")
        .file("./a//b")
        .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.security.selinux", b"x")])
        .hardlink("a/c", "./a/b")
        .raw(b'0', b"old/", b"", b"")
        .empty("a/.wh.gone")
        .file("a/gone")
        .empty("a/.wh..wh..opq")
        .symlink("etc", "/somewhere/else")
        .raw(b'L', b"././@LongLink", b"", b"long/name\0")
        .file("cut")
        .end();
    let entries = unpack(&archive, Limits::default()).unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|(entry, _)| {
            let kind = match &entry.node {
                Node::File { .. } => "file",
                Node::Directory { .. } => "directory",
                Node::Symlink { .. } => "symlink",
                Node::Hardlink { .. } => "hardlink",
                Node::Whiteout => "whiteout",
                Node::OpaqueDirectory => "opaque",
            };
            (entry.path.as_str(), kind)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("a", "directory"),
            ("a", "directory"),
            ("a/b", "file"),
            ("a/c", "hardlink"),
            ("old", "directory"),
            ("a/gone", "whiteout"),
            ("a/gone", "file"),
            ("a", "opaque"),
            ("etc", "symlink"),
            ("long/name", "file"),
        ]
    );
}

#[test]
fn every_compression_is_read() {
    let plain = Forge::new().file("a").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for bytes in [plain.clone(), gzip.finish().unwrap(), zstd] {
        assert_eq!(unpack(&bytes, Limits::default()).unwrap().len(), 1);
        let digest = Reader::new(bytes.as_slice(), "x", Limits::default())
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(digest, Digest::of(&plain));
    }
}

#[test]
fn another_digest_than_expected_is_refused() {
    let plain = Forge::new().file("a").end();
    let reader = Reader::new(plain.as_slice(), "layer x", Limits::default()).unwrap();
    let error = reader.expecting(Digest::of("other")).finish().unwrap_err();
    assert!(
        error
            .message()
            .starts_with("layer x: its content has the digest"),
        "{error}"
    );
}

#[test]
fn limits_hold() {
    let archive = Forge::new()
        .file("a")
        .raw(b'0', b"b", b"", &[7; 2000])
        .end();
    let small = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        let error = unpack(&archive, limits).unwrap_err();
        format!(
            "{error}: {}",
            error.causes().map(ToString::to_string).collect::<String>()
        )
    };
    assert_eq!(
        small(|limits| limits.entries = 1),
        "layer x: `b`: there are more than 1 entries: "
    );
    assert_eq!(
        small(|limits| limits.file_size = 1999),
        "layer x: `b`: the file is larger than 1999 bytes: "
    );
    let text = small(|limits| limits.total_size = 3000);
    assert!(
        text.contains("the archive is larger than 3000 bytes"),
        "{text}"
    );
}

#[test]
fn a_bomb_is_refused_before_it_grows() {
    let mut bomb = zstd::Encoder::new(Vec::new(), 19).unwrap();
    let size = 1u64 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(size), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    let mut reader = Reader::new(bomb.as_slice(), "layer x", Limits::default()).unwrap();
    reader.next_entry().unwrap().unwrap();
    let mut produced = 0;
    let mut buffer = vec![0; 1 << 16];
    let error = loop {
        match reader.content().read(&mut buffer) {
            Ok(count) => produced += count as u64,
            Err(error) => break error,
        }
    };
    assert!(
        error
            .to_string()
            .starts_with("layer x: `zeros`: the archive is compressed more than 1000 times"),
        "{error}"
    );
    assert!(produced <= 65 << 20, "{produced}");
}

#[test]
fn a_truncated_archive_is_refused() {
    let (bytes, _) = pack(1, sample);
    for length in 0..bytes.len() {
        let result = unpack(&bytes[..length], Limits::default());
        // Nothing at all is an empty archive; its digest tells.
        assert!(
            length == 0 || result.is_err(),
            "{length} of {}",
            bytes.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn files_survive_the_round_trip(
        files in proptest::collection::btree_map(
            "[a-c]{1,2}(/[a-d]{1,2}){0,3}",
            (proptest::collection::vec(any::<u8>(), 0..2000), 0u32..0o10000, any::<u32>(), any::<u32>()),
            0..12,
        ),
    ) {
        let is_directory = |name: &String| files.keys().any(|other| other.starts_with(&format!("{name}/")));
        let expected: Vec<_> = files.iter().filter(|(name, _)| !is_directory(name)).collect();
        let (bytes, diff_id) = pack(1, |writer| {
            for (name, (content, mode, uid, gid)) in &expected {
                let meta = Meta { mode: *mode, uid: *uid, gid: *gid, xattrs: Default::default() };
                writer.file(&path(name), &meta, content.len() as u64, content.as_slice()).unwrap();
            }
        });
        let read = unpack(&bytes, Limits::default()).unwrap();
        prop_assert_eq!(read.len(), expected.len());
        for ((entry, found), (name, (content, mode, uid, gid))) in read.iter().zip(expected) {
            let Node::File { meta, .. } = &entry.node else { panic!("{entry:?}") };
            prop_assert_eq!((entry.path.as_str(), found), (name.as_str(), content));
            prop_assert_eq!((meta.mode, meta.uid, meta.gid), (*mode, *uid, *gid));
        }
        prop_assert_eq!(Reader::new(Cursor::new(bytes), "x", Limits::default()).unwrap().finish().unwrap(), diff_id);
    }

    #[test]
    fn mutated_archives_never_panic_and_never_escape(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        fix_checksums: bool,
    ) {
        let mut bytes = Forge::new()
            .directory("a")
            .pax(&[("path", b"a/long"), ("SCHILY.xattr.user.x", b"1")])
            .file("f")
            .symlink("s", "../x")
            .hardlink("h", "a/long")
            .empty("a/.wh.b")
            .end();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if fix_checksums {
            for block in bytes.chunks_exact_mut(512) {
                let mut header = tar::Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        if let Ok(entries) = unpack(&bytes, Limits::default()) {
            for (entry, _) in entries {
                let path = entry.path.as_str();
                prop_assert!(!path.starts_with('/') && path.split('/').all(|name| !matches!(name, "" | "." | "..")));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = unpack(&bytes, Limits::default());
    }
}
