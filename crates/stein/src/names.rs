//! Registries of named things, and the sentence for a name that is not in one.

use crate::Error;

/// The error for an unknown name: what it was meant to be, and the known names with the nearest first.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    let mut known = known.to_vec();
    // Stable sort: equally near names keep the registry's order.
    known.sort_by_key(|candidate| strsim::damerau_levenshtein(&name.to_lowercase(), candidate));
    Error::new(format!("there is no {what} called `{name}`; known, nearest first: {}", known.join(", ")))
}

/// Declares an enum of everything that plays one role: tagged by `kind` in files, walked by the conformance tests.
///
/// Adding a thing is its file and one line here.
macro_rules! registry {
    ($(#[$doc:meta])* $name:ident, $what:literal: $role:path { $($(#[$line:meta])* $kind:literal => $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "kind")]
        pub enum $name { $($(#[$line])* #[serde(rename = $kind)] $variant($variant)),+ }

        impl $name {
            /// The names, as in files and on the command line.
            pub const NAMES: &'static [&'static str] = &[$($kind),+];

            /// The one of this name, with its default parameters.
            ///
            /// # Errors
            /// An unknown name, answered with the known ones, nearest first.
            pub fn named(kind: &str) -> $crate::Result<Self> {
                match kind {
                    $($kind => Ok(Self::$variant($variant::default())),)+
                    _ => Err($crate::names::unknown($what, kind, Self::NAMES)),
                }
            }

            /// All of them with their default parameters.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant($variant::default())),+]
            }

            /// Its name.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),+ }
            }
        }

        $(impl From<$variant> for $name {
            fn from(value: $variant) -> Self { Self::$variant(value) }
        })+

        impl std::ops::Deref for $name {
            type Target = dyn $role;
            fn deref(&self) -> &Self::Target {
                match self { $(Self::$variant(it) => it),+ }
            }
        }
    };
}
pub(crate) use registry;
