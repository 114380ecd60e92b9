//! How a convolution is computed, and which way is fastest.

use super::shape::Shape;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The plain sum.
    Direct,
    /// F(2 × 2, 3 × 3).
    Winograd2,
    /// F(4 × 4, 3 × 3).
    Winograd4,
    /// The plain sum, with products of bf16.
    Bf16,
}

impl Method {
    /// The fastest method in f32 whose rounding error stays within 1e-4.
    ///
    /// The estimate is for a batch of eight, whatever the number of samples: an image must not depend on its batch.
    pub fn of(shape: &Shape) -> Self {
        if shape.kernel != [3, 3] || shape.stride != 1 || shape.inputs.min(shape.outputs) < 16 {
            return Self::Direct;
        }
        let [height, width] = shape.output();
        let (inputs, outputs) = (shape.inputs as f64, shape.outputs as f64);
        // In units of one multiply-add: the products; reading and packing the weights, which matters more for small
        // images; and the transforms of each number.
        let cost = |method: Self| {
            let (size, positions) = (method.tile(), method.positions(shape.kernel));
            let tiles = (8 * height.div_ceil(size) * width.div_ceil(size)) as f64;
            let transforms = if size == 1 { 0.0 } else { 4.0 * tiles * (inputs + outputs) };
            positions as f64 * (inputs * outputs * (tiles + 80.0) + transforms)
        };
        let all = [Self::Direct, Self::Winograd2, Self::Winograd4];
        all.into_iter().min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(Self::Direct)
    }

    /// Factors that hold `inputs` numbers.
    pub(super) fn depth(self, inputs: usize) -> usize {
        if self == Self::Bf16 { inputs.div_ceil(2) } else { inputs }
    }

    /// Matrix products per tile: one per tap, or per transformed position.
    pub(super) fn positions(self, [height, width]: [usize; 2]) -> usize {
        let extra = self.tile() - 1;
        (height + extra) * (width + extra)
    }

    /// Height and width of a tile of outputs, in pixels.
    fn tile(self) -> usize {
        match self {
            Self::Direct | Self::Bf16 => 1,
            Self::Winograd2 => 2,
            Self::Winograd4 => 4,
        }
    }
}
