//! Secrets that must never be shown, however they got into a text.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use crate::event::Event;

/// Shorter ones would also be found inside of ordinary words.
const SHORTEST: usize = 4;

/// Known secrets.
#[derive(Default)]
pub(super) struct Secrets(RwLock<Vec<String>>);

impl Secrets {
    pub(super) fn add(&self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .push(secret.to_owned());
        }
    }

    /// The text with `***` for each secret and for each private key.
    pub(super) fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), "***"));
            }
        }
        hide_keys(text)
    }

    pub(super) fn hide_in(&self, mut event: Event) -> Event {
        let replace = |text: &mut String| {
            if let Cow::Owned(hidden) = self.hide(text) {
                *text = hidden;
            }
        };
        match &mut event {
            Event::StepStarted { step, .. } | Event::StepEnded { step, .. } => replace(step),
            Event::Note { text, .. } | Event::Warning { text, .. } | Event::Detail { text, .. } => {
                replace(text);
            }
            Event::PhaseStarted { .. }
            | Event::PhaseEnded { .. }
            | Event::Progress { .. }
            | Event::Counted { .. } => {}
        }
        event
    }
}

/// Takes away what is between the lines `-----BEGIN … PRIVATE KEY-----` and
/// `-----END`.
fn hide_keys(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("PRIVATE KEY-----") {
        return text;
    }
    let mut shown = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY-----") {
            inside = true;
            shown.push_str("*** (a private key)\n");
        } else if inside {
            inside = !line.contains("-----END");
        } else {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_private_keys_are_hidden() {
        let secrets = Secrets::default();
        secrets.add("hunter2");
        secrets.add("a");
        let text = "sudo: hunter2 is wrong\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nafter";
        assert_eq!(
            secrets.hide(text),
            "sudo: *** is wrong\n*** (a private key)\nafter\n"
        );
        let event = secrets.hide_in(Event::Detail {
            host: None,
            text: "say hunter2".into(),
        });
        assert!(!serde_json::to_string(&event).unwrap().contains("hunter2"));
    }
}
