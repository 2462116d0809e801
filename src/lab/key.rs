//! Fresh SSH keys: one pair for the lab, one for each host.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use russh::keys::HashAlg;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, PrivateKey};

use crate::error::{Kind, Result, ResultExt};

/// An Ed25519 key pair in the forms in which OpenSSH's files hold it.
pub struct Pair {
    /// The content of a private key file, unencrypted.
    pub private: String,
    /// A public key as one line without line end: `ssh-ed25519 AAAA…`, for
    /// `authorized_keys` and, behind a host's name, `known_hosts`.
    pub public: String,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
}

impl Pair {
    /// A new random pair.
    pub fn generate() -> Result<Pair> {
        Pair::of(&PrivateKey::from(Ed25519Keypair::from_seed(&random()?)))
    }

    /// The pair in an unencrypted private key file.
    pub fn read(path: &Path) -> Result<Pair> {
        let failed = || format!("cannot read the SSH key `{}`", path.display());
        let text = fs::read_to_string(path).or_err(Kind::System, failed)?;
        Pair::of(&PrivateKey::from_openssh(text).or_err(Kind::Input, failed)?)
    }

    fn of(key: &PrivateKey) -> Result<Pair> {
        let failed = || "cannot make an SSH key";
        Ok(Pair {
            private: key
                .to_openssh(LineEnding::LF)
                .or_err(Kind::Failed, failed)?
                .to_string(),
            public: key.public_key().to_openssh().or_err(Kind::Failed, failed)?,
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        })
    }
}

/// Bytes from the kernel's random number generator.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .or_err(Kind::System, || "cannot read `/dev/urandom`")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_openssh_reads() {
        let pair = Pair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, &pair.private).unwrap();
        let read = Pair::read(&path).unwrap();
        assert_eq!(
            (&read.public, &read.fingerprint),
            (&pair.public, &pair.fingerprint)
        );
        assert!(pair.public.starts_with("ssh-ed25519 AAAA"));
        assert!(!pair.public.contains('\n'));
        assert!(pair.fingerprint.starts_with("SHA256:"));
        assert_ne!(Pair::generate().unwrap().public, pair.public);
    }
}
