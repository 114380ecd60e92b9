//! What couplings and autoregressive layers do to one number, given parameters that depend on others.

use burn::tensor::{Tensor, activation::sigmoid};
use stein::Result;

use super::{Bends, Mapped, Spline, over_rows};

/// Added to the scale of an affine map.
const LEAST_SCALE: f64 = 1e-3;

/// A monotonic map of every number by parameters of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transform {
    /// y = x · (sigmoid(a + 2) + 10⁻³) + t with parameters t and a (Dinh et al., arXiv:1605.08803, section 3.2, in the form of nflows).
    Affine,
    /// A rational-quadratic [`Spline`], with widths and heights over the root of the width of what gives them.
    Spline(Spline),
}

impl Transform {
    /// The parameters of a number.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Affine => 2,
            Self::Spline(spline) => spline.parameters(),
        }
    }

    /// Of `x` `[rows, dim]` by `parameters` `[rows, dim, parameters]`, which come of a network of this width.
    pub(super) fn forward(&self, x: Tensor<2>, parameters: Tensor<3>, width: usize) -> Result<Mapped<2>> {
        let (y, log_slope) = match self {
            Self::Affine => {
                let [shift, scale] = affine(parameters);
                (x * scale.clone() + shift, scale.log())
            }
            Self::Spline(spline) => spline.forward(x, tempered(spline, parameters, width))?,
        };
        Ok((y, over_rows(log_slope)))
    }

    /// The way back.
    pub(super) fn inverse(&self, y: Tensor<2>, parameters: Tensor<3>, width: usize) -> Result<Mapped<2>> {
        let (x, log_slope) = match self {
            Self::Affine => {
                let [shift, scale] = affine(parameters);
                ((y - shift) / scale.clone(), -scale.log())
            }
            Self::Spline(spline) => spline.inverse(y, tempered(spline, parameters, width))?,
        };
        Ok((x, over_rows(log_slope)))
    }
}

/// Shift and scale.
fn affine(parameters: Tensor<3>) -> [Tensor<2>; 2] {
    let [rows, dim, _] = parameters.dims();
    let part = |at: usize| parameters.clone().narrow(2, at, 1).reshape([rows, dim]);
    [part(0), sigmoid(part(1) + 2.0) + LEAST_SCALE]
}

/// The free numbers of a spline that come of a network of a width.
fn tempered(spline: &Spline, parameters: Tensor<3>, width: usize) -> Bends {
    // The engine's gradient of a quotient by a number is that of single precision; of a product it is exact.
    let factor = (width as f64).powf(-0.5);
    let bends = spline.bends(parameters);
    Bends { widths: bends.widths * factor, heights: bends.heights * factor, ..bends }
}

/// ln(1 + eˣ), from both sides without loss.
pub(super) fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone().clamp_min(0.0) + (-x.abs()).exp().log1p()
}
