//! Weights, in the order in which a method reads them.

use std::ops::Range;

use super::{method::Method, shape::Shape, transform::transform_weights};
use crate::{
    bf16::Pair,
    memory::{Memory, Target},
    split::tasks,
    tile::{Factor, panel_width},
    vector::{self, Isa, Job, Simd},
};

/// Weights packed for one method and instruction set, in panels as wide as a register tile of outputs: `[panels, taps,
/// inputs, panel]` for the direct method, `[panels, taps, pairs of inputs, panel]` in bf16, and transformed to
/// `[positions, panels, inputs, panel]` for Winograd.
#[derive(Debug)]
pub struct Weights {
    method: Method,
    isa: Isa,
    kernel: [usize; 2],
    inputs: usize,
    outputs: usize,
    /// Numbers, or the bits of pairs of bf16.
    data: Memory,
}

impl Weights {
    /// Packs weights `[kernel height, kernel width, inputs, outputs]`.
    ///
    /// # Panics
    /// If their number does not match the shape.
    pub fn new(isa: Isa, shape: &Shape, method: Method, weights: &[f32]) -> Self {
        let [kh, kw] = shape.kernel;
        assert_eq!(weights.len(), kh * kw * shape.inputs * shape.outputs, "the weights of a convolution");
        let tap = shape.inputs * shape.outputs;
        let view = View { weights, taps: kh * kw, tap, flip: false, input: shape.outputs, output: 1 };
        Self::pack(isa, shape, method, view)
    }

    /// Packs the weights of `shape` for the gradient of its input's channels `channels`: the kernel is rotated by 180°,
    /// and inputs and outputs are exchanged. In bf16 the gradient is computed in bf16 too; in f32, by the fastest method
    /// for its own sizes.
    ///
    /// # Panics
    /// If the number of weights does not match the shape, or the range is not within its inputs.
    pub fn transposed(isa: Isa, shape: &Shape, method: Method, channels: Range<usize>, weights: &[f32]) -> Self {
        let [kh, kw] = shape.kernel;
        assert_eq!(weights.len(), kh * kw * shape.inputs * shape.outputs, "the weights of a convolution");
        let adjoint = shape.adjoint(channels.len());
        let view = View {
            weights: &weights[channels.start * shape.outputs..],
            taps: kh * kw,
            tap: shape.inputs * shape.outputs,
            flip: true,
            input: 1,
            output: shape.outputs,
        };
        Self::pack(isa, &adjoint, if method == Method::Bf16 { method } else { Method::of(&adjoint) }, view)
    }

    fn pack(isa: Isa, shape: &Shape, method: Method, view: View) -> Self {
        let (panels, panel) = Self::panels_of(isa, shape.outputs);
        let mut data = Memory::new(method.positions(shape.kernel) * panels * method.depth(shape.inputs) * panel);
        let to = Target::new(&mut data);
        let job = |p| isa.run(Pack { shape, method, view, panels, panel, p, to });
        // Packing a number takes about as long as ten operations.
        tasks(10.0 * view.weights.len() as f64, panels, job);
        Self { method, isa, kernel: shape.kernel, inputs: shape.inputs, outputs: shape.outputs, data }
    }

    /// Channels of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number and width of the panels for `outputs` channels.
    pub(crate) fn panels_of(isa: Isa, outputs: usize) -> (usize, usize) {
        let panel = isa.run(Width(outputs));
        (outputs.div_ceil(panel), panel)
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }

    /// Factors per pixel of the input.
    pub(crate) fn depth(&self) -> usize {
        self.method.depth(self.inputs)
    }

    /// A panel of a direct method, in that method's factors.
    #[inline(always)]
    pub(crate) fn panel<T: Factor>(&self, p: usize, panel: usize) -> *const T {
        let [kh, kw] = self.kernel;
        self.data[p * kh * kw * self.depth() * panel..].as_ptr().cast()
    }

    pub(crate) fn check(&self, isa: Isa, shape: &Shape) {
        let of = (self.isa, self.kernel, self.inputs, self.outputs);
        assert_eq!(of, (isa, shape.kernel, shape.inputs, shape.outputs), "weights packed for another convolution");
        let fits =
            matches!(self.method, Method::Direct | Method::Bf16) || (shape.kernel == [3, 3] && shape.stride == 1);
        assert!(fits, "weights packed for a method that this convolution does not allow");
    }
}

/// The width of a panel.
struct Width(usize);

impl Job for Width {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        panel_width::<S>(self.0)
    }
}

/// Where the weight of a tap, an input and an output is.
#[derive(Clone, Copy)]
struct View<'a> {
    weights: &'a [f32],
    taps: usize,
    /// Numbers from one tap to the next.
    tap: usize,
    /// Whether the taps are in reverse order.
    flip: bool,
    /// Numbers from one input to the next.
    input: usize,
    /// Numbers from one output to the next.
    output: usize,
}

/// Packs one panel.
struct Pack<'a> {
    shape: &'a Shape,
    method: Method,
    view: View<'a>,
    panels: usize,
    /// Outputs per panel.
    panel: usize,
    /// Which panel.
    p: usize,
    to: Target<'a>,
}

/// Inputs packed together: transposing in squares reads and writes whole cache lines.
const SQUARE: usize = 8;

impl Pack<'_> {
    /// Writes the weights of a tap and of at most [`SQUARE`] inputs for all outputs of the panel, `step` numbers from one
    /// input to the next.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, tap: usize, inputs: Range<usize>, to: &mut [f32], step: usize) {
        let View { weights, taps, tap: stride, flip, input, output } = self.view;
        let tap = if flip { taps - 1 - tap } else { tap };
        let first = self.p * self.panel;
        let count = self.panel.min(self.shape.outputs - first);
        let from = &weights[tap * stride + inputs.start * input + first * output..];
        if output == 1 {
            for i in 0..inputs.len() {
                let (from, to) = (&from[i * input..][..count], &mut to[i * step..][..self.panel]);
                for at in (0..self.panel).step_by(S::LANES) {
                    // SAFETY: a panel is whole vectors wide, and nothing is read beyond the row.
                    unsafe {
                        let row = if at < count {
                            vector::load::<S>(from.as_ptr().add(at), count - at)
                        } else {
                            S::splat(0.0)
                        };
                        S::store(to.as_mut_ptr().add(at), row);
                    }
                }
            }
            return;
        }
        // Here it is the inputs that are adjacent: whole squares are transposed in registers.
        let squares = if inputs.len() == SQUARE { count / SQUARE * SQUARE } else { 0 };
        for n in (0..squares).step_by(SQUARE) {
            let (from, to) = (&from[n * output..], &mut to[n..]);
            assert!(from.len() >= (SQUARE - 1) * output + SQUARE && to.len() >= (SQUARE - 1) * step + SQUARE);
            // SAFETY: both squares are within their slices.
            unsafe { S::transpose8(from.as_ptr(), output, to.as_mut_ptr(), step) };
        }
        for n in squares..count {
            let from = &from[n * output..][..inputs.len()];
            for (i, value) in from.iter().enumerate() {
                to[i * step + n] = *value;
            }
        }
        for i in 0..inputs.len() {
            to[i * step + count..i * step + self.panel].fill(0.0);
        }
    }
}

impl Job for Pack<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.method {
                Method::Direct => self.numbers::<S>(),
                Method::Bf16 => self.pairs::<S>(),
                Method::Winograd2 => self.transformed::<S, 4>(),
                Method::Winograd4 => self.transformed::<S, 6>(),
            }
        }
    }
}

impl Pack<'_> {
    /// The panel of the direct method.
    ///
    /// # Safety
    /// The processor has the instructions of `S`, here and below.
    #[inline(always)]
    unsafe fn numbers<S: Simd>(&self) {
        let (inputs, panel) = (self.shape.inputs, self.panel);
        let len = self.view.taps * inputs * panel;
        // SAFETY: no two panels overlap.
        let to = unsafe { self.to.range(self.p * len, len) };
        for (tap, to) in to.chunks_exact_mut(inputs * panel).enumerate() {
            for square in squares(inputs) {
                let first = square.start * panel;
                // SAFETY: the caller's promise.
                unsafe { self.rows::<S>(tap, square, &mut to[first..], panel) };
            }
        }
    }

    /// The panel in bf16: an input of the first half is paired with one of the second half.
    #[inline(always)]
    unsafe fn pairs<S: Simd>(&self) {
        let (inputs, panel) = (self.shape.inputs, self.panel);
        let pairs = self.method.depth(inputs);
        let len = self.view.taps * pairs * panel;
        // SAFETY: no two panels overlap.
        let to = Pair::slice(unsafe { self.to.range(self.p * len, len) });
        let [mut low, mut high] = [[0.0; SQUARE * WIDEST]; 2];
        for (tap, to) in to.chunks_exact_mut(pairs * panel).enumerate() {
            for first in squares(pairs) {
                let to = &mut to[first.start * panel..first.end * panel];
                let second = first.start + pairs..(first.end + pairs).min(inputs);
                let high = &mut high[..second.len() * panel];
                // SAFETY: the caller's promise.
                unsafe {
                    self.rows::<S>(tap, first, &mut low, panel);
                    if !second.is_empty() {
                        self.rows::<S>(tap, second, high, panel);
                    }
                    Pair::interleave::<S>(&low, high, to);
                }
            }
        }
    }

    /// The panel of every position of Winograd's method.
    #[inline(always)]
    unsafe fn transformed<S: Simd, const IN: usize>(&self) {
        let (inputs, panel) = (self.shape.inputs, self.panel);
        let mut taps = [0.0; SQUARE * 9 * WIDEST];
        for square in squares(inputs) {
            for tap in 0..9 {
                // SAFETY: the caller's promise.
                unsafe { self.rows::<S>(tap, square.clone(), &mut taps[tap * panel..], 9 * panel) };
            }
            for (input, taps) in square.zip(taps.chunks_exact(9 * panel)) {
                let at = |position| ((position * self.panels + self.p) * inputs + input) * panel;
                // SAFETY: nine rows of a panel are in `taps`, and no other panel writes where this one does.
                unsafe { transform_weights::<S, IN>(taps, panel, |i| self.to.at(at(i))) };
            }
        }
    }
}

/// Ranges of at most [`SQUARE`] inputs.
fn squares(inputs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..inputs).step_by(SQUARE).map(move |first| first..(first + SQUARE).min(inputs))
}

/// The widest panel there is.
const WIDEST: usize = 32;
