//! Convolution of channels-last images: the value, the gradient of its input, the gradient of its weights.
//!
//! y\[n, i, j, o\] = scale · (Σ x\[n, s i + u − top, s j + v − left, c\] w\[u, v, c, o\] + bias\[o\] + shift\[n, o\] +
//! residual\[n, i, j, o\]), zero outside of x. The input may be several tensors side by side along channels, each place
//! repeated (nearest-neighbour up-sampling), and may pass through y = f(a x + b) (a normalisation and SiLU) on its way in;
//! none of these is ever written to memory as a whole.
//!
//! Two methods in f32. *Direct*: rows of the input are copied, with their zero border, into a band that stays in cache,
//! and a register tile of pixels × outputs is summed over taps and channels. *Winograd* (Lavin & Gray,
//! arXiv:1509.09308) F(m × m, 3 × 3): for each m × m tile of outputs the (m + 2)² inputs are transformed, multiplied
//! with transformed weights as (m + 2)² matrix products, and transformed back; that is 9 m² / (m + 2)² times fewer
//! multiplications, 2.25 for m = 2, and a rounding error a few times that of the direct sum.
//!
//! In *bf16* the direct method's inputs and weights are rounded to the upper half of an f32, eight significant bits;
//! products are exact and sums and all that is added to them are f32.

mod bf16;
mod direct;
mod gradient;
mod input;
mod weights;
mod winograd;

use crate::vector::{self, Simd};

pub use gradient::{weight_gradient, weight_gradient_by};
pub use input::{Input, Prologue};
pub use weights::Weights;

pub(crate) use bf16::Pair;
pub(crate) use direct::Out;

use crate::{Isa, memory::Target};

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Images in the batch.
    pub samples: usize,
    /// Height of the input, after repetition.
    pub height: usize,
    /// Width of the input, after repetition.
    pub width: usize,
    /// Channels of the input, all parts together.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Step between outputs, 1 or 2.
    pub stride: usize,
    /// Zeros above, below, left and right of the input.
    pub pad: [usize; 4],
}

impl Shape {
    /// A linear layer as a 1 × 1 convolution of `rows` images of one place.
    pub fn dense(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { samples: rows, height: 1, width: 1, inputs, outputs, kernel: [1, 1], stride: 1, pad: [0; 4] }
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let [top, bottom, left, right] = self.pad;
        [
            (self.height + top + bottom - self.kernel[0]) / self.stride + 1,
            (self.width + left + right - self.kernel[1]) / self.stride + 1,
        ]
    }

    /// Multiplications and additions of the direct method.
    pub fn operations(&self) -> f64 {
        let [height, width] = self.output();
        let places = (self.samples * height * width) as f64;
        2.0 * places * (self.kernel[0] * self.kernel[1] * self.inputs * self.outputs) as f64
    }

    /// The convolution that gives the gradient of channels `from .. from + count` of the input from that of the output,
    /// whose places it takes `stride` apart.
    ///
    /// # Panics
    /// If more zeros are padded before or after than the kernel has taps but one: it would meet zeros only.
    pub fn adjoint(&self, count: usize) -> Self {
        let [height, width] = self.output();
        let dilated = [(height - 1) * self.stride + 1, (width - 1) * self.stride + 1];
        let [kh, kw] = self.kernel;
        assert!(
            self.pad.iter().zip([kh, kh, kw, kw]).all(|(pad, taps)| *pad < taps),
            "a kernel of {kh} x {kw} taps is padded by {:?}",
            self.pad
        );
        let (top, left) = (kh - 1 - self.pad[0], kw - 1 - self.pad[2]);
        Self {
            samples: self.samples,
            height: dilated[0],
            width: dilated[1],
            inputs: self.outputs,
            outputs: count,
            kernel: self.kernel,
            stride: 1,
            pad: [top, self.height + kh - 1 - dilated[0] - top, left, self.width + kw - 1 - dilated[1] - left],
        }
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The plain sum.
    Direct,
    /// F(2 × 2, 3 × 3).
    Winograd2,
    /// F(4 × 4, 3 × 3).
    Winograd4,
    /// The plain sum of products of bf16.
    Bf16,
}

impl Method {
    /// Factors in a row of that many numbers.
    fn depth(self, inputs: usize) -> usize {
        if self == Self::Bf16 { inputs.div_ceil(2) } else { inputs }
    }

    /// The one in f32 that takes the least time, within a rounding error of 1e-4.
    ///
    /// It does not depend on the number of samples, because an image is not to depend on its batch: the estimate is for
    /// eight of them.
    pub fn of(shape: &Shape) -> Self {
        if shape.kernel != [3, 3] || shape.stride != 1 || shape.inputs.min(shape.outputs) < 16 {
            return Self::Direct;
        }
        let [height, width] = shape.output();
        let (inputs, outputs) = (shape.inputs as f64, shape.outputs as f64);
        // In units of one multiplication and addition: the products; reading and packing weights, which weigh more the
        // smaller an image is; and the transforms of each number.
        let cost = |method: Self| {
            let (size, positions) = (method.tile(), method.positions(shape.kernel));
            let tiles = (8 * height.div_ceil(size) * width.div_ceil(size)) as f64;
            let transforms = if size == 1 { 0.0 } else { 4.0 * tiles * (inputs + outputs) };
            positions as f64 * (inputs * outputs * (tiles + 80.0) + transforms)
        };
        let all = [Self::Direct, Self::Winograd2, Self::Winograd4];
        all.into_iter().min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(Self::Direct)
    }

    /// Places of output a tile is high and wide.
    fn tile(self) -> usize {
        match self {
            Self::Direct | Self::Bf16 => 1,
            Self::Winograd2 => 2,
            Self::Winograd4 => 4,
        }
    }

    /// Products of matrices that make tiles: one for every tap, or for every transformed place.
    fn positions(self, [height, width]: [usize; 2]) -> usize {
        let further = self.tile() - 1;
        (height + further) * (width + further)
    }
}

/// What is added to the sums, and the factor at the end.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// `[samples, outputs]`
    pub shift: Option<&'a [f32]>,
    /// Of the shape of the output.
    pub residual: Option<&'a [f32]>,
    /// 1 for none.
    pub scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, shift: None, residual: None, scale: 1.0 }
    }
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, shape: &Shape, y: &[f32]) {
        let [height, width] = shape.output();
        assert_eq!(y.len(), shape.samples * height * width * shape.outputs, "the output of a convolution");
        assert!(self.bias.is_none_or(|bias| bias.len() == shape.outputs), "the bias of a convolution");
        assert!(self.shift.is_none_or(|shift| shift.len() == shape.samples * shape.outputs), "its shift");
        assert!(self.residual.is_none_or(|residual| residual.len() == y.len()), "its residual");
    }

    /// The sum of a vector of `count` outputs from `column` on, at number `place` of sample `n`, after all is added.
    ///
    /// # Safety
    /// They are within the output, whose sizes were checked.
    #[inline(always)]
    pub(crate) unsafe fn apply<S: Simd>(
        &self,
        mut sum: S::V,
        outputs: usize,
        n: usize,
        place: usize,
        column: usize,
        count: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(bias) = self.bias {
                sum = S::add(sum, vector::load::<S>(bias.as_ptr().add(column), count));
            }
            if let Some(shift) = self.shift {
                sum = S::add(sum, vector::load::<S>(shift.as_ptr().add(n * outputs + column), count));
            }
            if let Some(residual) = self.residual {
                sum = S::add(sum, vector::load::<S>(residual.as_ptr().add(place * outputs + column), count));
            }
            if self.scale != 1.0 {
                sum = S::mul(sum, S::splat(self.scale));
            }
            sum
        }
    }
}

/// The convolution of an input with packed weights into y `[samples, height, width, outputs]`.
///
/// # Panics
/// If sizes do not fit.
pub fn convolve(isa: Isa, shape: &Shape, input: &Input, weights: &Weights, epilogue: &Epilogue, y: &mut [f32]) {
    input.check(shape);
    weights.check(isa, shape);
    epilogue.check(shape, y);
    let y = Target::new(y);
    match weights.method {
        Method::Direct | Method::Bf16 => direct::convolve(isa, shape, input, weights, epilogue, y),
        Method::Winograd2 => winograd::convolve::<2, 4>(isa, shape, input, weights, epilogue, y),
        Method::Winograd4 => winograd::convolve::<4, 6>(isa, shape, input, weights, epilogue, y),
    }
}

/// The gradient of the input's channels that `weights` were packed for ([`Weights::transposed`]), `dx`
/// `[samples, height, width, count]`, from `dy` of the shape of the output.
///
/// # Panics
/// If sizes do not fit.
pub fn input_gradient(isa: Isa, shape: &Shape, weights: &Weights, dy: &[f32], dx: &mut [f32]) {
    let adjoint = shape.adjoint(weights.outputs);
    let parts = [dy];
    let input = Input { spread: shape.stride, ..Input::new(&parts) };
    convolve(isa, &adjoint, &input, weights, &Epilogue::default(), dx);
}

/// A range of rows of outputs of one image, with its inputs in scratch.
struct Piece {
    image: usize,
    /// The first row of outputs, in units.
    from: usize,
    units: usize,
    /// Where its rows of input begin in scratch.
    offset: usize,
}

/// How rows of outputs are cut into bands whose inputs stay in cache.
#[derive(Clone, Copy)]
struct Bands {
    /// Units in an image.
    per_image: usize,
    /// Rows of input in a band of one unit, and how many each further unit adds.
    rows: [usize; 2],
    /// Numbers in a row of input with its border.
    row: usize,
    /// Units in a band.
    band: usize,
    units: usize,
}

impl Bands {
    /// Bands of `unit` rows, `width` pixels of input wide, of `channels`, of about `target` numbers.
    fn new(shape: &Shape, unit: usize, width: usize, channels: usize, target: usize) -> Self {
        let per_image = shape.output()[0].div_ceil(unit);
        let rows = [(unit - 1) * shape.stride + shape.kernel[0], unit * shape.stride];
        let row = width * channels;
        let units = shape.samples * per_image;
        // As many as fit, but the halo between bands should stay small.
        let fit = (target / row).saturating_sub(rows[0]) / rows[1] + 1;
        Self { per_image, rows, row, band: fit.max(2).min(units), units }
    }

    fn count(&self) -> usize {
        self.units.div_ceil(self.band)
    }

    fn range(&self, band: usize) -> std::ops::Range<usize> {
        band * self.band..((band + 1) * self.band).min(self.units)
    }

    /// The pieces of a range of units, and the numbers all their inputs take.
    fn pieces(&self, range: std::ops::Range<usize>) -> (Vec<Piece>, usize) {
        let (mut pieces, mut offset, mut unit) = (Vec::new(), 0, range.start);
        while unit < range.end {
            let (image, from) = (unit / self.per_image, unit % self.per_image);
            let units = (range.end - unit).min(self.per_image - from);
            pieces.push(Piece { image, from, units, offset });
            offset += self.rows_of(units) * self.row;
            unit += units;
        }
        (pieces, offset)
    }

    fn rows_of(&self, units: usize) -> usize {
        self.rows[0] + (units - 1) * self.rows[1]
    }

    /// The row of input that a piece begins at.
    fn first_row(&self, shape: &Shape, piece: &Piece) -> isize {
        (piece.from * self.rows[1]) as isize - shape.pad[0] as isize
    }
}
