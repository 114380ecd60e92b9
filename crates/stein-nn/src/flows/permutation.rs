//! A fixed permutation of the numbers of a row, whose determinant is ±1.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::Mapped;
use crate::init::Init;

/// The permutation, which is saved with the weights and not trained.
#[derive(Module, Debug)]
pub struct Permutation {
    /// Number i of the result is number `order[i]` of the row.
    order: Param<Tensor<1>>,
}

impl Permutation {
    /// The last number first.
    pub fn reverse(dim: usize, init: &mut Init) -> Self {
        Self::of((0..dim).rev(), dim, init)
    }

    /// One drawn with the weights.
    pub fn random(dim: usize, init: &mut Init) -> Self {
        let drawn = init.normals(dim, 1.0);
        let mut order: Vec<usize> = (0..drawn.len()).collect();
        order.sort_by(|&a, &b| drawn[a].total_cmp(&drawn[b]));
        Self::of(order.into_iter(), dim, init)
    }

    fn of(order: impl Iterator<Item = usize>, dim: usize, init: &mut Init) -> Self {
        let order = if init.is_blank() { Vec::new() } else { order.map(|number| number as f32).collect() };
        Self { order: init.frozen([dim], order) }
    }

    /// y of `x` `[rows, dim]`.
    pub fn forward(&self, x: Tensor<2>) -> Mapped<2> {
        let none = Tensor::zeros([x.dims()[0]], (&x.device(), x.dtype()));
        (x.select(1, self.order.val().int()), none)
    }

    /// x of `y` `[rows, dim]`.
    pub fn inverse(&self, y: Tensor<2>) -> Mapped<2> {
        let none = Tensor::zeros([y.dims()[0]], (&y.device(), y.dtype()));
        (y.select(1, self.order.val().int().argsort(0)), none)
    }
}
