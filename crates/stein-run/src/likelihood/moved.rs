//! What is asked about the likelihood of a model that moves between noise and data.

use std::{fmt::Write as _, sync::Arc};

use stein::{
    AnySchedule, Condition, Denoiser, Error, Kernel, Keys, Kind, Result, Tensor, Variance, Velocity, ensure,
    likelihood::{Bound, Divergence, LogDensity, OdeLikelihood, Prior, Truncation},
    numbers::ensure_within,
    objective::{Pixels, VariationalBound},
};

use super::{Bounded, EXACT, LEVELS, LikelihoodOptions};
use crate::{
    Model,
    draw::{Asking, Going},
};

/// What the density is found of.
enum Law {
    /// Of all that a denoiser says.
    Denoiser(Arc<dyn Denoiser>),
    /// Of the flow of a velocity alone, from noise of this standard deviation.
    Velocity(Arc<dyn Velocity>, f64),
}

/// What moves between noise and data, and how the density is found of it, checked.
pub(super) struct Moved {
    law: Law,
    schedule: AnySchedule,
    ode: OdeLikelihood,
    bound: Option<Bound>,
    chain: Option<(VariationalBound, Vec<Kernel>)>,
    /// The variance of the data that the prior knows of.
    variance: f64,
    published: bool,
}

impl Moved {
    pub(super) fn of(model: &Model, options: &LikelihoodOptions, state: usize) -> Result<Self> {
        let by = "stein likelihood";
        let (law, schedule) = if model.learned.denoiser.is_some() || model.learned.velocity.is_none() {
            let (denoiser, schedule) = model.score(options.schedule.as_deref(), by)?;
            (Law::Denoiser(denoiser), schedule)
        } else {
            let flow = model.flow(options.schedule.as_deref(), by)?;
            let what = format!("needs a denoiser, and {} is a velocity: leave it out", model.name);
            ensure!(options.bound == Bounded::Ode, "a bound (--bound) {what}");
            ensure!(!options.published, "--published {what}");
            ensure!(
                Kind::Unsupported,
                model.source.is_none(),
                "{} begins from other data, whose density is not known, so that of its samples is not either: give a model that begins from \
                 noise",
                model.name
            );
            (Law::Velocity(flow.velocity, flow.far_std), flow.schedule)
        };
        let random = options.probes.is_some() || options.probe.is_some();
        let hutchinson = Divergence::Hutchinson { probes: options.probes.unwrap_or(1), projection: options.projection };
        let divergence = match options.divergence.as_deref().map(str::to_lowercase).as_deref() {
            Some("exact") if random => {
                return Err(Error::new("the exact divergence has no probes: leave out --probes and --probe"));
            }
            Some("exact") => Divergence::Exact {},
            Some("hutchinson") => hutchinson,
            Some(other) => return Err(stein::names::unknown("divergence", other, &["exact", "hutchinson"])),
            None if random || state > EXACT => hutchinson,
            None => Divergence::Exact {},
        };
        let truncation = if options.published { Truncation::Ignored } else { Truncation::Corrected };
        let ode = OdeLikelihood { divergence, truncation, ..OdeLikelihood::exact(options.tolerance) };
        ode.check(&*schedule)?;
        let bound = (options.bound == Bounded::ScoreFlow).then_some(Bound { draws: LEVELS, start: None });
        if let Some(bound) = &bound {
            bound.check(&*schedule)?;
            ensure!(!random, "the bound has no divergence: leave out --probes and --probe");
            ensure!(!options.published, "--published is a convention of the ODE: leave it out with --bound scoreflow");
        }
        let chain = match options.bound {
            Bounded::Variational => match &law {
                Law::Denoiser(denoiser) => Some(chain(model, denoiser, &schedule, options)?),
                Law::Velocity(..) => None,
            },
            _ => {
                ensure!(
                    options.steps.is_none() && options.variance.is_none(),
                    "--steps and --variance are of the variational bound: give --bound vlb, or leave them out"
                );
                None
            }
        };
        // Where the noise grows without the signal fading, published priors leave the data out.
        let fades = schedule.kernel(schedule.span().1).alpha < 1.0;
        let variance = if options.published { f64::from(u8::from(fades)) } else { model.subject.variance };
        Ok(Self { law, schedule, ode, bound, chain, variance, published: options.published })
    }

    /// Whether probabilities of gray levels are found instead of densities.
    pub(super) fn of_levels(&self) -> bool {
        self.chain.is_some()
    }

    pub(super) fn log_density(
        &self,
        model: &Model,
        x: Tensor<2>,
        given: &Condition,
        keys: &Keys,
        directions: &[Tensor<2>],
        going: &Going,
    ) -> Result<LogDensity> {
        let denoiser = match &self.law {
            Law::Denoiser(denoiser) => Asking { inner: &**denoiser, going },
            Law::Velocity(velocity, std) => {
                let (velocity, schedule) = (&Asking { inner: &**velocity, going }, &*self.schedule);
                let prior = Prior::Normal { std: *std };
                return match directions.is_empty() {
                    true => self.ode.log_density_of_velocity(velocity, schedule, x, given, keys, prior),
                    false => self.ode.log_density_of_velocity_along(velocity, schedule, x, given, directions, prior),
                };
            }
        };
        if let Some((bound, chain)) = &self.chain {
            return bound.log_probability(&denoiser, chain, &x, given, keys, true);
        }
        if let Some(bound) = &self.bound {
            return bound.log_density(&denoiser, &*self.schedule, x, given, keys, self.variance);
        }
        let std = self.schedule.kernel(self.schedule.span().1).prior_std(self.variance);
        let prior = match model.truth.as_ref().filter(|_| !model.trained && !self.published) {
            Some(exact) => Prior::Exact(exact),
            None => Prior::Normal { std },
        };
        if directions.is_empty() {
            return self.ode.log_density(&denoiser, &*self.schedule, x, given, keys, prior);
        }
        self.ode.log_density_along(&denoiser, &*self.schedule, x, given, directions, prior)
    }

    /// How the density is found, for people.
    pub(super) fn method(&self, options: &LikelihoodOptions) -> String {
        let flow = match &self.law {
            Law::Denoiser(_) => "the probability-flow ODE",
            Law::Velocity(..) => "the ODE of the velocity",
        };
        let mut text = format!("{flow} on schedule {}", self.schedule.kind());
        if let Some((bound, chain)) = &self.chain {
            let variance = format!("{:?}", bound.variance).to_lowercase();
            return format!("the variational bound of {} levels, {variance} variances", chain.len());
        }
        if self.bound.is_some() {
            let levels = LEVELS * options.draws;
            return format!("the bound of ScoreFlow on schedule {}, {levels} levels a sample", self.schedule.kind());
        }
        let _ = write!(text, ", tolerance {}", options.tolerance);
        let _ = match (self.ode.divergence, &options.probe) {
            (Divergence::Exact {}, _) => write!(text, ", exact divergence"),
            (_, Some(path)) => write!(text, ", divergence along {}", path.display()),
            (Divergence::Hutchinson { probes, projection }, _) => {
                write!(text, ", divergence along {probes} {projection:?} direction(s)")
            }
        };
        if options.draws > 1 {
            let _ = write!(text, ", {} draws", options.draws);
        }
        text
    }
}

/// The variational bound and its levels, the cleanest first.
fn chain(
    model: &Model,
    denoiser: &dyn Denoiser,
    schedule: &AnySchedule,
    options: &LikelihoodOptions,
) -> Result<(VariationalBound, Vec<Kernel>)> {
    ensure!(
        options.divergence.is_none() && options.probes.is_none() && options.probe.is_none(),
        "the variational bound has no divergence: leave out --divergence, --probes and --probe"
    );
    let Some(count) = schedule.levels() else {
        return Err(Error::of(
            Kind::Unsupported,
            format!(
                "the variational bound is a sum over the levels of a discrete schedule, and that of {} is {}: use --bound scoreflow",
                model.name,
                schedule.kind()
            ),
        ));
    };
    let affine = model.subject.codec.0.iter().all(|codec| matches!(codec.kind(), "affine" | "symmetric"));
    let (Some(levels), Some((low, high)), true) = (model.subject.levels, model.subject.range(), affine) else {
        return Err(Error::of(
            Kind::Unsupported,
            format!(
                "the variational bound is of gray levels, and the states of {} are none: use --bound scoreflow",
                model.name
            ),
        ));
    };
    let steps = options.steps.unwrap_or(count);
    ensure_within("--steps", steps, 2..=count)?;
    // As improved DDPM takes them: evenly, both ends included, rounded to even.
    let place = |k: usize| ((count - 1) as f64 * k as f64 / (steps - 1) as f64).round_ties_even();
    let kernels = (0..steps).map(|k| schedule.kernel(place(k))).collect();
    let learned = learns_variances(model, denoiser, schedule)?;
    let variance = options.variance.unwrap_or(if learned { Variance::Learned } else { Variance::Posterior });
    ensure!(
        Kind::Unsupported,
        learned || variance != Variance::Learned,
        "{} has not learned variances: give --variance posterior or forward",
        model.name
    );
    let bound = VariationalBound { variance, pixels: Pixels { levels, low, high }, published: options.published };
    Ok((bound, kernels))
}

/// Whether a model says how noisy its reverse steps are.
fn learns_variances(model: &Model, denoiser: &dyn Denoiser, schedule: &AnySchedule) -> Result<bool> {
    let state = model.subject.state_shape()?.iter().product();
    let given = match model.subject.learned_classes().first() {
        Some(&class) if model.trained => Condition::classes([class]),
        _ => Condition::none(),
    };
    let x = Tensor::zeros([1, state], (&model.device, model.dtype));
    Ok(stein::estimate(denoiser, x.into(), (&schedule.kernel(0.0)).into(), &given)?.variance.is_some())
}
