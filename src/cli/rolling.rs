//! How a cluster that is in use is changed: how many nodes at the same time, and how
//! their pods are moved.

use std::str::FromStr;

use super::node::Moving;
use crate::cluster::plan::Pace;
use crate::kube::drain::Options;

/// How nodes that run pods are changed.
#[derive(clap::Args)]
pub struct Rolling {
    /// How many workers change at the same time, or which part of them; control planes
    /// go one by one.
    #[arg(long, value_name = "N|P%", default_value = "1")]
    max_unavailable: Unavailable,
    /// Delete pods that nothing makes anew.
    #[arg(long)]
    force: bool,
    /// How pods are moved.
    #[command(flatten)]
    pub moving: Moving,
}

impl Rolling {
    /// How fast.
    pub fn pace(&self) -> Pace {
        self.max_unavailable.0
    }

    /// The options of a drain.
    pub fn drain(&self) -> Options {
        self.moving.options(self.force, true)
    }
}

/// A number of hosts, or a part of them.
#[derive(Clone, Copy, Debug)]
struct Unavailable(Pace);

impl FromStr for Unavailable {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pace = match text.strip_suffix('%') {
            Some(part) => part
                .parse()
                .ok()
                .filter(|part| (1..=100).contains(part))
                .map(Pace::Percent),
            None => text
                .parse()
                .ok()
                .filter(|hosts| *hosts > 0)
                .map(Pace::Hosts),
        };
        pace.map(Unavailable)
            .ok_or("a number of workers from 1 on, or a part of them such as `25%`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_part_of_the_workers() {
        let parsed = |text: &str| text.parse::<Unavailable>().ok().map(|one| one.0);
        assert_eq!(parsed("3"), Some(Pace::Hosts(3)));
        assert_eq!(parsed("25%"), Some(Pace::Percent(25)));
        for text in ["0", "0%", "101%", "-1", "%", "all", ""] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
