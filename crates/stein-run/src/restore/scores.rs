//! How good samples of a posterior are: against the truth, against what was measured, and against the posterior itself where it is
//! known in closed form.

use std::fmt;

use serde_json::{Map, Value, json};
use stein::{Result, exact::Exact, inverse::Operator, rows};
use stein_metrics::{AnyMetric, Batch, Crps, IntervalCoverage, Layout, Psnr, Side, Ssim, measure};

use super::{Measurements, RestoreOptions};
use crate::{Model, evaluate::metric_for};

/// Numbers with their standard errors, and what they are of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// Name, number, standard error where it is known, and what it says.
    pub rows: Vec<Score>,
}

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Its name.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard error over inputs, where there is more than one.
    pub error: Option<f64>,
    /// What it says.
    pub meaning: &'static str,
}

impl Scores {
    pub(super) fn of(model: &Model, options: &RestoreOptions, found: &Measurements, values: &[f32]) -> Result<Self> {
        let mut scores = Self::default();
        scores.misfit(model, options, found, values)?;
        scores.against_posterior(model, options, found, values)?;
        let Some(truth) = &found.truth else { return Ok(scores) };
        let (dim, n) = (model.subject.dim(), options.n);
        let pictures = model.subject.levels.is_some();
        let clipped: Vec<f32> =
            values.iter().map(|value| if pictures { value.clamp(0.0, 1.0) } else { *value }).collect();
        let means: Vec<f32> = clipped.chunks(n * dim).flat_map(|samples| mean_and_std(samples, dim).0).collect();
        let squares: f64 = means.iter().zip(truth).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        scores.add(
            "rmse",
            (squares / means.len() as f64).sqrt(),
            None,
            "root mean squared error of the mean of the samples",
        );
        let repeated: Vec<f32> = truth.chunks(dim).flat_map(|row| row.repeat(n)).collect();
        if let Some(shape) = model.subject.image() {
            let mut metrics = of_pictures(shape);
            if options.metric_settings.iter().any(|setting| setting.starts_with("lpips.")) {
                metrics.push(metric_for("lpips", &options.metric_settings, model.subject.shape)?);
            }
            for metric in metrics {
                let of_means = measure_pair(metric.clone(), dim, truth, &means)?;
                let of_samples = measure_pair(metric.clone(), dim, &repeated, &clipped)?;
                let name = metric.kind().to_owned();
                scores.add(&name, of_samples.0, of_samples.1, "of single samples");
                scores.add(&format!("{name}_of_mean"), of_means.0, of_means.1, "of the mean of the samples");
            }
        }
        if n >= 2 {
            let (crps, error) = measure_pair(Crps::default().into(), dim, truth, &clipped)?;
            scores.add("crps", crps, error, "continuous ranked probability score, in the data's units");
        }
        // An interval between order statistics needs enough of them.
        for (level, name) in [(0.5, "coverage_50"), (0.9, "coverage_90")] {
            if n >= 20 {
                let metric = IntervalCoverage { level };
                let (share, error) = measure_pair(metric.into(), dim, truth, &clipped)?;
                scores.add(name, share, error, "share of the truth within that central interval of the samples");
            }
        }
        Ok(scores)
    }

    /// How well samples explain what was measured: the root mean square of (y − A(x))/σ, which is near 1 for the truth.
    fn misfit(&mut self, model: &Model, options: &RestoreOptions, found: &Measurements, values: &[f32]) -> Result<()> {
        let dim = model.subject.dim();
        let states =
            rows::host(&model.subject.encode(values, &stein::Keys::range(0, 0, values.len() / dim), &model.device)?);
        let problem = found.problem(0..found.count)?;
        let (mut squares, mut count, mut weighted) = (0.0, 0, true);
        for (i, state) in states.chunks(dim).enumerate() {
            let input = i / options.n;
            for (residual, variance) in problem.residual(input, state).iter().zip(problem.variances(input)) {
                weighted &= *variance > 0.0;
                squares += residual.powi(2) / if weighted { *variance } else { 1.0 };
                count += 1;
            }
        }
        let meaning = if weighted {
            "root mean square of (y - A x) over the noise: near 1 where samples explain what was measured"
        } else {
            "root mean square of y - A x, in the units of the measurement: near 0"
        };
        self.add("misfit", (squares / f64::from(count)).sqrt(), None, meaning);
        Ok(())
    }

    /// Against the posterior of a mixture, of a linear measurement with Gaussian noise.
    fn against_posterior(
        &mut self,
        model: &Model,
        options: &RestoreOptions,
        found: &Measurements,
        values: &[f32],
    ) -> Result<()> {
        let problem = found.problem(0..found.count)?;
        let Some((prior, std)) = model.truth.as_ref().filter(|_| !model.trained && options.n >= 2).zip(problem.std())
        else {
            return Ok(());
        };
        if found.operator.linear().is_none() {
            return Ok(());
        }
        let (dim, m) = (model.subject.dim(), found.operator.outputs());
        let zero = vec![0.0; dim];
        let mut a = vec![0.0; m * dim];
        for j in 0..dim {
            let mut unit = zero.clone();
            unit[j] = 1.0;
            found.operator.push(&zero, &unit).iter().enumerate().for_each(|(i, entry)| a[i * dim + j] = *entry);
        }
        let (mut off, mut spread) = (0.0, 0.0);
        for (input, samples) in values.chunks(options.n * dim).enumerate() {
            let posterior = prior.posterior(&a, problem.y(input), std)?;
            let (mean, covariance) = (posterior.mean(), posterior.covariance());
            let (found_mean, found_std) = mean_and_std(samples, dim);
            for i in 0..dim {
                let true_std = covariance[i * dim + i].sqrt();
                off += ((f64::from(found_mean[i]) - mean[i]) / true_std).powi(2);
                spread += f64::from(found_std[i]) / true_std;
            }
        }
        let count = (found.count * dim) as f64;
        self.add(
            "bias",
            (off / count).sqrt(),
            None,
            "of the mean against the posterior in closed form, in its standard deviations, root mean square",
        );
        self.add(
            "spread",
            spread / count,
            None,
            "standard deviation over that of the posterior in closed form: 1 is right",
        );
        let chance = (1.0 / options.n as f64).sqrt();
        self.add("chance", chance, None, "the bias that so many samples of the posterior itself would have");
        Ok(())
    }

    fn add(&mut self, name: &str, value: f64, error: Option<f64>, meaning: &'static str) {
        self.rows.push(Score { name: name.to_owned(), value, error, meaning });
    }

    /// Names to `{value, error}`.
    pub fn json(&self) -> Value {
        let entry = |score: &Score| (score.name.clone(), json!({ "value": score.value, "error": score.error }));
        Value::Object(self.rows.iter().map(entry).collect::<Map<_, _>>())
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Score { name, value, error, meaning } in &self.rows {
            let error = error.map_or_else(String::new, |error| format!(" ± {error:.2e}"));
            writeln!(f, "{name:<16}{:<24}{meaning}", format!("{value:.4}{error}"))?;
        }
        Ok(())
    }
}

/// Mean and standard deviation of samples `[n, dim]`, number by number.
pub(super) fn mean_and_std(samples: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let n = (samples.len() / dim) as f64;
    let sum =
        |i: usize, f: &dyn Fn(f64) -> f64| samples.iter().skip(i).step_by(dim).map(|x| f(f64::from(*x))).sum::<f64>();
    let means: Vec<f64> = (0..dim).map(|i| sum(i, &|x| x) / n).collect();
    let std = |i: usize| (sum(i, &|x| (x - means[i]).powi(2)) / (n - 1.0).max(1.0)).sqrt() as f32;
    (means.iter().map(|mean| *mean as f32).collect(), (0..dim).map(std).collect())
}

/// What pictures of this height, width and number of channels are compared by in pairs.
pub(crate) fn of_pictures((height, width, channels): (usize, usize, usize)) -> Vec<AnyMetric> {
    let mut metrics: Vec<AnyMetric> = vec![Psnr::default().into()];
    // Its window is of 11 pixels.
    if height.min(width) >= 11 {
        let shape = vec![channels, height, width];
        metrics.push(Ssim { shape, layout: Layout::ChannelsLast, ..Ssim::default() }.into());
    }
    metrics
}

pub(crate) fn measure_pair(
    metric: AnyMetric,
    dim: usize,
    truth: &[f32],
    samples: &[f32],
) -> Result<(f64, Option<f64>)> {
    let sides = [(Side::Reference, Batch::from(truth)), (Side::Samples, Batch::from(samples))];
    let measured = measure(metric, dim, sides)?;
    Ok((measured.value, measured.error))
}
