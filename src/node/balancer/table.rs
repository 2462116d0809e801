//! The API servers that the balancer knows, and in which order a new connection
//! tries them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::server::{Health, Named, Server};

/// More servers than this no cluster has.
pub const MOST: usize = 64;

/// The servers.
#[derive(Debug, Default)]
pub struct Table {
    inner: Mutex<Inner>,
    /// Where the balancer itself listens: a list that names it would make it
    /// connect to itself without end.
    own: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct Inner {
    servers: Vec<Arc<Server>>,
    /// Moves on with every connection, so that equal servers take turns.
    turn: usize,
}

impl Table {
    /// No servers yet, and never one of `own`.
    pub fn new(own: Vec<SocketAddr>) -> Self {
        Table {
            inner: Mutex::default(),
            own,
        }
    }

    /// Replaces what the host's configuration names. Returns servers that are new.
    pub fn seed(&self, local: Option<SocketAddr>, addresses: &[SocketAddr]) -> Vec<Arc<Server>> {
        self.update(
            addresses.iter().copied().chain(local),
            |named, address, listed| {
                named.seed = listed;
                named.local = local == Some(address);
            },
        )
    }

    /// Replaces what the cluster names. Returns servers that are new.
    pub fn learn(&self, addresses: &[SocketAddr]) -> Vec<Arc<Server>> {
        self.update(addresses.iter().copied(), |named, _, listed| {
            named.learned = listed
        })
    }

    fn update(
        &self,
        addresses: impl Iterator<Item = SocketAddr>,
        change: impl Fn(&mut Named, SocketAddr, bool),
    ) -> Vec<Arc<Server>> {
        let listed: Vec<SocketAddr> = addresses
            .filter(|address| !self.own.contains(address))
            .take(MOST)
            .collect();
        let mut inner = self.lock();
        let mut new = Vec::new();
        for &address in &listed {
            if !inner.servers.iter().any(|server| server.address == address) {
                let server = Arc::new(Server::new(address));
                inner.servers.push(server.clone());
                new.push(server);
            }
        }
        for server in &inner.servers {
            server.rename(|named| change(named, server.address, listed.contains(&server.address)));
        }
        new
    }

    /// Forgets a server that nobody names and nothing is connected to. Returns
    /// whether it is forgotten.
    pub fn forget_unused(&self, server: &Arc<Server>) -> bool {
        let mut inner = self.lock();
        let unused = server.named().by_nobody() && server.connections() == 0;
        if unused {
            inner.servers.retain(|other| !Arc::ptr_eq(other, server));
        }
        unused
    }

    /// All servers.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.lock().servers.clone()
    }

    /// The servers in the order in which a new connection tries them: healthy ones
    /// first, among those the one on this host, then those that the cluster names;
    /// equal ones take turns. A server that nobody names is not tried.
    pub fn order(&self) -> Vec<Arc<Server>> {
        let mut inner = self.lock();
        inner.turn = inner.turn.wrapping_add(1);
        let turn = inner.turn;
        let mut named: Vec<_> = inner
            .servers
            .iter()
            .map(|server| (server.named(), server))
            .filter(|(named, _)| !named.by_nobody())
            .collect();
        if !named.is_empty() {
            let first = turn % named.len();
            named.rotate_left(first);
        }
        // The sort is stable, so it keeps the turns.
        named.sort_by_key(|(named, server)| (server.health().rank(), !named.local, !named.learned));
        named
            .into_iter()
            .map(|(_, server)| server.clone())
            .collect()
    }

    /// Whether another server than this one is ready.
    pub fn has_ready_besides(&self, server: &Server) -> bool {
        self.lock().servers.iter().any(|other| {
            other.address != server.address
                && !other.named().by_nobody()
                && other.health() == Health::Ready
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::Finding;
    use super::*;

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 6443))
    }

    fn order(table: &Table) -> Vec<u8> {
        table
            .order()
            .iter()
            .map(|server| match server.address {
                SocketAddr::V4(address) => address.ip().octets()[3],
                SocketAddr::V6(_) => unreachable!(),
            })
            .collect()
    }

    fn record(table: &Table, number: u8, finding: Finding) {
        let servers = table.servers();
        let server = servers
            .iter()
            .find(|server| server.address == address(number))
            .unwrap();
        server.record(finding);
    }

    #[test]
    fn equal_servers_take_turns() {
        let table = Table::default();
        assert_eq!(
            table
                .seed(None, &[address(1), address(2), address(3)])
                .len(),
            3
        );
        let mut firsts: Vec<u8> = (0..6).map(|_| order(&table)[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn the_local_server_comes_first_as_long_as_it_is_healthy() {
        let table = Table::default();
        table.seed(Some(address(2)), &[address(1), address(2), address(3)]);
        for number in 1..=3 {
            record(&table, number, Finding::Ready);
        }
        assert!((0..4).all(|_| order(&table)[0] == 2));
        record(&table, 2, Finding::NotReady("starting".to_owned()));
        assert!((0..4).all(|_| order(&table)[2] == 2));
        record(&table, 1, Finding::Refused("refused".to_owned()));
        assert_eq!(order(&table), [3, 2, 1]);
    }

    #[test]
    fn what_the_cluster_says_goes_before_what_the_host_was_told() {
        let table = Table::default();
        table.seed(None, &[address(1), address(2)]);
        assert_eq!(table.learn(&[address(2), address(3)]).len(), 1);
        assert!(
            (0..4).all(|_| order(&table)[2] == 1),
            "a seed is the last resort"
        );
        record(&table, 1, Finding::Ready);
        assert_eq!(
            order(&table)[0],
            1,
            "unless it is the only one that answers"
        );
    }

    #[test]
    fn a_removed_server_is_tried_no_more_but_known_as_long_as_it_is_used() {
        let table = Table::default();
        table.learn(&[address(1), address(2)]);
        let gone = table.servers()[0].clone();
        let lease = gone.lease();
        table.learn(&[address(2)]);
        assert_eq!(order(&table), [2]);
        assert!(!table.forget_unused(&gone));
        assert_eq!(table.servers().len(), 2);
        drop(lease);
        assert!(table.forget_unused(&gone));
        assert!(!table.forget_unused(&table.servers()[0]));
        assert_eq!(table.servers().len(), 1);
    }

    #[test]
    fn another_ready_server_is_one_that_can_be_used() {
        let table = Table::default();
        table.learn(&[address(1), address(2)]);
        let servers = table.servers();
        assert!(!table.has_ready_besides(&servers[0]));
        servers[0].record(Finding::Ready);
        assert!(!table.has_ready_besides(&servers[0]));
        servers[1].record(Finding::Ready);
        assert!(table.has_ready_besides(&servers[0]));
        table.learn(&[address(1)]);
        assert!(!table.has_ready_besides(&servers[0]));
    }

    #[test]
    fn the_balancer_never_connects_to_itself() {
        let table = Table::new(vec![address(1)]);
        assert_eq!(
            table
                .seed(Some(address(1)), &[address(1), address(2)])
                .len(),
            1
        );
        assert!(table.learn(&[address(1)]).is_empty());
        assert_eq!(order(&table), [2]);
    }

    #[test]
    fn the_number_of_servers_is_bounded() {
        let table = Table::default();
        let many: Vec<_> = (0..=255).map(address).collect();
        assert_eq!(table.learn(&many).len(), MOST);
        assert_eq!(order(&table).len(), MOST);
    }
}
