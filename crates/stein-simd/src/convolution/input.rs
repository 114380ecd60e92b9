//! What a convolution reads: rows of its input, copied into a band together with their border.

use std::ops::Range;

use super::shape::Shape;
use crate::{
    activation::{silu, silu_slope},
    vector::{self, Simd},
};

/// What happens to a number on its way into a convolution; the border stays zero.
#[derive(Clone, Copy)]
pub enum Prologue<'a> {
    /// Nothing.
    None,
    /// a x + b, followed by SiLU if asked for, with coefficients per sample and channel, `[samples, inputs]`: a
    /// normalization whose moments are known ([`coefficients`](crate::norm::coefficients)).
    Affine {
        /// Factors.
        a: &'a [f32],
        /// Offsets.
        b: &'a [f32],
        /// Whether SiLU follows.
        silu: bool,
    },
    /// f′(a x + b) (a dx + q x + r), the tangent of [`Affine`](Self::Affine), where the input is dx and f is SiLU or the
    /// identity, with coefficients per sample and channel, `[samples, inputs]`: those of a normalization and of its
    /// tangent ([`tangent_coefficients`](crate::norm::tangent_coefficients)).
    Tangent {
        /// Tensors like those of the input.
        x: &'a [&'a [f32]],
        /// Factors of dx, and of x in the argument of f.
        a: &'a [f32],
        /// Offsets in the argument of f.
        b: &'a [f32],
        /// Factors of x.
        q: &'a [f32],
        /// Offsets.
        r: &'a [f32],
        /// Whether f is SiLU.
        silu: bool,
    },
}

/// The input of a convolution.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Tensors `[samples, height, width, channels of the part]`, concatenated along channels.
    pub parts: &'a [&'a [f32]],
    /// What they go through.
    pub prologue: Prologue<'a>,
    /// 2 if every stored pixel stands for 2 × 2 equal ones (nearest-neighbor upsampling), otherwise 1.
    pub repeat: usize,
    /// 2 if every stored pixel is followed by a zero in both directions, otherwise 1.
    pub spread: usize,
}

/// Rows of an input, with their border.
pub(super) struct Window {
    pub(super) image: usize,
    /// The first row; those outside of the image are zero.
    pub(super) first: isize,
    pub(super) rows: usize,
    /// Pixels per row, the left border included.
    pub(super) width: usize,
    /// Channels, of all parts together.
    pub(super) channels: Range<usize>,
}

/// Channels of a row of one part, and where they go.
struct Stretch<'a> {
    /// The row, from the first of these channels on.
    source: &'a [f32],
    /// The same of x, if the prologue is a tangent.
    value: &'a [f32],
    /// Channels of the part.
    stored: usize,
    /// These channels among the prologue's coefficients.
    coefficients: Range<usize>,
    /// These channels within a pixel of the window.
    to: Range<usize>,
    /// Channels of the window.
    channels: usize,
}

impl<'a> Input<'a> {
    /// Tensors as they are.
    pub fn new(parts: &'a [&'a [f32]]) -> Self {
        Self { parts, prologue: Prologue::None, repeat: 1, spread: 1 }
    }

    /// Height and width of the tensors.
    fn stored(&self, shape: &Shape) -> [usize; 2] {
        [shape.height, shape.width].map(|size| (size / self.repeat).div_ceil(self.spread))
    }

    fn widths(&self, shape: &Shape) -> impl Iterator<Item = usize> {
        let [height, width] = self.stored(shape);
        let pixels = shape.samples * height * width;
        self.parts.iter().map(move |part| part.len() / pixels)
    }

    pub(super) fn check(&self, shape: &Shape) {
        let [height, width] = self.stored(shape);
        assert_eq!(self.widths(shape).sum::<usize>(), shape.inputs, "the channels of a convolution's input");
        let numbers: usize = self.parts.iter().map(|part| part.len()).sum();
        assert_eq!(numbers, shape.samples * height * width * shape.inputs, "the input of a convolution");
        let count = shape.samples * shape.inputs;
        let fit = match self.prologue {
            Prologue::None => true,
            Prologue::Affine { a, b, .. } => [a, b].iter().all(|x| x.len() == count),
            Prologue::Tangent { a, b, q, r, .. } => [a, b, q, r].iter().all(|x| x.len() == count),
        };
        assert!(fit, "the coefficients of a convolution's input");
        if let Prologue::Tangent { x, .. } = self.prologue {
            let same = x.len() == self.parts.len() && x.iter().zip(self.parts).all(|(x, dx)| x.len() == dx.len());
            assert!(same, "a convolution's input and its tangent");
        }
    }

    /// Copies a window.
    ///
    /// # Safety
    /// The input was checked, `to` is as large as the window, and the processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn window<S: Simd>(&self, shape: &Shape, window: &Window, to: &mut [f32]) {
        let Window { image, first, rows, width, ref channels } = *window;
        let [height, stored_width] = self.stored(shape);
        let count = channels.len();
        let left = shape.pad[2];
        let inner = shape.width.min(width.saturating_sub(left));
        for r in 0..rows {
            let line = &mut to[r * width * count..(r + 1) * width * count];
            let y = first + r as isize;
            let outside = y < 0 || y >= shape.height as isize || !(y as usize).is_multiple_of(self.spread);
            if outside {
                line.fill(0.0);
                continue;
            }
            let y = y as usize / self.repeat / self.spread;
            line[..left * count].fill(0.0);
            line[(left + inner) * count..].fill(0.0);
            let line = &mut line[left * count..(left + inner) * count];
            let mut before = 0;
            for (i, (part, stored)) in self.parts.iter().zip(self.widths(shape)).enumerate() {
                // The window's channels in this part.
                let (start, end) = (channels.start.max(before), channels.end.min(before + stored));
                if start < end {
                    let first = (image * height + y) * stored_width * stored;
                    let row = first + start - before..first + stored_width * stored;
                    let value = match self.prologue {
                        Prologue::Tangent { x, .. } => &x[i][row.clone()],
                        _ => &[],
                    };
                    let stretch = Stretch {
                        source: &part[row],
                        value,
                        stored,
                        coefficients: image * shape.inputs + start..image * shape.inputs + end,
                        to: start - channels.start..end - channels.start,
                        channels: count,
                    };
                    // SAFETY: the caller's promise.
                    unsafe { self.line::<S>(&stretch, line) };
                }
                before += stored;
            }
        }
    }

    /// Writes a stretch of channels to all pixels of a line.
    ///
    /// # Safety
    /// As [`window`](Self::window).
    #[inline(always)]
    unsafe fn line<S: Simd>(&self, stretch: &Stretch, line: &mut [f32]) {
        let Stretch { source, value, stored, ref coefficients, ref to, channels } = *stretch;
        let (n, done) = (to.len(), to.start);
        let step = self.repeat * self.spread;
        match self.prologue {
            Prologue::None if step == 1 && n == channels && n == stored => line.copy_from_slice(&source[..line.len()]),
            Prologue::None => {
                for (x, to) in line.chunks_exact_mut(channels).enumerate() {
                    let to = &mut to[done..done + n];
                    if x.is_multiple_of(self.spread) {
                        to.copy_from_slice(&source[x / step * stored..][..n]);
                    } else {
                        to.fill(0.0);
                    }
                }
            }
            Prologue::Affine { a, b, silu: activate } => {
                let (a, b) = (a[coefficients.clone()].as_ptr(), b[coefficients.clone()].as_ptr());
                for (x, to) in line.chunks_exact_mut(channels).enumerate() {
                    let (from, to) = (source[x / step * stored..][..n].as_ptr(), to[done..done + n].as_mut_ptr());
                    for c in (0..n).step_by(S::LANES) {
                        let left = n - c;
                        // SAFETY: `left` numbers are left in all four.
                        unsafe {
                            let v = S::fma(
                                vector::load::<S>(a.add(c), left),
                                vector::load::<S>(from.add(c), left),
                                vector::load::<S>(b.add(c), left),
                            );
                            vector::store::<S>(to.add(c), if activate { silu::<S>(v) } else { v }, left);
                        }
                    }
                }
            }
            Prologue::Tangent { a, b, q, r, silu: activate, .. } => {
                let [a, b, q, r] = [a, b, q, r].map(|x| x[coefficients.clone()].as_ptr());
                for (x, to) in line.chunks_exact_mut(channels).enumerate() {
                    let to = to[done..done + n].as_mut_ptr();
                    let [from, value] = [source, value].map(|row| row[x / step * stored..][..n].as_ptr());
                    for c in (0..n).step_by(S::LANES) {
                        let left = n - c;
                        // SAFETY: `left` numbers are left in all seven.
                        unsafe {
                            let (a, x) = (vector::load::<S>(a.add(c), left), vector::load::<S>(value.add(c), left));
                            let rest = S::fma(vector::load::<S>(q.add(c), left), x, vector::load::<S>(r.add(c), left));
                            let mut v = S::fma(a, vector::load::<S>(from.add(c), left), rest);
                            if activate {
                                let inner = S::fma(a, x, vector::load::<S>(b.add(c), left));
                                v = S::mul(silu_slope::<S>(inner), v);
                            }
                            vector::store::<S>(to.add(c), v, left);
                        }
                    }
                }
            }
        }
    }
}
