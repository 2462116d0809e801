//! The arithmetic of etcd's majority when members go. Pure.
//!
//! Of `n` members, `n / 2 + 1` must be there for the cluster to decide anything.
//! Members that are gone for good count among `n` until they are removed, and
//! removing one is itself a decision.

use std::fmt;

/// A member of etcd, as far as counting goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Voter {
    /// The node's name.
    pub name: String,
    /// Whether it answers.
    pub healthy: bool,
    /// Whether it is to go.
    pub leaving: bool,
}

/// How many there are, how many must be there, how many are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Count {
    members: usize,
    healthy: usize,
}

impl Count {
    fn of<'a>(voters: impl Iterator<Item = &'a Voter>) -> Self {
        let mut count = Count {
            members: 0,
            healthy: 0,
        };
        for voter in voters {
            count.members += 1;
            count.healthy += usize::from(voter.healthy);
        }
        count
    }

    fn needed(self) -> usize {
        self.members / 2 + 1
    }

    fn holds(self) -> bool {
        self.healthy >= self.needed()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} healthy, {} needed",
            self.healthy,
            self.members,
            self.needed()
        )
    }
}

/// What comes of removing those that are to leave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It can be done, in this order: dead ones first. With the counts before and
    /// after.
    Fine(Vec<String>, Count, Count),
    /// Nothing of the control plane would be left.
    Last(Count),
    /// After it, or in between, the majority would be lost. With the counts before
    /// and then.
    Breaks(Count, Count),
    /// The majority is lost now, and only dead ones are to go: one that is left can
    /// be made a cluster of its own. With the count before, and the one that is left.
    Lost(Count, String),
}

/// Judges removing the voters that are to leave.
pub(super) fn judge(voters: &[Voter]) -> Verdict {
    let before = Count::of(voters.iter());
    let left = || voters.iter().filter(|voter| !voter.leaving);
    let after = Count::of(left());
    if !voters.iter().any(|voter| voter.leaving) {
        return Verdict::Fine(Vec::new(), before, before);
    }
    if after.members == 0 {
        return Verdict::Last(before);
    }
    if !before.holds() {
        let survivor = left().find(|voter| voter.healthy);
        let only_dead = voters.iter().all(|voter| !voter.leaving || !voter.healthy);
        // The others would not agree with the one that goes on alone.
        return match survivor {
            Some(survivor) if only_dead && after.members == 1 => {
                Verdict::Lost(before, survivor.name.clone())
            }
            _ => Verdict::Breaks(before, after),
        };
    }
    let mut leaving: Vec<&Voter> = voters.iter().filter(|voter| voter.leaving).collect();
    leaving.sort_by_key(|voter| voter.healthy);
    let mut now: Vec<&Voter> = voters.iter().collect();
    for gone in &leaving {
        now.retain(|voter| voter.name != gone.name);
        let count = Count::of(now.iter().copied());
        if !count.holds() {
            return Verdict::Breaks(before, count);
        }
    }
    let order = leaving.iter().map(|voter| voter.name.clone()).collect();
    Verdict::Fine(order, before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is healthy, `-` is dead; with `!` behind it, it is to leave.
    fn voters(text: &str) -> Vec<Voter> {
        text.split(' ')
            .enumerate()
            .map(|(index, one)| Voter {
                name: format!("m{}", index + 1),
                healthy: one.starts_with('+'),
                leaving: one.ends_with('!'),
            })
            .collect()
    }

    #[test]
    fn the_majority_is_kept_or_the_numbers_are_told() {
        for (text, expected) in [
            ("+ + +", "fine : 3 of 3 healthy, 2 needed"),
            ("+ + +!", "fine m3: 2 of 2 healthy, 2 needed"),
            ("+ +! +!", "fine m2 m3: 1 of 1 healthy, 1 needed"),
            // The dead one goes first.
            ("+ +! -!", "fine m3 m2: 1 of 1 healthy, 1 needed"),
            ("+ + -!", "fine m3: 2 of 2 healthy, 2 needed"),
            ("+ +! -", "breaks: 1 of 2 healthy, 2 needed"),
            ("+! -", "breaks: 0 of 1 healthy, 1 needed"),
            ("+ -!", "lost: m1 is left"),
            ("+ - -!", "breaks: 1 of 2 healthy, 2 needed"),
            ("+ -! -!", "lost: m1 is left"),
            ("- -!", "breaks: 0 of 1 healthy, 1 needed"),
            ("+!", "last"),
            ("+! +!", "last"),
            ("-! -!", "last"),
            ("+ + + - -!", "fine m5: 3 of 4 healthy, 3 needed"),
            ("+ + +! - -", "breaks: 2 of 4 healthy, 3 needed"),
        ] {
            let said = match judge(&voters(text)) {
                Verdict::Fine(order, _, after) => format!("fine {}: {after}", order.join(" ")),
                Verdict::Last(_) => "last".to_owned(),
                Verdict::Breaks(_, then) => format!("breaks: {then}"),
                Verdict::Lost(_, survivor) => format!("lost: {survivor} is left"),
            };
            assert_eq!(said, expected, "{text}");
        }
    }
}
