//! The two switches: from one generation to another, and back.
//!
//! A switch, each step durable before the next:
//! 1. `begin` in the journal
//! 2. keep what stands where only the new generation has something; `saved` in
//!    the journal
//! 3. write the files, links, blocks and directories that the new generation adds
//!    or has changed
//! 4. the rename of the symbolic link, which decides
//! 5. remove what the new generation no longer has, and put back what was there
//!    before chasi; `cleared` in the journal
//! 6. forget what is back in its place, remove empty directories
//! 7. `commit` in the journal
//!
//! Interrupted before 4, the switch is undone; after it, it is completed. Both are
//! the same steps, 3, 5 and 6, in one direction or the other, and can be
//! interrupted themselves. Neither needs a controller.
//!
//! A file is chasi's as long as its content is that of the old or the new
//! generation. Any other content is a user's, is kept, and is told. A file that
//! is missing is written again.

pub(super) mod block;
mod change;
mod found;
mod originals;
mod survey;
mod units;

use serde::{Deserialize, Serialize};

use super::generation::{self, Manifest, Node, Placed};
use super::journal::{self, Begun, Journal, Operation, Pending};
use super::{Part, Root, leave};
use crate::error::{Error, Kind, Result};
use crate::event::Context;
use crate::file;
use survey::{Action, Step, Way};

/// Recorded when everything that the switch will overwrite has been kept.
const SAVED: &str = "saved";
/// Recorded when everything that was there before chasi is back in its place.
const CLEARED: &str = "cleared";

/// What a switch changes, or would change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// The generation that is left.
    pub from: Option<u64>,
    /// The generation that is gone to.
    pub to: Option<u64>,
    /// Files, links, blocks and directories of the host, by path.
    pub paths: Vec<Change>,
    /// Programs that become others with the switch, by their path on the host.
    pub programs: Vec<String>,
    /// Files that a user changed, and that are left alone.
    pub kept: Vec<String>,
    /// Units that start with the host now and did not before.
    pub started: Vec<String>,
    /// Units that have to be restarted to see what changed: their own file, a
    /// program that they run, or a file that they name.
    pub affected: Vec<String>,
    /// Units that are gone, and have to be stopped before the switch.
    pub stopped: Vec<String>,
}

/// A change at a path of the host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The path, from the root.
    pub path: String,
    /// What happens there.
    pub what: What,
}

/// What happens at a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Something is made where nothing is.
    Add,
    /// Something becomes something else.
    Change,
    /// What was there before chasi comes back.
    Restore,
    /// It goes.
    Remove,
}

impl Changes {
    /// Whether there is nothing to do. Files that a user changed do not count.
    pub fn is_empty(&self) -> bool {
        self.from == self.to && self.paths.is_empty()
    }
}

/// The manifests that a switch has to do with.
struct Manifests {
    old: Option<Manifest>,
    new: Option<Manifest>,
    other: Option<Manifest>,
}

impl Manifests {
    fn load(root: &Root, part: Part, from: Option<u64>, to: Option<u64>) -> Result<Self> {
        let load = |number: Option<u64>| {
            number
                .map(|number| generation::load(root, number))
                .transpose()
        };
        Ok(Manifests {
            old: load(from)?,
            new: load(to)?,
            other: load(generation::current(root, part.other())?)?,
        })
    }

    fn way<'a>(&'a self, root: &'a Root, part: Part, fresh: bool) -> Way<'a> {
        Way {
            root,
            part,
            old: self.old.as_ref(),
            new: self.new.as_ref(),
            other: self.other.as_ref(),
            fresh,
        }
    }

    /// The way back.
    fn reversed(self) -> Self {
        Manifests {
            old: self.new,
            new: self.old,
            other: self.other,
        }
    }
}

/// What [`switch`] would change now. With the generation that the switch points to,
/// it tells what on the host is no longer as it should be. Fails with
/// [`Kind::Check`] when something is in the way.
pub fn diff(root: &Root, part: Part, to: Option<u64>) -> Result<Changes> {
    let from = generation::current(root, part)?;
    let manifests = Manifests::load(root, part, from, to)?;
    let way = manifests.way(root, part, true);
    let steps = way.survey()?;
    Ok(describe(&way, from, to, &steps))
}

/// Moves a switch to a generation; to none when chasi leaves. Returns what was
/// changed. Only for the one who may change the host, when nothing is pending.
///
/// When it fails, the host is whole: as it was before, or, when it failed behind
/// the point that decides, completed. Only when that fails as well, the switch is
/// left pending, and [`recover`] ends it. A generation that is not what was staged is
/// refused with [`Kind::Integrity`], before anything is changed.
pub fn switch(
    root: &Root,
    journal: &Journal,
    part: Part,
    to: Option<u64>,
    ctx: &Context,
) -> Result<Changes> {
    refuse_pending(root, part)?;
    let from = generation::current(root, part)?;
    let manifests = Manifests::load(root, part, from, to)?;
    let way = manifests.way(root, part, true);
    let steps = way.survey()?;
    let changes = describe(&way, from, to, &steps);
    if changes.is_empty() {
        return Ok(changes);
    }
    if let Some(number) = to {
        generation::verify(root, part, number)?;
    }
    let begun = journal.begin(Operation::Switch { part, from, to })?;
    match forward(&way, journal, &begun, to, &steps) {
        Ok(()) => journal.commit(begun)?,
        Err(error) => {
            let decided = from != to && generation::current(root, part)? == to;
            settle_after(root, journal, begun, error)?;
            if decided {
                ctx.note(format!(
                    "the switch `{part}` met an error on its way, and was completed"
                ));
            }
        }
    }
    Ok(changes)
}

/// After an error: makes the host whole again at once. An error that was before
/// the point that decides is passed on.
fn settle_after(root: &Root, journal: &Journal, begun: Begun, error: Error) -> Result<()> {
    let unsettled = |error: Error| {
        error.hint("run the same command again, or `chasi boot` on the host: both complete or undo the switch")
    };
    let pending = journal.pending(&begun).map_err(unsettled)?;
    match settle(root, journal, begun, &pending) {
        Ok(Outcome::Completed) => Ok(()),
        Ok(Outcome::Undone) => Err(error),
        // The first error tells more than that of the clearing up.
        Err(_) => Err(unsettled(error)),
    }
}

fn refuse_pending(root: &Root, part: Part) -> Result<()> {
    let is_switch = |pending: &Pending| matches!(pending.operation, Operation::Switch { part: other, .. } if other == part);
    match journal::pending(root)?
        .iter()
        .find(|pending| is_switch(pending))
    {
        Some(pending) => Err(Error::new(
            Kind::Failed,
            format!(
                "a switch of `{part}` by the run {} was interrupted and has not been settled",
                pending.run
            ),
        )),
        None => Ok(()),
    }
}

fn forward(
    way: &Way,
    journal: &Journal,
    begun: &Begun,
    to: Option<u64>,
    steps: &[Step],
) -> Result<()> {
    change::save(way, steps)?;
    journal.reached(begun, SAVED)?;
    change::place(way, to, steps)?;
    point(way.root, way.part, to)?;
    change::clear(way, steps)?;
    journal.reached(begun, CLEARED)?;
    change::tidy(way)
}

/// The one step that decides.
fn point(root: &Root, part: Part, to: Option<u64>) -> Result<()> {
    let link = root.state(part.name());
    if generation::current(root, part)? == to {
        return Ok(());
    }
    root.allow("switch", &link)?;
    match to {
        Some(number) => file::link(&link, generation::link_target(number).as_ref()),
        None => file::remove(&link),
    }
}

/// How an interrupted operation was settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The host has become what the operation wanted.
    Completed,
    /// The host is what it was before.
    Undone,
}

/// An interrupted operation that was settled.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The run that began it.
    pub run: String,
    /// What it was.
    pub operation: Operation,
    /// What became of it.
    pub outcome: Outcome,
}

/// Settles everything that was interrupted: completes switches that had decided,
/// undoes those that had not. Other operations are recorded as abandoned, because
/// the next plan sees what they have left to do. Only for the one who may change
/// the host.
pub fn recover(root: &Root) -> Result<Vec<Settled>> {
    remove_temporary(root)?;
    let mut settled = Vec::new();
    for pending in journal::pending(root)? {
        let journal = Journal::open(root, &pending.run)?;
        let begun = journal.resume(&pending);
        let outcome = match pending.operation {
            Operation::Switch { .. } => settle(root, &journal, begun, &pending)?,
            _ => {
                journal.abandon(begun, "interrupted")?;
                Outcome::Undone
            }
        };
        settled.push(Settled {
            run: pending.run,
            operation: pending.operation,
            outcome,
        });
    }
    Ok(settled)
}

/// Removes what a crash left in chasi's own directory, beside what staging removes.
fn remove_temporary(root: &Root) -> Result<()> {
    change::remove_temporary_in(root, &root.state(""))?;
    leave::clear(root)?;
    originals::remove_temporary(root)
}

fn settle(root: &Root, journal: &Journal, begun: Begun, pending: &Pending) -> Result<Outcome> {
    let Operation::Switch { part, from, to } = pending.operation else {
        return Err(Error::new(Kind::Failed, "this is not a switch"));
    };
    let now = generation::current(root, part)?;
    let manifests = Manifests::load(root, part, from, to)?;
    change::remove_temporary(&manifests.way(root, part, false))?;
    if now == to {
        make_whole(
            &manifests.way(root, part, false),
            to,
            journal,
            &begun,
            pending,
        )?;
        journal.commit(begun)?;
        return Ok(Outcome::Completed);
    }
    if now != from {
        return Err(Error::new(
            Kind::Integrity,
            format!("the switch `{part}` points neither to where it was nor to where it was going"),
        )
        .hint(
            "someone has changed chasi's directory; `journalctl` and the journal in it say more",
        ));
    }
    if pending.has_reached(SAVED) {
        make_whole(
            &manifests.reversed().way(root, part, false),
            from,
            journal,
            &begun,
            pending,
        )?;
    } else {
        change::forget_saved(&manifests.way(root, part, false))?;
    }
    journal.abandon(begun, "interrupted before it had decided")?;
    Ok(Outcome::Undone)
}

/// Makes the host what the new generation says, whatever of it is there already.
fn make_whole(
    way: &Way,
    number: Option<u64>,
    journal: &Journal,
    begun: &Begun,
    pending: &Pending,
) -> Result<()> {
    if !pending.has_reached(CLEARED) {
        let steps = way.survey()?;
        change::place(way, number, &steps)?;
        change::clear(way, &steps)?;
        journal.reached(begun, CLEARED)?;
    }
    change::tidy(way)
}

fn describe(way: &Way, from: Option<u64>, to: Option<u64>, steps: &[Step]) -> Changes {
    let mut changes = Changes {
        from,
        to,
        ..Changes::default()
    };
    for step in steps {
        let path = format!("/{}", step.path);
        let what = match step.action {
            Action::Keep => {
                changes.kept.push(path);
                continue;
            }
            Action::Forget => continue,
            Action::Write if step.found == found::Found::Nothing => What::Add,
            Action::Write => What::Change,
            Action::Restore => What::Restore,
            Action::Remove => What::Remove,
        };
        changes.paths.push(Change { path, what });
    }
    changes.programs = changed_programs(way);
    units::fill(way, &mut changes);
    changes
}

/// Programs of both generations whose content differs.
fn changed_programs(way: &Way) -> Vec<String> {
    let (Some(old), Some(new)) = (way.old, way.new) else {
        return Vec::new();
    };
    let node = |manifest: &Manifest, placed: &Placed| -> Option<Node> {
        match placed {
            Placed::Program { tree } => manifest.tree.get(tree).cloned(),
            _ => None,
        }
    };
    new.of_part(way.part)
        .filter(|(path, placed)| {
            let is = node(new, placed);
            let was = old.host.get(*path).and_then(|placed| node(old, placed));
            is.is_some() && was.is_some() && is != was
        })
        .map(|(path, _)| format!("/{path}"))
        .collect()
}
