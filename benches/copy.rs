//! Copying a tree of files to a host beside `tar | ssh`: the same bytes, the same
//! cipher, the same OpenSSH server on loopback, alternating. Prints medians and
//! the ratio. Needs root, openssh-server and openssh-client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its result, and panics when it cannot go on"
)]

#[path = "../tests/support/sshd.rs"]
mod sshd;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chasi::agent::{self, InstallOptions};
use chasi::event::Context;
use chasi::oci::{Blob, Store};
use chasi::remote::Target;
use sshd::Sshd;

const FILES: usize = 16;
const FILE_SIZE: usize = 24 << 20;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (tree, store, blobs) = content(directory.path());
    let host = Sshd::host(
        "mount -t tmpfs tmpfs /var/lib && mkdir -p /run/systemd/system && mkdir /var/lib/peer",
    );
    let target = host.target();
    // The agent is copied once, whatever is sent afterwards.
    runtime.block_on(async { connect(&target).await.bye().await.unwrap() });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(tar_ssh(&host, &tree));
        ours.push(runtime.block_on(chasi(&host, &target, &store, &blobs)));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let size = (FILES * FILE_SIZE) as f64 / f64::from(1 << 20);
    println!("copy {size:.0} MiB to a host, median of {ROUNDS}");
    println!(
        "  tar | ssh (aes256-gcm)  {:7.0} MiB/s",
        size / theirs.as_secs_f64()
    );
    println!(
        "  chasi                   {:7.0} MiB/s",
        size / ours.as_secs_f64()
    );
    println!(
        "  ratio                   {:7.2}",
        theirs.as_secs_f64() / ours.as_secs_f64()
    );
}

/// Files that do not compress, as a tree and as blobs of a store.
fn content(directory: &Path) -> (std::path::PathBuf, Store, Vec<Blob>) {
    let tree = directory.join("tree");
    std::fs::create_dir(&tree).unwrap();
    let store = Store::create(&directory.join("store")).unwrap();
    let hold = store.hold().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let blobs = (0..FILES).map(|number| {
        let mut bytes = Vec::with_capacity(FILE_SIZE);
        while bytes.len() < FILE_SIZE {
            // xorshift64 (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.write_all(&state.to_le_bytes()).unwrap();
        }
        std::fs::write(tree.join(number.to_string()), &bytes).unwrap();
        hold.put("application/octet-stream", &bytes).unwrap()
    });
    let blobs = blobs.collect();
    (tree, store, blobs)
}

async fn connect(target: &Target) -> agent::Client {
    let options = InstallOptions::new("bench", "bench@here", env!("CARGO_BIN_EXE_chasi"));
    agent::connect(
        &Context::silent(),
        target,
        &options.with_lock(Duration::ZERO),
    )
    .await
    .unwrap()
}

async fn chasi(host: &Sshd, target: &Target, store: &Store, blobs: &[Blob]) -> Duration {
    let begin = Instant::now();
    let client = connect(target).await;
    let sent = agent::send_blobs(&Context::silent(), &client, store, blobs, "tree")
        .await
        .unwrap();
    assert_eq!(sent.blobs, FILES);
    let took = begin.elapsed();
    client.bye().await.unwrap();
    shell(host, "rm -rf /var/lib/chasi/store");
    took
}

fn tar_ssh(host: &Sshd, tree: &Path) -> Duration {
    let begin = Instant::now();
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(tree)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = ssh(host)
        .arg("tar -C /var/lib/peer -x")
        .stdin(tar.stdout.take().unwrap())
        .status()
        .unwrap();
    assert!(tar.wait().unwrap().success() && ended.success());
    let took = begin.elapsed();
    shell(host, "rm -rf /var/lib/peer/*");
    took
}

fn shell(host: &Sshd, command: &str) {
    assert!(ssh(host).arg(command).status().unwrap().success());
}

fn ssh(host: &Sshd) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-q",
        "-c",
        "aes256-gcm@openssh.com",
        "-o",
        "StrictHostKeyChecking=no",
    ])
    .args([
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-p",
        &host.port.to_string(),
        "-i",
    ])
    .arg(host.path("user"))
    .arg("root@127.0.0.1");
    ssh
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
