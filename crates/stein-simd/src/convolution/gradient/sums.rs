//! The last step of a gradient of weights: sums of several ranges are added, and those of Winograd's positions are
//! transformed back to taps.

use crate::{
    convolution::{method::Method, shape::Shape, transform::transform_sums},
    memory::Target,
    split::tasks,
    tile::panel_width,
    vector::{self, Isa, Job, Simd},
};

/// The outputs of a convolution, rounded up to whole panels.
pub(super) fn padded(isa: Isa, shape: &Shape) -> usize {
    isa.run(Padded(shape.outputs))
}

struct Padded(usize);

impl Job for Padded {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        self.0.next_multiple_of(panel_width::<S>(self.0))
    }
}

/// Adds the sums of all ranges, `[ranges, positions, inputs, outputs padded]`, and turns them into the gradients of the
/// weights.
pub(super) fn collect(isa: Isa, shape: &Shape, method: Method, sums: &[f32], ranges: usize, dw: &mut [f32]) {
    let positions = method.positions(shape.kernel);
    let (outputs, to) = (padded(isa, shape), Target::new(dw));
    tasks(shape.operations(), shape.inputs, |channel| {
        isa.run(Collect { shape, method, sums, ranges, positions, outputs, channel, to });
    });
}

/// Collects the gradients of the weights of one input channel.
struct Collect<'a> {
    shape: &'a Shape,
    method: Method,
    sums: &'a [f32],
    ranges: usize,
    positions: usize,
    outputs: usize,
    channel: usize,
    to: Target<'a>,
}

impl Job for Collect<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, sums, ranges, positions, outputs, channel, to, .. } = self;
        for column in (0..shape.outputs).step_by(S::LANES) {
            // SAFETY: rows of sums are padded to whole vectors; the gradients of a channel are written by its own task.
            unsafe {
                let sum = |position: usize| {
                    let mut sum = S::splat(0.0);
                    for range in 0..ranges {
                        let row = (range * positions + position) * shape.inputs + channel;
                        sum = S::add(sum, S::load(sums.as_ptr().add(row * outputs + column)));
                    }
                    sum
                };
                let put = |tap: usize, value: S::V| {
                    let at = (tap * shape.inputs + channel) * shape.outputs + column;
                    vector::store::<S>(to.at(at), value, shape.outputs - column);
                };
                match self.method {
                    Method::Direct | Method::Bf16 => {
                        for tap in 0..positions {
                            put(tap, sum(tap));
                        }
                    }
                    Method::Winograd2 => transform_sums::<S, 4>(sum, put),
                    Method::Winograd4 => transform_sums::<S, 6>(sum, put),
                }
            }
        }
    }
}
