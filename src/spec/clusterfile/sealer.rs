//! Sealer's kinds: `Cluster` of `sealer.cloud/v2` and `Config`. What of them chasi
//! cannot honour is refused, never left out silently.
//!
//! Source: `types/api/v2/cluster_types.go`, `types/api/v1/config_types.go`,
//! `types/api/v1/cluster_types.go` (SSH) and `pkg/config/config.go` of
//! sealerio/sealer, all versions from 0.8.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::access::{Reader, default_privilege};
use super::decode::{At, Scalar};
use super::draft::{Draft, HostDraft, Said};
use super::problem::{Problem, Problems};
use super::shape::{HostsEntry, Taint};
use super::{addresses, chasi};
use crate::spec::cluster::{
    ClearText, Environment, EnvironmentValue, FileOverride, Identities, Roles, SecretSource,
    Ssh as Access,
};
use crate::spec::name::{ClusterName, EnvironmentName, ImageName, LabelKey, LabelValue, UserName};

/// A document of kind `Cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: At<Metadata>,
    spec: At<Spec>,
    /// Sealer writes it into the files that it keeps.
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: At<ClusterName>,
    #[serde(rename = "annotations")]
    _annotations: Option<IgnoredAny>,
    #[serde(rename = "labels")]
    _labels: Option<IgnoredAny>,
    #[serde(rename = "creationTimestamp")]
    _creation_timestamp: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    image: At<ImageName>,
    env: Option<At<Vec<At<Scalar>>>>,
    hosts: At<Vec<At<Host>>>,
    ssh: Option<At<Ssh>>,
    host_aliases: Option<At<Vec<At<HostAlias>>>>,
    container_runtime: Option<At<ContainerRuntime>>,
    cmd: Option<At<IgnoredAny>>,
    #[serde(rename = "cmd_args")]
    cmd_args: Option<At<IgnoredAny>>,
    app_names: Option<At<IgnoredAny>>,
    apps: Option<At<IgnoredAny>>,
    registry: Option<At<IgnoredAny>>,
    data_root: Option<At<IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
struct Host {
    ips: At<Vec<At<String>>>,
    roles: At<Vec<At<String>>>,
    ssh: Option<At<Ssh>>,
    env: Option<At<Vec<At<Scalar>>>>,
    labels: Option<At<BTreeMap<LabelKey, LabelValue>>>,
    taints: Option<At<Vec<At<Taint>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ssh {
    user: Option<At<UserName>>,
    passwd: Option<At<Scalar>>,
    pk: Option<At<String>>,
    pk_passwd: Option<At<Scalar>>,
    port: Option<At<Scalar>>,
    encrypted: Option<At<bool>>,
}

#[derive(Debug, Deserialize)]
struct HostAlias {
    ip: At<super::shape::Ip>,
    hostnames: At<Vec<At<crate::spec::network::Domain>>>,
}

#[derive(Debug, Deserialize)]
struct ContainerRuntime {
    #[serde(rename = "type")]
    kind: Option<At<String>>,
}

/// Reads a cluster. `None` when something without which there is none is missing.
pub(super) fn draft(document: &Document, reader: &Reader<'_>) -> Option<Draft> {
    let problems = reader.problems;
    let spec = document.spec.get()?;
    refuse(spec, problems);
    let mut access = reader.cluster(None)?;
    if let Some(ssh) = spec.ssh.as_ref().and_then(At::get) {
        over(&mut access, ssh, reader);
    }
    let mut hosts = Vec::new();
    for host in spec.hosts.get()?.iter().filter_map(At::get) {
        hosts.extend(read_host(host, &access, reader));
    }
    let name = document.metadata.get()?.name.get()?.clone();
    let image = spec.image.get()?.clone();
    let mut draft = Draft::new(name, image, Said::new(hosts, &spec.hosts.span));
    draft.env = environment(&spec.env, problems);
    // Sealer leaves the hosts their names.
    draft.settings.set_hostname = false;
    for alias in chasi::items(&spec.host_aliases) {
        let entry = HostsEntry {
            ip: alias.ip.clone(),
            names: alias.hostnames.clone(),
        };
        draft
            .settings
            .hosts
            .extend(chasi::hosts_entry(&entry, problems));
    }
    Some(draft)
}

/// What chasi has no way to honour.
fn refuse(spec: &Spec, problems: &Problems<'_>) {
    let applications = "put the manifests into the cluster image, below `chasi/manifests`";
    let fields = [
        ("cmd", &spec.cmd, applications),
        ("cmd_args", &spec.cmd_args, applications),
        ("appNames", &spec.app_names, applications),
        ("apps", &spec.apps, applications),
        (
            "registry",
            &spec.registry,
            "remove it: each host serves the image's containers to itself, under their own references",
        ),
        (
            "dataRoot",
            &spec.data_root,
            "remove it: chasi keeps its files in `/var/lib/chasi`",
        ),
    ];
    for (name, field, remedy) in fields {
        if let Some(field) = field {
            problems.add(
                Problem::new(
                    field.span.clone(),
                    format!("sealer's `{name}` is not supported"),
                )
                .hint(remedy),
            );
        }
    }
    let runtime = spec.container_runtime.as_ref().and_then(At::get);
    if let Some(kind) = runtime.and_then(|runtime| runtime.kind.as_ref())
        && kind
            .get()
            .is_some_and(|kind| !kind.is_empty() && kind != "containerd")
    {
        problems.add(
            Problem::new(
                kind.span.clone(),
                "the only container runtime is containerd",
            )
            .hint("remove it, or write `containerd`"),
        );
    }
}

fn read_host(host: &Host, access: &Access, reader: &Reader<'_>) -> Vec<HostDraft> {
    let problems = reader.problems;
    let mut access = access.clone();
    if let Some(ssh) = host.ssh.as_ref().and_then(At::get) {
        over(&mut access, ssh, reader);
    }
    let env = environment(&host.env, problems);
    let taints: Vec<_> = chasi::items(&host.taints)
        .map(|taint| taint.0.clone())
        .collect();
    chasi::check_labels(&host.labels, problems);
    chasi::check_taints(&host.taints, problems);
    let labels = chasi::value(&host.labels).cloned().unwrap_or_default();
    let Some(roles) = roles(&host.roles, problems) else {
        return Vec::new();
    };
    let mut drafts = Vec::new();
    for ip in host.ips.get().into_iter().flatten() {
        let Some(text) = ip.get() else { continue };
        for address in addresses::expand(&Said::new(text.as_str(), &ip.span), problems) {
            if let Some(mut draft) = addresses::draft(address, roles, access.clone(), problems) {
                draft.host.labels = labels.clone();
                draft.host.taints = taints.clone();
                draft.host.env = env.clone();
                drafts.push(draft);
            }
        }
    }
    if host.ips.get().is_some_and(Vec::is_empty) {
        problems.say(&host.ips.span, "the list of addresses is empty");
    }
    drafts
}

fn roles(said: &At<Vec<At<String>>>, problems: &Problems<'_>) -> Option<Roles> {
    let (mut master, mut node) = (false, false);
    for role in said.get()?.iter() {
        match role.get()?.as_str() {
            "master" => master = true,
            "node" => node = true,
            other => {
                problems.add(
                    Problem::new(
                        role.span.clone(),
                        format!("the role `{other}` is not supported"),
                    )
                    .hint("the roles are `master` and `node`; for anything else use `labels`"),
                );
                return None;
            }
        }
    }
    match (master, node) {
        (true, true) => Some(Roles::ControlPlaneAndWorker),
        (true, false) => Some(Roles::ControlPlane),
        (false, true) => Some(Roles::Worker),
        (false, false) => {
            problems.say(&said.span, "the host has no role");
            None
        }
    }
}

/// What a document says of SSH, over what was there.
fn over(access: &mut Access, ssh: &Ssh, reader: &Reader<'_>) {
    let problems = reader.problems;
    let login = &mut access.login;
    if let Some(user) = ssh.user.as_ref().and_then(At::get) {
        login.user = user.clone();
    }
    if let Some(encrypted) = ssh
        .encrypted
        .as_ref()
        .filter(|said| said.get() == Some(&true))
    {
        problems.add(
            Problem::new(
                encrypted.span.clone(),
                "passwords that sealer encrypted cannot be read",
            )
            .hint("use a key, or chasi's own kind of Clusterfile with `passwordFile`"),
        );
    }
    if let Some(path) = ssh
        .pk
        .as_ref()
        .and_then(|pk| reader.places.resolve(pk.get()?, &pk.span, problems))
    {
        login.identities = Identities::Named(vec![path]);
    }
    let secrets = [
        (&ssh.passwd, "passwd", &mut login.password),
        (&ssh.pk_passwd, "pkPasswd", &mut login.passphrase),
    ];
    for (said, name, target) in secrets {
        if let Some((said, text)) = said.as_ref().and_then(|said| Some((said, said.get()?))) {
            problems.warn(
                &said.span,
                format!("`{name}` is a secret in clear; chasi's own kind of Clusterfile can take it from a file or a variable"),
            );
            *target = Some(SecretSource::Clear(ClearText::new(text.0.clone())));
        }
    }
    if let Some((said, text)) = ssh.port.as_ref().and_then(|said| Some((said, said.get()?))) {
        match text.0.parse::<u16>() {
            Ok(port) if port > 0 => login.port = port,
            _ => problems.say(
                &said.span,
                format!("`{}` is not a port: a number from 1 to 65535", text.0),
            ),
        }
    }
    access.privilege = default_privilege(&access.login.user);
}

/// Variables from `name=value`. A name that comes again, and a value with `;`,
/// make a list.
fn environment(said: &Option<At<Vec<At<Scalar>>>>, problems: &Problems<'_>) -> Environment {
    let mut environment = Environment::new();
    for variable in chasi::value(said).into_iter().flatten() {
        let Some(Scalar(text)) = variable.get() else {
            continue;
        };
        let Some((name, value)) = text.split_once('=') else {
            problems.say(&variable.span, format!("`{text}` is not `name=value`"));
            continue;
        };
        let name: EnvironmentName = match name.trim().parse() {
            Ok(name) => name,
            Err(invalid) => {
                problems.say(&variable.span, invalid.to_string());
                continue;
            }
        };
        let mut values: Vec<String> = match environment.remove(&name) {
            Some(EnvironmentValue::One(value)) => vec![value],
            Some(EnvironmentValue::Many(values)) => values,
            None => Vec::new(),
        };
        values.extend(value.split(';').map(str::to_owned));
        let value = match <[String; 1]>::try_from(values) {
            Ok([value]) => EnvironmentValue::One(value),
            Err(values) => EnvironmentValue::Many(values),
        };
        environment.insert(name, value);
    }
    environment
}

/// A document of kind `Config`.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    spec: At<ConfigSpec>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigSpec {
    path: At<String>,
    data: At<String>,
    strategy: Option<At<String>>,
    process: Option<At<IgnoredAny>>,
    app_name: Option<At<IgnoredAny>>,
}

/// A file of the image that is replaced.
pub(super) fn config(document: &Config, problems: &Problems<'_>) -> Option<FileOverride> {
    let spec = document.spec.get()?;
    for (name, field) in [("process", &spec.process), ("appName", &spec.app_name)] {
        if let Some(field) = field {
            problems.add(
                Problem::new(
                    field.span.clone(),
                    format!("sealer's `{name}` is not supported"),
                )
                .hint("write the file as it is to be into `data`"),
            );
        }
    }
    if let Some(strategy) = &spec.strategy
        && strategy
            .get()
            .is_some_and(|name| !name.is_empty() && name != "overwrite")
    {
        problems.add(
            Problem::new(strategy.span.clone(), "the only strategy is `overwrite`")
                .hint("write the whole file into `data`"),
        );
    }
    let path = spec.path.get()?;
    check_path(path, &spec.path.span, problems);
    Some(FileOverride {
        path: path.strip_prefix("./").unwrap_or(path).to_owned(),
        data: spec.data.get()?.clone(),
    })
}

fn check_path(path: &str, span: &Range<usize>, problems: &Problems<'_>) {
    let inside = !path.is_empty()
        && !path.starts_with('/')
        && !path.ends_with('/')
        && path.split('/').all(|part| part != ".." && !part.is_empty());
    if !inside {
        problems.add(
            Problem::new(span.clone(), format!("`{path}` is not a path in the image"))
                .hint("begin at the image's root, without `/` before it and without `..`"),
        );
    }
}

/// What a plugin does, and what chasi has instead.
pub(super) fn refuse_plugin(document: &super::tree::Node, problems: &Problems<'_>) {
    let spec = document.get("spec");
    let field = |name: &str| {
        spec.and_then(|spec| spec.get(name))
            .and_then(|node| node.as_text())
    };
    let name = document
        .get("metadata")
        .and_then(|metadata| metadata.get("name"));
    let kind = field("type")
        .or(name.and_then(|name| name.as_text()))
        .unwrap_or_default();
    let remedy = match kind.to_uppercase().as_str() {
        "HOSTNAME" => "use chasi's own kind of Clusterfile, where each host has a `name`",
        "LABEL" => "write the `labels` of each host",
        "TAINT" => "write the `taints` of each host",
        "CLUSTERCHECK" => "remove it: `chasi run` checks hosts before it changes anything",
        _ => {
            "remove it; what it does to hosts belongs into the cluster image, or before `chasi run`"
        }
    };
    let span = document
        .get("kind")
        .map_or(&document.span, |node| &node.span);
    problems.add(Problem::new(span.clone(), "sealer's plugins are not supported").hint(remedy));
}
