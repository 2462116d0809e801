//! YAML text as a tree in which everything knows its place. The parser's budget
//! bounds depth, size and what aliases unfold to.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MergeKeyPolicy, Spanned};

use super::problem::{Problem, Problems};

/// More than any Clusterfile needs: about 10,000 hosts.
const MAX_NODES: usize = 200_000;
const MAX_DEPTH: usize = 32;
const MAX_DOCUMENTS: usize = 64;

/// A value and its place, in bytes of the text.
#[derive(Clone, Debug)]
pub(in crate::spec) struct Node {
    pub(in crate::spec) span: Range<usize>,
    pub(super) value: Value,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number: as it was written, and what it is.
    Number(String, serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The key of an entry and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Range<usize>,
}

impl Node {
    /// The value of an entry of a map.
    pub(in crate::spec) fn get(&self, name: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|(key, _)| key.name == name)
            .map(|(_, value)| value)
    }

    /// The entries of a map; none of anything else.
    pub(super) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text of a text.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(..) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same as JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(_, number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.name.clone(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// Reads the documents of a text. What is wrong is added to `problems`.
pub(in crate::spec) fn documents(problems: &Problems<'_>) -> Vec<Node> {
    let text = problems.text();
    let options = serde_saphyr::options! {
        strict_booleans: true,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
        emit_comments: false,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_aliases: 1000,
            max_anchors: 1000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 8,
        },
    };
    match serde_saphyr::from_str_multiple_with_options::<Spanned<Raw>, Vec<_>>(text, options) {
        Ok(documents) => documents.into_iter().map(|raw| node(raw, text)).collect(),
        Err(error) => {
            problems.add(syntax_error(&error, text));
            Vec::new()
        }
    }
}

fn syntax_error(error: &serde_saphyr::Error, text: &str) -> Problem {
    use serde_saphyr::Error as Yaml;
    let span = error
        .location()
        .map_or(0..0, |location| span(&location, text));
    let mut cause = error.without_snippet();
    while let Yaml::AliasError { error, .. } = cause {
        cause = error.without_snippet();
    }
    match cause {
        Yaml::DuplicateMappingKey { key: Some(key), .. } => {
            Problem::new(span, format!("`{key}` is given twice")).hint(match key.as_str() {
                // What this is when documents were put together carelessly.
                "apiVersion" | "kind" => "separate documents with a line `---`",
                _ => "keep one of the two entries",
            })
        }
        Yaml::MergeKeyNotAllowed { .. } => {
            Problem::new(span, "merge keys (`<<`) are not supported")
                .hint("write the entries out, or use an alias for the whole value")
        }
        Yaml::Budget { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasExpansionLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. } => Problem::new(
            span,
            "the file is too large, too deep or has too many aliases",
        )
        .hint(format!(
            "at most {MAX_NODES} values, {MAX_DEPTH} levels and {MAX_DOCUMENTS} documents"
        )),
        other => {
            let message = other.to_string();
            // The place is shown by the snippet.
            let message = message
                .split_once(" at line ")
                .map_or(message.as_str(), |(message, _)| message);
            let problem = Problem::new(span, format!("not valid YAML: {message}"));
            if message.contains("tab") {
                problem.hint("indent with spaces")
            } else {
                problem
            }
        }
    }
}

/// The byte range of a location. A parser's own errors count characters only.
fn span(location: &Location, text: &str) -> Range<usize> {
    let span = location.span();
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let (start, end) = match (span.byte_offset(), span.byte_len()) {
        (Some(start), Some(length)) => (index(start), index(start.saturating_add(length))),
        _ => {
            let byte = |characters: u64| {
                text.char_indices()
                    .nth(index(characters))
                    .map_or(text.len(), |(byte, _)| byte)
            };
            let start = span.offset();
            (byte(start), byte(start.saturating_add(span.len())))
        }
    };
    let start = start.min(text.len());
    start..end.clamp(start, text.len())
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let written = || {
        text.get(span(&raw.defined, text))
            .unwrap_or_default()
            .to_owned()
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Number(number) => Value::Number(written(), number),
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let span = span(&key.referenced, text);
                    let key = Key {
                        name: key.value,
                        span,
                    };
                    (key, node(value, text))
                })
                .collect(),
        ),
    };
    let mut span = span(&raw.referenced, text);
    // A block's own place is empty, and a block text ends with its line: neither
    // marks well.
    if let Some(marked) = text.get(span.clone()) {
        span.end = span.start + marked.trim_end().len();
    }
    if let (true, Value::Map(entries)) = (span.is_empty(), &value)
        && let Some((first, _)) = entries.first()
    {
        span = first.span.clone();
    }
    Node { span, value }
}

/// What the parser gives.
enum Raw {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        // `.inf` and `.nan` are no numbers in JSON, and nothing here takes them.
        Ok(match serde_json::Number::from_f64(value) {
            Some(number) => Raw::Number(number),
            None => Raw::Text(value.to_string()),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
