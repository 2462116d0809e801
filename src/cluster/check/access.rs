//! Whether chasi gets into the hosts at all.

use super::outcome::{Outcome, Place, passed, unknown, wrong};
use super::registry::Check;
use super::site::{Site, Stage};

pub(super) const CHECKS: &[Check] = &[
    Check::of_site(
        "access.ssh",
        "the host's SSH server lets us in",
        "logging in to each host, as the Clusterfile says",
        |site| {
            stage(
                site,
                Stage::Ssh,
                "logged in",
                "an SSH server that lets us in",
            )
        },
    ),
    Check::of_site(
        "access.host-key",
        "the host is the one that is meant",
        "the key that its SSH server shows, against the Clusterfile or known_hosts",
        |site| {
            stage(
                site,
                Stage::HostKey,
                "its key is the expected one",
                "the key of the host that is meant",
            )
        },
    ),
    Check::of_site(
        "access.sudo",
        "the user who logs in becomes root",
        "what sudo says; nothing where the user is root",
        |site| {
            stage(
                site,
                Stage::Sudo,
                "root",
                "a user who is root, or may become it",
            )
        },
    ),
    Check::of_site(
        "access.agent",
        "chasi's agent runs on the host",
        "starting it: its program, its directory, systemd",
        |site| {
            stage(
                site,
                Stage::Agent,
                "the agent answers",
                "an agent that answers",
            )
        },
    ),
];

/// What entering the hosts says of one stage: those after the one that failed were
/// not come to.
fn stage(site: &Site, stage: Stage, well: &str, expected: &str) -> Vec<(Place, Outcome)> {
    let judge = |closed: &super::site::Closed| match closed.stage.cmp(&stage) {
        std::cmp::Ordering::Less => unknown("the host cannot be entered"),
        std::cmp::Ordering::Equal => wrong(&closed.reason, expected, &closed.hint),
        std::cmp::Ordering::Greater => passed(well),
    };
    site.hosts
        .iter()
        .map(|host| {
            let outcome = match &host.report {
                Ok(_) => passed(well),
                Err(closed) => judge(closed),
            };
            (Place::host(host.host.name.as_str()), outcome)
        })
        .collect()
}
