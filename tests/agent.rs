//! Bringing the agent to a host, with a real OpenSSH server, real sudo and the
//! real binary; only systemd is played by a script.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

#[path = "support/sshd.rs"]
mod sshd;

use std::time::Duration;

use chasi::agent::{self, Client, InstallOptions};
use chasi::error::{Error, Kind};
use chasi::event::Context;
use chasi::oci::{Blob, Store};
use chasi::remote::{Secret, Session, Sudo, Target};
use sshd::Sshd;

const LONG: Duration = Duration::from_secs(120);

/// What makes a namespace look like a host that chasi has never seen.
const BARE: &str = "mount -t tmpfs tmpfs /var/lib && mkdir -p /run/systemd/system";

fn options() -> InstallOptions {
    InstallOptions::new("run-1", "tester@here", env!("CARGO_BIN_EXE_chasi"))
        .with_lock(Duration::ZERO)
}

async fn connect(target: &Target) -> Result<Client, Error> {
    tokio::time::timeout(LONG, agent::connect(&Context::silent(), target, &options()))
        .await
        .unwrap()
}

/// What a command on the host prints.
async fn look(target: &Target, command: &str) -> String {
    let context = Context::silent();
    let session = Session::connect(&context, target).await.unwrap();
    let output = session.run(&context, command, b"", LONG).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_bare_host_gets_the_agent_and_is_bare_again_after_it() {
    let sshd = Sshd::host(BARE);
    let target = sshd.target();
    let before = look(&target, "find /var/lib").await;
    let client = connect(&target).await.unwrap();
    assert_eq!(client.host(), "n1");
    let found = look(
        &target,
        "cd /var/lib/chasi/agent; for f in *; do sha256sum $f; done; cat ../lock",
    )
    .await;
    let (sum, lock) = found.split_once('\n').unwrap();
    let (digest, name) = sum.split_once("  ").unwrap();
    assert_eq!(name, format!("chasi-{digest}"));
    assert!(
        lock.contains(r#""run":"run-1","who":"tester@here""#),
        "{lock}"
    );
    let error = connect(&target).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Locked);
    client.bye().await.unwrap();
    assert_eq!(look(&target, "find /var/lib").await, before);
}

#[tokio::test]
async fn a_connection_that_is_cut_leaves_no_agent() {
    let sshd = Sshd::host(BARE);
    let target = sshd.target();
    let client = connect(&target).await.unwrap();
    // The sshd process that the agent descends from serves this connection alone.
    look(
        &target,
        "p=$(sed 's/.*\"process\":\\([0-9]*\\).*/\\1/' /var/lib/chasi/lock); \
         while [ \"$(cat /proc/$p/comm)\" != sshd ]; do p=$(cut -d' ' -f4 /proc/$p/stat); done; \
         kill -KILL $p",
    )
    .await;
    let error = client.ended().await;
    assert_eq!(
        (error.kind(), error.host()),
        (Kind::Unreachable, Some("n1"))
    );
    // A new agent gets the lock as soon as the old one has gone.
    let patient = options().with_lock(LONG);
    let client = agent::connect(&Context::silent(), &target, &patient)
        .await
        .unwrap();
    client.bye().await.unwrap();
    assert_eq!(look(&target, "ls /var/lib").await, "");
}

#[tokio::test]
async fn what_a_host_lacks_is_a_failed_check_and_leaves_nothing() {
    let cases = [
        (
            "mount -t tmpfs -o noexec tmpfs /var/lib && mkdir -p /run/systemd/system",
            Kind::Check,
            "noexec",
        ),
        (
            "mount -t tmpfs tmpfs /var/lib",
            Kind::Check,
            "not run by systemd",
        ),
        (
            "mount -t tmpfs -o size=1m tmpfs /var/lib && mkdir -p /run/systemd/system",
            Kind::Check,
            "has no room for the agent",
        ),
    ];
    for (setup, kind, expected) in cases {
        let sshd = Sshd::host(setup);
        let error = connect(&sshd.target()).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.host()),
            (kind, Some("n1")),
            "{error:?}"
        );
        assert!(error.message().contains(expected), "{error:?}");
        assert_eq!(
            look(&sshd.target(), "ls -A /var/lib").await,
            "",
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn blobs_are_copied_once() {
    let sshd = Sshd::host(BARE);
    let target = sshd.target();
    let local = tempfile::tempdir().unwrap();
    let store = Store::create(local.path()).unwrap();
    let hold = store.hold().unwrap();
    let blobs: Vec<Blob> = (0..20u8)
        .map(|n| {
            hold.put(
                "application/octet-stream",
                &vec![n; usize::from(n) * 100_000],
            )
            .unwrap()
        })
        .collect();
    let context = Context::silent();
    let client = connect(&target).await.unwrap();
    let first = agent::send_blobs(&context, &client, &store, &blobs[..12], "image")
        .await
        .unwrap();
    assert_eq!((first.blobs, first.bytes), (12, 6_600_000));
    let second = agent::send_blobs(&context, &client, &store, &blobs, "image")
        .await
        .unwrap();
    assert_eq!((second.blobs, second.bytes), (8, 12_400_000));
    let third = agent::send_blobs(&context, &client, &store, &blobs, "image")
        .await
        .unwrap();
    assert_eq!(third.blobs, 0);
    let count = look(&target, "cd /var/lib/chasi/store/blobs/sha256 && for f in *; do echo \"$f  $f\"; done | sha256sum -c | grep -c OK").await;
    assert_eq!(count.trim(), "20");
    // And back, into an empty store.
    let other = tempfile::tempdir().unwrap();
    let other = Store::create(other.path()).unwrap();
    agent::fetch_blobs(&context, &client, &other, &blobs, "image")
        .await
        .unwrap();
    let whole = other.read_verified(&blobs[19], 2_000_000).unwrap();
    assert_eq!(whole, vec![19; 1_900_000]);
    assert!(blobs.iter().all(|blob| other.contains(blob)));
    let foreign = [Blob::of("text/plain", b"nobody has it")];
    let error = agent::fetch_blobs(&context, &client, &other, &foreign, "image").await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound);
    client.bye().await.unwrap();
    // A host that has got something stays as it is.
    assert_eq!(
        look(&target, "ls /var/lib/chasi").await,
        "agent\nlock\nstore\n"
    );
}

/// A user `op` whose password is `secret`, and a sudoers file.
fn with_user(sudoers: &str) -> String {
    format!(
        "{BARE} && mkdir $DIR/etc && mount -t tmpfs tmpfs $DIR/etc && mkdir $DIR/etc/u $DIR/etc/w \
         && mount -t overlay -o lowerdir=/etc,upperdir=$DIR/etc/u,workdir=$DIR/etc/w overlay /etc \
         && chmod 755 $DIR && useradd -M -s /bin/sh op && echo op:secret | chpasswd \
         && printf '%s\\n' {} > /etc/sudoers",
        chasi::remote::quote(sudoers)
    )
}

fn as_op(sshd: &Sshd, sudo: Sudo) -> Target {
    Target {
        user: "op".into(),
        sudo,
        ..sshd.target()
    }
}

#[tokio::test]
async fn a_user_becomes_root_with_and_without_a_password() {
    let sshd = Sshd::host(&with_user(
        "Defaults !secure_path, env_keep+=PATH\nop ALL=(ALL) ALL",
    ));
    let target = as_op(&sshd, Sudo::WithPassword(Secret::new("secret")));
    connect(&target).await.unwrap().bye().await.unwrap();
    let sshd = Sshd::host(&with_user(
        "Defaults !secure_path, env_keep+=PATH\nop ALL=(ALL) NOPASSWD: ALL",
    ));
    // A password that nobody asks for must not reach the agent.
    for sudo in [
        Sudo::WithoutPassword,
        Sudo::WithPassword(Secret::new("secret")),
    ] {
        connect(&as_op(&sshd, sudo))
            .await
            .unwrap()
            .bye()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn why_sudo_refuses_is_said() {
    let password = |text: &str| Sudo::WithPassword(Secret::new(text));
    let cases = [
        ("op ALL=(ALL) ALL", Sudo::Never, "is not root"),
        (
            "op ALL=(ALL) ALL",
            Sudo::WithoutPassword,
            "wants a password",
        ),
        (
            "op ALL=(ALL) ALL",
            password("wrong"),
            "does not accept the password",
        ),
        ("root ALL=(ALL) ALL", password("secret"), "may not use sudo"),
        (
            "Defaults requiretty\nop ALL=(ALL) NOPASSWD: ALL",
            Sudo::WithoutPassword,
            "wants a terminal",
        ),
    ];
    for (sudoers, sudo, expected) in cases {
        let sshd = Sshd::host(&with_user(sudoers));
        let error = connect(&as_op(&sshd, sudo)).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.host()),
            (Kind::Check, Some("n1")),
            "{error:?}"
        );
        assert!(
            error.message().contains(expected),
            "{error:?}, expected {expected}"
        );
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
