//! Which plugins run on a host, in which order, with which settings: what the
//! image has on by itself in the order of the names, then what the Clusterfile
//! names in its order.

use std::collections::BTreeMap;

use super::{Manifest, PluginName, Role, Settings, Switch};
use crate::error::{Error, Kind, Result};
use crate::spec::cluster::{Cluster, Host, Plugin};
use crate::spec::clusterfile::nearest;

/// A plugin that runs on a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selected<'a> {
    /// What it says of itself.
    pub manifest: &'a Manifest,
    /// All of its settings.
    pub settings: Settings,
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
        let settings = settle(manifest, plugin)?;
        let is_here = plugin
            .hosts
            .as_ref()
            .is_none_or(|hosts| hosts.contains(&host.name));
        if is_here {
            named.insert(&plugin.name, ());
        }
        if is_here && plugin.enabled {
            chosen.push(Selected { manifest, settings });
        }
    }
    let mut selected = Vec::new();
    for (name, manifest) in manifests {
        if manifest.default == Switch::On && !named.contains_key(name) {
            selected.push(Selected {
                manifest,
                settings: defaults(manifest, cluster)?,
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

fn settle(manifest: &Manifest, plugin: &Plugin) -> Result<Settings> {
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
        if let Some((message, hint)) = setting.refuses(&said.value) {
            return wrong(format!("`{name}`: {message}"), hint);
        }
    }
    let mut settings = Settings::new();
    for (name, setting) in &manifest.settings {
        let given = plugin.settings.get(name).map(|said| &said.value);
        match given.or(setting.default.as_ref()) {
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
    Ok(settings)
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
