//! What is written is read again, and nothing else is taken for a backup.

use super::*;
use crate::remote::Secret;

fn manifest() -> Manifest {
    Manifest {
        version: 0,
        chasi: "0.1.0".into(),
        cluster: "shop".into(),
        when: "2026-11-22T01:02:03Z".parse().unwrap(),
        image: Digest::of("image"),
        reference: "docker.io/shop/site:1".into(),
        kubernetes: "1.34.4".into(),
        etcd: "3.6.5".into(),
        revision: 42,
        entries: Vec::new(),
    }
}

fn small() -> Small {
    [
        ("Clusterfile", &b"kind: Cluster\n"[..]),
        ("pki/ca.key", b"secret"),
    ]
    .map(|(path, content)| (path.to_owned(), content.to_vec()))
    .into()
}

/// Does not compress, so that a change is never one of the compressor's own.
fn database() -> Vec<u8> {
    let mut digest = Digest::of("x");
    let mut bytes = Vec::new();
    while bytes.len() < 100_000 {
        digest = Digest::of(digest.bytes());
        bytes.extend_from_slice(digest.bytes());
    }
    bytes
}

fn described() -> Manifest {
    let database = database();
    manifest().with(&small(), Digest::of(&database), database.len() as u64)
}

fn written(recipients: &Recipients) -> Vec<u8> {
    write(
        Vec::new(),
        &described(),
        &small(),
        &database()[..],
        recipients,
    )
    .unwrap()
}

fn key() -> (Identities, Recipients) {
    use age::secrecy::ExposeSecret as _;
    let key = age::x25519::Identity::generate();
    let text = format!("# a comment\n{}\n", key.to_string().expose_secret());
    let recipients = Recipients::parse(&[key.to_public().to_string()]).unwrap();
    (Identities::new(Secret::new(text)), recipients)
}

fn opened(file: &[u8], identities: &Identities) -> Result<(Whole, Vec<u8>)> {
    let mut database = Vec::new();
    let whole = read(file, identities, &mut database)?;
    Ok((whole, database))
}

#[test]
fn what_is_written_is_read_again_encrypted_or_not() {
    let (identities, recipients) = key();
    for (identities, recipients) in [
        (Identities::none(), Recipients::none()),
        (identities, recipients),
    ] {
        let file = written(&recipients);
        let (whole, read) = opened(&file, &identities).unwrap();
        assert_eq!(whole.manifest, described());
        assert_eq!(whole.small, small());
        assert_eq!(read, database());
        let text = serde_json::to_vec_pretty(&described()).unwrap();
        assert_eq!(whole.identity, Digest::of(text));
    }
}

#[test]
fn an_encrypted_one_shows_nothing_and_needs_its_identity() {
    let (_, recipients) = key();
    let file = written(&recipients);
    assert!(!file.windows(4).any(|part| part == b"shop"));
    let (other, _) = key();
    for wrong in [Identities::none(), other] {
        let error = opened(&file, &wrong).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
        assert!(!error.hints().is_empty());
    }
}

#[test]
fn one_that_was_cut_or_changed_anywhere_is_none() {
    let (identities, recipients) = key();
    for (identities, file) in [
        (Identities::none(), written(&Recipients::none())),
        (identities, written(&recipients)),
    ] {
        for step in 1..=40 {
            let place = (file.len() - 1) * step / 40;
            let cut = opened(&file[..place], &identities);
            assert!(cut.is_err(), "cut at {place}");
            let mut flipped = file.clone();
            flipped[place] ^= 0x10;
            let Ok((whole, read)) = opened(&flipped, &identities) else {
                continue;
            };
            // Not every bit of a compressor's frame means something.
            assert_eq!((whole.small, read), (small(), database()), "{place}");
        }
    }
}

#[test]
fn a_snapshot_that_is_not_the_one_taken_is_not_written() {
    let mut other = database();
    other[7] ^= 1;
    let cut = &database()[..99];
    for wrong in [&other[..], cut] {
        write(
            Vec::new(),
            &described(),
            &small(),
            wrong,
            &Recipients::none(),
        )
        .unwrap_err();
    }
}

/// An archive whose manifest says what it likes.
fn hostile(manifest: &Manifest, entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let text = serde_json::to_vec(manifest).unwrap();
    for (path, content) in [(MANIFEST, &text[..])].iter().chain(entries) {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap()
}

fn entry(path: &str, content: &[u8]) -> Entry {
    Entry {
        path: path.into(),
        digest: Digest::of(content),
        size: content.len() as u64,
    }
}

#[test]
fn hostile_paths_sizes_and_lists_are_refused() {
    let of = |entries: Vec<Entry>| Manifest {
        version: VERSION,
        entries,
        ..manifest()
    };
    let etcd = entry(SNAPSHOT, b"db");
    let sound = of(vec![entry("cluster/a", b"x"), etcd.clone()]);
    let file = hostile(&sound, &[("cluster/a", b"x"), (SNAPSHOT, b"db")]);
    opened(&file, &Identities::none()).unwrap();

    let mut huge = etcd.clone();
    huge.size = u64::MAX;
    let mut large = entry("cluster/a", b"x");
    large.size = LARGEST_SMALL + 1;
    for (what, manifest, entries) in [
        (
            "no snapshot",
            of(vec![entry("cluster/a", b"x")]),
            vec![("cluster/a", &b"x"[..])],
        ),
        ("nothing", of(vec![]), vec![]),
        (
            "a climb",
            of(vec![entry("cluster/../../x", b"x"), etcd.clone()]),
            vec![("cluster/../../x", b"x"), (SNAPSHOT, b"db")],
        ),
        (
            "an absolute path",
            of(vec![entry("/etc/x", b"x"), etcd.clone()]),
            vec![("/etc/x", b"x"), (SNAPSHOT, b"db")],
        ),
        (
            "another place",
            of(vec![entry("etc/x", b"x"), etcd.clone()]),
            vec![("etc/x", b"x"), (SNAPSHOT, b"db")],
        ),
        (
            "one entry twice",
            of(vec![
                entry("cluster/a", b"x"),
                entry("cluster/a", b"x"),
                etcd.clone(),
            ]),
            vec![("cluster/a", b"x"), ("cluster/a", b"x"), (SNAPSHOT, b"db")],
        ),
        (
            "a snapshot beyond all bounds",
            of(vec![huge]),
            vec![(SNAPSHOT, b"db")],
        ),
        (
            "a large small entry",
            of(vec![large, etcd.clone()]),
            vec![("cluster/a", b"x"), (SNAPSHOT, b"db")],
        ),
        (
            "more than it says",
            sound.clone(),
            vec![("cluster/a", b"x"), (SNAPSHOT, b"db"), ("z", b"z")],
        ),
        (
            "less than it says",
            sound.clone(),
            vec![("cluster/a", b"x")],
        ),
        (
            "other content",
            sound.clone(),
            vec![("cluster/a", b"y"), (SNAPSHOT, b"db")],
        ),
    ] {
        let error = opened(&hostile(&manifest, &entries), &Identities::none()).unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Integrity | Kind::Input),
            "{what}: {error}"
        );
    }
    let mut later = sound;
    later.version = 2;
    let error = opened(&hostile(&later, &[]), &Identities::none()).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.hints()[0].contains("0.1.0"));
    // A header that has no end, and a bomb.
    let endless = [AGE, &vec![b'x'; 200_000]].concat();
    opened(&endless, &key().0).unwrap_err();
    let bomb = zstd::encode_all(io::repeat(0).take(256 << 20), 1).unwrap();
    opened(&bomb, &Identities::none()).unwrap_err();
}

#[test]
fn a_name_says_what_is_in_it() {
    let name = Name::of(&manifest(), &Digest::of("file"), true);
    let text = name.to_string();
    assert_eq!(
        text,
        "shop_20261122T010203Z_1.34.4_3b9c358f36f0a31b6ad3e14f309c7cf1.tar.zst.age"
    );
    assert_eq!(text.parse(), Ok(name.clone()));
    assert!(name.fits(&Digest::of("file")) && !name.fits(&Digest::of("other")));
    for other in [
        "shop.tar.zst",
        "shop_20261122T010203Z_1.34.4_3b9c.tar.zst",
        "shop_2026_1.34.4_3b9c358f36f0a31b6ad3e14f309c7cf1.tar.zst",
        "a/b_20261122T010203Z_1.34.4_3b9c358f36f0a31b6ad3e14f309c7cf1.tar.zst",
        "_20261122T010203Z_1.34.4_3b9c358f36f0a31b6ad3e14f309c7cf1.tar.zst",
    ] {
        assert_eq!(other.parse::<Name>(), Err(()), "{other}");
    }
}

/// Other versions of chasi read it.
#[test]
fn the_format_is_pinned() {
    let mut manifest = described();
    manifest.entries.truncate(1);
    insta::assert_snapshot!(serde_json::to_string(&manifest).unwrap());
}
