//! Peak signal-to-noise ratio: 10 log₁₀( range² / mean squared error ) dB, of each picture over all channels and pixels.
//!
//! The mean over pictures is reported, with s/√n as error; it is infinite if a picture is reproduced exactly.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers};

use crate::{Better, Metric, Needs, Running, pictures};

/// Peak signal-to-noise ratio, dB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Psnr {
    /// The largest value less the smallest that a pixel may have, above 0; default 1, and 255 for bytes.
    pub range: f64,
}

impl Default for Psnr {
    fn default() -> Self {
        Self { range: 1.0 }
    }
}

impl Metric for Psnr {
    fn needs(&self) -> Needs {
        pictures::NEEDS
    }

    fn better(&self) -> Better {
        Better::Larger
    }

    fn check(&self) -> Result<()> {
        numbers::ensure_within("range", self.range, numbers::above(0.0, 1e100))
    }

    fn start(&self, dim: usize) -> Result<Running> {
        let range = self.range;
        let score = move |one: Vec<f64>, other: Vec<f64>| {
            let squares: f64 = one.iter().zip(&other).map(|(a, b)| (a - b).powi(2)).sum();
            10.0 * (range * range / (squares / one.len() as f64)).log10()
        };
        Ok(Running::Streaming(Box::new(pictures::Pairs::new(dim, Box::new(score)))))
    }
}
