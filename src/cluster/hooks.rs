//! Plugins: which run on a host and what they are told, and running those that are
//! for a moment: before and after a drain, before and after a host is left.

use std::collections::BTreeMap;

use super::access::PluginSecrets;
use super::desired::DesiredHost;
use crate::agent::Client;
use crate::agent::calls::hook::{CheckHooks, ReadHooks, Remembered, RunMoment};
use crate::distro::{self, Role, ports};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::event::Context;
use crate::host::hook::{Hook, Peer, Port, Secrets, Subject, Surroundings};
use crate::oci::image::Rootfs;
use crate::spec;
use crate::spec::plugin::{LABEL, Manifest, Phase, PluginName, select};

/// What the plan decides on of a host's plugins.
#[derive(Clone, Debug, Default)]
pub struct HookState {
    /// What there is something to do for, and why, in the order in which they run.
    pub due: Vec<(Hook, String)>,
    /// What is remembered on the host and no longer wanted, the last first.
    pub surplus: Vec<Remembered>,
}

/// Asks a host what there is to do for its plugins. What those of `left` did is not
/// undone.
pub(super) async fn state(
    client: &Client,
    host: &DesiredHost,
    left: &[PluginName],
) -> Result<HookState> {
    let call = CheckHooks {
        identity: host.identity,
        hooks: host.hooks.clone(),
        secrets: host.secrets.clone(),
    };
    let reasons = client.call(call).await?;
    let remembered = client.call(ReadHooks {}).await?;
    let is_wanted = |one: &Remembered| {
        let is = |hook: &Hook| hook.plugin.name == one.plugin && hook.phase == one.phase;
        host.hooks.iter().any(is)
    };
    let due = host.hooks.iter().zip(reasons);
    Ok(HookState {
        due: due
            .filter_map(|(hook, why)| Some((hook.clone(), why?)))
            .collect(),
        surplus: remembered
            .into_iter()
            .rev()
            .filter(|one| !is_wanted(one))
            .map(|one| Remembered {
                undo: one.undo && !left.contains(&one.plugin),
                ..one
            })
            .collect(),
    })
}

/// What plugins did on a host that stays when the host is left, because they know no
/// way back or are not to go it.
pub(super) async fn staying(client: &Client, left: &[PluginName]) -> Result<Vec<String>> {
    let remembered = client.call(ReadHooks {}).await?;
    let stays = |one: &Remembered| one.phase.lasts() && (!one.undo || left.contains(&one.plugin));
    let mut staying: Vec<String> = remembered
        .into_iter()
        .filter(stays)
        .map(|one| format!("`{}` did: {}", one.plugin, one.description))
        .collect();
    // A plugin of several phases is one.
    staying.dedup();
    Ok(staying)
}

/// The plugins that an image brings.
pub(super) fn manifests(rootfs: &Rootfs) -> Result<BTreeMap<PluginName, Manifest>> {
    let labels = rootfs
        .labels
        .iter()
        .filter_map(|(label, text)| Some((label.strip_prefix(LABEL)?, text)));
    labels
        .map(|(name, text)| Ok((name.parse()?, Manifest::from_label(name, text)?)))
        .collect()
}

/// What runs on a host, in the order of the phases and within them in that of the
/// plugins, and the secrets of the plugins.
pub(super) fn of(
    (cluster, all_secrets): (&spec::Cluster, &PluginSecrets),
    host: &spec::cluster::Host,
    rootfs: &Rootfs,
    subject: &Subject,
    surroundings: &Surroundings,
) -> Result<(Vec<Hook>, BTreeMap<PluginName, Secrets>)> {
    let manifests = manifests(rootfs)?;
    let selected = select(&manifests, cluster, host)?;
    let mut secrets = BTreeMap::new();
    for one in selected.iter().filter(|one| !one.secrets.is_empty()) {
        let of_it = one.secrets.iter().map(|(name, source)| {
            let secret = all_secrets.get(source).ok_or_else(|| {
                let plugin = &one.manifest.name;
                Error::new(
                    Kind::Failed,
                    format!("the secret `{name}` of the plugin `{plugin}` was not read"),
                )
            })?;
            Ok((name.clone(), secret.clone()))
        });
        let of_it: Secrets = of_it.collect::<Result<_>>()?;
        secrets.insert(one.manifest.name.clone(), of_it);
    }
    let mut hooks = Vec::new();
    for phase in Phase::ALL {
        let here = selected
            .iter()
            .filter(|one| one.manifest.phases.contains(&phase));
        hooks.extend(here.map(|one| Hook {
            plugin: one.manifest.clone(),
            phase,
            settings: one.settings.clone(),
            host: subject.clone(),
            cluster: surroundings.clone(),
        }));
    }
    Ok((hooks, secrets))
}

/// A host, as its plugins are told.
pub(super) fn subject(host: &spec::cluster::Host, node: &distro::Host) -> Result<Subject> {
    let ports = ports::of(node.role).map(|port| {
        let from = port.from.iter().map(|peer| {
            let name = serde_json::to_value(peer).or_err(Kind::Failed, || "cannot name a peer")?;
            Ok(name.as_str().unwrap_or_default().to_owned())
        });
        Ok(Port {
            protocol: port.protocol.to_string(),
            first: *port.numbers.start(),
            last: *port.numbers.end(),
            from: from.collect::<Result<_>>()?,
            what: port.what.to_owned(),
        })
    });
    Ok(Subject {
        name: node.name.clone(),
        role: role(node.role).to_owned(),
        addresses: node.node_ips.clone(),
        ssh_port: host.ssh.login.port,
        ports: ports.collect::<Result<_>>()?,
    })
}

/// A host of the cluster, as the plugins of others are told.
pub(super) fn peer(node: &distro::Host) -> Peer {
    Peer {
        name: node.name.clone(),
        role: role(node.role).to_owned(),
        addresses: node.node_ips.clone(),
    }
}

/// Its name for plugins.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => "control-plane",
        Role::Worker => "worker",
    }
}

/// Runs what a host remembers for a moment.
pub async fn run_hooks(
    context: &Context,
    client: &Client,
    host: &str,
    run: &str,
    phase: Phase,
) -> Result<()> {
    if phase.lasts() {
        return Err(Error::new(
            Kind::Failed,
            format!("`{phase}` is no moment of its own"),
        ));
    }
    let call = RunMoment {
        phase,
        run: run.to_owned(),
    };
    let step = format!("run plugins ({phase})");
    context.step(Some(host), step, client.call(call)).await
}
