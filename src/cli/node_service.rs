//! `chasi node-service`: what `chasi-node.service` starts on each host.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::Shell;
use crate::error::{Kind, Result, ResultExt};
use crate::event::Context;
use crate::host::Root;
use crate::node::{self, Environment, Notifier, Settings, Sockets, balancer};

/// Run the node-local registry and balancer, started by systemd.
#[derive(clap::Args)]
pub struct Args {
    /// The host's root directory, for tests.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Args {
    /// Runs the service until it is told to stop.
    pub fn run(self, shell: &Shell) -> Result<()> {
        let sockets = Sockets::take(&Environment {
            pid: std::env::var("LISTEN_PID").ok(),
            count: std::env::var("LISTEN_FDS").ok(),
            names: std::env::var("LISTEN_FDNAMES").ok(),
        })?;
        let notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref())?;
        let settings = self.settings()?;
        // One thread: the service is small, and waits most of the time. The
        // others read from disks.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build()
            .or_err(Kind::System, || "cannot start the async runtime")?;
        runtime.block_on(async {
            let ctx = shell.context();
            stop_on_signals(ctx)?;
            node::run(ctx, settings, sockets, &notifier).await
        })
    }

    /// Where everything is on a host.
    fn settings(&self) -> Result<Settings> {
        let host = Root::at(&self.root)?;
        Ok(Settings {
            balancer: balancer::Settings {
                seeds: self.root.join(balancer::seeds::PATH),
                learned: host.state("balancer/servers.json"),
                trust: balancer::Files {
                    ca: self.root.join("etc/kubernetes/pki/ca.crt"),
                    kubeconfig: self.root.join("etc/kubernetes/kubelet.conf"),
                },
            },
            host,
        })
    }
}

/// Has the context cancelled by what systemd and a terminal send.
fn stop_on_signals(ctx: &Context) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).or_err(Kind::System, || "cannot wait for signals")?;
        let cancel = ctx.cancel.clone();
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                cancel.cancel();
            }
        });
    }
    Ok(())
}
