//! A network as a consistency function: f(x, σ) = c_skip x + c_out F(c_in x, c_noise), which is x at σ = ε.
//!
//! Song et al. 2023, "Consistency Models", eq. 5 and appendix C: EDM's scalings moved by ε, so that the boundary condition holds
//! whatever the network says:
//!
//! c_skip = σ_d²/((σ − ε)² + σ_d²), c_out = σ_d (σ − ε)/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²).
//!
//! σ is the noise-to-signal ratio σ/α, and x is x/α, so a network trained on one schedule maps samples of any.

use serde::{Deserialize, Serialize};

use crate::{
    AnySchedule, Condition, Context, Dual, FlowMap, Kernel, Levels, Network, NoiseInput, Result,
    denoiser::Asked,
    ensure,
    numbers::{above, ensure_within},
    rows,
};

/// What surrounds the network of a consistency function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Standard deviation of the data, σ_d.
    pub sigma_data: f64,
    /// c_noise.
    pub noise_input: NoiseInput,
}

/// The factors of f = skip · x + output · F(input · x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalings {
    /// c_in.
    pub input: f64,
    /// c_skip.
    pub skip: f64,
    /// c_out.
    pub output: f64,
}

impl Scalings {
    /// At a noise-to-signal ratio σ, of trajectories that end at ε = `end`, for data of standard deviation `sigma_data`; with ε = 0
    /// they are those of EDM's denoiser.
    pub fn at(sigma: f64, end: f64, sigma_data: f64) -> Self {
        let (past, total) = (sigma - end, sigma.hypot(sigma_data));
        Self {
            input: 1.0 / total,
            skip: sigma_data.powi(2) / (past.powi(2) + sigma_data.powi(2)),
            output: sigma_data * past / total,
        }
    }
}

impl Consistency {
    /// Fails if the parts do not fit each other or the schedule.
    pub fn check(&self, schedule: &AnySchedule) -> Result<()> {
        ensure_within("consistency: sigma_data", self.sigma_data, above(0.0, 1e6))?;
        ensure!(
            schedule.kernel(schedule.span().1).alpha > 0.0,
            "a consistency function is trained where there is signal; schedule {} reaches alpha = 0",
            schedule.kind()
        );
        self.noise_input.check(schedule)
    }
}

/// A network with what makes it a consistency function on the schedule it was trained on, whose cleanest level is ε.
#[derive(Debug, Clone)]
pub struct ConsistencyFunction<N> {
    network: N,
    settings: Consistency,
    schedule: AnySchedule,
}

impl<N: Network> ConsistencyFunction<N> {
    /// Puts the pieces together.
    ///
    /// # Errors
    /// When they do not fit: see [`Consistency::check`].
    pub fn new(network: N, settings: Consistency, schedule: AnySchedule) -> Result<Self> {
        schedule.check()?;
        settings.check(&schedule)?;
        Ok(Self { network, settings, schedule })
    }
}

impl<N: Network> FlowMap for ConsistencyFunction<N> {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        let count = x.dims()[0];
        from.check(count)?;
        to.check(count)?;
        given.check(count)?;
        let end = self.schedule.kernel(self.schedule.span().0);
        let least = end.noise_to_signal();
        ensure!(
            to.kernels().iter().all(|to| (to.noise_to_signal() - least).abs() <= 1e-6 * least),
            "a consistency function carries to the end of its trajectories, sigma/alpha = {least}, and to no other level"
        );
        for level in from.kernels() {
            let sigma = level.noise_to_signal();
            ensure!(
                level.alpha > 0.0 && sigma >= least * (1.0 - 1e-6),
                "a consistency function is defined from sigma/alpha = {least} up to where there is signal, not at {sigma}"
            );
        }
        let scalings = |level: &Kernel| Scalings::at(level.noise_to_signal(), least, self.settings.sigma_data);
        let noise = from.factors(|level| {
            let own = self.schedule.kernel(self.schedule.time_at(level.log_snr()));
            self.settings.noise_input.number(&own, &self.schedule)
        });
        let noise = rows::vector(noise.into_rows(count), &x.value);
        let input = x.clone().scale(&from.factors(|level| scalings(level).input / level.alpha));
        let asked = Asked::of(&input);
        let raw = self.network.forward(input, &Context::new(noise, given))?;
        asked.check(&raw, "network")?;
        Ok(x.scale(&from.factors(|level| scalings(level).skip * end.alpha / level.alpha))
            + raw.scale(&from.factors(|level| scalings(level).output * end.alpha)))
    }

    fn end(&self) -> Option<Kernel> {
        Some(self.schedule.kernel(self.schedule.span().0))
    }
}
