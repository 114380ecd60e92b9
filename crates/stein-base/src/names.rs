//! Names as people type them, and in sentences: the one that nobody knows, and texts that are too long or too many to repeat.

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
    let name = short(name);
    Error::new(format!("there is no {what} called `{name}`; known, nearest first: {}", nearest_first(&name, known)))
}

/// The known names in a row, those most like `name` first; equally near names keep their order. Of many the first.
pub fn nearest_first<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let name = short(name).to_lowercase();
    let mut known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    known.sort_by_key(|candidate| strsim::damerau_levenshtein(&name, &short(candidate)));
    first_of(&known)
}

/// Names in a row; where they are many, the first and how many more there are.
pub fn first_of<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 10;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| short(name.as_ref())).collect();
    if names.len() > SHOWN {
        shown.push(format!("… and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

/// A text of others as it is repeated in a sentence: on one line, and of a long one the beginning.
pub fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut letters = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut shown: String = letters.by_ref().take(SHOWN).collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_and_many_names_are_cut() {
        assert_eq!(short("a\nb"), "a b");
        assert_eq!(short(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(short(&"é".repeat(61)), "é".repeat(60) + "…");
        let names: Vec<String> = (0..5000).map(|i| format!("class {i}")).collect();
        let sentence = unknown("class", &"x".repeat(100_000_000), &names).to_string();
        assert!(sentence.len() < 400 && sentence.ends_with("and 4990 more"), "{sentence}");
    }
}
