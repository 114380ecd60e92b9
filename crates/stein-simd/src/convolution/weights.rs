//! Weights in the order a method reads them.

use super::{Method, Pair, Shape, winograd};
use crate::{
    Isa,
    memory::{Memory, Target},
    split::tasks,
    tile::{Factor, panel_width},
    vector::{self, Job, Simd},
};

/// Weights packed for one method and instruction set: panels of as many outputs as a register tile is wide, each
/// `[taps, inputs, panel]`, in bf16 `[taps, pairs of inputs, panel]`; for Winograd transformed and
/// `[position, panels, inputs, panel]`.
#[derive(Debug)]
pub struct Weights {
    pub(super) method: Method,
    isa: Isa,
    kernel: [usize; 2],
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Of bf16 the bits of pairs.
    pub(super) data: Memory,
}

impl Weights {
    /// Packs weights `[kernel height, kernel width, inputs, outputs]`.
    ///
    /// # Panics
    /// If their number is not that of the shape.
    pub fn new(isa: Isa, shape: &Shape, method: Method, weights: &[f32]) -> Self {
        let [kh, kw] = shape.kernel;
        assert_eq!(weights.len(), kh * kw * shape.inputs * shape.outputs, "the weights of a convolution");
        let tap = shape.inputs * shape.outputs;
        let view = View { weights, taps: kh * kw, tap, flip: false, input: shape.outputs, output: 1 };
        Self::pack(isa, shape, method, view)
    }

    /// Packs the weights of `shape` for the gradient of its input's channels `channels`: turned by half a circle, outputs
    /// for inputs. The method is that of `shape`: in bf16 the gradient is computed in bf16 too, in f32 by the best method.
    ///
    /// # Panics
    /// If their number is not that of the shape, or the range not within its inputs.
    pub fn transposed(
        isa: Isa,
        shape: &Shape,
        method: Method,
        channels: std::ops::Range<usize>,
        weights: &[f32],
    ) -> Self {
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
        // A number packed takes about as long as some ten operations.
        tasks(10.0 * view.weights.len() as f64, panels, job);
        Self { method, isa, kernel: shape.kernel, inputs: shape.inputs, outputs: shape.outputs, data }
    }

    /// Channels in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number and width of panels for that many outputs.
    pub(crate) fn panels_of(isa: Isa, outputs: usize) -> (usize, usize) {
        let panel = isa.run(Width(outputs));
        (outputs.div_ceil(panel), panel)
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// Factors in a row of inputs.
    pub(crate) fn depth(&self) -> usize {
        self.method.depth(self.inputs)
    }

    /// A panel of a direct method, of the factors of that method.
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
        assert!(fits, "weights packed for a method that is not one for this convolution");
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

/// Where the weight of a tap, an input and an output is: taps forwards or backwards, strides of the others.
#[derive(Clone, Copy)]
struct View<'a> {
    weights: &'a [f32],
    taps: usize,
    /// Numbers from one tap to the next.
    tap: usize,
    flip: bool,
    input: usize,
    output: usize,
}

struct Pack<'a> {
    shape: &'a Shape,
    method: Method,
    view: View<'a>,
    panels: usize,
    panel: usize,
    p: usize,
    to: Target<'a>,
}

/// Inputs packed together: turning them over in squares reads and writes whole lines of the cache.
const SQUARE: usize = 8;

impl Pack<'_> {
    /// Writes the weights of a tap and of some inputs, at most [`SQUARE`], for all outputs of the panel, `step` numbers from
    /// one input to the next.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, tap: usize, inputs: std::ops::Range<usize>, to: &mut [f32], step: usize) {
        let View { weights, taps, tap: stride, flip, input, output } = self.view;
        let tap = if flip { taps - 1 - tap } else { tap };
        let first = self.p * self.panel;
        let count = self.panel.min(self.shape.outputs - first);
        let from = &weights[tap * stride + inputs.start * input + first * output..];
        if output == 1 {
            for i in 0..inputs.len() {
                let (from, to) = (&from[i * input..][..count], &mut to[i * step..][..self.panel]);
                for at in (0..self.panel).step_by(S::LANES) {
                    // SAFETY: panels are whole vectors, and no more is read than there is.
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
        // Inputs are neighbours here, outputs far apart: whole squares are turned over in registers.
        let squares = if inputs.len() == SQUARE { count / SQUARE * SQUARE } else { 0 };
        for n in (0..squares).step_by(SQUARE) {
            let (from, to) = (&from[n * output..], &mut to[n..]);
            assert!(from.len() >= (SQUARE - 1) * output + SQUARE && to.len() >= (SQUARE - 1) * step + SQUARE);
            // SAFETY: both squares are there.
            unsafe { S::turn(from.as_ptr(), output, to.as_mut_ptr(), step) };
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
        let (inputs, panel) = (self.shape.inputs, self.panel);
        let squares = (0..inputs).step_by(SQUARE).map(|first| first..(first + SQUARE).min(inputs));
        if self.method == Method::Direct {
            let len = self.view.taps * inputs * panel;
            // SAFETY: panels are apart.
            let to = unsafe { self.to.range(self.p * len, len) };
            for (tap, to) in to.chunks_exact_mut(inputs * panel).enumerate() {
                for square in squares.clone() {
                    // SAFETY: the instructions of `S` are there.
                    unsafe { self.rows::<S>(tap, square.clone(), &mut to[square.start * panel..], panel) };
                }
            }
            return;
        }
        if self.method == Method::Bf16 {
            let pairs = self.method.depth(inputs);
            let len = self.view.taps * pairs * panel;
            // SAFETY: panels are apart.
            let to = Pair::slice(unsafe { self.to.range(self.p * len, len) });
            let [mut low, mut high] = [[0.0; SQUARE * WIDEST]; 2];
            for (tap, to) in to.chunks_exact_mut(pairs * panel).enumerate() {
                for first in (0..pairs).step_by(SQUARE) {
                    let last = (first + SQUARE).min(pairs);
                    let others = first + pairs..(last + pairs).min(inputs);
                    let high = &mut high[..others.len() * panel];
                    // SAFETY: the instructions of `S` are there.
                    unsafe {
                        self.rows::<S>(tap, first..last, &mut low, panel);
                        if !others.is_empty() {
                            self.rows::<S>(tap, others, high, panel);
                        }
                        Pair::interleave::<S>(&low, high, &mut to[first * panel..last * panel]);
                    }
                }
            }
            return;
        }
        let mut taps = [0.0; SQUARE * 9 * WIDEST];
        for square in squares {
            for tap in 0..9 {
                // SAFETY: the instructions of `S` are there.
                unsafe { self.rows::<S>(tap, square.clone(), &mut taps[tap * panel..], 9 * panel) };
            }
            for (input, taps) in square.zip(taps.chunks_exact(9 * panel)) {
                let at = |position| ((position * self.panels + self.p) * inputs + input) * panel;
                // SAFETY: nine rows of a panel are in `taps`, and no other panel writes where this one does.
                unsafe {
                    match self.method {
                        Method::Winograd4 => winograd::weights::<S, 6>(taps, panel, |i| self.to.at(at(i))),
                        _ => winograd::weights::<S, 4>(taps, panel, |i| self.to.at(at(i))),
                    }
                }
            }
        }
    }
}

/// The widest panel there is.
const WIDEST: usize = 32;
