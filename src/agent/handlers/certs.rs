//! Certificates that end.

use super::blocking;
use super::distro::root;
use crate::agent::Scope;
use crate::agent::calls::certs::{RenewCertificates, RestartKubelet};
use crate::distro::kubeadm::{renewal, running};
use crate::error::Result;
use crate::host::unit;

pub(super) async fn renew_certificates(
    scope: Scope,
    call: RenewCertificates,
) -> Result<Vec<String>> {
    let context = scope.context.clone();
    blocking(move || {
        let renewed = renewal::renew(root(), call.before, call.hours)?;
        for process in renewed.restarts {
            running::stop(&context, process)?;
        }
        Ok(renewed.paths)
    })
    .await
}

pub(super) async fn restart_kubelet(_: Scope, _: RestartKubelet) -> Result<()> {
    blocking(|| unit::restart(&["kubelet.service"])).await
}
