//! The levels of flow maps in a sweep, found by trying (see [`stein::level_search`]): those whose samples the first metric likes best.
//!
//! Every try draws the same samples, as many as the sweep measures, with the same noise. Candidates are the levels of the published
//! grid for consistency functions, Karras et al.'s of 40 steps with ρ = 7, more where more are needed.

use std::collections::HashMap;

use stein::{Grid, Result, Spacing, level_search::greedy_levels};

use crate::{
    Error, Event, Model, SampleConfig, Watch,
    evaluate::{Compared, told},
    grids::given,
};

/// Least number of candidate levels but one.
const CANDIDATES: usize = 40;

/// The grid of candidates, in whose place levels are to be found.
fn candidates(config: &SampleConfig, steps: usize) -> SampleConfig {
    let grid = Grid { spacing: Spacing::Karras { rho: 7.0 }, steps, ..config.grid.clone() };
    SampleConfig { grid, ..config.clone() }
}

/// The same way of sampling on a grid that needs no search.
pub(super) fn spread(config: &SampleConfig) -> SampleConfig {
    candidates(config, config.grid.steps)
}

/// What was tried, by the bits of the levels: searches for more steps begin with those for fewer.
#[derive(Default)]
pub(super) struct Searches(HashMap<Vec<u64>, f64>);

impl Searches {
    /// The levels, with the end where the grid has one.
    pub(super) fn levels(
        &mut self,
        model: &Model,
        config: &SampleConfig,
        compared: &Compared,
        watch: &mut dyn Watch,
    ) -> Result<Vec<f64>> {
        let steps = config.grid.steps;
        let fine = candidates(config, CANDIDATES.max(2 * steps));
        let (schedule, resolved) = fine.resolve(model.schedule.as_ref(), model.trained)?;
        let schedule = schedule
            .ok_or_else(|| Error::new(format!("{} knows no levels, among which some could be found", model.name)))?;
        let noise: Vec<f64> = resolved.grid.kernels(&*schedule)?.iter().map(|level| level.noise_to_signal()).collect();
        let (end, candidates) = noise.split_last().expect("a grid has levels");
        // The clean end is none that a grid lists.
        let end = Some(*end).filter(|_| !config.grid.clean);
        let metrics = compared.metrics();
        let (name, better) = (metrics[0].kind().to_owned(), metrics[0].better());
        let mut loss = |levels: &[f64]| {
            let noise: Vec<f64> = levels.iter().copied().chain(end).collect();
            let key = noise.iter().map(|level| level.to_bits()).collect();
            if let Some(known) = self.0.get(&key) {
                return Ok(*known);
            }
            let tried = SampleConfig { grid: given(noise, config.grid.clean), ..config.clone() };
            let found = compared.measure(Some(&tried), &mut |_, _| {}, watch)?;
            let measured = &found.measured[0].1;
            let shown: Vec<String> = levels.iter().map(|level| format!("{level:.3}")).collect();
            watch.event(Event::Note(&format!("levels {}: {name} {}", shown.join(", "), told(measured))));
            let loss = better.loss(measured.value);
            self.0.insert(key, loss);
            Ok(loss)
        };
        let levels = greedy_levels(candidates, steps, &mut loss)?;
        Ok(levels.into_iter().chain(end).collect())
    }
}
