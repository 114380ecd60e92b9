//! A denoiser and a sampler of one's own: `cargo run --release --example own_sampler`.
//!
//! The data are coin flips, x_0 = 1 or −1, whose denoiser is E[x_0 given x] = tanh(α x/σ²). The sampler is the midpoint rule
//! for dx̄/dσ̄ = (x̄ − D)/σ̄ in x̄ = x/α and σ̄ = σ/α, with the place of the midpoint as its one setting.

use serde::{Deserialize, Serialize};
use stein::{
    AnySampler, Condition, Denoiser, Dual, Edm, Estimate, Eval, Grid, Kernel, Levels, Past, Request, Result, Sampler,
    Schedule, Tensor, jvp, rows, sample,
};

/// What is known of a coin that was seen through noise.
struct Coin;

impl Denoiser for Coin {
    fn estimate(&self, x: Dual<2>, at: Levels, _: &Condition) -> Result<Estimate> {
        // A `Dual` carries a derivative along: every function comes with its slope.
        let argument = x.scale(&at.factors(|at| at.alpha / at.sigma.powi(2)));
        Ok(argument.map(|x| x.tanh(), |x| x.tanh().square().neg().add_scalar(1.0)).into())
    }
}

/// The midpoint rule. Its fields are its settings in files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Midpoint {
    /// Where between the levels the midpoint lies; 0.5 is the classical one.
    place: f64,
}

impl Default for Midpoint {
    fn default() -> Self {
        Self { place: 0.5 }
    }
}

impl Sampler for Midpoint {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        // In x̄ = x/α the slope is that of a straight line towards the denoised sample.
        let (start, end) = (from.noise_to_signal(), to.noise_to_signal());
        let place = start + self.place * (end - start);
        let middle = eval.kernel_at_noise(place);
        let scaled = x / from.alpha;
        let halfway = (scaled.clone() - denoised.clone()) * (place / start) + denoised;
        let denoised = eval.denoise(&(halfway.clone() * middle.alpha), &middle)?;
        let slope = (halfway - denoised) / place;
        Ok((scaled + slope * (end - start)) * to.alpha)
    }

    fn order(&self) -> Option<u32> {
        Some(if self.place == 0.5 { 2 } else { 1 })
    }

    fn check(&self) -> Result<()> {
        stein::ensure!(self.place > 0.0 && self.place < 1.0, "place = {} must lie between 0 and 1", self.place);
        Ok(())
    }
}

fn main() -> Result<()> {
    let schedule = Edm::default();
    let levels = Grid::karras(20).kernels(&schedule)?;
    let request = Request::exact(10_000, 1, 0);

    // As a value …
    let drawn = sample(&Coin, &schedule, &levels, &Midpoint::default(), &request, &mut |_| Ok(()))?;
    let heads = rows::host(&drawn.x).into_iter().filter(|&x| x > 0.0).count();
    println!("{heads} of {} coins show heads, after {} evaluations", request.rows, drawn.evaluations);

    // … and by name, as it would stand in an experiment: `sampler = { kind = "midpoint", place = 0.4 }`.
    AnySampler::register::<Midpoint>("midpoint");
    let settings = [("place".to_owned(), 0.4.into())].into_iter().collect();
    let named = AnySampler::with_settings("midpoint", settings)?;
    let drawn = sample(&Coin, &schedule, &levels, &*named, &request, &mut |_| Ok(()))?;
    let off = rows::host(&drawn.x).into_iter().map(|x| (x.abs() - 1.0).abs()).fold(0.0, f64::max);
    println!("{} ({}) ends within {off:.1e} of heads or tails", named.kind(), known(&AnySampler::names()));

    // A denoiser of one's own has derivatives like all others.
    let at = schedule.kernel(1.0);
    let (one, direction) = (rows::matrix(vec![0.5], 1, &rows::exact()), rows::matrix(vec![1.0], 1, &rows::exact()));
    let (denoised, slope) = jvp(&Coin, one, direction, (&at).into(), &Condition::none())?;
    println!(
        "at σ = 1 the coin seen at 0.5 is {:.4}, with slope {:.4}",
        rows::host(&denoised)[0],
        rows::host(&slope)[0]
    );
    Ok(())
}

fn known(names: &[String]) -> String {
    format!("one of {} samplers", names.len())
}
