//! y = |F P x| or |F P x|² on the plane of every channel: the magnitudes of the frequencies of a picture, as diffraction shows them. P puts
//! the picture into the middle of a larger black one, and F is the orthonormal Fourier transform, shown with frequency zero in the middle.
//!
//! DPS (Chung et al. 2023) measures amplitudes and pads by an eighth of the size times the oversampling on every side: twice oversampled,
//! a picture of 256² gives 384² numbers. deepinv measures intensities. With Y = F P x and dY = F P v the derivative along v is
//! Re(Y* dY)/|Y|, 0 where Y is, of amplitudes and 2 Re(Y* dY) of intensities.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture};
use crate::{
    Result,
    inverse::{Chain, Complex, Fourier, Gather, Operator, PerChannel, Transposed},
    numbers::ensure_within,
};

/// Magnitudes of frequencies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PhaseRetrieval {
    /// Eighths of height and width that are black on either side of the picture, rounded down; from 0 to 16, default 2.
    pub oversampling: f64,
    /// What is measured of a frequency; default `amplitude`.
    pub magnitude: Magnitude,
}

/// What is measured of a complex number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Magnitude {
    /// Its modulus.
    #[default]
    Amplitude,
    /// The square of its modulus.
    Intensity,
}

impl Default for PhaseRetrieval {
    fn default() -> Self {
        Self { oversampling: 2.0, magnitude: Magnitude::Amplitude }
    }
}

impl PhaseRetrieval {
    /// Black pixels on either side of a side.
    fn padding(&self, side: usize) -> usize {
        (self.oversampling / 8.0 * side as f64) as usize
    }
}

impl Measurement for PhaseRetrieval {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = picture(shape, "phase_retrieval")?;
        ensure_within("measurement phase_retrieval: oversampling", self.oversampling, 0.0..=16.0)?;
        let (top, left) = (self.padding(height), self.padding(width));
        let fourier = Fourier::new([height + 2 * top, width + 2 * left]);
        let middle = |place: usize| (place / width + top) * fourier.size()[1] + place % width + left;
        let crop = Gather::new(fourier.count(), (0..height * width).map(middle).collect())?;
        let center = Gather::new(fourier.count(), (0..fourier.count()).map(|place| fourier.centered(place)).collect())?;
        let magnitudes = Magnitudes { fourier, of: self.magnitude };
        let pad = Transposed::new(Arc::new(crop));
        let plane = Chain::new(vec![Arc::new(pad), Arc::new(magnitudes), Arc::new(center)]);
        Ok(Arc::new(PerChannel::new(Arc::new(plane), channels)))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        let [height, width, channels] = picture(shape, "phase_retrieval")?;
        Ok(vec![height + 2 * self.padding(height), width + 2 * self.padding(width), channels])
    }
}

/// Magnitudes of the frequencies of a real plane.
#[derive(Debug)]
struct Magnitudes {
    fourier: Fourier,
    of: Magnitude,
}

impl Magnitudes {
    /// The derivative of the magnitude of Y along dY is the real part of this, conjugated, times dY.
    fn slope(&self, y: Complex<f64>) -> Complex<f64> {
        match self.of {
            Magnitude::Intensity => y * 2.0,
            Magnitude::Amplitude if y.norm() > 0.0 => y / y.norm(),
            Magnitude::Amplitude => Complex::new(0.0, 0.0),
        }
    }
}

impl Operator for Magnitudes {
    fn inputs(&self) -> usize {
        self.fourier.count()
    }

    fn outputs(&self) -> usize {
        self.fourier.count()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let magnitude = |y: Complex<f64>| match self.of {
            Magnitude::Amplitude => y.norm(),
            Magnitude::Intensity => y.norm_sqr(),
        };
        self.fourier.of_real(x).into_iter().map(magnitude).collect()
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let (y, dy) = (self.fourier.of_real(x), self.fourier.of_real(v));
        y.into_iter().zip(dy).map(|(y, dy)| (self.slope(y).conj() * dy).re).collect()
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        let y = self.fourier.of_real(x);
        self.fourier.back_real(y.into_iter().zip(w).map(|(y, w)| self.slope(y) * *w).collect())
    }
}
