//! The variational bound against what it must be: probabilities of gray levels that sum to one, divergences of Gaussians, and nothing left
//! to pay where the estimate is right.

use stein::{
    AnySchedule, Condition, Discrete, Dual, Estimate, Kernel, Keys, Levels, Result, Variance,
    objective::{Pixels, VariationalBound},
    rows::host,
};

use crate::{assert_close, tensor};

fn chain(count: usize) -> Vec<Kernel> {
    let settings = format!("levels = {{ kind = \"linear\", first = 1e-3, last = 0.2, count = {count} }}");
    let schedule = AnySchedule::from(toml::from_str::<Discrete>(&settings).unwrap());
    (0..count).map(|level| schedule.kernel(level as f64)).collect()
}

fn fixed() -> VariationalBound {
    VariationalBound { variance: Variance::Posterior, ..VariationalBound::default() }
}

fn estimate(mean: f64, variance: Option<f64>, rows: usize) -> Estimate {
    let mean: Dual<2> = tensor(&vec![mean; rows], 1).into();
    Estimate { variance: variance.map(|part| tensor(&vec![part; rows], 1)), ..mean.into() }
}

#[test]
fn the_probabilities_of_all_gray_levels_sum_to_one() {
    let chain = chain(20);
    for levels in [2, 17, 256] {
        let pixels = Pixels { levels, low: -1.0, high: 1.0 };
        let values: Vec<f64> = (0..levels).map(|k| -1.0 + 2.0 * f64::from(k) / f64::from(levels - 1)).collect();
        let x0 = tensor(&values, 1);
        for (mean, part) in [(0.1, 0.0), (-0.97, 0.5), (1.3, 1.0)] {
            for published in [false, true] {
                let bound = VariationalBound { variance: Variance::Learned, pixels, published };
                let estimate = estimate(mean, Some(part), values.len());
                let term = bound.term(&chain, &vec![0; values.len()], &x0, &x0, &estimate).unwrap();
                let sum: f64 = host(&term).iter().map(|nats| (-nats).exp()).sum();
                // Each probability is at least 1e-12.
                assert_close(sum, 1.0, 1e-9, format!("{levels} levels, mean {mean}"));
            }
        }
    }
}

#[test]
fn the_terms_are_divergences_of_gaussians() {
    let chain = chain(20);
    let (x0, x, mean) = (0.3, -0.7, 0.55);
    for i in 1..20 {
        let (from, to) = (chain[i], chain[i - 1]);
        let (ratio, forward) = from.transition_from(&to);
        let posterior = from.posterior_variance(&to);
        let center =
            |x0: f64| ratio * (to.sigma / from.sigma).powi(2) * x + to.alpha * forward / from.sigma.powi(2) * x0;
        for (variance, part, own) in [
            (Variance::Posterior, None, posterior),
            (Variance::Forward, None, forward),
            (Variance::Learned, Some(0.25), (0.25 * forward.ln() + 0.75 * posterior.ln()).exp()),
        ] {
            let bound = VariationalBound { variance, ..VariationalBound::default() };
            let term = bound.term(&chain, &[i], &tensor(&[x0], 1), &tensor(&[x], 1), &estimate(mean, part, 1)).unwrap();
            // KL(N(a, p) ‖ N(b, v)) = ½ (ln v/p − 1 + p/v + (a − b)²/v).
            let apart = center(x0) - center(mean);
            let wanted = 0.5 * ((own / posterior).ln() - 1.0 + posterior / own + apart.powi(2) / own);
            assert_close(host(&term)[0], wanted, 1e-10, format!("{variance:?}, level {i}"));
        }
        // Nothing is paid for what is known.
        let right = fixed().term(&chain, &[i], &tensor(&[x0], 1), &tensor(&[x], 1), &estimate(x0, None, 1)).unwrap();
        assert!(host(&right)[0].abs() < 1e-12);
    }
}

/// Knows the one picture there is.
struct Knows(f64);

impl stein::Denoiser for Knows {
    fn estimate(&self, x: Dual<2>, _: Levels, _: &Condition) -> Result<Estimate> {
        Ok(x.linear(|x| x.mul_scalar(0.0)).shift(|x| x.add_scalar(self.0)).into())
    }
}

#[test]
fn the_only_picture_costs_next_to_nothing() {
    // The value of level 200 of 256.
    let value = -1.0 + 2.0 * 200.0 / 255.0;
    let (chain, none) = (chain(60), Condition::none());
    let x0 = tensor(&[value; 6], 3);
    let cost = |denoiser: &Knows, chain: &[Kernel]| {
        let bound = fixed();
        let found = bound.log_probability(denoiser, chain, &x0, &none, &Keys::range(0, 0, 2), true).unwrap();
        assert_eq!(found.evaluations, chain.len());
        -found.nats[0] / 3.0
    };
    // At a σ of 0.03 a pixel is not told from its neighbors 0.008 away: its entropy is left, and the prior's part.
    let first = chain[1].posterior_variance(&chain[0]).sqrt() / (2.0 / 255.0);
    let entropy = (first * std::f64::consts::TAU.sqrt()).ln();
    let right = cost(&Knows(value), &chain);
    assert!((right - entropy).abs() < 0.05, "{right} for {entropy}");
    assert!(cost(&Knows(value - 0.2), &chain) > right + 1.0);
    // Fewer levels are another chain, of which a wrong estimate costs less.
    let few: Vec<Kernel> = chain.iter().copied().step_by(6).collect();
    assert!(cost(&Knows(value - 0.2), &few) < cost(&Knows(value - 0.2), &chain));
}

#[test]
fn what_is_no_chain_is_refused() {
    let chain = chain(5);
    let (x, one) = (tensor(&[0.1], 1), estimate(0.1, None, 1));
    let refuse = |bound: VariationalBound, chain: &[Kernel], index: &[usize], part: &str| {
        let error = bound.term(chain, index, &x, &x, &one).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let bound = fixed();
    refuse(bound, &chain[..1], &[0], "chain of 1 levels");
    refuse(bound, &chain, &[5], "chain of 5 levels");
    refuse(bound, &chain, &[0, 0], "2 places");
    refuse(VariationalBound { variance: Variance::Learned, ..bound }, &chain, &[1], "not learned variances");
    let upside_down = Pixels { low: 1.0, high: -1.0, levels: 256 };
    assert!(VariationalBound { pixels: upside_down, ..bound }.check().is_err());
}
