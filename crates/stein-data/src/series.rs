//! Series of numbers, such as sounds, curves and measurements: npy or npz.
//!
//! Values keep their own units and become f32. Every tenth series is held out for the test split.

use crate::{
    Data, DataSet, Split, array,
    source::{Part, hundred, labels_of, one_tenth},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use stein_base::{Error, Explain, Kind, Result, ensure};

/// Series of one length in a file: `.npy` with `[N, length, channels]` or `[N, length]` floats or integers, or `.npz`
/// with such an array and perhaps one of labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The file.
    pub path: PathBuf,
    /// The array of an npz file; by default `x`, or the only one beside the labels.
    #[serde(default)]
    pub array: Option<String>,
    /// The array of an npz file that holds the classes, `[N]`; by default `y` or `labels` where there is one.
    #[serde(default)]
    pub label: Option<String>,
    /// The most classes that labels may make; default 100.
    #[serde(default = "hundred")]
    pub max_classes: usize,
    /// The part, 0 to 1, held out for the test split, spread evenly; default 0.1.
    #[serde(default = "one_tenth")]
    pub test_fraction: f64,
}

impl Default for Series {
    fn default() -> Self {
        let (max_classes, test_fraction) = (hundred(), one_tenth());
        Self { path: PathBuf::new(), array: None, label: None, max_classes, test_fraction }
    }
}

impl DataSet for Series {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        let path = self.path.display();
        ensure!(!self.path.as_os_str().is_empty(), "series needs `path`: name an npy or npz file");
        ensure!(array::is_array(&self.path), "{path} is no series that is known: name an npy or npz file");
        let (array, labels) = array::read(&self.path, self.array.as_deref(), self.label.as_deref())?;
        ensure!(
            self.label.is_none() || labels.is_some(),
            "{path} has no labels beside the series: leave `label` out, or name an npz file"
        );
        let (n, length, channels) = match array.shape[..] {
            [n, length] => (n, length, 1),
            [n, length, channels] => (n, length, channels),
            _ => {
                let shape = &array.shape;
                let sentence =
                    format!("{path} has the shape {shape:?}: store series as [N, length, channels] or [N, length]");
                return Err(Error::of(Kind::File, sentence));
            }
        };
        let dim = length * channels;
        let values = array.numbers.into_f32();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let (series, step, channel) = (at / dim, at % dim / channels, at % channels);
            return Err(Error::of(
                Kind::File,
                format!(
                    "{path} has a value in series {series}, step {step}, channel {channel} (counted from 0) that is no \
                     finite number: mend it or drop the series"
                ),
            ));
        }
        let (labels, class_names) = labels_of(labels, self.max_classes, path)?;
        let part = Part::of(split, n, self.test_fraction, labels.as_deref())?;
        let values = part.own.iter().flat_map(|&i| &values[i * dim..(i + 1) * dim]).copied().collect();
        let name = self.path.file_stem().map_or("series".into(), |name| name.to_string_lossy());
        let labels = part.of_own(labels);
        Ok(Data::from_series(&name, [length, channels], values, labels, class_names)?.noted([part.note]))
    }

    fn shorthand(&self, rest: &str) -> Option<(&'static str, String)> {
        Some(("path", rest.into()))
    }
}
