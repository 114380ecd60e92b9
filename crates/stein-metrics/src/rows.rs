//! Rows of numbers: as they come in, and as they are kept.
//!
//! A sample is a row of `dim` numbers, and rows follow each other in one slice. Single precision is kept as it is and becomes
//! double before anything is computed, so that the same numbers give the same results whatever they came as.

use std::ops::Range;

use stein_base::{Result, ensure};

/// Numbers of one of two precisions, in row order.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl Values<'_> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::F64(values) => Self::F64(&values[range]),
        }
    }

    /// One of them.
    pub fn at(&self, place: usize) -> f64 {
        match self {
            Self::F32(values) => f64::from(values[place]),
            Self::F64(values) => values[place],
        }
    }

    /// Appends them to others.
    pub fn append_to(&self, others: &mut Vec<f64>) {
        match self {
            Self::F32(values) => others.extend(values.iter().map(|&value| f64::from(value))),
            Self::F64(values) => others.extend_from_slice(values),
        }
    }

    /// The place of the first that is not finite.
    fn first_odd(&self) -> Option<usize> {
        match self {
            Self::F32(values) => values.iter().position(|value| !value.is_finite()),
            Self::F64(values) => values.iter().position(|value| !value.is_finite()),
        }
    }
}

/// Some rows of one side.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The numbers, row after row.
    pub values: Values<'a>,
    /// The class of each row, for metrics of classes.
    pub labels: Option<&'a [u32]>,
}

impl<'a> Batch<'a> {
    /// The same with the class of each row.
    #[must_use]
    pub fn labeled(self, labels: &'a [u32]) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// How many rows of `dim` numbers it has.
    ///
    /// # Errors
    /// Another number of values or labels than makes rows, and values that are not finite.
    pub(crate) fn check(&self, dim: usize, before: usize) -> Result<usize> {
        let count = self.values.len();
        ensure!(
            Kind::Mismatch,
            count.is_multiple_of(dim),
            "{count} values make no rows of {dim}: both sides have rows of the same number of values"
        );
        let rows = count / dim;
        if let Some(labels) = self.labels {
            ensure!(
                Kind::Mismatch,
                labels.len() == rows,
                "there are {} labels for {rows} rows: give each row one label",
                labels.len()
            );
        }
        if let Some(place) = self.values.first_odd() {
            let (row, column, value) = (before + place / dim, place % dim, self.values.at(place));
            ensure!(
                Kind::NotFinite,
                false,
                "value {column} of row {row} is {value}: metrics need finite numbers, leave such rows out and say so"
            );
        }
        Ok(rows)
    }
}

impl<'a> From<&'a [f32]> for Batch<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self { values: Values::F32(values), labels: None }
    }
}

impl<'a> From<&'a [f64]> for Batch<'a> {
    fn from(values: &'a [f64]) -> Self {
        Self { values: Values::F64(values), labels: None }
    }
}

impl<'a> From<&'a Vec<f32>> for Batch<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        values.as_slice().into()
    }
}

impl<'a> From<&'a Vec<f64>> for Batch<'a> {
    fn from(values: &'a Vec<f64>) -> Self {
        values.as_slice().into()
    }
}

#[derive(Debug, Clone)]
enum Stored {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Rows that are kept, in the precision they came in.
#[derive(Debug, Clone)]
pub struct Rows {
    dim: usize,
    stored: Stored,
    labels: Vec<u32>,
}

impl Rows {
    /// No rows of `dim` numbers.
    pub fn new(dim: usize) -> Self {
        Self { dim, stored: Stored::F32(Vec::new()), labels: Vec::new() }
    }

    /// Rows of `dim` numbers.
    ///
    /// # Errors
    /// Values that make no such rows or are not finite, and labels that are not one a row.
    pub fn of<'a>(dim: usize, batch: impl Into<Batch<'a>>) -> Result<Self> {
        let (batch, mut rows) = (batch.into(), Self::new(dim));
        batch.check(dim, 0)?;
        rows.push(&batch);
        Ok(rows)
    }

    /// Adds checked rows. All are kept in double precision from the first that come in it.
    pub(crate) fn push(&mut self, batch: &Batch) {
        match (&mut self.stored, batch.values) {
            (Stored::F32(kept), Values::F32(values)) => kept.extend_from_slice(values),
            (Stored::F64(kept), values) => values.append_to(kept),
            (Stored::F32(kept), Values::F64(values)) => {
                let wide = kept.iter().map(|&value| f64::from(value)).chain(values.iter().copied());
                self.stored = Stored::F64(wide.collect());
            }
        }
        self.labels.extend(batch.labels.unwrap_or_default());
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.values().len() / self.dim
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values().is_empty()
    }

    /// Numbers in a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All numbers, row after row.
    pub fn values(&self) -> Values<'_> {
        match &self.stored {
            Stored::F32(values) => Values::F32(values),
            Stored::F64(values) => Values::F64(values),
        }
    }

    /// The class of each row; `None` unless every row has one.
    pub fn labels(&self) -> Option<&[u32]> {
        (self.labels.len() == self.len()).then_some(&self.labels[..])
    }

    /// The numbers of some consecutive rows in double precision.
    pub fn block(&self, range: Range<usize>) -> Vec<f64> {
        let mut block = Vec::with_capacity(range.len() * self.dim);
        self.values().part(range.start * self.dim..range.end * self.dim).append_to(&mut block);
        block
    }

    /// The rows at some places, in their order.
    pub fn select(&self, places: impl IntoIterator<Item = usize>) -> Self {
        let (mut rows, labeled) = (Self::new(self.dim), self.labels().is_some());
        for place in places {
            let label = labeled.then(|| &self.labels[place..=place]);
            rows.push(&Batch { values: self.values().part(place * self.dim..(place + 1) * self.dim), labels: label });
        }
        rows
    }

    /// The mean row.
    pub fn mean(&self) -> Vec<f64> {
        let (mut mean, values) = (vec![0.0; self.dim], self.values());
        for row in 0..self.len() {
            mean.iter_mut().enumerate().for_each(|(c, sum)| *sum += values.at(row * self.dim + c));
        }
        mean.iter_mut().for_each(|sum| *sum /= self.len() as f64);
        mean
    }

    /// |a − b|² of a row and one of other rows.
    pub fn squared_distance(&self, place: usize, other: &Self, other_place: usize) -> f64 {
        let dim = self.dim;
        let (a, b) = (place * dim..(place + 1) * dim, other_place * dim..(other_place + 1) * dim);
        fn sum<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
            a.iter().zip(b).map(|(&a, &b)| (a.into() - b.into()).powi(2)).sum()
        }
        match (&self.stored, &other.stored) {
            (Stored::F32(one), Stored::F32(two)) => sum(&one[a], &two[b]),
            (Stored::F32(one), Stored::F64(two)) => sum(&one[a], &two[b]),
            (Stored::F64(one), Stored::F32(two)) => sum(&one[a], &two[b]),
            (Stored::F64(one), Stored::F64(two)) => sum(&one[a], &two[b]),
        }
    }
}

/// A hash of rows as short hexadecimal text: the same for the same numbers, whatever precision and batches they came in.
#[derive(Clone)]
pub struct Fingerprint(Box<xxhash_rust::xxh3::Xxh3>);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fingerprint").field(&self.text()).finish()
    }
}

impl Fingerprint {
    /// The beginning of a hash of rows of `dim` numbers.
    pub fn new(dim: usize) -> Self {
        let mut hash = Box::new(xxhash_rust::xxh3::Xxh3::new());
        hash.update(&(dim as u64).to_le_bytes());
        Self(hash)
    }

    /// Adds numbers.
    pub fn update(&mut self, values: Values) {
        const AT_ONCE: usize = 1 << 10;
        let mut bytes = [0; 8 * AT_ONCE];
        for first in (0..values.len()).step_by(AT_ONCE) {
            let part = values.part(first..values.len().min(first + AT_ONCE));
            let mut put = |place: usize, value: f64| {
                // Zero is one number though it has two signs.
                let value = if value == 0.0 { 0.0 } else { value };
                bytes[8 * place..8 * place + 8].copy_from_slice(&value.to_le_bytes());
            };
            match part {
                Values::F32(part) => part.iter().enumerate().for_each(|(i, &value)| put(i, f64::from(value))),
                Values::F64(part) => part.iter().enumerate().for_each(|(i, &value)| put(i, value)),
            }
            self.0.update(&bytes[..8 * part.len()]);
        }
    }

    /// The hash: 16 hexadecimal digits.
    pub fn text(&self) -> String {
        format!("{:016x}", self.0.digest())
    }
}

/// The fingerprint of rows of `dim` numbers.
pub fn fingerprint(dim: usize, values: Values) -> String {
    let mut hash = Fingerprint::new(dim);
    hash.update(values);
    hash.text()
}
