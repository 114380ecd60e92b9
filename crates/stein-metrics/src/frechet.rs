//! Fréchet distance between the Gaussians with the moments of both sides (Heusel et al. 2017, eq. 6; Dowson & Landau 1982):
//!
//! ```text
//! d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½
//! ```
//!
//! FID is d² of Inception's features. It is reported as it is published, without a root. The covariances have the denominator
//! N − 1, and no root of a matrix is taken (see [`Moments`]), so that singular ones need no correction.
//!
//! With finitely many samples d² is too large by about c/N, with a c that depends on the model (Chong & Forsyth 2020).
//! `infinity` fits d² of 15 numbers of samples between min(5000, N/10) and N as a line in 1/N and reports where it meets 1/N = 0;
//! the samples are taken in an order drawn from the seed.
//!
//! The error is that of the parts: samples, and reference rows if there are any, are dealt to some equal parts, and the
//! standard deviation of d² of the parts over the root of their number estimates that of the whole. With `infinity` it is
//! that of the line's intercept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Key, Purpose, Result, ensure, numbers::ensure_within, random};

use crate::{
    Accumulator, Batch, Better, Measured, Metric, Moments, Needs, Running, Side, Sides, Streaming,
    measured::standard_error,
};

/// Squared Fréchet distance between Gaussians; FID on Inception features.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Frechet {
    /// A file with the moments of the reference, `.npz` with `mu` and `sigma`; then no rows of the reference are needed.
    pub reference: Option<PathBuf>,
    /// Whether to extrapolate to infinitely many samples, which keeps all rows in memory.
    pub infinity: bool,
    /// Parts for the error, 2 to 100, or 0 for none; by default 5 up to 512 dimensions and none above, where each part
    /// takes as much memory and half as long as the whole.
    pub parts: Option<usize>,
    /// Seed of the order in which `infinity` takes samples.
    pub seed: u64,
}

/// What the squared Fréchet distance is a sum of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// |μ₁ − μ₂|².
    pub mean: f64,
    /// tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½.
    pub trace: f64,
}

impl Terms {
    /// The squared distance.
    pub fn sum(self) -> f64 {
        self.mean + self.trace
    }
}

/// The terms of the squared Fréchet distance between two Gaussians.
///
/// # Errors
/// Moments of different sizes, values that overflow.
pub fn frechet_distance(one: &Moments, two: &Moments) -> Result<Terms> {
    ensure!(
        Kind::Mismatch,
        one.dim() == two.dim(),
        "one side has rows of {} values and the other of {}: compare features of one extractor",
        one.dim(),
        two.dim()
    );
    let mean = one.mean().iter().zip(two.mean()).map(|(a, b)| (a - b).powi(2)).sum();
    Ok(Terms { mean, trace: one.trace() + two.trace() - 2.0 * one.trace_of_root(two)? })
}

impl Metric for Frechet {
    fn needs(&self) -> Needs {
        Needs { reference: self.reference.is_none(), ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        match self.parts {
            None | Some(0) => Ok(()),
            Some(parts) => ensure_within("parts", parts, 2..=100),
        }
    }

    fn start(&self, dim: usize) -> Result<Running> {
        let saved = self.reference.as_deref().map(Moments::load).transpose()?;
        if let Some(saved) = &saved {
            ensure!(
                Kind::Mismatch,
                saved.dim() == dim,
                "the reference has {} values a row and the samples {dim}: compare features of one extractor",
                saved.dim()
            );
        }
        if self.infinity {
            let it = self.clone();
            return Ok(Running::whole(move |sides| it.extrapolate(sides, saved)));
        }
        let parts = self.parts.unwrap_or(if dim <= 512 { 5 } else { 0 });
        let side = || -> Result<Dealt> {
            let parts = (0..parts).map(|_| Accumulator::new(dim)).collect::<Result<_>>()?;
            Ok(Dealt { dim, whole: Accumulator::new(dim)?, parts, rows: 0 })
        };
        Ok(Running::Streaming(Box::new(Measuring { saved, reference: side()?, samples: side()? })))
    }
}

impl Frechet {
    fn extrapolate(&self, sides: &Sides, saved: Option<Moments>) -> Result<Measured> {
        const SIZES: usize = 15;
        let samples = &sides.samples;
        let (n, dim) = (samples.len(), samples.dim());
        let smallest = (n / 10).min(5000);
        ensure!(smallest >= 2, "{n} samples are too few to extrapolate from: give at least 20, better 50000");
        let reference = match saved {
            Some(saved) => saved,
            None => Moments::of(dim, Batch { values: sides.reference.values(), labels: None })?,
        };
        let mut order: Vec<usize> = (0..n).collect();
        let mut generator = Key::new(self.seed, Purpose::Order).generator();
        (1..n).rev().for_each(|last| order.swap(last, random::below(&mut generator, last + 1)));
        let mut accumulator = Accumulator::new(dim)?;
        let (mut taken, mut points) = (0, Vec::new());
        for step in 0..SIZES {
            let size = smallest + (n - smallest) * step / (SIZES - 1);
            for &place in &order[taken..size] {
                accumulator.update(samples.values().part(place * dim..(place + 1) * dim));
            }
            taken = size;
            let distance = frechet_distance(&reference, &accumulator.clone().finish()?)?.sum();
            points.push((1.0 / size as f64, distance));
        }
        let (value, error) = intercept(&points);
        let last = points[SIZES - 1].1;
        let mut measured = Measured::new(value, Some(error)).with_part("at_all_samples", last);
        measured.reference = Some(reference.fingerprint);
        Ok(measured.noted_if(smallest <= dim, || few(smallest, dim, "the smallest number of samples in the fit is")))
    }
}

/// Where a line through points meets 0, by least squares, with the standard error.
fn intercept(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let squares: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / squares;
    let residual: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    let variance = residual / (n - 2.0) * (1.0 / n + x * x / squares);
    (y - slope * x, variance.sqrt())
}

fn few(rows: usize, dim: usize, which: &str) -> String {
    format!(
        "{which} {rows} for {dim} dimensions: the distance is too large by an amount that depends on the model, so compare \
         only with the same number of samples, or set `infinity`"
    )
}

/// The rows of a side, and the same dealt to parts.
struct Dealt {
    dim: usize,
    whole: Accumulator,
    parts: Vec<Accumulator>,
    rows: usize,
}

impl Dealt {
    fn update(&mut self, batch: &Batch) {
        self.whole.update(batch.values);
        if self.parts.is_empty() {
            return;
        }
        let parts = self.parts.len();
        for first in (0..batch.values.len()).step_by(self.dim) {
            self.parts[self.rows % parts].update(batch.values.part(first..first + self.dim));
            self.rows += 1;
        }
    }
}

struct Measuring {
    saved: Option<Moments>,
    reference: Dealt,
    samples: Dealt,
}

impl Streaming for Measuring {
    fn update(&mut self, side: Side, batch: &Batch) -> Result<()> {
        match side {
            Side::Reference if self.saved.is_none() => self.reference.update(batch),
            Side::Samples => self.samples.update(batch),
            _ => {}
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Measured> {
        let Self { saved, reference, samples } = *self;
        let dim = samples.dim;
        let (known, parts) = match saved {
            Some(saved) => (saved, vec![]),
            None => (reference.whole.finish().map_err(|error| error.at("reference"))?, reference.parts),
        };
        let generated = samples.whole.finish().map_err(|error| error.at("samples"))?;
        let terms = frechet_distance(&known, &generated)?;
        let mut parts = parts.into_iter();
        // Parts of fewer than two rows have no covariance, and then there is no error to tell.
        let of_parts: Result<Vec<f64>> = samples
            .parts
            .into_iter()
            .map(|part| {
                let part = part.finish()?;
                let against = parts.next().map(Accumulator::finish).transpose()?;
                Ok(frechet_distance(against.as_ref().unwrap_or(&known), &part)?.sum())
            })
            .collect();
        let error = of_parts.ok().and_then(|of_parts| standard_error(&of_parts));
        let rows = generated.rows.into_iter().chain(known.rows).min().unwrap_or(usize::MAX);
        let mut measured = Measured::new(terms.sum(), error)
            .with_part("mean_term", terms.mean)
            .with_part("trace_term", terms.trace)
            .noted_if(rows < 10 * dim, || few(rows, dim, "the smaller side has rows:"));
        measured.reference = Some(known.fingerprint);
        Ok(measured)
    }
}
