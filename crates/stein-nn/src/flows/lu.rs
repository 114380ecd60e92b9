//! A linear map by its factors (Kingma & Dhariwal, arXiv:1807.03039, section 3.2; `LULinear` of nflows):
//!
//! y = L U x + b,  ln|det| = Σ ln U_ii
//!
//! with ones on the diagonal of L and softplus(d) + 10⁻³ on that of U. It starts as the identity.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use stein::Result;

use super::{Mapped, check_width, for_each, linear, transform::softplus};
use crate::init::Init;

/// The least number on the diagonal of U.
const LEAST: f64 = 1e-3;

/// The map.
#[derive(Module, Debug)]
pub struct LuLinear {
    /// L below its diagonal; the rest is not used.
    lower: Param<Tensor<2>>,
    /// U above its diagonal; the rest is not used.
    upper: Param<Tensor<2>>,
    diagonal: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl LuLinear {
    /// Of rows of `dim` numbers.
    pub fn new(dim: usize, init: &mut Init) -> Self {
        // Softplus of it and the least make 1.
        let one = ((1.0 - LEAST).exp_m1()).ln() as f32;
        Self {
            lower: init.normal([dim, dim], 0.0),
            upper: init.normal([dim, dim], 0.0),
            diagonal: init.constant(dim, one),
            bias: init.constant(dim, 0.0),
        }
    }

    fn diagonal(&self) -> Tensor<1> {
        softplus(self.diagonal.val()) + LEAST
    }

    /// L U, `[dim, dim]`.
    pub fn matrix(&self) -> Tensor<2> {
        linear::product(self.lower.val(), self.upper.val(), self.diagonal())
    }

    /// ln|det| for each of a number of rows.
    fn log_det(&self, rows: usize) -> Tensor<1> {
        for_each(self.diagonal().log().sum(), rows)
    }

    fn bias(&self) -> Tensor<2> {
        self.bias.val().reshape([1, -1])
    }

    /// y of `x` `[rows, dim]`.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn forward(&self, x: Tensor<2>) -> Result<Mapped<2>> {
        check_width(&x, self.bias.dims()[0])?;
        let rows = x.dims()[0];
        Ok((x.matmul(self.matrix().transpose()) + self.bias(), self.log_det(rows)))
    }

    /// x of `y` `[rows, dim]`.
    ///
    /// # Errors
    /// Rows of another width, and weights that are not finite.
    pub fn inverse(&self, y: Tensor<2>) -> Result<Mapped<2>> {
        check_width(&y, self.bias.dims()[0])?;
        let rows = y.dims()[0];
        let (inverse, _) = linear::inverse(&self.matrix())?;
        Ok(((y - self.bias()).matmul(inverse.transpose()), -self.log_det(rows)))
    }
}
