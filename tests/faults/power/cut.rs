//! What a power cut leaves: the model.
//!
//! What had been synced before the cut is there. Of everything else a part is
//! there, chosen at random. Two models say which parts are possible:
//!
//! - [`Model::Journal`] is what ext4 and XFS do: names and attributes of all files
//!   go through one journal in the order in which they were changed, so that after
//!   the cut they are as they were at some moment. Any sync, of whatever file,
//!   makes all earlier ones durable.
//! - [`Model::Posix`] is what the standard promises and no more: a sync of a
//!   directory makes the names in it durable, a sync of a file its content and its
//!   attributes, not its name. The names in each directory come in order, those of
//!   two directories in any. A rename between two directories is in both or in
//!   neither.
//!
//! In both, content that was not synced is there, is missing (the file has the
//! length that it had when it was last synced), is zeros, or is zeros from some
//! byte on; a name says nothing about the content. `syncfs` makes everything
//! durable. A file that exists has the mode and owner it was made with; a symbolic
//! link, which cannot be synced by itself, has all its attributes.
//!
//! Not modelled: disks that lie about what they wrote, and blocks that were synced
//! and cannot be read any more.

use std::collections::{HashMap, HashSet};

use super::image::{Change, Content, Image, Number};
use crate::Dice;
use crate::work::Reached;

/// What happened on a file system, in order.
#[derive(Clone, Debug)]
pub enum Event {
    Change(Change),
    Sync(Synced, String),
    /// Chasi has promised something.
    Reached(Reached),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Synced {
    File(Number),
    Directory(Number),
    /// `syncfs`.
    All,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Model {
    Journal,
    Posix,
}

/// How much of what was not synced survives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Luck {
    /// Nothing.
    Bad,
    /// A random part.
    Mixed,
    /// Names and attributes, and a random part of the contents: the order in which
    /// file systems with delayed allocation write.
    Names,
}

/// A power cut, before the event with the number `at`.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: usize,
    pub model: Model,
    pub luck: Luck,
}

/// What changes in order.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Queue {
    Names(Number),
    Attributes(Number),
    Content(Number),
}

/// What becomes of content that was not synced.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Zeros,
    /// Zeros from this byte on.
    Torn(usize),
}

fn queues(change: &Change) -> Vec<Queue> {
    match change {
        Change::Make((directory, _), ..)
        | Change::Link((directory, _), _)
        | Change::Unlink((directory, _)) => vec![Queue::Names(*directory)],
        Change::Rename((from, _), (to, _)) => vec![Queue::Names(*from), Queue::Names(*to)],
        Change::Mode(number, _) | Change::Owner(number, ..) | Change::Attribute(number, ..) => {
            vec![Queue::Attributes(*number)]
        }
        Change::Write(number, ..) | Change::Truncate(number, _) => vec![Queue::Content(*number)],
    }
}

/// Up to which event each queue is durable.
#[derive(Default)]
struct Durable {
    names_and_attributes: usize,
    everything: usize,
    each: HashMap<Queue, usize>,
}

impl Durable {
    fn until(&self, queue: Queue) -> usize {
        let common = match queue {
            Queue::Content(_) => self.everything,
            _ => self.everything.max(self.names_and_attributes),
        };
        common.max(self.each.get(&queue).copied().unwrap_or(0))
    }

    fn new(events: &[Event], ignored: &HashSet<usize>, model: Model) -> Durable {
        let mut durable = Durable::default();
        for (at, event) in events.iter().enumerate() {
            let Event::Sync(synced, _) = event else {
                continue;
            };
            if ignored.contains(&at) {
                continue;
            }
            if model == Model::Journal {
                durable.names_and_attributes = at;
            }
            let queues = match *synced {
                Synced::File(number) => [Queue::Content(number), Queue::Attributes(number)],
                Synced::Directory(number) => [Queue::Names(number), Queue::Attributes(number)],
                Synced::All => {
                    durable.everything = at;
                    continue;
                }
            };
            for queue in queues {
                durable.each.insert(queue, at);
            }
        }
        durable.close(events);
        durable
    }

    /// A rename that is durable in one directory is so in the other, with all that
    /// was before it there.
    fn close(&mut self, events: &[Event]) {
        loop {
            let mut grew = false;
            for (at, event) in events.iter().enumerate() {
                let Event::Change(change @ Change::Rename(..)) = event else {
                    continue;
                };
                let queues = queues(change);
                if queues.iter().any(|queue| at < self.until(*queue)) {
                    for queue in queues {
                        if self.until(queue) <= at {
                            self.each.insert(queue, at + 1);
                            grew = true;
                        }
                    }
                }
            }
            if !grew {
                return;
            }
        }
    }
}

/// What is there when the power is back. The syncs in `ignored` did nothing.
pub fn cut(
    start: &Image,
    events: &[Event],
    ignored: &HashSet<usize>,
    cut: Cut,
    dice: &mut Dice,
) -> Image {
    let events = &events[..cut.at];
    let durable = Durable::new(events, ignored, cut.model);
    let mut image = start.clone();
    // Inodes are there with their first name, whichever that is.
    for event in events {
        if let Event::Change(Change::Make(_, number, inode)) = event {
            image.inodes.insert(*number, inode.clone());
        }
    }
    let mut ends: HashMap<Queue, usize> = HashMap::new();
    let mut fates: HashMap<Number, Fate> = HashMap::new();
    let common = end(
        durable.everything.max(durable.names_and_attributes),
        cut,
        dice,
    );
    let mut closed: HashSet<Queue> = HashSet::new();
    for (at, event) in events.iter().enumerate() {
        let Event::Change(change) = event else {
            continue;
        };
        let queues = queues(change);
        if queues.iter().any(|queue| at < durable.until(*queue)) || is_of_link(&image, change) {
            image.apply(change);
            continue;
        }
        if let Queue::Content(number) = queues[0] {
            let fate = fates.entry(number).or_insert_with(|| fate(cut.luck, dice));
            apply_content(&mut image, change, *fate);
            continue;
        }
        let mut is_kept = true;
        for queue in &queues {
            let last = match cut.model {
                Model::Journal => common,
                Model::Posix => *ends
                    .entry(*queue)
                    .or_insert_with(|| end(durable.until(*queue), cut, dice)),
            };
            is_kept &= at < last && !closed.contains(queue);
        }
        if is_kept {
            image.apply(change);
        } else {
            closed.extend(queues);
        }
    }
    image
}

/// Where a queue ends.
fn end(durable: usize, cut: Cut, dice: &mut Dice) -> usize {
    match cut.luck {
        Luck::Bad => durable,
        Luck::Names => cut.at,
        Luck::Mixed => match dice.below(3) {
            0 => durable,
            1 => cut.at,
            _ => durable + dice.below(cut.at.saturating_sub(durable) + 1),
        },
    }
}

fn fate(luck: Luck, dice: &mut Dice) -> Fate {
    let kinds = if luck == Luck::Bad { 3 } else { 4 };
    match dice.below(kinds) {
        0 => Fate::Lost,
        1 => Fate::Zeros,
        2 => Fate::Torn(dice.below(400)),
        _ => Fate::Kept,
    }
}

fn apply_content(image: &mut Image, change: &Change, fate: Fate) {
    match (fate, change) {
        (Fate::Lost, _) => {}
        (Fate::Zeros | Fate::Torn(_), Change::Write(number, offset, data)) => {
            let from = match fate {
                Fate::Torn(byte) => byte,
                _ => 0,
            };
            let torn = data.iter().zip(*offset..);
            let torn = torn.map(|(byte, place)| if place < from { *byte } else { 0 });
            image.apply(&Change::Write(*number, *offset, torn.collect()));
        }
        _ => image.apply(change),
    }
}

fn is_of_link(image: &Image, change: &Change) -> bool {
    let (Change::Owner(number, ..) | Change::Attribute(number, ..)) = change else {
        return false;
    };
    let inode = image.inodes.get(number);
    inode.is_some_and(|inode| matches!(inode.content, Content::Link(_)))
}
