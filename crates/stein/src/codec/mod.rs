//! Codecs: how data become the states that denoisers work in, and states data again. One file each.
//!
//! A codec has two shapes, that of a sample as it stands in the data and that of its state, and where it is smooth it knows ln |det
//! d encode/dx|, so that a density of states is one of data. What it needs to know of the data it is fitted to once, from a
//! [`DataSample`]; a fitted codec is plain numbers, stored beside the model that was trained on its states.
//!
//! An experiment lists [`AnyCodecConfig`]s, [`Chain::fit`] makes a [`Chain`] of [`AnyCodec`]s of them, and the chain is a codec:
//!
//! ```
//! use stein::{Keys, codec::{AnyCodecConfig, Chain, Codec, DataSample}, rows};
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     codecs: Vec<AnyCodecConfig>,
//! }
//!
//! let text = r#"codecs = [{ kind = "dequantize" }, { kind = "symmetric" }]"#;
//! let settings: Settings = toml::from_str(text)?;
//! // Four pictures of two gray pixels, each of which is one of 256 levels from 0 to 1.
//! let pixels = [0.0, 1.0, 0.2, 0.8, 0.6, 0.4, 0.0, 0.0];
//! let chain = Chain::fit(&settings.codecs, &DataSample { values: &pixels, dim: 2, levels: Some(256) })?;
//!
//! let x = rows::matrix(pixels.iter().map(|&x| x.into()).collect(), 2, &rows::exact());
//! let state = chain.encode(x.clone(), &Keys::range(0, 0, 4))?;
//! let back = chain.decode(state)?;
//! assert!(rows::host(&(back - x)).iter().all(|error| error.abs() < 1e-6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod affine;
mod chain;
mod dequantize;
mod latents;
mod logit;
mod one_hot;
mod quantile;
mod standardize;
mod symmetric;

pub use affine::Affine;
pub use chain::Chain;
pub use dequantize::{Dequantize, Dequantized};
pub use latents::{Attached, Latents, OfAutoencoder};
pub use logit::Logit;
pub use one_hot::{OneHot, OneHots};
pub use quantile::{Quantile, Quantiles, normal_quantile};
pub use standardize::{Standardize, Standardized};
pub use symmetric::Symmetric;

use burn::tensor::Tensor;
use stein_base::registry;

use crate::{Error, Keys, Result, ensure};

/// A map from data to states and back, which knows all it needs.
pub trait Codec: std::fmt::Debug + Send + Sync {
    /// Fails, saying which number and what it may be, if it is none of a codec: one that a file describes may be anything.
    ///
    /// # Errors
    /// See above.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The shape of the state of a sample whose data have this shape; here the same.
    ///
    /// # Errors
    /// Data of a shape the codec was not fitted to.
    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        Ok(data.to_vec())
    }

    /// The states `[rows, state numbers]` of data `x` `[rows, data numbers]`. The keys, one per row, are for codecs that draw: what is
    /// drawn for a row is a function of its key alone.
    ///
    /// # Errors
    /// Rows of another width, and values that have no state.
    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>>;

    /// The data `[rows, data numbers]` of states `x` `[rows, state numbers]`: of every state, also of one that no data have.
    ///
    /// # Errors
    /// Rows of another width.
    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>>;

    /// ln |det d encode/dx| of every row, at data `x` `[rows, data numbers]` and for the draws of these keys: what is added to the ln
    /// density of the state to have that of the data. `None` where the codec has none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn log_det(&self, x: &Tensor<2>, keys: &Keys) -> Result<Option<Vec<f64>>>;

    /// The range of the states of data that lie in this range, where there is one: what estimates are clamped to.
    fn range(&self, _data: (f64, f64)) -> Option<(f64, f64)> {
        None
    }
}

/// Rows of training data, or a large part of them, for codecs to be fitted to.
#[derive(Debug, Clone, Copy)]
pub struct DataSample<'a> {
    /// The rows one after the other.
    pub values: &'a [f32],
    /// Numbers in a row.
    pub dim: usize,
    /// How many values a number can have, equally spaced from 0 to 1, where the data say: 256 for pictures.
    pub levels: Option<u32>,
}

impl DataSample<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    /// The numbers of a column in row order, in double precision.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> + Clone {
        self.values.iter().skip(column).step_by(self.dim.max(1)).map(|&value| f64::from(value))
    }

    /// Fails unless there are whole rows of finite numbers.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.dim > 0 && !self.values.is_empty() && self.values.len().is_multiple_of(self.dim),
            "{} numbers make no whole rows of {} to fit codecs to",
            self.values.len(),
            self.dim
        );
        if let Some(place) = self.values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (place / self.dim, place % self.dim);
            return Err(Error::new(format!("the data have a value that is not finite: column {column} of row {row}")));
        }
        Ok(())
    }
}

/// A codec that has not seen the data yet: what an experiment says of it.
pub trait FitCodec: std::fmt::Debug + Send + Sync {
    /// The codec for data like these.
    ///
    /// # Errors
    /// A parameter out of range, and data it cannot be fitted to.
    fn fit(&self, sample: &DataSample) -> Result<AnyCodec>;
}

registry! {
    /// Every codec as experiments list it, tagged by `kind` in files.
    AnyCodecConfig, "codec": FitCodec {
        /// A factor and a shift, the same for every number.
        "affine" => Affine,
        /// From \[0, 1\] to \[−1, 1\]: what pictures usually get.
        "symmetric" => Symmetric,
        /// Every column to mean 0 and a standard deviation.
        "standardize" | "standard_scaler" | "z_score" => Standardize,
        /// Every column to a standard normal by its quantiles.
        "quantile" => Quantile,
        /// From \[0, 1\] to the line by the logit.
        "logit" => Logit,
        /// Gray levels spread over their intervals at random, so that they have a density.
        "dequantize" => Dequantize,
        /// Columns of classes as indicators.
        "one_hot" => OneHot,
        /// Latents of an autoencoder that was trained before, for latent diffusion.
        "autoencoder" => OfAutoencoder,
    }
}

registry! {
    /// Every codec with what it needs to know, tagged by `kind` in files.
    AnyCodec, "codec": Codec {
        /// A factor and a shift.
        "affine" => Affine,
        /// From \[0, 1\] to \[−1, 1\].
        "symmetric" => Symmetric,
        /// Every column to mean 0 and a standard deviation.
        "standardize" => Standardized,
        /// Every column to a standard normal by its quantiles.
        "quantile" => Quantiles,
        /// From \[0, 1\] to the line.
        "logit" => Logit,
        /// Levels spread over their intervals.
        "dequantize" => Dequantized,
        /// Columns of classes as indicators.
        "one_hot" => OneHots,
        /// Latents of an autoencoder.
        "autoencoder" => Latents,
    }
}

/// Fails unless rows have this many numbers.
fn check_width(kind: &str, known: usize, found: usize) -> Result<()> {
    ensure!(known == found, "codec {kind}: it was fitted to rows of {known} numbers and is given rows of {found}");
    Ok(())
}

/// The smallest and the largest number of a batch; `None` without any.
fn extremes(x: &Tensor<2>) -> Option<(f64, f64)> {
    let [rows, dim] = x.dims();
    (rows * dim > 0).then(|| (x.clone().min().into_scalar::<f64>(), x.clone().max().into_scalar::<f64>()))
}
