//! What a metric says: a number, how far it may be off, and what to know about it.

use serde::Serialize;

/// A metric's number with its error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The number.
    pub value: f64,
    /// Its standard error, by the method that the metric's documentation names; `None` where there are too few rows to tell.
    pub error: Option<f64>,
    /// Further numbers by name, such as the terms of a sum or the bins of a histogram.
    pub parts: Vec<(String, f64)>,
    /// What a reader must know to judge the number: too few rows, a bias, something left out.
    pub notes: Vec<String>,
    /// The fingerprint of the reference the samples were compared with; `None` for a metric that needs none.
    pub reference: Option<String>,
}

impl Measured {
    /// A number with its error, if that is known and a number.
    pub fn new(value: f64, error: Option<f64>) -> Self {
        let error = error.filter(|error| error.is_finite());
        Self { value, error, parts: Vec::new(), notes: Vec::new(), reference: None }
    }

    /// The mean of numbers that are independent of each other, with its standard error s/√n.
    pub fn mean_of(values: &[f64]) -> Self {
        Self::new(mean(values), standard_error(values))
    }

    /// A share of n, with the standard error of a binomial, √(p (1 − p) / n).
    pub fn share(hits: usize, n: usize) -> Self {
        let (share, n) = (hits as f64 / n as f64, n as f64);
        Self::new(share, Some((share * (1.0 - share) / n).sqrt()))
    }

    /// The same with a further number.
    #[must_use]
    pub fn with_part(mut self, name: impl Into<String>, value: f64) -> Self {
        self.parts.push((name.into(), value));
        self
    }

    /// The same with a note if the condition holds.
    #[must_use]
    pub fn noted_if(mut self, holds: bool, note: impl FnOnce() -> String) -> Self {
        if holds {
            self.notes.push(note());
        }
        self
    }

    /// A further number by name.
    pub fn part(&self, name: &str) -> Option<f64> {
        self.parts.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }
}

/// The mean of numbers.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation of numbers, denominator n − 1; `None` of fewer than two.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The standard error of the mean of numbers, s/√n; `None` of fewer than two.
pub(crate) fn standard_error(values: &[f64]) -> Option<f64> {
    Some(deviation(values)? / (values.len() as f64).sqrt())
}
