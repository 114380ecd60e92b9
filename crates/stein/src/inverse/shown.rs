//! What was measured as a picture, for models that are shown it: A⁺y, and beside it A⁺A 1, which is 1 where everything is known.
//!
//! A model that was trained on such pictures beside its noisy input draws p(x_0 | y) by any sampler, for the one measurement it knows
//! (Saharia et al. 2022, "Image Super-Resolution via Iterative Refinement" and "Palette").

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Problem, linear};
use crate::Result;

impl Problem {
    /// A⁺y and A⁺A 1 of every row, side by side in channels: `[rows, height, width, 2 · channels]` for samples `[height, width, channels]`.
    ///
    /// # Errors
    /// A measurement that is not linear, or has no singular value decomposition.
    ///
    /// # Panics
    /// If the size is not that of the operator's samples.
    pub fn shown(&self, [height, width, channels]: [usize; 3], like: &Tensor<2>) -> Result<Tensor<4>> {
        let spectrum = linear(&*self.operator, "conditional")?.spectrum()?;
        let known = spectrum.of_sample(&vec![1.0; height * width * channels], &|s| f64::from(u8::from(s > 0.0)));
        let row = |row: usize| {
            let back = spectrum.back(self.y(row), &|s| 1.0 / s);
            let pixels = back.chunks(channels).zip(known.chunks(channels));
            pixels.flat_map(|(back, known)| [back, known].concat()).collect::<Vec<f64>>()
        };
        let all: Vec<Vec<f64>> = (0..self.rows()).into_par_iter().map(row).collect();
        let data = TensorData::new(all.concat(), [self.rows(), height, width, 2 * channels]);
        Ok(Tensor::from_data(data, (&like.device(), like.dtype())))
    }
}
