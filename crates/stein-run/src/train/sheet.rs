//! Pictures of samples while a model trains.

use std::path::PathBuf;

use image::RgbImage;
use stein::{Kind, Result};
use stein_nn::Weights;

use super::{Prepared, metrics::Metrics};
use crate::{
    Classes, Event, Watch, draw,
    output::record,
    picture::{to_png, write_png},
    replacing::{Recorded, beside},
    sheet::{enough, picture},
};

impl Prepared {
    /// Whether a sheet of samples is to be made after this step.
    pub(super) fn sheet_is_due(&self) -> bool {
        let (step, config) = (self.step, &self.experiment.train);
        self.experiment.draws_sheets()
            && self.pictures.is_none()
            && (step == config.steps || step > 0 && config.sample_every > 0 && step.is_multiple_of(config.sample_every))
    }
}

/// Draws a sheet of samples into the run and the events. Early weights may give no finite samples, samples no picture, the picture
/// may find no place, and a stop may come: none of these ends the training, which goes on without the picture.
pub(super) fn write_sheet(state: &Prepared, metrics: &mut Metrics, watch: &mut dyn Watch) {
    let said = match try_sheet(state, metrics, watch) {
        Ok(said) => said,
        Err(error) if error.kind() == Kind::Stopped => {
            format!("the picture of step {} is left for when training goes on", state.step)
        }
        Err(error) => format!("there is no picture of step {}: {error}", state.step),
    };
    watch.event(Event::Note(&said));
}

/// Makes the sheet, and returns what is to be said of it.
fn try_sheet(state: &Prepared, metrics: &mut Metrics, watch: &mut dyn Watch) -> Result<String> {
    if let Some(reconstructed) = state.reconstructed()? {
        let sheet = reconstructed.sheet()?;
        let path = place(state, metrics, &sheet)?;
        write_png(&path, &sheet)?;
        return Ok(format!("{} shows pictures above what is made of them: {}", path.display(), reconstructed.said()));
    }
    let model = state.model()?;
    let n = enough(&model.subject);
    let drawn = draw(&model, n, state.experiment.seed, &Classes::Default, &model.sample, watch)?;
    let sheet = picture(&model, &drawn.values, drawn.labels.as_deref())?;
    let path = place(state, metrics, &sheet)?;
    Recorded::new(&beside(&path, ".json"), Vec::new(), true)?.write(&[], record(&model, &drawn.summary))?;
    // Last, because where it lies the sheet is made.
    write_png(&path, &sheet)?;
    let which = if model.weights == Some(Weights::Ema) { "the average of the weights" } else { "the weights" };
    let caution = model.caution().map(|caution| format!("; {caution}")).unwrap_or_default();
    Ok(format!("{} shows {which}{caution}", path.display()))
}

/// Where the sheet of this step lies, which the events have first.
fn place(state: &Prepared, metrics: &mut Metrics, sheet: &RgbImage) -> Result<PathBuf> {
    let (width, height) = (sheet.width() as usize, sheet.height() as usize);
    metrics.events.image_png("samples", state.step as i64, height, width, 3, &to_png(sheet)?)?;
    metrics.events.flush()?;
    Ok(state.run.sample_path(state.step))
}
