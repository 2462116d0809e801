//! The agent's answers: a function for each request, by subject.

mod backup;
mod blobs;
mod certs;
mod distro;
mod etcd;
mod exchange;
mod history;
mod hook;
mod host;
mod inspect;
mod lock;
mod node;
mod probe;
mod session;

use super::server::Router;
use crate::error::{Error, Kind, Result};

/// Everything that chasi's agent understands.
pub fn router() -> Router {
    Router::new()
        .on(session::take_lock)
        .on(lock::read_lock)
        .on(lock::write_lock)
        .on(lock::enter_fence)
        .on(backup::take_snapshot)
        .on(backup::read_snapshot)
        .on(backup::drop_snapshot)
        .on(backup::read_kept)
        .on(backup::begin_restore)
        .on(backup::put_snapshot)
        .on(backup::restore_etcd)
        .on(backup::end_restore)
        .on(blobs::missing)
        .on(blobs::put)
        .on(blobs::get)
        .on(blobs::tags)
        .on(exchange::open)
        .on(exchange::put_piece)
        .on(exchange::fetch_piece)
        .on(exchange::finish_blobs)
        .on(certs::renew_certificates)
        .on(certs::restart_kubelet)
        .on(distro::distro_state)
        .on(distro::make_pki)
        .on(distro::sign_server)
        .on(distro::read_authorities)
        .on(distro::request_credential)
        .on(distro::sign_credentials)
        .on(distro::install_credential)
        .on(distro::pull_images)
        .on(distro::wait_api)
        .on(distro::await_control_plane)
        .on(distro::await_kubelet)
        .on(distro::apply_objects)
        .on(distro::record_objects)
        .on(distro::read_objects)
        .on(distro::cluster_state)
        .on(distro::set_node)
        .on(distro::read_kubeconfig)
        .on(etcd::read)
        .on(etcd::add)
        .on(etcd::promote)
        .on(etcd::remove)
        .on(etcd::recover)
        .on(node::simulate_drain)
        .on(node::drain)
        .on(node::uncordon)
        .on(node::await_node)
        .on(node::delete_node)
        .on(host::read_host)
        .on(host::read_switches)
        .on(host::prune_generations)
        .on(host::check_settings)
        .on(host::stage_generation)
        .on(host::switch_to)
        .on(host::start_units)
        .on(host::tag_image)
        .on(host::read_journals)
        .on(host::leave_host)
        .on(history::record_run)
        .on(history::read_history)
        .on(inspect::inspect_cluster)
        .on(inspect::inspect_etcd)
        .on(inspect::read_expiries)
        .on(probe::open_probes)
        .on(probe::close_probes)
        .on(probe::reach_ports)
        .on(probe::measure_paths)
        .on(probe::ask_by_arp)
        .on(probe::measure_writes)
        .on(probe::read_filter)
        .on(probe::read_clock)
        .on(hook::read)
        .on(hook::check)
        .on(hook::apply)
        .on(hook::undo)
        .on(hook::moment)
        .on(hook::forget)
}

/// Runs work that blocks away from the connection.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|cause| {
            Err(Error::new(Kind::Failed, "the agent failed unexpectedly").because(cause))
        })
}
