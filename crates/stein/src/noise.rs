//! The noise of a sampling run: keyed by (seed, sample), so that nothing depends on batch size, order or threads.
//!
//! Two kinds of draws differ in what a finer grid does to them. Fresh noise (the start, Langevin steps) is keyed by the number of
//! the draw. The noise of an interval, which a reverse-time step adds on its way from one level to the next, is the increment
//! of one Brownian path per sample, so that halving the steps refines the same path: solutions of the reverse SDE converge
//! sample by sample, and two grids can be compared on common noise.
//!
//! In x/α the forward SDE is d(x/α) = dW(n) with the clock n = (σ/α)², on every schedule (Karras et al. 2022, appendix B.1). The path
//! is drawn by bisection of ln n (Lévy's construction: between a and b, W(m) is normal with mean W(a) + (m − a)/(b − a) (W(b) −
//! W(a)) and variance (m − a)(b − m)/(b − a)), each point keyed by its place, so that the noise of an interval is a function of
//! the interval alone, unless it is shorter than a half of a percent of n. A run that goes back up, to noisier levels than it has reached, follows a new path from there on: what it
//! does a second time has noise of its own.

use std::rc::Rc;

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::{Error, Factors, Kernel, Key, Keys, Purpose, Request, Result, ensure, rows};

/// Where the noise of a sampling run comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Source {
    /// Drawn, keyed by (seed, sample).
    #[default]
    Keyed,
    /// These standard normal numbers, one list per draw in the order of the draws, each the batch's `[rows, dim]` in row
    /// order: for common random numbers between two runs, or for the very noise of another program. Only what a sampler
    /// adds is taken from here, not where it starts: for that see [`sample_from`](crate::sample_from).
    Given(Vec<Vec<f64>>),
    /// Of each row the noise of two samples, cos(angle) times that of the first and sin(angle) times that of the second, the start
    /// included: between 0 and π/2 one sample becomes the other, as both follow their own streams at the ends (Song & Ermon 2020,
    /// appendix B, on interpolation).
    Mixed(Vec<Mixed>),
}

/// The noise of two samples in one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixed {
    /// Their numbers.
    pub samples: [u64; 2],
    /// From 0, the first, to π/2, the second.
    pub angle: f64,
}

/// The keys of the first and of the second samples, with the factors on their noise.
pub(crate) fn streams(seed: u64, mixed: &[Mixed]) -> [(Keys, Factors); 2] {
    let keys = |which: usize| Keys { seed, rows: mixed.iter().map(|mixed| mixed.samples[which]).collect() };
    let factors = |f: fn(f64) -> f64| Factors::Each(mixed.iter().map(|mixed| f(mixed.angle)).collect());
    [(keys(0), factors(f64::cos)), (keys(1), factors(f64::sin))]
}

/// Standard normal rows as a tensor `[rows, dim]` on the device and of the precision of `like` `[rows, dim]`.
pub fn normal_like(keys: &Keys, purpose: Purpose, step: u64, like: &Tensor<2>) -> Tensor<2> {
    let dim = like.dims()[1];
    rows::matrix(keys.normal(purpose, step, dim), dim, like)
}

/// The standard normal draws of one run of a sampler, one after the other.
pub(crate) struct Draws<'a> {
    keys: Keys,
    source: &'a Source,
    made: u64,
    path: Option<Path>,
    /// How often the run went back up, and the cleanest place of the path it has reached since.
    lap: u64,
    reached: u64,
    /// The draws that these are mixed of.
    mixed: Vec<(Draws<'a>, Factors)>,
}

impl<'a> Draws<'a> {
    pub(crate) fn new(request: &'a Request) -> Self {
        let own = Self::of(request.keys(), &request.noise);
        let Source::Mixed(mixed) = &request.noise else { return own };
        let part = |(keys, factors)| (Self::of(keys, &Source::Keyed), factors);
        Self { mixed: streams(request.seed, mixed).map(part).into(), ..own }
    }

    fn of(keys: Keys, source: &'a Source) -> Self {
        Self { keys, source, made: 0, path: None, lap: 0, reached: u64::MAX, mixed: Vec::new() }
    }

    /// The draws of every row by itself.
    ///
    /// # Errors
    /// Given noise, which comes draw by draw for the whole batch.
    pub(crate) fn of_rows(&self) -> Result<Vec<Self>> {
        ensure!(
            !matches!(self.source, Source::Given(_)),
            "the noise was given draw by draw, and this sampler draws for every sample by itself: leave it to be drawn"
        );
        (0..self.keys.len())
            .map(|row| {
                let keys = Keys { seed: self.keys.seed, rows: vec![self.keys.rows[row]] };
                let part = |(part, factors): &(Self, Factors)| {
                    let factors = Factors::Same(factors.row(row));
                    Ok((part.of_rows()?.swap_remove(row), factors))
                };
                let mixed: Result<Vec<_>> = self.mixed.iter().map(part).collect();
                Ok(Self { mixed: mixed?, ..Self::of(keys, self.source) })
            })
            .collect()
    }

    /// Takes back the last interval: the next one starts at its start again, on the same path.
    pub(crate) fn back_to(&mut self, from: &Kernel) {
        self.reached = place(from);
        self.mixed.iter_mut().for_each(|(part, _)| part.back_to(from));
    }

    /// The draws of both samples, mixed.
    fn mix(&mut self, mut draw: impl FnMut(&mut Self) -> Result<Tensor<2>>) -> Result<Tensor<2>> {
        let mut sum: Option<Tensor<2>> = None;
        for (part, factors) in &mut self.mixed {
            let term = rows::scale(draw(part)?, factors);
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        Ok(sum.expect("two streams are mixed"))
    }

    /// The next fresh draw, of the shape `[rows, dim]`, device and precision of `like`.
    ///
    /// # Errors
    /// No given draw is left, or it is not of the batch's shape.
    pub(crate) fn normal(&mut self, like: &Tensor<2>) -> Result<Tensor<2>> {
        if !self.mixed.is_empty() {
            return self.mix(|part| part.normal(like));
        }
        let draw = self.made;
        self.made += 1;
        let draws = match self.source {
            Source::Keyed | Source::Mixed(_) => return Ok(normal_like(&self.keys, Purpose::Sampler, self.made, like)),
            Source::Given(draws) => draws,
        };
        let Some(values) = draws.get(draw as usize) else {
            return Err(Error::new(format!(
                "the noise was given for {} draw(s) and the sampler makes more: give one list per draw",
                draws.len()
            )));
        };
        let [rows, dim] = like.dims();
        ensure!(
            values.len() == rows * dim,
            "draw {draw} of the given noise has {} numbers for a batch of {rows} rows of {dim}",
            values.len()
        );
        Ok(rows::matrix(values.clone(), dim, like))
    }

    /// The noise of the interval between two levels, standard normal: a function of the seed, the sample and the levels, or the next
    /// given draw.
    ///
    /// # Errors
    /// As [`normal`](Self::normal).
    pub(crate) fn interval(&mut self, from: &Kernel, to: &Kernel, like: &Tensor<2>) -> Result<Tensor<2>> {
        if !self.mixed.is_empty() {
            return self.mix(|part| part.interval(from, to, like));
        }
        let (late, early) = (place(from), place(to));
        if *self.source != Source::Keyed || late == early {
            return self.normal(like);
        }
        let [late, early] = self.points([late, early], like);
        Ok(increment(&late, &early, like))
    }

    /// The noise of the interval between two levels in two draws: of its part from the first to one between, and of the whole.
    ///
    /// # Errors
    /// As [`normal`](Self::normal).
    pub(crate) fn interval_through(
        &mut self,
        from: &Kernel,
        between: &Kernel,
        to: &Kernel,
        like: &Tensor<2>,
    ) -> Result<[Tensor<2>; 2]> {
        if !self.mixed.is_empty() {
            // Two draws of the same rows, side by side.
            let [rows, _] = like.dims();
            let both = self.mix(|part| Ok(Tensor::cat(part.interval_through(from, between, to, like)?.into(), 1)))?;
            let dim = both.dims()[1] / 2;
            return Ok([0, 1].map(|which| both.clone().slice([0..rows, which * dim..(which + 1) * dim])));
        }
        let places = [from, between, to].map(place);
        if *self.source != Source::Keyed || places[0] == places[1] || places[0] == places[2] {
            return Ok([self.normal(like)?, self.normal(like)?]);
        }
        let [late, between, early] = self.points(places, like);
        Ok([increment(&late, &between, like), increment(&late, &early, like)])
    }

    /// The points of the path at falling places.
    fn points<const N: usize>(&mut self, places: [u64; N], like: &Tensor<2>) -> [Rc<Point>; N] {
        // The same level, rounded twice, may seem to rise by a little.
        if places[0] > self.reached.saturating_add(1 << 16) {
            self.lap += 1;
            self.path = None;
        }
        self.reached = places[N - 1];
        let path = self.path.get_or_insert_with(|| Path::new(&self.keys, self.lap, like.dims()[1]));
        places.map(|place| path.at(place))
    }
}

/// The increment of a path between two points over its standard deviation, `[rows, dim]`.
fn increment(late: &Point, early: &Point, like: &Tensor<2>) -> Tensor<2> {
    let scale = 1.0 / (late.clock - early.clock).abs().sqrt();
    let values = late.values.iter().zip(&early.values).map(|(a, b)| scale * (a - b)).collect();
    rows::matrix(values, like.dims()[1], like)
}

/// ln n of the ends of every path: σ/α from 2e−9 to 5e8.
const ENDS: (f64, f64) = (-40.0, 40.0);
/// A place on the path is a multiple of 2^−40 of the way in ln n: to 7e−11.
const WHOLE: u64 = 1 << 40;
/// Bisection stops at cells of 2^26 places, 0.005 in ln n. A point inside is drawn given the ends of its cell, or the last point in it
/// where there is one. Increments of any length are those of a Brownian path; those longer than a cell are the same on every grid.
const CELL: u32 = 26;

/// The place on the path of a level.
fn place(at: &Kernel) -> u64 {
    let fraction = (2.0 * at.noise_to_signal().ln() - ENDS.0) / (ENDS.1 - ENDS.0);
    // Levels without signal lie beyond the end, clean ones before the start.
    (fraction.clamp(0.0, 1.0) * WHOLE as f64).round() as u64
}

/// n at a place.
fn clock(place: u64) -> f64 {
    (ENDS.0 + (ENDS.1 - ENDS.0) * place as f64 / WHOLE as f64).exp()
}

/// A point of the paths of all rows.
struct Point {
    place: u64,
    /// n.
    clock: f64,
    /// W(n), `[rows, dim]` in row order.
    values: Vec<f64>,
}

/// The Brownian path of every row, with the points on the way to the one last asked for.
struct Path {
    keys: Keys,
    lap: u64,
    dim: usize,
    /// Intervals, each inside the one before, down to a cell.
    way: Vec<[Rc<Point>; 2]>,
    /// The last point inside a cell: where one step ends the next starts.
    last: Option<Rc<Point>>,
}

impl Path {
    fn new(keys: &Keys, lap: u64, dim: usize) -> Self {
        let mut path = Self { keys: keys.clone(), lap, dim, way: Vec::new(), last: None };
        path.way.push([0, WHOLE].map(|place| {
            let deviation = clock(place).sqrt();
            let values = keys.normal(Purpose::Path, path.step(place), dim);
            Rc::new(Point {
                place,
                clock: clock(place),
                values: values.into_iter().map(|value| deviation * value).collect(),
            })
        }));
        path
    }

    /// The step of the keys of a place.
    fn step(&self, place: u64) -> u64 {
        // A place is at most 2^40.
        self.lap << 41 | place
    }

    fn at(&mut self, place: u64) -> Rc<Point> {
        if let Some(last) = self.last.as_ref().filter(|last| last.place == place) {
            return Rc::clone(last);
        }
        loop {
            let [low, high] = self.way.last().expect("the whole path is never taken away");
            if place == low.place {
                return Rc::clone(low);
            }
            if place == high.place {
                return Rc::clone(high);
            }
            if place < low.place || place > high.place {
                self.way.pop();
                continue;
            }
            if high.place - low.place == 1 << CELL {
                let inside = self.last.as_ref().filter(|last| (low.place..high.place).contains(&last.place));
                let (low, high) = match inside {
                    Some(last) if place < last.place => (low, last),
                    Some(last) => (last, high),
                    None => (low, high),
                };
                let point = Rc::new(self.between(low, high, place));
                self.last = Some(Rc::clone(&point));
                return point;
            }
            let middle = Rc::new(self.between(low, high, low.place.midpoint(high.place)));
            let half = if place < middle.place { [Rc::clone(low), middle] } else { [middle, Rc::clone(high)] };
            self.way.push(half);
        }
    }

    /// A point given two around it.
    fn between(&self, low: &Point, high: &Point, place: u64) -> Point {
        let clock = clock(place);
        let part = (clock - low.clock) / (high.clock - low.clock);
        let deviation = (part * (high.clock - clock)).sqrt();
        let mut values = vec![0.0; self.keys.len() * self.dim];
        let key = Key::new(self.keys.seed, Purpose::Path).step(self.step(place));
        let width = self.dim.max(1);
        let ends = low.values.par_chunks(width).zip(high.values.par_chunks(width));
        values.par_chunks_mut(width).zip(&self.keys.rows).zip(ends).for_each(|((values, &row), (low, high))| {
            key.at(row).fill_normal(values);
            for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
                *value = low + part * (high - low) + deviation * *value;
            }
        });
        Point { place, clock, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(sigma: f64) -> Kernel {
        Kernel { t: sigma, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 }
    }

    /// Increments over intervals of one path, in units of the clock.
    fn scaled(draws: &mut Draws, from: f64, to: f64, like: &Tensor<2>) -> Vec<f64> {
        let (from, to) = (level(from), level(to));
        let scale = (clock(place(&from)) - clock(place(&to))).sqrt();
        rows::host(&draws.interval(&from, &to, like).unwrap()).into_iter().map(|z| z * scale).collect()
    }

    #[test]
    fn halves_of_an_interval_add_up_to_it() {
        let request = Request::exact(50, 3, 4);
        let like = rows::matrix(vec![0.0; 150], 3, &rows::exact());
        let (mut whole, mut halves) = (Draws::new(&request), Draws::new(&request));
        for (from, middle, to) in [(80.0, 9.0, 1.0), (1.0, 0.4, 0.03)] {
            let sum = scaled(&mut whole, from, to, &like);
            let first = scaled(&mut halves, from, middle, &like);
            let second = scaled(&mut halves, middle, to, &like);
            for ((sum, first), second) in sum.iter().zip(first).zip(second) {
                // Numbers of size 80 and less: rounding.
                assert!((sum - first - second).abs() < 1e-12 * 80.0);
            }
        }
    }

    #[test]
    fn a_step_in_two_is_on_the_same_path() {
        let request = Request::exact(50, 3, 4);
        let like = rows::matrix(vec![0.0; 150], 3, &rows::exact());
        let [from, between, to] = [7.0, 3.0, 2.0].map(level);
        let through = Draws::new(&request).interval_through(&from, &between, &to, &like).unwrap();
        let first = Draws::new(&request).interval(&from, &between, &like).unwrap();
        let whole = Draws::new(&request).interval(&from, &to, &like).unwrap();
        assert_eq!(through.map(|noise| rows::host(&noise)), [first, whole].map(|noise| rows::host(&noise)));
    }

    #[test]
    fn the_draws_of_rows_are_those_of_the_batch() {
        let mixed = |samples| Mixed { samples, angle: 0.3 };
        for noise in [Source::Keyed, Source::Mixed(vec![mixed([0, 1]), mixed([4, 2])])] {
            let request = Request { noise, ..Request::exact(2, 3, 4) };
            let like = rows::matrix(vec![0.0; 6], 3, &rows::exact());
            let batch = Draws::new(&request).interval(&level(5.0), &level(3.0), &like).unwrap();
            for (row, draws) in Draws::new(&request).of_rows().unwrap().iter_mut().enumerate() {
                let alone = like.clone().narrow(0, row, 1);
                let own = draws.interval(&level(5.0), &level(3.0), &alone).unwrap();
                assert_eq!(rows::host(&own), rows::host(&batch.clone().narrow(0, row, 1)));
                // Taken back, a shorter interval is part of the same path.
                draws.back_to(&level(5.0));
                let shorter = scaled(draws, 5.0, 4.0, &alone);
                let rest = scaled(draws, 4.0, 3.0, &alone);
                for ((a, b), z) in shorter.iter().zip(rest).zip(rows::host(&own)) {
                    assert!((a + b - 4.0 * z).abs() < 1e-9, "the clock runs by 16");
                }
            }
        }
    }

    #[test]
    fn the_shortest_intervals_add_up_to_a_path_too() {
        // Steps of 0.6 of a cell, of whose ends now one, now two lie in a cell.
        let n = 4000;
        let request = Request::exact(n, 1, 6);
        let like = rows::matrix(vec![0.0; n], 1, &rows::exact());
        let mut draws = Draws::new(&request);
        let sigma = |k: usize| (-0.5 * 0.6 * 80.0 / f64::from(1 << 14) * k as f64).exp();
        let mut sum = vec![0.0; n];
        for k in 0..60 {
            let step = scaled(&mut draws, sigma(k), sigma(k + 1), &like);
            sum.iter_mut().zip(step).for_each(|(sum, step)| *sum += step);
        }
        let variance = sum.iter().map(|x| x * x).sum::<f64>() / n as f64 / (1.0 - sigma(60).powi(2));
        // Five standard errors of a variance.
        assert!((variance - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{variance}");
    }

    #[test]
    fn a_second_descent_has_noise_of_its_own() {
        let request = Request::exact(1000, 1, 4);
        let like = rows::matrix(vec![0.0; 1000], 1, &rows::exact());
        let mut draws = Draws::new(&request);
        let first = scaled(&mut draws, 3.0, 1.0, &like);
        let second = scaled(&mut draws, 3.0, 1.0, &like);
        let product: f64 = first.iter().zip(&second).map(|(a, b)| a * b / 8.0).sum::<f64>() / 1000.0;
        // Increments have variance 8; five standard errors of the mean of a product of independent normals.
        assert!(product.abs() < 5.0 / 1000f64.sqrt(), "{product}");
        assert_eq!(first, scaled(&mut Draws::new(&request), 3.0, 1.0, &like));
    }

    #[test]
    fn increments_are_independent_standard_normal() {
        let n = 20_000;
        let request = Request::exact(n, 1, 8);
        let like = rows::matrix(vec![0.0; n], 1, &rows::exact());
        let mut draws = Draws::new(&request);
        let levels = [80.0, 20.0, 19.5, 3.0, 0.2, 0.002];
        let steps: Vec<Vec<f64>> = levels
            .windows(2)
            .map(|pair| rows::host(&draws.interval(&level(pair[0]), &level(pair[1]), &like).unwrap()))
            .collect();
        let mean = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        // Five standard errors of a mean of 20,000: of z 0.036, of z² 0.05, of a product 0.036.
        for (i, a) in steps.iter().enumerate() {
            assert!(mean(&|k| a[k]).abs() < 0.036);
            assert!((mean(&|k| a[k] * a[k]) - 1.0).abs() < 0.05);
            for b in &steps[i + 1..] {
                assert!(mean(&|k| a[k] * b[k]).abs() < 0.036);
            }
        }
    }
}
