//! The paths and times of flow matching against stored values of torchcfm, flow_matching and diffusers
//! (`tests/data/flow_matching/paths.safetensors`, double precision).
//!
//! Their time grows towards the data: ours is 1 − t, and velocities have the other sign. Of the times of Stable Diffusion 3, which grow
//! with noise, none is turned.

use std::path::Path;

use stein::{
    AnySchedule, Edm, Grid, Kernel, Keys, LevelDistribution, LinearVp, MapForm, Polynomial, Prediction, Rectified,
    Schedule, Spacing, Trigonometric, Vp, flow_matching::PathNoise, objective::times, rows::host, shifted_time,
};

use crate::{assert_close, stochastic::Stored};

/// What is asked for, over 1 + the larger value: both sides are in double precision, but for a handful of constants.
const TOLERANCE: f64 = 1e-9;

fn stored() -> Stored {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flow_matching/paths.safetensors");
    Stored(std::fs::read(path).unwrap())
}

fn close(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    ours.iter().zip(theirs).for_each(|(a, b)| assert_close(*a, *b, TOLERANCE, what));
}

/// Straight lines from the first time on.
fn straight() -> Rectified {
    Rectified { t_min: 1e-9, ..Rectified::default() }
}

/// The schedules of flow_matching.
fn schedules() -> [(&'static str, AnySchedule); 6] {
    let polynomial = |exponent| Polynomial { exponent, ..Polynomial::default() };
    [
        ("condot", Rectified::default().into()),
        ("vp", Vp::default().into()),
        ("linear_vp", LinearVp::default().into()),
        ("cosine", Trigonometric::default().into()),
        ("polynomial_2", polynomial(2.0).into()),
        ("polynomial_half", polynomial(0.5).into()),
    ]
}

#[test]
fn schedules_are_those_of_flow_matching() {
    let stored = stored();
    let times = stored.numbers("schedule.t");
    for (name, schedule) in schedules() {
        schedule.check().unwrap();
        let [alpha, sigma, d_alpha, d_sigma, inverse] = ["alpha", "sigma", "d_alpha", "d_sigma", "snr_inverse"]
            .map(|of| stored.numbers(&format!("schedule.{name}.{of}")));
        for (i, &theirs) in times.iter().enumerate() {
            let at = schedule.kernel(1.0 - theirs);
            let what = format!("{name} at their t = {theirs}");
            assert_close(at.alpha, alpha[i], TOLERANCE, format!("{what}: alpha"));
            assert_close(at.sigma, sigma[i], TOLERANCE, format!("{what}: sigma"));
            for (ours, theirs) in [(at.d_alpha, d_alpha[i]), (at.d_sigma, d_sigma[i])] {
                if theirs.is_finite() {
                    assert_close(ours, -theirs, TOLERANCE, format!("{what}: slope"));
                } else {
                    // Where they divide by zero our span has ended.
                    let (first, last) = schedule.span();
                    assert!(!(first..=last).contains(&at.t), "{what}: {ours} for {theirs}");
                }
            }
        }
        // They ask for the time of α/σ at all times but the two ends.
        for (i, theirs) in inverse.iter().enumerate() {
            let log_snr = 2.0 * (alpha[i + 1] / sigma[i + 1]).ln();
            assert_close(schedule.time_at(log_snr), 1.0 - theirs, TOLERANCE, format!("{name}: inverse"));
        }
    }
}

/// `a` of one row and `b` of another, of rows of three.
fn mixed(x: &[f64], y: &[f64], at: &[Kernel], factors: impl Fn(&Kernel) -> (f64, f64)) -> Vec<f64> {
    x.iter()
        .zip(y)
        .enumerate()
        .map(|(i, (x, y))| {
            let (a, b) = factors(&at[i / 3]);
            a * x + b * y
        })
        .collect()
}

fn negated(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| -x).collect()
}

#[test]
fn predictions_turn_into_each_other_as_on_affine_paths() {
    let stored = stored();
    let [times, noise, data] = ["t", "x0", "x1"].map(|of| stored.numbers(&format!("path.{of}")));
    for (name, schedule) in schedules() {
        let at: Vec<Kernel> = times.iter().map(|t| schedule.kernel(1.0 - t)).collect();
        let golden = |of: &str| stored.numbers(&format!("path.{name}.{of}"));
        let x = mixed(&data, &noise, &at, |at| (at.alpha, at.sigma));
        close(&x, &golden("x_t"), name);
        let velocity = |x0: &[f64], eps: &[f64]| mixed(x0, eps, &at, |at| Prediction::Velocity {}.target(at));
        close(&velocity(&data, &noise), &negated(&golden("dx_t")), name);
        // What a network puts out is in each case a stored row: the noise as ε̂, the data as x̂_0, and as velocities the one and the other.
        let estimate = |prediction: Prediction, raw: &[f64]| mixed(&x, raw, &at, |at| prediction.skip_and_out(at));
        let rest = |x0: &[f64]| mixed(&x, x0, &at, |at| (1.0 / at.sigma, -at.alpha / at.sigma));
        let of_eps = estimate(Prediction::Eps {}, &noise);
        close(&of_eps, &golden("epsilon_to_target"), name);
        close(&velocity(&of_eps, &noise), &negated(&golden("epsilon_to_velocity")), name);
        close(&rest(&data), &golden("target_to_epsilon"), name);
        close(&velocity(&data, &rest(&data)), &negated(&golden("target_to_velocity")), name);
        let of_velocity = |raw: &[f64]| estimate(Prediction::Velocity {}, &negated(raw));
        close(&of_velocity(&noise), &golden("velocity_to_target"), name);
        close(&rest(&of_velocity(&data)), &golden("velocity_to_epsilon"), name);
    }
}

#[test]
fn conditional_paths_are_those_of_torchcfm() {
    let stored = stored();
    let [times, x0, x1, eps] = ["t", "x0", "x1", "eps"].map(|of| stored.numbers(&format!("cfm.{of}")));
    let levels = |schedule: &dyn Schedule| times.iter().map(|t| schedule.kernel(1.0 - t)).collect::<Vec<Kernel>>();
    let path = |at: &[Kernel], data: &[f64], noise: &[f64]| mixed(data, noise, at, |at| (at.alpha, at.sigma));
    let slope =
        |at: &[Kernel], data: &[f64], noise: &[f64]| negated(&mixed(data, noise, at, |at| (at.d_alpha, at.d_sigma)));
    let golden = |name: &str| ["mu_t", "sigma_t", "xt", "ut"].map(|of| stored.numbers(&format!("cfm.{name}.{of}")));

    // Straight from their x0, which is our noise, to x1.
    let [mean, _, x, u] = golden("cfm_sigma0");
    let at = levels(&Rectified::default());
    close(&path(&at, &x1, &x0), &mean, "straight mean");
    close(&path(&at, &x1, &x0), &x, "straight");
    close(&slope(&at, &x1, &x0), &u, "straight velocity");

    // Lipman et al.: the noise is theirs, and σ_min is left of it.
    let [mean, sigma, x, u] = golden("target");
    let lipman = Rectified { t_min: 0.0, sigma_min: 0.05 };
    lipman.check().unwrap();
    let at = levels(&lipman);
    close(&mixed(&x1, &eps, &at, |at| (at.alpha, 0.0)), &mean, "Lipman mean");
    close(&at.iter().map(|at| at.sigma).collect::<Vec<f64>>(), &sigma, "Lipman sigma");
    close(&path(&at, &x1, &eps), &x, "Lipman");
    close(&slope(&at, &x1, &eps), &u, "Lipman velocity");

    // Their variance preserving path; noise of constant σ around it is no kernel, and its velocity leaves that out.
    let [mean, _, _, u] = golden("vp");
    let at = levels(&Trigonometric::default());
    close(&path(&at, &x1, &x0), &mean, "circle");
    close(&slope(&at, &x1, &x0), &u, "circle velocity");
}

/// The noise between the ends. Their bridge divides by 2t(1 − t) + 1e-8 and their weight by σ² + 1e-8, which moves values by up to 1e-7.
#[test]
fn the_noise_of_paths_is_that_of_torchcfm() {
    let stored = stored();
    let [times, x0, x1, eps] = ["t", "x0", "x1", "eps"].map(|of| stored.numbers(&format!("cfm.{of}")));
    let straight = AnySchedule::from(Rectified::default());
    for (name, noise, schedule, tolerance) in [
        ("cfm", PathNoise::Constant { sigma: 0.1 }, &straight, TOLERANCE),
        ("vp", PathNoise::Constant { sigma: 0.02 }, &Trigonometric::default().into(), TOLERANCE),
        ("sb", PathNoise::Bridge { sigma: 0.7 }, &straight, 1e-7),
    ] {
        let at: Vec<Kernel> = times.iter().map(|t| schedule.kernel(1.0 - t)).collect();
        let gamma: Vec<f64> = at.iter().map(|at| noise.at(at.t).0).collect();
        let rows = |x: &[f64]| crate::tensor(x, 3);
        let points = noise.points(rows(&x1), rows(&x0), rows(&eps), at);
        let golden = |of: &str| stored.numbers(&format!("cfm.{name}.{of}"));
        let near = |ours: &[f64], theirs: &[f64], what: &str| {
            assert_eq!(ours.len(), theirs.len(), "{name}: {what}");
            ours.iter().zip(theirs).for_each(|(a, b)| assert_close(*a, *b, tolerance, format!("{name}: {what}")));
        };
        near(&gamma, &golden("sigma_t"), "sigma");
        near(&host(&points.x), &golden("xt"), "x");
        near(&negated(&host(&points.velocity)), &golden("ut"), "velocity");
        if let PathNoise::Bridge { sigma } = noise {
            // What they weigh σ²/2 times the score by, so that it stands for −z: γ times the score is what is learned here.
            let weights: Vec<f64> = gamma.iter().map(|gamma| 2.0 * gamma / sigma.powi(2)).collect();
            near(&weights, &golden("lambda"), "weight");
        }
    }
}

#[test]
fn straight_paths_that_keep_noise_have_their_inverse() {
    for sigma_min in [0.0, 1e-4, 0.05, 0.6] {
        let schedule = Rectified { sigma_min, ..Rectified::default() };
        schedule.check().unwrap();
        for t in crate::times(&schedule, 101) {
            let back = schedule.time_at(schedule.kernel(t).log_snr());
            assert!((back - t).abs() < 1e-12, "sigma_min {sigma_min}: {t} came back as {back}");
        }
        assert_eq!(schedule.time_at(f64::NEG_INFINITY), 1.0);
    }
}

#[test]
fn the_circle_is_the_cosine_schedule_without_an_offset() {
    let (circle, cosine) = (Trigonometric::default(), stein::Cosine { offset: 0.0, ..stein::Cosine::default() });
    for t in crate::times(&circle, 51) {
        let (a, b) = (circle.kernel(t), cosine.kernel(t));
        close(&[a.alpha, a.sigma, a.d_alpha, a.d_sigma], &[b.alpha, b.sigma, b.d_alpha, b.d_sigma], "circle");
    }
}

#[test]
fn times_are_those_of_stable_diffusion_3() {
    let stored = stored();
    let [normal, uniform, sigma] = ["normal", "uniform", "sigma"].map(|of| stored.numbers(&format!("sd3.{of}")));
    for (i, (mean, std)) in [(0.0, 1.0), (1.0, 1.0), (-0.5, 0.6)].into_iter().enumerate() {
        let ours: Vec<f64> = normal.iter().map(|&z| times::logit_normal(mean, std, z)).collect();
        close(&ours, &stored.numbers(&format!("sd3.logit_normal_{i}")), "logit-normal");
        // The density is that of z over the slope, here a central difference: its error is h² = 1e-10 times a third derivative.
        for (&t, density) in sigma.iter().zip(stored.numbers(&format!("sd3.logit_normal_pdf_{i}"))) {
            let (z, h) = (((t / (1.0 - t)).ln() - mean) / std, 1e-5);
            let slope = (times::logit_normal(mean, std, z + h) - times::logit_normal(mean, std, z - h)) / (2.0 * h);
            let normal = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
            assert_close(normal / slope, density, 1e-8, format!("density of the logit-normal at {t}"));
        }
    }
    for (i, scale) in [1.29, -0.5].into_iter().enumerate() {
        let ours: Vec<f64> = uniform.iter().map(|&u| times::mode(scale, u)).collect();
        close(&ours, &stored.numbers(&format!("sd3.mode_{i}")), "mode");
    }
    // They weigh uniform times by the density that cosmap draws from.
    for (&t, weight) in sigma.iter().zip(stored.numbers("sd3.weight_cosmap")).filter(|(t, _)| **t < 1.0) {
        let (u, h) = ((t / (1.0 - t)).atan() * std::f64::consts::FRAC_2_PI, 1e-5);
        assert_close(times::cosmap(u), t, 1e-12, "cosmap");
        assert_close((times::cosmap(u + h) - times::cosmap(u - h)) / (2.0 * h), 1.0 / weight, 1e-8, "cosmap's density");
    }
}

#[test]
fn shifts_are_those_of_stable_diffusion_3() {
    let stored = stored();
    let sigma = stored.numbers("sd3.sigma");
    let shifted = |by: f64| sigma.iter().map(|&t| shifted_time(&straight(), t, by)).collect::<Vec<f64>>();
    for (i, shift) in [1.0, 3.0, 0.5].into_iter().enumerate() {
        close(&shifted(shift), &stored.numbers(&format!("sd3.shift_{i}")), "shift");
    }
    for (i, mu) in [0.5f64, 1.15, 1.5].into_iter().enumerate() {
        close(&shifted(mu.exp()), &stored.numbers(&format!("sd3.time_shift_exponential_{i}")), "shift by exp(mu)");
    }
    for (tokens, mu) in [256, 1024, 4096].into_iter().zip(stored.numbers("sd3.mu_of_sequence_length")) {
        let Spacing::Shifted { shift } = Spacing::shifted_for(tokens) else { panic!("a shifted spacing") };
        assert_close(shift.ln(), mu, TOLERANCE, format!("mu of {tokens} tokens"));
    }
}

/// Their tables end with 0, which is our clean level.
#[test]
fn grids_are_the_tables_of_the_flow_match_scheduler() {
    let stored = stored();
    let once = |shift: f64, t: f64| shift * t / (1.0 + (shift - 1.0) * t);
    let grid = |spacing, steps, end| Grid { spacing, steps, end: Some(end), ..Grid::default() };
    let mu = 0.8f64.exp();
    // A static shift moves the last of their 1000 levels twice, a dynamic one once.
    let shifted = [
        (0, grid(Spacing::Uniform {}, 8, 1e-3)),
        (0, grid(Spacing::Shifted { shift: 1.0 }, 8, 1e-3)),
        (1, grid(Spacing::Shifted { shift: 3.0 }, 8, once(3.0, once(3.0, 1e-3)))),
        (2, grid(Spacing::Shifted { shift: mu }, 5, once(mu, 1e-3))),
        // Without a shift, `shift_terminal` is where the equal steps end.
        (4, grid(Spacing::Uniform {}, 6, 0.1)),
    ];
    for (table, grid) in shifted {
        let ours: Vec<f64> = grid.kernels(&straight()).unwrap().iter().map(|at| at.sigma).collect();
        close(&ours, &stored.numbers(&format!("tables.sigmas_{table}")), &format!("table {table}"));
    }
    // Their Karras levels are equal steps of σ^(1/7) from 1, where σ/α is infinite: a list for us.
    let theirs = stored.numbers("tables.sigmas_3");
    let noise: Vec<f64> = theirs[..6].iter().map(|sigma| sigma / (1.0 - sigma)).collect();
    assert_eq!(noise[0], f64::INFINITY);
    let listed = Grid { spacing: Spacing::Given { noise }, ..Grid::default() }.kernels(&straight()).unwrap();
    close(&listed.iter().map(|at| at.sigma).collect::<Vec<f64>>(), &theirs, "listed");
}

/// Mean and standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

fn read(text: &str) -> LevelDistribution {
    let levels: LevelDistribution = toml::from_str(text).unwrap();
    assert_eq!(toml::from_str::<LevelDistribution>(&toml::to_string(&levels).unwrap()).unwrap(), levels, "{text}");
    levels
}

#[test]
fn levels_are_drawn_from_the_distributions_of_time() {
    let count = 20_000;
    let keys = Keys::range(11, 0, count);
    let kernels = |schedule: &dyn Schedule, text: &str| -> Vec<Kernel> {
        let levels = read(text);
        levels.check(schedule).unwrap();
        levels
            .draw(schedule, &keys)
            .into_iter()
            .map(|(at, ratio)| {
                assert_eq!(ratio, 1.0);
                at
            })
            .collect()
    };
    let times = |schedule: &dyn Schedule, text: &str| -> Vec<f64> {
        kernels(schedule, text).into_iter().map(|at| at.t).collect()
    };
    // On straight paths the logit is ln(σ/α), and a shift adds its logarithm. Four standard errors: 0.6 · 4/√20,000 = 0.017.
    for (text, wanted) in [
        ("kind = \"logit_normal\"\nmean = -0.5\nstd = 0.6", -0.5),
        ("kind = \"logit_normal\"\nmean = -0.5\nstd = 0.6\nshift = 3.0", -0.5 + 3f64.ln()),
    ] {
        let log: Vec<f64> = kernels(&straight(), text).iter().map(|at| at.noise_to_signal().ln()).collect();
        let (mean, std) = moments(&log);
        assert!((mean - wanted).abs() < 0.017 && (std - 0.6).abs() < 0.017, "{text}: {mean}, {std}");
    }
    // The same keys give the same place on any span.
    let (first, last) = (0.002, 80.0);
    let on_edm = times(&Edm::default(), "kind = \"mode\"");
    for (a, b) in on_edm.into_iter().zip(times(&straight(), "kind = \"mode\"")) {
        assert_close((a - first) / (last - first), (b - 1e-9) / (1.0 - 1e-9), TOLERANCE, "place on the span");
    }
    // Uniform times of the circle.
    let circle = kernels(&Trigonometric { t_min: 1e-9 }, "kind = \"uniform\"");
    for (a, b) in kernels(&straight(), "kind = \"cosmap\"").iter().zip(circle) {
        assert!((a.noise_to_signal() / b.noise_to_signal() - 1.0).abs() < 1e-4, "{a:?} and {b:?}");
    }
    // Shifted uniform levels lie between the ends, like the grid of that name: of 20,000 the quantiles are its levels, within four
    // standard errors √(u(1 − u)/20,000) of u times the slope dt/du, at most 3.
    for schedule in [AnySchedule::from(straight()), Vp::default().into(), Polynomial::default().into()] {
        let mut drawn = times(&*schedule, "kind = \"uniform\"\nshift = 3.0");
        drawn.sort_by(|a, b| b.total_cmp(a));
        let grid = Grid { spacing: Spacing::Shifted { shift: 3.0 }, steps: 10, clean: false, ..Grid::default() };
        for (i, at) in grid.kernels(&*schedule).unwrap().iter().enumerate() {
            let quantile = drawn[(i * count / 10).min(count - 1)];
            let error = 4.0 * (0.25 / count as f64).sqrt() * 3.0 + 3.0 / count as f64;
            assert!((quantile - at.t).abs() < error, "{} {i}: {quantile} for {}", schedule.kind(), at.t);
        }
        let (first, last) = schedule.span();
        assert!(drawn.iter().all(|t| (first..=last).contains(t)));
    }
}

#[test]
fn one_level_may_be_where_no_signal_is_left() {
    let levels = read("kind = \"single\"\nnoise = inf");
    for (name, schedule) in schedules() {
        let drawn = levels.check(&*schedule).map(|()| levels.draw(&*schedule, &Keys::range(0, 0, 3)));
        if schedule.kernel(schedule.span().1).alpha == 0.0 {
            let drawn = drawn.unwrap();
            assert!(drawn.len() == 3 && drawn.iter().all(|(at, _)| (at.t, at.alpha, at.sigma) == (1.0, 0.0, 1.0)));
        } else {
            let error = drawn.unwrap_err().to_string();
            assert!(error.contains("noise inf of a single level"), "{name}: {error}");
        }
    }
}

#[test]
fn what_makes_no_path_or_distribution_is_refused() {
    let polynomial = |exponent, alpha_min| Polynomial { exponent, alpha_min, ..Polynomial::default() }.check();
    for (refused, part) in [
        (polynomial(0.0, 1e-3), "exponent is 0"),
        (polynomial(2.0, 0.0), "alpha_min is 0"),
        (polynomial(0.25, 1e-6), "not within 1e-12 of 1"),
        (Polynomial { t_min: 0.99, ..Polynomial::default() }.check(), "above t_min = 0.99"),
        (Trigonometric { t_min: 0.0 }.check(), "t_min = 0"),
        (LinearVp { t_min: 1.0 }.check(), "t_min = 1"),
        (Rectified { t_min: 0.0, sigma_min: 0.0 }.check(), "t_min = 0"),
        (Rectified { sigma_min: 1.0, ..Rectified::default() }.check(), "sigma_min is 1"),
        (Rectified { t_min: 1.0, sigma_min: 0.1 }.check(), "t_min is 1"),
        // x_t − (t − r) u ends at data only where no noise is left.
        (MapForm::MeanVelocity {}.check(&Rectified { sigma_min: 0.1, ..Rectified::default() }.into()), "sigma_min = 0"),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (text, part) in [
        ("kind = \"logit_normal\"\nstd = 0.0", "std of the logit-normal is 0"),
        ("kind = \"logit_normal\"\nmean = nan", "mean of the logit-normal is NaN"),
        ("kind = \"mode\"\nscale = 1.8", "scale of mode is 1.8"),
        ("kind = \"cosmap\"\nshift = 0.0", "shift of the levels is 0"),
        ("kind = \"uniform\"\nshift = -1.0", "shift of the levels is -1"),
    ] {
        let error = toml::from_str::<LevelDistribution>(text).unwrap().check(&straight()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
