//! Grids that are fitted to the model of a sweep.

use std::collections::{HashMap, hash_map::Entry};

use stein::{
    AnySampler, Condition, Grid, Request, Result, Spacing,
    optimized::{Paths, Steps},
};

use crate::{Error, Event, Model, SampleConfig, Watch};

/// Least candidate levels of a fitted grid, and the samples whose paths it is fitted to.
const CANDIDATES: usize = 64;
const FITTED: usize = 64;

/// The paths that grids are fitted to, by the bits of where they start.
#[derive(Default)]
pub(super) struct Fits(HashMap<u64, Paths>);

impl Fits {
    /// The levels of as many steps that fit the model and what the steps of the sampler are made of; `most` is the largest number of steps
    /// that is tried.
    pub(super) fn levels(
        &mut self,
        model: &Model,
        config: &SampleConfig,
        sampler: &AnySampler,
        most: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<f64>> {
        let (schedule, resolved) = config.resolve(model.schedule.as_ref(), model.trained)?;
        let schedule = schedule
            .ok_or_else(|| Error::new(format!("{} knows no levels, among which a grid could be fitted", model.name)))?;
        let start = resolved.grid.start.unwrap_or(schedule.span().1);
        // Levels without signal are no candidates; the noisiest that has a thousandth of it is.
        let start = if schedule.kernel(start).alpha > 0.0 { start } else { schedule.time_at(-2.0 * 1e3f64.ln()) };
        let place = start.to_bits();
        if let Entry::Vacant(vacant) = self.0.entry(place) {
            watch.event(Event::Note(&format!("fitting grids to {FITTED} paths of {}", model.name)));
            let fine = Grid {
                spacing: Spacing::Karras { rho: 7.0 },
                steps: CANDIDATES.max(2 * most) - 1,
                start: Some(start),
                end: resolved.grid.end,
                clean: false,
            };
            let classes = model.subject.classes.len() as u32;
            let given = match model.trained && classes > 0 {
                true => Condition::classes((0..FITTED as u32).map(|row| row % classes)),
                false => Condition::none(),
            };
            let request = Request {
                given,
                data_variance: model.subject.variance,
                device: model.device.clone(),
                dtype: model.dtype,
                // No sample of a sweep has such a seed by chance.
                ..Request::new(FITTED, model.subject.state_shape()?.iter().product(), u64::MAX)
            };
            let paths = Paths::of(&*model.denoiser(config)?, &*schedule, &fine.kernels(&*schedule)?, &request)?;
            vacant.insert(paths);
        }
        let made_of = match sampler.order() {
            Some(order) if order > 1 => Steps::Second,
            _ => Steps::First,
        };
        self.0[&place].levels(config.grid.steps, made_of)
    }
}
