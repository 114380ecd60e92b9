//! The one error type of the workspace: a sentence that says what went wrong, where, and what to do about it.

use std::fmt;

/// What went wrong, in one sentence meant for the person who can mend it.
///
/// The sentence names the thing (file, key, value, shape) and what would have been accepted. There are no variants to
/// match on because nothing in the workspace reacts to one error differently from another: they all end at the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// Puts a place in front of the sentence: `place: sentence`.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Returns early with an [`Error`] built from a format string unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {{
        // Bound first, so that a comparison with NaN counts as false and is not read as its negation.
        let holds: bool = $condition;
        if !holds {
            return Err($crate::Error::new(format!($($sentence)+)));
        }
    }};
}
