//! The sentence for a name that nobody knows.

use crate::Error;

/// The error for an unknown name: what it was meant to be, and the known names with the nearest first.
pub fn unknown<S: AsRef<str>>(what: &str, name: &str, known: &[S]) -> Error {
    Error::new(format!("there is no {what} called `{name}`; known, nearest first: {}", nearest_first(name, known)))
}

/// The most names that a sentence lists.
const LISTED: usize = 10;

/// Up to ten of the known names in a row, those most like `name` first; equally near names keep their order.
pub fn nearest_first<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let mut known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    known.sort_by_key(|candidate| strsim::damerau_levenshtein(&name.to_lowercase(), candidate));
    match known.len().saturating_sub(LISTED) {
        0 => known.join(", "),
        more => format!("{} and {more} more", known[..LISTED].join(", ")),
    }
}
