//! Names as people type them, and the sentence for one that nobody knows.

use crate::Error;

/// Whether two names are one in different spellings: case and the marks between words do not count, and `+` is a `p`.
///
/// ```
/// use stein_base::names::same;
///
/// assert!(same("DPM-Solver++", "dpm_solver_pp") && same("CIFAR-10", "cifar10") && !same("ve", "vp"));
/// ```
pub fn same(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    let kept = name.chars().filter(|letter| !matches!(letter, '-' | '_' | ' '));
    kept.flat_map(char::to_lowercase).map(|letter| if letter == '+' { 'p' } else { letter })
}

/// Our name for what was typed, given our names with their aliases: whatever the spelling; `None` for one that is neither.
pub fn ours<'a>(typed: &str, known: &[(&'a str, &[&str])]) -> Option<&'a str> {
    let called =
        |(name, aliases): &&(&str, &[&str])| same(name, typed) || aliases.iter().any(|alias| same(alias, typed));
    known.iter().find(called).map(|(name, _)| *name)
}

/// The error for an unknown name: what it was meant to be, and the known names with the nearest first.
pub fn unknown<S: AsRef<str>>(what: &str, name: &str, known: &[S]) -> Error {
    Error::new(format!("there is no {what} called `{name}`; known, nearest first: {}", nearest_first(name, known)))
}

/// The known names in a row, those most like `name` first; equally near names keep their order.
pub fn nearest_first<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let mut known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    known.sort_by_key(|candidate| strsim::damerau_levenshtein(&name.to_lowercase(), candidate));
    known.join(", ")
}
