//! How long a write takes until it is on the disk, as etcd writes its log.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Kind, Result, ResultExt};

/// The size of one write in bytes, and how many are enough: what etcd's own advice
/// for fio takes (etcd.io/docs/v3.6/op-guide/hardware, "Disks").
const SIZE: usize = 2300;
const ENOUGH: usize = 250;
/// How long to measure at most.
const BUDGET: Duration = Duration::from_millis(1500);

/// How long writes took until they were on the disk, in microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Writes {
    /// How many there were.
    pub count: u32,
    /// Half of them took at most this.
    pub median: u64,
    /// 99 of 100 took at most this.
    pub p99: u64,
    /// The longest.
    pub longest: u64,
}

/// Writes to the file system that `path` is in, or would be. The file has no name.
pub fn measure(path: &Path) -> Result<Writes> {
    let cannot = || format!("cannot write where `{}` lies", path.display());
    let there = path.ancestors().find(|path| path.is_dir());
    let there = there.unwrap_or(Path::new("/"));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(there, flags, Mode::from_raw_mode(0o600))
        .map_err(std::io::Error::from)
        .or_err(Kind::System, cannot)?;
    let file = std::fs::File::from(file);
    let block = vec![0x5a; SIZE];
    let begin = Instant::now();
    let mut times = Vec::with_capacity(ENOUGH);
    while times.len() < ENOUGH && begin.elapsed() < BUDGET {
        let at = (times.len() * SIZE) as u64;
        let start = Instant::now();
        file.write_all_at(&block, at).or_err(Kind::System, cannot)?;
        file.sync_data().or_err(Kind::System, cannot)?;
        times.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(summary(times))
}

/// `times` is not empty: the first write is always made.
fn summary(mut times: Vec<u64>) -> Writes {
    times.sort_unstable();
    let of = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(rank).copied().unwrap_or_default()
    };
    Writes {
        count: u32::try_from(times.len()).unwrap_or(u32::MAX),
        median: of(50),
        p99: of(99),
        longest: of(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_by_rank() {
        let found = summary((1..=200).rev().collect());
        let expected = Writes {
            count: 200,
            median: 100,
            p99: 198,
            longest: 200,
        };
        assert_eq!(found, expected);
        assert_eq!(summary(vec![5]).p99, 5);
    }

    #[test]
    fn measuring_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let found = measure(&directory.path().join("not/there/yet")).unwrap();
        assert!(found.count > 0 && found.longest >= found.median);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
