//! Doing what a survey found: first what the new generation has, and, when the
//! switch has moved, what it no longer has.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::found::program_target;
use super::survey::{Action, Step, Way, read_shared};
use super::{block, originals};
use crate::digest::Hashing;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::file::{self, Batch};
use crate::host::before::Before;
use crate::host::generation::{self, Directory, Placed};
use crate::host::{Root, object};

/// Keeps what stands where only the new generation has something.
pub(super) fn save(way: &Way, steps: &[Step]) -> Result<()> {
    let mut batch = Batch::default();
    for step in steps
        .iter()
        .filter(|step| is_file(step.new) && step.old.is_none())
    {
        originals::save(way.root, step.path, &step.place, &mut batch)?;
    }
    finish(way.root, batch)
}

/// Forgets what was kept for a switch that has not begun to change anything.
pub(super) fn forget_saved(way: &Way) -> Result<()> {
    let mut batch = Batch::default();
    let goal = way
        .new
        .into_iter()
        .flat_map(|manifest| manifest.of_part(way.part));
    for (path, placed) in goal {
        let is_new = way
            .old
            .is_none_or(|manifest| !manifest.host.contains_key(path));
        if is_new && is_file(Some(placed)) {
            originals::forget(way.root, path, &mut batch)?;
        }
    }
    finish(way.root, batch)
}

fn is_file(placed: Option<&Placed>) -> bool {
    matches!(
        placed,
        Some(Placed::File(_) | Placed::Link { .. } | Placed::Program { .. })
    )
}

/// Makes what the new generation adds or has changed. `number` is that of the new
/// generation, from whose tree files are copied.
pub(super) fn place(way: &Way, number: Option<u64>, steps: &[Step]) -> Result<()> {
    let writes = || steps.iter().filter(|step| step.action == Action::Write);
    let mut before = Before::load(way.root)?;
    let known = before.directories.len();
    let made = writes().filter(|step| matches!(step.new, Some(Placed::Directory(_))));
    before
        .directories
        .extend(made.map(|step| step.path.clone()));
    if before.directories.len() > known {
        before.save(way.root)?;
    }
    let mut batch = Batch::default();
    for step in writes() {
        match step.new {
            Some(Placed::Directory(directory)) => {
                make_directory(way.root, &step.place, directory, &mut batch)?
            }
            Some(Placed::File(file)) => write_file(way.root, number, step, file, &mut batch)?,
            Some(Placed::Link { target }) => link(way.root, &step.place, target, &mut batch)?,
            Some(Placed::Program { tree }) => {
                link(
                    way.root,
                    &step.place,
                    &program_target(way.root, tree.as_str()),
                    &mut batch,
                )?;
            }
            Some(Placed::Block { content }) => {
                let text = block::with(read_shared(step)?.as_deref(), content);
                write_shared(way.root, &step.place, &text, &mut batch)?;
            }
            None => {}
        }
    }
    finish(way.root, batch)
}

/// Removes files, links and blocks that the new generation no longer has, and puts
/// back what was there before chasi.
pub(super) fn clear(way: &Way, steps: &[Step]) -> Result<()> {
    let mut batch = Batch::default();
    for step in steps.iter().filter(|step| step.new.is_none()) {
        match (step.action, step.old) {
            (Action::Restore, _) => {
                originals::restore(way.root, step.path, &step.place, &mut batch)?
            }
            (Action::Remove, Some(Placed::Block { .. })) => {
                remove_block(way.root, step, &mut batch)?
            }
            (Action::Remove, Some(old)) if is_file(Some(old)) => {
                way.root.allow("remove", &step.place)?;
                batch.remove(&step.place)?;
            }
            _ => {}
        }
    }
    finish(way.root, batch)
}

/// Forgets the originals that are back in their place, and removes directories
/// that chasi made. After this, what is back and what chasi wrote can no longer be
/// told apart where they are the same, so [`clear`] must not be done again.
pub(super) fn tidy(way: &Way) -> Result<()> {
    let steps = way.survey()?;
    let mut batch = Batch::default();
    for step in steps.iter().filter(|step| step.action == Action::Forget) {
        originals::forget(way.root, step.path, &mut batch)?;
    }
    let is_directory = |step: &&Step| {
        matches!(
            (step.action, step.old),
            (Action::Remove, Some(Placed::Directory(_)))
        )
    };
    let directories: Vec<_> = steps.iter().filter(is_directory).collect();
    // The deepest first: a path sorts before those below it.
    for step in directories.iter().rev() {
        way.root.allow("remove", &step.place)?;
        batch.remove_empty_directory(&step.place)?;
    }
    finish(way.root, batch)?;
    forget_directories(way.root, &directories)
}

fn forget_directories(root: &Root, steps: &[&Step]) -> Result<()> {
    let gone = || steps.iter().filter(|step| !step.place.exists());
    if gone().next().is_none() {
        return Ok(());
    }
    let mut before = Before::load(root)?;
    for step in gone() {
        before.directories.remove(step.path);
    }
    before.save(root)
}

fn finish(root: &Root, batch: Batch) -> Result<()> {
    root.allow("sync", &root.state(""))?;
    batch.finish()
}

fn make_directory(
    root: &Root,
    place: &Path,
    directory: &Directory,
    batch: &mut Batch,
) -> Result<()> {
    root.allow("create", place)?;
    batch.create_directory(place, directory.mode)?;
    std::os::unix::fs::chown(place, Some(directory.uid), Some(directory.gid))
        .or_err(Kind::System, || {
            format!("cannot give `{}` its owner", place.display())
        })
}

fn link(root: &Root, place: &Path, target: &str, batch: &mut Batch) -> Result<()> {
    root.allow("link", place)?;
    batch.link(place, Path::new(target))
}

/// Copies a file out of the tree, and looks at every byte: what is damaged there
/// must not come into use.
fn write_file(
    root: &Root,
    number: Option<u64>,
    step: &Step,
    file: &object::File,
    batch: &mut Batch,
) -> Result<()> {
    let Some(number) = number else { return Ok(()) };
    let source = generation::tree(root, number).join(step.path);
    root.allow("write", &step.place)?;
    let mut found = None;
    batch
        .replace(&step.place, file.mode, |copy| {
            root.pass("write on", &step.place)?;
            let mut content = Hashing::new(fs::File::open(&source)?.take(file.size + 1));
            io::copy(&mut content, copy)?;
            let (_, digest, _) = content.finish();
            if digest != file.content {
                found = Some(digest);
                return Err(io::Error::other("its source is damaged"));
            }
            file.dress(copy)
        })
        .map_err(|error| match found {
            None => error,
            Some(digest) => Error::new(
                Kind::Integrity,
                format!(
                    "`{}` is damaged: its content has the digest {digest}, expected {}",
                    source.display(),
                    file.content
                ),
            )
            .hint("the host's disk may be failing; `dmesg` says more"),
        })
}

/// Writes a file that others own too: its mode, owner and attributes stay.
fn write_shared(root: &Root, place: &Path, text: &str, batch: &mut Batch) -> Result<()> {
    let failed = || format!("cannot write `{}`", place.display());
    root.allow("write", place)?;
    let (mode, owner, attributes) = match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (0o644, None, Default::default()),
        found => {
            let found = found.or_err(Kind::System, failed)?;
            let attributes = crate::host::xattr::read(place).or_err(Kind::System, failed)?;
            (
                found.mode() & 0o7777,
                Some((found.uid(), found.gid())),
                attributes,
            )
        }
    };
    batch.replace(place, mode, |copy| {
        root.pass("write on", place)?;
        copy.write_all(text.as_bytes())?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&*copy, Some(uid), Some(gid))?;
        }
        for (name, value) in &attributes {
            rustix::fs::fsetxattr(
                &*copy,
                name.as_str(),
                value,
                rustix::fs::XattrFlags::empty(),
            )?;
        }
        Ok(())
    })
}

fn remove_block(root: &Root, step: &Step, batch: &mut Batch) -> Result<()> {
    match read_shared(step)?.as_deref().and_then(block::without) {
        Some(text) => write_shared(root, &step.place, &text, batch),
        None => {
            root.allow("remove", &step.place)?;
            batch.remove(&step.place)
        }
    }
}

/// Removes what a crash left in the directories of what this way places. kubelet
/// and systemd ignore such names, but they are not the host's.
pub(super) fn remove_temporary(way: &Way) -> Result<()> {
    let mut directories = BTreeSet::new();
    for manifest in way.old.into_iter().chain(way.new) {
        for (path, _) in manifest.of_part(way.part) {
            if let Some(parent) = way.root.resolve(path)?.parent() {
                directories.insert(parent.to_owned());
            }
        }
    }
    directories
        .iter()
        .try_for_each(|directory| remove_temporary_in(way.root, directory))
}

/// Removes what a crash left in a directory.
pub(super) fn remove_temporary_in(root: &Root, directory: &Path) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for path in object::list(directory)? {
        if file::is_temporary(&path) {
            root.allow("remove", &path)?;
            file::remove(&path)?;
        }
    }
    Ok(())
}
