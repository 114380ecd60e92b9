//! Settings from a file as values of the program: sentences for what cannot be read, with the path of the key.
//!
//! serde's own errors are prose. Here a reader's error keeps what is wrong apart from where, knows an unknown key from a
//! missing one, and lists the known names nearest first.

use std::fmt::{self, Display};

use serde::{
    Serialize, Serializer,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor},
    ser::SerializeMap,
};
use toml::{Table, Value};

use crate::{Error, Result, names};

/// Reads a value of the program from a value of a file.
///
/// # Errors
/// A key nobody knows or that is missing, a value of another type or out of range: with the path of the key.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    T::deserialize(Reader(value)).map_err(Fault::into_error)
}

/// The value of a file for a value of the program.
///
/// # Errors
/// A number that TOML cannot hold, such as one of 2^63 or more.
pub fn write<T: Serialize>(value: &T) -> Result<Value> {
    Value::try_from(value).map_err(|error| Error::new(format!("a setting cannot be written: {error}")))
}

/// Serializes a table with `kind` in front.
pub fn tagged<T: Serialize, S: Serializer>(kind: &str, value: &T, to: S) -> std::result::Result<S::Ok, S::Error> {
    use serde::ser::Error;
    let table = Table::try_from(value).map_err(S::Error::custom)?;
    let mut map = to.serialize_map(Some(table.len() + 1))?;
    map.serialize_entry("kind", kind)?;
    table.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
    map.end()
}

/// The `kind` of a table, taken out of it.
///
/// # Errors
/// A value that is no table, or has no `kind` that is a string.
pub fn take_kind<S: AsRef<str>>(what: &str, value: Value, known: &[S]) -> Result<(String, Table)> {
    let Value::Table(mut table) = value else {
        return Err(Error::new(format!("a {what} is a table such as {{ kind = \"{}\" }}", first(known))));
    };
    match table.remove("kind") {
        Some(Value::String(kind)) => Ok((kind, table)),
        _ => Err(Error::new(format!("a {what} needs a kind: one of {}", names::nearest_first("", known)))),
    }
}

fn first<S: AsRef<str>>(known: &[S]) -> &str {
    known.first().map_or("…", AsRef::as_ref)
}

/// What cannot be read, and the keys on the way to it, the outermost last.
#[derive(Debug)]
struct Fault {
    path: Vec<String>,
    what: String,
}

impl Fault {
    fn new(what: String) -> Self {
        Self { path: Vec::new(), what }
    }

    fn within(mut self, key: impl Into<String>) -> Self {
        self.path.push(key.into());
        self
    }

    fn into_error(self) -> Error {
        let path: Vec<String> = self.path.iter().rev().map(|key| names::short(key)).collect();
        let error = Error::new(self.what);
        if path.is_empty() { error } else { error.at(path.join(".")) }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: de::Unexpected, expected: &dyn de::Expected) -> Self {
        Self::new(format!("it is {}, and {expected} is expected", names::short(&found.to_string())))
    }

    fn invalid_value(found: de::Unexpected, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(names::unknown("kind", name, known).to_string())
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        match known {
            [] => Self::new(format!("there is no key called `{}`: none is known here", names::short(name))),
            known => Self::new(names::unknown("key", name, known).to_string()),
        }
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(format!("the key `{name}` is missing"))
    }
}

/// A value of a file that is read.
struct Reader(Value);

impl<'de> de::Deserializer<'de> for Reader {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) if number.is_nan() => Err(Fault::new("it is NaN: give a number".to_owned())),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(flag) => visitor.visit_bool(flag),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter().enumerate())),
            Value::Table(table) => visitor.visit_map(Entries { entries: table.into_iter(), value: None }),
        }
    }

    // What is absent from a table is not visited at all.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => {
                let known = variants.iter().find(|known| names::same(known, &text)).map(|known| (*known).to_owned());
                visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(known.unwrap_or(text)))
            }
            other => {
                other.deserialize_enum(name, variants, visitor).map_err(|error| Fault::new(error.message().into()))
            }
        }
    }

    // The name of a variant that is tagged by `kind`; serde keeps the known ones to itself until it has failed.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text.to_lowercase().replace(['-', ' '], "_")),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct ignored_any
    }
}

struct Items(std::iter::Enumerate<std::vec::IntoIter<Value>>);

impl<'de> de::SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<Option<T::Value>, Fault> {
        let Some((place, value)) = self.0.next() else { return Ok(None) };
        seed.deserialize(Reader(value)).map(Some).map_err(|fault| fault.within(place.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    entries: toml::map::IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<T::Value, Fault> {
        let (key, value) = self.value.take().expect("serde asks for a value after its key");
        seed.deserialize(Reader(value)).map_err(|fault| fault.within(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Inner,
        #[serde(default)]
        word: Option<Word>,
        #[serde(default)]
        list: Vec<f64>,
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Inner {
        First { size: usize },
        Second {},
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Yes,
        No,
    }

    fn parse(text: &str) -> Result<Outer> {
        read(Value::Table(text.parse().unwrap()))
    }

    #[test]
    fn values_are_read_as_serde_reads_them() {
        let outer = parse("inner = { kind = \"first\", size = 3 }\nword = \"no\"\nlist = [1, 2.5, inf]").unwrap();
        let expected =
            Outer { inner: Inner::First { size: 3 }, word: Some(Word::No), list: vec![1.0, 2.5, f64::INFINITY] };
        assert_eq!(outer, expected);
        assert_eq!(read::<Outer>(write(&outer).unwrap()).unwrap(), outer);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() {
        let sentence = |text: &str| parse(text).unwrap_err().to_string();
        let cases = [
            (
                "inner = { kind = \"frist\" }",
                "inner.kind: there is no kind called `frist`; known, nearest first: first, second",
            ),
            ("iner = 1", "there is no key called `iner`; known, nearest first: inner,"),
            ("word = \"yes\"", "the key `inner` is missing"),
            ("inner = { kind = \"second\" }\nlist = [1, \"a\"]", "list.1: it is string \"a\", and f64 is expected"),
            (
                "inner = { kind = \"second\" }\nword = \"yess\"",
                "word: there is no kind called `yess`; known, nearest first: yes",
            ),
            ("inner = { kind = \"first\", sise = 1 }", "there is no key called `sise`; known, nearest first: size"),
        ];
        for (text, expected) in cases {
            assert!(sentence(text).contains(expected), "{}", sentence(text));
        }
    }
}
