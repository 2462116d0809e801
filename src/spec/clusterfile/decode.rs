//! From a tree to the shape of a document, by serde: the same types give the
//! JSON Schema, so the two cannot differ.
//!
//! What is special: an unknown field, and a value that is wrong but stands in an
//! [`At`], is added to the problems, and reading goes on.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::problem::{Problem, Problems, nearest};
use super::tree::{Key, Node, Value};

/// Reads `node` as a `T`. On `None` the reason is among the problems.
pub(in crate::spec) fn decode<T: for<'de> Deserialize<'de>>(
    node: &Node,
    problems: &Problems<'_>,
) -> Option<T> {
    let decoder = Decoder { node, problems };
    match T::deserialize(decoder) {
        Ok(value) => Some(value),
        Err(fault) => {
            decoder.report(fault);
            None
        }
    }
}

/// A value with its place. The value is missing when it was wrong; that has been
/// said already.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) span: Range<usize>,
    pub(super) value: Option<T>,
}

impl<T> At<T> {
    /// The value, when it was right.
    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

const AT: &str = "chasi::At";
pub(super) const SCALAR: &str = "chasi::Scalar";

/// What a boolean is called in messages.
const BOOLEAN: &str = "`true` or `false`";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with a place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
                let start = parts.next_element()?.unwrap_or_default();
                let end = parts.next_element()?.unwrap_or_default();
                let value = parts.next_element()?;
                Ok(At {
                    span: start..end,
                    value,
                })
            }
        }

        deserializer.deserialize_newtype_struct(AT, AtVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Text for which a number or a boolean may stand, as it was written: the value
/// of a variable or of a kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
        }

        deserializer.deserialize_newtype_struct(SCALAR, ScalarVisitor)
    }
}

impl JsonSchema for Scalar {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    hint: Option<String>,
    span: Option<Range<usize>>,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Fault {
            message: message.into(),
            hint: None,
            span: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where, unless that is known more precisely already.
    fn at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::new(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::new(format!("`{field}` is missing"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let fault = Fault::new(format!("unknown field `{field}`"));
        match nearest(field, expected.iter().copied()) {
            Some(known) => fault.hint(format!("did you mean `{known}`?")),
            None => fault.hint(format!("known here: {}", listed(expected))),
        }
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::new(format!("expected {expected}, found {unexpected}"))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Unsigned(number) => {
                // What serde itself says of its own integers.
                let expected = match expected.to_string().as_str() {
                    "u8" => "at most 255".to_owned(),
                    other => format!("expected {other}"),
                };
                Fault::new(format!("{number} is out of range: {expected}"))
            }
            _ => Fault::new(format!("expected {expected}, found {unexpected}")),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let fault = Fault::new(format!("`{variant}` is not one of {}", listed(expected)));
        match nearest(variant, expected.iter().copied()) {
            Some(known) => fault.hint(format!("did you mean `{known}`?")),
            None => fault,
        }
    }
}

/// Names in backticks, with commas.
fn listed(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    problems: &'a Problems<'a>,
}

impl<'a> Decoder<'a> {
    fn report(self, fault: Fault) {
        let span = fault.span.unwrap_or_else(|| self.node.span.clone());
        let problem = Problem::new(span, fault.message);
        self.problems.add(match fault.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    }

    fn child(self, node: &'a Node) -> Self {
        Decoder {
            node,
            problems: self.problems,
        }
    }

    fn expected(self, what: &str) -> Fault {
        let fault = Fault::new(format!("expected {what}, found {}", self.node.describe()));
        match (&self.node.value, what) {
            (Value::Number(written, _), "text") => {
                fault.hint(format!("put it in quotes: \"{written}\""))
            }
            (Value::Text(text), BOOLEAN) => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => fault.hint("write `true`"),
                "no" | "off" | "n" => fault.hint("write `false`"),
                _ => fault,
            },
            (Value::Bool(value), "text") => fault.hint(format!("put it in quotes: \"{value}\"")),
            (Value::Text(_) | Value::Number(..), "a list") => {
                fault.hint("put it in brackets: [ … ]")
            }
            _ => fault,
        }
        .at(&self.node.span)
    }

    fn located<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(&self.node.span))
    }

    fn unsigned<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Number(written, number) => {
                match number.as_u64() {
                    Some(number) => self.located(visitor.visit_u64(number)),
                    None => Err(Fault::new(format!("`{written}` is not a whole number"))
                        .at(&self.node.span)),
                }
            }
            _ => Err(self.expected("a number")),
        }
    }
}

impl<'de, 'a> Deserializer<'de> for Decoder<'a> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(_, number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (_, Some(number)) => visitor.visit_i64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items {
                decoder: self,
                items: items.iter(),
            }),
            Value::Map(_) => return self.deserialize_map(visitor),
        };
        self.located(result)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Bool(value) => self.located(visitor.visit_bool(value)),
            _ => Err(self.expected(BOOLEAN)),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.unsigned(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.unsigned(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) => self.located(visitor.visit_str(text)),
            _ => Err(self.expected("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            // `name:` with nothing behind it is the same as no `name`.
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match (name, &self.node.value) {
            (AT, _) => visitor.visit_seq(Parts {
                decoder: self,
                next: Cell::new(0),
            }),
            (SCALAR, Value::Text(text)) => visitor.visit_str(text),
            (SCALAR, Value::Number(written, _)) => visitor.visit_str(written),
            (SCALAR, Value::Bool(value)) => visitor.visit_str(&value.to_string()),
            (SCALAR, Value::List(items)) => self.located(visitor.visit_seq(Items {
                decoder: self,
                items: items.iter(),
            })),
            (SCALAR, _) => Err(self.expected("text")),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(items) => self.located(visitor.visit_seq(Items {
                decoder: self,
                items: items.iter(),
            })),
            _ => Err(self.expected("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(entries) => self.located(visitor.visit_map(Entries {
                decoder: self,
                entries: entries.iter(),
                fields: None,
                value: None,
            })),
            _ => Err(self.expected("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(entries) => self.located(visitor.visit_map(Entries {
                decoder: self,
                entries: entries.iter(),
                fields: Some(fields),
                value: None,
            })),
            _ => Err(self.expected("a mapping")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) => self.located(visitor.visit_enum(Variant { text })),
            // YAML 1.1 had `off` for false, and people still write it.
            _ => Err(self.expected(&format!("one of {}", listed(variants)))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct
    }
}

/// The three parts of an [`At`].
struct Parts<'a> {
    decoder: Decoder<'a>,
    next: Cell<u8>,
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let part = self.next.get();
        self.next.set(part + 1);
        let span = &self.decoder.node.span;
        match part {
            0 => seed.deserialize(span.start.into_deserializer()).map(Some),
            1 => seed.deserialize(span.end.into_deserializer()).map(Some),
            _ => match seed.deserialize(self.decoder) {
                Ok(value) => Ok(Some(value)),
                Err(fault) => {
                    self.decoder.report(fault);
                    Ok(None)
                }
            },
        }
    }
}

struct Items<'a> {
    decoder: Decoder<'a>,
    items: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        match self.items.next() {
            Some(item) => {
                let decoder = self.decoder.child(item);
                decoder.located(seed.deserialize(decoder)).map(Some)
            }
            None => Ok(None),
        }
    }
}

struct Entries<'a> {
    decoder: Decoder<'a>,
    entries: std::slice::Iter<'a, (Key, Node)>,
    /// The names that a struct has; a map takes any.
    fields: Option<&'static [&'static str]>,
    value: Option<&'a Node>,
}

impl Entries<'_> {
    fn unknown(&self, key: &Key, fields: &[&str]) {
        let problem = Problem::new(key.span.clone(), format!("unknown field `{}`", key.name));
        self.decoder
            .problems
            .add(match nearest(&key.name, fields.iter().copied()) {
                Some(known) => problem.hint(format!("did you mean `{known}`?")),
                None => problem.hint(format!("known here: {}", listed(fields))),
            });
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        while let Some((key, value)) = self.entries.next() {
            if let Some(fields) = self.fields
                && !fields.contains(&key.name.as_str())
            {
                self.unknown(key, fields);
                continue;
            }
            self.value = Some(value);
            match seed.deserialize(key.name.as_str().into_deserializer()) {
                Ok(key) => return Ok(Some(key)),
                Err(fault) => {
                    let fault: Fault = fault;
                    return Err(fault.at(&key.span));
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let node = self.value.take().unwrap_or(self.decoder.node);
        let decoder = self.decoder.child(node);
        decoder.located(seed.deserialize(decoder))
    }
}

/// The name of a variant of an enum without content.
struct Variant<'a> {
    text: &'a str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let text: de::value::StrDeserializer<'_, Fault> = self.text.into_deserializer();
        Ok((seed.deserialize(text)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::new(format!("`{}` has no content", self.text)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(format!("`{}` has no content", self.text)))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fault> {
        Err(Fault::new(format!("`{}` has no content", self.text)))
    }
}
