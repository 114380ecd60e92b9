//! Metrics of samples of known laws: closed forms, limits, and copies.
//!
//! Draws have fixed seeds. Bounds are stated in standard errors of what is measured.

use stein_base::{Keys, Purpose};
use stein_metrics::*;

/// Standard normal rows.
fn normal(seed: u64, rows: usize, dim: usize) -> Vec<f64> {
    Keys::range(seed, 0, rows).normal(Purpose::Point, 0, dim)
}

fn shifted(rows: &[f64], shift: f64) -> Vec<f64> {
    rows.iter().map(|value| value + shift).collect()
}

fn between(metric: impl Into<AnyMetric>, dim: usize, reference: &[f64], samples: &[f64]) -> Measured {
    measure(metric, dim, [(Side::Reference, reference.into()), (Side::Samples, samples.into())]).unwrap()
}

fn with_held_out(metric: impl Into<AnyMetric>, dim: usize, [train, held_out, samples]: [&[f64]; 3]) -> Measured {
    let sides = [(Side::Reference, train), (Side::HeldOut, held_out), (Side::Samples, samples)];
    measure(metric, dim, sides.map(|(side, rows)| (side, rows.into()))).unwrap()
}

fn named(kind: &str) -> AnyMetric {
    AnyMetric::named(kind).unwrap()
}

#[test]
fn frechet_of_gaussians() {
    // Of commuting covariances the trace term is |√Σ₁ − √Σ₂|².
    let diagonal = |values: [f64; 3]| {
        let mut covariance = vec![0.0; 9];
        (0..3).for_each(|i| covariance[4 * i] = values[i]);
        covariance
    };
    let one = Moments::known(vec![1.0, 2.0, 3.0], &diagonal([4.0, 9.0, 1.0])).unwrap();
    let two = Moments::known(vec![1.0, 0.0, 3.5], &diagonal([1.0, 9.0, 16.0])).unwrap();
    let terms = frechet_distance(&one, &two).unwrap();
    assert!((terms.mean - 4.25).abs() < 1e-14 && (terms.trace - (1.0 + 0.0 + 9.0)).abs() < 1e-13, "{terms:?}");
    // A direction without variance on either side, or on both.
    let flat = Moments::known(vec![1.0, 2.0, 3.0], &diagonal([4.0, 0.0, 1.0])).unwrap();
    let flatter = Moments::known(vec![1.0, 2.0, 3.0], &diagonal([0.0, 0.0, 9.0])).unwrap();
    for (one, two, expected) in
        [(&one, &flat, 9.0), (&flat, &one, 9.0), (&flat, &flatter, 4.0 + 4.0), (&flat, &flat, 0.0)]
    {
        assert!((frechet_distance(one, two).unwrap().sum() - expected).abs() < 1e-13, "{expected}");
    }
    // In two dimensions tr √M = √(tr M + 2 √det M), and M = Σ₁ Σ₂ has the trace and determinant of products.
    let one = Moments::known(vec![0.0; 2], &[2.0, 0.5, 0.5, 1.0]).unwrap();
    let two = Moments::known(vec![0.0; 2], &[1.0, -0.3, -0.3, 3.0]).unwrap();
    let (trace, determinant): (f64, f64) = (2.0 - 0.15 - 0.15 + 3.0, 1.75 * 2.91);
    let expected = 3.0 + 4.0 - 2.0 * (trace + 2.0 * determinant.sqrt()).sqrt();
    assert!((frechet_distance(&one, &two).unwrap().sum() - expected).abs() < 1e-14);
}

#[test]
fn frechet_does_not_depend_on_a_mean_far_away() {
    let (a, b) = (normal(1, 3000, 6), shifted(&normal(2, 2000, 6), 0.5));
    let near = between(named("frechet"), 6, &a, &b).value;
    let far = between(named("frechet"), 6, &shifted(&a, 1e6), &shifted(&b, 1e6)).value;
    // Adding 10^6 rounds each value by 10^-10.
    assert!((near - far).abs() < 1e-8, "{near}, {far}");
}

/// Of N rows of a d-dimensional standard normal law against its known moments, d² is biased by about (d + d (d + 1)/4)/N: the mean's
/// scatter gives d/N, the covariance's Σ Var(S_ij)/4 over N.
#[test]
fn extrapolation_takes_the_bias_away() {
    let (dim, n) = (8, 20_000);
    let mut identity = vec![0.0; dim * dim];
    (0..dim).for_each(|i| identity[i * (dim + 1)] = 1.0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("normal.npz");
    Moments::known(vec![0.0; dim], &identity).unwrap().save(&file).unwrap();
    let rows = normal(3, n, dim);
    let of = |rows: &[f64], infinity: bool| {
        let metric = Frechet { reference: Some(file.clone()), infinity, ..Frechet::default() };
        measure(metric, dim, [(Side::Samples, rows.into())]).unwrap()
    };
    let few = of(&rows[..500 * dim], false).value;
    let bias = (dim as f64 + (dim * (dim + 1)) as f64 / 4.0) / 500.0;
    // The scatter of d² at equal laws is about bias · √(2/number of its terms); 44 terms, four of these.
    assert!((few - bias).abs() < 4.0 * bias * (2.0f64 / 44.0).sqrt(), "{few}, {bias}");
    let fitted = of(&rows, true);
    let plain = of(&rows, false);
    // The same rows in another order.
    assert!((fitted.part("at_all_samples").unwrap() - plain.value).abs() < 1e-12);
    assert!(fitted.value.abs() < plain.value, "{fitted:?}, {plain:?}");
}

#[test]
fn moments_are_those_of_their_definition_and_of_a_file() {
    for (n, dim) in [(5, 9), (700, 9)] {
        let rows = shifted(&normal(4, n, dim), 3.0);
        let mut moments = Moments::of(dim, &rows).unwrap();
        let mean: Vec<f64> = (0..dim).map(|c| rows.iter().skip(c).step_by(dim).sum::<f64>() / n as f64).collect();
        let covariance = moments.covariance();
        for (i, j) in (0..dim * dim).map(|k| (k / dim, k % dim)) {
            let products: f64 = rows.chunks(dim).map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum();
            assert!((covariance[i * dim + j] - products / (n - 1) as f64).abs() < 1e-13);
        }
        assert!(moments.mean().iter().zip(&mean).all(|(one, other)| (one - other).abs() < 1e-14));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("moments.npz");
        moments.extractor = "inception".into();
        moments.save(&file).unwrap();
        let read = Moments::load(&file).unwrap();
        assert_eq!((read.mean(), read.covariance()), (moments.mean(), covariance));
        assert_eq!(
            (read.rows, &read.extractor, &read.fingerprint),
            (Some(n), &moments.extractor, &moments.fingerprint)
        );
        assert_eq!(read.fingerprint, fingerprint(dim, Values::F64(&rows)));
    }
    let error = Moments::load(std::path::Path::new("none.npz")).unwrap_err().to_string();
    assert!(error.contains("none.npz") && error.contains("`mu` and `sigma`"), "{error}");
}

#[test]
fn a_shift_is_transported_by_itself() {
    let a = normal(5, 300, 4);
    let b = shifted(&a, 0.75);
    for p in [1, 2] {
        // Moving each row by (0.75, …) is optimal: its length is 0.75 · √4.
        let value = between(Wasserstein { p }, 4, &a, &b).value;
        assert!((value - 1.5).abs() < 1e-12, "{value}");
        let on_a_line = between(Wasserstein { p }, 1, &a, &b).value;
        assert!((on_a_line - 0.75).abs() < 1e-12, "{on_a_line}");
    }
    // θ·shift has the mean square |shift|²/dim over directions: √(2.25/4) = 0.75 within four of its errors.
    let sliced = between(SlicedWasserstein { projections: 2000, ..Default::default() }, 4, &a, &b);
    let error = sliced.part("error_of_directions").unwrap();
    assert!((sliced.value - 0.75).abs() < 4.0 * error && error < 0.02, "{sliced:?}");
}

#[test]
fn too_large_a_transport_is_refused_at_once() {
    let rows = vec![0.0f64; 2 * 5001];
    let sides = [(Side::Reference, Batch::from(&rows)), (Side::Samples, Batch::from(&rows))];
    let error = measure(Wasserstein::default(), 2, sides).unwrap_err().to_string();
    assert!(error.contains("sliced_wasserstein"), "{error}");
}

#[test]
fn a_set_against_itself_is_at_the_limit() {
    let rows = normal(6, 300, 5);
    for (kind, tolerance) in [("frechet", 1e-12), ("wasserstein", 0.0), ("sliced_wasserstein", 0.0), ("energy", 1e-13)]
    {
        let value = between(named(kind), 5, &rows, &rows).value;
        assert!(value.abs() <= tolerance, "{kind}: {value:e}");
    }
    for (kind, metric) in [
        ("kernel", AnyMetric::from(Kernel { statistic: Statistic::Biased, ..Default::default() })),
        ("mmd", Mmd { statistic: Statistic::Biased, ..Default::default() }.into()),
    ] {
        // Averages of kernel values of up to some hundreds, and of 1.
        let value = between(metric, 5, &rows, &rows).value;
        assert!(value.abs() < 1e-11, "{kind}: {value:e}");
    }
    for kind in ["precision", "recall", "coverage", "spread"] {
        let labels = vec![0; 300];
        let sides = [Side::Reference, Side::Samples].map(|side| (side, Batch::from(&rows).labeled(&labels)));
        assert_eq!(measure(named(kind), 5, sides).unwrap().value, 1.0, "{kind}");
    }
    // A row lies in its own ball and in those of the rows it is among the nearest of, but for the k-th, which is on the edge: k of
    // k on average.
    let density = between(named("density"), 5, &rows, &rows).value;
    assert!((density - 1.0).abs() < 1e-12, "{density}");
    assert_eq!(between(named("c2st"), 5, &rows, &rows).value, 0.5);
    assert_eq!(between(named("authenticity"), 5, &rows, &rows).value, 0.0);
    // In many dimensions distances come from products, and copies are copies all the same.
    let rows = shifted(&normal(7, 200, 100), 10.0);
    assert_eq!(between(named("authenticity"), 100, &rows, &rows).value, 0.0);
    assert_eq!(between(named("wasserstein"), 100, &rows, &rows).value, 0.0);
    assert!(between(named("energy"), 100, &rows, &rows).value.abs() < 1e-12);
}

/// Unbiased statistics of equal laws are 0 within their errors: of 40 draws none is beyond four. The scatter is what is said, or
/// less, as the error is the larger one of two estimates.
#[test]
fn unbiased_statistics_of_equal_laws_scatter_around_zero() {
    for kind in ["kernel", "mmd", "energy"] {
        let metric = match kind {
            "energy" => Energy { statistic: Statistic::Unbiased }.into(),
            kind => named(kind),
        };
        let draws: Vec<Measured> = (0..40)
            .map(|seed| between(metric.clone(), 3, &normal(100 + seed, 100, 3), &normal(200 + seed, 120, 3)))
            .collect();
        let errors: Vec<f64> = draws.iter().map(|draw| draw.error.unwrap()).collect();
        assert!(draws.iter().zip(&errors).all(|(draw, error)| draw.value.abs() < 4.0 * error), "{kind}");
        let mean = draws.iter().map(|draw| draw.value).sum::<f64>() / 40.0;
        let scatter = (draws.iter().map(|draw| (draw.value - mean).powi(2)).sum::<f64>() / 39.0).sqrt();
        let said = errors.iter().sum::<f64>() / 40.0;
        assert!(mean.abs() < 4.0 * scatter / 40f64.sqrt(), "{kind}: mean {mean}, scatter {scatter}");
        // A standard deviation of 40 draws is itself uncertain by 1/√80 = 11 %; the jackknife has up to √2 too much.
        assert!(scatter < 1.35 * said && said < 1.9 * scatter, "{kind}: scatter {scatter}, said {said}");
    }
}

/// Where the laws differ, the errors are those of repeated draws: standard deviations of 60 draws are uncertain by 9 %, so
/// within a third.
#[test]
fn errors_are_the_scatter_of_repeated_draws() {
    let metrics: Vec<AnyMetric> = vec![
        named("kernel"),
        named("mmd"),
        Energy { statistic: Statistic::Unbiased }.into(),
        named("c2st"),
        named("sliced_wasserstein"),
    ];
    for metric in metrics {
        let draws: Vec<Measured> = (0..60)
            .map(|seed| {
                between(metric.clone(), 3, &normal(300 + seed, 200, 3), &shifted(&normal(400 + seed, 200, 3), 0.7))
            })
            .collect();
        let mean = draws.iter().map(|draw| draw.value).sum::<f64>() / 60.0;
        let scatter = (draws.iter().map(|draw| (draw.value - mean).powi(2)).sum::<f64>() / 59.0).sqrt();
        let said = draws.iter().map(|draw| draw.error.unwrap()).sum::<f64>() / 60.0;
        // The directions of sliced transport are the same in every draw, and its five parts are few.
        let (least, most) = if metric.kind() == "sliced_wasserstein" { (0.6, 2.0) } else { (0.7, 1.4) };
        assert!((least..most).contains(&(said / scatter)), "{}: scatter {scatter}, said {said}", metric.kind());
    }
}

/// E|x − y| = √(2/π) √2 σ for normal numbers of one law, and known for shifted ones: E|N(μ, 2)| = 2/√π e^(−μ²/4) + μ erf(μ/2).
#[test]
fn energy_distance_of_shifted_normal_numbers() {
    let mu: f64 = 1.0;
    let across = 2.0 / std::f64::consts::PI.sqrt() * (-mu * mu / 4.0).exp() + mu * 0.520_499_877_813_046_5;
    let expected = 2.0 * across - 2.0 * 2.0 / std::f64::consts::PI.sqrt();
    let metric = Energy { statistic: Statistic::Unbiased };
    let measured = between(metric, 1, &normal(8, 4000, 1), &shifted(&normal(9, 4000, 1), mu));
    assert!((measured.value - expected).abs() < 4.0 * measured.error.unwrap(), "{measured:?}, {expected}");
}

/// With k = exp(−|x − y|²/2σ²), E k of a difference N(μ, 2) is √(σ²/(σ² + 2)) exp(−μ²/(2 (σ² + 2))).
#[test]
fn mmd_of_shifted_normal_numbers() {
    let (mu, sigma2): (f64, f64) = (0.8, 1.5 * 1.5);
    let kernel = |mu: f64| (sigma2 / (sigma2 + 2.0)).sqrt() * (-mu * mu / (2.0 * (sigma2 + 2.0))).exp();
    let expected = 2.0 * kernel(0.0) - 2.0 * kernel(mu);
    let metric = Mmd { sigma: Some(1.5), ..Default::default() };
    let measured = between(metric, 1, &normal(10, 3000, 1), &shifted(&normal(11, 3000, 1), mu));
    assert!((measured.value - expected).abs() < 4.0 * measured.error.unwrap(), "{measured:?}, {expected}");
}

#[test]
fn a_classifier_tells_what_differs() {
    let (a, b) = (normal(12, 2000, 4), normal(13, 2000, 4));
    let equal = between(named("c2st"), 4, &a, &b);
    assert!((equal.value - 0.5).abs() < 4.0 * equal.error.unwrap(), "{equal:?}");
    // Two standard normal laws 2·4 = 8 apart overlap by 10^-4.
    let apart = between(named("c2st"), 4, &a, &shifted(&b, 4.0));
    assert!(apart.value > 0.99, "{apart:?}");
}

#[test]
fn copies_are_exposed() {
    let dim = 6;
    let (train, held_out, fresh) = (normal(14, 1500, dim), normal(15, 1000, dim), normal(16, 1000, dim));
    let copies = &train[..1000 * dim];
    let nearly: Vec<f64> =
        copies.iter().zip(normal(17, 1000, dim)).map(|(value, noise)| value + 0.01 * noise).collect();
    for samples in [copies, &nearly] {
        let sides = [&train[..], &held_out, samples];
        assert!(between(named("authenticity"), dim, &train, samples).value < 0.02);
        assert!(with_held_out(named("novelty"), dim, sides).value < 0.05);
        assert!(with_held_out(named("copying"), dim, sides).value < -20.0);
    }
    let sides = [&train[..], &held_out, &fresh];
    // Fresh draws are as authentic as held-out ones; twice the variance, for there are two such shares.
    let authentic = with_held_out(named("authenticity"), dim, sides);
    let apart = authentic.value - authentic.part("held_out").unwrap();
    assert!(apart.abs() < 4.0 * 2f64.sqrt() * authentic.error.unwrap(), "{authentic:?}");
    for kind in ["novelty", "copying"] {
        let measured = with_held_out(named(kind), dim, sides);
        let expected = if kind == "novelty" { 1.0 } else { 0.0 };
        assert!((measured.value - expected).abs() < 4.0 * measured.error.unwrap(), "{kind}: {measured:?}");
    }
    // Samples far off the data do not reach it.
    let far = shifted(&fresh, 3.0);
    assert!(with_held_out(named("copying"), dim, [&train, &held_out, &far]).value > 10.0);
}

#[test]
fn principal_components_keep_what_copying_sees() {
    // 80 dimensions, of which the first three vary by far the most.
    let stretch = |rows: Vec<f64>| -> Vec<f64> {
        rows.iter().enumerate().map(|(i, value)| if i % 80 < 3 { 30.0 * value } else { 0.1 * value }).collect()
    };
    let [train, held_out, fresh] = [18, 19, 20].map(|seed| stretch(normal(seed, 600, 80)));
    let copying = |samples: &[f64]| with_held_out(named("copying"), 80, [&train, &held_out, samples]);
    let measured = copying(&fresh);
    assert!(measured.value.abs() < 4.0 * measured.error.unwrap(), "{measured:?}");
    assert!(copying(&train).value < -15.0);
}

#[test]
fn spread_and_agreement_are_those_of_their_definitions() {
    let square = [0.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 6.0];
    let labels = [0, 0, 1, 1];
    let rows = Rows::of(2, Batch::from(&square[..]).labeled(&labels)).unwrap();
    assert_eq!(within_class_spread(&rows).unwrap(), 0.5);
    let wide = [0.0, -0.5, 0.0, 1.5, 5.0, 4.5, 5.0, 6.5];
    let sides = |samples, of_samples| {
        [
            (Side::Reference, Batch::from(&square[..]).labeled(&labels)),
            (Side::Samples, Batch::from(samples).labeled(of_samples)),
        ]
    };
    assert_eq!(measure(named("spread"), 2, sides(&wide[..], &labels)).unwrap().value, 2.0);
    let agreement = |by_class| measure(Agreement { k: 1, by_class }, 2, sides(&wide[..], &[0, 1, 1, 1])).unwrap();
    assert_eq!((agreement(false).value, agreement(false).parts.len()), (0.75, 0));
    let of_classes = agreement(true);
    assert_eq!((of_classes.part("class 0"), of_classes.part("class 1")), (Some(1.0), Some(2.0 / 3.0)));
    // Distances of the samples 1/2, 1/2, 1/2, 1/2 and of held-out rows 1, 1.
    let held_out = [1.0, 0.0, 5.0, 7.0];
    assert_eq!(with_held_out(named("novelty"), 2, [&square, &held_out, &wide]).value, 0.5);
}

/// Observations and members of one law: coverage is the level, ranks are even, and the fair score is that of the law.
#[test]
fn ensembles_of_the_right_law_are_calibrated() {
    let (n, m) = (4000, 19);
    let (observations, members) = (normal(21, n, 1), normal(22, n * m, 1));
    let of = |metric: AnyMetric| between(metric, 1, &observations, &members);
    let coverage = of(IntervalCoverage { level: 0.9 }.into());
    assert!((coverage.value - 0.9).abs() < 4.0 * coverage.error.unwrap(), "{coverage:?}");
    let ranks = of(named("rank_histogram"));
    assert!((ranks.value - 1.0).abs() < 4.0 * ranks.error.unwrap(), "{ranks:?}");
    // E|x − y|/2 of standard normal numbers is 1/√π.
    let expected = 1.0 / std::f64::consts::PI.sqrt();
    for kind in ["crps", "energy_score"] {
        let score = of(named(kind));
        assert!((score.value - expected).abs() < 4.0 * score.error.unwrap(), "{score:?}");
    }
    // Members that are half as varied cover too little and rank the observations outermost.
    let narrow: Vec<f64> = members.iter().map(|member| member / 2.0).collect();
    let narrow = |metric: AnyMetric| between(metric, 1, &observations, &narrow);
    assert!(narrow(IntervalCoverage { level: 0.9 }.into()).value < 0.7);
    assert!(narrow(named("rank_histogram")).value > 10.0);
}

#[test]
fn inception_scores_have_their_limits() {
    let score = |rows: &[f64]| {
        let metric = InceptionScore { splits: 1, outputs: Outputs::Probabilities, shuffle: false };
        measure(metric, 2, [(Side::Samples, rows.into())]).unwrap().value
    };
    assert_eq!(score(&[1.0, 0.0, 0.0, 1.0]), 2.0);
    assert_eq!(score(&[0.3, 0.7, 0.3, 0.7]), 1.0);
    let metric = InceptionScore { splits: 1, outputs: Outputs::Probabilities, shuffle: false };
    let error = measure(metric, 2, [(Side::Samples, Batch::from(&[0.3, 0.3][..]))]).unwrap_err().to_string();
    assert!(error.contains("no distribution") && error.contains("logits"), "{error}");
}

#[test]
fn fingerprints_tell_sets_apart() {
    let rows = normal(23, 100, 2);
    let single: Vec<f32> = rows.iter().map(|&value| value as f32).collect();
    let wide: Vec<f64> = single.iter().map(|&value| f64::from(value)).collect();
    assert_eq!(fingerprint(2, Values::F32(&single)), fingerprint(2, Values::F64(&wide)));
    assert_ne!(fingerprint(2, Values::F64(&wide)), fingerprint(2, Values::F64(&rows)));
    assert_ne!(fingerprint(2, Values::F64(&wide)), fingerprint(4, Values::F64(&wide)));
    let measured = between(named("energy"), 2, &rows, &wide);
    assert_eq!(measured.reference.as_deref(), Some(&fingerprint(2, Values::F64(&rows))[..]));
}

#[test]
fn an_inception_score_of_samples_class_by_class_is_of_any_order_once_shuffled() {
    // Ten classes, certain, in blocks of a split each: no split has two classes, and all have ten.
    let rows: Vec<f64> = (0..1000).flat_map(|i| (0..10).map(move |c| if c == i / 100 { 50.0 } else { 0.0 })).collect();
    let score = |shuffle| {
        let metric = InceptionScore { shuffle, ..InceptionScore::default() };
        measure(metric, 10, [(Side::Samples, Batch::from(&rows))]).unwrap().value
    };
    assert!((score(false) - 1.0).abs() < 1e-9);
    // Of a hundred draws of ten equal classes ln IS is low by about 9/200.
    assert!((score(true).ln() - (10f64.ln() - 0.045)).abs() < 0.03, "{}", score(true));
}
