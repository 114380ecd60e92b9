//! Grids: the published sequences, and the promises about their ends.

use stein::{
    AnySampler, AnySchedule, Ddim, Discrete, DpmSolverPp, Edm, Grid, Kernel, Rectified, Request, Rk45, Schedule,
    Spacing, Vp,
    exact::{Exact, GaussianMixture},
    optimized::{Paths, Steps},
    rows, sample,
};

use crate::assert_close;

fn times(grid: &Grid, schedule: &dyn Schedule) -> Vec<f64> {
    grid.kernels(schedule).unwrap().iter().filter(|kernel| !kernel.is_clean()).map(|kernel| kernel.t).collect()
}

#[test]
fn every_grid_on_every_schedule_descends_and_ends_clean() {
    for schedule in AnySchedule::all() {
        for name in Spacing::NAMES {
            let spacing = Spacing::named(name).unwrap();
            assert_eq!(toml::from_str::<Spacing>(&format!("kind = \"{name}\"")).unwrap(), spacing);
            let trained_only = matches!(*name, "leading" | "trailing" | "quadratic");
            let (_, last) = schedule.span();
            // Spacings in σ/α cannot start without signal, and say so.
            let start =
                (schedule.kernel(last).alpha == 0.0 && matches!(*name, "karras" | "log_snr")).then_some(0.99 * last);
            for steps in [1, 2, 7, 50] {
                let grid = Grid { spacing: spacing.clone(), steps, start, ..Grid::default() };
                let kernels = match grid.kernels(&*schedule) {
                    Ok(kernels) => kernels,
                    Err(error) => {
                        let one = steps == 1 && matches!(*name, "leading" | "quadratic");
                        assert!(
                            one || (trained_only && schedule.levels().is_none()),
                            "{name} on {}: {error}",
                            schedule.kind()
                        );
                        continue;
                    }
                };
                assert_eq!(kernels.len(), steps + 1, "{name} on {}", schedule.kind());
                let noisy = Grid { clean: false, ..grid }.kernels(&*schedule);
                assert!(noisy.is_err() || noisy.unwrap().iter().filter(|k| k.sigma > 0.0).count() == steps + 1);
                assert!(kernels[steps].is_clean() && kernels[..steps].iter().all(|k| k.sigma > 0.0));
                assert!(
                    kernels.windows(2).all(|pair| pair[0].log_snr() < pair[1].log_snr()),
                    "{name} on {} with {steps} steps",
                    schedule.kind()
                );
            }
        }
    }
}

#[test]
fn an_optimized_grid_has_no_levels_without_a_model() {
    let grid = Grid { spacing: Spacing::named("optimized").unwrap(), ..Grid::default() };
    assert_eq!(toml::from_str::<Spacing>("kind = \"optimized\"").unwrap(), grid.spacing);
    assert!(grid.kernels(&Edm::default()).unwrap_err().to_string().contains("given grid"));
}

/// `FlowMatchEulerDiscreteScheduler(shift=3)` of diffusers 0.42.1 in five steps: its list starts at 1 and is shifted before and after
/// it is cut into steps, so that it ends twice shifted.
#[test]
fn shifted_is_that_of_flow_matching() {
    let shifted = |s: f64| 3.0 * s / (1.0 + 2.0 * s);
    let end = shifted(shifted(1e-3));
    let grid = Grid { spacing: Spacing::Shifted { shift: 3.0 }, steps: 5, end: Some(end), ..Grid::default() };
    let ours = times(&grid, &Rectified::default());
    for (t, wanted) in ours.iter().zip([1.0, 0.900_359_1, 0.751_121_1, 0.502_985_06, 0.008_928_572]) {
        assert_close(*t, wanted, 1e-6, "the library's sigma in f32");
    }
    let plain = Grid { spacing: Spacing::Shifted { shift: 1.0 }, ..grid };
    let uniform = Grid { spacing: Spacing::Uniform {}, ..plain.clone() };
    for (t, wanted) in times(&plain, &Vp::default()).into_iter().zip(times(&uniform, &Vp::default())) {
        assert_close(t, wanted, 1e-9, "no shift");
    }
    let wrong = Grid { spacing: Spacing::Shifted { shift: 0.0 }, ..Grid::default() };
    assert!(wrong.kernels(&Rectified::default()).unwrap_err().to_string().contains("shift is 0"));
}

#[test]
fn karras_is_the_papers_formula() {
    let ours = times(&Grid::karras(18), &Edm::default());
    let (top, bottom) = (80f64.powf(1.0 / 7.0), 0.002f64.powf(1.0 / 7.0));
    for (i, t) in ours.iter().enumerate() {
        assert_close(*t, (top + i as f64 / 17.0 * (bottom - top)).powi(7), 1e-12, format!("t_{i}"));
    }
    assert_eq!((ours[0], ours[17]), (80.0, 0.002));
}

#[test]
fn given_levels_are_those_given() {
    let grid = |noise: &[f64], clean| {
        let grid = Grid { spacing: Spacing::Given { noise: noise.to_vec() }, clean, ..Grid::default() };
        (grid.intervals(), grid.kernels(&Vp::default()))
    };
    for (clean, intervals) in [(true, 3), (false, 2)] {
        let (found, kernels) = grid(&[80.0, 1.5, 0.02], clean);
        assert_eq!(found, intervals);
        let kernels = kernels.unwrap();
        assert_eq!(kernels.len(), intervals + 1);
        for (kernel, noise) in kernels.iter().zip([80.0, 1.5, 0.02]) {
            assert_close(kernel.noise_to_signal(), noise, 1e-9, "level");
        }
        assert_eq!(kernels[intervals].is_clean(), clean);
    }
    for (noise, what) in [
        (&[][..], "no steps"),
        (&[1.0, 2.0], "must fall"),
        (&[1.0, 0.0], "above 0"),
        (&[1.0, f64::NAN], "must fall"),
        (&[1e9, 1.0], "must lie between"),
    ] {
        assert!(grid(noise, true).1.unwrap_err().to_string().contains(what), "{noise:?}");
    }
}

#[test]
fn subsequences_are_the_published_ones() {
    let discrete = Discrete::default();
    let grid = |name: &str, steps| Grid { spacing: Spacing::named(name).unwrap(), steps, ..Grid::default() };
    assert_eq!(times(&grid("leading", 10), &discrete), [900., 800., 700., 600., 500., 400., 300., 200., 100., 0.]);
    assert_eq!(times(&grid("trailing", 10), &discrete), [999., 899., 799., 699., 599., 499., 399., 299., 199., 99.]);
    // linspace(0, √800, 10)² truncated, as DDIM's code has it.
    assert_eq!(times(&grid("quadratic", 10), &discrete), [800., 632., 483., 355., 246., 158., 88., 39., 9., 0.]);
    // Latent diffusion counts from 1 and stops at level 0.
    let latent = Grid { spacing: Spacing::Leading { offset: 1 }, steps: 10, clean: false, ..Grid::default() };
    assert_eq!(times(&latent, &discrete), [901., 801., 701., 601., 501., 401., 301., 201., 101., 1., 0.]);
    assert_eq!(times(&Grid { clean: true, ..latent.clone() }, &discrete), times(&latent, &discrete)[..10]);
    assert!(Grid { steps: 999, ..latent.clone() }.kernels(&discrete).is_ok());
    let beyond = Grid { steps: 1000, clean: true, ..latent }.kernels(&discrete).unwrap_err().to_string();
    assert!(beyond.contains("level 1000, beyond the last of 1000"), "{beyond}");
    assert!(grid("leading", 1001).kernels(&discrete).is_err());
    assert!(grid("leading", 10).kernels(&Vp::default()).unwrap_err().to_string().contains("discrete"));
}

#[test]
fn impossible_grids_are_refused() {
    let vp = Vp::default();
    assert!(Grid::uniform(0).kernels(&vp).unwrap_err().to_string().contains("at least 1"));
    assert!(Grid { start: Some(2.0), ..Grid::default() }.kernels(&vp).is_err());
    assert!(Grid { start: Some(0.1), end: Some(0.5), ..Grid::default() }.kernels(&vp).is_err());
    let rectified = AnySchedule::named("rectified").unwrap();
    assert!(Grid::karras(5).kernels(&*rectified).unwrap_err().to_string().contains("start"));
}

/// The root mean squared distance of samples to where the exact flow leads from the same noise.
fn off(model: &GaussianMixture, sampler: &AnySampler, levels: &[Kernel]) -> f64 {
    let (schedule, request) = (Edm::default(), Request::exact(500, 2, 77));
    let draw = |sampler: &dyn stein::Sampler, levels: &[Kernel]| {
        rows::host(&sample(model, &schedule, levels, sampler, &request, &mut |_| Ok(())).unwrap().x)
    };
    let exact = draw(&Rk45::default(), &Grid::uniform(2).kernels(&schedule).unwrap());
    let squares: f64 = draw(&**sampler, levels).iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
    (squares / 500.0).sqrt()
}

#[test]
fn a_fitted_grid_beats_the_general_ones() {
    let model =
        GaussianMixture::isotropic(vec![0.25, 0.75], vec![vec![-0.5, -0.5], vec![0.5, 0.25]], vec![0.125, 0.25]);
    let (model, schedule) = (model.unwrap(), Edm::default());
    let fine = Grid { clean: false, ..Grid::karras(63) }.kernels(&schedule).unwrap();
    // It is fitted to other samples than it is tried on.
    let request = Request { data_variance: model.variance(), ..Request::exact(64, 2, 1) };
    let paths = Paths::of(&model, &schedule, &fine, &request).unwrap();
    let samplers: [(AnySampler, Steps); 2] =
        [(Ddim::default().into(), Steps::First), (DpmSolverPp::default().into(), Steps::Second)];
    for (sampler, made_of) in samplers {
        for steps in [5, 8, 12] {
            let noise = paths.levels(steps, made_of).unwrap();
            assert!(noise.len() == steps && noise[0] == 80.0 && noise.windows(2).all(|pair| pair[0] > pair[1]));
            let fitted = Grid { spacing: Spacing::Given { noise }, ..Grid::default() }.kernels(&schedule).unwrap();
            let fitted = off(&model, &sampler, &fitted);
            for spacing in [Spacing::Karras { rho: 7.0 }, Spacing::LogSnr {}] {
                let general = Grid { spacing, ..Grid::uniform(steps) }.kernels(&schedule).unwrap();
                let general = off(&model, &sampler, &general);
                // What is seen is a half to two thirds.
                assert!(fitted < 0.8 * general, "{} in {steps}: {fitted} for {general}", sampler.kind());
            }
        }
    }
    assert!(paths.levels(64, Steps::First).unwrap_err().to_string().contains("more candidates"));
    let clean = Grid::karras(5).kernels(&schedule).unwrap();
    assert!(Paths::of(&model, &schedule, &clean, &request).unwrap_err().to_string().contains("signal and noise"));
}
