//! Autoregressive layers (MAF: Papamakarios et al., arXiv:1705.07057, section 3; with splines: Durkan et al., arXiv:1906.04032).
//!
//! Number i of a row goes through a monotonic map whose parameters a masked network makes of the numbers before i. From data to noise that is one
//! pass; back it is one pass a number.

use burn::{module::Module, tensor::Tensor};
use stein::{Condition, Result};

use super::{Conditioner, ConditionerForm, Mapped, Transform, check_width, over_rows};
use crate::init::Init;

/// An autoregressive layer of rows.
#[derive(Module, Debug)]
pub struct Autoregressive {
    conditioner: Conditioner,
    #[module(skip)]
    transform: Transform,
    dim: usize,
}

impl Autoregressive {
    /// Of rows of `dim` numbers, at least 1.
    ///
    /// # Errors
    /// When it has more weights than any network.
    pub fn new(dim: usize, transform: Transform, form: ConditionerForm, init: &mut Init) -> Result<Self> {
        let conditioner = Conditioner::new([dim, dim], transform.parameters(), true, form, init)?;
        Ok(Self { conditioner, transform, dim })
    }

    /// y of `x` `[rows, dim]`.
    ///
    /// # Errors
    /// Rows of another width, and classes it does not know.
    pub fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        check_width(&x, self.dim)?;
        let parameters = self.conditioner.forward(x.clone(), given)?;
        self.transform.forward(x, parameters, self.conditioner.hidden())
    }

    /// x of `y` `[rows, dim]`, number by number.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn inverse(&self, y: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        check_width(&y, self.dim)?;
        let rows = y.dims()[0];
        // Numbers that are not found yet are zeros, which masks keep from those before them.
        let mut x = y.zeros_like();
        let mut log_dets = Vec::with_capacity(self.dim);
        for number in 0..self.dim {
            let parameters = self.conditioner.forward(x.clone(), given)?.narrow(1, number, 1);
            let of = y.clone().narrow(1, number, 1);
            let (found, log_det) = self.transform.inverse(of, parameters, self.conditioner.hidden())?;
            x = x.slice_assign([0..rows, number..number + 1], found);
            log_dets.push(log_det.reshape([rows, 1]));
        }
        Ok((x, over_rows(Tensor::cat(log_dets, 1))))
    }
}
