//! Registries: everything that plays one role, by name, tagged by `kind` in files.
//!
//! [`registry!`](crate::registry!) declares one as an enum, so that what the workspace has is known at compile time and tests
//! walk it. A program that embeds the workspace adds things of its own at run time; in files they stand like all others.

use std::{collections::BTreeMap, fmt, sync::Arc, sync::RwLock};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{Explain, Result, explain::Entry, settings};

/// A thing that was added at run time, with the name and settings it stands under in files.
pub struct Own<R: ?Sized> {
    kind: String,
    settings: Table,
    it: Arc<R>,
}

impl<R: ?Sized> Own<R> {
    /// The name it was added under.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its settings, without the name.
    pub fn settings(&self) -> &Table {
        &self.settings
    }
}

impl<R: ?Sized> std::ops::Deref for Own<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.it
    }
}

impl<R: ?Sized> Clone for Own<R> {
    fn clone(&self) -> Self {
        Self { kind: self.kind.clone(), settings: self.settings.clone(), it: Arc::clone(&self.it) }
    }
}

impl<R: ?Sized> fmt::Debug for Own<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("kind", &self.kind).field("settings", &self.settings).finish()
    }
}

/// Two are equal if they have the same name and settings.
impl<R: ?Sized> PartialEq for Own<R> {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, &self.settings) == (&other.kind, &other.settings)
    }
}

type Maker<R> = Arc<dyn Fn(Table) -> Result<(Table, Arc<R>)> + Send + Sync>;

/// How a type that was added is explained, where it says so.
type Explainer = Option<fn(&str) -> Entry>;

/// What was added to one registry at run time.
pub struct Added<R: ?Sized>(RwLock<BTreeMap<String, (Maker<R>, Explainer)>>);

impl<R: ?Sized> Added<R> {
    /// Nothing yet.
    #[allow(clippy::new_without_default, reason = "it is made in statics only, where a default cannot be called")]
    pub const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// Adds a type by name; the last one of a name counts.
    pub fn add<T: Serialize + DeserializeOwned>(
        &self,
        kind: &str,
        explainer: Explainer,
        role: impl Fn(T) -> Arc<R> + Send + Sync + 'static,
    ) {
        let make = move |given: Table| {
            let it: T = settings::read(Value::Table(given))?;
            let Value::Table(resolved) = settings::write(&it)? else {
                return Err(crate::Error::new("a thing added to a registry must be a struct with named fields"));
            };
            Ok((resolved, role(it)))
        };
        // Poison means that another thread panicked while adding; the map is whole all the same.
        self.0
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
            .insert(kind.to_owned(), (Arc::new(make), explainer));
    }

    /// How a type is explained that can be.
    pub fn explainer<T: Explain>() -> Explainer {
        Some(|kind| {
            Entry::of::<T>(
                kind,
                &[],
                match T::form() {
                    crate::explain::Form::Table(table) => table.doc,
                    _ => "",
                },
            )
        })
    }

    /// The entries of all, by name: in words where the type is explained, or else its settings where none is required.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |kind: &String| {
            let explainer = self.0.read().unwrap_or_else(|poison| poison.into_inner()).get(kind)?.1;
            Some(match explainer {
                Some(explain) => explain(kind),
                None => {
                    let made = self.make(kind, Table::new()).and_then(Result::ok);
                    Entry::bare(kind, &made.map(|own| own.settings).unwrap_or_default())
                }
            })
        };
        self.names().iter().filter_map(entry).collect()
    }

    /// The names.
    pub fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(|poison| poison.into_inner()).keys().cloned().collect()
    }

    /// One by name and settings; `None` for a name nobody added.
    ///
    /// # Errors
    /// Settings that cannot be read.
    pub fn make(&self, kind: &str, given: Table) -> Option<Result<Own<R>>> {
        // The lock is let go of before the settings are read: they may hold another thing of the same registry.
        let maker = self.0.read().unwrap_or_else(|poison| poison.into_inner()).get(kind)?.0.clone();
        Some(maker(given).map(|(settings, it)| Own { kind: kind.to_owned(), settings, it }))
    }
}

/// Declares an enum of everything that plays one role: tagged by `kind` in files, walked by the conformance tests, open to what
/// a program adds at run time with `register`.
///
/// Adding a thing is its file and one line here: `"rk45" | "dopri5" => Rk45` also says what else people call exactly this thing.
/// Its doc comment is what lists say of it. The role is a trait that is `Send + Sync`, and every variant implements it, `Default`,
/// [`Explain`](crate::Explain) and serde's traits. A registry with a `named` of its own, which reads more than a name, says what the one made
/// here is called instead: `Source, "data set": DataSet, named as of_kind { … }`.
#[macro_export]
macro_rules! registry {
    ($(#[doc = $doc:literal])* $name:ident, $what:literal: $role:path { $($lines:tt)+ }) => {
        $crate::registry! { $(#[doc = $doc])* $name, $what: $role, named as named { $($lines)+ } }
    };
    ($(#[doc = $doc:literal])* $name:ident, $what:literal: $role:path, named as $named:ident {
        $($(#[doc = $line:literal])* $kind:literal $(| $alias:literal)* => $variant:ident),+ $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[doc = $line])* $variant($variant),)+
            /// One that the embedding program added by `register`.
            Own($crate::registry::Own<dyn $role>),
        }

        const _: () = {
            static ADDED: $crate::registry::Added<dyn $role> = $crate::registry::Added::new();

            impl $name {
                /// The names of those that are built in, as in files and on the command line.
                pub const NAMES: &'static [&'static str] = &[$($kind),+];

                /// All names, those added at run time included.
                pub fn names() -> Vec<String> {
                    Self::NAMES.iter().map(|name| (*name).to_owned()).chain(ADDED.names()).collect()
                }

                /// Adds one of the program's own by name: from then on it is read from files like all others. The fields of the
                /// type are its settings. The last one added under a name counts.
                ///
                /// # Panics
                /// If the name is that of one that is built in, which could then not be told apart.
                pub fn register<T>(kind: &str)
                where
                    T: $role + $crate::reexports::serde::Serialize + $crate::reexports::serde::de::DeserializeOwned + 'static,
                {
                    Self::add::<T>(kind, None);
                }

                /// As [`register`](Self::register), of a type that is explained: lists then say what it is and what its settings mean.
                ///
                /// # Panics
                /// As [`register`](Self::register).
                pub fn register_explained<T>(kind: &str)
                where
                    T: $role + $crate::reexports::serde::Serialize + $crate::reexports::serde::de::DeserializeOwned + $crate::Explain + 'static,
                {
                    Self::add::<T>(kind, $crate::registry::Added::<dyn $role>::explainer::<T>());
                }

                fn add<T>(kind: &str, explainer: Option<fn(&str) -> $crate::explain::Entry>)
                where
                    T: $role + $crate::reexports::serde::Serialize + $crate::reexports::serde::de::DeserializeOwned + 'static,
                {
                    assert!(!Self::NAMES.contains(&kind), "there is a built-in {} called `{kind}`", $what);
                    ADDED.add(kind, explainer, |it: T| std::sync::Arc::new(it) as std::sync::Arc<dyn $role>);
                }

                /// Our name for what people type: another spelling of a name, or an alias. What is neither stays as it is.
                pub fn ours(typed: &str) -> String {
                    if ADDED.names().iter().any(|name| name == typed) {
                        return typed.to_owned();
                    }
                    let known: &[(&str, &[&str])] = &[$(($kind, &[$($alias),*])),+];
                    $crate::names::ours(typed, known).unwrap_or(typed).to_owned()
                }

                /// The one of this name, with its default parameters.
                ///
                /// # Errors
                /// An unknown name, answered with the known ones, nearest first.
                pub fn $named(kind: &str) -> $crate::Result<Self> {
                    match Self::ours(kind).as_str() {
                        $($kind => Ok(Self::$variant($variant::default())),)+
                        _ => Self::with_settings(kind, $crate::reexports::toml::Table::new()),
                    }
                }

                /// The one of this name with these settings; the others have their defaults.
                ///
                /// # Errors
                /// An unknown name or key, answered with the known ones, nearest first; a value that cannot be read.
                pub fn with_settings(kind: &str, settings: $crate::reexports::toml::Table) -> $crate::Result<Self> {
                    match Self::ours(kind).as_str() {
                        $($kind => $crate::settings::read(settings.into()).map(Self::$variant),)+
                        _ => match ADDED.make(kind, settings) {
                            Some(own) => own.map(Self::Own),
                            None => Err($crate::names::unknown($what, kind, &Self::names())),
                        },
                    }
                }

                /// All that are built in, with their default parameters.
                pub fn all() -> Vec<Self> {
                    vec![$(Self::$variant($variant::default())),+]
                }

                /// Its name.
                pub fn kind(&self) -> &str {
                    match self {
                        $(Self::$variant(_) => $kind,)+
                        Self::Own(own) => own.kind(),
                    }
                }
            }

            impl $crate::Explain for $name {
                fn form() -> $crate::explain::Form {
                    $crate::explain::Form::Choice($crate::explain::Choice {
                        name: stringify!($name),
                        doc: concat!($($doc, "\n"),*),
                        tagged: true,
                        entries: || {
                            let built_in = [$($crate::explain::Entry::of::<$variant>($kind, &[$($alias),*], concat!($($line, "\n"),*))),+];
                            built_in.into_iter().chain(ADDED.entries()).collect()
                        },
                    })
                }
            }

            impl $crate::reexports::serde::Serialize for $name {
                fn serialize<S: $crate::reexports::serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                    match self {
                        $(Self::$variant(it) => $crate::settings::tagged($kind, it, to),)+
                        Self::Own(own) => $crate::settings::tagged(own.kind(), own.settings(), to),
                    }
                }
            }

            impl<'de> $crate::reexports::serde::Deserialize<'de> for $name {
                fn deserialize<D: $crate::reexports::serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                    use $crate::reexports::serde::de::Error;
                    let value = $crate::reexports::toml::Value::deserialize(from)?;
                    $crate::settings::take_kind($what, value, &Self::names())
                        .and_then(|(kind, settings)| Self::with_settings(&kind, settings))
                        .map_err(D::Error::custom)
                }
            }
        };

        $(impl From<$variant> for $name {
            fn from(value: $variant) -> Self { Self::$variant(value) }
        })+

        impl std::ops::Deref for $name {
            type Target = dyn $role;
            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$variant(it) => it,)+
                    Self::Own(own) => &**own,
                }
            }
        }
    };
}
