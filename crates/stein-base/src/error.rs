//! The one error type of the workspace: a kind for programs, and a sentence for people that says what went wrong, where,
//! and what to do about it.

use std::fmt;

/// What sort of thing went wrong: what a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A value, name or combination that cannot be used.
    Input,
    /// A file or directory that is missing, damaged, or cannot be written.
    File,
    /// Two things that do not belong together, such as a run and the data it was not started with.
    Mismatch,
    /// Something this model, denoiser or build cannot do, such as a derivative of a function that has none.
    Unsupported,
    /// A result that is not a finite number.
    NotFinite,
    /// Something that is there and holds nothing, such as the held-out part of data of which none are held out.
    Empty,
    /// Someone asked to stop; nothing is wrong.
    Stopped,
}

/// What went wrong: its [`Kind`], and one sentence meant for the person who can fix it.
///
/// The sentence names the thing (file, key, value, shape) and what would have been accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    sentence: String,
}

impl Error {
    /// An error of kind [`Kind::Input`] with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self::of(Kind::Input, sentence)
    }

    /// An error of this kind with this sentence.
    ///
    /// Of a sentence that repeats something very long, a value of a foreign file for example, the middle is left out.
    pub fn of(kind: Kind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: without_middle(sentence.into()) }
    }

    /// Someone asked to stop.
    pub fn stopped() -> Self {
        Self::of(Kind::Stopped, "stopped on request")
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Puts a place in front of the sentence, `place: sentence`; the kind stays.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self::of(self.kind, format!("{place}: {}", self.sentence))
    }
}

/// A text of bearable length.
fn without_middle(text: String) -> String {
    const LONGEST: usize = 2000;
    const KEPT: usize = 900;
    if text.len() <= LONGEST {
        return text;
    }
    let (first, last) = (text.floor_char_boundary(KEPT), text.ceil_char_boundary(text.len() - KEPT));
    format!("{} … {}", &text[..first], &text[last..])
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Returns early with an [`Error`] built from a format string unless the condition holds. The kind is
/// [`Kind::Input`](crate::Kind::Input), or the one given before the condition: `ensure!(Kind::File, path.exists(), "…")`.
#[macro_export]
macro_rules! ensure {
    (Kind::$kind:ident, $condition:expr, $($sentence:tt)+) => {{
        // Bound first, so that a comparison with NaN counts as false and is not read as its negation.
        let holds: bool = $condition;
        if !holds {
            return Err($crate::Error::of($crate::Kind::$kind, format!($($sentence)+)));
        }
    }};
    ($condition:expr, $($sentence:tt)+) => {
        $crate::ensure!(Kind::Input, $condition, $($sentence)+)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_does_not_repeat_a_file() {
        let long = Error::new(format!("start {} end", "é".repeat(1_000_000))).at("x.csv").to_string();
        assert!(long.starts_with("x.csv: start é") && long.ends_with("é end") && long.len() < 2100, "{}", long.len());
    }

    #[test]
    fn a_place_keeps_the_kind() {
        let failing = || -> Result<()> {
            ensure!(Kind::File, 1 > 2, "there is no file {}", "a");
            Ok(())
        };
        let error = failing().unwrap_err().at("folder");
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::File, "folder: there is no file a"));
        assert_eq!(Error::stopped().kind(), Kind::Stopped);
    }
}
