//! What is at a path of the host, and whether it is what a generation places.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest::{Digest, Hashing};
use crate::error::{Kind, Result, ResultExt};
use crate::host::generation::Placed;
use crate::host::{Part, Root};

/// What is at a path. Links are not followed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Found {
    Nothing,
    File {
        content: Digest,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Link(OsString),
    Directory,
    /// A device, a socket, a pipe.
    Other,
}

/// How what was found compares with what is placed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Match {
    /// It is the same.
    Same,
    /// The content is the same; its mode or owner is not.
    Content,
    /// It is something else.
    No,
}

impl Found {
    pub(super) fn at(path: &Path) -> Result<Self> {
        let look = || -> io::Result<Found> {
            let metadata = match fs::symlink_metadata(path) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(Found::Nothing);
                }
                metadata => metadata?,
            };
            let kind = metadata.file_type();
            Ok(if kind.is_symlink() {
                Found::Link(fs::read_link(path)?.into_os_string())
            } else if kind.is_dir() {
                Found::Directory
            } else if kind.is_file() {
                Found::File {
                    content: digest(path)?,
                    mode: metadata.mode() & 0o7777,
                    uid: metadata.uid(),
                    gid: metadata.gid(),
                }
            } else {
                Found::Other
            })
        };
        look().or_err(Kind::System, || {
            format!("cannot look at `{}`", path.display())
        })
    }

    pub(super) fn compare(&self, placed: &Placed, root: &Root) -> Match {
        match (self, placed) {
            (
                Found::File {
                    content,
                    mode,
                    uid,
                    gid,
                },
                Placed::File(file),
            ) if *content == file.content => {
                match (*mode, *uid, *gid) == (file.mode, file.uid, file.gid) {
                    true => Match::Same,
                    false => Match::Content,
                }
            }
            (Found::Link(found), Placed::Link { target }) if *found == **target => Match::Same,
            (Found::Link(found), Placed::Program { tree })
                if **found == *program_target(root, tree.as_str()) =>
            {
                Match::Same
            }
            _ => Match::No,
        }
    }
}

/// Where the host's link to a program of the tree points: always through the
/// switch, so that it moves with it.
pub(super) fn program_target(root: &Root, tree: &str) -> String {
    root.state_on_host(&format!("{}/{tree}", Part::Node.name()))
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut content = Hashing::new(io::sink());
    io::copy(&mut fs::File::open(path)?, &mut content)?;
    Ok(content.finish().1)
}
