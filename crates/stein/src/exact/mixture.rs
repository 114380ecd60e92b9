//! A mixture of Gaussians: p_t(x) = Σ_k w_k N(x; αm_k, α²Σ_k + σ²), and the denoiser is the components' Wiener filters
//! weighted by their responsibilities.
//!
//! The multi-modal truth: 1/5 N((−5,−5), I) + 4/5 N((5,5), I) is the example of Song & Ermon 2019, section 3.2.

use serde::{Deserialize, Serialize};

use super::{Exact, component::Component, in_double, log_sum_exp};
use crate::{
    Classified, Classifier, Condition, Denoiser, Dual, Error, Estimate, Kernel, Keys, Levels, Purpose, Result, ensure,
    rows,
};

/// A mixture as it stands in a JSON file: weights, means, and either standard deviations or covariances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureFile {
    /// One weight per component; they are normalized to sum to one.
    pub weights: Vec<f64>,
    /// One mean per component.
    pub means: Vec<Vec<f64>>,
    /// One standard deviation per component, for isotropic components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stds: Option<Vec<f64>>,
    /// One covariance per component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covs: Option<Vec<Vec<Vec<f64>>>>,
}

/// x_0 ~ Σ_k w_k N(m_k, Σ_k). A class condition picks one component by its index.
#[derive(Debug, Clone)]
pub struct GaussianMixture {
    pub(super) weights: Vec<f64>,
    pub(super) components: Vec<Component>,
}

impl TryFrom<MixtureFile> for GaussianMixture {
    type Error = Error;

    fn try_from(file: MixtureFile) -> Result<Self> {
        let MixtureFile { weights, means, stds, covs } = file;
        let sizes = |what: &str, len: usize| -> Result<()> {
            ensure!(
                len == means.len(),
                "the mixture has {} means and {len} {what}: give one per component",
                means.len()
            );
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

    pub(super) fn from_components(mut weights: Vec<f64>, components: Vec<Component>) -> Result<Self> {
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

    /// How much each component is responsible for each row, `[rows, components]`: the one of its class alone where a row has one.
    fn responsibilities(&self, in_axes: &[Dual<2>], at: Levels, class: &[Option<u32>]) -> Dual<2> {
        let like = &in_axes[0].value;
        let known = class.iter().flat_map(|class| {
            (0..self.len()).map(move |k| f64::from(u8::from(class.is_some_and(|class| class as usize == k))))
        });
        let known = rows::matrix(known.collect(), self.len(), like);
        if class.iter().all(Option::is_some) {
            return known.into();
        }
        let free: Vec<f64> = class.iter().map(|class| f64::from(u8::from(class.is_none()))).collect();
        let free = rows::column(&free, like);
        let all = self.log_shares(in_axes, at).softmax();
        all.linear(|weights| weights * free.clone()).shift(|weights| weights + known)
    }

    /// ln of weight times density of each component at each row, up to a constant of the row, `[rows, components]`.
    fn log_shares(&self, in_axes: &[Dual<2>], at: Levels) -> Dual<2> {
        let parts = self.components.iter().zip(in_axes).zip(&self.weights);
        let logs = parts.map(|((component, in_axes), weight)| {
            component.log_densities(in_axes.clone(), at).shift(|log| log.add_scalar(weight.ln()))
        });
        Dual::cat(logs.collect(), 1)
    }

    /// The rows along the axes of each component.
    fn in_axes(&self, x: &Dual<2>, at: Levels) -> Vec<Dual<2>> {
        self.components.iter().map(|one| one.axes_of(x.clone(), at)).collect()
    }
}

/// The exact p(k | x_t): a component's share of the density of its level. The features are the logits.
impl Classifier for GaussianMixture {
    fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
        let logits = in_double(x, self.dim(), |x| Ok(self.log_shares(&self.in_axes(&x, at), at)))?.mean;
        Ok(Classified { features: logits.clone(), logits })
    }
}

impl Denoiser for GaussianMixture {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let class = given.class_rows(x.dims()[0], self.len())?;
        in_double(x, self.dim(), |x| {
            let in_axes = self.in_axes(&x, at);
            let weights = self.responsibilities(&in_axes, at, &class);
            let terms = self.components.iter().zip(in_axes).enumerate().map(|(k, (component, in_axes))| {
                let weight = weights.clone().linear(|weights| weights.narrow(1, k, 1).expand(x.dims()));
                weight * component.denoised(in_axes, at)
            });
            Ok(terms.reduce(|sum, term| sum + term).expect("a mixture has a component"))
        })
    }
}

impl Exact for GaussianMixture {
    fn dim(&self) -> usize {
        self.components[0].dim()
    }

    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64> {
        let log = |x: &[f64]| {
            let terms = self.weights.iter().zip(&self.components).map(|(w, c)| w.ln() + c.log_density(x, at));
            log_sum_exp(&terms.collect::<Vec<_>>())
        };
        x.chunks_exact(self.dim()).map(log).collect()
    }

    fn draw_clean(&self, keys: &Keys) -> Vec<f64> {
        let dim = self.dim();
        let eps = keys.normal(Purpose::Model, 1, dim);
        let which = keys.uniform(Purpose::Model, 0);
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
