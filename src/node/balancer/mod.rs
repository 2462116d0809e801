//! The balancer: a connection to a port on loopback becomes a connection to an
//! API server that answers, whichever that is.
//!
//! It passes bytes on and knows nothing of what they say (TLS stays between client
//! and server), so it needs no secret and no certificate of its own. It knows the
//! servers from the host's configuration ([`seeds`]) and from the cluster
//! ([`learn`]), asks each again and again how it is ([`probe`]), tries them in
//! order of health ([`table`], [`dial`]) and closes connections to one that has
//! gone, because the client's own patience would be minutes.
//!
//! It never waits for a name to resolve, and never refuses a connection that one
//! of the servers would accept: when none looks healthy, all are tried.

mod dial;
mod learn;
mod probe;
mod relay;
pub mod seeds;
mod server;
mod session;
mod table;
mod trust;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::accept;
use super::stamp::Stamp;
use crate::event::Context;

pub use learn::RBAC;
pub use seeds::Seeds;
pub use server::{Health, Named};
pub use trust::Files;

use learn::Learner;
use probe::Probe;
use relay::End;
use server::Server;
use table::Table;
use trust::Trust;

/// Connections at once, each of which takes two descriptors; the unit's
/// `LimitNOFILE=` allows for twice as many. More wait in the listener's queue.
const CONNECTIONS: usize = 16_000;

/// How often the configuration is looked at.
const RELOAD: Duration = Duration::from_secs(2);

/// How often it is said that no server can be reached.
const REPEAT: Duration = Duration::from_secs(30);

/// Where the balancer finds its files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The servers that the host's configuration names.
    pub seeds: PathBuf,
    /// The servers that were learned, kept from start to start.
    pub learned: PathBuf,
    /// The certificates.
    pub trust: Files,
}

/// The balancer of a host.
#[derive(Clone)]
pub struct Balancer {
    settings: Arc<Settings>,
    probe: Probe,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    lonely: Arc<Mutex<Option<Instant>>>,
}

impl Balancer {
    /// Reads what the host knows, and begins to look after the servers. `own` is
    /// where the balancer listens.
    pub fn start(ctx: &Context, settings: Settings, own: Vec<SocketAddr>) -> Self {
        let balancer = Balancer {
            probe: Probe {
                ctx: ctx.clone(),
                table: Arc::new(Table::new(own)),
                trust: Arc::new(Trust::new(settings.trust.clone())),
            },
            settings: Arc::new(settings),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: TaskTracker::new(),
            lonely: Arc::default(),
        };
        match Seeds::read(&balancer.settings.learned) {
            Ok(learned) => balancer.look_after(balancer.table().learn(&learned.servers)),
            // The cluster tells again.
            Err(error) => ctx.warn(format!("balancer: {error}")),
        }
        balancer.spawn_learner();
        let reloading = balancer.clone();
        balancer.spawn_until_stopped(async move { reloading.reload().await });
        balancer
    }

    /// Serves a listener until the service stops, and then until its connections
    /// have ended.
    pub async fn serve(&self, listener: TcpListener) {
        let stop = &self.ctx().cancel;
        let connections = TaskTracker::new();
        while let Some((place, client)) = accept::next(&listener, &self.places, stop).await {
            let balancer = self.clone();
            connections.spawn(async move {
                balancer.connection(client).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
    }

    /// What is known of the servers, in the order of their addresses.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let mut servers: Vec<_> = self
            .table()
            .servers()
            .iter()
            .map(|server| ServerStatus {
                address: server.address,
                named: server.named(),
                health: server.health(),
                connections: server.connections(),
            })
            .collect();
        servers.sort_by_key(|server| server.address);
        servers
    }

    async fn connection(&self, client: TcpStream) {
        let Some((server, upstream)) = dial::first(self.table().order()).await else {
            self.say_lonely();
            // An orderly end would look like an answer.
            let _ = client.set_zero_linger();
            return;
        };
        let lease = server.lease();
        let end = relay::relay(client, upstream, &lease.cut, &self.ctx().cancel).await;
        if end == End::Broken {
            server.look.notify_one();
        }
    }

    /// Says that no server accepts, but not for every connection.
    fn say_lonely(&self) {
        let mut last = self.lonely.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < REPEAT) {
            return;
        }
        *last = Some(Instant::now());
        let servers: Vec<String> = self
            .table()
            .order()
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        self.ctx().warn(match servers.is_empty() {
            true => "balancer: no API server is known yet".to_owned(),
            false => format!(
                "balancer: no API server accepts a connection: {}",
                servers.join(", ")
            ),
        });
    }

    /// Reads the host's configuration whenever it has changed.
    async fn reload(&self) {
        let mut read = None;
        loop {
            let stamp = Stamp::of(&self.settings.seeds);
            if read != Some(stamp) {
                match Seeds::read(&self.settings.seeds) {
                    Ok(seeds) => self.look_after(self.table().seed(seeds.local, &seeds.servers)),
                    // What was known before stays.
                    Err(error) => self.ctx().warn(format!("balancer: {error}")),
                }
                read = Some(stamp);
            }
            tokio::time::sleep(RELOAD).await;
        }
    }

    fn spawn_learner(&self) {
        let balancer = self.clone();
        let learner = Learner {
            ctx: self.ctx().clone(),
            table: self.table().clone(),
            trust: self.probe.trust.clone(),
            file: self.settings.learned.clone(),
            new: Box::new(move |servers| balancer.look_after(servers)),
        };
        self.spawn_until_stopped(learner.run());
    }

    fn look_after(&self, new: Vec<Arc<Server>>) {
        for server in new {
            self.tasks
                .spawn(self.probe.clone().watch(server, self.ctx().cancel.clone()));
        }
    }

    fn spawn_until_stopped(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.ctx().cancel.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(work).await });
    }

    fn table(&self) -> &Arc<Table> {
        &self.probe.table
    }

    fn ctx(&self) -> &Context {
        &self.probe.ctx
    }
}

/// What is known of an API server.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct ServerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who names it.
    #[serde(flatten)]
    pub named: Named,
    /// How it is.
    #[serde(flatten)]
    pub health: Health,
    /// How many connections go to it.
    pub connections: usize,
}
