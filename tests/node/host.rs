//! A host's node service: the real binary, on sockets that the test holds as
//! systemd does, so that the service can be restarted behind them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chasi::node::status::Status;

/// Nothing here takes longer; a machine under load gets its time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A host with a node service.
pub struct Node {
    directory: tempfile::TempDir,
    registry: TcpListener,
    balancer: TcpListener,
    status: UnixListener,
    service: Option<Child>,
}

impl Node {
    /// A host whose service does not run yet.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let status = UnixListener::bind(directory.path().join("status.sock")).unwrap();
        for name in ["etc/kubernetes/pki", "etc/chasi", "var/lib/chasi"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        Node {
            registry: TcpListener::bind("127.0.0.1:0").unwrap(),
            balancer: TcpListener::bind("127.0.0.1:0").unwrap(),
            status,
            directory,
            service: None,
        }
    }

    /// Where the registry listens.
    pub fn registry(&self) -> SocketAddr {
        self.registry.local_addr().unwrap()
    }

    /// Where the balancer listens.
    pub fn balancer(&self) -> SocketAddr {
        self.balancer.local_addr().unwrap()
    }

    /// A file of the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the list of API servers that the host's configuration has.
    pub fn seed(&self, local: Option<SocketAddr>, servers: &[SocketAddr]) {
        let seeds = chasi::node::balancer::Seeds {
            local,
            servers: servers.to_vec(),
        };
        let content = seeds.content();
        chasi::file::write(
            &self.path("etc/chasi/api-servers.json"),
            content.as_bytes(),
            0o644,
        )
        .unwrap();
    }

    /// Starts the service and waits until it says that it is ready.
    pub fn start(&mut self) {
        let notify = self.path("notify.sock");
        let _ = std::fs::remove_file(&notify);
        let systemd = UnixDatagram::bind(&notify).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        self.service = Some(self.spawn(&notify));
        let mut message = [0; 64];
        let length = systemd.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
    }

    fn spawn(&self, notify: &Path) -> Child {
        // Descriptors 3 and up are where systemd passes sockets, and the process
        // that gets them must be the one whose id is named: the shell becomes the
        // service.
        let sockets = [
            inheritable(&self.registry),
            inheritable(&self.balancer),
            inheritable(&self.status),
        ];
        let [registry, balancer, status] = sockets.each_ref().map(AsRawFd::as_raw_fd);
        // Where the numbers overlap, a direct move would overwrite.
        let script = format!(
            "exec 200<&{registry} 201<&{balancer} 202<&{status}; \
             exec 3<&200 4<&201 5<&202 200<&- 201<&- 202<&-; LISTEN_PID=$$ exec \"$@\""
        );
        let mut child = Command::new("bash")
            .args([
                "-c",
                &script,
                "service",
                env!("CARGO_BIN_EXE_chasi"),
                "node-service",
            ])
            .arg("--root")
            .arg(self.path(""))
            .env("LISTEN_FDS", "3")
            .env("LISTEN_FDNAMES", "registry:balancer:status")
            .env("NOTIFY_SOCKET", notify)
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What it logs belongs to the output of a test that fails.
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                println!("service: {line}");
            }
        });
        child
    }

    /// Tells the service to stop, as systemd does, and waits for its end.
    pub fn stop(&mut self) {
        let Some(mut service) = self.service.take() else {
            return;
        };
        let id = rustix::process::Pid::from_child(&service);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = eventually("the service ends", || service.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    /// Ends the service without asking it.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
    }

    /// What the service says of itself.
    pub fn status(&self) -> Status {
        let mut stream = UnixStream::connect(self.path("status.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /status HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        serde_json::from_str(body).unwrap()
    }

    /// How much memory of its own the service holds, in bytes. The pages of its
    /// binary are shared with every other chasi, and depend on how it was built.
    pub fn memory(&self) -> usize {
        let id = self.service.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("RssAnon:"))
            .unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A copy of a socket that a child process keeps.
fn inheritable(socket: &(impl AsRawFd + std::os::fd::AsFd)) -> OwnedFd {
    let copy = rustix::io::dup(socket).unwrap();
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
    copy
}

/// Tries again and again until there is a result.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(Instant::now() < deadline, "it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
