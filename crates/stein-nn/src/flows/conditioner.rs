//! The network that gives the parameters of couplings and autoregressive layers: a residual perceptron, `ResidualNet` of nflows.
//!
//! h₀ = W_in x + E\[class\],  h_{k+1} = h_k + W₂ relu(W₁ relu(h_k)),  out = W_out h_K
//!
//! all with biases. In the autoregressive form the weights are masked (MADE: Germain et al., arXiv:1502.03509, section 4.1): input
//! i = 1 … D has degree i, hidden number j the degree 1 + j mod (D − 1), and a weight stays where the degree does not fall, or, to the
//! output, where it grows. What it gives for number i then depends on those before i alone. W_out starts at zero.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use stein::{Condition, Result, rows};

use crate::{
    embedding::of_classes,
    init::Init,
    layers::Linear,
    ops::{self, Activation, Dual},
};

/// How large a [`Conditioner`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionerForm {
    /// Numbers of a hidden layer; at least 1.
    pub hidden: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Classes it is told, 0 for none.
    pub classes: usize,
}

/// The network.
#[derive(Module, Debug)]
pub struct Conditioner {
    input: Linear,
    classes: Option<Param<Tensor<2>>>,
    blocks: Vec<Block>,
    output: Linear,
    hidden: usize,
    each: usize,
    masked: bool,
}

#[derive(Module, Debug)]
struct Block {
    first: Linear,
    second: Linear,
}

impl Conditioner {
    /// From `inputs` numbers to `each` parameters of each of `outputs` numbers; in the autoregressive form there are as many outputs as inputs.
    pub(super) fn new(
        [inputs, outputs]: [usize; 2],
        each: usize,
        masked: bool,
        form: ConditionerForm,
        init: &mut Init,
    ) -> Result<Self> {
        let ConditionerForm { hidden, blocks, classes } = form;
        let mut block = |_| {
            init.check()?;
            Ok(Block { first: Linear::new(hidden, hidden, init), second: Linear::new(hidden, hidden, init) })
        };
        let blocks = (0..blocks).map(&mut block).collect::<Result<_>>()?;
        Ok(Self {
            blocks,
            input: Linear::new(inputs, hidden, init),
            classes: (classes > 0).then(|| init.normal([classes, hidden], 1.0)),
            output: Linear::zero(hidden, outputs.saturating_mul(each), init),
            hidden,
            each,
            masked,
        })
    }

    /// The width of its hidden layers.
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// The parameters `[rows, outputs, each]` for `x` `[rows, inputs]`.
    pub(super) fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<3>> {
        let rows = x.dims()[0];
        let masks = self.masked.then(|| self.masks(&x));
        let linear = |layer: &Linear, x: Dual<2>, mask: usize| match &masks {
            Some(masks) => layer.forward_masked(x, masks[mask].clone()),
            None => layer.forward(x),
        };
        let relu = |h: &Dual<2>| ops::activate(h.clone(), Activation::Relu);
        let mut h = linear(&self.input, x.into(), 0);
        if let Some(table) = &self.classes {
            let class = given.class_rows(rows, table.dims()[0])?;
            h = of_classes(table.val(), &class).into_iter().fold(h, |h, added| h + added.into());
        }
        for Block { first, second } in &self.blocks {
            let inner = linear(first, relu(&h), 1);
            h = h + linear(second, relu(&inner), 1);
        }
        let out = linear(&self.output, h, 2).value;
        let outputs = out.dims()[1] / self.each;
        Ok(out.reshape([rows, outputs, self.each]))
    }

    /// The masks of the layer that reads, of those within blocks and of the last: `[inputs, outputs]` of each.
    fn masks(&self, like: &Tensor<2>) -> [Tensor<2>; 3] {
        let dim = self.input.inputs();
        let numbers: Vec<usize> = (1..=dim).collect();
        // Of a single number nothing is known beforehand.
        let (period, least) = if dim > 1 { (dim - 1, 1) } else { (1, 0) };
        let hidden: Vec<usize> = (0..self.hidden).map(|j| j % period + least).collect();
        let outputs: Vec<usize> = numbers.iter().flat_map(|&number| std::iter::repeat_n(number, self.each)).collect();
        let mask = |from: &[usize], to: &[usize], least: f64| {
            let degrees = |of: &[usize]| of.iter().map(|&degree| degree as f64).collect::<Vec<_>>();
            let growth = rows::matrix(degrees(to), to.len(), like) - rows::column(&degrees(from), like);
            growth.greater_equal_elem(least).float().cast(like.dtype())
        };
        [mask(&numbers, &hidden, 0.0), mask(&hidden, &hidden, 0.0), mask(&hidden, &outputs, 1.0)]
    }
}
