//! Plugins: what one says of itself, and which of an image's run on a host.
//!
//! ```text
//! chasi/hooks/NAME/plugin.yaml   the manifest
//! chasi/hooks/NAME/run           the executable; other files may lie beside it
//! ```
//!
//! `chasi build` reads the manifest and keeps it as the label
//! `dev.chasi.plugin.NAME` of the image, so that a plan can be made without the
//! image's layers. A manifest is the same document in YAML and in JSON.
//!
//! Invariants of a [`Manifest`], kept because only this module makes one: it has a
//! phase, its times and texts are bounded, and its defaults are what its settings
//! take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::clusterfile::{Node, Problem, Problems, decode, documents, nearest};
use super::name;
use super::text::{Invalid, checked_text};
use crate::error::{Error, Kind, Result, ResultExt};

mod select;

pub use select::{Selected, select};

/// Where plugins lie in an image.
pub const DIRECTORY: &str = "chasi/hooks/";
/// The manifest's name in a plugin's directory.
pub const MANIFEST: &str = "plugin.yaml";
/// The executable's name in a plugin's directory.
pub const EXECUTABLE: &str = "run";
/// What the label of an image that holds a manifest begins with.
pub const LABEL: &str = "dev.chasi.plugin.";
/// The largest manifest, in bytes.
pub const LIMIT: u64 = 64 << 10;

/// The longest text of a manifest or a setting, in bytes.
const TEXT: usize = 4096;
/// How many settings, items of a list, or changes there may be.
const MANY: usize = 64;
/// The longest that a plugin may be given, in seconds.
const LONGEST: u16 = 3600;

checked_text!(
    /// The name of a plugin.
    PluginName,
    plugin_name,
    "Lower-case letters, digits and `-`, at most 40 characters."
);
checked_text!(
    /// The name of a plugin's setting.
    SettingName,
    setting_name,
    "Lower-case letters, digits and `-`, beginning with a letter."
);

fn plugin_name(text: &str) -> Result<(), Invalid> {
    if name::label(text) && text.len() <= 40 {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a plugin's name: at most 40 lower-case letters, digits and `-`, \
         with a letter or digit at both ends"
    )))
}

fn setting_name(text: &str) -> Result<(), Invalid> {
    if name::label(text) && text.len() <= 40 && text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "`{text}` is not a setting's name: at most 40 lower-case letters, digits and `-`, \
         beginning with a letter"
    )))
}

impl SettingName {
    /// The environment variable that a plugin finds it in.
    pub fn variable(&self) -> String {
        let name = self.as_str().to_ascii_uppercase().replace('-', "_");
        format!("CHASI_SETTING_{name}")
    }
}

/// When a plugin runs.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Before the host's programs and files become those of the image.
    BeforeHost,
    /// When they are, and the services run.
    AfterHost,
    /// Before kubelet and the control plane start.
    BeforeJoin,
    /// When the host is a node of the cluster.
    AfterJoin,
    /// Before pods are moved away from the node.
    BeforeDrain,
    /// When they are.
    AfterDrain,
    /// Before the cluster is taken off the host.
    BeforeLeave,
    /// When the host is as it was before.
    AfterLeave,
}

impl Phase {
    /// All phases, in the order of a host's life.
    pub const ALL: [Phase; 8] = [
        Phase::BeforeHost,
        Phase::AfterHost,
        Phase::BeforeJoin,
        Phase::AfterJoin,
        Phase::BeforeDrain,
        Phase::AfterDrain,
        Phase::BeforeLeave,
        Phase::AfterLeave,
    ];

    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Phase::BeforeHost => "before-host",
            Phase::AfterHost => "after-host",
            Phase::BeforeJoin => "before-join",
            Phase::AfterJoin => "after-join",
            Phase::BeforeDrain => "before-drain",
            Phase::AfterDrain => "after-drain",
            Phase::BeforeLeave => "before-leave",
            Phase::AfterLeave => "after-leave",
        }
    }

    /// Whether what a plugin makes so in this phase is to stay so: every run checks
    /// it, and leaving the host undoes it. In the other phases it does something
    /// once, at that moment.
    pub fn lasts(self) -> bool {
        matches!(
            self,
            Phase::BeforeHost | Phase::AfterHost | Phase::BeforeJoin | Phase::AfterJoin
        )
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// On which hosts a plugin runs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// On control planes.
    ControlPlane,
    /// On hosts that run ordinary pods.
    Worker,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum ApiVersion {
    #[serde(rename = "chasi.dev/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum DocumentKind {
    Plugin,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    api_version: ApiVersion,
    kind: DocumentKind,
    /// Its name, which is also its directory's.
    pub name: PluginName,
    /// What it does, in a sentence.
    pub description: String,
    /// When it runs; at least once.
    pub phases: BTreeSet<Phase>,
    /// On which hosts. Default: all.
    #[serde(default = "all_roles")]
    pub roles: BTreeSet<Role>,
    /// How long it may take, in seconds; then it is ended. Default: 60.
    #[serde(default = "minute")]
    pub timeout_seconds: u16,
    /// Whether it knows `undo`.
    pub undo: bool,
    /// Whether it runs where the Clusterfile does not name it. Default: off.
    #[serde(default)]
    pub default: Switch,
    /// What it may change, for the plan.
    #[serde(default)]
    pub changes: Changes,
    /// What it takes.
    #[serde(default)]
    pub settings: BTreeMap<SettingName, Setting>,
}

fn all_roles() -> BTreeSet<Role> {
    [Role::ControlPlane, Role::Worker].into()
}

fn minute() -> u16 {
    60
}

/// Whether something is on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    #[default]
    Off,
}

/// What a plugin may change on a host.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    /// Files and directories; `*` may stand for a part.
    pub paths: Vec<String>,
    /// systemd's units.
    pub units: Vec<String>,
    /// Kernel parameters; `*` may stand for a part.
    pub sysctls: Vec<String>,
    /// Anything else, in a few words.
    pub other: Vec<String>,
}

impl Changes {
    fn all(&self) -> impl Iterator<Item = &String> {
        let named = self.paths.iter().chain(&self.units).chain(&self.sysctls);
        named.chain(&self.other)
    }

    /// All of it in a line; empty when there is nothing.
    pub fn describe(&self) -> String {
        self.all().cloned().collect::<Vec<_>>().join(", ")
    }
}

/// A setting that a plugin takes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: SettingKind,
    /// What it is for, in a sentence.
    pub description: String,
    /// Its value where none is given. Without, one must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<SettingValue>,
    /// The texts that it, or an item of it, can be. None: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What a setting is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SettingKind {
    /// A line of text.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Lines of text.
    List,
    /// A line of text that nobody is to see: the Clusterfile says where it comes from.
    Secret,
}

impl fmt::Display for SettingKind {
    /// With its article, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SettingKind::Text => "text",
            SettingKind::Integer => "a whole number",
            SettingKind::Boolean => "`true` or `false`",
            SettingKind::List => "a list of texts",
            SettingKind::Secret => "a secret",
        })
    }
}

/// The value of a setting.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum SettingValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A line of text.
    Text(String),
    /// Lines of text.
    List(Vec<String>),
}

/// The values of a plugin's settings, every one of them.
pub type Settings = BTreeMap<SettingName, SettingValue>;

impl SettingValue {
    fn kind(&self) -> SettingKind {
        match self {
            SettingValue::Boolean(_) => SettingKind::Boolean,
            SettingValue::Integer(_) => SettingKind::Integer,
            SettingValue::Text(_) => SettingKind::Text,
            SettingValue::List(_) => SettingKind::List,
        }
    }

    /// As it stands in an environment variable: a list has an item a line.
    pub fn variable(&self) -> String {
        match self {
            SettingValue::Boolean(value) => value.to_string(),
            SettingValue::Integer(value) => value.to_string(),
            SettingValue::Text(text) => text.clone(),
            SettingValue::List(items) => items.join("\n"),
        }
    }
}

impl<'de> Deserialize<'de> for SettingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = SettingValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number, `true` or `false`, or a list of texts")
            }

            fn visit_bool<E>(self, value: bool) -> Result<SettingValue, E> {
                Ok(SettingValue::Boolean(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<SettingValue, E> {
                Ok(SettingValue::Integer(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SettingValue, E> {
                i64::try_from(number)
                    .map(SettingValue::Integer)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E>(self, text: &str) -> Result<SettingValue, E> {
                Ok(SettingValue::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SettingValue, A::Error> {
                let mut list: Vec<String> = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(SettingValue::List(list))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

impl JsonSchema for SettingValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SettingValue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "integer", "boolean", "array"],
            "items": { "type": "string" }
        })
    }
}

impl Setting {
    /// Why it cannot have this value; `None` when it can.
    pub fn refuses(&self, value: &SettingValue) -> Option<(String, Option<String>)> {
        if value.kind() != self.kind {
            let hint = match (self.kind, value) {
                (SettingKind::Text, SettingValue::Integer(number)) => {
                    Some(format!("put it in quotes: \"{number}\""))
                }
                (SettingKind::List, SettingValue::Text(text)) => Some(format!("write `[{text}]`")),
                _ => None,
            };
            return Some((
                format!("expected {}, found {}", self.kind, value.kind()),
                hint,
            ));
        }
        let texts = match value {
            SettingValue::Text(text) => std::slice::from_ref(text),
            SettingValue::List(items) => items.as_slice(),
            _ => &[],
        };
        if texts.len() > MANY {
            return Some((format!("more than {MANY} items"), None));
        }
        for text in texts {
            if text.len() > TEXT || text.chars().any(char::is_control) {
                let message = format!("expected a line of at most {TEXT} bytes");
                return Some((message, None));
            }
            if !self.values.is_empty() && !self.values.contains(text) {
                let known = || self.values.iter().map(String::as_str);
                let hint = match nearest(text, known()) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("it can be `{}`", known().collect::<Vec<_>>().join("`, `")),
                };
                return Some((format!("`{text}` is not one of its values"), Some(hint)));
            }
        }
        None
    }
}

impl Manifest {
    /// Reads a manifest in YAML. `path` is what messages call it.
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let problems = Problems::new(path, text);
        let documents = documents(&problems);
        let manifest = match documents.as_slice() {
            [document] => read(document, &problems),
            [] => None,
            [_, second, ..] => {
                problems.say(&second.span, "a second document");
                None
            }
        };
        problems.finish()?;
        manifest.ok_or_else(|| {
            Error::new(Kind::Input, format!("`{path}` describes no plugin"))
                .hint("`plugins/README.md` in chasi's sources shows one")
        })
    }

    /// Reads a manifest in JSON, from the label of an image.
    pub fn from_label(name: &str, text: &str) -> Result<Self> {
        let wrong = || format!("the image's label `{LABEL}{name}` holds no plugin's manifest");
        let hint = "build the image again with this version of chasi";
        let manifest: Manifest = serde_json::from_str(text)
            .or_err(Kind::Input, wrong)
            .map_err(|error| error.hint(hint))?;
        let fault = manifest.faults().into_iter().next();
        let fault = fault.map(|fault| fault.message);
        let named = (manifest.name.as_str() != name).then(|| "it names another one".to_owned());
        match fault.or(named) {
            Some(cause) => Err(Error::new(Kind::Input, wrong()).because(cause).hint(hint)),
            None => Ok(manifest),
        }
    }

    /// It as the value of an image's label.
    pub fn to_label(&self) -> Result<String> {
        serde_json::to_string(self).or_err(Kind::Failed, || "cannot write a manifest as JSON")
    }

    /// What its types cannot say.
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut say = |at: &[&str], message: String| {
            faults.push(Fault {
                at: at.iter().map(|key| (*key).to_owned()).collect(),
                message,
            });
        };
        let is_line = |text: &str| !text.trim().is_empty() && text.len() <= 200 && is_plain(text);
        if !is_line(&self.description) {
            say(
                &["description"],
                "expected a line of at most 200 bytes".into(),
            );
        }
        if self.phases.is_empty() {
            say(&["phases"], "it would never run".into());
        }
        if self.roles.is_empty() {
            say(&["roles"], "it would run nowhere".into());
        }
        if !(1..=LONGEST).contains(&self.timeout_seconds) {
            say(
                &["timeoutSeconds"],
                format!("expected 1 to {LONGEST} seconds"),
            );
        }
        if self.changes.all().count() > MANY || !self.changes.all().all(|text| is_line(text)) {
            say(
                &["changes"],
                format!("expected at most {MANY} lines of at most 200 bytes"),
            );
        }
        let mut kinds = self.settings.values().map(|setting| setting.kind);
        if kinds.any(|kind| kind == SettingKind::Secret)
            && !self.phases.iter().any(|phase| phase.lasts())
        {
            say(
                &["phases"],
                "it takes a secret, and none of these phases is told one".into(),
            );
        }
        if self.settings.len() > MANY {
            say(&["settings"], format!("more than {MANY} settings"));
        }
        for (name, setting) in &self.settings {
            let name = name.as_str();
            if !is_line(&setting.description) {
                say(
                    &["settings", name, "description"],
                    "expected a line of at most 200 bytes".into(),
                );
            }
            if setting.kind == SettingKind::Secret && setting.default.is_some() {
                say(
                    &["settings", name, "default"],
                    "a secret has no default".into(),
                );
                continue;
            }
            let takes_values = matches!(setting.kind, SettingKind::Text | SettingKind::List);
            if !setting.values.is_empty() && !takes_values {
                say(
                    &["settings", name, "values"],
                    "only text and lists have values to choose from".into(),
                );
            }
            if setting.values.len() > MANY || !setting.values.iter().all(|text| is_line(text)) {
                say(
                    &["settings", name, "values"],
                    format!("expected at most {MANY} lines of at most 200 bytes"),
                );
            }
            let refused = setting.default.as_ref().and_then(|it| setting.refuses(it));
            if let Some((message, _)) = refused {
                say(&["settings", name, "default"], message);
            }
        }
        faults
    }
}

/// What is wrong with a manifest, and in which field.
struct Fault {
    at: Vec<String>,
    message: String,
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn read(document: &Node, problems: &Problems<'_>) -> Option<Manifest> {
    let manifest: Manifest = decode(document, problems)?;
    for fault in manifest.faults() {
        problems.add(Problem::new(place(document, &fault.at), fault.message));
    }
    Some(manifest)
}

/// Where a field is; of one that is left out, what it would be in.
fn place(document: &Node, keys: &[String]) -> Range<usize> {
    let mut node = document;
    for key in keys {
        match node.get(key) {
            Some(inner) => node = inner,
            None => break,
        }
    }
    node.span.clone()
}

#[cfg(test)]
mod tests;
