//! Reaching hosts over SSH, with a real OpenSSH server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

#[path = "support/sshd.rs"]
mod sshd;

use std::time::Duration;

use chasi::error::Kind;
use chasi::event::Context;
use chasi::remote::{Credential, Exit, HostKeyPolicy, Secret, Session};
use sshd::Sshd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(60);

fn key(sshd: &Sshd, name: &str, passphrase: Option<&str>) -> Credential {
    Credential::KeyFile {
        path: sshd.path(name),
        passphrase: passphrase.map(Secret::new),
    }
}

#[tokio::test]
async fn a_command_runs_with_input_output_and_exit_code() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    let output = session
        .run(&ctx, "cat; echo oops >&2; exit 3", b"hello", LONG)
        .await
        .unwrap();
    assert_eq!(
        (
            output.exit.clone(),
            &output.stdout[..],
            output.stderr.as_str()
        ),
        (Exit::Code(3), &b"hello"[..], "oops\n")
    );
    let error = output.success("the command").unwrap_err();
    assert_eq!(error.message(), "the command exited with 3");
    let output = session.run(&ctx, "kill -KILL $$", b"", LONG).await.unwrap();
    assert_eq!(output.exit, Exit::Signal("KILL".into()));
}

#[tokio::test]
async fn many_commands_share_one_connection() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    let runs = (0..8).map(|number| {
        let (session, ctx) = (session.clone(), ctx.clone());
        async move {
            session
                .run(&ctx, &format!("echo {number} $SSH_CONNECTION"), b"", LONG)
                .await
                .unwrap()
                .stdout
        }
    });
    let outputs = futures::future::join_all(runs).await;
    let ports: std::collections::BTreeSet<_> = outputs
        .iter()
        .map(|output| {
            String::from_utf8_lossy(output)
                .split(' ')
                .nth(2)
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ports.len(), 1);
}

#[tokio::test]
async fn streams_are_whole_in_both_directions() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    let process = session
        .open(&ctx, "tee /dev/stderr 2>/dev/null | sha256sum")
        .await
        .unwrap();
    let data: Vec<u8> = (0..20_000_000u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    let output = process.finish(&data).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout)[..64],
        chasi::digest::Digest::of(&data).hex()
    );
    let mut process = session
        .open(&ctx, "head -c 20000000 /dev/zero")
        .await
        .unwrap();
    let mut count = 0;
    let mut buffer = vec![0; 65536];
    loop {
        match process.read(&mut buffer).await.unwrap() {
            0 => break,
            read => count += read,
        }
    }
    assert_eq!((count, process.exit().await), (20_000_000, Exit::Code(0)));
}

#[tokio::test]
async fn a_dropped_command_sees_its_input_end() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    let mark = sshd.path("ended");
    let fifo = sshd.path("fifo");
    let command = format!(
        "mkfifo {0}; echo ready; cat >/dev/null; echo over > {1}; cat {1} > {0}",
        fifo.display(),
        mark.display()
    );
    let mut process = session.open(&ctx, &command).await.unwrap();
    let mut ready = [0; 6];
    process.read_exact(&mut ready).await.unwrap();
    process.write_all(b"some input").await.unwrap();
    drop(process);
    let told = tokio::task::spawn_blocking(move || std::fs::read_to_string(fifo).unwrap());
    assert_eq!(
        tokio::time::timeout(LONG, told).await.unwrap().unwrap(),
        "over\n"
    );
}

#[tokio::test]
async fn a_key_is_accepted_and_another_is_refused() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let mut target = sshd.target();
    target.credentials = vec![
        key(&sshd, "stranger", None),
        key(&sshd, "locked", Some("open sesame")),
    ];
    Session::connect(&ctx, &target).await.unwrap();
    target.credentials = vec![key(&sshd, "stranger", None)];
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert_eq!((error.kind(), error.host()), (Kind::Check, Some("n1")));
    assert!(error.message().contains("does not let"), "{error}");
    assert!(
        error
            .causes()
            .next()
            .unwrap()
            .to_string()
            .contains("stranger")
    );
    assert!(
        error.hints()[0].contains("publickey"),
        "{:?}",
        error.hints()
    );
}

#[tokio::test]
async fn an_encrypted_key_needs_its_passphrase() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let mut target = sshd.target();
    for (passphrase, expected) in [(None, "is encrypted"), (Some("wrong"), "cannot decrypt")] {
        target.credentials = vec![key(&sshd, "locked", passphrase)];
        let error = Session::connect(&ctx, &target).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.message().contains(expected), "{error}");
    }
    target.credentials = vec![Credential::KeyFile {
        path: sshd.path("config"),
        passphrase: None,
    }];
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(error.message().contains("not a private key"), "{error}");
}

#[tokio::test]
async fn host_keys_are_verified() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let mut target = sshd.target();
    // The server has two keys; the one that is known decides.
    for key in ["host", "host_rsa"] {
        target.host_key = sshd.known_hosts(key);
        Session::connect(&ctx, &target).await.unwrap();
        target.host_key = HostKeyPolicy::Fingerprint(sshd.fingerprint(key));
        Session::connect(&ctx, &target).await.unwrap();
    }
    let shown = sshd.fingerprint("host");
    target.host_key = HostKeyPolicy::KnownHosts(vec![sshd.path("nothing")]);
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    // Never left out as a host that is off may be.
    assert_eq!(error.kind(), Kind::Check);
    assert!(
        error.message().contains("is not known") && error.message().contains(&shown),
        "{error}"
    );
    assert!(error.hints()[0].contains(&format!("hostKey: {shown}")));
    assert!(error.hints()[1].contains(&format!("ssh-keyscan -p {} 127.0.0.1 >>", sshd.port)));
    target.host_key = sshd.known_hosts("stranger");
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(error.message().contains("HAS CHANGED"), "{error}");
    let other = sshd.fingerprint("stranger");
    target.host_key = HostKeyPolicy::Fingerprint(other.clone());
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(
        error.message().contains(&shown) && error.message().contains(&other),
        "{error}"
    );
    target.host_key = HostKeyPolicy::Fingerprint("MD5:00".into());
    assert_eq!(
        Session::connect(&ctx, &target).await.err().unwrap().kind(),
        Kind::Input
    );
}

#[tokio::test]
async fn a_host_behind_a_jump_host() {
    let (jump, inner) = (Sshd::start(), Sshd::start());
    let ctx = Context::silent();
    let mut target = inner.target();
    let mut through = jump.target();
    through.name = "jump".into();
    target.jump = Some(Box::new(through.clone()));
    let session = Session::connect(&ctx, &target).await.unwrap();
    let output = session.run(&ctx, "echo there", b"", LONG).await.unwrap();
    assert_eq!(output.stdout, b"there\n");
    // The jump host's key counts as well.
    through.host_key = HostKeyPolicy::Fingerprint(inner.fingerprint("host"));
    target.jump = Some(Box::new(through));
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert_eq!(error.host(), Some("jump"));
}

#[tokio::test]
async fn what_is_not_there_is_said_clearly() {
    let ctx = Context::silent();
    let mut target = Sshd::start().target();
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.host()),
        (Kind::Unreachable, Some("n1"))
    );
    assert!(
        error.message().contains("cannot connect to `127.0.0.1`"),
        "{error}"
    );
    target.address = "no-such-host.invalid".into();
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(error.message().contains("no-such-host.invalid"), "{error}");
    let jump = Sshd::start_with(&["AllowTcpForwarding no"]);
    target.jump = Some(Box::new(jump.target()));
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(error.message().contains("through"), "{error}");
}

#[tokio::test]
async fn the_end_of_the_connection_ends_commands() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    // The command kills the server process of its own connection.
    let output = session
        .run(&ctx, "kill -KILL $PPID; sleep 600", b"", LONG)
        .await
        .unwrap();
    assert_eq!(output.exit, Exit::Lost);
    let error = output.success("the command").unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
}

#[tokio::test]
async fn cancelling_and_deadlines_end_a_wait() {
    let sshd = Sshd::start();
    let ctx = Context::silent();
    let session = Session::connect(&ctx, &sshd.target()).await.unwrap();
    let error = session
        .run(&ctx, "sleep 600", b"", Duration::from_millis(1))
        .await
        .unwrap_err();
    assert!(error.message().contains("took longer"), "{error}");
    ctx.cancel.cancel();
    let error = session.run(&ctx, "sleep 600", b"", LONG).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}

#[tokio::test]
async fn keys_of_an_agent_are_tried() {
    let sshd = Sshd::start();
    let socket = sshd.path("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(
            agent.try_wait().unwrap().is_none(),
            "ssh-agent does not start"
        );
        tokio::task::yield_now().await;
    }
    let add = |key: &str| {
        let added = std::process::Command::new("ssh-add")
            .env("SSH_AUTH_SOCK", &socket)
            .arg("-q")
            .arg(sshd.path(key))
            .status();
        assert!(added.unwrap().success());
    };
    let ctx = Context::silent();
    let mut target = sshd.target();
    target.credentials = vec![Credential::Agent(socket.clone())];
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(
        error
            .causes()
            .next()
            .unwrap()
            .to_string()
            .contains("holds no keys")
    );
    add("host_rsa");
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(
        error
            .causes()
            .next()
            .unwrap()
            .to_string()
            .contains("refused")
    );
    add("user");
    Session::connect(&ctx, &target).await.unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let error = Session::connect(&ctx, &target).await.err().unwrap();
    assert!(
        error.message().contains("cannot use the ssh-agent"),
        "{error}"
    );
}
