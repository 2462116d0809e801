//! Comparing what two generations place with what is on the host: what there is
//! to do at each path, decided before anything is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::found::{Found, Match};
use super::{block, originals};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::host::before::Before;
use crate::host::generation::{Manifest, Placed};
use crate::host::{Part, Root};
use crate::oci::layer::EntryPath;

/// The largest file that can have a block, in bytes.
const LARGEST_SHARED: u64 = 16 << 20;

/// What there is to do at a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Make it what the new generation says.
    Write,
    /// Make it what it was before chasi came.
    Restore,
    /// Remove it: nothing was there before chasi came.
    Remove,
    /// The original is back in its place; keep it no longer.
    Forget,
    /// Leave it alone: a user changed it.
    Keep,
}

/// Something to do at a path.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    pub(super) path: &'a EntryPath,
    /// Where that is.
    pub(super) place: PathBuf,
    pub(super) action: Action,
    pub(super) found: Found,
    /// What the generation that is left placed here.
    pub(super) old: Option<&'a Placed>,
    /// What the generation that is gone to places here.
    pub(super) new: Option<&'a Placed>,
}

/// From what to what.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) root: &'a Root,
    pub(super) part: Part,
    pub(super) old: Option<&'a Manifest>,
    pub(super) new: Option<&'a Manifest>,
    /// What the other part has in place.
    pub(super) other: Option<&'a Manifest>,
    /// Whether nothing has been done yet, so that what stands at a path that only
    /// the new generation has was there before. In an interrupted switch it is
    /// chasi's own, or was changed since.
    pub(super) fresh: bool,
}

impl<'a> Way<'a> {
    /// What there is to do, in the order of paths. Fails with [`Kind::Check`] when
    /// something is in the way that cannot be moved.
    pub(super) fn survey(&self) -> Result<Vec<Step<'a>>> {
        let mut pairs: BTreeMap<&'a EntryPath, (Option<&'a Placed>, Option<&'a Placed>)> =
            BTreeMap::new();
        for (path, placed) in self
            .old
            .into_iter()
            .flat_map(|manifest| manifest.of_part(self.part))
        {
            pairs.entry(path).or_default().0 = Some(placed);
        }
        for (path, placed) in self
            .new
            .into_iter()
            .flat_map(|manifest| manifest.of_part(self.part))
        {
            pairs.entry(path).or_default().1 = Some(placed);
        }
        let removable = self.removable()?;
        let mut steps = Vec::new();
        for (path, (old, new)) in pairs {
            let place = self.root.resolve(path)?;
            let found = Found::at(&place)?;
            let mut step = Step {
                path,
                place,
                action: Action::Keep,
                found,
                old,
                new,
            };
            if let Some(action) = self.decide(&step, &removable)? {
                step.action = action;
                steps.push(step);
            }
        }
        Ok(steps)
    }

    /// The directories that chasi made and that the other part does not need.
    fn removable(&self) -> Result<BTreeSet<EntryPath>> {
        let mut directories = Before::load(self.root)?.directories;
        for (path, _) in self
            .other
            .into_iter()
            .flat_map(|manifest| manifest.of_part(self.part.other()))
        {
            directories.remove(path);
        }
        Ok(directories)
    }

    fn decide(&self, step: &Step, removable: &BTreeSet<EntryPath>) -> Result<Option<Action>> {
        match (step.old, step.new) {
            (Some(old), Some(new)) if class(old) != class(new) => Err(obstacle(
                step.path,
                "is a directory, a file or a shared file in one generation, and another of these in the other",
            )),
            (_, Some(Placed::Directory(_))) => decide_directory(step),
            (Some(Placed::Directory(_)), None) => {
                Ok(removable.contains(step.path).then_some(Action::Remove))
            }
            (_, Some(Placed::Block { content })) => {
                let text = read_shared(step)?;
                let goal = block::with(text.as_deref(), content);
                Ok((Some(goal) != text).then_some(Action::Write))
            }
            (Some(Placed::Block { .. }), None) => {
                let text = read_shared(step)?;
                Ok(text
                    .is_some_and(|text| block::is_in(&text))
                    .then_some(Action::Remove))
            }
            (old, Some(new)) => self.decide_write(step, old, new),
            (Some(old), None) => self.decide_remove(step, old),
            (None, None) => Ok(None),
        }
    }

    fn decide_write(
        &self,
        step: &Step,
        old: Option<&Placed>,
        new: &Placed,
    ) -> Result<Option<Action>> {
        if matches!(step.found, Found::Directory | Found::Other) {
            return Err(obstacle(
                step.path,
                "is a directory or a device, where a file must go",
            ));
        }
        Ok(match (step.found.compare(new, self.root), old) {
            // It was there before chasi: the original must be kept.
            (Match::Same | Match::Content, None) if self.fresh => Some(Action::Write),
            (Match::Same, _) => None,
            (Match::Content, _) => Some(Action::Write),
            (Match::No, _) if step.found == Found::Nothing => Some(Action::Write),
            (Match::No, None) if self.fresh => Some(Action::Write),
            (Match::No, Some(old)) if step.found.compare(old, self.root) != Match::No => {
                Some(Action::Write)
            }
            (Match::No, _) => Some(Action::Keep),
        })
    }

    fn decide_remove(&self, step: &Step, old: &Placed) -> Result<Option<Action>> {
        let original = originals::find(self.root, step.path)?;
        let has_original = original != Found::Nothing;
        Ok(match &step.found {
            found if has_original && *found == original => Some(Action::Forget),
            Found::Nothing if has_original => Some(Action::Restore),
            Found::Nothing => None,
            found if found.compare(old, self.root) == Match::No => Some(Action::Keep),
            _ if has_original => Some(Action::Restore),
            _ => Some(Action::Remove),
        })
    }
}

/// Things of different classes cannot take each other's place by one rename.
fn class(placed: &Placed) -> u8 {
    match placed {
        Placed::Directory(_) => 0,
        Placed::Block { .. } => 1,
        Placed::File(_) | Placed::Link { .. } | Placed::Program { .. } => 2,
    }
}

fn decide_directory(step: &Step) -> Result<Option<Action>> {
    match &step.found {
        Found::Nothing => Ok(Some(Action::Write)),
        Found::Directory => Ok(None),
        // A link to a directory is the administrator's way to have it elsewhere.
        Found::Link(_) if step.place.is_dir() => Ok(None),
        _ => Err(obstacle(step.path, "is a file, where a directory must be")),
    }
}

/// The text of a file that others own too; none if there is no file.
pub(super) fn read_shared(step: &Step) -> Result<Option<String>> {
    match &step.found {
        Found::Nothing => return Ok(None),
        Found::File { .. } => {}
        _ => return Err(obstacle(step.path, "is not a regular file")),
    }
    let failed = || format!("cannot read `{}`", step.place.display());
    let size = fs::metadata(&step.place)
        .or_err(Kind::System, failed)?
        .len();
    if size > LARGEST_SHARED {
        return Err(obstacle(step.path, "is larger than 16 MiB"));
    }
    let bytes = fs::read(&step.place).or_err(Kind::System, failed)?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| obstacle(step.path, "is not UTF-8 text"))
}

fn obstacle(path: &EntryPath, problem: &str) -> Error {
    Error::new(Kind::Check, format!("`/{path}` {problem}")).hint(format!(
        "nothing was changed; move `/{path}` away and run again"
    ))
}
