//! Replacement (Song et al. 2021, "Score-Based Generative Modeling through SDEs", its appendix on imputation and on colors, which
//! does it in an orthonormal basis; Song, Shen, Xing & Ermon 2022, arXiv:2111.08005, on medical images): an unconditional
//! predictor–corrector sampler whose measured coordinates are put at every level to what the forward process makes of the
//! measurement.
//!
//! The [coordinates](super::known) are those of the operator's singular value decomposition, held at the levels noisier than the
//! measurement and free at cleaner ones. What is held follows one path of noise per sample, where the published code draws it anew at
//! every move: x_t and x_s then belong to one draw of the forward process, as the step between takes for granted, and measurements
//! without noise are met exactly. That code also adds all of the level's noise to a measurement that has some already.
//!
//! The step alone errs: it estimates what is not measured from a noisy version of what is, and what later levels say of it comes
//! too late (Trippe et al. 2023, "Diffusion probabilistic modeling of protein backbones in 3D for the motif-scaffolding problem").
//! The corrector's Langevin steps repair that. As they grow in number, and `snr` falls, every level is drawn from p(x_s | y), and
//! the samples are draws of the posterior whatever the prior, of linear measurements with Gaussian noise or none. Where all of x_0
//! is measured with the same noise the step is exact by itself, in the limit of many.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, known::Known};
use crate::{
    Eval, Kernel, Past, Request, Result,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
};

/// Replacement of what is measured, with Langevin steps as a corrector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Replacement {
    /// Langevin steps at every level; at most 1,000,000, default 10. Published: 1, on 1000 to 2000 levels; ten larger ones on 100
    /// levels do as much.
    pub corrector_steps: usize,
    /// Signal-to-noise ratio r of such a step, whose size is 2 (r σ)²; positive and at most 0.7, default 0.3. Published: 0.16 on
    /// CIFAR-10, 0.075 on pictures of 256 × 256.
    pub snr: f64,
    /// η of the step between levels, which is DDIM's, from 0 to 1; default 1, ancestral sampling.
    pub eta: f64,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { corrector_steps: 10, snr: 0.3, eta: 1.0 }
    }
}

impl Method for Replacement {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method replacement: corrector_steps", self.corrector_steps, ..=MOST_STEPS)?;
        // A step of σ², which 2 r² reaches at 0.7, is Newton's; beyond twice that Langevin dynamics diverges.
        ensure_within("method replacement: snr", self.snr, above(0.0, 0.7))?;
        ensure_within("method replacement: eta", self.eta, 0.0..=1.0)?;
        problem.linear_gaussian("replacement").map(|_| ())
    }

    fn law(&self) -> Law {
        if self.corrector_steps > 0 { Law::Posterior } else { Law::Near }
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, known: Known::of(problem, "replacement")? }))
    }
}

struct Run<'a> {
    of: &'a Replacement,
    known: Known,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let mut x = x;
        for _ in 0..self.of.corrector_steps {
            x = self.known.langevin(&x, from, 2.0 * self.of.snr.powi(2), eval)?;
        }
        let denoised = eval.denoise(&x, from)?;
        self.known.step(&x, &denoised, [from, to], self.of.eta, eval)
    }
}
