//! The node service: one process on each host that stands between the host's
//! programs and everything that could be missing. It serves container images from
//! the host's own store ([`registry`]) and passes connections to the Kubernetes
//! API on to a server that answers ([`balancer`]).
//!
//! Both listen on loopback only, on sockets that systemd holds ([`activation`]),
//! so that a restart of the service refuses no connection. What the service knows
//! can be read from a socket that root may open ([`status`]).
//!
//! It changes nothing on the host but its own list of API servers, runs in one
//! thread with little memory, and depends on neither DNS nor the container
//! runtime nor the API being there.

mod accept;
pub mod activation;
pub mod balancer;
mod http;
pub mod registry;
mod stamp;
pub mod status;
mod units;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::task::TaskTracker;

use crate::error::{Kind, Result, ResultExt};
use crate::event::Context;
use crate::host::Root;

pub use activation::{Environment, Notifier, Sockets};
pub use units::{BINARY, BOOT, SERVICE, UNITS, Unit};

use balancer::Balancer;
use registry::Registry;

/// How often systemd is told that the service is alive. Well below the
/// `WatchdogSec=` of the unit.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where the service finds its files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host, for its store and its generation.
    pub host: Root,
    /// What the balancer reads and writes.
    pub balancer: balancer::Settings,
}

/// Runs the service until `ctx` is cancelled, and then until the requests in
/// hand have ended.
pub async fn run(
    ctx: &Context,
    settings: Settings,
    sockets: Sockets,
    notifier: &Notifier,
) -> Result<()> {
    let registry = Arc::new(Registry::new(settings.host, ctx.clone()));
    let tasks = TaskTracker::new();
    for listener in sockets.registry {
        let listener =
            TcpListener::from_std(listener).or_err(Kind::System, || "cannot serve the registry")?;
        let registry = registry.clone();
        let handler = move |request| {
            let registry = registry.clone();
            async move { registry.answer(request).await }
        };
        tasks.spawn(http::serve(
            listener,
            registry::LIMITS,
            handler,
            ctx.cancel.clone(),
        ));
    }
    let own = sockets
        .balancer
        .iter()
        .filter_map(|listener| listener.local_addr().ok());
    let balancer = Balancer::start(ctx, settings.balancer, own.collect());
    for listener in sockets.balancer {
        let listener =
            TcpListener::from_std(listener).or_err(Kind::System, || "cannot serve the balancer")?;
        let balancer = balancer.clone();
        tasks.spawn(async move { balancer.serve(listener).await });
    }
    let view = status::View { registry, balancer };
    for listener in sockets.status {
        let listener =
            UnixListener::from_std(listener).or_err(Kind::System, || "cannot serve the status")?;
        let view = view.clone();
        let handler = move |request| {
            let view = view.clone();
            async move { view.answer(request).await }
        };
        tasks.spawn(http::serve(
            listener,
            status::LIMITS,
            handler,
            ctx.cancel.clone(),
        ));
    }
    tasks.close();
    notifier.ready();
    beat(ctx, notifier).await;
    notifier.stopping();
    tasks.wait().await;
    Ok(())
}

/// Tells systemd that the service is alive, until it is told to stop. The beat
/// comes from the thread that does all the work: when that hangs, it ends.
async fn beat(ctx: &Context, notifier: &Notifier) {
    let beats = async {
        let mut interval = tokio::time::interval(HEARTBEAT);
        loop {
            interval.tick().await;
            notifier.alive();
        }
    };
    ctx.cancel.run_until_cancelled(beats).await;
}
