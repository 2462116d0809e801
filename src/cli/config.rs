//! What a user's environment says: where things are kept, mirrors, credentials,
//! whom to trust. The one place that reads it.
//!
//! The configuration file is `$CHASI_CONFIG`, or `chasi/config.yaml` below
//! `$XDG_CONFIG_HOME` (`~/.config`):
//!
//! ```yaml
//! mirrors:
//!   - from: docker.io
//!     to: registry.example.com/hub
//!   - from: https://dl.k8s.io
//!     to: http://files.example.com/dl.k8s.io
//! registries:
//!   registry.example.com:
//!     ca: /etc/ssl/example.pem
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::build::Netrc;
use crate::error::{Error, Kind, Result, ResultExt, Snippet};
use crate::oci::auth::Credentials;
use crate::oci::http::{HostTrust, Trust};
use crate::oci::mirror::Mirrors;
use crate::oci::registry::Settings;

/// The largest file that is read here, in bytes.
const LIMIT: u64 = 1 << 20;

/// The configuration file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    mirrors: Vec<Rule>,
    registries: BTreeMap<String, HostTrust>,
}

/// Where to go instead.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    from: String,
    to: String,
}

/// The user's home directory.
pub fn home() -> Option<PathBuf> {
    absolute("HOME")
}

/// The images' store: `$CHASI_STORE`, or below `$XDG_DATA_HOME`.
pub fn store() -> Result<PathBuf> {
    match named("CHASI_STORE") {
        Some(path) => Ok(path),
        None => Ok(xdg("XDG_DATA_HOME", ".local/share")?.join("chasi/store")),
    }
}

/// What can be made again: `$CHASI_CACHE`, or below `$XDG_CACHE_HOME`.
pub fn cache() -> Result<PathBuf> {
    match named("CHASI_CACHE") {
        Some(path) => Ok(path),
        None => Ok(xdg("XDG_CACHE_HOME", ".cache")?.join("chasi")),
    }
}

/// What builds keep.
pub fn build_cache() -> Result<PathBuf> {
    Ok(cache()?.join("build"))
}

/// What belongs to this machine and cannot be made again, such as logs: below
/// `$XDG_STATE_HOME`.
pub fn state() -> Result<PathBuf> {
    Ok(xdg("XDG_STATE_HOME", ".local/state")?.join("chasi"))
}

/// How registries are reached. `mirrors` are rules of the command line, which win
/// over those of the configuration file.
pub fn network(mirrors: &[String]) -> Result<Settings> {
    let config = read_config()?;
    let mut rules = Mirrors::new();
    for rule in &config.mirrors {
        rules.add(&rule.from, &rule.to)?;
    }
    for rule in mirrors {
        rules.add_rule(rule)?;
    }
    Ok(Settings {
        mirrors: rules,
        credentials: Credentials::new(credential_files()),
        trust: Trust {
            ca: absolute("SSL_CERT_FILE").or_else(|| absolute("CURL_CA_BUNDLE")),
            certs_d: Some("/etc/docker/certs.d".into()),
            hosts: config.registries,
        },
        parallel: 0,
    })
}

/// Credentials for downloads: `$NETRC`, or `~/.netrc`.
pub fn netrc() -> Result<Netrc> {
    let path = absolute("NETRC").or_else(|| Some(absolute("HOME")?.join(".netrc")));
    let text = path.map(|path| read(&path)).transpose()?.flatten();
    Ok(Netrc::parse(&text.unwrap_or_default()))
}

/// Where docker, skopeo and podman keep what `login` was told; the first that
/// knows a registry counts.
fn credential_files() -> Vec<PathBuf> {
    let config = xdg("XDG_CONFIG_HOME", ".config").ok();
    let docker = absolute("DOCKER_CONFIG").or_else(|| Some(absolute("HOME")?.join(".docker")));
    [
        absolute("REGISTRY_AUTH_FILE"),
        absolute("XDG_RUNTIME_DIR").map(|path| path.join("containers/auth.json")),
        config.map(|path| path.join("containers/auth.json")),
        docker.map(|path| path.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read_config() -> Result<Config> {
    let given = named("CHASI_CONFIG");
    let path = match &given {
        Some(path) => path.clone(),
        None => match xdg("XDG_CONFIG_HOME", ".config") {
            Ok(directory) => directory.join("chasi/config.yaml"),
            Err(_) => return Ok(Config::default()),
        },
    };
    let Some(text) = read(&path)? else {
        return match given {
            Some(path) => Err(Error::new(
                Kind::NotFound,
                format!("there is no configuration file `{}`", path.display()),
            )
            .hint("`CHASI_CONFIG` names it; unset it to do without")),
            None => Ok(Config::default()),
        };
    };
    parse(&path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Config> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    // A file of nothing but comments has no document.
    let parsed: Result<Option<Config>, _> = serde_saphyr::from_str_with_options(text, options);
    let mut config = parsed
        .map_err(|cause| {
            let error = Error::new(
                Kind::Input,
                format!("`{}` is not a configuration file of chasi", path.display()),
            );
            let error = match cause.location() {
                Some(location) => error.at(Snippet {
                    path: path.display().to_string(),
                    span: line(text, location.line()),
                    text: text.to_owned(),
                    label: String::new(),
                }),
                None => error,
            };
            error
                .because(cause.to_string())
                .hint("it has `mirrors`, a list of `from` and `to`, and `registries`")
        })?
        .unwrap_or_default();
    // Paths are meant from where the file is.
    if let Some(directory) = path.parent() {
        for trust in config.registries.values_mut() {
            trust.ca = trust.ca.as_ref().map(|ca| directory.join(ca));
        }
    }
    Ok(config)
}

/// The place of a line, counted from 1.
fn line(text: &str, number: u64) -> std::ops::Range<usize> {
    let number = usize::try_from(number).unwrap_or(1).max(1);
    let start: usize = text
        .split_inclusive('\n')
        .take(number - 1)
        .map(str::len)
        .sum();
    let length = text[start..].lines().next().unwrap_or_default().len();
    start..start + length
}

/// A file's text; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read;
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file
            .take(LIMIT)
            .read_to_string(&mut text)
            .map(|_| Some(text))
            .or_err(Kind::Input, || format!("cannot read `{}`", path.display())),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => {
            Err(cause).or_err(Kind::System, || format!("cannot read `{}`", path.display()))
        }
    }
}

/// A directory by the XDG base directory specification.
fn xdg(name: &str, below_home: &str) -> Result<PathBuf> {
    absolute(name)
        .or_else(|| Some(absolute("HOME")?.join(below_home)))
        .ok_or_else(|| {
            Error::new(Kind::Usage, "no directory for the user's files is known")
                .hint("set the environment variable `HOME`")
        })
}

/// A path from one of chasi's own variables; a relative one is meant from where
/// the command is run.
fn named(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name).filter(|path| !path.is_empty())?;
    std::path::absolute(path).ok()
}

/// A path from the environment. A relative one means nothing, by the same
/// specification.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_understood() {
        let text = "mirrors:\n  - from: docker.io\n    to: http://127.0.0.1:5000/hub\nregistries:\n  a.b:5000: {insecure: true}\n  c.d: {ca: company.pem}\n";
        let config = parse(Path::new("/etc/x/config.yaml"), text).unwrap();
        assert_eq!(config.mirrors.len(), 1);
        assert!(config.registries["a.b:5000"].insecure);
        let ca = config.registries["c.d"].ca.as_deref();
        assert_eq!(ca, Some(Path::new("/etc/x/company.pem")));
    }

    #[test]
    fn an_empty_configuration_says_nothing() {
        for text in ["", "# nothing\n", "{}", "mirrors: []\n"] {
            let config = parse(Path::new("c"), text).unwrap();
            assert!(
                config.mirrors.is_empty() && config.registries.is_empty(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn mistakes_are_pointed_at() {
        for (text, cause, line) in [
            ("mirror: []\n", "unknown field", 1),
            ("mirrors:\n  - from: a\n    too: b\n", "unknown field", 3),
            ("registries:\n  a.b:\n    insecure: yes\n", "invalid", 3),
            ("mirrors: []\nmirrors: []\n", "duplicate", 2),
        ] {
            let error = parse(Path::new("c.yaml"), text).unwrap_err();
            let said = error.causes().next().unwrap().to_string();
            assert!(said.contains(cause), "{text:?}: {said}");
            let found = error.snippet().map(|snippet| snippet.line_column().0);
            assert_eq!(found, Some(line), "{text:?}: {said}");
        }
    }
}
