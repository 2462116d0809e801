//! Logging in: each credential in turn, in the order of the target, until the
//! server is content. Says what was tried when nothing worked.

use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use super::connect::Verifier;
use super::{Credential, Secret, Target};
use crate::error::{Error, Kind, Result, ResultExt};

/// The largest private key file, in bytes; an RSA key of 16384 bits has 13 KiB.
const LARGEST_KEY_FILE: u64 = 1 << 20;

/// How often a server may ask questions before we stop answering.
const MOST_QUESTIONS: usize = 4;

/// Logs in or says why not.
pub(super) async fn log_in(handle: &mut Handle<Verifier>, target: &Target) -> Result<()> {
    let mut attempt = Attempt {
        handle,
        target,
        allowed: None,
        tried: Vec::new(),
    };
    if target.credentials.is_empty() {
        return Err(
            Error::new(Kind::Usage, format!("nothing to log in to `{target}` with"))
                .on_host(&target.name)
                .hint("give a private key (`--key`), a password, or start an ssh-agent"),
        );
    }
    for credential in &target.credentials {
        let done = match credential {
            Credential::Agent(socket) => attempt.agent(socket).await?,
            Credential::KeyFile { path, passphrase } => {
                attempt.key_file(path, passphrase.as_ref()).await?
            }
            Credential::Password(password) => attempt.password(password).await?,
        };
        if done {
            return Ok(());
        }
    }
    Err(attempt.refused())
}

struct Attempt<'a> {
    handle: &'a mut Handle<Verifier>,
    target: &'a Target,
    /// The methods that the server still takes, once it has told.
    allowed: Option<MethodSet>,
    /// What was tried, for the error.
    tried: Vec<String>,
}

impl Attempt<'_> {
    fn allows(&self, method: MethodKind) -> bool {
        self.allowed
            .as_ref()
            .is_none_or(|allowed| allowed.contains(&method))
    }

    /// Notes the server's answer; true when we are in.
    fn answered(&mut self, what: String, result: AuthResult) -> bool {
        match result {
            AuthResult::Success => true,
            AuthResult::Failure {
                remaining_methods,
                partial_success,
            } => {
                // A second factor is wanted: what comes next may be it.
                let outcome = if partial_success {
                    "accepted, but more is asked for"
                } else {
                    "refused"
                };
                self.tried.push(format!("{what}: {outcome}"));
                self.allowed = Some(remaining_methods);
                false
            }
        }
    }

    async fn key_file(
        &mut self,
        path: &std::path::Path,
        passphrase: Option<&Secret>,
    ) -> Result<bool> {
        let key = read_key(path, passphrase).map_err(|error| error.on_host(&self.target.name))?;
        if !self.allows(MethodKind::PublicKey) {
            self.tried.push(format!(
                "key `{}`: the server takes no keys",
                path.display()
            ));
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let result = self
            .handle
            .authenticate_publickey(&self.target.user, key)
            .await;
        let result = self.told(result)?;
        Ok(self.answered(format!("key `{}`", path.display()), result))
    }

    async fn agent(&mut self, socket: &std::path::Path) -> Result<bool> {
        let unusable = |target: &Target| {
            let message = format!("cannot use the ssh-agent at `{}`", socket.display());
            let name = target.name.clone();
            move |cause: russh::keys::Error| {
                Error::new(Kind::Unreachable, message)
                    .because(cause)
                    .on_host(name)
                    .hint("look with `ssh-add -l` whether it runs and holds keys")
            }
        };
        let mut agent = AgentClient::connect_uds(socket)
            .await
            .map_err(unusable(self.target))?;
        let identities = agent
            .request_identities()
            .await
            .map_err(unusable(self.target))?;
        if identities.is_empty() {
            self.tried.push("ssh-agent: it holds no keys".to_owned());
        }
        for identity in identities {
            if !self.allows(MethodKind::PublicKey) {
                break;
            }
            let AgentIdentity::PublicKey { key, comment } = identity else {
                continue;
            };
            let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
            let what = format!("ssh-agent's key `{comment}`");
            match self
                .handle
                .authenticate_publickey_with(&self.target.user, key, hash, &mut agent)
                .await
            {
                Ok(result) if self.answered(what.clone(), result.clone()) => return Ok(true),
                Ok(_) => {}
                // An agent may refuse one key (`ssh-add -c`) and sign with the next.
                Err(error) => self.tried.push(format!("{what}: {error}")),
            }
        }
        Ok(false)
    }

    async fn password(&mut self, password: &Secret) -> Result<bool> {
        if self.allows(MethodKind::Password) {
            let result = self
                .handle
                .authenticate_password(&self.target.user, password.reveal())
                .await;
            let result = self.told(result)?;
            if self.answered("password".to_owned(), result) {
                return Ok(true);
            }
        }
        // PAM-only servers have the password asked for as a question.
        if self.allows(MethodKind::KeyboardInteractive) {
            return self.questions(password).await;
        }
        Ok(false)
    }

    async fn questions(&mut self, password: &Secret) -> Result<bool> {
        let start = self
            .handle
            .authenticate_keyboard_interactive_start(&self.target.user, None)
            .await;
        let mut answer = self.told(start)?;
        for _ in 0..MOST_QUESTIONS {
            match answer {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                } => {
                    let result = AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    };
                    return Ok(self.answered("keyboard-interactive password".to_owned(), result));
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    // A password is what is not shown while it is typed; anything
                    // else (a one-time code, a choice) we cannot answer.
                    if prompts.len() > 1 || prompts.iter().any(|prompt| prompt.echo) {
                        self.tried.push(
                            "keyboard-interactive: it asks for more than a password".to_owned(),
                        );
                        return Ok(false);
                    }
                    let answers = prompts
                        .iter()
                        .map(|_| password.reveal().to_owned())
                        .collect();
                    let next = self
                        .handle
                        .authenticate_keyboard_interactive_respond(answers)
                        .await;
                    answer = self.told(next)?;
                }
            }
        }
        self.tried
            .push("keyboard-interactive: it does not stop asking".to_owned());
        Ok(false)
    }

    /// The strongest RSA signature that the server takes.
    async fn rsa_hash(&mut self, is_rsa: bool) -> Result<Option<HashAlg>> {
        if !is_rsa {
            return Ok(None);
        }
        let best = self.handle.best_supported_rsa_hash().await;
        // A server that does not say understands SHA-2 unless it is older than 2016.
        Ok(self.told(best)?.unwrap_or(Some(HashAlg::Sha256)))
    }

    fn told<T>(&self, result: Result<T, russh::Error>) -> Result<T> {
        result
            .or_err(Kind::Unreachable, || {
                format!("the connection ended while logging in to `{}`", self.target)
            })
            .map_err(|error| error.on_host(&self.target.name))
    }

    fn refused(self) -> Error {
        let target = self.target;
        // A host that does not answer may be left for later; a wrong key or password
        // is to be mended.
        let mut error = Error::new(
            Kind::Check,
            format!("`{}` does not let `{}` in", target.address, target.user),
        )
        .on_host(&target.name)
        .because(self.tried.join("; "));
        if let Some(allowed) = self.allowed.filter(|allowed| !allowed.is_empty()) {
            let names: Vec<_> = allowed.iter().map(<&str>::from).collect();
            error = error.hint(format!("the server takes: {}", names.join(", ")));
        }
        error.hint(format!(
            "try by hand: `ssh -p {} {}@{}`; the public key belongs into `~{}/.ssh/authorized_keys` there",
            target.port, target.user, target.address, target.user
        ))
    }
}

fn read_key(path: &std::path::Path, passphrase: Option<&Secret>) -> Result<PrivateKey> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .or_err(Kind::Input, || format!("cannot read the key `{shown}`"))
        .map_err(|error| {
            error.hint("name the private key: `identityFiles` below `ssh`, or `--key`")
        })?
        .len();
    if size > LARGEST_KEY_FILE {
        return Err(Error::new(
            Kind::Input,
            format!("`{shown}` is too large for a private key"),
        ));
    }
    let text = std::fs::read_to_string(path)
        .or_err(Kind::Input, || format!("cannot read the key `{shown}`"))?;
    use russh::keys::Error as KeyError;
    match russh::keys::decode_secret_key(&text, passphrase.map(Secret::reveal)) {
        Ok(key) => Ok(key),
        Err(KeyError::KeyIsEncrypted) => Err(Error::new(Kind::Input, format!("the key `{shown}` is encrypted, and no passphrase was given"))
            .hint("give the passphrase, or load the key into an ssh-agent with `ssh-add`")),
        Err(cause) if passphrase.is_some() => {
            Err(Error::new(Kind::Input, format!("cannot decrypt the key `{shown}` with the passphrase given")).because(cause))
        }
        Err(cause) => Err(Error::new(Kind::Input, format!("`{shown}` is not a private key that chasi can read"))
            .because(cause)
            .hint("it can read OpenSSH, PKCS#1, PKCS#8 and PuTTY keys; `ssh-keygen -p -f FILE` rewrites a key as OpenSSH")),
    }
}
