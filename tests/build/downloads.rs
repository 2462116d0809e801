//! What `ADD` downloads, from servers that are well and from servers that are not.

use chasi::digest::Digest;
use chasi::event::Context;

use crate::server::{Page, Server};
use crate::site::{Outcome, Site};

fn add(url: &str) -> String {
    format!("FROM scratch\nLAYER app\nADD {url} usr/bin/\n")
}

fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(501);
        // Set directly: the builder refuses what a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_download_is_compared_with_its_checksum() {
    let (site, server) = (Site::new(), Server::start());
    let url = server.put("tool", Page::Content(b"tool".to_vec()));
    let sums = server.put(
        "SUMS",
        Page::Content(format!("{}  tool\n", Digest::of("tool").hex()).into()),
    );
    for text in [
        add(&url),
        add(&format!("--checksum={} {url}", Digest::of("tool"))),
        add(&format!("--checksum={sums} {url}")),
    ] {
        site.kubefile(&text).built(&[]);
        assert_eq!(
            site.tree("site/image:1")[2],
            ("usr/bin/tool".into(), "f 644 0:0 tool".into())
        );
    }
    let wrong = Digest::of("other");
    site.kubefile(&add(&format!("--checksum={wrong} {url}")));
    site.build(&[])
        .fails(7, &[&wrong.to_string(), &Digest::of("tool").to_string()]);
    server.put(
        "SUMS",
        Page::Content(format!("{}  another\n", wrong.hex()).into()),
    );
    site.kubefile(&add(&format!("--checksum={sums} {url}")));
    site.build(&[]).fails(7, &["has no line for `tool`"]);
}

#[test]
fn what_is_refused_or_missing_is_said_at_once() {
    let (site, server) = (Site::new(), Server::start());
    for (status, code, part) in [
        (404, 8, "404"),
        (401, 9, ".netrc"),
        (403, 9, ".netrc"),
        (418, 1, "418"),
    ] {
        let url = server.put("tool", Page::Status(status));
        site.kubefile(&add(&url));
        site.build(&[]).fails(
            code,
            &[part, &url, "hint: "][..if status == 418 { 2 } else { 3 }],
        );
        assert_eq!(server.requests(), ["/tool"]);
    }
    assert!(site.store().tags().unwrap().is_empty());
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let (site, server) = (Site::new(), Server::start());
    let url = server.put("tool", Page::Flaky(503, 2, b"tool".to_vec()));
    site.kubefile(&add(&url)).built(&[]);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let (site, server) = (Site::new(), Server::start());
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let url = server.put("tool", Page::Breaking(150_000, content.clone()));
    site.kubefile(&add(&format!("--checksum={} {url}", Digest::of(&content))))
        .built(&[]);
    let requests = server.requests();
    assert_eq!(requests[0], "/tool");
    assert!(
        requests[1..]
            .iter()
            .all(|request| request.starts_with("/tool bytes=")),
        "{requests:?}"
    );
}

#[test]
fn what_a_killed_build_left_is_gone_on_with_only_if_it_is_the_same() {
    let (site, server) = (Site::new(), Server::start());
    let content = b"first version".to_vec();
    let url = server.put("tool", Page::Content(content.clone()));
    let leave = |bytes: &[u8]| {
        let name = Digest::of(&url).hex();
        let partial = site.path("cache/build/partial");
        std::fs::create_dir_all(&partial).unwrap();
        std::fs::write(partial.join(&name), bytes).unwrap();
        let seen = format!(r#"{{"etag":"\"{}\""}}"#, Digest::of(&content).short());
        std::fs::write(partial.join(format!("{name}.json")), seen).unwrap();
    };
    leave(b"first");
    site.kubefile(&add(&url)).built(&[]);
    assert_eq!(site.tree("site/image:1")[2].1, "f 644 0:0 first version");
    assert_eq!(server.requests(), ["/tool bytes=5-"]);
    std::fs::remove_dir_all(site.path("cache")).unwrap();
    leave(b"first");
    server.put("tool", Page::Content(b"second".to_vec()));
    site.built(&[]);
    assert_eq!(site.tree("site/image:1")[2].1, "f 644 0:0 second");
    // More is there than the server has.
    std::fs::remove_dir_all(site.path("cache")).unwrap();
    server.put("tool", Page::Content(content.clone()));
    leave(b"first version and more");
    site.built(&[]);
    assert_eq!(site.tree("site/image:1")[2].1, "f 644 0:0 first version");
}

#[test]
fn redirects_are_followed_and_mirrors_replace_prefixes() {
    let (site, server) = (Site::new(), Server::start());
    server.put("mirror/tool", Page::Redirect("/real".into()));
    server.put("real", Page::Content(b"tool".to_vec()));
    site.kubefile(&add("https://releases.example.invalid/tool"));
    let rule = format!("https://releases.example.invalid={}", server.url("mirror"));
    site.built(&["--mirror", &rule]);
    assert_eq!(site.tree("site/image:1")[2].1, "f 644 0:0 tool");
    let lock = std::fs::read_to_string(site.context().join("Kubefile.lock")).unwrap();
    assert!(
        lock.contains("https://releases.example.invalid/tool") && !lock.contains("127.0.0.1"),
        "{lock}"
    );
}

#[test]
fn credentials_come_from_netrc_and_are_not_shown() {
    let (site, server) = (Site::new(), Server::start());
    let url = server.put(
        "tool",
        Page::Private("Basic bWU6aHVudGVyMg==".into(), b"tool".to_vec()),
    );
    site.kubefile(&add(&url));
    std::fs::write(
        site.path("home/.netrc"),
        "machine 127.0.0.1 login me password hunter2\n",
    )
    .unwrap();
    let outcome = site.build(&["--progress", "json"]);
    outcome.json();
    assert!(!outcome.stderr.contains("hunter2"));
    std::fs::write(
        site.path("home/.netrc"),
        "machine 127.0.0.1 login me password wrong\n",
    )
    .unwrap();
    std::fs::remove_dir_all(site.path("cache")).unwrap();
    let outcome = site.build(&[]);
    outcome.fails(9, &["401"]);
    assert!(!outcome.stderr.contains("wrong"));
}

#[test]
fn a_private_authority_is_named_as_for_curl() {
    let (site, (server, authority)) = (Site::new(), Server::start_tls());
    let url = server.put("tool", Page::Content(b"tool".to_vec()));
    site.kubefile(&add(&url));
    let pem = site.path("authority.pem");
    std::fs::write(&pem, authority).unwrap();
    let mut command = site.command(crate::site::chasi());
    command
        .args(["build", "-t", "site/image:1", "--format", "json"])
        .arg(site.context());
    Outcome::of(&mut command).fails(9, &[&url, "hint: "]);
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE"] {
        std::fs::remove_dir_all(site.path("cache")).unwrap();
        command.env_remove("SSL_CERT_FILE").env(name, &pem);
        Outcome::of(&mut command).json();
    }
}

#[test]
fn an_interrupted_download_ends_soon_and_goes_on_later() {
    let (site, server) = (Site::new(), Server::start());
    let content = b"a content of some length".to_vec();
    let url = server.put("tool", Page::Hanging(9, content.clone()));
    site.kubefile(&add(&format!("--checksum={} {url}", Digest::of(&content))));
    let build = site.spawn("site/image:1");
    server.wait_for_request();
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = build.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    server.put("tool", Page::Content(content));
    site.built(&[]);
    assert!(site.store().fsck(&Context::silent()).unwrap().is_empty());
}

#[test]
fn a_url_is_asked_again_but_not_sent_again_unless_it_changed() {
    let (site, server) = (Site::new(), Server::start());
    let url = server.put("tool", Page::Content(b"one".to_vec()));
    site.kubefile(&add(&url));
    let first = site.built(&[]);
    let second = site.built(&[]);
    assert_eq!(first["digest"], second["digest"]);
    server.put("tool", Page::Content(b"two".to_vec()));
    site.build(&["--locked"]).fails(
        7,
        &[
            &Digest::of("one").to_string(),
            &Digest::of("two").to_string(),
        ],
    );
    assert_ne!(site.built(&[])["digest"], first["digest"]);
    // With a checksum that is known, nobody is asked.
    server.requests();
    site.kubefile(&add(&format!("--checksum={} {url}", Digest::of("two"))))
        .built(&[]);
    assert!(server.requests().is_empty());
}

#[test]
fn the_lock_file_is_enforced() {
    let (site, server) = (Site::new(), Server::start());
    let url = server.put("tool", Page::Content(b"one".to_vec()));
    site.kubefile(&add(&url));
    site.build(&["--locked"])
        .fails(4, &["there is no lock file"]);
    site.built(&[]);
    let lock = std::fs::read(site.context().join("Kubefile.lock")).unwrap();
    site.built(&["--locked"]);
    let other = server.put("other", Page::Content(b"other".to_vec()));
    site.kubefile(&format!("{}ADD {other} usr/bin/\n", add(&url)));
    site.build(&["--locked"])
        .fails(4, &[&format!("`{other}` is not in")]);
    assert_eq!(
        std::fs::read(site.context().join("Kubefile.lock")).unwrap(),
        lock
    );
}

#[test]
fn archives_are_unpacked() {
    let (site, server) = (Site::new(), Server::start());
    let plain = tarball(&[("v1/bin/a", "a"), ("v1/b", "b")]);
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for content in [plain, zstd] {
        let url = server.put("archive", Page::Content(content));
        site.kubefile(&format!(
            "FROM scratch\nLAYER app\nADD --unpack --strip=1 {url} opt/site\n"
        ))
        .built(&[]);
        let tree = site.tree("site/image:1");
        assert_eq!(tree[2], ("opt/site/b".into(), "f 755 0:0 b".into()));
        assert_eq!(tree[4], ("opt/site/bin/a".into(), "f 755 0:0 a".into()));
    }
    let url = server.put("archive", Page::Content(b"just text".to_vec()));
    site.kubefile(&format!(
        "FROM scratch\nLAYER app\nADD --unpack {url} opt/site\n"
    ));
    site.build(&[]).fails(7, &[&url, "tar.gz"]);
}

#[test]
fn hostile_archives_are_refused() {
    let (site, server) = (Site::new(), Server::start());
    let bomb = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(80 << 20);
        header.set_mode(0o644);
        header.set_path("zeros").unwrap();
        header.set_cksum();
        builder
            .append(&header, std::io::Read::take(std::io::repeat(0), 80 << 20))
            .unwrap();
        zstd::encode_all(builder.into_inner().unwrap().as_slice(), 3).unwrap()
    };
    let mut truncated = tarball(&[("a", "a")]);
    truncated.truncate(512);
    for (content, part) in [
        (tarball(&[("../escaped", "x")]), "`..`"),
        (tarball(&[("/etc/passwd", "x")]), "absolute"),
        (tarball(&[(".wh.passwd", "")]), "it removes"),
        (bomb, "bomb"),
        (truncated, "ends within"),
    ] {
        let url = server.put("archive", Page::Content(content));
        site.kubefile(&format!(
            "FROM scratch\nLAYER app\nADD --unpack {url} opt/site/\n"
        ));
        let outcome = site.build(&[]);
        assert!(matches!(outcome.code, 3 | 7), "{outcome:?}");
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    assert!(site.store().tags().unwrap().is_empty());
    assert!(!site.path("escaped").exists() && !site.path("cache/escaped").exists());
}
