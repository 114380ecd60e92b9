//! Score-based generative modeling in one notion: x_t = α(t) x_0 + σ(t) ε.
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
//! Every denoiser, wrapped or not, is differentiable both ways ([`jvp`], [`vjp`], [`gradient`]). One step of diffusion posterior
//! sampling (Chung et al. 2023, eq. 16) needs the gradient of a data misfit through the denoiser:
//!
//! ```
//! use stein::{Condition, Edm, Schedule, denoise, exact::GaussianMixture, gradient, rows};
//!
//! let (model, at) = (GaussianMixture::ncsn(), Edm::default().kernel(2.0));
//! let (x, y) = (rows::matrix(vec![1.0, -0.5], 2, &rows::exact()), 6.0); // the first coordinate was measured
//! let (denoised, slope) = gradient(x, |x| {
//!     let denoised = denoise(&model, x, (&at).into(), &Condition::none())?;
//!     let misfit = (denoised.clone().narrow(1, 0, 1) - y).square().sum();
//!     Ok((denoised, misfit))
//! })?;
//! assert!(rows::host(&slope)[0] < 0.0 && rows::host(&denoised)[0] < y); // a larger x fits better
//! # Ok::<(), stein::Error>(())
//! ```
//!
//! A [codec] brings data of any shape to the states denoisers work in, and back.
//!
//! States are rows, `[rows, dim]`; coefficients are f64 on the host; nothing depends on batch size or thread count.

pub mod adversarial;
pub mod autoencoder;
mod classifier;
pub mod codec;
mod condition;
pub mod consistency;
pub mod coupling;
pub mod denoiser;
mod density;
mod dual;
mod energy;
pub mod exact;
pub mod flow;
mod flow_map;
pub mod flow_matching;
mod grid;
pub mod guidance;
pub mod inverse;
mod kernel;
pub mod level_search;
mod levels;
pub mod likelihood;
mod network;
pub mod noise;
pub mod objective;
pub mod ode;
pub mod optimized;
pub mod pixel;
mod preconditioned;
mod prediction;
mod projection;
pub mod rows;
mod sampler;
mod schedule;
pub mod vae;
mod velocity;

pub use autoencoder::Autoencoder;
/// The engine's tensors, devices and number formats, re-exported so that code of one's own needs no second dependency.
pub use burn::tensor::{DType, Device, Tensor, TensorData};
pub use classifier::{Classified, Classifier, NetworkClassifier, NoisyInput, classify, log_probability};
pub use codec::{AnyCodec, AnyCodecConfig, Codec};
pub use condition::{Condition, Tokens};
pub use coupling::Coupling;
pub use denoiser::{Denoiser, Estimate, denoise, estimate, gradient, jvp, vjp};
pub use density::{Density, LatentMap, Meaning};
pub use dual::Dual;
pub use energy::Potential;
pub use flow_map::{FlowMap, MapForm, MapNetwork, MapSettings, Scalings, sample_map, sample_map_from};
pub use grid::{Grid, Spacing};
pub use guidance::{AnyWrapper, Wrapper};
pub use kernel::Kernel;
pub use levels::{Factors, Levels, OwnLevels};
pub use network::{Context, Network};
pub use objective::{AnyObjective, Denoising, Examples, LevelDistribution, Objective, Weighting};
pub use preconditioned::{InputScale, NoiseInput, Precondition, Preconditioned};
pub use prediction::Prediction;
pub use projection::Projection;
pub use sampler::*;
pub use schedule::*;
pub use stein_base::{Error, Key, Keys, Kind, Purpose, Result, ensure, names, numbers, random, settings};
pub use velocity::{
    Interpolant, ProbabilityFlow, Solver, Velocity, sample_interpolant, sample_interpolant_from, sample_velocity,
    sample_velocity_from,
};

/// The README's code, run as tests.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../../README.md")]
    mod readme {}
}
