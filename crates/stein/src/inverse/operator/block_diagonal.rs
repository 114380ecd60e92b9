//! Operators side by side: each takes its own stretch of the sample and makes its own stretch of the measurement.

use std::sync::{Arc, OnceLock};

use super::{Dense, Linear, Operator, Spectrum};
use crate::Result;

/// Operators of the parts of a sample, in order.
#[derive(Debug)]
pub struct BlockDiagonal {
    blocks: Vec<Arc<dyn Operator>>,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl BlockDiagonal {
    /// Of the operators of the parts.
    pub fn new(blocks: Vec<Arc<dyn Operator>>) -> Self {
        Self { blocks, spectrum: OnceLock::new() }
    }

    /// What f makes of every block, the numbers of a sample that are its own and those of another array cut by `size`.
    fn each(
        &self,
        x: &[f64],
        of: &[f64],
        size: impl Fn(&dyn Operator) -> usize,
        f: impl Fn(&dyn Operator, &[f64], &[f64]) -> Vec<f64>,
    ) -> Vec<f64> {
        let (mut x, mut of, mut out) = (x, of, Vec::new());
        for block in &self.blocks {
            let (own, rest) = x.split_at(block.inputs());
            let (part, others) = of.split_at(size(&**block));
            out.extend(f(&**block, own, part));
            (x, of) = (rest, others);
        }
        out
    }
}

impl Operator for BlockDiagonal {
    fn inputs(&self) -> usize {
        self.blocks.iter().map(|block| block.inputs()).sum()
    }

    fn outputs(&self) -> usize {
        self.blocks.iter().map(|block| block.outputs()).sum()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.each(x, &[], |_| 0, |block, x, _| block.apply(x))
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        self.each(x, v, |block| block.inputs(), |block, x, v| block.push(x, v))
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        self.each(x, w, |block| block.outputs(), |block, x, w| block.pull(x, w))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        self.blocks.iter().all(|block| block.linear().is_some()).then_some(self as &dyn Linear)
    }
}

impl Linear for BlockDiagonal {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        self.spectrum.get_or_init(|| Dense::of(self)?.spectrum()).clone()
    }
}
