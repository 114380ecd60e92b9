//! Between the data's own numbers and what a network sees: x = scale · value + shift, and what is known of the data.

use serde::{Deserialize, Serialize};
use stein_data::{Data, Shape};

/// Which numbers the network works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The data's own: images in [0, 1] (NCSN and other VE models), rows in their units.
    #[default]
    Own,
    /// Images in [−1, 1]: 2v − 1 (DDPM, VP, EDM). For rows the same as `own`.
    Symmetric,
    /// Every coordinate of a row to mean 0 and standard deviation 0.5, EDM's σ_data. For images the same as `symmetric`.
    Standardised,
}

/// An affine map a coordinate: network value = scale · data value + shift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Codec {
    /// One number for all coordinates, or one each.
    pub scale: Vec<f64>,
    /// As `scale`.
    pub shift: Vec<f64>,
}

impl Codec {
    /// No change.
    pub fn identity() -> Self {
        Self { scale: vec![1.0], shift: vec![0.0] }
    }

    fn at(numbers: &[f64], i: usize) -> f64 {
        numbers[i % numbers.len()]
    }

    /// Data values, in row order, to network values.
    pub fn encode(&self, values: &[f32], dim: usize) -> Vec<f64> {
        let coordinate = |i: usize| i % dim;
        values
            .iter()
            .enumerate()
            .map(|(i, &v)| Self::at(&self.scale, coordinate(i)) * f64::from(v) + Self::at(&self.shift, coordinate(i)))
            .collect()
    }

    /// Network values, in row order, to data values.
    pub fn decode(&self, values: &[f64], dim: usize) -> Vec<f32> {
        let coordinate = |i: usize| i % dim;
        values
            .iter()
            .enumerate()
            .map(|(i, &x)| ((x - Self::at(&self.shift, coordinate(i))) / Self::at(&self.scale, coordinate(i))) as f32)
            .collect()
    }
}

/// What a model is a model of: all that sampling needs to know of the data without having them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Name of the data set.
    pub name: String,
    /// Shape of a sample.
    pub shape: Shape,
    /// Names of the classes the model is conditioned on; empty when it is unconditional.
    pub classes: Vec<String>,
    /// Names of the columns of a row; empty for images.
    pub columns: Vec<String>,
    /// Between data and network.
    pub codec: Codec,
    /// Mean over the coordinates of the variance of the data, in network units: Var\[data\] of the prior.
    pub variance: f64,
}

impl Subject {
    /// Measures the data.
    pub fn of(data: &Data, range: Range, conditional: bool) -> Self {
        let dim = data.dim();
        let values = data.rows_f32();
        let moments = |coordinate: usize| {
            let column = values.iter().skip(coordinate).step_by(dim).map(|&v| f64::from(v));
            let mean = column.clone().sum::<f64>() / data.len() as f64;
            (mean, column.map(|v| (v - mean).powi(2)).sum::<f64>() / data.len() as f64)
        };
        let moments: Vec<(f64, f64)> = (0..dim).map(moments).collect();
        let codec = match (range, data.is_image()) {
            (Range::Own, _) | (Range::Symmetric, false) => Codec::identity(),
            (Range::Symmetric | Range::Standardised, true) => Codec { scale: vec![2.0], shift: vec![-1.0] },
            (Range::Standardised, false) => {
                // A constant column has no spread to normalise; it is only centred.
                let scale: Vec<f64> = moments
                    .iter()
                    .map(|(_, variance)| if *variance > 0.0 { 0.5 / variance.sqrt() } else { 1.0 })
                    .collect();
                Codec { shift: moments.iter().zip(&scale).map(|((mean, _), scale)| -mean * scale).collect(), scale }
            }
        };
        let variance = moments
            .iter()
            .enumerate()
            .map(|(i, (_, variance))| variance * Codec::at(&codec.scale, i).powi(2))
            .sum::<f64>()
            / dim as f64;
        Self {
            name: data.name.clone(),
            shape: data.shape,
            classes: if conditional { data.class_names.clone() } else { Vec::new() },
            columns: data.columns.clone(),
            codec,
            variance,
        }
    }

    /// Numbers in a sample.
    pub fn dim(&self) -> usize {
        self.shape.len()
    }

    /// Height, width and channels of an image; `None` for rows.
    pub fn image(&self) -> Option<(usize, usize, usize)> {
        match self.shape {
            Shape::Image { height, width, channels } => Some((height, width, channels)),
            Shape::Row { .. } => None,
        }
    }
}
