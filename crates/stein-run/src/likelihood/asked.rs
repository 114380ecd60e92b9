//! What is asked about a likelihood, checked against the model before any work.

use std::sync::Arc;

use stein::{
    Condition, Density, Error, Kernel, Keys, Kind, Meaning, Result, Tensor, ensure, exact::Exact,
    likelihood::LogDensity, numbers::ensure_within, rows,
};

use super::{Bounded, LikelihoodOptions, moved::Moved};
use crate::{Model, Observed, draw::Going};

/// How the density is found.
enum Way {
    /// The model tells it.
    Told(Arc<dyn Density>),
    /// By what moves from noise to data.
    Moved(Box<Moved>),
}

/// What is asked of a model, checked.
pub(super) struct Asked<'a> {
    model: &'a Model,
    way: Way,
    state: usize,
}

impl<'a> Asked<'a> {
    pub(super) fn of(model: &'a Model, options: &LikelihoodOptions) -> Result<Self> {
        ensure_within("--draws", options.draws, 1..=100_000)?;
        ensure!(
            !options.closed_form || model.truth.is_some(),
            "the density of the data of {} is not known: leave out --closed-form",
            model.name
        );
        let state = model.subject.state_shape()?.iter().product();
        let way = match &model.learned.density {
            Some(density) => {
                told(model, options)?;
                Way::Told(Arc::clone(density))
            }
            None => Way::Moved(Box::new(Moved::of(model, options, state)?)),
        };
        Ok(Self { model, way, state })
    }

    /// How often each sample is spread over its gray levels anew: draws of a bound are of the bound.
    pub(super) fn spreads(&self, options: &LikelihoodOptions) -> usize {
        match &self.way {
            // Draws of a bound are of the bound, and levels that are told of need no spread.
            Way::Told(_) if self.tells_bound() || self.of_levels() => 1,
            _ => options.draws,
        }
    }

    /// The states of samples, and what makes their densities those of the data.
    pub(super) fn states(
        &self,
        observed: &Observed,
        places: &[usize],
        keys: &Keys,
    ) -> Result<(Tensor<2>, Option<Vec<f64>>)> {
        let Some(levels) = self.model.subject.levels.filter(|_| self.of_levels()) else {
            return observed.states(places, keys);
        };
        // What is found is the probability of a cell of side 1/(levels - 1).
        let cell = self.model.subject.dim() as f64 * f64::from(levels - 1).ln();
        Ok((observed.plain_states(places)?, Some(vec![cell; places.len()])))
    }

    /// Whether probabilities of gray levels are found instead of densities.
    pub(super) fn of_levels(&self) -> bool {
        match &self.way {
            Way::Told(density) => density.meaning().of_levels,
            Way::Moved(moved) => moved.of_levels(),
        }
    }

    /// The directions that a file gives.
    pub(super) fn directions(&self, options: &LikelihoodOptions, n: usize) -> Result<Vec<Tensor<2>>> {
        let Some(path) = &options.probe else { return Ok(Vec::new()) };
        let (shape, numbers) = stein_data::read_array(path)?;
        let each = n * self.state;
        let fits = !numbers.is_empty() && numbers.len().is_multiple_of(each) && shape.contains(&n);
        ensure!(
            fits,
            "{} has the shape {shape:?}, and a direction for each of {n} samples has [{n}, {}]: give one, or several behind each \
             other",
            path.display(),
            self.state
        );
        ensure!(numbers.iter().all(|number| number.is_finite()), "{} has numbers that are not finite", path.display());
        if let Some(probes) = options.probes {
            let there = numbers.len() / each;
            ensure!(probes == there, "--probes {probes}, and {} has {there}: leave out --probes", path.display());
        }
        Ok(numbers.chunks_exact(each).map(|probe| rows::matrix(probe.to_vec(), self.state, &rows::exact())).collect())
    }

    pub(super) fn log_density(
        &self,
        x: Tensor<2>,
        given: &Condition,
        keys: &Keys,
        directions: &[Tensor<2>],
        draws: usize,
        going: &Going,
    ) -> Result<LogDensity> {
        match &self.way {
            Way::Told(density) => {
                going()?;
                density.log_density(x, given, keys, draws)
            }
            Way::Moved(moved) => moved.log_density(self.model, x, given, keys, directions, going),
        }
    }

    /// The mean of ln of the known density of the data.
    pub(super) fn closed_form(&self, observed: &Observed) -> Result<f64> {
        let Some(truth) = &self.model.truth else { return Err(Error::new("the density of the data is not known")) };
        let values: Vec<f64> =
            observed.values(&(0..observed.count).collect::<Vec<_>>())?.into_iter().map(f64::from).collect();
        let known = truth.log_density(&values, &Kernel::CLEAN);
        Ok(known.iter().sum::<f64>() / known.len() as f64)
    }

    /// How the density is found, for people.
    pub(super) fn method(&self, options: &LikelihoodOptions) -> String {
        match &self.way {
            Way::Moved(moved) => moved.method(options),
            Way::Told(density) => {
                let Meaning { bound, method, .. } = density.meaning();
                if bound { format!("{method}, {} draws a sample", options.draws) } else { method.to_owned() }
            }
        }
    }

    /// Whether the model itself tells a lower bound instead of the density.
    pub(super) fn tells_bound(&self) -> bool {
        matches!(&self.way, Way::Told(density) if density.meaning().bound)
    }
}

/// Fails where something is asked that is of levels of noise, which a model that tells its density has none of.
fn told(model: &Model, options: &LikelihoodOptions) -> Result<()> {
    let LikelihoodOptions { schedule, bound, divergence, probes, probe, tolerance, steps, variance, published, .. } =
        options;
    let of_noise = [
        ("--schedule", schedule.is_some()),
        ("--bound", *bound != Bounded::Ode),
        ("--divergence", divergence.is_some()),
        ("--probes", probes.is_some()),
        ("--probe", probe.is_some()),
        ("--tolerance", *tolerance != LikelihoodOptions::default().tolerance),
        ("--steps", steps.is_some()),
        ("--variance", variance.is_some()),
        ("--published", *published),
    ];
    let Some((option, _)) = of_noise.into_iter().find(|(_, given)| *given) else { return Ok(()) };
    Err(Error::of(
        Kind::Unsupported,
        format!("{} tells its density itself, with no noise: leave out {option}", model.name),
    ))
}
