//! End-to-end tests: the real program on throwaway hosts. They need root, Debian's
//! packages `systemd-container`, `mmdebstrap`, `nftables` and `openssh-client`, and
//! the machine to themselves: `scripts/test` runs them one after the other.

mod backup;
mod certs;
mod check;
mod delete;
mod faults;
mod hooks;
mod install;
mod interrupted;
mod lab;
mod node;
mod outage;
mod refused;
mod site;
mod snapshot;
mod throwaway_hosts;
mod traces;
mod upgrade;
mod variants;
mod watched;
