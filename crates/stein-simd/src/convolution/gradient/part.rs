//! How the direct methods cut the gradient of the weights into parts: a block of input channels over a range of rows.

use std::ops::Range;

use super::sums::{collect, padded};
use crate::{
    convolution::{bands::Bands, input::Input, method::Method, shape::Shape},
    memory::{Scratch, Target},
    split::tasks,
    vector::Isa,
};

/// Input channels per part.
const CHANNELS: usize = 64;

/// Parts to aim for.
const PARTS: usize = 8;

/// Numbers of input per band.
const BAND: usize = 24 * 1024;

/// A block of channels over a range of rows.
pub(super) struct Part<'a> {
    pub(super) shape: &'a Shape,
    pub(super) input: &'a Input<'a>,
    pub(super) dy: &'a [f32],
    /// `[ranges, positions, inputs, outputs padded]`
    sums: Target<'a>,
    range: usize,
    /// Outputs, padded to whole panels.
    pub(super) outputs: usize,
    pub(super) bands: Bands,
    pub(super) channels: Range<usize>,
    /// The range of rows.
    units: Range<usize>,
}

impl Part<'_> {
    /// Where the sums of a position begin, at this block's first channel.
    pub(super) fn at(&self, position: usize, positions: usize) -> *mut f32 {
        let channel = (self.range * positions + position) * self.shape.inputs + self.channels.start;
        self.sums.at(channel * self.outputs)
    }

    /// The rows of each band of this part.
    pub(super) fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let Self { units, bands, .. } = self;
        units.clone().step_by(bands.band).map(|from| from..(from + bands.band).min(units.end))
    }
}

/// Runs all parts and collects their sums, which have a position per tap.
pub(super) fn for_each_part(
    isa: Isa,
    shape: &Shape,
    input: &Input,
    dy: &[f32],
    dw: &mut [f32],
    run: impl Fn(Part) + Send + Sync,
) {
    let [height, width] = shape.output();
    let [kh, kw] = shape.kernel;
    let row = (width - 1) * shape.stride + kw;
    let blocks = shape.inputs.div_ceil(CHANNELS);
    let units = shape.samples * height;
    // The sums of a range are only worth their memory if it has several hundred pixels.
    let ranges = PARTS.div_ceil(blocks).min((units * width).div_ceil(512)).max(1);
    let outputs = padded(isa, shape);
    // The sums of a single range without padding are the gradient itself.
    let done = ranges == 1 && outputs == shape.outputs;
    let mut scratch = Scratch::of_kernel(if done { 0 } else { ranges * kh * kw * shape.inputs * outputs });
    let sums = Target::new(if done { &mut *dw } else { &mut scratch });
    tasks(shape.operations(), ranges * blocks, |task| {
        let (range, block) = (task / blocks, task % blocks);
        let channels = block * shape.inputs / blocks..(block + 1) * shape.inputs / blocks;
        let bands = Bands::new(shape, 1, row, channels.len(), BAND);
        let units = range * units / ranges..(range + 1) * units / ranges;
        run(Part { shape, input, dy, sums, range, outputs, bands, channels, units });
    });
    if !done {
        collect(isa, shape, Method::Direct, &scratch, ranges, dw);
    }
}
