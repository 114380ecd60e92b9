//! What guidance did to an estimate, kept beside it: for wrappers and samplers that treat guidance by a rule that the guided mean alone
//! does not tell.

use burn::tensor::Tensor;

use crate::{Dual, Estimate, Factors, Result, ensure, rows};

/// What guidance did to an estimate; the default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Guided {
    /// The mean without any guidance, `[rows, dim]`: of the model alone, told the condition of the rows. None where it is the mean.
    pub unguided: Option<Dual<2>>,
    /// The gradient that moved the mean, where one did.
    pub moved: Option<Moved>,
    /// The mean that the noise ε̂ = (x − αD)/σ of a step is of, `[rows, dim]`, where it is another: a sampler that knows no two of
    /// them must refuse, and [`Estimate::into_mean`] does.
    pub noise: Option<Tensor<2>>,
}

/// A mean that was moved by a gradient: mean = from + (σ²/α) gradient.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The mean before, `[rows, dim]`.
    pub from: Tensor<2>,
    /// scale ∇ ln p(y given x_t), `[rows, dim]`, of all guidance by gradients together.
    pub gradient: Tensor<2>,
}

impl Moved {
    /// As much of every row.
    fn linear(self, f: &impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self { from: f(self.from), gradient: f(self.gradient) }
    }
}

impl Estimate {
    /// The mean, where the noise is of it too: for steps that know one estimate only.
    ///
    /// # Errors
    /// Guidance that takes mean and noise of two estimates, such as CFG++.
    pub fn into_mean(self) -> Result<Dual<2>> {
        ensure!(
            Kind::Unsupported,
            self.guided.noise.is_none(),
            "wrapper cfg_pp takes the noise from another estimate than the sample, which the samplers ddim and euler_ancestral alone \
             know: use one of them, or the wrapper classifier_free"
        );
        Ok(self.mean)
    }

    /// The result of a linear function of rows, of everything.
    pub(crate) fn linear(self, f: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        let Self { mean, variance, guided } = self;
        Self {
            mean: mean.linear(&f),
            variance: variance.map(&f),
            guided: Guided {
                unguided: guided.unguided.map(|mean| mean.linear(&f)),
                moved: guided.moved.map(|moved| moved.linear(&f)),
                noise: guided.noise.map(&f),
            },
        }
    }

    /// Another mean by a function of it: the one that is guided, and those it would be without guidance. The noise stays.
    ///
    /// # Errors
    /// Those of the function.
    pub fn reshape(self, f: impl Fn(Dual<2>) -> Result<Dual<2>>) -> Result<Self> {
        let Self { mean, variance, guided } = self;
        let moved = guided.moved.map(|moved| Ok(Moved { from: f(moved.from.into())?.value, ..moved }));
        let unguided = guided.unguided.map(&f).transpose()?;
        Ok(Self { mean: f(mean)?, variance, guided: Guided { unguided, moved: moved.transpose()?, ..guided } })
    }

    /// The mean without any guidance.
    pub fn unguided(&self) -> &Dual<2> {
        self.guided.unguided.as_ref().unwrap_or(&self.mean)
    }

    /// What moved the mean, which may be nothing.
    fn moved(&self) -> Moved {
        let still = || Moved { from: self.mean.value.clone(), gradient: self.mean.value.zeros_like() };
        self.guided.moved.clone().unwrap_or_else(still)
    }

    /// With the mean moved by (σ²/α) gradient more, given that and the gradient.
    pub(super) fn moved_by(self, shift: Dual<2>, gradient: Tensor<2>) -> Self {
        let before = self.moved();
        let guided = Guided {
            unguided: Some(self.unguided().clone()),
            moved: Some(Moved { from: before.from, gradient: before.gradient + gradient }),
            ..self.guided
        };
        Self { mean: self.mean + shift, variance: self.variance, guided }
    }

    /// from + scale (to − from), each row by its factor; the rest is that of `to`.
    pub(super) fn extrapolate(from: Self, to: Self, scale: &Factors) -> Self {
        let rest = match scale {
            Factors::Same(scale) => Factors::Same(1.0 - scale),
            Factors::Each(scales) => Factors::Each(scales.iter().map(|scale| 1.0 - scale).collect()),
        };
        let moved = (from.guided.moved.is_some() || to.guided.moved.is_some()).then(|| {
            let between = |from: Tensor<2>, to: Tensor<2>| rows::scale(from, &rest) + rows::scale(to, scale);
            let (from, to) = (from.moved(), to.moved());
            Moved { from: between(from.from, to.from), gradient: between(from.gradient, to.gradient) }
        });
        let guided = Guided { unguided: Some(to.unguided().clone()), moved, noise: to.guided.noise };
        Self { mean: from.mean.scale(&rest) + to.mean.scale(scale), variance: to.variance, guided }
    }

    /// The rows of two estimates one after the other; a learned variance where both have it.
    pub(super) fn then(self, other: Self) -> Self {
        let stacked = |a: Tensor<2>, b: Tensor<2>| Tensor::cat(vec![a, b], 0);
        let unguided = (self.guided.unguided.is_some() || other.guided.unguided.is_some())
            .then(|| Dual::cat(vec![self.unguided().clone(), other.unguided().clone()], 0));
        let moved = (self.guided.moved.is_some() || other.guided.moved.is_some()).then(|| {
            let (a, b) = (self.moved(), other.moved());
            Moved { from: stacked(a.from, b.from), gradient: stacked(a.gradient, b.gradient) }
        });
        let noise = (self.guided.noise.is_some() || other.guided.noise.is_some()).then(|| {
            let of = |one: &Self| one.guided.noise.clone().unwrap_or_else(|| one.mean.value.clone());
            stacked(of(&self), of(&other))
        });
        let variance = self.variance.zip(other.variance).map(|(a, b)| stacked(a, b));
        let guided = Guided { unguided, moved, noise };
        Self { mean: Dual::cat(vec![self.mean, other.mean], 0), variance, guided }
    }
}
