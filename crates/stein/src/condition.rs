//! What a batch is conditioned on, row by row.

use crate::{Result, ensure};

/// The condition of every row of a batch; the default is "none".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// One class index a row, or `None` when the batch is unconditional.
    pub class: Option<Vec<usize>>,
}

impl Condition {
    /// No condition at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// One class a row.
    pub fn classes(class: Vec<usize>) -> Self {
        Self { class: Some(class) }
    }

    /// The condition of some rows, in the order given.
    ///
    /// # Panics
    /// If an index is not a row of this condition, which is the caller's broken invariant.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self { class: self.class.as_ref().map(|class| rows.iter().map(|&row| class[row]).collect()) }
    }

    /// Fails unless the condition has as many rows as the batch.
    pub fn check(&self, rows: usize) -> Result<()> {
        if let Some(class) = &self.class {
            ensure!(
                class.len() == rows,
                "the condition has {} classes for a batch of {rows} rows: give one a row",
                class.len()
            );
        }
        Ok(())
    }
}
