//! Credentials for registries, from the files of docker (`config.json`) and of
//! skopeo and podman (`auth.json`, see containers-auth.json(5)), and from docker's
//! credential helpers.
//!
//! Secrets are never shown: not in errors, not by `Debug`, not as arguments.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::command::Command;
use crate::error::{Error, Kind, Result, ResultExt};

/// The name under which docker keeps credentials for docker.io.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Proves who we are.
#[derive(Clone, Eq, PartialEq)]
pub enum Credential {
    /// A user name and a password or access token.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for access tokens.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Password { user, .. } => write!(f, "Password({user}, …)"),
            Credential::IdentityToken(_) => f.write_str("IdentityToken(…)"),
        }
    }
}

/// Where credentials are looked for: the files in their order, of each first the
/// helpers and then what stands in it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// Looks into these files; one that does not exist is passed over.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Credentials {
            files: files.into_iter().collect(),
        }
    }

    /// The credential for a repository on a registry, if there is one. Runs
    /// credential helpers, so it blocks.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            let found = file.find(registry, repository).map_err(|cause| {
                Error::new(
                    cause.kind(),
                    format!(
                        "`{}` has no usable credentials for `{registry}`",
                        path.display()
                    ),
                )
                .because(cause)
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<AuthFile>> {
    use std::io::Read;
    let unreadable = || format!("cannot read the credentials file `{}`", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).or_err(Kind::System, unreadable),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut text)
        .or_err(Kind::System, unreadable)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // The parser's own message could quote a secret.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::new(
            Kind::Input,
            format!(
                "the credentials file `{}` is not valid JSON at line {}",
                path.display(),
                error.line()
            ),
        )
    })
}

impl AuthFile {
    fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        let server = server_of(registry);
        if let Some(helper) = self
            .cred_helpers
            .get(server)
            .or_else(|| self.cred_helpers.get(registry))
        {
            return ask(helper, server);
        }
        for key in keys(registry, repository) {
            let entry = self
                .auths
                .iter()
                .find(|(name, _)| **name == key || same_host(name, &key));
            if let Some((_, entry)) = entry
                && let Some(credential) = entry.credential()?
            {
                return Ok(Some(credential));
            }
        }
        match &self.creds_store {
            Some(helper) => ask(helper, server),
            None => Ok(None),
        }
    }
}

/// The keys under which a repository's credential may stand, the nearest first:
/// containers-auth.json(5) allows namespaces.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut name = format!("{registry}/{repository}");
    while let Some((rest, _)) = name.clone().rsplit_once('/') {
        keys.push(name);
        name = rest.to_owned();
    }
    keys.push(registry.to_owned());
    if server_of(registry) != registry {
        keys.push(server_of(registry).to_owned());
    }
    keys
}

/// What docker's files and helpers call a registry.
fn server_of(registry: &str) -> &str {
    match registry {
        "docker.io" | "registry-1.docker.io" => DOCKER_KEY,
        registry => registry,
    }
}

/// Old files have URLs as keys.
fn same_host(key: &str, registry: &str) -> bool {
    let Some(rest) = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
    else {
        return false;
    };
    let rest = rest.trim_end_matches('/');
    let host = rest
        .strip_suffix("/v1")
        .or_else(|| rest.strip_suffix("/v2"))
        .unwrap_or(rest);
    host == registry
}

impl AuthEntry {
    fn credential(&self) -> Result<Option<Credential>> {
        if let Some(token) = self
            .identitytoken
            .as_ref()
            .filter(|token| !token.is_empty())
        {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD
                .decode(auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let (user, password) = decoded
                .as_deref()
                .and_then(|text| text.trim_end_matches('\0').split_once(':'))
                .ok_or_else(|| {
                    Error::new(
                        Kind::Input,
                        "the field `auth` is not `user:password` in base64",
                    )
                })?;
            return Ok(Some(password_of(user, password)));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) => Ok(Some(password_of(user, password))),
            _ => Ok(None),
        }
    }
}

fn password_of(user: &str, password: &str) -> Credential {
    if user == TOKEN_USER {
        return Credential::IdentityToken(password.to_owned());
    }
    Credential::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

/// Asks a credential helper (github.com/docker/docker-credential-helpers): the
/// server goes to its standard input, the answer is JSON.
fn ask(helper: &str, server: &str) -> Result<Option<Credential>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    };
    if !is_name(helper) {
        return Err(Error::new(
            Kind::Input,
            format!(
                "`{}` is not the name of a credential helper",
                helper.escape_debug()
            ),
        ));
    }
    let program = format!("docker-credential-{helper}");
    let output = Command::new(&program)
        .arg("get")
        .input(server.as_bytes())
        .output()?;
    if output.code != Some(0) {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(Error::new(Kind::Failed, format!("`{program} get` failed"))
            .hint(format!("`echo {server} | {program} get` shows why")));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| {
        Error::new(
            Kind::Failed,
            format!("`{program} get` did not answer as a credential helper does"),
        )
    })?;
    Ok(Some(password_of(&answer.username, &answer.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (
            directory,
            Credentials::new([PathBuf::from("/nonexistent/auth.json"), path]),
        )
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(password_of(user, password))
    }

    #[test]
    fn dockers_and_skopeos_files_are_understood() {
        // base64 of `u:p`, `v:q:r` and `w:s`
        let (_directory, credentials) = file(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "dTpw"},
                "registry.example.com": {"auth": "djpxOnI="},
                "registry.example.com/team/app": {"auth": "dzpz"},
                "https://old.example.com/v2/": {"auth": "dTpw"},
                "127.0.0.1:5000": {"username": "a", "password": "b"},
                "token.example.com": {"auth": "", "identitytoken": "tok"},
                "empty.example.com": {}
            }, "HttpHeaders": {}}"#,
        );
        for (registry, repository, expected) in [
            ("docker.io", "library/a", password("u", "p")),
            ("registry.example.com", "other/app", password("v", "q:r")),
            ("registry.example.com", "team/app", password("w", "s")),
            ("registry.example.com", "team/app/sub", password("w", "s")),
            ("registry.example.com", "team/apple", password("v", "q:r")),
            ("old.example.com", "x", password("u", "p")),
            ("127.0.0.1:5000", "x", password("a", "b")),
            (
                "token.example.com",
                "x",
                Some(Credential::IdentityToken("tok".into())),
            ),
            ("empty.example.com", "x", None),
            ("example.com", "x", None),
        ] {
            assert_eq!(
                credentials.find(registry, repository).unwrap(),
                expected,
                "{registry}/{repository}"
            );
        }
    }

    #[test]
    fn a_broken_file_is_an_error_that_shows_no_secret() {
        for (text, expected) in [
            (
                "{\"auths\": {\"a.b\": {\"auth\": \"c2VjcmV0\"",
                "is not valid JSON at line 1",
            ),
            (
                "{\"auths\": {\"a.b\": {\"auth\": \"c2VjcmV0\"}}}",
                "no usable credentials for `a.b`",
            ),
            (
                "{\"auths\": {\"a.b\": {\"password\": 5}}}",
                "is not valid JSON",
            ),
        ] {
            let (_directory, credentials) = file(text);
            let error = credentials.find("a.b", "x").unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
        }
        let shown = format!("{:?}", password_of("me", "secret"));
        assert_eq!(shown, "Password(me, …)");
    }

    #[test]
    fn an_empty_file_has_no_credentials() {
        let (_directory, credentials) = file(" \n");
        assert_eq!(credentials.find("a.b", "x").unwrap(), None);
    }

    #[test]
    fn helpers_that_are_no_names_are_not_run() {
        let (_directory, credentials) = file(r#"{"credHelpers": {"a.b": "../../bin/sh"}}"#);
        let error = credentials.find("a.b", "x").unwrap_err();
        assert!(
            error
                .causes()
                .next()
                .unwrap()
                .to_string()
                .contains("is not the name of a credential helper"),
            "{error:?}"
        );
    }

    /// The helper is found in `PATH`, which only a child process may have another
    /// one of; `tests/registry.rs` runs one by way of the program.
    #[test]
    fn a_helper_that_is_missing_is_named() {
        let (_directory, credentials) = file(r#"{"credsStore": "chasi-nonexistent"}"#);
        let error = credentials.find("a.b", "x").unwrap_err();
        let cause = error.causes().next().unwrap().to_string();
        assert_eq!(cause, "cannot run `docker-credential-chasi-nonexistent`");
    }
}
