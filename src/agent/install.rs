//! Bringing the agent to a host and starting it there.
//!
//! One script, run as root, does both in the good case: it compares the digest of
//! the binary that is there and becomes the agent. Only when it answers that the
//! binary is missing is one sent, over standard input, to a temporary name; it is
//! compared, synced and renamed there.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::calls::TakeLock;
use super::{Client, ROOT};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::{Context, Event};
use crate::remote::{Exit, Process, Session, Target, quote};

/// How long the host may take to answer the script; it hashes the binary.
const ANSWER: Duration = Duration::from_secs(60);
/// How long copying the binary may take without any progress.
const STALLED: Duration = Duration::from_secs(60);
/// The longest answer of the script.
const LONGEST_ANSWER: usize = 4096;

/// What to run on hosts, and in whose name.
#[derive(Clone)]
pub struct InstallOptions {
    /// The run's identifier: letters, digits and `-`.
    pub run: String,
    /// Who started it, and where: `user@machine`.
    pub who: String,
    /// Whether to take the host's lock, and how long to wait for it. Without it
    /// the agent only answers questions.
    pub lock: Option<Duration>,
    binaries: Arc<Binaries>,
}

/// Binaries of chasi, by architecture. Read once, however many hosts get them.
struct Binaries {
    own: PathBuf,
    others: Option<PathBuf>,
    loaded: [OnceCell<Arc<Binary>>; 2],
}

struct Binary {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// The architectures that chasi runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// By the name that `uname -m` prints.
    fn of_machine(name: &str) -> Option<Self> {
        match name {
            "x86_64" => Some(Architecture::X86_64),
            "aarch64" => Some(Architecture::Aarch64),
            _ => None,
        }
    }

    /// By the `e_machine` of an ELF header: EM_X86_64 is 62, EM_AARCH64 is 183
    /// (elf(5), `elf.h`).
    fn of_elf(header: &[u8]) -> Option<Self> {
        match header.get(..20)? {
            [0x7f, b'E', b'L', b'F', 2, 1, .., 62, 0] => Some(Architecture::X86_64),
            [0x7f, b'E', b'L', b'F', 2, 1, .., 183, 0] => Some(Architecture::Aarch64),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        }
    }
}

impl InstallOptions {
    /// Runs the binary `own` (that of this process) on hosts of its architecture,
    /// and takes the host's lock, waiting up to `lock` for another run.
    pub fn new(run: impl Into<String>, who: impl Into<String>, own: impl Into<PathBuf>) -> Self {
        InstallOptions {
            run: run.into(),
            who: who.into(),
            lock: None,
            binaries: Arc::new(Binaries {
                own: own.into(),
                others: None,
                loaded: Default::default(),
            }),
        }
    }

    /// Takes the host's lock, waiting up to `patience` for another run.
    pub fn with_lock(mut self, patience: Duration) -> Self {
        self.lock = Some(patience);
        self
    }

    /// Runs the binaries `chasi-x86_64` and `chasi-aarch64` of a directory on hosts
    /// of another architecture than this machine's.
    pub fn with_binaries(mut self, directory: impl Into<PathBuf>) -> Self {
        self.binaries = Arc::new(Binaries {
            own: self.binaries.own.clone(),
            others: Some(directory.into()),
            loaded: Default::default(),
        });
        self
    }
}

/// Connects to a host, brings the agent there if it does not have it, starts it,
/// and takes the host's lock if the options say so.
pub async fn connect(
    context: &Context,
    target: &Target,
    options: &InstallOptions,
) -> Result<Client> {
    let session = Session::connect(context, target).await?;
    let client = start(context, &session, options).await.map_err(|error| {
        if error.host().is_none() {
            error.on_host(&target.name)
        } else {
            error
        }
    })?;
    if let Some(patience) = options.lock {
        let lock = TakeLock {
            run: options.run.clone(),
            who: options.who.clone(),
            patience: patience.as_secs(),
        };
        if let Err(error) = client.call(lock).await {
            // The reason counts; the agent stops by itself as well.
            let _ = client.bye().await;
            return Err(error);
        }
    }
    Ok(client)
}

/// What the host says before it becomes the agent.
enum Answer {
    /// What follows is the agent.
    Starting(Box<Process>),
    /// It does not have the binary; this is its architecture.
    Missing(String),
}

async fn start(context: &Context, session: &Session, options: &InstallOptions) -> Result<Client> {
    // A guess that is right nearly always; the host says so when it is wrong.
    let mut architecture = options.binaries.own_architecture()?;
    let mut sent = false;
    loop {
        let binary = options.binaries.get(architecture).await?;
        match ask(context, session, options, &binary, architecture).await? {
            Answer::Starting(process) => return greet(context, session, *process).await,
            Answer::Missing(machine) => {
                let actual =
                    Architecture::of_machine(&machine).ok_or_else(|| unsupported(&machine))?;
                if actual != architecture {
                    architecture = actual;
                    continue;
                }
                if sent {
                    return Err(Error::new(
                        Kind::Failed,
                        "the agent was removed from the host while it was being started",
                    )
                    .hint("run the same command again"));
                }
                send(context, session, &binary).await?;
                sent = true;
            }
        }
    }
}

fn unsupported(machine: &str) -> Error {
    Error::new(
        Kind::Check,
        format!("the host is a `{machine}`, and chasi runs on x86_64 and aarch64"),
    )
}

impl Binaries {
    fn own_architecture(&self) -> Result<Architecture> {
        architecture_of(&self.own)
    }

    async fn get(&self, architecture: Architecture) -> Result<Arc<Binary>> {
        let own = self.own_architecture()?;
        let path = match &self.others {
            _ if own == architecture => self.own.clone(),
            Some(directory) => directory.join(format!("chasi-{}", architecture.name())),
            None => return Err(no_binary(own, architecture)),
        };
        self.loaded[architecture as usize]
            .get_or_try_init(|| async {
                let found = if path.exists() {
                    architecture_of(&path)?
                } else {
                    return Err(no_binary(own, architecture));
                };
                if found != architecture {
                    return Err(Error::new(
                        Kind::Check,
                        format!(
                            "`{}` is a program for {}, not for {}",
                            path.display(),
                            found.name(),
                            architecture.name()
                        ),
                    ));
                }
                let binary = tokio::task::spawn_blocking(move || hash(path)).await;
                binary
                    .or_err(Kind::Failed, || "cannot read the program")?
                    .map(Arc::new)
            })
            .await
            .cloned()
    }
}

fn no_binary(own: Architecture, wanted: Architecture) -> Error {
    Error::new(
        Kind::Check,
        format!(
            "the host is a {}, and this chasi is a program for {}",
            wanted.name(),
            own.name()
        ),
    )
    .hint(format!(
        "put chasi for {0} as `chasi-{0}` into a directory and name it with `--agents DIRECTORY`",
        wanted.name()
    ))
}

fn architecture_of(path: &Path) -> Result<Architecture> {
    let mut header = [0; 20];
    let cannot = || format!("cannot read the program `{}`", path.display());
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .or_err(Kind::System, cannot)?;
    Architecture::of_elf(&header).ok_or_else(|| {
        Error::new(
            Kind::Input,
            format!(
                "`{}` is not a program for Linux on x86_64 or aarch64",
                path.display()
            ),
        )
    })
}

fn hash(path: PathBuf) -> Result<Binary> {
    let cannot = || format!("cannot read the program `{}`", path.display());
    let mut file = Hashing::new(std::fs::File::open(&path).or_err(Kind::System, cannot)?);
    std::io::copy(&mut file, &mut std::io::sink()).or_err(Kind::System, cannot)?;
    let (_, digest, size) = file.finish();
    Ok(Binary { path, digest, size })
}

/// Where the binary is on a host.
fn place(binary: &Binary) -> String {
    format!("{ROOT}/agent/chasi-{}", binary.digest.hex())
}

/// Runs the script that becomes the agent, or says why it cannot.
async fn ask(
    context: &Context,
    session: &Session,
    options: &InstallOptions,
    binary: &Binary,
    architecture: Architecture,
) -> Result<Answer> {
    let script = start_script(
        &options.run,
        &place(binary),
        &binary.digest.hex(),
        architecture,
    );
    let mut process = session.open_as_root(context, &script).await?;
    let answer = context
        .cancel
        .run_until_cancelled(timeout(ANSWER, line(&mut process)))
        .await
        .ok_or_else(|| Error::new(Kind::Interrupted, "interrupted"))?
        .or_err(Kind::Unreachable, || {
            format!("the host did not answer within {} s", ANSWER.as_secs())
        })??;
    match answer.split_once(' ').unwrap_or((answer.as_str(), "")) {
        ("starting", _) => Ok(Answer::Starting(Box::new(process))),
        ("missing", machine) => Ok(Answer::Missing(machine.to_owned())),
        ("no-systemd", _) => Err(Error::new(Kind::Check, "the host is not run by systemd")
            .hint("chasi needs systemd as the host's first process (`readlink /proc/1/exe`)")),
        ("no-exec", _) => Err(Error::new(Kind::Check, format!("programs below `{ROOT}` cannot be run: its file system is mounted with `noexec`"))
            .hint(format!("see `findmnt -T {}`; mount it without `noexec`, or give `{ROOT}` a file system of its own", parent(ROOT)))),
        ("no-tool", tool) => Err(Error::new(Kind::Check, format!("the host has no `{tool}`"))
            .hint("install systemd and coreutils there")),
        ("", _) => {
            let exit = timeout(Duration::from_secs(2), process.exit()).await.unwrap_or(Exit::Lost);
            Err(Error::new(Kind::Failed, "the agent could not be started").because(describe(&exit, &process.stderr())))
        }
        _ => Err(Error::new(Kind::Failed, "the host answers with something else than was asked")
            .because(answer)
            .hint("a login script on the host may print something: `ssh HOST true` must print nothing")),
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| parent)
}

/// The script prints one line and then, if that is `starting`, is the agent. The
/// agent starts with the same surroundings whoever logs in: a `PATH` with root's
/// programs, messages of programs in English, the usual umask, no directory in use.
fn start_script(run: &str, place: &str, hex: &str, architecture: Architecture) -> String {
    let (place, check) = (quote(place), quote(&format!("{hex}  {place}")));
    let unit = quote(&format!("chasi-agent-{run}-"));
    format!(
        "cd /; umask 022; PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; \
         LC_ALL=C; export PATH LC_ALL; m=$(uname -m); \
         test -d /run/systemd/system || {{ echo no-systemd; exit 0; }}; \
         for t in systemd-run sha256sum mktemp sync; do command -v $t >/dev/null 2>&1 || {{ echo no-tool $t; exit 0; }}; done; \
         test \"$m\" = {arch} && test -f {place} && echo {check} | sha256sum -c --status || {{ echo missing $m; exit 0; }}; \
         test -x {place} || {{ echo no-exec; rm -f {place}; rmdir {ROOT}/agent {ROOT} 2>/dev/null; exit 0; }}; \
         echo starting; \
         exec systemd-run --scope --collect --quiet --unit={unit}$$ {place} agent",
        arch = architecture.name(),
    )
}

/// One line, without what follows it.
async fn line(process: &mut Process) -> Result<String> {
    let mut line = Vec::new();
    while line.len() < LONGEST_ANSWER {
        // Byte by byte, because the bytes behind the line belong to the agent.
        match process.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Copies the binary.
async fn send(context: &Context, session: &Session, binary: &Binary) -> Result<()> {
    let stalled = || format!("copying the agent stalled for {} s", STALLED.as_secs());
    let host = &session.target().name;
    let place = place(binary);
    let script = format!(
        "set -e; umask 022; LC_ALL=C; export LC_ALL; mkdir -p {ROOT}/agent; \
         t=$(mktemp {ROOT}/agent/.chasi-XXXXXXXX); \
         trap 'rm -f \"$t\"; rmdir {ROOT}/agent {ROOT} 2>/dev/null || :' EXIT; \
         cat > \"$t\"; echo \"{hex}  $t\" | sha256sum -c --status || {{ echo the copy is not whole >&2; exit 1; }}; \
         chmod 755 \"$t\"; sync \"$t\"; mv -f \"$t\" {place}; sync {ROOT}/agent",
        hex = binary.digest.hex(),
        place = quote(&place),
    );
    let mut process = session.open_as_root(context, &script).await?;
    let mut file = tokio::fs::File::open(&binary.path)
        .await
        .or_err(Kind::System, || {
            format!("cannot read the program `{}`", binary.path.display())
        })?;
    let copy = async {
        let mut buffer = vec![0; 256 << 10];
        let mut done = 0;
        loop {
            let count = file.read(&mut buffer).await.or_err(Kind::System, || {
                format!("cannot read the program `{}`", binary.path.display())
            })?;
            if count == 0 {
                break;
            }
            let written = timeout(STALLED, process.write_all(&buffer[..count])).await;
            // When the host stops reading it says why on standard error.
            if written.or_err(Kind::Unreachable, stalled)?.is_err() {
                break;
            }
            done += count as u64;
            context.emit(Event::Progress {
                host: Some(host.clone()),
                item: "agent".to_owned(),
                done,
                total: Some(binary.size),
            });
        }
        let output = timeout(STALLED, process.finish(&[]))
            .await
            .or_err(Kind::Unreachable, stalled)??;
        // The C library's words for ENOSPC and EDQUOT; the script's locale is C.
        if ["No space left on device", "Disk quota exceeded"]
            .iter()
            .any(|words| output.stderr.contains(words))
        {
            return Err(no_room(binary.size));
        }
        output.success("copying the agent to the host")
    };
    context
        .cancel
        .run_until_cancelled(copy)
        .await
        .unwrap_or_else(|| Err(Error::new(Kind::Interrupted, "interrupted")))?;
    Ok(())
}

fn no_room(size: u64) -> Error {
    Error::new(
        Kind::Check,
        format!("the disk is full: `{ROOT}` has no room for the agent"),
    )
    .because(format!("expected: {size} bytes for the agent alone"))
    .hint(format!(
        "free some space; `df -h {}` on the host shows how much there is",
        parent(ROOT)
    ))
    .hint("nothing has been changed on this host")
}

async fn greet(context: &Context, session: &Session, process: Process) -> Result<Client> {
    let status = process.status();
    let last_words = async move {
        let exit = status.exit().await;
        Some(describe(&exit, &status.stderr()))
    };
    Client::greet(context, &session.target().name, process, last_words).await
}

/// How a program on the host ended.
fn describe(exit: &Exit, stderr: &str) -> String {
    let how = match exit {
        Exit::Code(code) => format!("it exited with {code}"),
        Exit::Signal(signal) => format!("it was ended by SIG{signal}"),
        Exit::Lost => "the SSH connection ended".to_owned(),
    };
    match stderr.trim() {
        "" => how,
        said => format!("{how} and said: {said}"),
    }
}
