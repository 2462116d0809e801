//! Who can read a backup: age's recipients, and their identities. An identity is a
//! secret; it is kept as a text that nothing shows.

use std::io::{self, Read};

use crate::error::{Error, Kind, Result};
use crate::remote::Secret;

/// Public keys that a backup is encrypted for; without any, it is not.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<String>);

impl Recipients {
    /// Nobody: anyone who has the file can read it.
    pub fn none() -> Self {
        Recipients(Vec::new())
    }

    /// From their texts, `age1…`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for one that is not of this form.
    pub fn parse(texts: &[String]) -> Result<Self> {
        for text in texts {
            text.parse::<age::x25519::Recipient>().map_err(|cause| {
                Error::new(Kind::Usage, format!("`{text}` is no recipient"))
                    .because(cause)
                    .hint("a recipient is the public key that `age-keygen` prints: `age1…`")
            })?;
        }
        Ok(Recipients(texts.to_vec()))
    }

    /// Whether a backup is encrypted.
    pub fn encrypts(&self) -> bool {
        !self.0.is_empty()
    }

    pub(super) fn encryptor(&self) -> io::Result<Option<age::Encryptor>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let keys: Vec<age::x25519::Recipient> = self
            .0
            .iter()
            .map(|text| text.parse().map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        let keys = keys.iter().map(|key| key as &dyn age::Recipient);
        age::Encryptor::with_recipients(keys)
            .map(Some)
            .map_err(io::Error::other)
    }
}

/// The private keys that a backup may be for.
#[derive(Clone, Debug)]
pub struct Identities(Option<Secret>);

impl Identities {
    /// None.
    pub fn none() -> Self {
        Identities(None)
    }

    /// The text of a file as `age-keygen` writes it.
    pub fn new(text: Secret) -> Self {
        Identities(Some(text))
    }

    /// What is behind age's header.
    pub(super) fn decrypt<R: Read>(&self, source: R) -> Result<age::stream::StreamReader<R>> {
        let refused = |message: &str| {
            Error::new(Kind::Input, message.to_owned())
                .hint("name the file with its private key: `--identity FILE`")
        };
        let Some(text) = &self.0 else {
            return Err(refused("the backup is encrypted"));
        };
        let file = age::IdentityFile::from_buffer(text.reveal().as_bytes());
        let keys = file.ok().and_then(|file| file.into_identities().ok());
        // What it says of the file may be a part of it.
        let keys = keys.ok_or_else(|| {
            Error::new(Kind::Input, "the file of identities cannot be understood")
                .hint("`age-keygen -o FILE` writes such a file: a line `AGE-SECRET-KEY-1…`")
        })?;
        let decryptor = age::Decryptor::new(source).map_err(|cause| {
            Error::new(
                Kind::Integrity,
                "the backup's encryption cannot be understood",
            )
            .because(cause)
        })?;
        decryptor
            .decrypt(keys.iter().map(|key| &**key))
            .map_err(|cause| match cause {
                age::DecryptError::NoMatchingKeys => {
                    refused("the backup is encrypted for somebody else")
                }
                cause => {
                    Error::new(Kind::Integrity, "the backup cannot be decrypted").because(cause)
                }
            })
    }
}
