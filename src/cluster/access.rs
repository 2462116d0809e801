//! From what the Clusterfile says about SSH to what the SSH client needs, and the
//! secrets of plugins: secrets are read here, once, and nowhere kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::host::hook;
use crate::remote::{Credential, HostKeyPolicy, Secret, Sudo, Target};
use crate::spec::cluster::{HostKey, Identities, Jump, Login, Privilege, Said, SecretSource};
use crate::spec::network::Address;
use crate::spec::{self};

/// The largest file that holds a secret, in bytes.
const LARGEST_SECRET: usize = 64 << 10;

/// What the environment of the process has that SSH needs. The library does not
/// look at the environment itself.
pub struct Environment<'a> {
    /// The value of a variable.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The socket of a running ssh-agent.
    pub agent: Option<PathBuf>,
}

/// How to get into each host.
pub fn targets(cluster: &spec::Cluster, environment: &Environment) -> Result<Vec<Target>> {
    cluster
        .hosts
        .iter()
        .map(|host| {
            let mut target = target(
                host.name.as_str(),
                &host.address,
                &host.ssh.login,
                environment,
            )?;
            target.jump = host
                .ssh
                .jump
                .as_ref()
                .map(|jump| jump_target(jump, environment).map(Box::new))
                .transpose()?;
            target.sudo = match &host.ssh.privilege {
                Privilege::Root => Sudo::Never,
                Privilege::Sudo(None) => Sudo::WithoutPassword,
                Privilege::Sudo(Some(source)) => Sudo::WithPassword(secret(source, environment)?),
            };
            Ok(target)
        })
        .collect()
}

fn jump_target(jump: &Jump, environment: &Environment) -> Result<Target> {
    target(
        &jump.address.to_string(),
        &jump.address,
        &jump.login,
        environment,
    )
}

fn target(
    name: &str,
    address: &Address,
    login: &Login,
    environment: &Environment,
) -> Result<Target> {
    let mut credentials = Vec::new();
    if let Some(socket) = environment.agent.as_ref().filter(|_| login.agent) {
        credentials.push(Credential::Agent(socket.clone()));
    }
    let passphrase = login
        .passphrase
        .as_ref()
        .map(|source| secret(source, environment))
        .transpose()?;
    let files = match &login.identities {
        Identities::Named(files) => files.clone(),
        Identities::Usual(files) => files.iter().filter(|file| file.exists()).cloned().collect(),
    };
    credentials.extend(files.into_iter().map(|path| Credential::KeyFile {
        path,
        passphrase: passphrase.clone(),
    }));
    if let Some(source) = &login.password {
        credentials.push(Credential::Password(secret(source, environment)?));
    }
    Ok(Target {
        name: name.to_owned(),
        address: address.to_string(),
        port: login.port,
        user: login.user.to_string(),
        credentials,
        jump: None,
        host_key: match &login.host_key {
            HostKey::Fingerprint(fingerprint) => {
                HostKeyPolicy::Fingerprint(fingerprint.to_string())
            }
            HostKey::KnownHosts(files) => HostKeyPolicy::KnownHosts(files.clone()),
        },
        sudo: Sudo::Never,
    })
}

/// The secrets of plugins, by where they come from.
pub type PluginSecrets = BTreeMap<SecretSource, hook::Secret>;

/// Reads the secrets of all plugins that are on.
pub fn plugin_secrets(cluster: &spec::Cluster, environment: &Environment) -> Result<PluginSecrets> {
    let mut secrets = PluginSecrets::new();
    for plugin in cluster.plugins.iter().filter(|plugin| plugin.enabled) {
        for (name, said) in &plugin.settings {
            let Said::Secret(source) = &said.value else {
                continue;
            };
            let problem = |error: Error| error.at(said.place.snippet());
            let text = read(source, environment).map_err(problem)?;
            if text.is_empty() {
                let message = format!("the secret `{name}` of `{}` is empty", plugin.name);
                return Err(problem(Error::new(Kind::Input, message)));
            }
            secrets.insert(source.clone(), hook::Secret::new(text));
        }
    }
    Ok(secrets)
}

fn secret(source: &SecretSource, environment: &Environment) -> Result<Secret> {
    Ok(Secret::new(read(source, environment)?))
}

fn read(source: &SecretSource, environment: &Environment) -> Result<String> {
    Ok(match source {
        SecretSource::Clear(text) => text.reveal().to_owned(),
        SecretSource::Environment(name) => {
            (environment.variable)(name.as_str()).ok_or_else(|| {
                Error::new(
                    Kind::Input,
                    format!("the environment variable `{name}` is not set"),
                )
                .hint(format!(
                    "set it to the secret: `read -rs {name}; export {name}`"
                ))
            })?
        }
        SecretSource::File(path) => {
            let bytes = std::fs::read(path).or_err(Kind::Input, || {
                format!("cannot read the secret in `{}`", path.display())
            })?;
            if bytes.len() > LARGEST_SECRET {
                return Err(Error::new(
                    Kind::Input,
                    format!("`{}` is too large to be a secret", path.display()),
                ));
            }
            let text = String::from_utf8(bytes).map_err(|_| {
                Error::new(Kind::Input, format!("`{}` is not text", path.display()))
            })?;
            text.lines().next().unwrap_or_default().to_owned()
        }
    })
}
