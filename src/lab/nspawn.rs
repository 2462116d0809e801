//! Running a host: systemd-nspawn in the host's control groups, in a session of
//! its own so that it outlives the command that started it.
//!
//! One host is one systemd-nspawn process ("the supervisor") with one child, the
//! host's process 1. When the host reboots itself the supervisor starts another
//! process 1, so only the supervisor is remembered.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cgroup::Groups;
use super::network;
use super::process::Process;
use super::state::{Host, Number};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;

/// How often a state that one waits for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long a killed host may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// What a command on a host is given as its environment, as a login of root has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes sure that programs are installed; each is given with its Debian package.
pub fn require(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !network::on_path(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing
        .iter()
        .map(|(program, _)| format!("`{program}`"))
        .collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let message = format!(
        "a lab needs {}, which this machine does not have",
        names.join(", ")
    );
    Err(Error::new(Kind::System, message).hint(format!("apt-get install {}", packages.join(" "))))
}

/// Starts a host that is off. Returns once its process 1 runs and its network is
/// as the state says.
pub fn start(groups: &Groups, number: Number, host: &Host, directory: &Path) -> Result<Process> {
    // What an earlier start left must not be mistaken for this one.
    groups.remove_host(number, &host.name)?;
    let root = directory.join("root");
    if !root.exists() {
        return Err(Error::new(Kind::Failed, "the host has no disk")
            .on_host(&host.name)
            .hint(format!("chasi lab reset {}", host.name)));
    }
    forget_machine(number, host, &root);
    let mut line = groups.prepare(number, &host.name)?;
    line.extend(["setsid", "systemd-nspawn"].map(OsString::from));
    line.extend(arguments(number, host, &root));
    let console = directory.join("console.log");
    let supervisor = spawn(&line, &console).map_err(|error| error.on_host(&host.name))?;
    match settle(number, host, supervisor) {
        Ok(()) => Ok(supervisor),
        Err(error) => {
            groups.remove_host(number, &host.name)?;
            Err(error.because(tail(&console)).on_host(&host.name))
        }
    }
}

fn arguments(number: Number, host: &Host, root: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--quiet",
        "--settings=no",
        "--register=no",
        "--keep-unit",
        "--boot",
        "--console=read-only",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--capability=all",
        // What container runtimes call and systemd-nspawn usually forbids.
        "--system-call-filter=add_key keyctl bpf",
        // SIGTERM to the supervisor powers the host off cleanly: systemd(1), SIGRTMIN+4.
        "--kill-signal=SIGRTMIN+4",
    ]
    .map(OsString::from)
    .into();
    arguments.push(format!("--machine={}", host.machine(number)).into());
    arguments.push(format!("--hostname={}", host.name).into());
    arguments.push(format!("--network-bridge={}", number.bridge(0)).into());
    for nic in 1..host.links.len() as u8 {
        arguments.push(format!("--network-veth-extra={}:host{nic}", host.port(number, nic)).into());
    }
    // kubelet reads the kernel's messages; fuse serves storage drivers.
    for device in ["/dev/kmsg", "/dev/fuse"] {
        if Path::new(device).exists() {
            arguments.push(format!("--bind={device}").into());
        }
    }
    let mut directory = OsString::from("--directory=");
    directory.push(root);
    arguments.push(directory);
    arguments
}

fn spawn(line: &[OsString], console: &Path) -> Result<Process> {
    let failed = || "cannot start `systemd-nspawn`";
    let Some((program, arguments)) = line.split_first() else {
        return Err(Error::new(Kind::Failed, failed()));
    };
    let log = File::create(console).or_err(Kind::System, failed)?;
    let errors = log.try_clone().or_err(Kind::System, failed)?;
    let mut child = Program::new(program)
        .args(arguments)
        // kubelet sets kernel parameters, which are read-only otherwise.
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .current_dir("/")
        .spawn()
        .or_err(Kind::System, failed)?;
    let process = Process::with_id(child.id());
    // Whoever starts and stops hosts for a long time must not collect zombies.
    std::thread::spawn(move || child.wait());
    process.ok_or_else(|| {
        Error::new(Kind::Failed, "`systemd-nspawn` ended at once").because(tail(console))
    })
}

/// Waits for process 1 and the ports, and puts the network in order.
fn settle(number: Number, host: &Host, supervisor: Process) -> Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        if !supervisor.alive() {
            return Err(Error::new(
                Kind::Failed,
                "the host ended while it was being started",
            ));
        }
        if let Some(init) = init(supervisor)
            && network::ports_exist(number, host)
        {
            network::attach(number, host)?;
            return network::apply(number, host, init);
        }
        if Instant::now() > deadline {
            return Err(Error::new(
                Kind::Failed,
                "the host's process 1 or its network did not appear",
            ));
        }
        std::thread::sleep(LOOK);
    }
}

/// Process 1 of the host that a supervisor runs.
pub fn init(supervisor: Process) -> Option<Process> {
    if !supervisor.alive() {
        return None;
    }
    supervisor
        .children()
        .into_iter()
        .find(|child| child.is_init_of_namespace())
}

/// Waits until the host's SSH server can be reached at `address`, or, when there is
/// none because the link is cut, until it listens.
pub fn wait_for_ssh(
    context: &Context,
    address: Option<SocketAddr>,
    supervisor: Process,
    console: &Path,
    deadline: Instant,
) -> Result<()> {
    loop {
        context.check_cancelled()?;
        let reached = match address {
            Some(address) => ssh_answers(address),
            None => init(supervisor).is_some_and(ssh_listens),
        };
        if reached {
            return Ok(());
        }
        if !supervisor.alive() {
            return Err(
                Error::new(Kind::Failed, "the host ended while it booted").because(tail(console))
            );
        }
        if Instant::now() > deadline {
            let at = address.map_or_else(String::new, |address| format!(" at {address}"));
            return Err(
                Error::new(Kind::Unreachable, format!("no SSH server answers{at}"))
                    .because(tail(console))
                    .hint("A busy machine may need longer: `--timeout SECONDS`."),
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn ssh_answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        Ok(&greeting == b"SSH-")
    };
    ask().unwrap_or(false)
}

/// Whether something listens on port 22 in the network namespace of a process:
/// proc(5), `/proc/PID/net/tcp`, where 22 is `0016` and listening is `0A`.
fn ssh_listens(init: Process) -> bool {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", init.pid)).unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(":0016"));
        local && fields.nth(1) == Some("0A")
    })
}

/// Ends a host as a crash does: process 1 gets SIGKILL, and with it all others,
/// whatever their state. Fine if it is off.
pub fn kill(groups: &Groups, number: Number, host: &Host, directory: &Path) -> Result<()> {
    groups.remove_host(number, &host.name)?;
    forget_machine(number, host, &directory.join("root"));
    wait_for_ports(number, host)
}

/// Powers a host off cleanly and waits until it is off.
pub fn power_off(
    context: &Context,
    groups: &Groups,
    number: Number,
    host: &Host,
    deadline: Instant,
) -> Result<()> {
    if let Some(supervisor) = host.process {
        supervisor
            .signal(Signal::TERM)
            .or_err(Kind::System, || "cannot signal `systemd-nspawn`")?;
        while supervisor.alive() {
            context.check_cancelled()?;
            if Instant::now() > deadline {
                return Err(Error::new(Kind::Failed, "the host does not power off")
                    .on_host(&host.name)
                    .hint(format!("chasi lab kill {}", host.name)));
            }
            std::thread::sleep(LOOK);
        }
    }
    groups.remove_host(number, &host.name)?;
    wait_for_ports(number, host)
}

/// The kernel removes the ports of a network namespace a moment after its last
/// process ended; a start that finds them would fail.
fn wait_for_ports(number: Number, host: &Host) -> Result<()> {
    let deadline = Instant::now() + GONE;
    let any = || {
        (0..host.links.len() as u8).any(|nic| {
            Path::new("/sys/class/net")
                .join(host.port(number, nic))
                .exists()
        })
    };
    while any() {
        if Instant::now() > deadline {
            return Err(Error::new(
                Kind::System,
                "the network ports of a host that is off do not go away",
            )
            .on_host(&host.name));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Removes what systemd-nspawn leaves behind when it is killed: an empty directory
/// named after the machine, and a lock named after the root tree.
fn forget_machine(number: Number, host: &Host, root: &Path) {
    let _ = fs::remove_dir(format!(
        "/run/systemd/nspawn/propagate/{}",
        host.machine(number)
    ));
    if let Ok(tree) = fs::metadata(root) {
        let lock = format!(
            "/run/systemd/nspawn/locks/inode-{}:{}",
            tree.dev(),
            tree.ino()
        );
        let _ = fs::remove_file(lock);
    }
}

/// A command that runs on a host as root, without SSH: in the namespaces and
/// control groups of its process 1. Standard streams are the caller's.
pub fn command(groups: &Groups, init: Process, arguments: &[OsString]) -> Result<Program> {
    let mut line = groups.joining(init)?;
    line.extend(["nsenter", "--target"].map(OsString::from));
    line.push(init.pid.to_string().into());
    let namespaces = [
        "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
    ];
    line.extend(namespaces.map(OsString::from));
    let (first, rest) = line
        .split_first()
        .ok_or_else(|| Error::new(Kind::Usage, "no command"))?;
    let mut program = Program::new(first);
    program
        .args(rest)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LANG", "C.UTF-8");
    Ok(program)
}

/// The end of a host's console, for errors.
fn tail(console: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(console)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
        let mut text = Vec::new();
        file.take(2000).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    };
    match read() {
        Ok(text) if !text.is_empty() => format!("its console ends with: {text}"),
        _ => format!("nothing is in `{}`", console.display()),
    }
}
