//! The plugins that a Clusterfile names. Whether the image has them and takes these
//! settings is checked when the image is known; the places are kept for that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::access::Places;
use super::chasi::{items, value};
use super::decode::At;
use super::draft::HostDraft;
use super::problem::{Problem, Problems, nearest};
use super::shape;
use crate::spec::cluster::{Plugin, Said, SaidSetting, SecretSource};
use crate::spec::name::HostName;
use crate::spec::plugin::PluginName;
use crate::spec::text::Place;

/// Reads them, and checks that no host has two of one name.
pub(super) fn read(
    said: &Option<At<Vec<At<shape::Plugin>>>>,
    hosts: &[HostDraft],
    places: Places<'_>,
    problems: &Problems<'_>,
) -> Vec<Plugin> {
    let mut seen: BTreeMap<PluginName, Vec<Plugin>> = BTreeMap::new();
    let mut plugins = Vec::new();
    for one in value(said).into_iter().flatten() {
        let Some(plugin) = one
            .get()
            .and_then(|plugin| read_one(plugin, hosts, places, problems))
        else {
            continue;
        };
        let earlier = seen.entry(plugin.name.clone()).or_default();
        if let Some(host) = earlier
            .iter()
            .find_map(|other| shared(other, &plugin, hosts))
        {
            let span = one.get().map_or(&one.span, |plugin| &plugin.name.span);
            problems.add(
                Problem::new(
                    span.clone(),
                    format!(
                        "the plugin `{}` is named twice for host `{host}`",
                        plugin.name
                    ),
                )
                .hint("name a plugin once, or give each entry other `hosts`"),
            );
        }
        earlier.push(plugin.clone());
        plugins.push(plugin);
    }
    plugins
}

fn read_one(
    plugin: &shape::Plugin,
    hosts: &[HostDraft],
    places: Places<'_>,
    problems: &Problems<'_>,
) -> Option<Plugin> {
    let place = |span: &Range<usize>| Place {
        source: problems.source(),
        span: span.clone(),
    };
    check_hosts(&plugin.hosts, hosts, problems);
    let settings = value(&plugin.settings)
        .into_iter()
        .flatten()
        .filter_map(|(name, said)| {
            let setting = SaidSetting {
                value: setting(said.get()?, &said.span, places, problems)?,
                place: place(&said.span),
            };
            Some((name.clone(), setting))
        })
        .collect();
    let only = plugin.hosts.as_ref();
    Some(Plugin {
        name: plugin.name.get()?.clone(),
        enabled: value(&plugin.enabled).copied().unwrap_or(true),
        hosts: only.map(|_| items(&plugin.hosts).cloned().collect()),
        settings,
        place: place(&plugin.name.span),
    })
}

/// The value of a setting, or where a secret comes from.
fn setting(
    said: &shape::Said,
    span: &Range<usize>,
    places: Places<'_>,
    problems: &Problems<'_>,
) -> Option<Said> {
    let place = match said {
        shape::Said::Value(value) => return Some(Said::Value(value.clone())),
        shape::Said::Secret(place) => place,
    };
    match (&place.file, &place.env) {
        (Some(file), None) => places
            .resolve(file.get()?, &file.span, problems)
            .map(|file| Said::Secret(SecretSource::File(file))),
        (None, Some(variable)) => {
            let variable = variable.get()?.clone();
            Some(Said::Secret(SecretSource::Environment(variable)))
        }
        _ => {
            let problem = Problem::new(
                span.clone(),
                "a secret comes from a file or from a variable",
            );
            problems.add(problem.hint("write either `{file: PATH}` or `{env: NAME}`"));
            None
        }
    }
}

fn check_hosts(said: &Option<At<Vec<At<HostName>>>>, hosts: &[HostDraft], problems: &Problems<'_>) {
    for at in value(said).into_iter().flatten() {
        let Some(name) = at.get() else { continue };
        let known = || hosts.iter().map(|draft| draft.host.name.as_str());
        if known().any(|known| known == name.as_str()) {
            continue;
        }
        let problem = Problem::new(at.span.clone(), format!("there is no host `{name}`"));
        problems.add(match nearest(name.as_str(), known()) {
            Some(known) => problem.hint(format!("did you mean `{known}`?")),
            None => problem,
        });
    }
}

/// A host that both are about.
fn shared(one: &Plugin, other: &Plugin, hosts: &[HostDraft]) -> Option<HostName> {
    let of = |plugin: &Plugin| -> BTreeSet<HostName> {
        match &plugin.hosts {
            Some(names) => names.iter().cloned().collect(),
            None => hosts.iter().map(|draft| draft.host.name.clone()).collect(),
        }
    };
    of(one).intersection(&of(other)).next().cloned()
}
