//! The root tree that every host begins with: Debian 12 with systemd, dbus, an SSH
//! server, iproute2 and sudo, and nothing else.
//!
//! Hosts are as bare as machines at offline sites, so that whatever Kubernetes
//! needs beyond this has to be in the cluster image: no iptables, no conntrack, no
//! curl, no kmod, no name server in `/etc/resolv.conf`, packets not forwarded.
//! There are three users: `root`, `admin` (sudo asks for the password
//! [`ADMIN_PASSWORD`]) and `ops` (sudo asks for nothing).
//!
//! The tree is made once by mmdebstrap and kept under a name that is a digest of
//! all that goes into it (the packages' versions aside: delete it to have newer
//! ones). It is made in a temporary directory and renamed when whole. Each host
//! gets a copy of its own: hardlinks would let one host write into all, and an
//! overlay could not carry the overlays of a container runtime.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::key::{Pair, random};
use super::state::{Host, Number};
use crate::command::Command;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;

/// The password of the user `admin`. No secret: hosts can be reached from their
/// machine only.
pub const ADMIN_PASSWORD: &str = "chasi-lab";

/// [`ADMIN_PASSWORD`] as `openssl passwd -6 -salt chasilab` hashes it.
const ADMIN_HASH: &str = "$6$chasilab$xQ/S54d0U5xzBQaag8jhiuOiB8d1rO6PSQHaX0027Z2q.4Fa5wW0sZ.taoljXqguyxbUPsUVpPQtAPk796IXQ.";

/// Users who may log in with the lab's key, and their ids.
const USERS: &[(&str, u32, &str)] = &[
    ("root", 0, "root"),
    ("admin", 1000, "home/admin"),
    ("ops", 1001, "home/ops"),
];

/// How the names of trees begin that are being made.
const UNFINISHED: &str = ".unfinished-";

const PACKAGES: &str = "systemd,systemd-sysv,dbus,openssh-server,iproute2,sudo";

/// Units that do something by themselves, at times that a test does not choose,
/// or that have nothing to do in a container.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-tmpfiles-clean.timer",
];

/// systemd-nspawn mounts the control groups of v1 read-only, and plain
/// `remount,rw` says that they are busy. On v2 this changes nothing.
const CGROUPS_UNIT: &str = r"[Unit]
Description=Make control groups writable and mounts shared, as on a machine
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'while read -r _ d _; do case $$d in /sys/fs/cgroup*) mount -o remount,bind,rw $$d;; esac; done </proc/mounts; mount --make-rshared /'
";

/// A container whose process ignores SIGTERM holds up a host that powers off for
/// systemd's 90 seconds.
const STOP_SOON: &str = "[Manager]\nDefaultTimeoutStopSec=15s\n";

/// What mmdebstrap is told, without the target.
fn recipe() -> Vec<String> {
    let mut arguments: Vec<String> = ["--variant=minbase", "--format=directory", "--quiet"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    arguments.push(format!("--include={PACKAGES}"));
    for pattern in ["man", "doc", "info", "locale"] {
        arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{pattern}/*"));
    }
    arguments.push("--dpkgopt=path-include=/usr/share/doc/*/copyright".into());
    for (user, id, _) in &USERS[1..] {
        let password = if *user == "admin" { ADMIN_HASH } else { "*" };
        arguments.push(format!(
            "--customize-hook=chroot \"$1\" useradd -m -u {id} -s /bin/bash -p '{password}' {user}"
        ));
    }
    arguments
}

/// Makes sure that the tree is there and says where.
pub fn prepare(context: &Context, cache: &Path, mirror: Option<&str>) -> Result<PathBuf> {
    let mut ingredients = recipe();
    ingredients.extend([CGROUPS_UNIT.into(), MASKED.concat(), STOP_SOON.into()]);
    // Raised by whoever changes `finish`.
    ingredients.push("1".into());
    let key = Digest::of(ingredients.join("\0")).short();
    let tree = cache.join(format!("tree-{key}"));
    if tree.exists() {
        return Ok(tree);
    }
    super::nspawn::require(&[("mmdebstrap", "mmdebstrap")])?;
    file::create_directories(cache)?;
    let _lock = lock(context, cache)?;
    if tree.exists() {
        return Ok(tree);
    }
    // Each attempt has a directory of its own: a killed one's mmdebstrap may still be
    // cleaning up in another.
    let unfinished = cache.join(format!("{UNFINISHED}{}", std::process::id()));
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = remove(&entry.path());
        }
    }
    let made = context.step_blocking(None, "make the hosts' root tree", || {
        debootstrap(context, &unfinished, mirror)?;
        finish(&unfinished).or_err(Kind::System, || "cannot complete the root tree")
    });
    if let Err(error) = made {
        remove(&unfinished)?;
        return Err(error);
    }
    fs::rename(&unfinished, &tree)
        .and_then(|()| file::sync_directory(cache))
        .or_err(Kind::System, || format!("cannot make `{}`", tree.display()))?;
    Ok(tree)
}

fn lock(context: &Context, cache: &Path) -> Result<File> {
    let failed = || format!("cannot lock `{}`", cache.display());
    let directory = File::open(cache).or_err(Kind::System, failed)?;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) => {
                context.check_cancelled()?;
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::Error(error)) => return Err(error).or_err(Kind::System, failed),
        }
    }
}

fn debootstrap(context: &Context, target: &Path, mirror: Option<&str>) -> Result<()> {
    mortal("TERM", "mmdebstrap")
        .args(recipe())
        .arg("bookworm")
        .arg(target)
        .args(mirror)
        // What is set for the user's own tools means nothing in there.
        .env("TMPDIR", "/tmp")
        .env("LC_ALL", "C.UTF-8")
        .cancel(context.cancel.clone())
        .run()
        .map(drop)
        .map_err(|error| match error.kind() {
            Kind::Interrupted => error,
            _ => error
                .hint("Debian's packages are needed once; `--mirror URL` names another source."),
        })
}

/// What is the same on every host and no package brings.
fn finish(tree: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(tree.join("etc/ssh"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    let units = tree.join("usr/lib/systemd/system");
    fs::write(units.join("lab-cgroups.service"), CGROUPS_UNIT)?;
    let wants = units.join("sysinit.target.wants");
    fs::create_dir_all(&wants)?;
    for unit in ["lab-cgroups.service", "lab-network.service"] {
        symlink(Path::new("..").join(unit), wants.join(unit))?;
    }
    for unit in MASKED {
        symlink("/dev/null", tree.join("etc/systemd/system").join(unit))?;
    }
    let defaults = tree.join("usr/lib/systemd/system.conf.d");
    fs::create_dir_all(&defaults)?;
    fs::write(defaults.join("lab.conf"), STOP_SOON)?;
    // mmdebstrap copies the machine's.
    fs::write(tree.join("etc/resolv.conf"), "# There is no name server.\n")?;
    let sudoers = tree.join("etc/sudoers.d/lab");
    fs::write(
        &sudoers,
        "admin ALL=(ALL:ALL) ALL\nops ALL=(ALL:ALL) NOPASSWD: ALL\n",
    )?;
    fs::set_permissions(sudoers, fs::Permissions::from_mode(0o440))?;
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755))
}

/// Makes a host's disk, `root` in the host's directory, anew from the tree. An old
/// one is replaced once the new one is whole.
pub fn make_disk(tree: &Path, directory: &Path, identity: &Identity<'_>) -> Result<()> {
    let (root, fresh) = (directory.join("root"), directory.join("root.new"));
    remove(&fresh)?;
    mortal("KILL", "cp")
        .args([
            "--archive",
            "--reflink=auto",
            "--sparse=auto",
            "--no-target-directory",
        ])
        .args([tree, fresh.as_path()])
        .run()?;
    identity.write(&fresh)?;
    remove(&root)?;
    fs::rename(&fresh, &root).or_err(Kind::System, || format!("cannot make `{}`", root.display()))
}

/// What makes a copy of the tree one certain host.
pub struct Identity<'a> {
    /// The lab's number.
    pub number: Number,
    /// The host.
    pub host: &'a Host,
    /// Its SSH host key.
    pub host_key: &'a Pair,
    /// The public key that may log in.
    pub login: &'a str,
}

impl Identity<'_> {
    /// Writes it into the host's tree.
    fn write(&self, root: &Path) -> Result<()> {
        let machine_id = u128::from_be_bytes(random()?);
        self.write_files(root, &format!("{machine_id:032x}\n"))
            .or_err(Kind::System, || {
                format!("cannot prepare `{}`", root.display())
            })
    }

    fn write_files(&self, root: &Path, machine_id: &str) -> std::io::Result<()> {
        let name = &self.host.name;
        fs::write(root.join("etc/machine-id"), machine_id)?;
        fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(
            root.join("etc/hosts"),
            format!(
                "127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
            ),
        )?;
        let key = root.join("etc/ssh/ssh_host_ed25519_key");
        fs::write(&key, &self.host_key.private)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        fs::write(
            key.with_extension("pub"),
            format!("{}\n", self.host_key.public),
        )?;
        for (_, id, home) in USERS {
            let directory = root.join(home).join(".ssh");
            let keys = directory.join("authorized_keys");
            fs::create_dir_all(&directory)?;
            fs::write(&keys, format!("{}\n", self.login))?;
            for (path, mode) in [(&directory, 0o700), (&keys, 0o600)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                chown(path, Some(*id), Some(*id))?;
            }
        }
        fs::write(
            root.join("usr/lib/systemd/system/lab-network.service"),
            self.network_unit(),
        )
    }

    /// systemd-networkd would wait forever for a udev that containers do not have.
    fn network_unit(&self) -> String {
        let mut unit = String::from(
            "[Unit]\n\
             Description=Give the interfaces their addresses\n\
             DefaultDependencies=no\n\
             Before=systemd-sysctl.service network-pre.target network.target sysinit.target\n\n\
             [Service]\n\
             Type=oneshot\n\
             RemainAfterExit=yes\n\
             # A new namespace has what the machine has, and a bare host forwards nothing.\n\
             ExecStart=-sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'\n\
             ExecStart=-sh -c 'echo 0 >/proc/sys/net/ipv6/conf/all/forwarding'\n\
             ExecStart=ip link set lo up\n",
        );
        let (number, last) = (self.number, self.host.last());
        let mut line = |failure_is_fine: bool, command: String| {
            let mark = if failure_is_fine { "-" } else { "" };
            unit.push_str(&format!("ExecStart={mark}ip {command}\n"));
        };
        for nic in 0..self.host.links.len() as u8 {
            line(
                false,
                format!("addr replace {}/24 dev host{nic}", number.ipv4(nic, last)),
            );
            line(
                true,
                format!(
                    "addr replace {}/64 dev host{nic} nodad",
                    number.ipv6(nic, last)
                ),
            );
            line(false, format!("link set host{nic} up"));
        }
        // A cut link has no carrier, and then a route cannot be set: the host boots all the same.
        line(
            true,
            format!("route replace default via {} dev host0", number.ipv4(0, 1)),
        );
        line(
            true,
            format!("route replace default via {} dev host0", number.ipv6(0, 1)),
        );
        unit
    }
}

/// A program that gets a signal when this process is killed, so that it does not go
/// on in a directory that somebody else has begun to remove.
fn mortal(signal: &str, program: &str) -> Command {
    Command::new("setpriv").args(["--pdeathsig", signal, "--", program])
}

/// Removes a tree. Not existing is fine.
pub fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    // Something may be mounted below a tree whose making was interrupted, and
    // then the machine's own files must not go.
    let remove = || {
        Command::new("rm")
            .args(["--recursive", "--force", "--one-file-system", "--"])
            .arg(path)
            .run()
    };
    // A copy whose chasi was killed may still be writing into it, and fails when the
    // directory is gone.
    let mut removed = remove();
    for _ in 0..50 {
        if removed.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        removed = remove();
    }
    removed.map(drop).map_err(|cause| {
        Error::new(Kind::System, format!("cannot remove `{}`", path.display())).because(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::link::Link;

    #[test]
    fn a_host_gets_its_names_keys_and_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["etc/ssh", "root", "usr/lib/systemd/system"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let host = Host {
            name: "node-2".into(),
            index: 2,
            process: None,
            fingerprint: String::new(),
            links: vec![Link::default(); 2],
        };
        let host_key = Pair::generate().unwrap();
        let identity = Identity {
            number: Number(77),
            host: &host,
            host_key: &host_key,
            login: "ssh-ed25519 A",
        };
        let unit = identity.network_unit();
        let lines: Vec<_> = unit
            .lines()
            .filter_map(|line| line.strip_prefix("ExecStart=ip "))
            .collect();
        assert_eq!(
            lines,
            [
                "link set lo up",
                "addr replace 10.77.0.12/24 dev host0",
                "link set host0 up",
                "addr replace 10.77.1.12/24 dev host1",
                "link set host1 up",
            ]
        );
        // Giving files to other users is for root.
        if rustix::process::geteuid().is_root() {
            identity.write(root).unwrap();
            assert_eq!(
                fs::read_to_string(root.join("etc/hostname")).unwrap(),
                "node-2\n"
            );
            assert_eq!(
                fs::read_to_string(root.join("etc/machine-id"))
                    .unwrap()
                    .len(),
                33
            );
            let keys = fs::read_to_string(root.join("home/ops/.ssh/authorized_keys")).unwrap();
            assert_eq!(keys, "ssh-ed25519 A\n");
        }
    }
}
