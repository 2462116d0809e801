//! Names to addresses. A static glibc binary cannot rely on NSS, so `/etc/hosts`
//! and the servers of `/etc/resolv.conf` are asked by a resolver of our own.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;

use crate::error::{Error, Kind, Result, ResultExt};

/// How many addresses of one name are tried.
const MOST_ADDRESSES: usize = 8;

/// The addresses of `name`, which may be an IP address itself.
pub(super) async fn addresses(name: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = || format!("cannot resolve the name `{name}`");
    let found = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .or_err(Kind::System, failed)?
        .lookup_ip(name)
        .await
        .or_err(Kind::Unreachable, failed)
        .map_err(|error| {
            error.hint("give the host's IP address, or add the name to `/etc/hosts`")
        })?;
    let addresses: Vec<_> = found
        .iter()
        .take(MOST_ADDRESSES)
        .map(|address| SocketAddr::new(address, port))
        .collect();
    if addresses.is_empty() {
        return Err(Error::new(
            Kind::Unreachable,
            format!("the name `{name}` has no address"),
        ));
    }
    Ok(addresses)
}
