//! A class as a setting: its name, or its number.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};
use stein_base::{Explain, explain::Form};

/// A class by name or, where no name fits, by number: in files a text or a whole number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassName(pub String);

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<u32> for ClassName {
    fn from(class: u32) -> Self {
        Self(class.to_string())
    }
}

impl Explain for ClassName {
    fn form() -> Form {
        Form::Plain("text or whole number")
    }
}

impl<'de> Deserialize<'de> for ClassName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = ClassName;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a class, by name or number,")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<ClassName, E> {
                Ok(ClassName(name.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ClassName, E> {
                Ok(ClassName(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ClassName, E> {
                Ok(ClassName(number.to_string()))
            }
        }

        from.deserialize_any(NameOrNumber)
    }
}
