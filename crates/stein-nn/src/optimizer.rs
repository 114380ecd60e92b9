//! AdamW with gradients clipped by their global norm (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2), and RAdam, its variant
//! whose early steps are rectified.
//!
//! With g the gradient, clipped to g · min(1, clip/‖g‖) over all parameters together, and t counted from 1:
//!
//! m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,
//! w ← (1 − rate · weight_decay) w − rate · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//!
//! Without weight decay this is Adam (Kingma & Ba, arXiv:1412.6980).
//!
//! RAdam (Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265, algorithm 2) leaves out the
//! denominator while the variance of 1/√v is not tractable. With ρ = 2/(1 − β₂) − 1 and ρₜ = ρ − 2 t β₂ᵗ/(1 − β₂ᵗ),
//!
//! w ← (1 − rate · weight_decay) w − rate · (m / (1 − β₁ᵗ)) · rₜ √(1 − β₂ᵗ) / (√v + ε),
//! rₜ² = (ρₜ−4)(ρₜ−2)ρ / ((ρ−4)(ρ−2)ρₜ)    where ρₜ > 5, and before that
//! w ← (1 − rate · weight_decay) w − rate · (m / (1 − β₁ᵗ)).
//!
//! Two points are those of its authors' code and of PyTorch: the bound is 5, where the publication has 4, and ε, which the
//! publication has not, is added to √v before its bias is corrected.
//!
//! The moving average of the weights goes along: where tensors live in host memory, weights, both means and the average
//! are updated in one pass; elsewhere by tensor operations.

use std::{collections::BTreeMap, mem::take};

use burn::{
    module::{Module, Param},
    tensor::{DType, Gradients, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{
    Error, Kind, Result, ensure,
    numbers::{above, ensure_within},
};
use stein_base::Explain;
use stein_simd::{
    Isa,
    optimizer::{Slices, Update, adam, sum_of_squares},
};

use crate::{
    Ema,
    ema::take_in,
    state::{self, Look, Tensors},
};

/// How a step follows from the means of the gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101).
    #[default]
    Adamw,
    /// The same with its early steps rectified (Liu et al., arXiv:1908.03265).
    #[serde(alias = "rectified_adam")]
    Radam,
}

/// The constants of [`AdamW`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// How a step follows from the means of the gradients; default adamw.
    pub kind: OptimizerKind,
    /// Decay of the mean of gradients per step; in \[0, 1), default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients per step; in \[0, 1), default 0.999.
    pub beta2: f64,
    /// ε, added to the root of the mean of squares; positive and at most 1, default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay of all parameters, times the learning rate per step; from 0 to 1000, default 0.
    pub weight_decay: f64,
    /// The largest global gradient norm used as it is; positive and at most 1e12, default none (no clipping).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { kind: OptimizerKind::Adamw, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, clip: None }
    }
}

impl AdamWConfig {
    /// Fails unless all numbers are in their ranges.
    pub fn check(&self) -> Result<()> {
        ensure_within("train.optimizer.beta1", self.beta1, 0.0..1.0)?;
        ensure_within("train.optimizer.beta2", self.beta2, 0.0..1.0)?;
        ensure_within("train.optimizer.epsilon", self.epsilon, above(0.0, 1.0))?;
        ensure_within("train.optimizer.weight_decay", self.weight_decay, 0.0..=1e3)?;
        ensure_within("train.optimizer.clip", self.clip.unwrap_or(1.0), above(0.0, 1e12))
    }
}

/// Gradients by parameter, summed over the micro-batches of one step.
#[derive(Default)]
pub struct Accumulated {
    batches: usize,
    sums: BTreeMap<String, Tensor<1>>,
}

impl Accumulated {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gradients of one micro-batch, taken from `loss.backward()` for the parameters of `network`.
    ///
    /// A step uses the mean over the micro-batches, which is the gradient of the mean loss if they are of one size.
    pub fn add<M: Module>(&mut self, network: &M, gradients: Gradients) {
        struct Sum<'a>(Gradients, &'a mut BTreeMap<String, Tensor<1>>);
        impl Look for Sum<'_> {
            fn look<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
                if let Some(gradient) = param.val().grad_remove(&mut self.0) {
                    let gradient = gradient.reshape([-1]);
                    let sum = match self.1.remove(&name) {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    };
                    self.1.insert(name, sum);
                }
            }
        }
        state::visit(network, Sum(gradients, &mut self.sums));
        self.batches += 1;
    }

    /// The norm of the mean gradient over all parameters together.
    fn norm(&mut self) -> f64 {
        let mut squares = 0.0;
        let mut elsewhere = Vec::new();
        for (name, sum) in take(&mut self.sums) {
            let sum = if on_host(&sum) {
                let (device, data) = (sum.device(), sum.into_data());
                squares += sum_of_squares(Isa::best(), data.as_slice().expect("on_host takes f32 only"));
                Tensor::from_data(data, &device)
            } else {
                elsewhere.push((sum.clone() * sum.clone()).sum());
                sum
            };
            self.sums.insert(name, sum);
        }
        if !elsewhere.is_empty() {
            squares += Tensor::cat(elsewhere, 0).sum().into_scalar::<f64>();
        }
        squares.sqrt() / self.batches as f64
    }
}

/// The optimizer: its constants, the number of steps it took, and both means of every parameter.
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    means: BTreeMap<String, Means>,
}

/// m and v of one parameter, as vectors.
struct Means {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// An optimizer that has taken no step.
    ///
    /// # Errors
    /// When a constant is out of its range.
    pub fn new(config: AdamWConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { config, steps: 0, means: BTreeMap::new() })
    }

    /// Its constants.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The network after one step of learning rate `rate`, and the norm of the mean gradient before clipping. The average
    /// takes in the new weights, as [`Ema::update`] does for that many samples a step.
    ///
    /// If that norm is not finite the network comes back untouched and no step was taken; it is the caller's to decide
    /// whether to go on. A parameter without a gradient (a frozen one) stays as it is.
    pub fn step<M: Module>(
        &mut self,
        network: M,
        mut gradients: Accumulated,
        rate: f64,
        mut average: Option<(&mut Ema, usize)>,
    ) -> (M, f64) {
        let norm = gradients.norm();
        if !norm.is_finite() {
            return (network, norm);
        }
        self.steps += 1;
        let update =
            self.update(rate, self.config.clip.map_or(1.0, |clip| (clip / norm).min(1.0)) / gradients.batches as f64);
        let part = average.as_ref().map_or(0.0, |(ema, batch)| ema.part(self.steps, *batch));
        let network = state::map(network, |name, weight| {
            let averaged = average.as_mut().map(|(ema, _)| ema.value(name));
            let Some(gradient) = gradients.sums.remove(name) else {
                if let Some(averaged) = averaged {
                    take_in(averaged, weight.clone(), part);
                }
                return weight;
            };
            let means = self
                .means
                .remove(name)
                .unwrap_or_else(|| Means { first: weight.zeros_like(), second: weight.zeros_like() });
            let (weight, means) = if on_host(&weight) {
                update_slices(&update, weight, gradient, means, averaged, part)
            } else {
                let (weight, means) = update_tensors(&update, weight, gradient, means);
                if let Some(averaged) = averaged {
                    take_in(averaged, weight.clone(), part);
                }
                (weight, means)
            };
            self.means.insert(name.to_owned(), means);
            weight
        });
        (network, norm)
    }

    /// The numbers of this step, for gradients to be multiplied by `gradient`.
    fn update(&self, rate: f64, gradient: f64) -> Update {
        let AdamWConfig { kind, beta1, beta2, weight_decay, epsilon, .. } = self.config;
        let steps = self.steps as f64;
        let correction = |beta: f64| 1.0 - beta.powf(steps);
        let rate_of_mean = rate / correction(beta1);
        let (first, second, epsilon) = match kind {
            OptimizerKind::Adamw => (rate_of_mean, correction(beta2).powf(-0.5), epsilon),
            OptimizerKind::Radam => {
                let whole = 2.0 / (1.0 - beta2) - 1.0;
                let now = whole - 2.0 * steps * beta2.powf(steps) / correction(beta2);
                if now > 5.0 {
                    let ratio = ((now - 4.0) * (now - 2.0) * whole) / ((whole - 4.0) * (whole - 2.0) * now);
                    (rate_of_mean * (ratio * correction(beta2)).sqrt(), 1.0, epsilon)
                } else {
                    (rate_of_mean, 0.0, 1.0)
                }
            }
        };
        Update { gradient, keep: 1.0 - rate * weight_decay, beta1, beta2, first, second, epsilon }
    }

    /// Everything that changes: `step`, and `m.NAME` and `v.NAME` as vectors for every parameter that was ever updated.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::from([("step".to_owned(), TensorData::new(vec![self.steps], [1]))]);
        for (name, means) in &self.means {
            tensors.insert(format!("m.{name}"), means.first.to_data());
            tensors.insert(format!("v.{name}"), means.second.to_data());
        }
        tensors
    }

    /// An optimizer of `network` that goes on, bit for bit, from where [`tensors`](Self::tensors) were taken.
    ///
    /// # Errors
    /// When a constant is out of its range, or a tensor is missing, of another size, or not one of this network.
    pub fn restore<M: Module>(config: AdamWConfig, network: &M, tensors: &Tensors) -> Result<Self> {
        let step = tensors.get("step").and_then(|step| step.as_slice::<u64>().ok()?.first().copied());
        let steps =
            step.ok_or_else(|| Error::of(Kind::Mismatch, "the optimizer state has no step: it is not one of AdamW"))?;
        let own = state::flat(network);
        let mut means = BTreeMap::new();
        for key in tensors.keys().filter(|key| *key != "step") {
            let name = key.strip_prefix("m.").or_else(|| key.strip_prefix("v."));
            let Some((name, (_, weight))) = name.and_then(|name| own.get_key_value(name)) else {
                return Err(Error::of(
                    Kind::Mismatch,
                    format!("the optimizer state has {key}, which is no parameter of this network"),
                ));
            };
            let mean = |prefix: &str| {
                let key = format!("{prefix}.{name}");
                let data = tensors.get(&key);
                let data = data.ok_or_else(|| {
                    Error::of(Kind::Mismatch, format!("the optimizer state has {name} but lacks {key}"))
                })?;
                let count = weight.dims()[0];
                ensure!(
                    Kind::Mismatch,
                    data.num_elements() == count && data.dtype().is_float(),
                    "the optimizer state has {} values for {key} of {count} values",
                    data.num_elements()
                );
                Ok(state::vector_like(data.clone(), weight))
            };
            means.insert(name.clone(), Means { first: mean("m")?, second: mean("v")? });
        }
        Ok(Self { steps, means, ..Self::new(config)? })
    }
}

/// Whether a vector can be taken to slices of f32 and back without moving it.
fn on_host(vector: &Tensor<1>) -> bool {
    vector.dtype() == DType::F32 && state::on_host(&vector.device())
}

/// One step of one parameter, and of its average, as one pass over slices of f32.
fn update_slices(
    update: &Update,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    means: Means,
    average: Option<&mut Tensor<1>>,
    part: f64,
) -> (Tensor<1>, Means) {
    let device = weight.device();
    let [mut w, mut m, mut v] = [weight, means.first, means.second].map(Tensor::into_data);
    let g = gradient.into_data();
    // Taken out, so that it is the only handle and is changed in place.
    let mut taken = average.map(|average| {
        let data = std::mem::replace(average, Tensor::empty([0], &device)).into_data();
        (average, data)
    });
    let why = "on_host takes f32 only";
    let slices = Slices {
        w: w.as_mut_slice().expect(why),
        g: g.as_slice().expect(why),
        m: m.as_mut_slice().expect(why),
        v: v.as_mut_slice().expect(why),
        average: taken.as_mut().map(|(_, data)| (data.as_mut_slice().expect(why), part as f32)),
    };
    adam(Isa::best(), update, slices);
    if let Some((average, data)) = taken {
        *average = Tensor::from_data(data, &device);
    }
    let [w, first, second] = [w, m, v].map(|data| Tensor::from_data(data, &device));
    (w, Means { first, second })
}

/// One step of one parameter as operations on tensors of any device and float type.
fn update_tensors(update: &Update, weight: Tensor<1>, gradient: Tensor<1>, means: Means) -> (Tensor<1>, Means) {
    let g = gradient * update.gradient;
    let first = means.first * update.beta1 + g.clone() * (1.0 - update.beta1);
    let second = means.second * update.beta2 + g.clone() * g * (1.0 - update.beta2);
    let root = second.clone().sqrt() * update.second + update.epsilon;
    (weight * update.keep - first.clone() * update.first / root, Means { first, second })
}
