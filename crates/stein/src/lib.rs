//! Score-based generative modelling in one notion: x_t = α(t) x_0 + σ(t) ε.
//!
//! This crate holds the mathematics and no networks, files or command line. Three pieces meet in one loop:
//!
//! - a [`Schedule`] says how α and σ move with time and hands out [`Kernel`]s;
//! - a [`Denoiser`] estimates E\[x_0 given x_t\]: an [exact model](exact), or a [`Network`] wrapped by [`Preconditioned`];
//! - a [`Sampler`] steps a batch from one level of a [`Grid`] to the next, seeing the world only through [`Eval`].
//!
//! ```
//! use stein::{Edm, Grid, Heun, Request, exact::{Exact, GaussianMixture}, rows::host, sample};
//!
//! let model = GaussianMixture::ncsn(); // its score is known exactly
//! let schedule = Edm::default();
//! let levels = Grid::karras(18).kernels(&schedule)?;
//! let request = Request { data_variance: model.variance(), ..Request::exact(1000, 2, 0) };
//! let samples = sample(&model, &schedule, &levels, &Heun::default(), &request, &mut |_| Ok(()))?;
//! let right = host(&samples.x).chunks(2).filter(|x| x[0] + x[1] > 0.0).count();
//! assert!((right as f64 / 1000.0 - 0.8).abs() < 0.05); // four fifths of the mass sits at (5, 5)
//! # Ok::<(), stein::Error>(())
//! ```
//!
//! States are rows, `[rows, dim]`; coefficients are f64 on the host; nothing depends on batch size or thread count.

mod condition;
mod consistency;
pub mod denoiser;
mod error;
pub mod exact;
mod flow_map;
mod grid;
mod kernel;
pub mod names;
mod network;
pub mod noise;
mod objective;
mod preconditioned;
mod prediction;
pub mod rows;
mod sampler;
mod schedule;

/// The engine's tensor, re-exported so that samplers and denoisers of one's own need no second dependency.
pub use burn::tensor::Tensor;
pub use condition::Condition;
pub use consistency::{Consistency, ConsistencyFunction, Scalings};
pub use denoiser::{Clamp, Denoiser};
pub use error::{Error, Result};
pub use flow_map::{FlowMap, sample_map, sample_map_from};
pub use grid::{Grid, Spacing};
pub use kernel::Kernel;
pub use network::Network;
pub use objective::{LevelDistribution, Objective, Weighting};
pub use preconditioned::{InputScale, NoiseInput, Precondition, Preconditioned};
pub use prediction::Prediction;
pub use sampler::{
    Ancestral, AnySampler, Convention, Corrector, Ddim, DpmSolverPp, EulerMaruyama, Eval, Heun, Langevin, OdeEuler,
    OdeHeun, OdeMidpoint, OdeRk4, PredictorCorrector, Progress, Request, ReverseDiffusion, Rk45, Sampled, Sampler,
    UniPc, Variance, sample, sample_from,
};
pub use schedule::{AnySchedule, Cosine, Discrete, Edm, Levels, Rectified, Schedule, SubVp, Ve, Vp};

/// The README's and the guide's code, run as tests.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../../README.md")]
    mod readme {}
    #[doc = include_str!("../../../docs/extending.md")]
    mod extending {}
}
