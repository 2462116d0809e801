//! Who fetches what from whom, when the same content goes to many hosts.
//!
//! A pure state machine: it is told what has ended and says what to begin. Content
//! is cut into pieces. The controller sends a piece once, to a host that lacks it;
//! from there hosts pass it on to each other. Rare pieces go first, so that soon
//! every host has something that others lack and all links are busy.
//!
//! A source that fails is avoided: first by the host it failed for, and after some
//! hosts by all. A host that cannot fetch from several others gets its pieces from
//! the controller. What no host can give any more the controller sends again.

use std::collections::BTreeSet;

/// How many pieces a host receives at a time: more than one, so that its link is
/// busy while the next one is being asked for.
const DOWNLOADS: usize = 3;
/// How many pieces a host sends at a time.
const UPLOADS: usize = 3;
/// How many pieces the controller sends at a time.
const CONTROLLER_UPLOADS: usize = 4;
/// After this many failures with different others, a host is not used as a source,
/// or fetches from the controller only.
const PATIENCE: usize = 3;

/// Where a piece comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// The controller.
    Controller,
    /// A host that has it, by its number.
    Host(usize),
}

/// One piece on its way to one host.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Transfer {
    /// The host that gets it, by its number.
    pub to: usize,
    /// Where it comes from.
    pub from: Source,
    /// The piece's number.
    pub piece: usize,
}

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The source did not give it, or could not be reached.
    Source,
    /// The source gave something else. It is not asked again by anyone.
    Forged,
}

/// What is known, and what is under way.
#[derive(Debug)]
pub struct Schedule {
    hosts: Vec<Host>,
    pieces: Vec<Piece>,
    controller_uploads: usize,
    under_way: BTreeSet<Transfer>,
}

#[derive(Debug)]
struct Host {
    /// False once it is lost: nothing goes to it or comes from it any more.
    takes_part: bool,
    lacks: BTreeSet<usize>,
    /// Lacked, and on their way.
    coming: BTreeSet<usize>,
    uploads: usize,
    /// Sources that failed for this host.
    avoids: BTreeSet<usize>,
    /// Hosts that this one failed as a source.
    failed: BTreeSet<usize>,
    forger: bool,
}

#[derive(Debug, Default)]
struct Piece {
    holders: BTreeSet<usize>,
    /// Hosts that are getting it.
    coming: BTreeSet<usize>,
}

impl Host {
    /// Whether others may fetch from it at all.
    fn is_sound(&self) -> bool {
        self.takes_part && !self.forger && self.failed.len() < PATIENCE
    }

    fn has_turn(&self) -> bool {
        self.takes_part && self.coming.len() < DOWNLOADS && self.coming.len() < self.lacks.len()
    }
}

impl Schedule {
    /// For hosts that lack these pieces, out of `pieces`. Every host has those that
    /// it does not lack.
    pub fn new(pieces: usize, lacking: impl IntoIterator<Item = BTreeSet<usize>>) -> Schedule {
        let hosts: Vec<_> = lacking
            .into_iter()
            .map(|lacks| Host {
                takes_part: true,
                lacks,
                coming: BTreeSet::new(),
                uploads: 0,
                avoids: BTreeSet::new(),
                failed: BTreeSet::new(),
                forger: false,
            })
            .collect();
        let pieces = (0..pieces)
            .map(|piece| Piece {
                holders: (0..hosts.len())
                    .filter(|host| !hosts[*host].lacks.contains(&piece))
                    .collect(),
                coming: BTreeSet::new(),
            })
            .collect();
        Schedule {
            hosts,
            pieces,
            controller_uploads: 0,
            under_way: BTreeSet::new(),
        }
    }

    /// What can begin now. Each of these must be answered by [`Schedule::arrived`],
    /// [`Schedule::failed`] or [`Schedule::lost`].
    pub fn begin(&mut self) -> Vec<Transfer> {
        let mut begun = Vec::new();
        // The controller first: what only it has is what everybody waits for.
        while let Some(transfer) = self.next_of_controller() {
            self.start(transfer);
            begun.push(transfer);
        }
        // Hosts take turns, those that have least first, until nothing fits.
        loop {
            let before = begun.len();
            let mut turns: Vec<_> = (0..self.hosts.len())
                .filter(|host| self.hosts[*host].has_turn())
                .collect();
            turns.sort_by_key(|host| (std::cmp::Reverse(self.hosts[*host].lacks.len()), *host));
            for to in turns {
                if let Some(transfer) = self.next_from_hosts(to) {
                    self.start(transfer);
                    begun.push(transfer);
                }
            }
            if begun.len() == before {
                return begun;
            }
        }
    }

    /// A transfer has ended well.
    pub fn arrived(&mut self, transfer: Transfer) {
        if self.finish(transfer) {
            self.hosts[transfer.to].lacks.remove(&transfer.piece);
            self.pieces[transfer.piece].holders.insert(transfer.to);
        }
    }

    /// A transfer has failed, and the receiver is not to blame.
    pub fn failed(&mut self, transfer: Transfer, fault: Fault) {
        if !self.finish(transfer) {
            return;
        }
        if let Source::Host(from) = transfer.from {
            self.hosts[transfer.to].avoids.insert(from);
            self.hosts[from].failed.insert(transfer.to);
            self.hosts[from].forger |= fault == Fault::Forged;
        }
    }

    /// A host is gone, or cannot take anything any more.
    pub fn lost(&mut self, host: usize) {
        self.hosts[host].takes_part = false;
        for piece in &mut self.pieces {
            piece.holders.remove(&host);
        }
        let to_it: Vec<_> = self
            .under_way
            .iter()
            .filter(|transfer| transfer.to == host)
            .copied()
            .collect();
        for transfer in to_it {
            self.finish(transfer);
        }
    }

    /// Whether a host has everything.
    pub fn is_complete(&self, host: usize) -> bool {
        self.hosts[host].lacks.is_empty()
    }

    /// Whether a host can fetch from others, as far as is known. Sources that fail
    /// everybody say nothing about it.
    fn reaches_others(&self, host: usize) -> bool {
        let failures = self.hosts[host]
            .avoids
            .iter()
            .filter(|from| self.hosts[**from].is_sound());
        failures.count() < PATIENCE
    }

    /// The next piece for the controller to send: one that nobody else can give.
    fn next_of_controller(&self) -> Option<Transfer> {
        if self.controller_uploads >= CONTROLLER_UPLOADS {
            return None;
        }
        let mut turns: Vec<_> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].has_turn())
            .collect();
        turns.sort_by_key(|host| {
            let state = &self.hosts[*host];
            (
                state.coming.len(),
                std::cmp::Reverse(state.lacks.len()),
                *host,
            )
        });
        turns.into_iter().find_map(|to| {
            let host = &self.hosts[to];
            let alone = !self.reaches_others(to);
            let mut wanted = host.lacks.difference(&host.coming).copied();
            let piece = wanted.find(|piece| alone || self.nobody_gives(*piece, to))?;
            Some(Transfer {
                to,
                from: Source::Controller,
                piece,
            })
        })
    }

    /// Whether no host that `to` may fetch from has the piece or is getting it.
    fn nobody_gives(&self, piece: usize, to: usize) -> bool {
        let Piece { holders, coming } = &self.pieces[piece];
        let avoids = &self.hosts[to].avoids;
        let may_give = |from: &usize| self.hosts[*from].is_sound() && !avoids.contains(from);
        !holders.iter().chain(coming).any(may_give)
    }

    /// The rarest piece that another host can give to `to` now.
    fn next_from_hosts(&self, to: usize) -> Option<Transfer> {
        let host = &self.hosts[to];
        if !self.reaches_others(to) {
            return None;
        }
        let count = self.pieces.len();
        let wanted = host.lacks.difference(&host.coming).copied();
        let best = wanted
            .filter_map(|piece| self.source(to, piece).map(|from| (piece, from)))
            .min_by_key(|(piece, _)| {
                let state = &self.pieces[*piece];
                // Of equally rare pieces, each host begins with another one.
                (
                    state.holders.len() + state.coming.len(),
                    (piece + count - (to * 31) % count) % count,
                )
            });
        best.map(|(piece, from)| Transfer {
            to,
            from: Source::Host(from),
            piece,
        })
    }

    /// The least busy host that can give `piece` to `to` now.
    fn source(&self, to: usize, piece: usize) -> Option<usize> {
        let free =
            |from: &usize| self.hosts[*from].is_sound() && self.hosts[*from].uploads < UPLOADS;
        let holders = self.pieces[piece].holders.iter().copied();
        holders
            .filter(|from| free(from) && !self.hosts[to].avoids.contains(from))
            .min_by_key(|from| {
                (
                    self.hosts[*from].uploads,
                    (from + self.hosts.len() - to) % self.hosts.len(),
                )
            })
    }

    fn start(&mut self, transfer: Transfer) {
        self.under_way.insert(transfer);
        self.hosts[transfer.to].coming.insert(transfer.piece);
        self.pieces[transfer.piece].coming.insert(transfer.to);
        match transfer.from {
            Source::Controller => self.controller_uploads += 1,
            Source::Host(from) => self.hosts[from].uploads += 1,
        }
    }

    /// Takes a transfer out of what is under way; false when it is not.
    fn finish(&mut self, transfer: Transfer) -> bool {
        if !self.under_way.remove(&transfer) {
            return false;
        }
        self.hosts[transfer.to].coming.remove(&transfer.piece);
        self.pieces[transfer.piece].coming.remove(&transfer.to);
        match transfer.from {
            Source::Controller => self.controller_uploads -= 1,
            Source::Host(from) => self.hosts[from].uploads -= 1,
        }
        true
    }
}

#[cfg(test)]
mod tests;
