//! A mixture of Gaussians: p_t(x) = Σ_k w_k N(x; αm_k, α²Σ_k + σ²), and the denoiser is the components' Wiener filters
//! weighted by their responsibilities.
//!
//! The multi-modal truth: 1/5 N((−5,−5), I) + 4/5 N((5,5), I) is the example of Song & Ermon 2019, section 3.2.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Exact, component::Component, map_rows, normalise};
use crate::{Condition, Denoiser, Error, Kernel, Result, ensure, noise, noise::Purpose};

/// A mixture as it stands in a JSON file: weights, means, and either standard deviations or covariances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureFile {
    /// One weight a component; they are normalised to sum to one.
    pub weights: Vec<f64>,
    /// One mean a component.
    pub means: Vec<Vec<f64>>,
    /// One standard deviation a component, for isotropic components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stds: Option<Vec<f64>>,
    /// One covariance a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covs: Option<Vec<Vec<Vec<f64>>>>,
}

/// x_0 ~ Σ_k w_k N(m_k, Σ_k). A class condition picks one component by its index.
#[derive(Debug, Clone)]
pub struct GaussianMixture {
    weights: Vec<f64>,
    components: Vec<Component>,
}

impl TryFrom<MixtureFile> for GaussianMixture {
    type Error = Error;

    fn try_from(file: MixtureFile) -> Result<Self> {
        let MixtureFile { weights, means, stds, covs } = file;
        let sizes = |what: &str, len: usize| -> Result<()> {
            ensure!(len == means.len(), "the mixture has {} means and {len} {what}: give one a component", means.len());
            Ok(())
        };
        sizes("weights", weights.len())?;
        let components: Vec<Component> = match (stds, covs) {
            (Some(stds), None) => {
                sizes("stds", stds.len())?;
                means.into_iter().zip(stds).map(|(mean, std)| Component::isotropic(mean, std)).collect::<Result<_>>()?
            }
            (None, Some(covs)) => {
                sizes("covs", covs.len())?;
                means.into_iter().zip(covs).map(|(mean, cov)| Component::full(mean, &cov)).collect::<Result<_>>()?
            }
            _ => return Err(Error::new("a mixture needs either `stds` (isotropic) or `covs` (full), and not both")),
        };
        Self::from_components(weights, components)
    }
}

impl GaussianMixture {
    /// Isotropic components: weights `[k]`, means `[k][dim]`, standard deviations `[k]`.
    ///
    /// # Errors
    /// Lengths that do not fit, weights that are negative or all 0, numbers that are not finite.
    pub fn isotropic(weights: Vec<f64>, means: Vec<Vec<f64>>, stds: Vec<f64>) -> Result<Self> {
        MixtureFile { weights, means, stds: Some(stds), covs: None }.try_into()
    }

    /// Components of any covariance `[k][dim][dim]`.
    ///
    /// # Errors
    /// As [`isotropic`](Self::isotropic), and matrices that are no covariances.
    pub fn full(weights: Vec<f64>, means: Vec<Vec<f64>>, covs: Vec<Vec<Vec<f64>>>) -> Result<Self> {
        MixtureFile { weights, means, stds: None, covs: Some(covs) }.try_into()
    }

    fn from_components(mut weights: Vec<f64>, components: Vec<Component>) -> Result<Self> {
        let Some(first) = components.first() else { return Err(Error::new("the mixture has no components")) };
        ensure!(
            components.iter().all(|component| component.dim() == first.dim()),
            "the mixture's means differ in length: all components live in the same space"
        );
        let total: f64 = weights.iter().sum();
        ensure!(
            weights.iter().all(|&w| w >= 0.0) && total > 0.0 && total.is_finite(),
            "the mixture's weights must be at least 0, finite, and not all 0"
        );
        weights.iter_mut().for_each(|weight| *weight /= total);
        Ok(Self { weights, components })
    }

    /// The mixture of the NCSN paper: 1/5 N((−5,−5), I) + 4/5 N((5,5), I).
    pub fn ncsn() -> Self {
        Self::isotropic(vec![0.2, 0.8], vec![vec![-5.0, -5.0], vec![5.0, 5.0]], vec![1.0, 1.0])
            .expect("two components of two dimensions")
    }

    /// Weight, mean `[dim]` and principal variances `[dim]` of every component.
    pub fn components(&self) -> impl Iterator<Item = (f64, &[f64], &[f64])> {
        self.weights.iter().zip(&self.components).map(|(&w, c)| (w, c.mean.as_slice(), c.variances.as_slice()))
    }

    /// Number of components.
    pub fn len(&self) -> usize {
        self.components.len()
    }

    /// Never: a mixture has a component.
    pub fn is_empty(&self) -> bool {
        self.components.is_empty()
    }

    /// Responsibilities of one row and its log-density.
    fn posterior(&self, x: &[f64], at: &Kernel) -> (Vec<f64>, f64) {
        let mut weights: Vec<f64> =
            self.weights.iter().zip(&self.components).map(|(w, c)| w.ln() + c.log_density(x, at)).collect();
        let log_density = normalise(&mut weights);
        (weights, log_density)
    }
}

impl Denoiser for GaussianMixture {
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        given.check(at.len())?;
        if let Some(class) = &given.class {
            let known = self.len();
            let beyond = class.iter().find(|&&class| class >= known);
            ensure!(
                beyond.is_none(),
                "class {} was asked of a mixture of {known} components: its classes are 0 to {}",
                beyond.copied().unwrap_or_default(),
                known - 1
            );
        }
        map_rows(&x, self.dim(), at.len(), |x, i, out| match &given.class {
            Some(class) => self.components[class[i]].add_denoised(x, &at[i], 1.0, out),
            None => {
                for (component, weight) in self.components.iter().zip(self.posterior(x, &at[i]).0) {
                    component.add_denoised(x, &at[i], weight, out);
                }
            }
        })
    }
}

impl Exact for GaussianMixture {
    fn dim(&self) -> usize {
        self.components[0].dim()
    }

    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64> {
        x.chunks_exact(self.dim()).map(|x| self.posterior(x, at).1).collect()
    }

    fn draw_clean(&self, seed: u64, samples: &[u64]) -> Vec<f64> {
        let dim = self.dim();
        let eps = noise::normal(seed, samples, Purpose::Model, 1, dim);
        let which = noise::uniform(seed, samples, Purpose::Model, 0);
        let mut out = vec![0.0; eps.len()];
        for ((out, eps), mut left) in out.chunks_exact_mut(dim).zip(eps.chunks_exact(dim)).zip(which) {
            let chosen = self.weights.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            // Rounding of the weights can leave a sliver at 1: it belongs to the last component.
            self.components[chosen.unwrap_or(self.len() - 1)].place(eps, out);
        }
        out
    }

    fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim()];
        for (weight, component) in self.weights.iter().zip(&self.components) {
            mean.iter_mut().zip(&component.mean).for_each(|(mean, m)| *mean += weight * m);
        }
        mean
    }

    fn covariance(&self) -> Vec<f64> {
        let (mean, mut out) = (self.mean(), vec![0.0; self.dim().pow(2)]);
        for (weight, component) in self.weights.iter().zip(&self.components) {
            component.add_second_moment(&mean, *weight, &mut out);
        }
        out
    }
}
