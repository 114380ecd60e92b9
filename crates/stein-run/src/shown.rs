//! What a model is shown of every sample beside its noisy state: a measurement of it, as a picture. It learns p(x_0 | y) itself, for
//! that measurement (Saharia et al. 2022, "Palette: Image-to-Image Diffusion Models").

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    Keys, Purpose, Result, Tensor, ensure,
    inverse::{AnyMeasurement, InState, Linear, Operator, Problem, linear, measurement::NoFiles},
    settings,
};
use stein_base::Explain;
use toml::Value;

use crate::{MeasurementConfig, Subject, restore::in_state};

/// A measurement of every sample, shown as a picture: A⁺y, and where it says something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// What is measured, with its noise; linear, of pictures.
    pub measurement: MeasurementConfig,
    /// Whether the measurement is drawn anew for every example, by its `seed`: masks then differ; default false.
    #[serde(default)]
    pub redraw: bool,
}

/// The name of the setting that draws a measurement.
const SEED: &str = "seed";

impl Shown {
    /// Channels beside those of the state.
    pub(crate) fn channels(&self, subject: &Subject) -> usize {
        2 * subject.image().map_or(0, |(_, _, channels)| channels)
    }

    /// Fails unless it can be shown of such data.
    ///
    /// # Errors
    /// Data that are no pictures, a measurement that is not linear or does not fit, and one that nothing draws.
    pub(crate) fn check(&self, subject: &Subject) -> Result<()> {
        ensure!(subject.image().is_some(), "data.shown is a picture, and {} are none: leave it out", subject.name);
        ensure!(
            !self.redraw || reseed(&mut self.table()?, 0) > 0,
            "data.shown.redraw is for what is drawn by a seed, and {} is not: leave it out",
            self.measurement.operator.kind()
        );
        self.operator(subject).map(drop)
    }

    fn operator(&self, subject: &Subject) -> Result<Arc<InState>> {
        let operator = in_state(subject, &self.measurement, &NoFiles).map_err(|error| error.at("data.shown"))?;
        linear(&*operator, "conditional").map_err(|error| error.at("data.shown"))?;
        Ok(operator)
    }

    fn table(&self) -> Result<toml::Table> {
        Ok(settings::write(&self.measurement.operator)?.try_into().expect("a measurement is a table"))
    }

    /// What makes the pictures.
    pub(crate) fn pictures(&self, subject: &Subject) -> Result<Pictures> {
        let operator = self.operator(subject)?;
        operator.spectrum()?;
        Ok(Pictures { shown: self.clone(), subject: subject.clone(), operator })
    }

    /// The measurement of another draw.
    fn drawn(&self, seed: u64) -> Result<MeasurementConfig> {
        let mut table = self.table()?;
        reseed(&mut table, seed);
        let operator: AnyMeasurement = settings::read(Value::Table(table))?;
        Ok(MeasurementConfig { operator, ..self.measurement.clone() })
    }
}

/// Sets every seed in a table and those within, and counts them.
fn reseed(table: &mut toml::Table, seed: u64) -> usize {
    let mut found = 0;
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => found += reseed(inner, seed),
            // A file's whole numbers have 63 bits.
            Value::Integer(number) if key == SEED => (*number, found) = ((seed >> 1) as i64, found + 1),
            _ => {}
        }
    }
    found
}

/// Makes what a model is shown.
pub(crate) struct Pictures {
    shown: Shown,
    subject: Subject,
    operator: Arc<InState>,
}

impl Pictures {
    /// Of states `[rows, dim]`, with the noise and the draws of their keys: `[rows, height, width, 2 · channels]`.
    ///
    /// # Errors
    /// Those of the measurement.
    pub(crate) fn of(&self, states: &Tensor<2>, keys: &Keys) -> Result<Tensor<4>> {
        let (height, width, channels) = self.subject.image().expect("it was checked");
        let size = [height, width, channels];
        let rows = stein::rows::host(states);
        let dim = states.dims()[1];
        let noise = self.shown.measurement.noise;
        if !self.shown.redraw {
            let clean: Vec<f64> = rows.chunks(dim).flat_map(|row| self.operator.apply_whole(row)).collect();
            let y = noise.add(&clean, keys)?;
            return self.problem(&self.operator, &y)?.shown(size, states);
        }
        let of_row = |(row, (state, key)): (usize, (&[f64], stein::Key))| -> Result<Tensor<4>> {
            let config = self.shown.drawn(key.word())?;
            let operator = in_state(&self.subject, &config, &NoFiles)?;
            let y = noise.add(&operator.apply_whole(state), &keys.select(&[row]))?;
            self.problem(&operator, &y)?.shown(size, states)
        };
        let each = rows.chunks(dim).zip(keys.each(Purpose::Measurement, 1)).enumerate();
        Ok(Tensor::cat(each.map(of_row).collect::<Result<_>>()?, 0))
    }

    fn problem(&self, operator: &Arc<InState>, y: &[f64]) -> Result<Problem> {
        let m = operator.outputs();
        let y = y.chunks(m).flat_map(|y| operator.measurement(y)).collect();
        Problem::new(Arc::clone(operator) as Arc<_>, self.shown.measurement.noise, y)
    }
}
