//! Bilinear interpolation of images to another size, on the grids implementations differ by.
//!
//! Along an axis of a places, place i of b is read at position p_i between the two places it lies between, weighted by
//! nearness, and at the border where it lies beyond. Nothing is averaged where images shrink: most places are not read.

use burn::tensor::{Tensor, TensorData};

use crate::ops::Dual;

/// Where the places of the result lie among those of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grid {
    /// p_i = i (a − 1)/(b − 1): the first and the last place stay where they are.
    Corners,
    /// p_i = (i + ½) a/b − ½: places are squares, and the image keeps its outline.
    Centers,
    /// p_i = i a/b, with a/b rounded to f32: the first place stays where it is (version 1 of TensorFlow).
    Origin,
}

impl Grid {
    fn position(self, [from, to]: [usize; 2], i: usize) -> f64 {
        let ratio = from as f64 / to as f64;
        match self {
            Self::Corners if to == 1 => 0.0,
            Self::Corners => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            Self::Centers => ((i as f64 + 0.5) * ratio - 0.5).max(0.0),
            Self::Origin => i as f64 * f64::from(ratio as f32),
        }
    }

    /// The matrix `[to, from]` of the interpolation along an axis.
    fn matrix(self, from: usize, to: usize) -> Vec<f64> {
        let mut weights = vec![0.0; to * from];
        for (i, weights) in weights.chunks_exact_mut(from).enumerate() {
            let position = self.position([from, to], i);
            let low = (position as usize).min(from - 1);
            let over = position - low as f64;
            weights[low] += 1.0 - over;
            weights[(low + 1).min(from - 1)] += over;
        }
        weights
    }
}

/// Images `[N, H, W, C]` as `[N, height, width, C]`.
pub(super) fn bilinear(x: Dual<4>, [height, width]: [usize; 2], grid: Grid) -> Dual<4> {
    let [n, h, w, c] = x.dims();
    if [h, w] == [height, width] {
        return x;
    }
    let (device, kind) = (x.value.device(), x.value.dtype());
    let matrix = |from, to| {
        let weights = TensorData::new(grid.matrix(from, to), [1, to, from]);
        Tensor::<3>::from_data(weights, (&device, kind))
    };
    let (down, across) = (matrix(h, height), matrix(w, width));
    x.linear(|x| {
        let x = down.clone().matmul(x.reshape([n, h, w * c])).reshape([n * height, w, c]);
        across.clone().matmul(x).reshape([n, height, width, c])
    })
}
