//! The invertible 1 × 1 convolution (Kingma & Dhariwal, arXiv:1807.03039, section 3.2): one linear map W of the channels at every place, in
//! full or by its factors,
//!
//! W = P L (U + diag(± eˢ)),  ln|det| = H · W · Σ s
//!
//! with a permutation P and the signs fixed. It starts as a random rotation.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use stein::Result;

use super::{
    Mapped, for_each,
    linear::{self, Factors},
};
use crate::{
    init::Init,
    ops::{self, Packed, Weighted},
};

/// The convolution, over images `[N, H, W, channels]`.
#[derive(Module, Debug)]
pub enum InvertibleConv {
    /// Its matrix.
    Plain(PlainConv),
    /// The factors of it.
    Lu(LuConv),
}

/// One matrix.
#[derive(Module, Debug)]
pub struct PlainConv {
    /// Wᵀ
    weight: Param<Tensor<2>>,
}

/// The factors of a matrix. Of `lower` and `upper` only what is below and above the diagonal is used.
#[derive(Module, Debug)]
pub struct LuConv {
    permutation: Param<Tensor<2>>,
    lower: Param<Tensor<2>>,
    upper: Param<Tensor<2>>,
    log_scale: Param<Tensor<1>>,
    sign: Param<Tensor<1>>,
}

impl InvertibleConv {
    /// Of this many channels, by factors or in full.
    pub fn new(channels: usize, lu: bool, init: &mut Init) -> Self {
        let square = [channels; 2];
        let drawn = init.normals(channels * channels, 1.0);
        let rotation = if init.is_blank() { Vec::new() } else { linear::rotation(&drawn, channels) };
        let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        if !lu {
            return Self::Plain(PlainConv { weight: init.given(square, single(&rotation)) });
        }
        let size = if init.is_blank() { 0 } else { channels };
        let Factors { order, both } = Factors::of(rotation, size).expect("a rotation has an inverse");
        let mut permutation = vec![0.0; size * size];
        order.iter().enumerate().for_each(|(row, &from)| permutation[from * size + row] = 1.0);
        let diagonal: Vec<f64> = both.iter().step_by(size + 1).copied().collect();
        Self::Lu(LuConv {
            permutation: init.frozen(square, permutation),
            lower: init.given(square, single(&both)),
            upper: init.given(square, single(&both)),
            log_scale: init.given([channels], diagonal.iter().map(|pivot| pivot.abs().ln() as f32).collect()),
            sign: init.frozen([channels], diagonal.iter().map(|pivot| pivot.signum() as f32).collect()),
        })
    }

    /// W, `[channels, channels]`.
    pub fn matrix(&self) -> Tensor<2> {
        match self {
            Self::Plain(plain) => plain.weight.val().transpose(),
            Self::Lu(lu) => {
                let diagonal = lu.log_scale.val().exp() * lu.sign.val();
                lu.permutation.val().matmul(linear::product(lu.lower.val(), lu.upper.val(), diagonal))
            }
        }
    }

    /// ln|det W|, `[1]`.
    fn log_det(&self, matrix: &Tensor<2>) -> Result<Tensor<1>> {
        Ok(match self {
            Self::Plain(_) => {
                // ∂ ln|det W| / ∂W is the transposed inverse.
                let (inverse, log_det) = linear::inverse(matrix)?;
                let change = matrix.clone() - matrix.clone().detach();
                (change * inverse.transpose()).sum() + log_det
            }
            Self::Lu(lu) => lu.log_scale.val().sum(),
        })
    }

    /// y of `x` `[N, H, W, channels]`.
    ///
    /// # Errors
    /// A matrix without an inverse.
    pub fn forward(&self, x: Tensor<4>) -> Result<Mapped<4>> {
        let matrix = self.matrix();
        let log_det = over_places(self.log_det(&matrix)?, x.dims());
        Ok((applied(x, matrix.transpose()), log_det))
    }

    /// x of `y` `[N, H, W, channels]`.
    ///
    /// # Errors
    /// A matrix without an inverse.
    pub fn inverse(&self, y: Tensor<4>) -> Result<Mapped<4>> {
        let matrix = self.matrix();
        let log_det = over_places(self.log_det(&matrix)?, y.dims());
        Ok((applied(y, linear::inverse(&matrix)?.0.transpose()), -log_det))
    }
}

/// The same map at every place, for each image.
fn over_places(log_det: Tensor<1>, [count, height, width, _]: [usize; 4]) -> Tensor<1> {
    for_each(log_det * (height * width) as f64, count)
}

/// x W at every place.
fn applied(x: Tensor<4>, weight: Tensor<2>) -> Tensor<4> {
    ops::linear(x.into(), Weighted { weight, bias: None, packed: &Packed::default() }, None).value
}
