//! How to get into hosts: what the cluster says, what a host says over it, and
//! the defaults.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::decode::At;
use super::problem::{Problem, Problems};
use super::shape;
use crate::spec::cluster::{HostKey, Identities, Jump, Login, Privilege, SecretSource, Ssh};
use crate::spec::name::{EnvironmentName, UserName};

/// Where paths of a file start.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The directory of the file.
    pub base: &'a Path,
    /// The home directory of the user, when there is one.
    pub home: Option<&'a Path>,
}

impl Places<'_> {
    /// A path as it was written, from where it starts.
    pub(super) fn resolve(
        &self,
        path: &str,
        span: &Range<usize>,
        problems: &Problems<'_>,
    ) -> Option<PathBuf> {
        if path.is_empty() {
            problems.say(span, "the path is empty");
            return None;
        }
        match path.strip_prefix("~/") {
            None if path.starts_with('~') => {
                problems.add(
                    Problem::new(
                        span.clone(),
                        format!("`{path}` names the home of another user"),
                    )
                    .hint("write the path out"),
                );
                None
            }
            None => Some(self.base.join(path)),
            Some(rest) => match self.home {
                Some(home) => Some(home.join(rest)),
                None => {
                    problems.add(
                        Problem::new(span.clone(), "there is no home directory for `~`")
                            .hint("set `HOME`, or write the path out"),
                    );
                    None
                }
            },
        }
    }

    fn usual(&self, names: &[&str]) -> Vec<PathBuf> {
        let in_home = |name: &&str| self.home.map(|home| home.join(".ssh").join(name));
        names.iter().filter_map(in_home).collect()
    }

    fn identities(&self) -> Identities {
        Identities::Usual(self.usual(&["id_ed25519", "id_ecdsa", "id_rsa"]))
    }

    fn known_hosts(&self) -> HostKey {
        let mut files = self.usual(&["known_hosts"]);
        files.push(PathBuf::from("/etc/ssh/ssh_known_hosts"));
        HostKey::KnownHosts(files)
    }
}

/// The user `root`.
pub(super) fn root() -> Option<UserName> {
    "root".parse().ok()
}

/// What a host that says nothing gets.
pub(super) fn default_login(places: Places<'_>) -> Option<Login> {
    Some(Login {
        user: root()?,
        port: 22,
        identities: places.identities(),
        passphrase: None,
        agent: true,
        password: None,
        host_key: places.known_hosts(),
    })
}

/// How `user` becomes root when nothing else is said.
pub(super) fn default_privilege(user: &UserName) -> Privilege {
    match user.as_str() {
        "root" => Privilege::Root,
        _ => Privilege::Sudo(None),
    }
}

/// The fields that hosts and jump hosts have in common.
struct Fields<'a> {
    user: &'a Option<At<UserName>>,
    port: &'a Option<At<shape::Port>>,
    identity_files: &'a Option<At<Vec<At<String>>>>,
    passphrase: (&'a Option<At<String>>, &'a Option<At<EnvironmentName>>),
    agent: &'a Option<At<bool>>,
    password: (&'a Option<At<String>>, &'a Option<At<EnvironmentName>>),
    known_hosts: &'a Option<At<Vec<At<String>>>>,
    host_key: &'a Option<At<crate::spec::certificate::Fingerprint>>,
}

macro_rules! fields {
    ($shape:expr) => {
        Fields {
            user: &$shape.user,
            port: &$shape.port,
            identity_files: &$shape.identity_files,
            passphrase: (&$shape.passphrase_file, &$shape.passphrase_env),
            agent: &$shape.agent,
            password: (&$shape.password_file, &$shape.password_env),
            known_hosts: &$shape.known_hosts,
            host_key: &$shape.host_key,
        }
    };
}

/// Reads access from shapes.
pub(super) struct Reader<'a> {
    pub(super) places: Places<'a>,
    pub(super) problems: &'a Problems<'a>,
}

impl Reader<'_> {
    /// What the whole cluster says, over the defaults.
    pub(super) fn cluster(&self, shape: Option<&shape::Ssh>) -> Option<Ssh> {
        let login = default_login(self.places)?;
        let defaults = Ssh {
            privilege: default_privilege(&login.user),
            login,
            jump: None,
        };
        Some(match shape {
            Some(shape) => self.over(&defaults, shape),
            None => defaults,
        })
    }

    /// `shape` over `under`.
    pub(super) fn over(&self, under: &Ssh, shape: &shape::Ssh) -> Ssh {
        let login = self.login(&under.login, &fields!(shape));
        let asked = shape.sudo.as_ref().and_then(At::get);
        let privilege = match (login.user.as_str(), asked, &under.privilege) {
            ("root", ..) => Privilege::Root,
            (_, Some(sudo), _) => {
                Privilege::Sudo(self.secret(&sudo.password_file, &sudo.password_env))
            }
            (_, None, Privilege::Sudo(password)) => Privilege::Sudo(password.clone()),
            (_, None, Privilege::Root) => Privilege::Sudo(None),
        };
        let jump = match shape.jump.as_ref().and_then(At::get) {
            Some(jump) => self.jump(&login, jump),
            None => under.jump.clone(),
        };
        Ssh {
            login,
            privilege,
            jump,
        }
    }

    fn jump(&self, login: &Login, shape: &shape::Jump) -> Option<Jump> {
        // Passwords and the fingerprint belong to a host; keys to the person.
        let under = Login {
            port: 22,
            password: None,
            host_key: match &login.host_key {
                HostKey::Fingerprint(_) => self.places.known_hosts(),
                known_hosts => known_hosts.clone(),
            },
            ..login.clone()
        };
        Some(Jump {
            address: shape.address.get()?.clone(),
            login: self.login(&under, &fields!(shape)),
        })
    }

    fn login(&self, under: &Login, fields: &Fields<'_>) -> Login {
        let Login {
            user,
            port,
            identities,
            passphrase,
            agent,
            password,
            host_key,
        } = under.clone();
        Login {
            user: given(fields.user).unwrap_or(user),
            port: given(fields.port).map_or(port, |port| port.0),
            identities: self
                .paths(fields.identity_files)
                .map_or(identities, Identities::Named),
            passphrase: self
                .secret(fields.passphrase.0, fields.passphrase.1)
                .or(passphrase),
            agent: given(fields.agent).unwrap_or(agent),
            password: self
                .secret(fields.password.0, fields.password.1)
                .or(password),
            host_key: match given(fields.host_key) {
                Some(fingerprint) => HostKey::Fingerprint(fingerprint),
                None => self
                    .paths(fields.known_hosts)
                    .map_or(host_key, HostKey::KnownHosts),
            },
        }
    }

    fn paths(&self, paths: &Option<At<Vec<At<String>>>>) -> Option<Vec<PathBuf>> {
        let paths = paths.as_ref()?.get()?;
        Some(
            paths
                .iter()
                .filter_map(|path| self.places.resolve(path.get()?, &path.span, self.problems))
                .collect(),
        )
    }

    fn secret(
        &self,
        file: &Option<At<String>>,
        variable: &Option<At<EnvironmentName>>,
    ) -> Option<SecretSource> {
        match (file, variable) {
            (Some(_), Some(variable)) => {
                self.problems.add(
                    Problem::new(
                        variable.span.clone(),
                        "the secret comes from a file and from a variable",
                    )
                    .hint("keep one of the two"),
                );
                None
            }
            (Some(file), None) => self
                .places
                .resolve(file.get()?, &file.span, self.problems)
                .map(SecretSource::File),
            (None, variable) => given(variable).map(SecretSource::Environment),
        }
    }
}

fn given<T: Clone>(field: &Option<At<T>>) -> Option<T> {
    field.as_ref()?.get().cloned()
}
