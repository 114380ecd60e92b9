//! Monotonic rational-quadratic splines (Durkan et al., arXiv:1906.04032, section 3.1; Gregory & Delbourgo, 1982).
//!
//! K bins of widths w_k and heights h_k between knots (x_k, y_k) with derivatives d_k. With s = h_k/w_k and θ = (x − x_k)/w_k:
//!
//! y = y_k + h_k (s θ² + d_k θ(1 − θ)) / (s + (d_{k+1} + d_k − 2s) θ(1 − θ))                               (equation 4)
//!
//! y' = s² (d_{k+1} θ² + 2s θ(1 − θ) + d_k (1 − θ)²) / (s + (d_{k+1} + d_k − 2s) θ(1 − θ))²                 (equation 5)
//!
//! The inverse is a root of a quadratic (equations 6 to 8). Widths and heights are softmaxes of free numbers, no bin narrower
//! than a thousandth of the interval; derivatives are softplus of free numbers, plus a thousandth.

use burn::tensor::{Int, Tensor, activation::softmax};
use stein::{Result, ensure};

use super::transform::softplus;

/// The least width or height of a bin over the interval, and the least derivative.
const LEAST: f64 = 1e-3;

/// What a spline does at its ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ends {
    /// It maps \[−bound, bound\] to itself and is the identity outside, so that both end derivatives are 1 and K − 1 are free.
    Linear {
        /// Positive.
        bound: f64,
    },
    /// It maps \[0, 1\] to itself, and K + 1 derivatives are free.
    Unit,
}

/// A spline of a number of bins, whose knots are given with every number it maps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spline {
    bins: usize,
    ends: Ends,
}

/// The free numbers of a spline for each of `[rows, dim]` numbers.
#[derive(Debug, Clone)]
pub struct Bends {
    /// `[rows, dim, K]`
    pub widths: Tensor<3>,
    /// `[rows, dim, K]`
    pub heights: Tensor<3>,
    /// `[rows, dim, K − 1]`, or K + 1 on the unit interval.
    pub derivatives: Tensor<3>,
}

impl Spline {
    /// A spline of 2 to 500 bins, which leaves room for the least widths.
    ///
    /// # Errors
    /// Other numbers of bins, and a bound that is not positive and finite.
    pub fn new(bins: usize, ends: Ends) -> Result<Self> {
        ensure!((2..=500).contains(&bins), "a spline of {bins} bins is none: give 2 to 500, such as 8");
        if let Ends::Linear { bound } = ends {
            ensure!(
                bound > 0.0 && bound <= 1e6,
                "a spline on [-{bound}, {bound}] is none: give a positive bound of at most 1e6, such as 4"
            );
        }
        Ok(Self { bins, ends })
    }

    /// Free numbers for every number that is mapped.
    pub(super) fn parameters(&self) -> usize {
        match self.ends {
            Ends::Linear { .. } => 3 * self.bins - 1,
            Ends::Unit => 3 * self.bins + 1,
        }
    }

    /// The free numbers `[rows, dim, parameters]` one after the other: widths, heights, derivatives.
    pub(super) fn bends(&self, all: Tensor<3>) -> Bends {
        let (bins, count) = (self.bins, all.dims()[2]);
        let part = |from: usize, count: usize| all.clone().narrow(2, from, count);
        Bends { widths: part(0, bins), heights: part(bins, bins), derivatives: part(2 * bins, count - 2 * bins) }
    }

    /// y and ln y' of numbers `x` `[rows, dim]`, of that shape both.
    ///
    /// # Errors
    /// Numbers outside the unit interval, if it is one on it.
    pub fn forward(&self, x: Tensor<2>, bends: Bends) -> Result<(Tensor<2>, Tensor<2>)> {
        self.within(x, |x| {
            let ([across, up], derivatives) = self.knots(bends);
            let piece = Piece::of(&self.bin(&x, &across), across, up, derivatives);
            let theta = (x - piece.x.clone()) / piece.width.clone();
            piece.at(theta)
        })
    }

    /// x and ln(1/y') of numbers `y` `[rows, dim]`, of that shape both.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn inverse(&self, y: Tensor<2>, bends: Bends) -> Result<(Tensor<2>, Tensor<2>)> {
        self.within(y, |y| {
            let ([across, up], derivatives) = self.knots(bends);
            let piece = Piece::of(&self.bin(&y, &up), across, up, derivatives);
            let theta = piece.theta(y);
            let (_, log_slope) = piece.at(theta.clone());
            (theta * piece.width + piece.x, -log_slope)
        })
    }

    /// The interval it bends.
    fn interval(&self) -> [f64; 2] {
        match self.ends {
            Ends::Linear { bound } => [-bound, bound],
            Ends::Unit => [0.0, 1.0],
        }
    }

    /// What `map` makes of the numbers inside the interval; those outside stay, where that is what its ends do.
    fn within(
        &self,
        x: Tensor<2>,
        map: impl FnOnce(Tensor<2>) -> (Tensor<2>, Tensor<2>),
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let [low, high] = self.interval();
        let inside = x.clone().greater_equal_elem(low).bool_and(x.clone().lower_equal_elem(high));
        if self.ends == Ends::Unit {
            let all: bool = inside.clone().all().into_scalar();
            ensure!(all, "a spline on the unit interval was given numbers outside [0, 1]: squash them first");
        }
        let outside = inside.bool_not();
        let (y, log_slope) = map(x.clone().clamp(low, high));
        Ok((y.mask_where(outside.clone(), x), log_slope.mask_fill(outside, 0.0)))
    }

    /// The knots across and up, `[rows, dim, K + 1]` each, and the derivatives there.
    fn knots(&self, bends: Bends) -> ([Tensor<3>; 2], Tensor<3>) {
        let [low, high] = self.interval();
        let [rows, dim, bins] = bends.widths.dims();
        let (device, kind) = (bends.widths.device(), bends.widths.dtype());
        let one = |value: f64| Tensor::<3>::full([rows, dim, 1], value, (&device, kind));
        let knots = |free: Tensor<3>| {
            let shares = softmax(free, 2) * (1.0 - LEAST * bins as f64) + LEAST;
            let inner = shares.cumsum(2).narrow(2, 0, bins - 1) * (high - low) + low;
            Tensor::cat(vec![one(low), inner, one(high)], 2)
        };
        let derivatives = softplus(bends.derivatives) + LEAST;
        let derivatives = match self.ends {
            Ends::Linear { .. } => Tensor::cat(vec![one(1.0), derivatives, one(1.0)], 2),
            Ends::Unit => derivatives,
        };
        ([bends.widths, bends.heights].map(knots), derivatives)
    }

    /// The bin of every number, `[rows, dim, 1]`: the last that begins at or before it.
    fn bin(&self, at: &Tensor<2>, knots: &Tensor<3>) -> Tensor<3, Int> {
        let [rows, dim] = at.dims();
        let inner = knots.clone().detach().narrow(2, 1, self.bins - 1);
        let at = at.clone().detach().reshape([rows, dim, 1]).expand([rows, dim, self.bins - 1]);
        inner.lower_equal(at).int().sum_dim(2)
    }
}

/// One bin for every number.
struct Piece {
    x: Tensor<2>,
    width: Tensor<2>,
    y: Tensor<2>,
    height: Tensor<2>,
    slope: Tensor<2>,
    derivatives: [Tensor<2>; 2],
}

impl Piece {
    fn of(bin: &Tensor<3, Int>, across: Tensor<3>, up: Tensor<3>, derivatives: Tensor<3>) -> Self {
        let [rows, dim, _] = bin.dims();
        // The values at the two ends of the bin.
        let ends = |knots: Tensor<3>| {
            let at = |bin: Tensor<3, Int>| knots.clone().gather(2, bin).reshape([rows, dim]);
            [at(bin.clone()), at(bin.clone() + 1)]
        };
        let ([x, right], [y, top]) = (ends(across), ends(up));
        let (width, height) = (right - x.clone(), top - y.clone());
        Self { slope: height.clone() / width.clone(), derivatives: ends(derivatives), x, width, y, height }
    }

    /// d_{k+1} + d_k − 2s.
    fn bend(&self) -> Tensor<2> {
        let [left, right] = self.derivatives.clone();
        left + right - self.slope.clone() * 2.0
    }

    /// y and ln y' at θ.
    fn at(&self, theta: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (slope, [left, right]) = (self.slope.clone(), self.derivatives.clone());
        let rest = -theta.clone() + 1.0;
        let both = theta.clone() * rest.clone();
        let below = slope.clone() + self.bend() * both.clone();
        let above = slope.clone() * theta.clone().square() + left.clone() * both.clone();
        let rise = right * theta.square() + slope.clone() * both * 2.0 + left * rest.square();
        let log_slope = (slope.square() * rise).log() - below.clone().log() * 2.0;
        (self.y.clone() + self.height.clone() * above / below, log_slope)
    }

    /// θ of y: the root 2c/(−b − √(b² − 4ac)) of a θ² + b θ + c (equations 6 to 8).
    fn theta(&self, y: Tensor<2>) -> Tensor<2> {
        let (slope, [left, _]) = (self.slope.clone(), self.derivatives.clone());
        let up = y - self.y.clone();
        let bent = up.clone() * self.bend();
        let a = self.height.clone() * (slope.clone() - left.clone()) + bent.clone();
        let b = self.height.clone() * left - bent;
        let c = -slope * up;
        // Never negative but by rounding.
        let root = (b.clone().square() - a * c.clone() * 4.0).clamp_min(0.0).sqrt();
        c * 2.0 / (-b - root)
    }
}
