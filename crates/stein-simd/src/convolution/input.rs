//! What a convolution reads: rows of its input, brought into a band with their border.

use super::Shape;
use crate::{
    activation::silu,
    vector::{self, Simd},
};

/// What happens to a number on its way into a convolution; the border stays zero.
#[derive(Clone, Copy)]
pub enum Prologue<'a> {
    /// Nothing.
    None,
    /// a x + b, then SiLU if asked for, with factors of each sample and channel, `[samples, inputs]`: a normalisation
    /// whose moments are known ([`coefficients`](crate::norm::coefficients)).
    Affine {
        /// Factors.
        a: &'a [f32],
        /// Summands.
        b: &'a [f32],
        /// Whether SiLU follows.
        silu: bool,
    },
}

/// The input of a convolution.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Tensors `[samples, height, width, channels of the part]`, side by side along channels.
    pub parts: &'a [&'a [f32]],
    /// What they go through.
    pub prologue: Prologue<'a>,
    /// 2 if every place stands for 2 × 2 equal ones, 1 if not.
    pub repeat: usize,
    /// 2 if every place is followed by a zero in both directions, 1 if not.
    pub spread: usize,
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
        let places = shape.samples * height * width;
        self.parts.iter().map(move |part| part.len() / places)
    }

    pub(super) fn check(&self, shape: &Shape) {
        let [height, width] = self.stored(shape);
        assert_eq!(self.widths(shape).sum::<usize>(), shape.inputs, "the channels of a convolution's input");
        let numbers: usize = self.parts.iter().map(|part| part.len()).sum();
        assert_eq!(numbers, shape.samples * height * width * shape.inputs, "the input of a convolution");
        if let Prologue::Affine { a, b, .. } = self.prologue {
            assert!(
                a.len() == shape.samples * shape.inputs && a.len() == b.len(),
                "the factors of a convolution's input"
            );
        }
    }

    /// Writes `rows` rows from `first` on, `width` places from −left on, of channels `from .. from + count`.
    ///
    /// # Safety
    /// The sizes were checked; `to` has room.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a window in four dimensions")]
    pub(super) unsafe fn window<S: Simd>(
        &self,
        shape: &Shape,
        image: usize,
        first: isize,
        rows: usize,
        width: usize,
        channels: std::ops::Range<usize>,
        to: &mut [f32],
    ) {
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
            let (mut before, mut done) = (0, 0);
            for (part, part_width) in self.parts.iter().zip(self.widths(shape)) {
                // The channels of this part that are asked for.
                let (start, end) = (channels.start.max(before), channels.end.min(before + part_width));
                if start < end {
                    let source = &part[(image * height + y) * stored_width * part_width..][..stored_width * part_width];
                    // SAFETY: the caller's promise.
                    unsafe { self.line::<S>(shape, image, source, part_width, before, start..end, count, done, line) };
                    done += end - start;
                }
                before += part_width;
            }
        }
    }

    /// Writes the channels `range` (of all) of a row of one part, which begins at channel `before` of all.
    ///
    /// # Safety
    /// As [`window`](Self::window).
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "two ranges of channels")]
    unsafe fn line<S: Simd>(
        &self,
        shape: &Shape,
        image: usize,
        source: &[f32],
        part_width: usize,
        before: usize,
        range: std::ops::Range<usize>,
        count: usize,
        done: usize,
        line: &mut [f32],
    ) {
        let n = range.len();
        let step = self.repeat * self.spread;
        let places = line.len() / count;
        match self.prologue {
            Prologue::None if step == 1 && n == count && n == part_width => line.copy_from_slice(&source[..line.len()]),
            Prologue::None => {
                for (x, to) in line.chunks_exact_mut(count).enumerate() {
                    let to = &mut to[done..done + n];
                    if x.is_multiple_of(self.spread) {
                        to.copy_from_slice(&source[x / step * part_width + range.start - before..][..n]);
                    } else {
                        to.fill(0.0);
                    }
                }
            }
            Prologue::Affine { a, b, silu: activate } => {
                let at = image * shape.inputs + range.start;
                let (a, b) = (a[at..at + n].as_ptr(), b[at..at + n].as_ptr());
                // SAFETY: a line of `places` places was checked to hold `count` channels each, a source `part_width`.
                unsafe {
                    for x in 0..places {
                        let from = source.as_ptr().add(x / step * part_width + range.start - before);
                        let to = line.as_mut_ptr().add(x * count + done);
                        let mut c = 0;
                        while c < n {
                            let left = n - c;
                            let v = S::fma(
                                vector::load::<S>(a.add(c), left),
                                vector::load::<S>(from.add(c), left),
                                vector::load::<S>(b.add(c), left),
                            );
                            vector::store::<S>(to.add(c), if activate { silu::<S>(v) } else { v }, left);
                            c += S::LANES;
                        }
                    }
                }
            }
        }
    }
}
