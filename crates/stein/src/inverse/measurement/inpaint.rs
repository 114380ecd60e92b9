//! y = the numbers of a sample that are known: inpainting, and imputing what is missing in a row or a series.
//!
//! A mask says which places are known: pixels of a picture, steps of a series, columns of a row. All channels of a place are known
//! together. The measurement has the known numbers only, in row order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, choose, planes};
use crate::{
    Error, Key, Purpose, Result, ensure,
    inverse::{Gather, Operator},
    numbers::ensure_within,
};

/// Some of the numbers of a sample. Default: half of the places, at random.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Inpaint {
    /// What is known; default a half of the places, at random, where `known` says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// The columns of a row or the steps of a series that are known, counted from 0, instead of a mask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<usize>,
}

/// Which places are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mask {
    /// All but a box of pixels, or a stretch of a series.
    Box {
        /// Rows of pixels, or steps, that are missing, at least 1; default half of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        height: Option<usize>,
        /// Columns of pixels that are missing, at least 1; default half of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        width: Option<usize>,
        /// The first missing row; default such that the box is in the middle.
        #[serde(skip_serializing_if = "Option::is_none")]
        top: Option<usize>,
        /// The first missing column; default such that the box is in the middle.
        #[serde(skip_serializing_if = "Option::is_none")]
        left: Option<usize>,
    },
    /// A part of the places, drawn at random.
    Random {
        /// The part that is missing, from 0 to below 1; default 0.5.
        #[serde(default = "half")]
        missing: f64,
        /// Seed of the draw; default 0.
        #[serde(default)]
        seed: u64,
    },
    /// Some columns of pixels.
    Columns {
        /// Every such column from the first on, at least 1; default 2.
        #[serde(default = "two")]
        every: usize,
        /// These columns instead, counted from 0.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        known: Vec<usize>,
    },
    /// Some rows of pixels, or steps of a series.
    Rows {
        /// Every such row from the first on, at least 1; default 2.
        #[serde(default = "two")]
        every: usize,
        /// These rows instead, counted from 0.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        known: Vec<usize>,
    },
    /// Some single numbers of a sample, whatever its shape, a channel of a pixel among them.
    Entries {
        /// Their places in row order, counted from 0.
        known: Vec<usize>,
    },
    /// A picture or an array: what is white, or 0.5 and more, is known.
    File {
        /// A `.npy` file `[height, width]`, or one number for each place; or a picture of that size.
        file: String,
    },
}

fn half() -> f64 {
    0.5
}

fn two() -> usize {
    2
}

impl Inpaint {
    /// The numbers of a sample that are known.
    fn numbers(&self, shape: &[usize], files: &dyn Files) -> Result<Vec<usize>> {
        let (places, channels) = planes(shape);
        if !self.known.is_empty() {
            ensure!(self.mask.is_none(), "measurement inpaint: give a mask or the numbers that are known, not both");
            ensure!(
                shape.len() < 3,
                "measurement inpaint: known = {:?} counts columns of a row or steps of a series: give pictures a mask, such as \
                 mask = {{ kind = \"columns\" }}",
                self.known
            );
            return spread(&among(&self.known, places, "places")?, channels);
        }
        let mask = self.mask.clone().unwrap_or(Mask::Random { missing: half(), seed: 0 });
        if let Mask::Entries { known } = &mask {
            return among(known, places * channels, "numbers");
        }
        spread(&mask.places(shape, files)?, channels)
    }
}

/// Numbers that are below a count, each once and in ascending order.
fn among(known: &[usize], count: usize, what: &str) -> Result<Vec<usize>> {
    let mut known = known.to_vec();
    known.sort_unstable();
    if let Some(pair) = known.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::new(format!("measurement inpaint: {} is known twice: name it once", pair[0])));
    }
    ensure!(
        known.last().is_some_and(|last| *last < count),
        "measurement inpaint: known = {known:?} is not among the {what} of a sample, which are 0 to {}",
        count - 1
    );
    Ok(known)
}

/// The numbers of all channels of some places.
fn spread(places: &[usize], channels: usize) -> Result<Vec<usize>> {
    ensure!(!places.is_empty(), "measurement inpaint: nothing is known: let the mask leave something");
    Ok(places.iter().flat_map(|place| (0..channels).map(move |channel| place * channels + channel)).collect())
}

impl Mask {
    /// The places that are known, in ascending order.
    fn places(&self, shape: &[usize], files: &dyn Files) -> Result<Vec<usize>> {
        let (places, _) = planes(shape);
        let [rows, columns] = if let [height, width, _] = *shape { [height, width] } else { [places, 1] };
        let lines = |every: usize, known: &[usize], count: usize, what: &str| {
            ensure_within(&format!("measurement inpaint: mask.{what}.every"), every, 1..)?;
            let known = if known.is_empty() { (0..count).step_by(every).collect() } else { known.to_vec() };
            among(&known, count, what)
        };
        let place = |row: usize, column: usize| row * columns + column;
        match self {
            Self::Box { height, width, top, left } => {
                let tall = stretch("height", "top", *height, *top, rows)?;
                let wide = if shape.len() == 3 { stretch("width", "left", *width, *left, columns)? } else { 0..1 };
                Ok((0..places).filter(|p| !(tall.contains(&(p / columns)) && wide.contains(&(p % columns)))).collect())
            }
            Self::Random { missing, seed } => {
                ensure_within("measurement inpaint: mask.missing", *missing, 0.0..1.0)?;
                let known = places - (missing * places as f64).round() as usize;
                Ok(choose(Key::new(*seed, Purpose::Instrument), &vec![1.0; places], known))
            }
            Self::Columns { every, known } => {
                ensure!(shape.len() == 3, "measurement inpaint: a mask of columns is for pictures: use rows, or known");
                let known = lines(*every, known, columns, "columns")?;
                Ok((0..rows).flat_map(|row| known.iter().map(move |column| place(row, *column))).collect())
            }
            Self::Rows { every, known } => {
                let known = lines(*every, known, rows, "rows")?;
                Ok(known.iter().flat_map(|row| (0..columns).map(move |column| place(*row, column))).collect())
            }
            Self::Entries { known } => among(known, places, "places"),
            Self::File { file } => {
                let (values, size) = if file.ends_with(".npy") {
                    files.array(file)?
                } else {
                    let (values, size) = files.picture(file)?;
                    (values, size.to_vec())
                };
                ensure!(
                    size == [rows, columns] || size == [places],
                    "measurement inpaint: the mask {file} has the shape {size:?}, and the samples have {:?}: give one of that size",
                    &shape[..shape.len().max(2) - 1]
                );
                Ok((0..places).filter(|&place| values[place] >= 0.5).collect())
            }
        }
    }
}

/// The missing stretch of `count` lines.
fn stretch(
    length: &str,
    start: &str,
    long: Option<usize>,
    first: Option<usize>,
    count: usize,
) -> Result<std::ops::Range<usize>> {
    let long = long.unwrap_or(count / 2);
    ensure_within(&format!("measurement inpaint: mask.{length}"), long, 1..=count)?;
    let first = first.unwrap_or((count - long) / 2);
    ensure_within(&format!("measurement inpaint: mask.{start}"), first, 0..=count - long)?;
    Ok(first..first + long)
}

impl Measurement for Inpaint {
    fn keeps_range(&self) -> bool {
        true
    }

    fn reads_samples(&self) -> bool {
        true
    }

    fn operator(&self, shape: &[usize], files: &dyn Files) -> Result<Arc<dyn Operator>> {
        Ok(Arc::new(Gather::new(shape.iter().product(), self.numbers(shape, files)?)?))
    }
}
