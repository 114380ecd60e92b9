//! ActNorm (Kingma & Dhariwal, arXiv:1807.03039, section 3.1): a scale and a shift of every number of a row, or of every channel of images,
//! that begin so that a first batch has mean 0 and deviation 1, and are trained from there.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use stein::{Result, ensure};

use super::{Mapped, for_each};
use crate::{init::Init, state};

/// What the weights s and b are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActNormForm {
    /// y = eˢ x + b, as nflows has it; it begins with s = −ln std and b = −mean/std.
    Exponential,
    /// y = s (x + b), as published with Glow; it begins with s = 1/(std + 10⁻⁶) and b = −mean.
    Published,
}

/// The layer, over the last axis.
#[derive(Module, Debug)]
pub struct ActNorm {
    scale: Param<Tensor<1>>,
    shift: Param<Tensor<1>>,
    #[module(skip)]
    form: ActNormForm,
}

impl ActNorm {
    /// Of `width` numbers or channels; the identity until it is [initialized](Self::initialized).
    pub fn new(width: usize, form: ActNormForm, init: &mut Init) -> Self {
        let none = match form {
            ActNormForm::Exponential => 0.0,
            ActNormForm::Published => 1.0,
        };
        Self { scale: init.constant(width, none), shift: init.constant(width, 0.0), form }
    }

    /// The layer that gives this batch `[…, width]` mean 0 and deviation 1, the deviation being that of a sample (over n − 1). A number that does
    /// not vary keeps its scale.
    ///
    /// # Errors
    /// A batch of less than two values of each.
    pub fn initialized<const D: usize>(&self, x: &Tensor<D>) -> Result<Self> {
        let width = self.scale.dims()[0];
        let values = x.clone().detach().reshape([-1, width as i32]);
        let count = values.dims()[0];
        ensure!(
            count > 1,
            "scales and shifts begin with the mean and deviation of a batch, and it has {count} values: give 2 or more"
        );
        let mean = values.clone().mean_dim(0).reshape([width]);
        let deviation = values.var(0).sqrt().reshape([width]);
        let still = deviation.clone().lower_equal_elem(0.0);
        let deviation = deviation.mask_fill(still, 1.0);
        let (scale, shift) = match self.form {
            ActNormForm::Exponential => (-deviation.clone().log(), -mean / deviation),
            ActNormForm::Published => ((deviation + 1e-6).recip(), -mean),
        };
        let weights = [("scale", scale), ("shift", shift)].map(|(name, value)| (name.to_owned(), value.into_data()));
        state::replace(self.clone(), weights.into())
    }

    /// s and b over the last axis.
    fn both<const D: usize>(&self) -> [Tensor<D>; 2] {
        let mut shape = [1; D];
        shape[D - 1] = self.scale.dims()[0];
        [&self.scale, &self.shift].map(|weight| weight.val().reshape(shape))
    }

    /// ln|det| for each row of a batch of this shape.
    fn log_det<const D: usize>(&self, shape: [usize; D]) -> Tensor<1> {
        let log_scale = match self.form {
            ActNormForm::Exponential => self.scale.val(),
            ActNormForm::Published => self.scale.val().abs().log(),
        };
        let places: usize = shape[1..D - 1].iter().product();
        for_each(log_scale.sum() * places as f64, shape[0])
    }

    /// y of `x` `[rows, …, width]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Mapped<D> {
        let (log_det, [scale, shift]) = (self.log_det(x.dims()), self.both());
        let y = match self.form {
            ActNormForm::Exponential => x * scale.exp() + shift,
            ActNormForm::Published => (x + shift) * scale,
        };
        (y, log_det)
    }

    /// x of `y` `[rows, …, width]`.
    pub fn inverse<const D: usize>(&self, y: Tensor<D>) -> Mapped<D> {
        let (log_det, [scale, shift]) = (self.log_det(y.dims()), self.both());
        let x = match self.form {
            ActNormForm::Exponential => (y - shift) * (-scale).exp(),
            ActNormForm::Published => y / scale - shift,
        };
        (x, -log_det)
    }
}
