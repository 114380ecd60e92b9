//! The noise levels of a batch: one for all rows, or one each.

use crate::{Kernel, Result, ensure};

/// The noise level of every row of a batch. What follows from a level shared by all rows is worked out once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Levels<'a> {
    /// One level for all rows.
    Same(&'a Kernel),
    /// One level per row.
    Each(&'a [Kernel]),
}

impl<'a> From<&'a Kernel> for Levels<'a> {
    fn from(at: &'a Kernel) -> Self {
        Self::Same(at)
    }
}

impl<'a> From<&'a [Kernel]> for Levels<'a> {
    fn from(at: &'a [Kernel]) -> Self {
        Self::Each(at)
    }
}

impl<'a> Levels<'a> {
    /// Fails unless they are the levels of a batch of `rows` rows.
    pub fn check(&self, rows: usize) -> Result<()> {
        if let Self::Each(at) = self {
            ensure!(at.len() == rows, "{} noise levels were given for {rows} rows: give one per row", at.len());
        }
        Ok(())
    }

    /// The different levels there may be: one, or one per row.
    pub fn kernels(&self) -> &'a [Kernel] {
        match self {
            Self::Same(at) => std::slice::from_ref(at),
            Self::Each(at) => at,
        }
    }

    /// The level of a row.
    ///
    /// # Panics
    /// If there is no such row, which [`check`](Self::check) rules out.
    pub fn row(&self, row: usize) -> &'a Kernel {
        match self {
            Self::Same(at) => at,
            Self::Each(at) => &at[row],
        }
    }

    /// A number of each level.
    pub fn factors(&self, f: impl Fn(&Kernel) -> f64) -> Factors {
        match self {
            Self::Same(at) => Factors::Same(f(at)),
            Self::Each(at) => Factors::Each(at.iter().map(f).collect()),
        }
    }

    /// A number of each of these levels and the one beside it among others.
    ///
    /// # Panics
    /// If both are one per row, and of other numbers of rows.
    pub fn factors_with(&self, others: Levels, f: impl Fn(&Kernel, &Kernel) -> f64) -> Factors {
        match (self, others) {
            (Self::Same(at), Levels::Same(other)) => Factors::Same(f(at, other)),
            (Self::Each(at), others) => {
                Factors::Each(at.iter().enumerate().map(|(row, at)| f(at, others.row(row))).collect())
            }
            (Self::Same(at), Levels::Each(others)) => Factors::Each(others.iter().map(|other| f(at, other)).collect()),
        }
    }

    /// Other levels that follow from these.
    pub fn map(&self, f: impl Fn(&Kernel) -> Kernel) -> OwnLevels {
        match self {
            Self::Same(at) => OwnLevels::Same(f(at)),
            Self::Each(at) => OwnLevels::Each(at.iter().map(f).collect()),
        }
    }
}

/// [`Levels`] that own their kernels.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnLevels {
    /// One level for all rows.
    Same(Kernel),
    /// One level per row.
    Each(Vec<Kernel>),
}

impl OwnLevels {
    /// A view of them.
    pub fn view(&self) -> Levels<'_> {
        match self {
            Self::Same(at) => Levels::Same(at),
            Self::Each(at) => Levels::Each(at),
        }
    }
}

/// A number for every row: one for all, or one each.
#[derive(Debug, Clone, PartialEq)]
pub enum Factors {
    /// One for all rows.
    Same(f64),
    /// One per row.
    Each(Vec<f64>),
}

impl Factors {
    /// The number of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> f64 {
        match self {
            Self::Same(factor) => *factor,
            Self::Each(factors) => factors[row],
        }
    }

    /// The numbers of `rows` rows.
    pub fn into_rows(self, rows: usize) -> Vec<f64> {
        match self {
            Self::Same(factor) => vec![factor; rows],
            Self::Each(factors) => factors,
        }
    }
}
