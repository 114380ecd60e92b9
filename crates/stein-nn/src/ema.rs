//! Exponential moving average of the weights, the network to sample from.
//!
//! After each optimizer step, average ← average + (1 − β) (weights − average), with β one of
//! - `decay`: min(decay, (1 + n)/(10 + n)) at the n-th update, n = 1, 2, …, or `decay` itself without `warmup`
//!   (Score-SDE, `models/ema.py`);
//! - `half_life`: 2^(−batch / min(images, ramp · seen)) when `seen` images were trained on before a batch, so the
//!   average forgets half in `images` images, or sooner early in a run (EDM, Karras et al., arXiv:2206.00364,
//!   `training_loop.py`). At the first step β = 0 and the average is the weights.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{
    Result,
    numbers::{above, ensure_within},
};
use stein_base::Explain;

use crate::state::{self, Flat, Tensors};

/// How fast the average forgets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EmaConfig {
    /// A factor per update.
    Decay {
        /// The part of the average kept at each update; in \[0, 1), default 0.9999.
        #[serde(default = "decay")]
        decay: f64,
        /// Whether early updates keep less, (1 + n)/(10 + n); default true.
        #[serde(default = "warmup")]
        warmup: bool,
    },
    /// A half-life counted in samples, whatever the batch size.
    #[serde(alias = "halflife")]
    HalfLife {
        /// Samples after which the average has forgotten half; positive and at most 1e15, default 500 000.
        #[serde(default = "images")]
        images: f64,
        /// Bound of the half-life over the samples seen so far; positive, default 0.05, infinite for none.
        #[serde(default = "ramp")]
        ramp: f64,
    },
}

fn decay() -> f64 {
    0.9999
}

fn warmup() -> bool {
    true
}

fn images() -> f64 {
    5e5
}

fn ramp() -> f64 {
    0.05
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self::HalfLife { images: images(), ramp: ramp() }
    }
}

impl EmaConfig {
    /// Fails unless all numbers are in their ranges.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Decay { decay, .. } => ensure_within("train.ema.decay", decay, 0.0..1.0),
            Self::HalfLife { images, ramp } => {
                ensure_within("train.ema.images", images, above(0.0, 1e15))?;
                ensure_within("train.ema.ramp", ramp, above(0.0, f64::INFINITY))
            }
        }
    }

    /// β of the update after optimizer step `update`, counted from 1, of `batch` samples each.
    pub fn beta(&self, update: u64, batch: usize) -> f64 {
        let n = update as f64;
        match *self {
            Self::Decay { decay, warmup: true } => decay.min((1.0 + n) / (10.0 + n)),
            Self::Decay { decay, warmup: false } => decay,
            Self::HalfLife { images, ramp } => {
                let (batch, before) = (batch as f64, n - 1.0);
                let seen = if before > 0.0 { images.min(ramp * before * batch) } else { 0.0 };
                0.5f64.powf(batch / seen)
            }
        }
    }
}

impl EmaConfig {
    /// The part of the average that is still the weights it began with, after so many updates: the product of their β.
    pub fn initial_part(&self, updates: u64) -> f64 {
        match *self {
            // Far below anything that shows after a thousand updates.
            Self::Decay { warmup: true, .. } => (1..=updates.min(1000)).map(|n| self.beta(n, 1)).product(),
            Self::Decay { decay, warmup: false } => decay.powf(updates as f64),
            // The first update takes in the weights whole.
            Self::HalfLife { .. } => {
                if updates == 0 {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }
}

/// The moving average of a network's weights. It needs no state besides them and the number of the update.
pub struct Ema {
    config: EmaConfig,
    average: Flat,
}

impl Ema {
    /// An average that starts at the weights of `network`.
    ///
    /// # Errors
    /// When a number of the config is out of its range.
    pub fn new<M: Module>(config: EmaConfig, network: &M) -> Result<Self> {
        config.check()?;
        Ok(Self { config, average: state::flat(network) })
    }

    /// Takes in the weights of `network` after optimizer step `update`, counted from 1, of `batch` samples.
    ///
    /// # Panics
    /// If `network` is not of the architecture this average was made for.
    pub fn update<M: Module>(&mut self, network: &M, update: u64, batch: usize) {
        let part = self.part(update, batch);
        let mut weights = state::flat(network);
        for (name, (_, average)) in &mut self.average {
            let (_, weight) = weights.remove(name).expect("an average is updated by the network it was made for");
            take_in(average, weight, part);
        }
    }

    /// 1 − β of an update.
    pub(crate) fn part(&self, update: u64, batch: usize) -> f64 {
        1.0 - self.config.beta(update, batch)
    }

    /// The average of a parameter.
    ///
    /// # Panics
    /// If the network this average was made for has none of that name.
    pub(crate) fn value(&mut self, name: &str) -> &mut Tensor<1> {
        &mut self.average.get_mut(name).expect("an average is updated by the network it was made for").1
    }

    /// A network of the averaged weights, without autodiff, otherwise like `network`.
    ///
    /// # Panics
    /// If `network` is not of the architecture this average was made for.
    pub fn network<M: Module>(&self, network: &M) -> M {
        state::map(network.valid(), |name, _| self.average[name].1.clone())
    }

    /// Host copies of the averaged weights.
    pub fn tensors(&self) -> Tensors {
        let copy = |(name, (shape, value)): (&String, &(burn::tensor::Shape, Tensor<1>))| {
            (name.clone(), state::shaped(value.clone(), shape.clone()))
        };
        self.average.iter().map(copy).collect()
    }

    /// Replaces the averaged weights by named ones.
    ///
    /// # Errors
    /// As [`state::load`]; the average is unchanged then.
    pub fn load(&mut self, weights: &Tensors) -> Result<()> {
        let own = self.average.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect();
        state::check(&own, weights)?;
        for (name, (_, average)) in &mut self.average {
            *average = state::vector_like(weights[name].clone(), average);
        }
        Ok(())
    }
}

/// average ← average + part · (weight − average)
pub(crate) fn take_in(average: &mut Tensor<1>, weight: Tensor<1>, part: f64) {
    *average = average.clone() + (weight - average.clone()) * part;
}
