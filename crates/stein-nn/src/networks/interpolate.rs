//! Interpolation of images to another size, on the grids implementations differ by.
//!
//! Along an axis of a places, place i of b is read at position p_i. Linear interpolation weighs the two places it lies between by
//! nearness, and reads the border where it lies beyond; nothing is averaged where images shrink: most places are not read. Cubic interpolation
//! (Keys 1981) weighs places at distance d by
//!
//! (a + 2) d³ − (a + 3) d² + 1 for d ≤ 1, and a (d³ − 5d² + 8d − 4) for 1 < d < 2.

use burn::tensor::{Tensor, TensorData};

use crate::ops::Dual;

/// Where the places of the result lie among those of the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Grid {
    /// p_i = i (a − 1)/(b − 1): the first and the last place stay where they are.
    Corners,
    /// p_i = (i + ½) a/b − ½: places are squares, and the image keeps its outline.
    Centers,
    /// p_i = i a/b, with a/b rounded to f32: the first place stays where it is (version 1 of TensorFlow).
    Origin,
    /// Cubic of a = −1/2 with the positions of [`Centers`](Self::Centers). Where images shrink, distances are in units of a/b, which averages;
    /// places beyond the border weigh nothing (Pillow; PyTorch with `antialias`).
    Cubic,
    /// Cubic of a = −3/4 at p_i = (i + ½)/scale − ½, for a scale that need not be b/a; places beyond the border are those at the border (PyTorch
    /// with a `scale_factor`).
    CubicBy {
        /// By how much images grow.
        scale: f64,
    },
}

/// The weight of a place at a distance.
fn cubic(a: f64, distance: f64) -> f64 {
    let d = distance.abs();
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        a * (((d - 5.0) * d + 8.0) * d - 4.0)
    } else {
        0.0
    }
}

impl Grid {
    fn position(self, [from, to]: [usize; 2], i: usize) -> f64 {
        let ratio = from as f64 / to as f64;
        match self {
            Self::Corners if to == 1 => 0.0,
            Self::Corners => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            Self::Centers => ((i as f64 + 0.5) * ratio - 0.5).max(0.0),
            Self::Origin => i as f64 * f64::from(ratio as f32),
            Self::Cubic => (i as f64 + 0.5) * ratio - 0.5,
            Self::CubicBy { scale } => (i as f64 + 0.5) / scale - 0.5,
        }
    }

    /// The weights of the places that one at a position is made of.
    fn weigh(self, [from, to]: [usize; 2], position: f64, weights: &mut [f64]) {
        match self {
            Self::Corners | Self::Centers | Self::Origin => {
                let low = (position as usize).min(from - 1);
                let over = position - low as f64;
                weights[low] += 1.0 - over;
                weights[(low + 1).min(from - 1)] += over;
            }
            Self::Cubic => {
                let unit = (from as f64 / to as f64).max(1.0);
                for (place, weight) in weights.iter_mut().enumerate() {
                    *weight = cubic(-0.5, (place as f64 - position) / unit);
                }
                let sum: f64 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            Self::CubicBy { .. } => {
                let first = position.floor();
                for tap in -1..=2 {
                    let place = first + f64::from(tap);
                    weights[place.clamp(0.0, (from - 1) as f64) as usize] += cubic(-0.75, place - position);
                }
            }
        }
    }

    /// The matrix `[to, from]` of the interpolation along an axis.
    fn matrix(self, from: usize, to: usize) -> Vec<f64> {
        let mut weights = vec![0.0; to * from];
        for (i, weights) in weights.chunks_exact_mut(from).enumerate() {
            self.weigh([from, to], self.position([from, to], i), weights);
        }
        weights
    }
}

/// Images `[N, H, W, C]` as `[N, height, width, C]`.
pub(super) fn interpolate(x: Dual<4>, [height, width]: [usize; 2], grid: Grid) -> Dual<4> {
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
