//! Where backups are: a directory here, or one on another host over SSH.
//!
//! A backup has its name only when it is whole: it is written beside its place, synced,
//! read back and compared first. All of it passes in a bounded amount of memory. On
//! another host the usual programs do it (`cat`, `sync`, `mv`, `sha256sum`), which get
//! no secret in their arguments.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio_util::io::SyncIoBridge;

use super::format::Name;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::file;
use crate::remote::{Exit, Process, Session, Target, quote};

/// How long a small command on the other host may take.
const SHORT: Duration = Duration::from_secs(60);
/// How long it may take to read all backups there.
const READ_ALL: Duration = Duration::from_secs(3600);
/// The most files that are listed.
const MOST: usize = 10_000;

/// Where backups are.
#[derive(Clone)]
pub enum Place {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A directory on another host.
    Remote(Box<Target>, String),
}

/// A file that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub name: String,
    pub size: u64,
    pub digest: Digest,
}

/// A place that was entered.
pub(super) enum Entered {
    Directory(PathBuf),
    Remote(Session, String),
}

impl Place {
    /// Enters it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such directory.
    pub(super) async fn enter(&self, context: &Context) -> Result<Entered> {
        let missing = |shown: String, make: String| {
            Error::new(Kind::NotFound, format!("there is no directory `{shown}`"))
                .hint(format!("make it: `{make}`"))
        };
        match self {
            Place::Directory(path) if path.is_dir() => Ok(Entered::Directory(path.clone())),
            Place::Directory(path) => {
                let shown = path.display().to_string();
                Err(missing(shown.clone(), format!("mkdir -p {shown}")))
            }
            Place::Remote(target, directory) => {
                let work = Session::connect(context, target);
                let session = context.step(Some(&target.name), "connect", work).await?;
                let test = format!("test -d {}", quote(directory));
                let output = session.run(context, &test, b"", SHORT).await?;
                match output.exit {
                    Exit::Code(0) => Ok(Entered::Remote(session, directory.clone())),
                    _ => Err(missing(
                        format!("{target}:{directory}"),
                        format!("ssh {target} mkdir -p {directory}"),
                    )),
                }
            }
        }
    }
}

impl Entered {
    /// A path in it, for people.
    pub fn shown(&self, name: &str) -> String {
        match self {
            Entered::Directory(path) => path.join(name).display().to_string(),
            Entered::Remote(session, directory) => {
                format!("ssh://{}{directory}/{name}", session.target())
            }
        }
    }

    /// The files whose names are those of backups, each read to its end.
    pub async fn list(&self, context: &Context) -> Result<Vec<(Name, Found)>> {
        let found = match self {
            Entered::Directory(path) => {
                let path = path.clone();
                let work = tokio::task::spawn_blocking(move || list_here(&path));
                work.await
                    .or_err(Kind::Failed, || "the backups could not be read")??
            }
            Entered::Remote(session, directory) => list_there(context, session, directory).await?,
        };
        let named = found.into_iter().filter_map(|found| {
            let name: Name = found.name.parse().ok()?;
            Some((name, found))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by(|(a, _), (b, _)| (&a.cluster, a.when).cmp(&(&b.cluster, b.when)));
        Ok(named)
    }

    /// Opens a file to read it.
    pub async fn open(&self, context: &Context, name: &str) -> Result<Box<dyn Read + Send>> {
        match self {
            Entered::Directory(path) => {
                let path = path.join(name);
                let file = File::open(&path)
                    .or_err(Kind::Input, || format!("cannot read `{}`", path.display()))?;
                Ok(Box::new(file))
            }
            Entered::Remote(session, directory) => {
                let path = quote(&format!("{directory}/{name}"));
                let process = session.open(context, &format!("exec cat {path}")).await?;
                Ok(Box::new(SyncIoBridge::new(process)))
            }
        }
    }

    /// Begins a file that has no name yet. `run` makes it unique.
    pub async fn begin(&self, context: &Context, run: &str) -> Result<Draft> {
        match self {
            Entered::Directory(path) => {
                let problem = || format!("cannot write into `{}`", path.display());
                let draft = tempfile::Builder::new()
                    .prefix(file::TEMPORARY)
                    .tempfile_in(path)
                    .or_err(Kind::System, problem)?;
                let sink = draft.reopen().or_err(Kind::System, problem)?;
                Ok(Draft {
                    sink: Some(Box::new(sink)),
                    partial: Partial::Here(draft, path.clone()),
                })
            }
            Entered::Remote(session, directory) => {
                let partial = format!("{directory}/{}{run}.partial", file::TEMPORARY);
                let quoted = quote(&partial);
                // Cut on the way it ends as well: it gets its name by another command.
                let command = format!("umask 077 && cat >{quoted} && {{ sync {quoted} || sync; }}");
                let process = session.open(context, &command).await?;
                let remote = There {
                    process: SyncIoBridge::new(process),
                    runtime: tokio::runtime::Handle::current(),
                };
                Ok(Draft {
                    sink: Some(Box::new(remote)),
                    partial: Partial::There(session.clone(), directory.clone(), partial),
                })
            }
        }
    }
}

fn list_here(path: &Path) -> Result<Vec<Found>> {
    let problem = || format!("cannot read `{}`", path.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).or_err(Kind::System, problem)? {
        let entry = entry.or_err(Kind::System, problem)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().or_err(Kind::System, problem)?.is_file();
        if !is_file || name.parse::<Name>().is_err() || found.len() >= MOST {
            continue;
        }
        let file = File::open(entry.path()).or_err(Kind::System, problem)?;
        let (digest, size) = digest_of(file).or_err(Kind::System, problem)?;
        found.push(Found { name, size, digest });
    }
    Ok(found)
}

/// The digest and the length of all that comes.
fn digest_of(source: impl Read) -> io::Result<(Digest, u64)> {
    let mut source = Hashing::new(io::BufReader::with_capacity(1 << 20, source));
    io::copy(&mut source, &mut io::sink())?;
    let (_, digest, size) = source.finish();
    Ok((digest, size))
}

async fn list_there(context: &Context, session: &Session, directory: &str) -> Result<Vec<Found>> {
    let script = format!(
        "cd {} && for f in *_*.tar.zst *_*.tar.zst.age; do [ -f \"$f\" ] || continue; \
         d=$(sha256sum <\"$f\") && n=$(wc -c <\"$f\") && echo \"${{d%% *}} $n $f\"; done",
        quote(directory)
    );
    let output = session.run(context, &script, b"", READ_ALL).await?;
    if output.exit != Exit::Code(0) {
        return Err(failed(session, "list the backups", &output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().take(MOST);
    Ok(lines
        .filter_map(|line| {
            let (digest, rest) = line.split_once(' ')?;
            let (size, name) = rest.trim_start().split_once(' ')?;
            Some(Found {
                name: name.to_owned(),
                size: size.parse().ok()?,
                digest: format!("sha256:{digest}").parse().ok()?,
            })
        })
        .collect())
}

fn failed(session: &Session, what: &str, said: &str) -> Error {
    let target = session.target();
    let error = Error::new(Kind::Failed, format!("`{target}` cannot {what}")).on_host(&target.name);
    match said.trim() {
        "" => error,
        said => error.because(said.to_owned()),
    }
}

/// Where a draft is written to.
pub(super) trait Sink: Write + Send {
    /// Makes it durable; nothing can be written any more.
    fn seal(self: Box<Self>) -> io::Result<()>;
}

impl Sink for File {
    fn seal(self: Box<Self>) -> io::Result<()> {
        self.sync_all()
    }
}

/// A command on the other host that writes what it is given.
struct There {
    process: SyncIoBridge<Process>,
    runtime: tokio::runtime::Handle,
}

impl Write for There {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.process.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.process.flush()
    }
}

impl Sink for There {
    fn seal(mut self: Box<Self>) -> io::Result<()> {
        self.process.shutdown()?;
        let mut process = self.process.into_inner();
        self.runtime.block_on(async move {
            // It says nothing there.
            process.read_to_end(&mut Vec::new()).await?;
            match process.exit().await {
                Exit::Code(0) => Ok(()),
                _ => Err(io::Error::other(process.stderr().trim().to_owned())),
            }
        })
    }
}

/// A file that has no name yet. Dropped on this machine, it is gone.
pub(super) struct Draft {
    sink: Option<Box<dyn Sink>>,
    partial: Partial,
}

enum Partial {
    Here(tempfile::NamedTempFile, PathBuf),
    There(Session, String, String),
}

impl Draft {
    /// Where to write it; once.
    pub fn sink(&mut self) -> Result<Box<dyn Sink>> {
        self.sink
            .take()
            .ok_or_else(|| Error::new(Kind::Failed, "a backup is written once"))
    }

    /// Reads what was written.
    pub async fn read_back(&self, context: &Context) -> Result<Box<dyn Read + Send>> {
        match &self.partial {
            Partial::Here(draft, _) => {
                let file = File::open(draft.path())
                    .or_err(Kind::System, || "cannot read the backup back")?;
                Ok(Box::new(file))
            }
            Partial::There(session, _, partial) => {
                let command = format!("exec cat {}", quote(partial));
                let process = session.open(context, &command).await?;
                Ok(Box::new(SyncIoBridge::new(process)))
            }
        }
    }

    /// Gives it its name.
    pub async fn name(self, context: &Context, name: &str) -> Result<()> {
        match self.partial {
            Partial::Here(draft, directory) => {
                let problem = || format!("cannot name the backup `{name}`");
                draft
                    .persist(directory.join(name))
                    .map_err(|failed| failed.error)
                    .or_err(Kind::System, problem)?;
                file::sync_directory(&directory).or_err(Kind::System, problem)
            }
            Partial::There(session, directory, partial) => {
                let to = quote(&format!("{directory}/{name}"));
                let from = quote(&partial);
                let command = format!(
                    "mv -f {from} {to} && {{ sync {} || sync; }}",
                    quote(&directory)
                );
                let output = session.run(context, &command, b"", SHORT).await?;
                match output.exit {
                    Exit::Code(0) => Ok(()),
                    _ => Err(failed(&session, "name the backup", &output.stderr)),
                }
            }
        }
    }

    /// Removes it. Never fails: why it is given up is what counts.
    pub async fn abandon(self) {
        if let Partial::There(session, _, partial) = self.partial {
            // Also when it is given up because somebody stops it.
            let context = &Context::silent();
            let command = format!("rm -f {}", quote(&partial));
            let _ = session.run(context, &command, b"", SHORT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "shop_20261122T010203Z_1.34.4_3b9c358f36f0a31b6ad3e14f309c7cf1.tar.zst";

    #[tokio::test]
    async fn a_draft_gets_its_name_whole_and_one_that_is_given_up_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let context = Context::silent();
        let place = Place::Directory(directory.path().to_owned());
        let entered = place.enter(&context).await.unwrap();
        let count = || std::fs::read_dir(directory.path()).unwrap().count();
        for keep in [false, true] {
            let mut draft = entered.begin(&context, "r1").await.unwrap();
            let mut sink = draft.sink().unwrap();
            sink.write_all(b"file").unwrap();
            sink.seal().unwrap();
            assert!(draft.sink().is_err());
            let mut back = String::new();
            let mut reader = draft.read_back(&context).await.unwrap();
            reader.read_to_string(&mut back).unwrap();
            assert_eq!(back, "file");
            assert!(entered.list(&context).await.unwrap().is_empty());
            match keep {
                false => draft.abandon().await,
                true => draft.name(&context, NAME).await.unwrap(),
            }
            assert_eq!(count(), usize::from(keep));
        }
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(directory.path().join(NAME)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        std::fs::write(directory.path().join("notes.txt"), "x").unwrap();
        let listed = entered.list(&context).await.unwrap();
        let [(name, found)] = &listed[..] else {
            panic!("{listed:?}");
        };
        assert_eq!((name.to_string().as_str(), found.size), (NAME, 4));
        assert!(name.fits(&found.digest));
    }

    #[tokio::test]
    async fn a_directory_that_is_missing_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Directory(directory.path().join("none"));
        let error = place.enter(&Context::silent()).await.err().unwrap();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.hints()[0].contains("mkdir -p"));
    }
}
