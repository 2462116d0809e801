//! Which plugins run on a host, in which order, with which settings: what the
//! image has on by itself in the order of the names, then what the Clusterfile
//! names in its order.

use std::collections::BTreeMap;

use super::{Manifest, PluginName, Role, SettingKind, SettingName, Settings, Switch};
use crate::error::{Error, Kind, Result};
use crate::spec::cluster::{Cluster, Host, Plugin, Said, SecretSource};
use crate::spec::clusterfile::nearest;

/// A plugin that runs on a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selected<'a> {
    /// What it says of itself.
    pub manifest: &'a Manifest,
    /// All of its settings but the secrets.
    pub settings: Settings,
    /// Where its secrets come from.
    pub secrets: BTreeMap<SettingName, SecretSource>,
}

/// Which of an image's plugins run on a host. The cluster's other hosts do not
/// matter, but what the Clusterfile says of any plugin must make sense.
///
/// # Errors
/// [`Kind::Input`], pointing into the Clusterfile, when it names a plugin that the
/// image does not have, or settings that it does not take or that are missing.
pub fn select<'a>(
    manifests: &'a BTreeMap<PluginName, Manifest>,
    cluster: &Cluster,
    host: &Host,
) -> Result<Vec<Selected<'a>>> {
    let mut named: BTreeMap<&PluginName, ()> = BTreeMap::new();
    let mut chosen = Vec::new();
    for plugin in &cluster.plugins {
        let manifest = find(manifests, plugin, cluster)?;
        let (settings, secrets) = settle(manifest, plugin)?;
        let is_here = plugin
            .hosts
            .as_ref()
            .is_none_or(|hosts| hosts.contains(&host.name));
        if is_here {
            named.insert(&plugin.name, ());
        }
        if is_here && plugin.enabled {
            chosen.push(Selected {
                manifest,
                settings,
                secrets,
            });
        }
    }
    let mut selected = Vec::new();
    for (name, manifest) in manifests {
        if manifest.default == Switch::On && !named.contains_key(name) {
            selected.push(Selected {
                manifest,
                settings: defaults(manifest, cluster)?,
                secrets: BTreeMap::new(),
            });
        }
    }
    selected.extend(chosen);
    selected.retain(|one| {
        let roles = &one.manifest.roles;
        (roles.contains(&Role::ControlPlane) && host.roles.is_control_plane())
            || (roles.contains(&Role::Worker) && host.roles.is_worker())
    });
    Ok(selected)
}

fn find<'a>(
    manifests: &'a BTreeMap<PluginName, Manifest>,
    plugin: &Plugin,
    cluster: &Cluster,
) -> Result<&'a Manifest> {
    manifests.get(&plugin.name).ok_or_else(|| {
        let error = Error::new(
            Kind::Input,
            format!(
                "the image `{}` has no plugin `{}`",
                cluster.image, plugin.name
            ),
        )
        .at(plugin.place.snippet());
        let known = || manifests.keys().map(PluginName::as_str);
        match nearest(plugin.name.as_str(), known()) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None if manifests.is_empty() => error.hint(
                "the image has no plugins; chasi's own come with `INCLUDE chasi/plugins:1` in its Kubefile",
            ),
            None => error.hint(format!(
                "it has `{}`",
                known().collect::<Vec<_>>().join("`, `")
            )),
        }
    })
}

/// The settings of a plugin, and where its secrets come from.
fn settle(
    manifest: &Manifest,
    plugin: &Plugin,
) -> Result<(Settings, BTreeMap<SettingName, SecretSource>)> {
    let (mut given, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, said) in &plugin.settings {
        let wrong = |message: String, hint: Option<String>| {
            let error = Error::new(Kind::Input, message).at(said.place.snippet());
            Err(hint.into_iter().fold(error, Error::hint))
        };
        let Some(setting) = manifest.settings.get(name) else {
            let message = format!("the plugin `{}` has no setting `{name}`", plugin.name);
            let known = || manifest.settings.keys().map(|name| name.as_str());
            let hint = match nearest(name.as_str(), known()) {
                Some(known) => format!("did you mean `{known}`?"),
                None if manifest.settings.is_empty() => "it has no settings".to_owned(),
                None => format!("it has `{}`", known().collect::<Vec<_>>().join("`, `")),
            };
            return wrong(message, Some(hint));
        };
        match &said.value {
            // Its line would show the secret.
            Said::Value(_) if setting.kind == SettingKind::Secret => {
                return Err(Error::new(
                    Kind::Input,
                    format!(
                        "the setting `{name}` of the plugin `{}` is a secret, which does not stand in a Clusterfile",
                        plugin.name
                    ),
                )
                .hint(format!("write `{name}: {{file: PATH}}` or `{name}: {{env: NAME}}`")));
            }
            Said::Secret(source) if setting.kind == SettingKind::Secret => {
                secrets.insert(name.clone(), source.clone());
            }
            Said::Secret(_) => {
                let message = format!("`{name}`: expected {}, found a secret", setting.kind);
                return wrong(message, None);
            }
            Said::Value(value) => {
                if let Some((message, hint)) = setting.refuses(value) {
                    return wrong(format!("`{name}`: {message}"), hint);
                }
                given.insert(name, value);
            }
        }
    }
    let mut settings = Settings::new();
    for (name, setting) in &manifest.settings {
        if secrets.contains_key(name) {
            continue;
        }
        match given.get(name).copied().or(setting.default.as_ref()) {
            Some(value) => {
                settings.insert(name.clone(), value.clone());
            }
            None if !plugin.enabled => {}
            None => {
                return Err(Error::new(
                    Kind::Input,
                    format!("the plugin `{}` needs the setting `{name}`", plugin.name),
                )
                .at(plugin.place.snippet())
                .hint(format!(
                    "write it below `settings`: {} ({})",
                    setting.description, setting.kind
                )));
            }
        }
    }
    Ok((settings, secrets))
}

/// The settings of a plugin that the Clusterfile does not name.
fn defaults(manifest: &Manifest, cluster: &Cluster) -> Result<Settings> {
    let mut settings = Settings::new();
    for (name, setting) in &manifest.settings {
        let value = setting.default.clone().ok_or_else(|| {
            let plugin = &manifest.name;
            Error::new(
                Kind::Input,
                format!(
                    "the plugin `{plugin}`, which is on in the image `{}`, needs the setting `{name}`",
                    cluster.image
                ),
            )
            .hint(format!(
                "name `{plugin}` below `plugins` in the Clusterfile, with `settings: {{{name}: …}}` or `enabled: false`"
            ))
        })?;
        settings.insert(name.clone(), value);
    }
    Ok(settings)
}
