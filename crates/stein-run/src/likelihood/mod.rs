//! How likely data are under a model: log-densities in units that say what they are, of every sample and in the mean.

mod asked;
mod files;
mod moved;
mod report;

pub use report::LikelihoodReport;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use stein::{Keys, Projection, Result, Tensor, Variance};

use crate::{DataChoice, Event, Model, Observed, Watch};

use asked::Asked;
use files::Outputs;
use report::Unit;

/// Which number is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bounded {
    /// The density of the probability-flow ODE.
    #[default]
    Ode,
    /// The bound of Song et al. 2021, "Maximum Likelihood Training of Score-Based Diffusion Models".
    ScoreFlow,
    /// The variational bound of DDPM over the levels of a discrete schedule, of pictures.
    Variational,
}

impl Bounded {
    /// The names, in the order of the methods.
    pub const NAMES: [&str; 3] = ["ode", "scoreflow", "vlb"];

    /// The one of that name.
    ///
    /// # Errors
    /// Another name.
    pub fn named(name: &str) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "ode" => Ok(Self::Ode),
            "scoreflow" | "score_flow" => Ok(Self::ScoreFlow),
            "vlb" | "variational" | "elbo" => Ok(Self::Variational),
            _ => Err(stein::names::unknown("bound", name, &Self::NAMES)),
        }
    }
}

/// What is asked about which data.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelihoodOptions {
    /// The data.
    pub data: DataChoice,
    /// Schedule to go along, by name; default the one trained on.
    pub schedule: Option<String>,
    /// The method.
    pub bound: Bounded,
    /// `exact` or `hutchinson`; default the exact divergence up to 32 numbers of a state.
    pub divergence: Option<String>,
    /// Directions of Hutchinson's estimate; default 1.
    pub probes: Option<usize>,
    /// Their law: `rademacher`, `gaussian` or `sphere`.
    pub projection: Projection,
    /// Directions to take instead of drawing them: a `.npy` file of `[n, state]`, or `[probes, n, state]`.
    pub probe: Option<PathBuf>,
    /// Relative and absolute tolerance of the ODE.
    pub tolerance: f64,
    /// Draws of the spread of gray levels that are averaged, and levels of noise, or codes, drawn for a bound.
    pub draws: usize,
    /// Levels of the variational bound, evenly spaced among those trained on; default all.
    pub steps: Option<usize>,
    /// Variance of the steps of the variational bound; default what the network learned or, where it did not, the posterior's.
    pub variance: Option<Variance>,
    /// As published numbers are: of the ODE without a correction for the last stretch, and with the prior N(0, 1) or N(0, σ_max²); of the
    /// variational bound with the code's normal distribution function.
    pub published: bool,
    /// Whether the known density of the data is found too.
    pub closed_form: bool,
    /// The seed of all that is drawn.
    pub seed: u64,
    /// A `.npy` file for one value a sample, in the unit of the report.
    pub output: Option<PathBuf>,
    /// A `.csv` file for the samples in the order of their densities, the lowest first.
    pub rank: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl Default for LikelihoodOptions {
    fn default() -> Self {
        Self {
            data: DataChoice::default(),
            schedule: None,
            bound: Bounded::Ode,
            divergence: None,
            probes: None,
            projection: Projection::Rademacher,
            probe: None,
            tolerance: 1e-5,
            draws: 1,
            steps: None,
            variance: None,
            published: false,
            closed_form: false,
            seed: 0,
            output: None,
            rank: None,
            force: false,
        }
    }
}

/// Most numbers of a state whose exact divergence is taken by default: as many products with the Jacobian are needed.
const EXACT: usize = 32;

/// Levels of noise that the bound draws for a sample, for each of its draws.
const LEVELS: usize = 32;

/// How likely the data are under the model.
///
/// ```no_run
/// use stein_run::{DataChoice, LikelihoodOptions, Model, Silent, likelihood};
///
/// let model = Model::open("runs/table-shells", &stein::Device::flex())?;
/// let data = DataChoice { name: Some("new.csv".into()), ..DataChoice::default() };
/// let found = likelihood(&model, &LikelihoodOptions { data, ..LikelihoodOptions::default() }, &mut Silent)?;
/// println!("{} nats", found.mean);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A model without a denoiser, a velocity or a density, data that are not such as it knows, settings out of range, and files that may not be replaced, all
/// before work starts; a tolerance that cannot be met.
pub fn likelihood(model: &Model, options: &LikelihoodOptions, watch: &mut dyn Watch) -> Result<LikelihoodReport> {
    let asked = Asked::of(model, options)?;
    let observed = Observed::of(model, &options.data)?;
    let given = asked.directions(options, observed.count)?;
    let files = Outputs::new(model, options)?;
    let batch = observed.at_once()?;
    let spreads = asked.spreads(options);
    let started = Instant::now();
    let watch = Mutex::new(watch);
    let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let going = || watch().going();
    let (mut nats, mut errors, mut evaluations, mut of_data) = (Vec::new(), Some(Vec::new()), 0, true);
    for first in (0..observed.count).step_by(batch) {
        going()?;
        let range: Vec<usize> = (first..observed.count.min(first + batch)).collect();
        let mut sums = vec![(0.0, 0.0); range.len()];
        for draw in 0..spreads {
            // Every draw of a sample has keys of its own.
            let keys = Keys::range(options.seed, (draw as u64) << 40 | first as u64, range.len());
            let (x, log_det) = asked.states(&observed, &range, &keys)?;
            of_data &= log_det.is_some();
            let along: Vec<Tensor<2>> = given.iter().map(|given| given.clone().narrow(0, first, range.len())).collect();
            let found = asked.log_density(x, &observed.given(&range), &keys, &along, options.draws, &going)?;
            evaluations = evaluations.max(found.evaluations);
            let log_det = log_det.unwrap_or_else(|| vec![0.0; range.len()]);
            for ((sum, nats), log_det) in sums.iter_mut().zip(&found.nats).zip(log_det) {
                sum.0 += nats + log_det;
            }
            match found.standard_errors {
                Some(own) => sums.iter_mut().zip(own).for_each(|(sum, error)| sum.1 += error * error),
                None => errors = None,
            }
        }
        let draws = spreads as f64;
        nats.extend(sums.iter().map(|(nats, _)| nats / draws));
        if let Some(errors) = &mut errors {
            errors.extend(sums.iter().map(|(_, squares)| squares.sqrt() / draws));
        }
        watch().event(Event::Measured { done: nats.len() as u64, of: observed.count as u64 });
    }
    let unit = Unit::of(model, of_data);
    let values: Vec<f64> = nats.iter().map(|&nats| unit.value(nats)).collect();
    let (mean, standard_error) = mean_and_error(&values);
    let closed_form = if options.closed_form { Some(asked.closed_form(&observed)?) } else { None };
    let (mean_nats, _) = mean_and_error(&nats);
    let scale = (unit.value(1.0) - unit.value(0.0)).abs();
    let estimate_error =
        errors.filter(|errors| errors.iter().any(|error| *error > 0.0)).map(|errors| scale * mean_and_error(&errors).0);
    let report = LikelihoodReport {
        mean,
        standard_error,
        unit: unit.name,
        n: observed.count,
        dim: unit.dim,
        nats: mean_nats,
        nats_per_dim: mean_nats / unit.dim as f64,
        closed_form,
        estimate_error,
        evaluations,
        seconds: started.elapsed().as_secs_f64(),
        method: asked.method(options),
        meaning: unit.meaning(model, &asked, options),
        model: model.name.clone(),
        data: observed.data.name.clone(),
        values,
    };
    files.write(&report, &observed)?;
    Ok(report)
}

/// The mean, and its standard error where there are two values.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

#[cfg(test)]
mod tests {
    use stein::{
        codec::{Chain, Codec, Dequantized, Symmetric},
        rows,
    };

    use super::*;

    #[test]
    fn a_uniform_density_on_the_cube_takes_eight_bits() {
        let unit = Unit { name: "bits/dim", of_data: true, levels: Some(256), dim: 12 };
        let x = rows::matrix((0..12).map(|i| f64::from(i * 20) / 255.0).collect(), 12, &rows::exact());
        let spread = || Dequantized { levels: 256 }.into();
        // The density of states is 1 on [0, 1], or 1/2 a number on [-1, 1].
        for (codecs, side) in [(vec![spread()], 1.0f64), (vec![spread(), Symmetric {}.into()], 2.0)] {
            let log_det = Chain(codecs).log_det(&x, &Keys::range(0, 0, 1)).unwrap().unwrap()[0];
            let bits = unit.value(-12.0 * side.ln() + log_det);
            assert!((bits - 8.0).abs() < 1e-12, "{bits}");
        }
    }

    #[test]
    fn means_have_their_standard_errors() {
        assert_eq!(mean_and_error(&[1.0, 2.0, 3.0]), (2.0, Some((1.0f64 / 3.0).sqrt())));
        assert_eq!(mean_and_error(&[4.0]), (4.0, None));
    }
}
