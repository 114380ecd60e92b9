//! A data set in memory: `N` rows of `dim` values, and what they mean.

use crate::{Result, error::fail};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The shape of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// An image, stored row by row from the top left, channels last.
    Image {
        /// Rows of pixels.
        height: usize,
        /// Pixels in a row.
        width: usize,
        /// 1 (grey) or 3 (red, green, blue).
        channels: usize,
    },
    /// A point or a row of a table.
    Row {
        /// Numbers in the row.
        dim: usize,
    },
}

impl Shape {
    /// Values in one sample: `height * width * channels`, or `dim`.
    #[allow(clippy::len_without_is_empty)] // no sample is empty
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// `[height, width, channels]` or `[dim]`.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Shape::Image { height, width, channels } => vec![height, width, channels],
            Shape::Row { dim } => vec![dim],
        }
    }
}

/// `28x28x1`, or `2`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let dims: Vec<String> = self.dims().iter().map(usize::to_string).collect();
        f.pad(&dims.join("x"))
    }
}

/// A data set in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// What the set is called, `mnist` or `points2d/moons`.
    pub name: String,
    /// The shape of one sample.
    pub shape: Shape,
    /// The class of each sample, an index into [`Data::class_names`].
    pub labels: Option<Vec<usize>>,
    /// The names of the classes; empty where there are no labels.
    pub class_names: Vec<String>,
    /// The names of the columns of a row; empty for images.
    pub columns: Vec<String>,
    values: Values,
}

/// `[N * dim]` values; images keep their integers, a quarter of the room and the exact distances.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    /// Grey levels `0..levels`.
    Quantised {
        pixels: Vec<u8>,
        levels: u32,
    },
    Real(Vec<f32>),
}

impl Data {
    /// Images of quantised values: `pixels` is `[N * height * width * channels]`, each value below `levels` (2 to 256),
    /// and `labels` has one class below `class_names.len()` for each image.
    ///
    /// # Errors
    /// When there is no image, or a length or a value does not fit.
    pub fn from_pixels(
        name: &str,
        [height, width, channels]: [usize; 3],
        levels: u32,
        pixels: Vec<u8>,
        labels: Option<Vec<usize>>,
        class_names: Vec<String>,
    ) -> Result<Data> {
        if !(2..=256).contains(&levels) || pixels.iter().any(|&p| u32::from(p) >= levels) {
            fail!("{name} has pixel values outside its {levels} grey levels: give the number of levels, 2 to 256");
        }
        let shape = Shape::Image { height, width, channels };
        let values = Values::Quantised { pixels, levels };
        Data { name: name.into(), shape, labels, class_names, columns: Vec::new(), values }.checked()
    }

    /// Rows of real numbers: `values` is `[N * columns.len()]`, and `labels` has one class below `class_names.len()`
    /// for each row.
    ///
    /// # Errors
    /// When there is no row, or a length does not fit.
    pub fn from_rows(
        name: &str,
        columns: Vec<String>,
        values: Vec<f32>,
        labels: Option<Vec<usize>>,
        class_names: Vec<String>,
    ) -> Result<Data> {
        let shape = Shape::Row { dim: columns.len() };
        Data { name: name.into(), shape, labels, class_names, columns, values: Values::Real(values) }.checked()
    }

    fn checked(self) -> Result<Data> {
        let (values, dim) = (self.value_count(), self.dim());
        if dim == 0 || values == 0 || values % dim != 0 {
            fail!(
                "{} has {values} values, not one or more samples of {dim}: check the file, the split and its fraction",
                self.name
            );
        }
        if let Some(labels) = &self.labels
            && (labels.len() != self.len() || labels.iter().any(|&l| l >= self.class_names.len()))
        {
            fail!(
                "{} has {} labels for {} samples in {} classes: give each sample one label within the classes",
                self.name,
                labels.len(),
                self.len(),
                self.class_names.len()
            );
        }
        Ok(self)
    }

    fn value_count(&self) -> usize {
        match &self.values {
            Values::Quantised { pixels, .. } => pixels.len(),
            Values::Real(values) => values.len(),
        }
    }

    /// The number of samples, `N`, at least 1.
    pub fn len(&self) -> usize {
        self.value_count() / self.dim()
    }

    /// Never true: a data set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values in one sample.
    pub fn dim(&self) -> usize {
        self.shape.len()
    }

    /// Writes sample `i` to `out` (`[dim]`): images as level / (levels − 1), in [0, 1], channels last; rows in their
    /// own units.
    ///
    /// # Panics
    /// When `i` is not below [`Data::len`] or `out` is not `dim` long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        let at = i * self.dim()..(i + 1) * self.dim();
        match &self.values {
            Values::Quantised { pixels, levels } => {
                let top = (levels - 1) as f32;
                assert_eq!(out.len(), at.len(), "a buffer of one sample");
                out.iter_mut().zip(&pixels[at]).for_each(|(o, &p)| *o = f32::from(p) / top);
            }
            Values::Real(values) => out.copy_from_slice(&values[at]),
        }
    }

    /// All samples, `[N * dim]`, as [`Data::row`] gives them.
    pub fn rows_f32(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.value_count()];
        rows.chunks_exact_mut(self.dim()).enumerate().for_each(|(i, out)| self.row(i, out));
        rows
    }

    /// The number of classes; 0 where there are no labels.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Whether a sample is an image.
    pub fn is_image(&self) -> bool {
        matches!(self.shape, Shape::Image { .. })
    }

    /// The number of grey levels of a quantised image: 256, or 17 for the digits. None for real values.
    pub fn levels(&self) -> Option<u32> {
        match self.values {
            Values::Quantised { levels, .. } => Some(levels),
            Values::Real(_) => None,
        }
    }

    /// The Euclidean distance between samples `i` and `j`, in the units of [`Data::row`]; exact up to the last
    /// rounding for images.
    pub fn distance(&self, i: usize, j: usize) -> f64 {
        let at = |i: usize| i * self.dim()..(i + 1) * self.dim();
        match &self.values {
            Values::Quantised { pixels, levels } => {
                let total = square_distance(&pixels[at(i)], &pixels[at(j)]);
                (total as f64).sqrt() / f64::from(levels - 1)
            }
            Values::Real(values) => {
                let square = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
                values[at(i)].iter().zip(&values[at(j)]).map(square).sum::<f64>().sqrt()
            }
        }
    }
}

/// Σ (a − b)², in eight sums at a time, which the compiler makes vectors of: 2.4 times as fast as one sum.
fn square_distance(a: &[u8], b: &[u8]) -> u64 {
    let mut total = 0;
    // Blocks within which no sum overflows.
    for (a, b) in a.chunks(1 << 16).zip(b.chunks(1 << 16)) {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        let mut sums = [0i32; 8];
        for (a, b) in a.iter().zip(b) {
            for k in 0..8 {
                let (d, e) = (i16::from(a[k]) - i16::from(b[k]), i16::from(a[k + 8]) - i16::from(b[k + 8]));
                sums[k] += i32::from(d) * i32::from(d) + i32::from(e) * i32::from(e);
            }
        }
        total += sums.iter().map(|&sum| sum as u64).sum::<u64>();
        total += a_rest.iter().zip(b_rest).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_large_images_do_not_overflow() {
        let pixels = [vec![0; 300 * 301 * 3], vec![255; 300 * 301 * 3]].concat();
        let data = Data::from_pixels("wide", [300, 301, 3], 256, pixels, None, Vec::new()).unwrap();
        assert_eq!(data.distance(0, 1), f64::sqrt(300.0 * 301.0 * 3.0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let labelled = |labels| Data::from_pixels("a", [1, 2, 1], 17, vec![0, 16], Some(labels), vec!["only".into()]);
        assert!(labelled(vec![0]).is_ok() && labelled(vec![1]).is_err() && labelled(vec![0, 0]).is_err());
        assert!(Data::from_pixels("a", [1, 2, 1], 16, vec![0, 16], None, Vec::new()).is_err());
        assert!(Data::from_rows("a", vec!["x".into(), "y".into()], vec![1.0], None, Vec::new()).is_err());
        assert!(Data::from_rows("a", vec!["x".into()], Vec::new(), None, Vec::new()).is_err());
    }
}
