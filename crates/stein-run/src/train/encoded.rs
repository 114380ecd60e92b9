//! The latents of training examples, encoded once and kept in a file of the run.

use std::path::Path;

use stein::{Device, Keys, Result, Tensor, TensorData, ensure};
use stein_base::memory::ensure_fits;
use stein_data::Data;

use crate::{Event, Subject, Watch, arrays::NpyFile};

/// A latent of every example, drawn once.
pub(super) struct Encoded {
    states: Vec<f32>,
    width: usize,
}

/// Examples encoded at a time.
const PART: usize = 256;

impl Encoded {
    /// Reads the latents of a file, or encodes all examples into it.
    ///
    /// # Errors
    /// A file of other latents, those of the codecs and of the watch, and a disk that is full.
    pub(super) fn make(path: &Path, subject: &Subject, data: &Data, seed: u64, watch: &mut dyn Watch) -> Result<Self> {
        let (count, width) = (data.len(), subject.state_shape()?.iter().product::<usize>());
        ensure_fits(&format!("keeping the latents of {count} examples"), 4 * count as u128 * width as u128)?;
        if path.exists() {
            let (shape, values) = stein_data::read_array(path)?;
            ensure!(
                shape == [count, width],
                "{} has latents of the shape {shape:?}, and {count} of {width} numbers are needed: delete it, and they are made anew",
                path.display()
            );
            return Ok(Self { states: values.into_iter().map(|x| x as f32).collect(), width });
        }
        watch.event(Event::Note(&format!("encoding {count} examples into {}", path.display())));
        let mut file = NpyFile::new(path, &[count, width])?;
        let mut states = Vec::with_capacity(count * width);
        for first in (0..count).step_by(PART) {
            watch.going()?;
            let places: Vec<usize> = (first..count.min(first + PART)).collect();
            let keys = Keys::range(seed, first as u64, places.len());
            let part = subject.encode(&data.rows(&places)?, &keys, &Device::flex())?.into_data();
            let part: Vec<f32> = part.iter::<f32>().collect();
            file.write(&part)?;
            states.extend(part);
            watch.event(Event::Measured { done: (first + places.len()) as u64, of: count as u64 });
        }
        file.finish()?;
        Ok(Self { states, width })
    }

    /// The latents of some examples.
    pub(super) fn rows(&self, places: &[usize], device: &Device) -> Tensor<2> {
        let rows = places.iter().flat_map(|&i| &self.states[i * self.width..(i + 1) * self.width]).copied();
        Tensor::from_data(TensorData::new(rows.collect::<Vec<_>>(), [places.len(), self.width]), device)
    }
}
