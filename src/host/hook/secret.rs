//! Secrets among a plugin's settings. A plugin reads them on its input; of what it
//! says they are taken out again, and what is remembered of them is a salted digest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Kind, Result, ResultExt};
use crate::spec::plugin::SettingName;

/// What takes a secret's place in what a plugin says.
const HIDDEN: &str = "[secret]";

/// The value of a secret setting. It is never shown.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// The secrets of a plugin, by setting.
pub type Secrets = BTreeMap<SettingName, Secret>;

/// What is remembered of a secret: enough to know it again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    salt: Digest,
    digest: Digest,
}

impl Sealed {
    fn new(secret: &Secret) -> Result<Self> {
        let mut random = [0; 32];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .or_err(Kind::System, || "cannot read `/dev/urandom`")?;
        let salt = Digest::of(random);
        Ok(Sealed {
            digest: digest(&salt, secret),
            salt,
        })
    }

    fn is(&self, secret: &Secret) -> bool {
        digest(&self.salt, secret) == self.digest
    }
}

fn digest(salt: &Digest, secret: &Secret) -> Digest {
    Digest::of(format!("{salt}\n{}", secret.0))
}

/// What is remembered of secrets.
pub(super) fn seal(secrets: &Secrets) -> Result<BTreeMap<SettingName, Sealed>> {
    let sealed = |(name, secret): (&SettingName, &Secret)| Ok((name.clone(), Sealed::new(secret)?));
    secrets.iter().map(sealed).collect()
}

/// Whether the secrets are those that are remembered.
pub(super) fn are_known(sealed: &BTreeMap<SettingName, Sealed>, secrets: &Secrets) -> bool {
    sealed.len() == secrets.len()
        && secrets
            .iter()
            .all(|(name, secret)| sealed.get(name).is_some_and(|sealed| sealed.is(secret)))
}

/// A text without the secrets, as they are and as they stand in JSON.
pub(super) fn hide(text: &str, secrets: &Secrets) -> String {
    let mut hidden = text.to_owned();
    for secret in secrets.values().filter(|secret| !secret.0.is_empty()) {
        hidden = hidden.replace(&secret.0, HIDDEN);
        let quoted = serde_json::Value::from(secret.0.as_str()).to_string();
        hidden = hidden.replace(quoted.trim_matches('"'), HIDDEN);
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Secrets {
        [("key".parse().unwrap(), Secret::new(text))].into()
    }

    #[test]
    fn it_is_known_again_and_never_shown() {
        let once = seal(&secrets("s3cret")).unwrap();
        let again = seal(&secrets("s3cret")).unwrap();
        assert_ne!(once, again, "the salt is another one");
        assert!(are_known(&once, &secrets("s3cret")));
        assert!(!are_known(&once, &secrets("s3cret ")));
        assert!(!are_known(&once, &Secrets::new()));
        assert!(!are_known(&Default::default(), &secrets("s3cret")));
        assert!(!format!("{:?}", secrets("s3cret")).contains("s3cret"));
        assert!(!serde_json::to_string(&once).unwrap().contains("s3cret"));
    }

    #[test]
    fn it_is_taken_out_of_texts_also_as_json_has_it() {
        let text = r#"key a"b! and {"message":"a\"b!"}"#;
        let hidden = hide(text, &secrets(r#"a"b!"#));
        assert_eq!(hidden, r#"key [secret] and {"message":"[secret]"}"#);
        assert_eq!(hide("text", &secrets("")), "text");
    }
}
