//! Ordinary differential equations dx/dt = v(x, t) over batches of rows, by explicit Runge–Kutta methods with fixed or
//! adaptive steps, in either direction of time.
//!
//! Every row has its own error control: the error norm √(mean_i (e_i/(atol + rtol max(|x_i|, |x'_i|)))²) is a row's own, so
//! that a sample does not depend on its batch-mates, and rows that are done cost nothing. Samplers, likelihoods, codes and
//! continuous flows all integrate here.

use burn::tensor::Tensor;

use crate::{Error, Factors, Result, ensure, rows};

/// The times of the rows a field is asked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times<'a> {
    /// One time for all rows.
    Same(f64),
    /// One time per row.
    Each(&'a [f64]),
}

/// v(x, t): rows `x` `[active, dim]`, their times, and which rows of the batch they are; the result is like `x`.
pub type Field<'a> = dyn FnMut(&Tensor<2>, Times, &[usize]) -> Result<Tensor<2>> + 'a;

/// An explicit Runge–Kutta method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tableau {
    /// The time of every stage, as a fraction of the step.
    pub fractions: &'static [f64],
    /// The weights of the stages before, for every stage.
    pub stages: &'static [&'static [f64]],
    /// The weights of the stages in the step.
    pub weights: &'static [f64],
    /// The same less those of an embedded method of lower order, for an estimate of the error.
    pub error: Option<&'static [f64]>,
    /// The order of convergence.
    pub order: u32,
}

/// Euler's method: order 1, one evaluation per step.
pub const EULER: Tableau = Tableau { fractions: &[0.0], stages: &[&[]], weights: &[1.0], error: None, order: 1 };

/// The midpoint rule: order 2, two evaluations per step.
pub const MIDPOINT: Tableau =
    Tableau { fractions: &[0.0, 0.5], stages: &[&[], &[0.5]], weights: &[0.0, 1.0], error: None, order: 2 };

/// Heun's rule: order 2, two evaluations per step.
pub const HEUN: Tableau =
    Tableau { fractions: &[0.0, 1.0], stages: &[&[], &[1.0]], weights: &[0.5, 0.5], error: None, order: 2 };

/// Kutta's classical method: order 4, four evaluations per step.
pub const RK4: Tableau = Tableau {
    fractions: &[0.0, 0.5, 0.5, 1.0],
    stages: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    weights: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    error: None,
    order: 4,
};

/// The method of Dormand & Prince 1980: order 5 with an embedded order 4. Its last stage is the first of the next step, so an
/// accepted step costs six evaluations.
pub const DORMAND_PRINCE: Tableau = Tableau {
    fractions: &[0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0],
    stages: &[
        &[],
        &[1.0 / 5.0],
        &[3.0 / 40.0, 9.0 / 40.0],
        &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
        &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
        &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
        &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
    ],
    weights: &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0, 0.0],
    error: Some(&[71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0]),
    order: 5,
};

impl Tableau {
    /// Whether the last stage stands at the end of the step, so that it is the first of the next one.
    fn first_is_last(&self) -> bool {
        self.stages.last().zip(self.weights.split_last()).is_some_and(|(stage, (last, rest))| {
            *last == 0.0 && *stage == rest && self.fractions.last() == Some(&1.0) && !rest.is_empty()
        })
    }
}

/// How long the steps are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steps {
    /// This many equal ones.
    Fixed(usize),
    /// As each row needs: an accepted step has an error norm of at most 1.
    Adaptive {
        /// Relative tolerance of a step.
        rtol: f64,
        /// Absolute tolerance of a step, in the units of x.
        atol: f64,
        /// Most attempted steps of a row before giving up.
        most: usize,
    },
}

/// The end of an integration.
#[derive(Debug, Clone)]
pub struct Integrated {
    /// The rows at the end `[rows, dim]`.
    pub x: Tensor<2>,
    /// Calls of the field.
    pub evaluations: usize,
}

/// Carries rows `x` `[rows, dim]` from time `from` to time `to`.
///
/// ```
/// use stein::{ode, rows};
///
/// // dx/dt = −x from 0 to 1 is a factor of 1/e.
/// let x = rows::matrix(vec![1.0, -2.0], 1, &rows::exact());
/// let steps = ode::Steps::Adaptive { rtol: 1e-8, atol: 1e-8, most: 1000 };
/// let end = ode::integrate(&mut |x, _, _| Ok(-x.clone()), x, 0.0, 1.0, &ode::DORMAND_PRINCE, steps)?;
/// assert!((rows::host(&end.x)[1] + 2.0 * (-1f64).exp()).abs() < 1e-7);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// Those of the field; with adaptive steps a method without an embedded error, a velocity that is not finite, or too many
/// steps.
pub fn integrate(
    field: &mut Field,
    x: Tensor<2>,
    from: f64,
    to: f64,
    method: &Tableau,
    steps: Steps,
) -> Result<Integrated> {
    match steps {
        Steps::Fixed(count) => fixed(field, x, from, to, method, count),
        Steps::Adaptive { rtol, atol, most } => Adaptive { method, to, rtol, atol, most }.run(field, x, from),
    }
}

fn fixed(
    field: &mut Field,
    mut x: Tensor<2>,
    from: f64,
    to: f64,
    method: &Tableau,
    count: usize,
) -> Result<Integrated> {
    ensure!(count >= 1, "an integration needs at least one step");
    let all: Vec<usize> = (0..x.dims()[0]).collect();
    let h = (to - from) / count as f64;
    let mut kept = None;
    let mut evaluations = 0;
    for step in 0..count {
        let t = from + h * step as f64;
        let first = kept.take();
        // A last stage that only starts the next step is not needed at the end.
        let needed = method.stages.len() - usize::from(method.first_is_last() && step + 1 == count);
        let slopes = stages(method, needed, &x, &Factors::Same(h), first, |x, fraction| {
            evaluations += 1;
            field(x, Times::Same(t + fraction * h), &all)
        })?;
        x = combine(Some(x), method.weights, &slopes, &Factors::Same(h));
        if method.first_is_last() {
            kept = slopes.last().cloned();
        }
    }
    Ok(Integrated { x, evaluations })
}

/// The slopes of the first stages of a step; the very first may be known.
fn stages(
    method: &Tableau,
    needed: usize,
    x: &Tensor<2>,
    h: &Factors,
    first: Option<Tensor<2>>,
    mut slope: impl FnMut(&Tensor<2>, f64) -> Result<Tensor<2>>,
) -> Result<Vec<Tensor<2>>> {
    let mut slopes: Vec<Tensor<2>> = first.into_iter().collect();
    for (fraction, weights) in method.fractions.iter().zip(method.stages).take(needed).skip(slopes.len()) {
        let here = combine(Some(x.clone()), weights, &slopes, h);
        slopes.push(slope(&here, *fraction)?);
    }
    Ok(slopes)
}

/// x + h Σ weight · slope.
fn combine(x: Option<Tensor<2>>, weights: &[f64], slopes: &[Tensor<2>], h: &Factors) -> Tensor<2> {
    let terms = weights.iter().zip(slopes).filter(|(weight, _)| **weight != 0.0).map(|(weight, slope)| {
        let step = match h {
            Factors::Same(h) => Factors::Same(h * weight),
            Factors::Each(h) => Factors::Each(h.iter().map(|h| h * weight).collect()),
        };
        rows::scale(slope.clone(), &step)
    });
    x.into_iter().chain(terms).reduce(|sum, term| sum + term).expect("a method has a weight that is not zero")
}

/// A row still under way.
struct Active {
    row: usize,
    t: f64,
    /// The size of the next step, with its sign.
    h: f64,
}

struct Adaptive<'a> {
    method: &'a Tableau,
    to: f64,
    rtol: f64,
    atol: f64,
    most: usize,
}

impl Adaptive<'_> {
    fn run(&self, field: &mut Field, x: Tensor<2>, from: f64) -> Result<Integrated> {
        let Some(error) = self.method.error else {
            return Err(Error::new("adaptive steps need a method with an embedded error, such as DORMAND_PRINCE"));
        };
        let span = self.to - from;
        // Start small and let the controller grow it.
        let mut active: Vec<Active> = (0..x.dims()[0]).map(|row| Active { row, t: from, h: span / 100.0 }).collect();
        let mut done: Vec<(usize, Tensor<2>)> = Vec::new();
        let (mut state, mut first) = (x, None);
        let (mut attempts, mut evaluations) = (0, 0);
        while span != 0.0 && !active.is_empty() {
            attempts += 1;
            ensure!(
                attempts <= self.most,
                "no end after {} attempted steps of the adaptive integrator: loosen rtol and atol, or raise max_steps",
                self.most
            );
            let batch_rows: Vec<usize> = active.iter().map(|row| row.row).collect();
            let h = Factors::Each(active.iter().map(|row| row.h).collect());
            let slopes = stages(self.method, self.method.stages.len(), &state, &h, first.take(), |x, fraction| {
                evaluations += 1;
                let times: Vec<f64> = active.iter().map(|row| row.t + fraction * row.h).collect();
                field(x, Times::Each(&times), &batch_rows)
            })?;
            let moved = combine(Some(state.clone()), self.method.weights, &slopes, &h);
            let norms = self.norms(&state, &moved, combine(None, error, &slopes, &h));
            let accepted = self.control(&mut active, &norms)?;
            let taken = rows::column(&accepted, &state).bool();
            state = state.mask_where(taken.clone().expand(moved.dims()), moved);
            if self.method.first_is_last() {
                // A rejected step starts again from where it started.
                let (old, new) = (slopes[0].clone(), slopes[slopes.len() - 1].clone());
                first = Some(old.mask_where(taken.expand(new.dims()), new));
            }
            // What rounding leaves of the interval is no step.
            let (over, under): (Vec<usize>, Vec<usize>) =
                (0..active.len()).partition(|&i| (self.to - active[i].t) / span <= 1e-12);
            if over.is_empty() {
                continue;
            }
            done.extend(over.iter().map(|&i| (active[i].row, state.clone().narrow(0, i, 1))));
            if under.is_empty() {
                break;
            }
            state = rows::select(state, &under);
            first = first.map(|first| rows::select(first, &under));
            let mut place = 0..;
            active.retain(|_| place.next().is_some_and(|i| under.binary_search(&i).is_ok()));
        }
        if done.is_empty() {
            return Ok(Integrated { x: state, evaluations });
        }
        done.sort_by_key(|(row, _)| *row);
        let x = Tensor::cat(done.into_iter().map(|(_, row)| row).collect(), 0);
        Ok(Integrated { x, evaluations })
    }

    fn norms(&self, before: &Tensor<2>, after: &Tensor<2>, error: Tensor<2>) -> Vec<f64> {
        let scale = before.clone().abs().max_pair(after.clone().abs()).mul_scalar(self.rtol).add_scalar(self.atol);
        rows::host(&(error / scale).square().mean_dim(1).sqrt())
    }

    /// Moves the rows whose error is small enough, says which (1 or 0), and sets the next step of all.
    fn control(&self, active: &mut [Active], norms: &[f64]) -> Result<Vec<f64>> {
        let exponent = -1.0 / f64::from(self.method.order);
        let mut accepted = Vec::with_capacity(active.len());
        for (row, norm) in active.iter_mut().zip(norms) {
            if !norm.is_finite() {
                return Err(Error::of(
                    crate::Kind::NotFinite,
                    format!(
                        "the velocity of sample {} of the batch is not finite near t = {}: the model gives no usable score there",
                        row.row, row.t
                    ),
                ));
            }
            let accept = *norm <= 1.0;
            if accept {
                row.t += row.h;
            }
            accepted.push(if accept { 1.0 } else { 0.0 });
            // Aim at 0.9^order of the tolerance; never change the step more than five-fold.
            let factor = if *norm > 0.0 { (0.9 * norm.powf(exponent)).clamp(0.2, 5.0) } else { 5.0 };
            let left = self.to - row.t;
            row.h = if (row.h * factor).abs() < left.abs() { row.h * factor } else { left };
        }
        Ok(accepted)
    }
}
