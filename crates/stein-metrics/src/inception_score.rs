//! Inception score (Salimans et al. 2016): exp of the mean Kullback–Leibler divergence of a classifier's outputs for a sample from
//! their mean,
//!
//! ```text
//! IS = exp E_x KL( p(y|x) ‖ E_x p(y|x) )
//! ```
//!
//! between 1 and the number of classes. Samples are cut into consecutive splits, and the score is the mean over them: in samples that
//! come class by class a split has few classes, and the score is near 1 unless they are shuffled. It needs
//! no reference, does not see whether samples are like the data, and rises with the number of rows in a split. What is zero
//! adds nothing: 0 log 0 = 0.
//!
//! The error is s/√n over the splits. The part `deviation` is the published ± : their standard deviation with denominator n.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure, numbers::ensure_within};

use crate::{
    Better, Content, Measured, Metric, Needs, Rows, Running,
    measured::{mean, standard_error},
    subsets::subset,
};

/// What a classifier's outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// Any numbers, which a softmax makes probabilities of.
    #[default]
    Logits,
    /// Probabilities: none negative, of sum 1.
    Probabilities,
}

/// Inception score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct InceptionScore {
    /// Number of consecutive splits, at least 1; default 10.
    pub splits: usize,
    /// What the rows are.
    pub outputs: Outputs,
    /// Whether rows are taken in an order that is drawn, as torch-fidelity does; default false. Where they come class by class, it must be.
    pub shuffle: bool,
}

impl Default for InceptionScore {
    fn default() -> Self {
        Self { splits: 10, outputs: Outputs::Logits, shuffle: false }
    }
}

impl Metric for InceptionScore {
    fn needs(&self) -> Needs {
        Needs { reference: false, content: Content::Classes, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Larger
    }

    fn check(&self) -> Result<()> {
        ensure_within("splits", self.splits, 1..)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| match it.shuffle {
            true => it.of(&sides.samples.select(subset(0, 0, 0, sides.samples.len(), sides.samples.len()))),
            false => it.of(&sides.samples),
        }))
    }
}

impl InceptionScore {
    fn of(&self, rows: &Rows) -> Result<Measured> {
        /// Below so many samples the published score cannot be compared with.
        const FEW: usize = 5000;
        let (n, splits) = (rows.len(), self.splits);
        ensure!(n >= splits, "{n} samples cannot be cut into {splits} splits: give more or set fewer `splits`");
        let scores: Vec<f64> = (0..splits)
            .into_par_iter()
            .map(|split| self.split(rows, split * n / splits, (split + 1) * n / splits))
            .collect::<Result<_>>()?;
        let average = mean(&scores);
        let deviation = (scores.iter().map(|score| (score - average).powi(2)).sum::<f64>() / splits as f64).sqrt();
        let measured =
            Measured::new(average, standard_error(&scores)).with_part("deviation", deviation).noted_if(n < FEW, || {
                format!("{n} samples are few: the score is too low, compare only with the same number and splits")
            });
        let numbered = scores.into_iter().enumerate();
        Ok(numbered
            .fold(measured, |measured, (split, score)| measured.with_part(format!("split {}", split + 1), score)))
    }

    /// The score of one split. KL(p ‖ q) averaged is E Σ p log p − Σ q log q, as q is the mean of p.
    fn split(&self, rows: &Rows, first: usize, end: usize) -> Result<f64> {
        let mut average = vec![0.0; rows.dim()];
        let mut negative_entropy = 0.0;
        for place in first..end {
            let mut row = rows.block(place..place + 1);
            let entries: f64 = match self.outputs {
                Outputs::Logits => {
                    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let log_sum = row.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln() + most;
                    let entropy = |logit: &mut f64| {
                        let log = *logit - log_sum;
                        *logit = log.exp();
                        *logit * log
                    };
                    row.iter_mut().map(entropy).sum()
                }
                Outputs::Probabilities => {
                    let sum: f64 = row.iter().sum();
                    ensure!(
                        Kind::Mismatch,
                        row.iter().all(|p| *p >= 0.0) && (sum - 1.0).abs() < 1e-3,
                        "row {place} of the samples is no distribution over classes, its sum is {sum}: set `outputs = \
                         \"logits\"` if a softmax makes it one"
                    );
                    row.iter().map(|&p| times_log(p)).sum()
                }
            };
            negative_entropy += entries;
            average.iter_mut().zip(&row).for_each(|(sum, p)| *sum += p);
        }
        let n = (end - first) as f64;
        let of_average: f64 = average.iter().map(|&sum| times_log(sum / n)).sum();
        Ok((negative_entropy / n - of_average).exp())
    }
}

/// p log p.
fn times_log(p: f64) -> f64 {
    if p > 0.0 { p * p.ln() } else { 0.0 }
}
