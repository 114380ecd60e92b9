//! Exact models against definitions: differences of the density, integrals, moments.

use stein::{
    AnySchedule, Condition, Kernel, Keys,
    denoiser::score,
    exact::{Empirical, Exact, Gaussian, GaussianMixture, MixtureFile},
    rows::host,
};

use crate::{assert_close, denoise, line, plane, tensor, times};

fn models() -> Vec<(&'static str, Box<dyn Exact>)> {
    let gaussian = Gaussian::new(vec![0.3, -0.8], &[vec![1.0, 0.6], vec![0.6, 0.8]]).unwrap();
    let points = Empirical::new(vec![0.0, 0.0, 1.0, -0.5, -0.7, 1.2], 2).unwrap();
    vec![("gaussian", Box::new(gaussian)), ("mixture", Box::new(plane())), ("empirical", Box::new(points))]
}

#[test]
fn the_denoiser_is_the_gradient_of_the_log_density_at_every_level() {
    for (name, model) in models() {
        for schedule in AnySchedule::all() {
            for t in times(&*schedule, 7).into_iter().skip(1) {
                let at = schedule.kernel(t);
                let x = [0.4 * at.alpha + 0.5 * at.sigma, -0.9 * at.alpha + 0.2 * at.sigma];
                let ours = host(
                    &score(tensor(&x, 2).into(), tensor(&denoise(&*model, &x, 2, &at), 2).into(), (&at).into()).value,
                );
                for i in 0..2 {
                    // Responsibilities vary over lengths of σ²/distance, a tenth of σ or less at the cleanest levels: 1e-7 of
                    // curvature and 1e-9 of rounding, with room.
                    let h = 1e-5 * at.sigma;
                    let moved = |by: f64| {
                        let mut moved = x;
                        moved[i] += by;
                        model.log_density(&moved, &at)[0]
                    };
                    let difference = (moved(h) - moved(-h)) / (2.0 * h) * at.sigma;
                    let what = format!("{name} on {} at {t}", schedule.kind());
                    assert_close(ours[i] * at.sigma, difference, 1e-5, what);
                }
            }
        }
    }
}

#[test]
fn densities_integrate_to_one() {
    let model = line();
    for (alpha, sigma) in [(1.0, 0.0), (0.8, 0.6), (0.1, 2.0)] {
        let at = Kernel { t: 0.0, alpha, sigma, d_alpha: 0.0, d_sigma: 1.0 };
        let h = 1e-3;
        let total: f64 = (-20_000..20_000).map(|i| model.log_density(&[i as f64 * h], &at)[0].exp() * h).sum();
        // The rectangle rule on a smooth density that vanishes at the ends is exact to rounding.
        assert_close(total, 1.0, 1e-9, format!("alpha {alpha}, sigma {sigma}"));
    }
}

#[test]
fn draws_have_the_models_moments_at_every_level() {
    let n = 20_000;
    for (name, model) in models() {
        let (mean, covariance) = (model.mean(), model.covariance());
        for (alpha, sigma) in [(1.0, 0.0), (0.6, 0.8)] {
            let at = Kernel { t: 0.0, alpha, sigma, d_alpha: 0.0, d_sigma: 1.0 };
            let x = model.draw(&Keys::range(3, 0, n), &at);
            let column = |j: usize| x.iter().skip(j).step_by(2);
            let variance = |j: usize| alpha * alpha * covariance[3 * j] + sigma * sigma;
            for i in 0..2 {
                let ours = column(i).sum::<f64>() / n as f64;
                // Five standard errors of a mean, and of a covariance: E a²b² is at most 3 Var a Var b for these models.
                let bound = 5.0 * (variance(i) / n as f64).sqrt();
                assert!((ours - alpha * mean[i]).abs() < bound, "{name}: mean {ours}, {}", alpha * mean[i]);
                for j in 0..2 {
                    let centered = column(i).zip(column(j)).map(|(a, b)| (a - alpha * mean[i]) * (b - alpha * mean[j]));
                    let ours = centered.sum::<f64>() / n as f64;
                    let expected = alpha * alpha * covariance[2 * i + j] + if i == j { sigma * sigma } else { 0.0 };
                    let bound = 5.0 * (3.0 * variance(i) * variance(j) / n as f64).sqrt();
                    assert!((ours - expected).abs() < bound, "{name}: covariance {ours}, {expected}");
                }
            }
        }
    }
}

#[test]
fn only_the_ratio_of_noise_and_signal_matters() {
    // D(x; α, σ) = D(x/α; 1, σ/α).
    for (name, model) in models() {
        let at = Kernel { t: 0.0, alpha: 0.35, sigma: 0.8, d_alpha: 0.0, d_sigma: 1.0 };
        let scaled = Kernel { alpha: 1.0, sigma: 0.8 / 0.35, ..at };
        let x = [0.3, -0.4];
        let (ours, theirs) = (denoise(&*model, &x, 2, &at), denoise(&*model, &x.map(|x| x / 0.35), 2, &scaled));
        ours.iter().zip(&theirs).for_each(|(a, b)| assert_close(*a, *b, 1e-12, name));
    }
}

#[test]
fn a_class_is_a_component() {
    let model = plane();
    let at = Kernel { t: 0.0, alpha: 1.0, sigma: 1e6, d_alpha: 0.0, d_sigma: 1.0 };
    let given = Condition::classes(vec![1]);
    let ours = host(&stein::denoise(&model, tensor(&[0.0, 0.0], 2), (&at).into(), &given).unwrap());
    // Under infinite noise the estimate is the component's mean.
    assert_close(ours[0], 1.0, 1e-9, "x");
    assert_close(ours[1], -1.0, 1e-9, "y");
    let beyond = stein::denoise(&model, tensor(&[0.0, 0.0], 2), (&at).into(), &Condition::classes(vec![2]));
    assert!(beyond.unwrap_err().to_string().contains("0 to 1"));
}

#[test]
fn what_is_no_mixture_is_refused() {
    let refuse = |json: &str| {
        serde_json::from_str::<MixtureFile>(json)
            .map_err(|error| error.to_string())
            .and_then(|file| GaussianMixture::try_from(file).map(|_| ()).map_err(|error| error.to_string()))
            .unwrap_err()
    };
    assert!(refuse(r#"{"weights": [1], "means": [[0]]}"#).contains("either `stds`"));
    assert!(refuse(r#"{"weights": [1, 2], "means": [[0]], "stds": [1]}"#).contains("2 weights"));
    assert!(refuse(r#"{"weights": [-1], "means": [[0]], "stds": [1]}"#).contains("weights"));
    assert!(refuse(r#"{"weights": [1], "means": [[0, 0]], "covs": [[[1, 2], [0, 1]]]}"#).contains("symmetric"));
    assert!(
        refuse(r#"{"weights": [1], "means": [[0, 0]], "covs": [[[1, 2], [2, 1]]]}"#).contains("negative eigenvalue")
    );
    assert!(refuse(r#"{"weights": [1], "means": [[0]], "stds": [1], "nonsense": 1}"#).contains("nonsense"));
}
