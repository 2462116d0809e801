//! A real OpenSSH server on a loopback port, with keys of its own. It runs in a
//! mount namespace, so the user of the test must be root. `scripts/test` installs
//! what this needs: openssh-server and sudo.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chasi::remote::{Credential, HostKeyPolicy, Sudo, Target};

/// A running server; stopped when dropped.
pub struct Sshd {
    directory: tempfile::TempDir,
    child: Child,
    pub port: u16,
}

impl Sshd {
    pub fn start() -> Sshd {
        Sshd::start_with(&[])
    }

    /// With lines added to its configuration.
    pub fn start_with(lines: &[&str]) -> Sshd {
        Sshd::start_in("true", lines)
    }

    /// In a mount namespace of its own, after a shell script has changed what is
    /// mounted there. `$DIR` is a directory that the script may use.
    pub fn start_in(setup: &str, lines: &[&str]) -> Sshd {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        for (kind, name) in [
            ("ed25519", "host"),
            ("rsa", "host_rsa"),
            ("ed25519", "user"),
            ("ed25519", "stranger"),
        ] {
            generate(kind, &directory.path().join(name), "");
        }
        generate("ed25519", &directory.path().join("locked"), "open sesame");
        let keys = ["user.pub", "locked.pub"]
            .map(|name| std::fs::read_to_string(path(name)).unwrap())
            .concat();
        std::fs::write(path("authorized_keys"), keys).unwrap();
        // A port that was free a moment ago may be taken when sshd wants it.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let mut config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nHostKey {}\nHostKey {}\nAuthorizedKeysFile {}\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
                 MaxStartups 100\n",
                path("host"),
                path("host_rsa"),
                path("authorized_keys"),
            );
            for line in lines {
                config.push_str(&line.replace("$DIR", &path("")));
                config.push('\n');
            }
            std::fs::write(path("config"), config).unwrap();
            let script = format!(
                "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/sshd && {{ {setup}; }} \
                 && exec /usr/sbin/sshd -D -e -f {}",
                path("config")
            );
            let mut child = Command::new("unshare")
                .args(["-m", "sh", "-c", &script])
                .env("DIR", directory.path())
                .stdin(Stdio::null())
                .stderr(std::fs::File::create(path("log")).unwrap())
                .spawn()
                .unwrap();
            if listens(&mut child, port) {
                return Sshd {
                    directory,
                    child,
                    port,
                };
            }
        }
        panic!(
            "sshd does not start: {}",
            std::fs::read_to_string(path("log")).unwrap()
        );
    }

    /// A host where systemd is played by a script, in a mount namespace that `setup`
    /// prepares.
    pub fn host(setup: &str) -> Sshd {
        let systemd_run = "mkdir $DIR/bin && printf '#!/bin/sh\\nwhile [ \"${1#--}\" != \"$1\" ]; do shift; done; exec \"$@\"\\n' \
                           > $DIR/bin/systemd-run && chmod 755 $DIR/bin/systemd-run";
        Sshd::start_in(
            &format!("{setup} && {{ test -d $DIR/bin || {{ {systemd_run}; }}; }}"),
            &["SetEnv PATH=$DIR/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The host as a well-prepared user would describe it.
    pub fn target(&self) -> Target {
        Target {
            name: "n1".into(),
            address: "127.0.0.1".into(),
            port: self.port,
            user: String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout)
                .unwrap()
                .trim()
                .into(),
            credentials: vec![Credential::KeyFile {
                path: self.path("user"),
                passphrase: None,
            }],
            jump: None,
            host_key: HostKeyPolicy::Fingerprint(self.fingerprint("host")),
            sudo: Sudo::Never,
        }
    }

    pub fn fingerprint(&self, key: &str) -> String {
        let output = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(self.path(key))
            .output()
            .unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }

    /// A `known_hosts` file that lists `key` for this server.
    pub fn known_hosts(&self, key: &str) -> HostKeyPolicy {
        let public = std::fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        let file = self.path(&format!("known_hosts_{key}"));
        std::fs::write(&file, format!("[127.0.0.1]:{} {public}", self.port)).unwrap();
        HostKeyPolicy::KnownHosts(vec![file])
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn generate(kind: &str, path: &Path, passphrase: &str) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until the server takes connections; false when it has ended.
fn listens(child: &mut Child, port: u16) -> bool {
    loop {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
}
