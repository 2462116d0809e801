//! A host is disturbed in every way that a machine can be, and must become what it
//! would have become without: killed at each system call that changes its files
//! (`kill`), with a disk that is full or fails (`disk`), with damaged content
//! (`damage`), over a link that breaks off (`link`), and without power (`power`). No Kubernetes, no network, no root but
//! for the power cuts.
//!
//! An ordinary `cargo test` tries a part of it in well under a minute;
//! `scripts/campaign` tries everything and, with `CHASI_FAULTS=N`, N random
//! disturbances beyond it. What is random comes from a seed that is printed;
//! `CHASI_SEED=S` tries the same again.

#[path = "../support/host.rs"]
mod support;

mod damage;
mod disk;
mod effect;
mod kill;
mod link;
mod power;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A small generator, so that a failure can be run again: the seed is in its
/// message.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring numbers.
        let mut dice = Dice(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        dice.below(2);
        dice.below(2);
        dice
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % end.max(1) as u64).unwrap()
    }
}

/// How many random disturbances were asked for; none in an ordinary run.
fn asked_for() -> Option<usize> {
    number("CHASI_FAULTS").map(|count| usize::try_from(count).unwrap())
}

/// Where randomness begins in this run.
fn seed() -> u64 {
    number("CHASI_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs() % 1_000_000 * 1000
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs something for each item, as many at once as there are processors, each
/// with a place of its own. Tells how long it took.
fn for_all<T: Sync>(what: &str, items: &[T], top: &Path, run: impl Fn(&T, &Path) + Sync) {
    let begun = std::time::Instant::now();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, run) = (&next, &run);
            let place = top.join(format!("now-{worker}"));
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
                    run(item, &place);
                    let _ = std::fs::remove_dir_all(&place);
                }
            });
        }
    });
    println!(
        "{what}: {} cycles in {:.1} s, no divergence",
        items.len(),
        begun.elapsed().as_secs_f64()
    );
}
