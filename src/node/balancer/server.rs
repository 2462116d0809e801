//! One API server as the balancer sees it: where it is, who named it, how it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many probes in a row a server leaves without answer before its connections
/// are closed. One may be lost by chance.
pub const PATIENCE: u32 = 2;

/// How many times in a row a server may refuse to say whether it is ready until that
/// is taken for its habit. One that starts does not know yet who may ask, for a second
/// or two, and would refuse other requests just as well.
const HABIT: u32 = 4;

/// What is known of a server's health.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "health")]
pub enum Health {
    /// It has not been asked yet.
    Unknown,
    /// It answers and is ready.
    Ready,
    /// It answers, and says that it is not ready: it starts, stops, or lacks its
    /// database. Established connections are its own affair.
    NotReady {
        /// What it said.
        reason: String,
    },
    /// It does not answer.
    Silent {
        /// What was tried, and what came of it.
        reason: String,
        /// How many probes in a row nothing at all came back for. Not counted is a
        /// host that says that no API server runs there.
        unanswered: u32,
    },
}

/// What a look at a server showed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// It is ready.
    Ready,
    /// It answers, and is not ready.
    NotReady(String),
    /// It answers that this is not everybody's business (403).
    Withheld,
    /// It refuses connections, or is not an API server of this cluster.
    Refused(String),
    /// Nothing came back in time.
    Unanswered(String),
}

impl Health {
    /// The health after a finding; `withheld` is how many in a row said nothing.
    fn after(&self, finding: Finding, withheld: u32) -> Health {
        match finding {
            Finding::Withheld if *self == Health::Ready || withheld >= HABIT => Health::Ready,
            Finding::Withheld => Health::NotReady {
                reason: "it does not say whether it is ready".to_owned(),
            },
            Finding::Ready => Health::Ready,
            Finding::NotReady(reason) => Health::NotReady { reason },
            Finding::Refused(reason) => Health::Silent {
                reason,
                unanswered: 0,
            },
            Finding::Unanswered(reason) => {
                let before = match self {
                    Health::Silent { unanswered, .. } => *unanswered,
                    _ => 0,
                };
                Health::Silent {
                    reason,
                    unanswered: before.saturating_add(1),
                }
            }
        }
    }

    /// How a server of this health is preferred: less is better.
    pub fn rank(&self) -> u8 {
        match self {
            Health::Ready => 0,
            Health::Unknown => 1,
            Health::NotReady { .. } => 2,
            Health::Silent { .. } => 3,
        }
    }

    /// Whether the server is gone so surely that waiting for it is pointless.
    pub fn is_dead(&self) -> bool {
        matches!(self, Health::Silent { unanswered, .. } if *unanswered >= PATIENCE)
    }
}

/// Who says that this is a server of the cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Named {
    /// It runs on this host.
    pub local: bool,
    /// The host's configuration names it.
    pub seed: bool,
    /// The cluster names it.
    pub learned: bool,
}

impl Named {
    /// Whether nobody names it any more.
    pub fn by_nobody(self) -> bool {
        !self.seed && !self.learned
    }
}

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Wakes the probe: something looks wrong.
    pub look: Notify,
    state: Mutex<State>,
    connections: AtomicUsize,
}

#[derive(Debug)]
struct State {
    named: Named,
    health: Health,
    /// The health that was last told to people.
    told: Health,
    /// How many probes in a row it refused to answer.
    withheld: u32,
    /// Cancelled to close the connections to this server.
    cut: CancellationToken,
}

/// A connection to a server, as long as it lasts.
#[derive(Debug)]
pub struct Lease {
    server: std::sync::Arc<Server>,
    /// Cancelled when the connection has no future.
    pub cut: CancellationToken,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// A server that nothing is known of.
    pub fn new(address: SocketAddr) -> Self {
        Server {
            address,
            look: Notify::new(),
            state: Mutex::new(State {
                named: Named::default(),
                health: Health::Unknown,
                told: Health::Unknown,
                withheld: 0,
                cut: CancellationToken::new(),
            }),
            connections: AtomicUsize::new(0),
        }
    }

    /// Its health.
    pub fn health(&self) -> Health {
        self.lock().health.clone()
    }

    /// Who names it.
    pub fn named(&self) -> Named {
        self.lock().named
    }

    /// Changes who names it.
    pub fn rename(&self, change: impl FnOnce(&mut Named)) {
        change(&mut self.lock().named);
    }

    /// How many connections go to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Records what a probe showed. Returns the health, and whether it is news.
    pub fn record(&self, finding: Finding) -> (Health, bool) {
        let mut state = self.lock();
        state.withheld = match finding {
            Finding::Withheld => state.withheld.saturating_add(1),
            _ => 0,
        };
        state.health = state.health.after(finding, state.withheld);
        let news = state.health.rank() != state.told.rank();
        if news {
            state.told = state.health.clone();
        }
        (state.health.clone(), news)
    }

    /// Notes that it did not accept a connection, so that the next ones try others
    /// first, and has it probed. Whether it is dead, only probes decide: of many
    /// clients all may have seen the same short trouble.
    pub fn doubt(&self, reason: String) {
        let mut state = self.lock();
        if !matches!(state.health, Health::Silent { .. }) {
            state.health = Health::Silent {
                reason,
                unanswered: 0,
            };
        }
        drop(state);
        self.look.notify_one();
    }

    /// Counts a connection to it.
    pub fn lease(self: &std::sync::Arc<Self>) -> Lease {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Lease {
            server: self.clone(),
            cut: self.lock().cut.clone(),
        }
    }

    /// Closes all connections to it and returns how many there were.
    pub fn cut(&self) -> usize {
        let cut = std::mem::take(&mut self.lock().cut);
        cut.cancel();
        self.connections()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn server() -> Arc<Server> {
        Arc::new(Server::new("10.0.0.1:6443".parse().unwrap()))
    }

    #[test]
    fn a_server_is_dead_after_two_probes_without_answer() {
        let server = server();
        let unanswered = || Finding::Unanswered("no answer".to_owned());
        assert!(!server.record(unanswered()).0.is_dead());
        assert!(server.record(unanswered()).0.is_dead());
        assert_eq!(server.record(Finding::Ready).0, Health::Ready);
        assert!(
            !server.record(unanswered()).0.is_dead(),
            "an answer starts the count anew"
        );
    }

    #[test]
    fn a_server_that_starts_is_not_taken_for_one_that_never_tells() {
        let server = server();
        let withheld = || server.record(Finding::Withheld).0;
        for _ in 1..HABIT {
            assert_eq!(withheld().rank(), 2);
        }
        assert_eq!(withheld(), Health::Ready);
        server.record(Finding::Refused("stopped".to_owned()));
        assert_eq!(withheld().rank(), 2, "it starts anew");
        server.record(Finding::Ready);
        assert_eq!(withheld(), Health::Ready, "it has been ready all the time");
    }

    #[test]
    fn a_host_that_refuses_is_alive() {
        let server = server();
        for _ in 0..5 {
            let (health, _) = server.record(Finding::Refused("connection refused".to_owned()));
            assert!(!health.is_dead());
            assert_eq!(health.rank(), 3);
        }
    }

    #[test]
    fn clients_doubts_neither_kill_a_server_nor_save_it() {
        let server = server();
        let unanswered = || Finding::Unanswered("no answer".to_owned());
        for _ in 0..9 {
            server.doubt("unreachable".to_owned());
        }
        assert_eq!(server.health().rank(), 3);
        assert!(!server.health().is_dead());
        server.record(unanswered());
        server.doubt("unreachable".to_owned());
        assert!(server.record(unanswered()).0.is_dead());
    }

    #[test]
    fn a_change_is_told_once_also_when_clients_saw_it_first() {
        let server = server();
        let refused = || Finding::Refused("refused".to_owned());
        assert!(server.record(Finding::Ready).1);
        assert!(!server.record(Finding::Ready).1);
        server.doubt("refused".to_owned());
        assert!(server.record(refused()).1);
        assert!(!server.record(refused()).1);
        server.doubt("refused".to_owned());
        assert!(server.record(Finding::Ready).1);
    }

    #[test]
    fn a_cut_ends_the_connections_of_before_and_not_later_ones() {
        let server = server();
        let (first, second) = (server.lease(), server.lease());
        assert_eq!(server.cut(), 2);
        assert!(first.cut.is_cancelled() && second.cut.is_cancelled());
        drop((first, second));
        let third = server.lease();
        assert!(!third.cut.is_cancelled());
        assert_eq!(server.connections(), 1);
    }
}
