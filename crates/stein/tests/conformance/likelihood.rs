//! Log-densities against closed forms: by the ODE on every schedule, along random directions, from other cleanest levels; the bound;
//! codes there and back.

use stein::{
    AnySchedule, Condition, DType, Edm, Grid, Heun, Kernel, Keys, Kind, ProbabilityFlow, Projection, Request, Schedule,
    SubVp, Tensor, Ve, Vp,
    exact::{Exact, Gaussian, GaussianMixture},
    flow::Flow,
    likelihood::{Bound, Divergence, OdeLikelihood, Prior, Truncation},
    ode::Steps,
    rows::{self, host},
    sample,
};

use crate::{assert_close, line, plane, tensor};

/// Schedules in continuous time, as they are by default.
fn continuous() -> Vec<AnySchedule> {
    AnySchedule::all().into_iter().filter(|schedule| schedule.levels().is_none()).collect()
}

/// A Gaussian of any dimension with correlated neighbors.
fn gaussian(dim: usize) -> Gaussian {
    let covariance = |i: usize, j: usize| match i.abs_diff(j) {
        0 => 1.0 + 0.5 * (i as f64).sin(),
        1 => 0.2,
        _ => 0.0,
    };
    let rows: Vec<Vec<f64>> = (0..dim).map(|i| (0..dim).map(|j| covariance(i, j)).collect()).collect();
    Gaussian::new((0..dim).map(|i| 0.5 * (i as f64).cos()).collect(), &rows).unwrap()
}

/// Two components apart from each other.
fn mixture(dim: usize) -> GaussianMixture {
    let mean = |side: f64| (0..dim).map(|i| side * (1.0 + i as f64).sin()).collect();
    GaussianMixture::isotropic(vec![0.3, 0.7], vec![mean(1.0), mean(-1.5)], vec![0.6, 0.9]).unwrap()
}

fn drawn(model: &dyn Exact, count: usize) -> (Keys, Vec<f64>) {
    let keys = Keys::range(11, 0, count);
    let x = model.draw_clean(&keys);
    (keys, x)
}

#[test]
fn the_ode_gives_the_known_densities_on_every_schedule() {
    let none = Condition::none();
    for dim in [1, 2, 10, 64] {
        let models: [&dyn Exact; 2] = [&gaussian(dim), &mixture(dim)];
        for model in models {
            let (keys, x) = drawn(model, 4);
            let known = model.log_density(&x, &Kernel::CLEAN);
            for schedule in continuous() {
                let found = OdeLikelihood::exact(1e-5)
                    .log_density(model, &*schedule, tensor(&x, dim), &none, &keys, Prior::Exact(model))
                    .unwrap();
                for (found, known) in found.nats.iter().zip(&known) {
                    let error = (found - known).abs() / dim as f64;
                    assert!(error < 1e-4, "{} in {dim} dimensions: {found} for {known}", schedule.kind());
                }
            }
        }
    }
}

#[test]
fn hutchinsons_estimates_keep_to_their_standard_errors() {
    for projection in [Projection::Rademacher, Projection::Gaussian, Projection::Sphere] {
        for dim in [2, 10] {
            let model = gaussian(dim);
            let (keys, x) = drawn(&model, 6);
            let known = model.log_density(&x, &Kernel::CLEAN);
            let settings = |probes| OdeLikelihood {
                divergence: Divergence::Hutchinson { probes, projection },
                ..OdeLikelihood::exact(1e-5)
            };
            let find = |probes| {
                let x = tensor(&x, dim);
                let prior = Prior::Exact(&model);
                settings(probes).log_density(&model, &Vp::default(), x, &Condition::none(), &keys, prior).unwrap()
            };
            let found = find(16);
            for ((found, known), error) in found.nats.iter().zip(&known).zip(found.standard_errors.unwrap()) {
                // Beside the directions there is the tolerance.
                assert!((found - known).abs() < 3.0 * error + 1e-3, "{projection:?}: {found} for {known}, {error}");
                assert!(error < 2.0, "{projection:?}: {error} says nothing");
            }
            assert_eq!(find(1).standard_errors, None);
        }
    }
}

#[test]
fn rademacher_directions_are_exact_where_the_jacobian_is_diagonal() {
    let model = Gaussian::new(vec![0.0; 3], &[vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 0.3]]).unwrap();
    let (keys, x) = drawn(&model, 3);
    let settings = OdeLikelihood {
        divergence: Divergence::Hutchinson { probes: 2, projection: Projection::Rademacher },
        ..OdeLikelihood::exact(1e-7)
    };
    let found = settings
        .log_density(&model, &Edm::default(), tensor(&x, 3), &Condition::none(), &keys, Prior::Exact(&model))
        .unwrap();
    let known = model.log_density(&x, &Kernel::CLEAN);
    found.nats.iter().zip(known).for_each(|(found, known)| assert_close(*found, known, 1e-5, "diagonal"));
    assert!(found.standard_errors.unwrap().iter().all(|error| *error < 1e-9));
}

#[test]
fn the_cleanest_level_changes_nearly_nothing() {
    let model = mixture(2);
    let (keys, x) = drawn(&model, 4);
    let schedule = Vp { t_min: 1e-5, ..Vp::default() };
    let find = |start, truncation| {
        let settings = OdeLikelihood { start: Some(start), truncation, ..OdeLikelihood::exact(1e-8) };
        let prior = Prior::Exact(&model);
        settings.log_density(&model, &schedule, tensor(&x, 2), &Condition::none(), &keys, prior).unwrap().nats
    };
    // σ² is 1e-6 to 1e-4: without the correction the density changes by as much, with it by its square.
    let reference = find(1e-5, Truncation::Corrected);
    for start in [1e-4, 1e-3] {
        let change =
            |other: Vec<f64>| other.iter().zip(&reference).map(|(a, b)| (a - b).abs() / 2.0).fold(0.0, f64::max);
        let (corrected, ignored) =
            (change(find(start, Truncation::Corrected)), change(find(start, Truncation::Ignored)));
        assert!(corrected < 1e-7, "{start}: {corrected} nats/dim");
        assert!(ignored > 10.0 * corrected, "{start}: {ignored} without the correction");
    }
}

#[test]
fn the_bound_is_one_and_is_reached_by_the_exact_denoiser() {
    let model = plane();
    let (keys, x) = drawn(&model, 4000);
    let known = model.log_density(&x, &Kernel::CLEAN);
    for schedule in [AnySchedule::from(Vp::default()), Edm::default().into(), Ve::default().into()] {
        let bound = Bound::default();
        let variance = model.variance();
        let found = bound.log_density(&model, &*schedule, tensor(&x, 2), &Condition::none(), &keys, variance).unwrap();
        let gaps: Vec<f64> = known.iter().zip(&found.nats).map(|(known, bound)| known - bound).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let std = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        let error = std / (gaps.len() as f64).sqrt();
        // Equality in the mean over data, but for KL(p_T ‖ prior), below 1e-3 here.
        assert!(mean.abs() < 4.0 * error + 1e-3, "{}: {mean} with standard error {error}", schedule.kind());
        assert!(error < 0.05, "{}: {error}", schedule.kind());
        assert_eq!(found.evaluations, 33);
    }
}

#[test]
fn a_worse_denoiser_has_a_worse_bound_and_density() {
    let (truth, worse) = (plane(), Gaussian::new(vec![0.2, -0.4], &[vec![1.5, 0.0], vec![0.0, 1.5]]).unwrap());
    let (keys, x) = drawn(&truth, 500);
    let mean = |model: &dyn Exact| {
        let found =
            Bound::default().log_density(model, &Vp::default(), tensor(&x, 2), &Condition::none(), &keys, 1.0).unwrap();
        found.nats.iter().sum::<f64>() / 500.0
    };
    assert!(mean(&worse) < mean(&truth) - 0.1, "{} and {}", mean(&worse), mean(&truth));
    // And is a bound on that denoiser's own density of these data.
    let own = worse.log_density(&x, &Kernel::CLEAN).iter().sum::<f64>() / 500.0;
    assert!(mean(&worse) < own + 0.1, "{} against {own}", mean(&worse));
}

#[test]
fn codes_lead_back_and_are_what_sampling_starts_from() {
    let (model, none) = (line(), Condition::none());
    let (_, x) = drawn(&model, 8);
    let steps = Steps::Adaptive { rtol: 1e-8, atol: 1e-8, most: 100_000 };
    for schedule in continuous() {
        let flow = Flow { velocity: &ProbabilityFlow(&model), schedule: &*schedule, given: &none };
        let codes = flow.encode(tensor(&x, 1), None, steps).unwrap().x;
        let noisiest = schedule.kernel(schedule.span().1);
        let start = schedule.kernel(schedule.span().0);
        for (code, x) in host(&codes).iter().zip(&x) {
            // In one dimension the map is that of quantiles.
            assert_close(*code, crate::flow(start.alpha * x, &start, &noisiest), 1e-5, schedule.kind());
        }
        let back = flow.decode(codes, None, steps).unwrap().x;
        host(&back).iter().zip(&x).for_each(|(back, x)| assert_close(*back, *x, 1e-5, schedule.kind()));
    }
}

#[test]
fn a_denoiser_in_single_precision_is_solved_in_double() {
    let model = mixture(2);
    let (keys, x) = drawn(&model, 3);
    let single = tensor(&x, 2).cast(DType::F32);
    let found = OdeLikelihood::exact(1e-5)
        .log_density(&model, &Vp::default(), single, &Condition::none(), &keys, Prior::Exact(&model))
        .unwrap();
    assert_eq!(found.codes.as_ref().map(Tensor::dtype), Some(DType::F64));
    let known = model.log_density(&x, &Kernel::CLEAN);
    // Rounding of D is divided by σ, 0.001 at the start, over a stretch of its square.
    found.nats.iter().zip(known).for_each(|(found, known)| assert_close(*found, known, 1e-4, "f32"));
}

#[test]
fn samples_have_the_entropy_of_their_model() {
    // Mean −ln p of a model's own samples is its entropy: the sampler and the density know of the same law.
    let model = gaussian(2);
    let levels = Grid::karras(40).kernels(&Edm::default()).unwrap();
    let request = Request { data_variance: model.variance(), ..Request::exact(2000, 2, 5) };
    let x = sample(&model, &Edm::default(), &levels, &Heun::default(), &request, &mut |_| Ok(())).unwrap().x;
    let std = Edm::default().kernel(80.0).prior_std(model.variance());
    let found = OdeLikelihood::exact(1e-5)
        .log_density(&model, &Edm::default(), x, &Condition::none(), &Keys::range(0, 0, 2000), Prior::Normal { std })
        .unwrap();
    let mean = -found.nats.iter().sum::<f64>() / 2000.0;
    let determinant: f64 = model.variances().iter().product();
    let entropy = 1.0 + std::f64::consts::TAU.ln() + 0.5 * determinant.ln();
    // The variance of −ln p of a Gaussian in the plane is 1.
    assert!((mean - entropy).abs() < 4.0 / 2000f64.sqrt(), "{mean} for {entropy}");
}

#[test]
fn what_cannot_be_met_is_refused() {
    let (model, none, keys) = (plane(), Condition::none(), Keys::range(0, 0, 1));
    let x = || tensor(&[0.3, 0.4], 2);
    let refuse = |settings: OdeLikelihood, part: &str| {
        let error =
            settings.log_density(&model, &SubVp::default(), x(), &none, &keys, Prior::Exact(&model)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refuse(OdeLikelihood::exact(0.0), "tolerance");
    refuse(OdeLikelihood::exact(f64::NAN), "tolerance");
    refuse(OdeLikelihood { max_steps: 3, ..OdeLikelihood::exact(1e-8) }, "3 attempted steps");
    refuse(OdeLikelihood { start: Some(2.0), ..OdeLikelihood::exact(1e-5) }, "start = 2");
    let none_at_all = Divergence::Hutchinson { probes: 0, projection: Projection::Rademacher };
    refuse(OdeLikelihood { divergence: none_at_all, ..OdeLikelihood::exact(1e-5) }, "probes");
    let short = [rows::matrix(vec![1.0], 1, &rows::exact())];
    let along = OdeLikelihood::exact(1e-5).log_density_along(
        &model,
        &SubVp::default(),
        x(),
        &none,
        &short,
        Prior::Exact(&model),
    );
    assert!(along.unwrap_err().to_string().contains("does not fit"));
    let rectified = stein::Rectified::default();
    let error = Bound::default().log_density(&model, &rectified, x(), &none, &keys, 1.0).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
}
