//! Deciding whether a host is the one that was meant.

use std::path::PathBuf;

use russh::keys::{Algorithm, HashAlg, PublicKey};

use super::known_hosts::{Known, Verdict};
use super::{DEFAULT_PORT, Target};
use crate::error::{Error, Kind, Result};

/// How a host's key is verified.
#[derive(Clone, Debug)]
pub enum HostKeyPolicy {
    /// It must be listed in one of these `known_hosts` files.
    KnownHosts(Vec<PathBuf>),
    /// It must have this fingerprint: `SHA256:` and 43 base64 characters, as
    /// `ssh-keygen -l` prints it.
    Fingerprint(String),
}

/// The policy, with everything read that it needs.
pub(super) enum Judge {
    Known { known: Known, files: Vec<PathBuf> },
    Fingerprint(String),
}

impl Judge {
    /// Reads what the policy names.
    pub fn new(target: &Target) -> Result<Judge> {
        match &target.host_key {
            HostKeyPolicy::KnownHosts(files) => Ok(Judge::Known {
                known: Known::read(files, &target.address, target.port)?,
                files: files.clone(),
            }),
            HostKeyPolicy::Fingerprint(wanted) => {
                // Some tools pad the base64, OpenSSH does not.
                let plain = wanted.trim().trim_end_matches('=');
                match plain.parse::<russh::keys::ssh_key::Fingerprint>() {
                    Ok(parsed) if parsed.algorithm() == HashAlg::Sha256 => Ok(Judge::Fingerprint(parsed.to_string())),
                    _ => Err(Error::new(Kind::Input, format!("`{wanted}` is not a host key's fingerprint"))
                        .hint("it looks like `SHA256:` and 43 letters and digits; `ssh-keyscan HOST | ssh-keygen -lf -` prints it")),
                }
            }
        }
    }

    /// Host key algorithms in the order to ask for them: those we can verify
    /// first, so that a host with several keys shows one that we know.
    pub fn preferred(&self, all: &[Algorithm]) -> Vec<Algorithm> {
        let Judge::Known { known, .. } = self else {
            return all.to_vec();
        };
        let types: Vec<_> = known.key_types().collect();
        let listed = |algorithm: &Algorithm| types.iter().any(|known| same_key(known, algorithm));
        let (mut first, rest): (Vec<_>, Vec<_>) = all.iter().cloned().partition(listed);
        first.extend(rest);
        first
    }

    /// Whether asking the host for another kind of key may help: its
    /// fingerprint is known, but not the kind of the key.
    pub fn may_try_other_kinds(&self) -> bool {
        matches!(self, Judge::Fingerprint(_))
    }

    /// Accepts or refuses the key.
    pub fn check(&self, target: &Target, key: &PublicKey) -> Result<()> {
        let shown = key.fingerprint(HashAlg::Sha256).to_string();
        match self {
            Judge::Fingerprint(wanted) if *wanted == shown => Ok(()),
            Judge::Fingerprint(wanted) => Err(refuse(target, key, format!(
                "`{}` shows the host key `{shown}`, but `{wanted}` is expected",
                target.address
            ))
            .hint("somebody may be listening in between, or the host was installed anew: compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host's console")
            .hint(format!("if it is the right host, write `hostKey: {shown}` for it in the Clusterfile"))),
            Judge::Known { known, files } => match known.judge(key) {
                Verdict::Trusted => Ok(()),
                Verdict::Revoked(place) => Err(refuse(target, key, format!(
                    "the host key `{shown}` of `{}` is revoked by `{place}`",
                    target.address
                ))),
                Verdict::Changed(place) => Err(refuse(target, key, format!(
                    "THE HOST KEY OF `{}` HAS CHANGED: it shows `{shown}`, which is not the key in `{place}`",
                    target.address
                ))
                .hint("somebody may be listening in between, or the host was installed anew: compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host's console")
                .hint(format!("if it is the right host, remove the old key with `ssh-keygen -R {} -f {}` and add the new one",
                    known_hosts_name(target), super::quote(&place.path.display().to_string())))),
                Verdict::Unknown { authority } => Err(unknown(target, key, &shown, files, authority.map(|place| place.to_string()))),
            },
        }
    }
}

fn unknown(
    target: &Target,
    key: &PublicKey,
    shown: &str,
    files: &[PathBuf],
    authority: Option<String>,
) -> Error {
    let mut error = refuse(
        target,
        key,
        format!(
            "the host key of `{}` is not known: it is `{shown}`",
            target.address
        ),
    );
    if let Some(place) = authority {
        error = error.hint(format!("`{place}` trusts an authority (`@cert-authority`); chasi does not verify host certificates"));
    }
    error = error.hint(format!(
        "if this is the right host, write `hostKey: {shown}` for it in the Clusterfile"
    ));
    match files.first() {
        Some(file) if target.jump.is_none() => error.hint(format!(
            "or type `ssh-keyscan -p {} {} >> {}`, and compare the fingerprint",
            target.port,
            target.address,
            super::quote(&file.display().to_string())
        )),
        _ => error,
    }
}

fn refuse(target: &Target, key: &PublicKey, message: String) -> Error {
    // A host that does not answer may be left for later; one that is another than
    // was meant ends the run.
    Error::new(Kind::Check, message)
        .on_host(&target.name)
        .because(format!(
            "its key is of the type `{}`",
            key.algorithm().as_str()
        ))
}

fn known_hosts_name(target: &Target) -> String {
    match target.port {
        DEFAULT_PORT => target.address.clone(),
        port => super::quote(&format!("[{}]:{port}", target.address)),
    }
}

/// RSA keys are one type with several signature algorithms.
fn same_key(a: &Algorithm, b: &Algorithm) -> bool {
    a == b || matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}
