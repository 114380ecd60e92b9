//! A network as a flow map: its form, what tells it the levels, and the schedule it was trained on.
//!
//! A level of another schedule is brought to the network's own by its log-SNR, as [`Preconditioned`](crate::Preconditioned) does, so a map
//! runs on any grid of any schedule.

use serde::{Deserialize, Serialize};

use super::{FlowMap, MapForm};
use crate::{
    AnySchedule, Condition, Context, Dual, Kernel, Keys, Levels, Network, NoiseInput, Result, denoiser::Asked, ensure,
    preconditioned::between, rows,
};

/// What surrounds the network of a flow map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapSettings {
    /// What its output stands for, and where it leads.
    pub form: MapForm,
    /// c_noise; the second number, of a form that leads anywhere, is c_noise(t) − c_noise(s).
    pub noise_input: NoiseInput,
}

impl MapSettings {
    /// Fails if the parts do not fit each other or the schedule.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.form.check(schedule)?;
        self.noise_input.check(schedule)?;
        let finite_at_zero =
            matches!(self.noise_input, NoiseInput::Angle { .. } | NoiseInput::Time { .. } | NoiseInput::Sigma {});
        ensure!(
            finite_at_zero || !self.form.anywhere(),
            "a flow map between two levels tells its network how far apart they are, and a logarithm is infinite at clean data: set \
             noise_input to angle or time"
        );
        Ok(())
    }
}

/// A network with what makes it a flow map on the schedule it was trained on.
#[derive(Debug, Clone)]
pub struct MapNetwork<N> {
    /// The raw network.
    pub network: N,
    /// What surrounds it.
    pub settings: MapSettings,
    /// The schedule it was trained on.
    pub schedule: AnySchedule,
}

impl<N: Network> MapNetwork<N> {
    /// Puts the pieces together.
    ///
    /// # Errors
    /// When they do not fit: see [`MapSettings::check`].
    pub fn new(network: N, settings: MapSettings, schedule: AnySchedule) -> Result<Self> {
        schedule.check()?;
        settings.check(&schedule)?;
        Ok(Self { network, settings, schedule })
    }

    /// The raw output for inputs as they are fed, at levels of the network's own schedule; with `dropout` it drops values as in
    /// training. With `slopes`, a number a row, the number of `from` has a tangent, and so has the second, for `to` stays where it is.
    pub(crate) fn raw(
        &self,
        input: Dual<2>,
        from: Levels,
        to: Levels,
        slopes: Option<Vec<f64>>,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Dual<2>> {
        let count = input.dims()[0];
        let number = |at: &Kernel| self.settings.noise_input.number(at, &self.schedule);
        let like = input.value.clone();
        let first = from.factors(number).into_rows(count);
        let second = self.settings.form.anywhere().then(|| {
            let ends = to.factors(number).into_rows(count);
            first.iter().zip(ends).map(|(first, end)| first - end).collect()
        });
        let dual = |numbers: Vec<f64>| -> Dual<1> {
            let tangent = slopes.clone().map(|slopes| rows::vector(slopes, &like));
            Dual { value: rows::vector(numbers, &like), tangent }
        };
        let context = Context { noise: dual(first), second: second.map(dual), given, dropout };
        let asked = Asked::of(&input);
        let raw = self.network.forward(input, &context)?;
        asked.check(&raw, "network")?;
        Ok(raw)
    }

    /// The points at levels `to` of the trajectories through rows `x` `[rows, dim]`, both of the network's own schedule; with `dropout` the
    /// network drops values as in training.
    ///
    /// # Errors
    /// Those of the network.
    pub fn carry_at(
        &self,
        x: Dual<2>,
        from: Levels,
        to: Levels,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Dual<2>> {
        let scalings = |part: fn(&super::Scalings) -> f64| {
            from.factors_with(to, |from, to| part(&self.settings.form.scalings(from, to)))
        };
        let raw = self.raw(x.clone().scale(&scalings(|by| by.input)), from, to, None, given, dropout)?;
        Ok(x.scale(&scalings(|by| by.skip)) + raw.scale(&scalings(|by| by.output)))
    }

    /// The level of the network's own schedule with the log-SNR of another.
    fn own(&self, at: &Kernel) -> Kernel {
        let t = self.schedule.time_at(at.log_snr());
        if at.is_clean() { Kernel { t, ..Kernel::CLEAN } } else { self.schedule.kernel(t) }
    }
}

impl<N: Network> FlowMap for MapNetwork<N> {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        let count = x.dims()[0];
        from.check(count)?;
        to.check(count)?;
        given.check(count)?;
        let reaches_zero = self.settings.form.sigma_data().is_none();
        let least = match self.end() {
            Some(end) => {
                let least = end.noise_to_signal();
                ensure!(
                    to.kernels().iter().all(|to| (to.noise_to_signal() - least).abs() <= 1e-6 * least),
                    "a consistency function carries to the end of its trajectories, sigma/alpha = {least}, and to no other level"
                );
                least
            }
            None => 0.0,
        };
        for level in from.kernels() {
            let sigma = level.noise_to_signal();
            ensure!(
                (level.alpha > 0.0 || reaches_zero) && sigma >= least * (1.0 - 1e-6) && sigma > 0.0,
                "this flow map is defined from sigma/alpha = {least} up to where there is signal, not at {sigma}"
            );
        }
        ensure!(
            (0..count).all(|row| to.row(row).noise_to_signal() <= from.row(row).noise_to_signal() * (1.0 + 1e-6)),
            "a flow map leads to a cleaner level, or to the same: give `to` no more noise than `from`"
        );
        let (own_from, own_to) = (from.map(|at| self.own(at)), to.map(|at| self.own(at)));
        let x = x.scale(&between(from, own_from.view()));
        let carried = self.carry_at(x, own_from.view(), own_to.view(), given, None)?;
        Ok(carried.scale(&between(own_to.view(), to)))
    }

    fn end(&self) -> Option<Kernel> {
        self.settings.form.end(&self.schedule)
    }
}
