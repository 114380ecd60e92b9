//! Linear multistep methods on ε̂: a step along a polynomial through the estimates of noise at the last levels.
//!
//! In x̄ = x/α and σ̄ = σ/α the probability-flow ODE is dx̄ = ε̂ dσ̄, so a step is x̄_s = x̄_t + Σ_j w_j ε̂_j, and the methods differ in w:
//!
//! | sampler | w_j |
//! |---|---|
//! | [`Lms`] | ∫ ℓ_j dσ̄, ℓ_j the Lagrange polynomials in σ̄: Adams–Bashforth for steps of any length (k-diffusion's `lms`; ρAB-DEIS) |
//! | [`Deis`] | ∫ ℓ_j dσ̄, ℓ_j the Lagrange polynomials in t (Zhang & Chen 2023, "DEIS", eq. 15, tAB) |
//! | [`Ipndm`] | (σ̄_s − σ̄_t) a_j, a the Adams–Bashforth weights of equal steps (Zhang & Chen 2023, section 3.2) |
//! | [`Pndm`] | the same, after three steps of four evaluations each (Liu et al. 2022, "PNDM", eq. 9 to 13) |
//! | [`Plms`] | the same, after one step of two evaluations, the trapezoidal rule: latent diffusion's, with which Stable Diffusion came |
//!
//! One evaluation per step. The first steps are of as high an order as there are estimates, so that halving all steps divides the error
//! by 4 whatever the order from 2 on; a higher one makes it smaller. (Weights of equal steps are of second order too where steps are not
//! equal.) The step to σ = 0 is taken along ε̂ alone, which gives D; `lms` integrates up to it.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler, eval::transfer};
use crate::{Kernel, Result, ensure};

/// Σ_j w_j ε̂_j, the newest first.
fn weighted(weights: impl IntoIterator<Item = f64>, eps: &[Tensor<2>]) -> Tensor<2> {
    let terms = weights.into_iter().zip(eps).map(|(weight, eps)| eps.clone().mul_scalar(weight));
    terms.reduce(|sum, term| sum + term).expect("there is the estimate of this step")
}

/// The estimates of noise of the last levels, at most `order`, and of this one: levels and estimates, the newest first.
fn estimates(eps: Tensor<2>, from: &Kernel, past: &mut Past, order: u32) -> (Vec<Kernel>, Vec<Tensor<2>>) {
    let earlier = (0..order as usize - 1).map_while(|back| past.step(back).cloned());
    let all = std::iter::once((*from, eps.clone())).chain(earlier).unzip();
    past.remember(*from, eps);
    all
}

/// x̄_t + Σ_j w_j ε̂_j as a batch at level `to`.
fn along(x: Tensor<2>, change: Tensor<2>, from: &Kernel, to: &Kernel) -> Tensor<2> {
    x.mul_scalar(to.alpha / from.alpha) + change.mul_scalar(to.alpha)
}

/// The Lagrange polynomial of the place `of`, which is 1 there and 0 at the others.
fn lagrange(places: &[f64], of: usize, at: f64) -> f64 {
    let others = places.iter().enumerate().filter(|(other, _)| *other != of);
    others.map(|(_, place)| (at - place) / (places[of] - place)).product()
}

/// Nodes and weights of Gauss–Legendre quadrature on [−1, 1]: exact for polynomials of degree 2n − 1.
fn gauss_legendre<const N: usize>() -> [(f64, f64); N] {
    std::array::from_fn(|i| {
        // Newton's method on the Legendre polynomial from a known approximation of its root (Abramowitz & Stegun 1964, 22.16.6).
        let mut node = (std::f64::consts::PI * (i as f64 + 0.75) / (N as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..8 {
            let (mut before, mut value) = (1.0, node);
            for k in 2..=N {
                let k = k as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * node * value - (k - 1.0) * before) / k);
            }
            slope = N as f64 * (node * value - before) / (node * node - 1.0);
            node -= value / slope;
        }
        (node, 2.0 / ((1.0 - node * node) * slope * slope))
    })
}

/// ∫ ℓ_j dσ̄ over a step between two levels, for polynomials in σ̄.
fn noise_weights(levels: &[Kernel], to: &Kernel) -> Vec<f64> {
    let places: Vec<f64> = levels.iter().map(Kernel::noise_to_signal).collect();
    let (from, to) = (places[0], to.noise_to_signal());
    let (middle, half) = (0.5 * (to + from), 0.5 * (to - from));
    // Exact: the polynomials are cubic at most.
    let nodes = gauss_legendre::<2>();
    let integral =
        |of| nodes.iter().map(|(node, weight)| weight * half * lagrange(&places, of, middle + half * node)).sum();
    (0..places.len()).map(integral).collect()
}

/// ∫ ℓ_j dσ̄ over a step between two noisy levels, for polynomials in t.
fn time_weights(levels: &[Kernel], to: &Kernel, eval: &Eval) -> Vec<f64> {
    let places: Vec<f64> = levels.iter().map(|at| at.t).collect();
    // In ln σ̄ the integrand is smooth down to the cleanest levels.
    let [from, to] = [&levels[0], to].map(|at| at.noise_to_signal().ln());
    let (middle, half) = (0.5 * (to + from), 0.5 * (to - from));
    let nodes = gauss_legendre::<32>().map(|(node, weight)| {
        let noise = (middle + half * node).exp();
        (eval.kernel_at_noise(noise).t, weight * half * noise)
    });
    let integral = |of| nodes.iter().map(|(t, weight)| weight * lagrange(&places, of, *t)).sum();
    (0..places.len()).map(integral).collect()
}

/// Linear multistep: Adams–Bashforth in σ/α. Default: order 4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Lms {
    /// How many estimates a step is made of, 1 to 4; default 4.
    pub order: u32,
}

impl Default for Lms {
    fn default() -> Self {
        Self { order: 4 }
    }
}

impl Sampler for Lms {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let (levels, eps) = estimates(eval.eps(&x, from)?, from, past, self.order);
        let change = weighted(noise_weights(&levels, to), &eps);
        Ok(along(x, change, from, to))
    }

    fn order(&self) -> Option<u32> {
        Some(self.order.min(2))
    }

    fn check(&self) -> Result<()> {
        check_order("lms", self.order)
    }
}

/// DEIS: polynomials in t, integrated in σ/α. Default: order 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Deis {
    /// How many estimates a step is made of, 1 to 4; default 3. Their tABr has r + 1.
    pub order: u32,
}

impl Default for Deis {
    fn default() -> Self {
        Self { order: 3 }
    }
}

impl Sampler for Deis {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let eps = eval.eps(&x, from)?;
        if to.is_clean() {
            return Ok(transfer(x, eps, from, to));
        }
        let (levels, eps) = estimates(eps, from, past, self.order);
        let change = weighted(time_weights(&levels, to, eval), &eps);
        Ok(along(x, change, from, to))
    }

    fn order(&self) -> Option<u32> {
        Some(self.order.min(2))
    }

    fn check(&self) -> Result<()> {
        check_order("deis", self.order)
    }
}

/// Adams–Bashforth weights of equal steps, the newest first, by the number of estimates.
const EQUAL_STEPS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// A step by the weights of equal steps.
fn equal_step(x: Tensor<2>, eps: Tensor<2>, from: &Kernel, to: &Kernel, past: &mut Past, order: u32) -> Tensor<2> {
    let (_, all) = estimates(eps, from, past, order);
    transfer(x, weighted(EQUAL_STEPS[all.len() - 1].iter().copied(), &all), from, to)
}

/// iPNDM: PNDM without its start. Default: order 4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ipndm {
    /// How many estimates a step is made of, 1 to 4; default 4.
    pub order: u32,
}

impl Default for Ipndm {
    fn default() -> Self {
        Self { order: 4 }
    }
}

impl Sampler for Ipndm {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let eps = eval.eps(&x, from)?;
        Ok(if to.is_clean() { transfer(x, eps, from, to) } else { equal_step(x, eps, from, to, past, self.order) })
    }

    fn order(&self) -> Option<u32> {
        Some(self.order.min(2))
    }

    fn check(&self) -> Result<()> {
        check_order("ipndm", self.order)
    }
}

/// PNDM, started by three pseudo Runge–Kutta steps of four evaluations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Pndm {}

impl Sampler for Pndm {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let first = eval.eps(&x, from)?;
        if to.is_clean() {
            return Ok(transfer(x, first, from, to));
        }
        if past.step(Past::DEPTH - 1).is_some() {
            return Ok(equal_step(x, first, from, to, past, 4));
        }
        past.remember(*from, first.clone());
        let middle = eval.kernel(0.5 * (from.t + to.t));
        let mut sum = first.clone();
        let mut latest = first;
        for (place, weight) in [(&middle, 2.0), (&middle, 2.0), (to, 1.0)] {
            latest = eval.eps(&transfer(x.clone(), latest, from, place), place)?;
            sum = sum + latest.clone().mul_scalar(weight);
        }
        Ok(transfer(x, sum.div_scalar(6.0), from, to))
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}

/// PLMS, started by one step of two evaluations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Plms {}

impl Sampler for Plms {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let eps = eval.eps(&x, from)?;
        if to.is_clean() {
            return Ok(transfer(x, eps, from, to));
        }
        if past.step(0).is_some() {
            return Ok(equal_step(x, eps, from, to, past, 4));
        }
        past.remember(*from, eps.clone());
        let end = eval.eps(&transfer(x.clone(), eps.clone(), from, to), to)?;
        Ok(transfer(x, (eps + end).mul_scalar(0.5), from, to))
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}

fn check_order(sampler: &str, order: u32) -> Result<()> {
    ensure!((1..=4).contains(&order), "sampler {sampler}: order = {order} must lie between 1 and 4");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadrature_is_exact_for_polynomials() {
        // ∫ x^k over [−1, 1] is 2/(k + 1) for even k; 32 nodes are exact to degree 63.
        for k in [0, 2, 10, 62] {
            let integral: f64 = gauss_legendre::<32>().iter().map(|(node, weight)| weight * node.powi(k)).sum();
            assert!((integral - 2.0 / f64::from(k + 1)).abs() < 1e-14, "{k}: {integral}");
        }
    }

    #[test]
    fn weights_in_noise_are_adams_bashforths_where_steps_are_equal() {
        let level = |sigma| Kernel { t: sigma, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 };
        for weights in EQUAL_STEPS {
            let levels: Vec<Kernel> = (0..weights.len()).map(|back| level(5.0 + 0.25 * back as f64)).collect();
            for (ours, theirs) in noise_weights(&levels, &level(4.75)).iter().zip(weights) {
                // Rounding of numbers of size 1.
                assert!((ours + 0.25 * theirs).abs() < 1e-13, "{ours} for {theirs}");
            }
        }
    }
}
