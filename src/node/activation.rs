//! What systemd gives to the service: its listening sockets, and the way to tell
//! that it is ready.
//!
//! systemd holds the sockets open while the service restarts, so that a client
//! which connects meanwhile waits in the queue and is not refused. Protocols:
//! `sd_listen_fds(3)` and `sd_notify(3)`.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::error::{Error, Kind, Result, ResultExt};

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// More sockets than this are not ours.
const MOST: usize = 64;

/// The names that the socket units give (`FileDescriptorName=`).
pub mod name {
    /// The registry's listeners.
    pub const REGISTRY: &str = "registry";
    /// The balancer's listeners.
    pub const BALANCER: &str = "balancer";
    /// The status endpoint's listener.
    pub const STATUS: &str = "status";
}

/// The environment variables of socket activation, as the process found them.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `LISTEN_PID`: whom the sockets are for.
    pub pid: Option<String>,
    /// `LISTEN_FDS`: how many there are.
    pub count: Option<String>,
    /// `LISTEN_FDNAMES`: their names, separated by colons.
    pub names: Option<String>,
}

/// The listening sockets of the service, each set to not block.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where container runtimes ask for images.
    pub registry: Vec<TcpListener>,
    /// Where clients of the Kubernetes API connect.
    pub balancer: Vec<TcpListener>,
    /// Where the service's state can be read.
    pub status: Vec<UnixListener>,
}

impl Sockets {
    /// Takes over the sockets that systemd passed to this process. Works once in
    /// a process, because a socket can have one owner only.
    pub fn take(environment: &Environment) -> Result<Self> {
        let names = passed(environment, std::process::id())?;
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(Error::new(
                Kind::Failed,
                "the sockets of this process are already taken",
            ));
        }
        let mut sockets = Sockets::default();
        for (name, number) in names.iter().zip(FIRST..) {
            sockets.add(name, own(number)).or_err(Kind::System, || {
                format!("the socket `{name}` that was passed as descriptor {number} cannot be used")
            })?;
        }
        Ok(sockets)
    }

    fn add(&mut self, name: &str, socket: OwnedFd) -> Result<()> {
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .or_err(Kind::System, || "it is not open")?;
        match name {
            name::REGISTRY => self.registry.push(tcp(socket)?),
            name::BALANCER => self.balancer.push(tcp(socket)?),
            name::STATUS => self.status.push(unix(socket)?),
            _ => {
                return Err(
                    Error::new(Kind::Input, "no part of the service has this name").hint(format!(
                        "the names are `{}`, `{}` and `{}`",
                        name::REGISTRY,
                        name::BALANCER,
                        name::STATUS
                    )),
                );
            }
        }
        Ok(())
    }
}

/// The names of the sockets that were passed, in order.
fn passed(environment: &Environment, own_pid: u32) -> Result<Vec<String>> {
    let none = || {
        Error::new(Kind::Usage, "no listening sockets were passed")
            .hint("`systemctl start chasi-node.service` starts the service with its sockets")
    };
    let number = |text: &Option<String>| text.as_ref().map(|text| text.parse::<u32>());
    match number(&environment.pid) {
        Some(Ok(pid)) if pid == own_pid => {}
        // Sockets for another process, such as a parent whose environment we have.
        _ => return Err(none()),
    }
    let count = match number(&environment.count) {
        Some(Ok(count)) if count as usize <= MOST => count as usize,
        Some(_) => {
            return Err(Error::new(
                Kind::Input,
                "`LISTEN_FDS` is not a number up to 64",
            ));
        }
        None => return Err(none()),
    };
    let names: Vec<String> = environment
        .names
        .as_deref()
        .unwrap_or_default()
        .split(':')
        .map(str::to_owned)
        .collect();
    if count == 0 {
        return Err(none());
    }
    if names.len() != count {
        return Err(Error::new(
            Kind::Input,
            format!("{count} sockets were passed with {} names", names.len()),
        ));
    }
    Ok(names)
}

/// Takes ownership of a descriptor that systemd passed.
// The safe ways do not exist: a passed descriptor is only a number. This is sound
// because `take` runs once in a process, no other code of the process uses
// descriptors that it did not open, and systemd promises that these are open.
#[allow(unsafe_code)]
fn own(number: RawFd) -> OwnedFd {
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn tcp(socket: OwnedFd) -> Result<TcpListener> {
    listening(&socket, &[AddressFamily::INET, AddressFamily::INET6])?;
    let listener = TcpListener::from(socket);
    listener
        .set_nonblocking(true)
        .or_err(Kind::System, || "it stays blocking")?;
    Ok(listener)
}

fn unix(socket: OwnedFd) -> Result<UnixListener> {
    listening(&socket, &[AddressFamily::UNIX])?;
    let listener = UnixListener::from(socket);
    listener
        .set_nonblocking(true)
        .or_err(Kind::System, || "it stays blocking")?;
    Ok(listener)
}

fn listening(socket: impl AsFd, families: &[AddressFamily]) -> Result<()> {
    let look = || -> rustix::io::Result<bool> {
        Ok(families.contains(&sockopt::socket_domain(&socket)?)
            && sockopt::socket_type(&socket)? == SocketType::STREAM
            && sockopt::socket_acceptconn(&socket)?)
    };
    if !look().or_err(Kind::System, || "it is not a socket")? {
        return Err(Error::new(
            Kind::Input,
            "it is not a listening socket of the expected family",
        ));
    }
    Ok(())
}

/// Tells systemd how the service fares. Does nothing when nobody wants to know.
#[derive(Debug)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// Sends to the address in `NOTIFY_SOCKET`: a path, or `@` and a name in the
    /// abstract name space.
    pub fn new(address: Option<&OsStr>) -> Result<Self> {
        let connect = |address: &OsStr| -> std::io::Result<_> {
            let target = match address.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(address)?,
            };
            let socket = UnixDatagram::unbound()?;
            // A full queue of systemd's must not stop the service.
            socket.set_nonblocking(true)?;
            Ok((socket, target))
        };
        Ok(Notifier {
            target: match address {
                Some(address) => {
                    Some(connect(address).or_err(Kind::System, || "cannot use `NOTIFY_SOCKET`")?)
                }
                None => None,
            },
        })
    }

    /// The service accepts connections.
    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// The service is about to end.
    pub fn stopping(&self) {
        self.send(b"STOPPING=1");
    }

    /// The service is still alive (`WatchdogSec=`).
    pub fn alive(&self) {
        self.send(b"WATCHDOG=1");
    }

    fn send(&self, state: &[u8]) {
        if let Some((socket, target)) = &self.target {
            // When systemd does not listen there is nobody to tell it to.
            let _ = socket.send_to_addr(state, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pid: &str, count: &str, names: &str) -> Environment {
        Environment {
            pid: Some(pid.to_owned()),
            count: Some(count.to_owned()),
            names: Some(names.to_owned()),
        }
    }

    #[test]
    fn sockets_are_named_in_order() {
        let names = passed(&environment("7", "3", "registry:registry:status"), 7).unwrap();
        assert_eq!(names, ["registry", "registry", "status"]);
    }

    #[test]
    fn sockets_of_another_process_are_left_alone() {
        for environment in [
            Environment::default(),
            environment("8", "1", "registry"),
            environment("x", "1", "registry"),
            environment("7", "0", ""),
        ] {
            let error = passed(&environment, 7).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.hints()[0].contains("systemctl start chasi-node.service"));
        }
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        for (count, names) in [
            ("2", "registry"),
            ("65", "registry"),
            ("-1", "registry"),
            ("1", "a:b"),
        ] {
            let error = passed(&environment("7", count, names), 7).unwrap_err();
            assert_eq!(error.kind(), Kind::Input, "{count} {names}");
        }
    }

    #[test]
    fn only_listening_sockets_of_the_right_family_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let inet = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let path = |name: &str| directory.path().join(name);
        let unix = OwnedFd::from(UnixListener::bind(path("a")).unwrap());
        let file = OwnedFd::from(std::fs::File::create(path("b")).unwrap());
        let datagram = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut sockets = Sockets::default();
        sockets.add("registry", inet()).unwrap();
        sockets.add("balancer", inet()).unwrap();
        assert!(sockets.add("status", inet()).is_err());
        assert!(sockets.add("registry", unix.try_clone().unwrap()).is_err());
        sockets.add("status", unix).unwrap();
        assert!(sockets.add("registry", file).is_err());
        assert!(sockets.add("registry", datagram).is_err());
        assert!(sockets.add("door", inet()).is_err());
        assert_eq!(
            (
                sockets.registry.len(),
                sockets.balancer.len(),
                sockets.status.len()
            ),
            (1, 1, 1)
        );
    }

    #[test]
    fn systemd_hears_that_the_service_is_ready() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str())).unwrap();
        notifier.ready();
        notifier.stopping();
        let mut message = [0; 64];
        let length = systemd.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
        let length = systemd.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"STOPPING=1");
        drop(systemd);
        notifier.alive();
        Notifier::new(None).unwrap().ready();
    }
}
