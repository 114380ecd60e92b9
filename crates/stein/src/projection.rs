//! Random directions v with E\[v vᵀ\] = I: what traces and sliced objectives project onto.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{Keys, Purpose, Result, names, rows};

/// The law of a direction. For all, E\[vᵀ A v\] = tr A (Hutchinson 1989).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// +1 and −1 at random: the estimate of a trace has the variance 2 Σ_{i≠j} A_ij² (A symmetrized), and none of a diagonal A.
    #[default]
    Rademacher,
    /// Standard normal numbers: the variance is 2 ‖A‖_F².
    #[serde(alias = "normal")]
    Gaussian,
    /// Uniform on the sphere of radius √dim.
    Sphere,
}

impl Projection {
    /// Every name.
    pub const NAMES: [&str; 3] = ["rademacher", "gaussian", "sphere"];

    /// The law of that name.
    ///
    /// # Errors
    /// Another name, answered with the known ones.
    pub fn named(name: &str) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "rademacher" => Ok(Self::Rademacher),
            "gaussian" | "normal" => Ok(Self::Gaussian),
            "sphere" => Ok(Self::Sphere),
            _ => Err(names::unknown("projection", name, &Self::NAMES)),
        }
    }

    /// The `number`-th direction of every row, `[rows, dim]` on the device and of the precision of `like` `[rows, dim]`: a function
    /// of the key of the row.
    pub fn draw(self, keys: &Keys, number: u64, like: &Tensor<2>) -> Tensor<2> {
        let dim = like.dims()[1];
        let values = match self {
            Self::Rademacher => {
                let sign = |u: f64| if u < 0.5 { -1.0 } else { 1.0 };
                keys.uniforms(Purpose::Probe, number, dim).into_iter().map(sign).collect()
            }
            Self::Gaussian => keys.normal(Purpose::Probe, number, dim),
            Self::Sphere => {
                let mut values = keys.normal(Purpose::Probe, number, dim);
                for row in values.chunks_exact_mut(dim.max(1)) {
                    let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
                    row.iter_mut().for_each(|value| *value *= (dim as f64).sqrt() / norm);
                }
                values
            }
        };
        rows::matrix(values, dim, like)
    }
}
