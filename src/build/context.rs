//! The build context: a directory out of which `COPY` takes files.
//!
//! Nothing outside it is ever read: every path is opened below the directory's
//! file descriptor with `openat2`, no symbolic link is followed on the way, and
//! one that is found is itself what is copied. What `.kubeignore` names does not
//! exist for a build; the Kubefile, its lock file and `.kubeignore` never do.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::pattern::{Component, Ignore, Pattern};
use crate::error::{Error, Kind, Result, ResultExt};

/// The name of the file that says what is left out.
pub const IGNORE_FILE: &str = ".kubeignore";

/// The largest file that is read as text, in bytes.
const TEXT_LIMIT: u64 = 1 << 20;

/// The most entries that one source may have.
const ENTRIES: usize = 1_000_000;

/// How deep directories may nest.
const DEPTH: usize = 128;

/// A build context.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    directory: OwnedFd,
    ignore: Ignore,
}

/// What a source named.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Its last component.
    pub name: String,
    /// Whether it is a directory, whose content is meant.
    pub directory: bool,
    /// What it has; paths are relative to it, and empty for what is no directory.
    pub found: Vec<Found>,
}

/// A file, directory or link of the context.
#[derive(Clone, Debug)]
pub struct Found {
    /// The path below what was selected.
    pub below: String,
    /// The path below the context.
    pub path: String,
    /// What it is.
    pub node: Node,
}

/// What something in the context is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Link(String),
    /// A regular file.
    File {
        /// What tells whether it was changed.
        stamp: Stamp,
        /// Whether anyone may execute it.
        executable: bool,
    },
}

/// What changes when a file is written to: while all of it is the same, the
/// content is the same, but for writes within the clock's granularity.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// The file system.
    pub device: u64,
    /// The file's number in it.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub modified: i128,
    /// Nanoseconds since the epoch; no program can set it.
    pub changed: i128,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            changed: time(stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        }
    }

    /// The stamp of an open file.
    pub fn of_file(file: &File) -> std::io::Result<Self> {
        Ok(Stamp::of(&rustix::fs::fstat(file)?))
    }
}

impl Context {
    /// Opens a context. `own` are paths below it that are never copied: the
    /// Kubefile and its lock file, when they lie in it.
    pub fn open(root: &Path, own: &[String]) -> Result<Self> {
        let cannot = || format!("cannot open the context `{}`", root.display());
        let directory = rustix::fs::open(
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|cause| match cause {
            Errno::NOENT | Errno::NOTDIR => Error::new(Kind::NotFound, cannot())
                .because(cause)
                .hint("the last argument of `chasi build` is the directory with the image's files"),
            _ => Error::new(Kind::System, cannot()).because(cause),
        })?;
        let mut context = Context {
            root: root.to_owned(),
            directory,
            ignore: Ignore::default(),
        };
        if let Some(text) = context.read_text_if_any(IGNORE_FILE)? {
            let path = root.join(IGNORE_FILE);
            context.ignore = Ignore::parse(&path.display().to_string(), &text)?;
        }
        context.ignore.always(IGNORE_FILE);
        for path in own {
            context.ignore.always(path);
        }
        Ok(context)
    }

    /// The directory's path, as the user gave it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The text of a file of the context.
    pub fn read_text(&self, path: &str) -> Result<String> {
        self.read_text_if_any(path)?
            .ok_or_else(|| self.missing(path))
    }

    fn read_text_if_any(&self, path: &str) -> Result<Option<String>> {
        use std::io::Read;
        let file = match self.open_at(path, OFlags::RDONLY) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(cause) => return Err(self.cannot_open(path, cause)),
        };
        let mut text = String::new();
        let read = file.take(TEXT_LIMIT + 1).read_to_string(&mut text);
        read.or_err(Kind::Input, || {
            format!("cannot read `{}` as text", self.shown(path))
        })?;
        if text.len() as u64 > TEXT_LIMIT {
            return Err(Error::new(
                Kind::Input,
                format!("`{}` is larger than {TEXT_LIMIT} bytes", self.shown(path)),
            ));
        }
        Ok(Some(text))
    }

    /// Opens a regular file of the context and tells its stamp.
    pub fn open_file(&self, path: &str) -> Result<(File, Stamp)> {
        let file = self
            .open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map(File::from)
            .map_err(|cause| self.cannot_open(path, cause))?;
        let stamp = Stamp::of_file(&file).or_err(Kind::System, || {
            format!("cannot look at `{}`", self.shown(path))
        })?;
        Ok((file, stamp))
    }

    /// What a source names, in the order of names. Never empty.
    pub fn select(&self, pattern: &str, glob: bool) -> Result<Vec<Selected>> {
        let mut paths = BTreeMap::new();
        if glob {
            let compiled = Pattern::parse(pattern).map_err(|flaw| {
                Error::new(Kind::Input, format!("`{pattern}` is not a pattern: {flaw}"))
                    .hint("quote the source, or write `\\` before a character that means itself")
            })?;
            self.expand(String::new(), compiled.components(), &mut paths, 0)?;
        } else if self.ignore.ignores(pattern) {
            return Err(Error::new(
                Kind::NotFound,
                format!("`{pattern}` is left out of the context"),
            )
            .hint(format!(
                "`{}` names it, or it is the Kubefile",
                self.root.join(IGNORE_FILE).display()
            )));
        } else {
            let stat = self.stat(pattern)?.ok_or_else(|| self.missing(pattern))?;
            paths.insert(pattern.to_owned(), stat);
        }
        if paths.is_empty() {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "no file of the context `{}` fits `{pattern}`",
                    self.root.display()
                ),
            )
            .hint("a `*` never stands for a `/`; `**` stands for any number of directories"));
        }
        paths
            .into_iter()
            .map(|(path, stat)| self.selected(path, &stat))
            .collect()
    }

    fn selected(&self, path: String, stat: &Stat) -> Result<Selected> {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mut found = Vec::new();
        if directory {
            self.walk(&path, "", &mut found, 0)?;
        } else {
            let node = self.node(&path, stat)?;
            found.push(Found {
                below: String::new(),
                path,
                node,
            });
        }
        Ok(Selected {
            name,
            directory,
            found,
        })
    }

    /// Finds what fits the rest of a pattern below `base`.
    fn expand(
        &self,
        base: String,
        rest: &[Component],
        into: &mut BTreeMap<String, Stat>,
        depth: usize,
    ) -> Result<()> {
        self.check_bounds(&base, depth, into.len())?;
        let Some((first, rest)) = rest.split_first() else {
            if !self.ignore.ignores(&base)
                && let Some(stat) = self.stat(&base)?
            {
                into.insert(base, stat);
            }
            return Ok(());
        };
        match first {
            Component::Exact(name) => {
                let path = join(&base, name);
                if self.stat(&path)?.is_some() {
                    self.expand(path, rest, into, depth + 1)?;
                }
                Ok(())
            }
            Component::Glob(glob) => {
                for (name, stat) in self.list(&base)? {
                    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    if glob.matches(&name) && (directory || rest.is_empty()) {
                        self.expand(join(&base, &name), rest, into, depth + 1)?;
                    }
                }
                Ok(())
            }
            Component::AnyDepth if rest.is_empty() => {
                let mut found = Vec::new();
                self.walk(&base, "", &mut found, depth)?;
                for found in found
                    .iter()
                    .filter(|found| !matches!(found.node, Node::Directory))
                {
                    if let Some(stat) = self.stat(&found.path)? {
                        into.insert(found.path.clone(), stat);
                    }
                }
                Ok(())
            }
            Component::AnyDepth => {
                self.expand(base.clone(), rest, into, depth + 1)?;
                let mut deeper = vec![Component::AnyDepth];
                deeper.extend_from_slice(rest);
                for (name, stat) in self.list(&base)? {
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        self.expand(join(&base, &name), &deeper, into, depth + 1)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Collects what is below a directory, parents before children.
    fn walk(&self, path: &str, below: &str, into: &mut Vec<Found>, depth: usize) -> Result<()> {
        self.check_bounds(path, depth, into.len())?;
        for (name, stat) in self.list(path)? {
            let (path, below) = (join(path, &name), join(below, &name));
            let ignored = self.ignore.ignores(&path);
            let node = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if ignored && self.ignore.prunes() => continue,
                FileType::Directory => Node::Directory,
                _ if ignored => continue,
                _ => self.node(&path, &stat)?,
            };
            let is_directory = matches!(node, Node::Directory);
            if !ignored {
                into.push(Found {
                    below: below.clone(),
                    path: path.clone(),
                    node,
                });
            }
            if is_directory {
                self.walk(&path, &below, into, depth + 1)?;
            }
        }
        Ok(())
    }

    fn check_bounds(&self, path: &str, depth: usize, count: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "`{}` is more than {DEPTH} directories deep",
                    self.shown(path)
                ),
            ));
        }
        if count > ENTRIES {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "the context `{}` has more than {ENTRIES} entries",
                    self.root.display()
                ),
            )
            .hint(format!("name what to leave out in `{IGNORE_FILE}`")));
        }
        Ok(())
    }

    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> Result<Vec<(String, Stat)>> {
        let cannot = || format!("cannot list `{}`", self.shown(path));
        let directory = match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(cause) => return Err(self.cannot_open(path, cause)),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).or_err(Kind::System, cannot)? {
            let entry = entry.or_err(Kind::System, cannot)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .or_err(Kind::System, || {
                    format!("cannot look at `{}`", self.shown(path))
                })?;
            names.push((self.utf8(path, name)?, stat));
            self.check_bounds(path, 0, names.len())?;
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(names)
    }

    fn utf8(&self, path: &str, name: &CStr) -> Result<String> {
        name.to_str().map(str::to_owned).or_err(Kind::Input, || {
            let name = name.to_string_lossy();
            format!("the name `{}` is not UTF-8", self.shown(&join(path, &name)))
        })
    }

    fn node(&self, path: &str, stat: &Stat) -> Result<Node> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Node::Directory),
            FileType::RegularFile => Ok(Node::File {
                stamp: Stamp::of(stat),
                executable: stat.st_mode & 0o111 != 0,
            }),
            FileType::Symlink => self.link(path).map(Node::Link),
            _ => Err(Error::new(
                Kind::Input,
                format!("`{}` is a device, a socket or a pipe", self.shown(path)),
            )
            .hint(format!(
                "an image has files, directories and symbolic links; name it in `{IGNORE_FILE}`"
            ))),
        }
    }

    fn link(&self, path: &str) -> Result<String> {
        let link = self
            .open_at(path, OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(|cause| self.cannot_open(path, cause))?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new()).or_err(Kind::System, || {
            format!("cannot read the link `{}`", self.shown(path))
        })?;
        target.into_string().or_err(Kind::Input, || {
            format!("the target of the link `{}` is not UTF-8", self.shown(path))
        })
    }

    /// What a path is, without following a link; `None` when there is nothing.
    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => rustix::fs::fstat(&file).map(Some).or_err(Kind::System, || {
                format!("cannot look at `{}`", self.shown(path))
            }),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(cause) => Err(self.cannot_open(path, cause)),
        }
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            &self.directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    fn cannot_open(&self, path: &str, cause: Errno) -> Error {
        let message = format!("cannot open `{}`", self.shown(path));
        match cause {
            Errno::LOOP => Error::new(Kind::Input, message)
                .because("a symbolic link is on the way, and none is followed")
                .hint("name the directory that the link points to"),
            Errno::NOENT => self.missing(path),
            _ => Error::new(Kind::System, message).because(cause),
        }
    }

    fn missing(&self, path: &str) -> Error {
        let error = Error::new(
            Kind::NotFound,
            format!(
                "there is no `{path}` in the context `{}`",
                self.root.display()
            ),
        );
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let names = self.list(parent).unwrap_or_default();
        let near = names
            .iter()
            .map(|(other, _)| (strsim::damerau_levenshtein(name, other), other))
            .filter(|(distance, other)| *distance <= other.len().max(3) / 3)
            .min();
        match near {
            Some((_, near)) => error.hint(format!("did you mean `{}`?", join(parent, near))),
            None => error.hint("paths are relative to the context, not to the Kubefile"),
        }
    }

    /// A path for messages.
    pub fn shown(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

/// Joins two relative paths, either of which may be empty.
pub fn join(base: &str, name: &str) -> String {
    match (base.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => base.to_owned(),
        _ => format!("{base}/{name}"),
    }
}

#[cfg(test)]
mod tests;
