//! Every schedule: its derivatives, its inverse, its direction.

use stein::{AnySchedule, Discrete, Edm, LevelList, Schedule, SubVp, Ve, Vp};

use crate::{assert_close, times};

#[test]
fn log_snr_decreases_strictly() {
    for schedule in AnySchedule::all() {
        let log_snr: Vec<f64> = times(&*schedule, 500).into_iter().map(|t| schedule.kernel(t).log_snr()).collect();
        assert!(log_snr.windows(2).all(|pair| pair[0] > pair[1]), "{}", schedule.kind());
    }
}

#[test]
fn derivatives_match_differences() {
    for schedule in AnySchedule::all() {
        let (first, last) = schedule.span();
        // Not at the ends, where a central difference leaves the span.
        for t in times(&*schedule, 199).into_iter().skip(1).step_by(2).filter(|&t| t > first && t < last) {
            let h = 1e-5 * (t - first).min(last - t).max(1e-3 * (last - first)).min(1.0);
            let (before, at, after) = (schedule.kernel(t - h), schedule.kernel(t), schedule.kernel(t + h));
            let (d_alpha, d_sigma) =
                ((after.alpha - before.alpha) / (2.0 * h), (after.sigma - before.sigma) / (2.0 * h));
            // h² times the third derivative, and rounding over h: 1e-6 covers both.
            assert_close(at.d_alpha, d_alpha, 1e-6, format!("{} d_alpha at {t}", schedule.kind()));
            assert_close(at.d_sigma, d_sigma, 1e-6, format!("{} d_sigma at {t}", schedule.kind()));
        }
    }
}

#[test]
fn time_at_inverts_log_snr() {
    for schedule in AnySchedule::all() {
        let (first, last) = schedule.span();
        for t in times(&*schedule, 301) {
            let back = schedule.time_at(schedule.kernel(t).log_snr());
            assert!((back - t).abs() <= 1e-9 * (last - first), "{}: {t} came back as {back}", schedule.kind());
        }
    }
}

#[test]
fn diffusion_is_not_negative_and_is_minus_the_slope_of_log_snr() {
    for schedule in AnySchedule::all() {
        let (first, last) = schedule.span();
        for t in times(&*schedule, 101).into_iter().filter(|&t| t > first && t < last) {
            let at = schedule.kernel(t);
            assert!(at.diffusion_squared() >= 0.0, "{} at {t}", schedule.kind());
            let h = 1e-5 * (t - first).min(last - t).min(1.0);
            let slope = (schedule.kernel(t + h).log_snr() - schedule.kernel(t - h).log_snr()) / (2.0 * h);
            assert_close(
                at.diffusion_squared() / at.sigma.powi(2),
                -slope,
                1e-5,
                format!("{} at {t}", schedule.kind()),
            );
        }
    }
}

#[test]
fn the_papers_drift_and_diffusion() {
    // Score-SDE: VP g² = β; sub-VP g² = β (1 − exp(−2B)); VE g = σ √(2 ln(σ_max/σ_min)).
    for t in [0.05, 0.3, 0.9] {
        let beta = 0.1 + 19.9 * t;
        let b = 0.1 * t + 19.9 * t * t / 2.0;
        let (vp, sub_vp, ve) = (Vp::default().kernel(t), SubVp::default().kernel(t), Ve::default().kernel(t));
        assert_close(vp.drift(), -0.5 * beta, 1e-12, "VP drift");
        assert_close(vp.diffusion_squared(), beta, 1e-12, "VP diffusion");
        assert_close(sub_vp.drift(), -0.5 * beta, 1e-12, "sub-VP drift");
        assert_close(sub_vp.diffusion_squared(), beta * (1.0 - (-2.0 * b).exp()), 1e-12, "sub-VP diffusion");
        assert_close(ve.diffusion_squared().sqrt(), ve.sigma * (2.0 * 5000f64.ln()).sqrt(), 1e-12, "VE diffusion");
    }
    assert_close(Edm::default().kernel(3.0).diffusion_squared(), 6.0, 1e-12, "EDM g² = 2σ");
}

#[test]
fn lists_of_levels_are_the_published_ones() {
    let alpha_bar = |levels| Discrete::new(levels).unwrap().alpha_bar();
    let product = |betas: Vec<f64>| -> Vec<f64> {
        betas
            .iter()
            .scan(1.0, |bar, beta| {
                *bar *= 1.0 - beta;
                Some(*bar)
            })
            .collect()
    };
    let line = |from: f64, to: f64| (0..1000).map(move |i| from + (to - from) * i as f64 / 999.0);
    let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
    let cosine = |u: f64| ((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let count = 1000;
    let cases = [
        (LevelList::Linear { first: 1e-4, last: 0.02, count }, line(1e-4, 0.02).collect()),
        (
            LevelList::SqrtLinear { first: 0.0015, last: 0.0195, count },
            line(0.0015f64.sqrt(), 0.0195f64.sqrt()).map(|root| root * root).collect(),
        ),
        (
            LevelList::Sigmoid { first: 1e-4, last: 0.02, reach: 6.0, count },
            line(-6.0, 6.0).map(|u| 1e-4 + 0.0199 * sigmoid(u)).collect(),
        ),
        (
            LevelList::Cosine { offset: 0.008, max_beta: 0.999, count },
            (0..count)
                .map(|i| (1.0 - cosine((i + 1) as f64 / 1000.0) / cosine(i as f64 / 1000.0)).min(0.999))
                .collect(),
        ),
    ];
    for (levels, betas) in cases {
        for (i, (ours, theirs)) in alpha_bar(levels.clone()).into_iter().zip(product(betas)).enumerate() {
            assert!((ours / theirs - 1.0).abs() < 1e-9, "{levels:?} level {i}: {ours} against {theirs}");
        }
    }
    // The cosine schedule spreads its noise: an integer division once put all of it in the last step.
    let middle = alpha_bar(LevelList::Cosine { offset: 0.008, max_beta: 0.999, count })[499];
    assert!((middle - 0.4937).abs() < 1e-3, "cosine at half time: {middle}");
    // NCSN: ten sigmas from 1 to 0.01.
    let ncsn = Discrete::new(LevelList::Geometric { first: 0.01, last: 1.0, count: 10 }).unwrap();
    assert_close(ncsn.kernel(9.0).sigma, 1.0, 1e-12, "largest sigma");
    assert_close(ncsn.kernel(1.0).sigma / ncsn.kernel(0.0).sigma, 100f64.powf(1.0 / 9.0), 1e-12, "ratio");
}

#[test]
fn vp_is_the_limit_of_the_discrete_betas() {
    // β_i = β(t)/N: the products differ from the exponential by O(β/N).
    let discrete = Discrete::default();
    for i in [0usize, 100, 500, 999] {
        let t = (i + 1) as f64 / 1000.0;
        assert!((discrete.kernel(i as f64).alpha - Vp::default().kernel(t).alpha).abs() < 5e-3, "level {i}");
    }
}

#[test]
fn impossible_parameters_are_refused() {
    assert!(Ve { sigma_min: 1.0, sigma_max: 0.5 }.check().unwrap_err().to_string().contains("sigma_max is 0.5"));
    assert!(Vp { beta_min: -1.0, ..Vp::default() }.check().is_err());
    assert!(Vp { t_min: 0.0, ..Vp::default() }.check().is_err());
    assert!(Discrete::new(LevelList::Betas { values: vec![0.1, 1.5] }).unwrap_err().to_string().contains("beta 1"));
    assert!(Discrete::new(LevelList::Sigmas { values: vec![1.0, 0.5] }).is_err());
    assert!(Discrete::new(LevelList::Betas { values: vec![0.1] }).is_err());
}

#[test]
fn schedules_survive_their_files() {
    for schedule in AnySchedule::all() {
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<AnySchedule>(&text).unwrap(), schedule, "{text}");
        let unknown = text.replacen('{', "{\"nonsense\": 1, ", 1);
        assert!(
            serde_json::from_str::<AnySchedule>(&unknown).unwrap_err().to_string().contains("nonsense"),
            "{unknown}"
        );
    }
    assert!(AnySchedule::named("sub_pv").unwrap_err().to_string().contains("nearest first: sub_vp"));
}
