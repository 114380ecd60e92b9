//! What an autoencoder in training makes of pictures it does not learn from.

use image::RgbImage;
use stein::{Keys, Result, autoencoder::Usage};

use super::Prepared;
use crate::{
    Capability,
    picture::{auto_scale, grid},
    restore::{measure_pair, of_pictures},
    sheet::visible,
};

/// Pictures of data that are held out, or of those to learn from, and what comes back of them.
pub(super) struct Reconstructed {
    /// Height, width and channels.
    shape: (usize, usize, usize),
    pictures: Vec<f32>,
    reconstructions: Vec<f32>,
    /// By name: the means of what pictures are compared by, and how much of a codebook is in use.
    pub(super) numbers: Vec<(String, f64)>,
}

/// Pictures in a row of a sheet, and most rows of pictures.
const COLUMNS: usize = 8;
const ROWS: usize = 4;

impl Prepared {
    /// What the averaged weights make of the held-out pictures, without noise; none of a family that is no autoencoder.
    pub(super) fn reconstructed(&self) -> Result<Option<Reconstructed>> {
        if !self.experiment.family.serves().contains(&Capability::Autoencoder) {
            return Ok(None);
        }
        let model = self.model()?;
        let (subject, device) = (&model.subject, &model.device);
        let (Some(coder), Some(shape)) = (&model.learned.autoencoder, subject.image()) else { return Ok(None) };
        let (dim, data) = (subject.dim(), self.loader.data());
        let pictures = match &self.held_out {
            Some(held_out) => held_out.batch.x.clone(),
            None => data.rows(&data.spaced(COLUMNS * ROWS))?,
        };
        let at_once = self.experiment.train.batch / self.experiment.train.accumulate;
        let (mut reconstructions, mut usage) = (Vec::new(), None);
        for (i, part) in pictures.chunks(at_once * dim).enumerate() {
            let keys = Keys::range(self.experiment.seed, (i * at_once) as u64, part.len() / dim);
            let latents = coder.encode(subject.encode(part, &keys, device)?, None)?;
            if let Some((chosen, codes)) = coder.codes(latents.clone())? {
                usage.get_or_insert_with(|| Usage::new(codes)).add(&chosen);
            }
            reconstructions.extend(subject.decode(coder.decode(latents)?)?);
        }
        // As a picture is written.
        reconstructions.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        let mut numbers = Vec::new();
        for metric in of_pictures(shape) {
            let name = metric.kind().to_owned();
            numbers.push((name, measure_pair(metric, dim, &pictures, &reconstructions)?.0));
        }
        if let Some(usage) = usage {
            numbers.push(("codes_used".to_owned(), usage.used() as f64));
            numbers.push(("perplexity".to_owned(), usage.perplexity()));
        }
        Ok(Some(Reconstructed { shape, pictures, reconstructions, numbers }))
    }
}

impl Reconstructed {
    /// The numbers in a sentence.
    pub(super) fn said(&self) -> String {
        self.numbers.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(", ")
    }

    /// Rows of pictures, each above the row of what came back of them.
    pub(super) fn sheet(&self) -> Result<RgbImage> {
        let (height, width, channels) = self.shape;
        let dim = height * width * channels;
        let columns = COLUMNS.min(self.pictures.len() / dim);
        let [above, below] = [&self.pictures, &self.reconstructions].map(|all| all.chunks_exact(columns * dim));
        let both: Vec<f32> = above.zip(below).take(ROWS).flat_map(|(above, below)| [above, below].concat()).collect();
        let (both, depth) = visible(&both, (width, channels));
        let drawn = width * channels / depth;
        grid(&both, (height, drawn, depth), columns, auto_scale(drawn, columns), None, "")
    }
}
