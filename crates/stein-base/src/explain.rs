//! What settings mean: the keys of a file, their defaults and the names that stand for things, told by the types that are read.
//!
//! [`Explain`](derive@crate::Explain) is derived beside serde's traits. Doc comments become the meaning, and serde's attributes say
//! the rest, so that a list of settings has no text of its own that could fall behind.

use std::fmt;

use serde::Serialize;
use toml::Value;

use crate::{names, settings};

/// A type whose values stand in files, and that says what they may be.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use stein_base::{Explain, explain::Form};
///
/// /// A spring.
/// #[derive(Serialize, Deserialize, Explain)]
/// #[serde(default)]
/// struct Spring {
///     /// Newtons per meter, above 0.
///     stiffness: f64,
/// }
///
/// impl Default for Spring {
///     fn default() -> Self {
///         Self { stiffness: 2.0 }
///     }
/// }
///
/// let Form::Table(spring) = Spring::form() else { unreachable!("a struct is a table") };
/// let keys = (spring.keys)();
/// assert_eq!((keys[0].name.as_str(), keys[0].meaning.as_str()), ("stiffness", "Newtons per meter, above 0."));
/// assert_eq!(keys[0].default, Some(2.0.into()));
/// ```
pub trait Explain {
    /// What a value of it looks like in a file.
    fn form() -> Form;
}

/// What a value looks like in a file.
#[derive(Debug, Clone)]
pub enum Form {
    /// A number, a text and the like, in a word or two.
    Plain(&'static str),
    /// One that may be left out and then has no value.
    Optional(Box<Form>),
    /// A list of such.
    List(Box<Form>),
    /// A table of keys.
    Table(Table),
    /// One of several things, by name.
    Choice(Choice),
}

/// A table of keys.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The type that is read.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Its keys, in order. They are made when they are asked for, since a table may hold another of its kind.
    pub keys: fn() -> Vec<Key>,
}

/// One of several things, by name.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The type that is read.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Whether a value is a table with the name as its `kind`; a word if not.
    pub tagged: bool,
    /// The things, in order, those added at run time included.
    pub entries: fn() -> Vec<Entry>,
}

/// A thing that has a name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name, as files keep it.
    pub name: String,
    /// Other names that are understood.
    pub aliases: Vec<String>,
    /// What it is, in a sentence or two; empty for one that was added at run time without a word.
    pub meaning: String,
    /// More of it, where there is more.
    pub details: String,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// A key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it means, with unit and range.
    pub meaning: String,
    /// What its value looks like.
    pub form: Form,
    /// Its default. Without one a key is required, or [optional](Form::Optional) and then has no value.
    pub default: Option<Value>,
}

impl Entry {
    /// An entry with its doc comment.
    pub fn new(name: &str, aliases: &[&str], doc: &str, keys: Vec<Key>) -> Self {
        // An alias that differs in spelling only tells a reader nothing.
        let aliases =
            aliases.iter().filter(|alias| !names::same(alias, name)).map(|alias| (*alias).to_owned()).collect();
        Self { name: name.to_owned(), aliases, meaning: text(doc), details: String::new(), keys }
    }

    /// An entry that is read as a type of its own, with the doc comment of its place in a registry.
    pub fn of<T: Explain + ?Sized>(name: &str, aliases: &[&str], doc: &str) -> Self {
        let (details, keys) = match T::form() {
            Form::Table(table) => (text(table.doc), (table.keys)()),
            _ => Default::default(),
        };
        Self { details, ..Self::new(name, aliases, doc, keys) }
    }

    /// An entry about which nothing is known but its settings.
    pub(crate) fn bare(name: &str, settings: &toml::Table) -> Self {
        let keys = settings.iter().map(|(key, value)| Key {
            name: key.clone(),
            meaning: String::new(),
            form: Form::Plain(value.type_str()),
            default: Some(value.clone()),
        });
        Self::new(name, &[], "", keys.collect())
    }
}

impl Key {
    /// A key with its doc comment.
    pub fn new<T: Explain + Serialize>(name: &str, doc: &str, default: Option<T>) -> Self {
        // What cannot be written is an absent value, which TOML has no word for.
        let default = default.and_then(|default| settings::write(&default).ok());
        Self { name: name.to_owned(), meaning: text(doc), form: T::form(), default }
    }

    /// Whether it has to be given.
    pub fn required(&self) -> bool {
        self.default.is_none() && !matches!(self.form, Form::Optional(_))
    }

    /// The default as it would be written in a file; `None` without one.
    pub fn default_text(&self) -> Option<String> {
        self.default.as_ref().map(written)
    }

    /// The meaning without the clause that states the default, where it states this one.
    pub fn meaning_alone(&self) -> String {
        let Some(default) = &self.default else { return self.meaning.clone() };
        let mut stated = vec![written(default), format!("`{}`", written(default))];
        match default {
            Value::Integer(number) => stated.extend([grouped(*number, ","), grouped(*number, " ")]),
            Value::Float(number) if number.is_infinite() => stated.push("∞".into()),
            Value::Float(number) => {
                stated.extend([number.to_string(), format!("{number:e}"), grouped(*number as i64, " ")]);
            }
            Value::String(word) => stated.extend([word.clone(), format!("`{word}`")]),
            Value::Table(table) => {
                let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default();
                stated.extend([kind.to_owned(), format!("`{kind}`")]);
            }
            _ => {}
        }
        for stated in stated {
            for lead in ["; default ", ", default "] {
                let clause = format!("{lead}{stated}");
                if let Some(at) = self.meaning.find(&clause) {
                    let rest = &self.meaning[at + clause.len()..];
                    if rest.is_empty() || rest == "." || rest.starts_with([';', ',']) || rest.starts_with(". ") {
                        return format!("{}{rest}", &self.meaning[..at]);
                    }
                }
            }
        }
        self.meaning.clone()
    }
}

/// A number with its digits in groups of three.
fn grouped(number: i64, between: &str) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(between)
}

/// A value on one line, as in a file.
fn written(value: &Value) -> String {
    match value {
        // A table is written on lines of its own unless it is inline.
        Value::Table(table) => {
            let entries: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Our name for what was typed, if it is a name or an alias of the type, whatever its spelling; or else what was typed.
pub fn ours<T: Explain>(typed: &str) -> String {
    let Form::Choice(choice) = T::form() else { return typed.to_owned() };
    let entries = (choice.entries)();
    let named = |entry: &&Entry| entry.name == typed;
    let called =
        |entry: &&Entry| names::same(&entry.name, typed) || entry.aliases.iter().any(|alias| names::same(alias, typed));
    let found = entries.iter().find(named).or_else(|| entries.iter().find(called));
    found.map_or(typed, |entry| &entry.name).to_owned()
}

/// A doc comment as plain text: its paragraphs up to the first example or heading, without links and escapes.
pub fn text(doc: &str) -> String {
    let lines = doc.lines().map(str::trim).take_while(|line| !line.starts_with("```") && !line.starts_with('#'));
    let mut text = String::new();
    for line in lines {
        match (line.is_empty(), text.is_empty() || text.ends_with('\n')) {
            (true, false) => text.push('\n'),
            (true, true) | (false, true) => text.push_str(line),
            (false, false) => text.extend([" ", line]),
        }
    }
    unlinked(text.trim_end()).replace("\\[", "[").replace("\\]", "]")
}

/// Text whose links, `[words](target)` and [`code`], are their words alone.
fn unlinked(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, inside) = rest.split_at(open);
        plain.push_str(before);
        let close = inside.find(']').filter(|_| !before.ends_with('\\'));
        let Some(close) = close else {
            plain.push('[');
            rest = &inside[1..];
            continue;
        };
        let (words, after) = (&inside[1..close], &inside[close + 1..]);
        let target = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        match target {
            Some((_, after)) => {
                plain.push_str(words);
                rest = after;
            }
            None if words.starts_with('`') && words.ends_with('`') && words.len() > 2 && !words.contains(' ') => {
                plain.push_str(words);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = &inside[1..];
            }
        }
    }
    plain + rest
}

impl fmt::Display for Form {
    /// In a few words, such as `list of numbers`; of a choice of words, the words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(word) => f.write_str(word),
            Self::Optional(form) => form.fmt(f),
            Self::List(form) => match &**form {
                Self::Plain(word) => write!(f, "list of {word}s"),
                form => write!(f, "list of {form}s"),
            },
            Self::Table(_) => f.write_str("table"),
            Self::Choice(choice) if choice.tagged => f.write_str("table with a kind"),
            Self::Choice(choice) => {
                let words: Vec<String> = (choice.entries)().iter().map(|entry| format!("{:?}", entry.name)).collect();
                f.write_str(&words.join(" or "))
            }
        }
    }
}

macro_rules! plain {
    ($($words:literal: $($type:ty)+;)+) => {$($(
        impl Explain for $type {
            fn form() -> Form { Form::Plain($words) }
        }
    )+)+};
}

plain! {
    "number": f32 f64;
    "whole number": u32 u64 usize;
    "true or false": bool;
    "text": String;
    "letter": char;
    "path": std::path::PathBuf;
}

impl<T: Explain> Explain for Option<T> {
    fn form() -> Form {
        Form::Optional(Box::new(T::form()))
    }
}

impl<T: Explain> Explain for Vec<T> {
    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }
}

impl<T: Explain, const N: usize> Explain for [T; N] {
    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }
}

impl<T: Explain> Explain for Box<T> {
    fn form() -> Form {
        T::form()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doc_comments_become_plain_text() {
        let doc = " Keeps to \\[0, 1\\], see [`Heun`](super::Heun)\n and [`ode`], not [this](that) [3].\n\n More.\n\n ```\n code\n ```\n";
        assert_eq!(text(doc), "Keeps to [0, 1], see `Heun` and `ode`, not this [3].\nMore.");
    }

    #[test]
    fn a_stated_default_is_said_once() {
        let key = |doc: &str, default: Value| Key { default: Some(default), ..Key::new::<f64>("k", doc, None) };
        let alone = |doc: &str, default: Value| key(doc, default).meaning_alone();
        assert_eq!(alone("Steps; default 10,000.", 10_000.into()), "Steps.");
        assert_eq!(alone("A rate; positive, default 1e-5. More.", 1e-5.into()), "A rate; positive. More.");
        assert_eq!(alone("A size; default 0, none.", 0.into()), "A size, none.");
        assert_eq!(alone("A size; default 1.", 10.into()), "A size; default 1.");
        assert_eq!(alone("Levels; default `[1, 2]`.", vec![1, 2].into()), "Levels.");
        assert_eq!(alone("The end; default ∞.", f64::INFINITY.into()), "The end.");
    }
}
