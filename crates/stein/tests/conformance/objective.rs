//! The objective: stationary at the exact denoiser, where its value is the Bayes error; weights and level distributions.

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein::{
    AnyObjective, AnySchedule, Condition, Context, Denoising, Dual, Edm, Examples, Kernel, Keys, LevelDistribution,
    Levels, Network, NoiseInput, Objective, Potential, Precondition, Preconditioned, Prediction, Projection, Rectified,
    Result, Schedule, Vp, Weighting, denoise, denoiser, estimate,
    exact::{Exact, Gaussian},
    gradient,
    objective::{Explicit, Hybrid, Implicit, Sliced, Variational},
    rows::{self, host},
};

use crate::assert_close;

fn gaussian() -> Gaussian {
    Gaussian::new(vec![0.3, -0.8], &[vec![1.0, 0.6], vec![0.6, 0.8]]).unwrap()
}

/// The exact raw output of a Gaussian times one trainable number θ, which is right at θ = 1. The noise number it is fed is
/// the time.
struct Scaled {
    theta: Tensor<1>,
    schedule: AnySchedule,
    prediction: Prediction,
}

impl Network for Scaled {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let at: Vec<Kernel> = context.noise.value.to_data().iter::<f64>().map(|t| self.schedule.kernel(t)).collect();
        let at = Levels::Each(&at);
        let denoised = estimate(&gaussian(), x.clone(), at, context.given)?.mean;
        let skip = at.factors(|k| self.prediction.skip_and_out(k).0);
        let out = at.factors(|k| 1.0 / self.prediction.skip_and_out(k).1);
        Ok((denoised - x.scale(&skip)).scale(&out).linear(|x| x * self.theta.clone().reshape([1, 1])))
    }
}

/// Loss and its derivative by θ, over `n` examples from number `first` on.
fn loss_and_slope(
    schedule: &AnySchedule,
    prediction: Prediction,
    objective: &dyn Objective,
    theta: f64,
    first: u64,
    n: u64,
) -> (f64, f64) {
    let device = Device::flex().autodiff();
    let options = || (&device, DType::F64);
    let theta = Tensor::<1>::from_data(TensorData::new(vec![theta], [1]), options()).require_grad();
    let network = Scaled { theta: theta.clone(), schedule: schedule.clone(), prediction };
    let settings = Precondition {
        prediction,
        input_scale: stein::InputScale::None {},
        noise_input: NoiseInput::Time { factor: 1.0 },
    };
    let model = Preconditioned::new(network, settings, schedule.clone()).unwrap();
    let x0 = gaussian().draw_clean(&Keys::range(1, first, n as usize));
    let x0 = Tensor::<2>::from_data(TensorData::new(x0, [n as usize, 2]), options());
    let truth = gaussian();
    let (given, keys) = (Condition::none(), Keys::range(2, first, n as usize));
    let loss =
        objective.loss(&model.view(), &Examples { truth: Some(&truth), ..Examples::new(&x0, &given, &keys) }).unwrap();
    let gradients = loss.backward();
    let slope = theta.grad(&gradients).unwrap().into_scalar::<f64>();
    (loss.into_scalar::<f64>(), slope)
}

#[test]
fn the_exact_denoiser_is_stationary_for_every_prediction_and_weight() {
    let schedule = AnySchedule::from(Vp { t_min: 0.05, ..Vp::default() });
    for prediction in Prediction::all() {
        for weighting in [
            Weighting::Unit {},
            Weighting::Likelihood {},
            Weighting::MinSnr { gamma: 5.0 },
            Weighting::Edm { sigma_data: 0.5 },
        ] {
            let objective = Denoising { levels: LevelDistribution::UNIFORM, weighting };
            // Twenty independent batches give the slope and its standard error.
            let slopes = |theta| -> (f64, f64) {
                let slopes: Vec<f64> = (0..20)
                    .map(|k| loss_and_slope(&schedule, prediction, &objective, theta, 1000 * k, 1000).1)
                    .collect();
                let mean = slopes.iter().sum::<f64>() / 20.0;
                let variance = slopes.iter().map(|slope| (slope - mean).powi(2)).sum::<f64>() / 19.0;
                (mean, (variance / 20.0).sqrt())
            };
            let ((right, error), (wrong, wrong_error)) = (slopes(1.0), slopes(1.3));
            let what = format!("{prediction:?}, {weighting:?}");
            assert!(right.abs() < 5.0 * error, "{what}: slope {right} +- {error} at the exact denoiser");
            assert!(
                wrong > 5.0 * wrong_error,
                "{what}: slope {wrong} +- {wrong_error} beside it: the test sees nothing"
            );
        }
    }
}

#[test]
fn the_loss_of_the_exact_denoiser_is_the_bayes_error() {
    // At one level E‖x_0 − D‖² = Σ λσ²/(α²λ + σ²); unit weight on an x0 prediction is its mean over dimensions.
    let (low, high) = (0.4, 0.400_001);
    let schedule = AnySchedule::from(Edm { sigma_min: low, sigma_max: high });
    let objective = Denoising { levels: LevelDistribution::UNIFORM, weighting: Weighting::Unit {} };
    let (loss, _) = loss_and_slope(&schedule, Prediction::X0 {}, &objective, 1.0, 0, 50_000);
    let bayes: f64 = gaussian().variances().iter().map(|v| v * low * low / (v + low * low)).sum::<f64>() / 2.0;
    // A mean of squares of 100,000 normals: relative standard error √(2/100,000) = 0.0045; four of them.
    assert!((loss / bayes - 1.0).abs() < 0.018, "loss {loss}, Bayes error {bayes}");
}

#[test]
fn importance_sampling_does_not_change_the_mean() {
    let schedule = AnySchedule::from(Vp { t_min: 1e-3, ..Vp::default() });
    let loss = |levels| {
        let objective = Denoising { levels, weighting: Weighting::Likelihood {} };
        loss_and_slope(&schedule, Prediction::Eps {}, &objective, 1.0, 0, 100_000).0
    };
    let (uniform, importance) = (loss(LevelDistribution::UNIFORM), loss(LevelDistribution::Importance { t_min: None }));
    // Uniform times see g²/σ² up to 1/t: its error dominates, about 3 % at 100,000 draws.
    assert!((uniform / importance - 1.0).abs() < 0.1, "{uniform} against {importance}");
}

#[test]
fn levels_have_their_distributions() {
    let n = 20_000u64;
    let keys = Keys::range(4, 0, n as usize);
    let draw = |schedule: &AnySchedule, levels: LevelDistribution| levels.draw(&**schedule, &keys);
    let edm = AnySchedule::from(Edm::default());
    let log: Vec<f64> =
        draw(&edm, LevelDistribution::LogNormal { mean: -1.2, std: 1.2 }).iter().map(|(k, _)| k.sigma.ln()).collect();
    let mean = log.iter().sum::<f64>() / n as f64;
    let std = (log.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    // Four standard errors: 1.2 · 4/√20,000 = 0.034.
    assert!((mean + 1.2).abs() < 0.034 && (std - 1.2).abs() < 0.034, "mean {mean}, std {std}");
    let discrete = AnySchedule::named("discrete").unwrap();
    let levels: Vec<f64> = draw(&discrete, LevelDistribution::DiscreteUniform {}).iter().map(|(k, _)| k.t).collect();
    assert!(levels.iter().all(|t| t.fract() == 0.0 && (0.0..=999.0).contains(t)));
    let mean = levels.iter().sum::<f64>() / n as f64;
    assert!((mean - 499.5).abs() < 4.0 * 288.7 / (n as f64).sqrt(), "mean level {mean}");
    // The importance factor averages to 1: it is a ratio of two densities.
    let vp = AnySchedule::from(Vp::default());
    let ratios = draw(&vp, LevelDistribution::Importance { t_min: None });
    let mean = ratios.iter().map(|(_, ratio)| ratio).sum::<f64>() / n as f64;
    assert!((mean - 1.0).abs() < 0.05, "mean factor {mean}");
}

#[test]
fn edms_weight_is_one_on_its_own_prediction() {
    for sigma in [0.01, 0.5, 10.0] {
        let at = Edm::default().kernel(sigma);
        let out = Prediction::Edm { sigma_data: 0.5 }.skip_and_out(&at).1;
        assert_close(Weighting::Edm { sigma_data: 0.5 }.weight(&at, out), 1.0, 1e-12, "EDM");
        // Likelihood weight on the score's error: g².
        let score = Prediction::Score {}.skip_and_out(&at).1;
        assert_close(Weighting::Likelihood {}.weight(&at, score), at.diffusion_squared(), 1e-12, "likelihood");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let rectified = AnySchedule::named("rectified").unwrap();
    let refuse = |levels, weighting| Denoising { levels, weighting }.check(&rectified).unwrap_err().to_string();
    assert!(refuse(LevelDistribution::Importance { t_min: None }, Weighting::Unit {}).contains("log-SNR"));
    assert!(refuse(LevelDistribution::UNIFORM, Weighting::Likelihood {}).contains("infinite"));
    assert!(refuse(LevelDistribution::DiscreteUniform {}, Weighting::Unit {}).contains("discrete"));
    assert!(refuse(LevelDistribution::Uniform { t_min: Some(0.0), shift: 1.0 }, Weighting::Unit {}).contains("noisy"));
}

#[test]
fn a_model_runs_on_any_schedule() {
    // An exact network of VP, asked on EDM's levels: D(x; α, σ) = D(x/α; 1, σ/α).
    let schedule = AnySchedule::from(Vp::default());
    let theta = Tensor::<1>::from_data(TensorData::new(vec![1.0f64], [1]), (&Device::flex(), DType::F64));
    let prediction = Prediction::V {};
    let network = Scaled { theta, schedule: schedule.clone(), prediction };
    let settings = Precondition {
        prediction,
        input_scale: stein::InputScale::None {},
        noise_input: NoiseInput::Time { factor: 1.0 },
    };
    let model = Preconditioned::new(network, settings, schedule).unwrap();
    let silent = Rectified::default().kernel(1.0);
    let refused =
        stein::denoise(&model, crate::tensor(&[0.0, 0.0], 2), (&silent).into(), &Condition::none()).unwrap_err();
    assert!(refused.to_string().contains("never reaches"), "{refused}");
    for sigma in [0.05, 1.0, 20.0] {
        let at = Edm::default().kernel(sigma);
        let x = [0.4 * (1.0 + sigma), -0.3];
        let (ours, exact) = (crate::denoise(&model, &x, 2, &at), crate::denoise(&gaussian(), &x, 2, &at));
        ours.iter().zip(&exact).for_each(|(a, b)| assert_close(*a, *b, 1e-9, format!("σ = {sigma}")));
    }
}

/// Every way to learn the score, at levels like these.
fn score_matching(levels: LevelDistribution) -> Vec<AnyObjective> {
    let sliced = |projection, variance_reduced, projections| {
        AnyObjective::from(Sliced { levels, projection, variance_reduced, projections })
    };
    vec![
        Denoising { levels, weighting: Weighting::Eps {} }.into(),
        Explicit { levels }.into(),
        Implicit { levels }.into(),
        sliced(Projection::Rademacher, true, 1),
        sliced(Projection::Gaussian, true, 2),
        sliced(Projection::Sphere, false, 1),
        sliced(Projection::Gaussian, false, 3),
    ]
}

#[test]
fn every_objective_is_stationary_at_the_exact_score_and_nowhere_beside_it() {
    let schedule = AnySchedule::from(Edm { sigma_min: 0.1, sigma_max: 20.0 });
    for levels in [LevelDistribution::Single { noise: 0.5 }, LevelDistribution::LogNormal { mean: -0.5, std: 0.8 }] {
        for objective in score_matching(levels) {
            for prediction in [Prediction::Score {}, Prediction::Eps {}, Prediction::Edm { sigma_data: 1.0 }] {
                let slopes = |theta| -> (f64, f64) {
                    let slopes: Vec<f64> = (0..20)
                        .map(|k| loss_and_slope(&schedule, prediction, &*objective, theta, 500 * k, 500).1)
                        .collect();
                    let mean = slopes.iter().sum::<f64>() / 20.0;
                    let variance = slopes.iter().map(|slope| (slope - mean).powi(2)).sum::<f64>() / 19.0;
                    (mean, (variance / 20.0).sqrt())
                };
                let ((right, error), (wrong, wrong_error)) = (slopes(1.0), slopes(1.5));
                let what = format!("{objective:?}, {prediction:?}");
                assert!(right.abs() < 5.0 * error + 1e-12, "{what}: slope {right} +- {error} at the exact score");
                assert!(wrong > 5.0 * wrong_error, "{what}: slope {wrong} +- {wrong_error} beside it");
            }
        }
    }
}

#[test]
fn gradients_of_every_objective_are_differences() {
    let schedule = AnySchedule::from(Edm { sigma_min: 0.1, sigma_max: 20.0 });
    for objective in score_matching(LevelDistribution::LogNormal { mean: -0.5, std: 0.8 }) {
        let at = |theta| loss_and_slope(&schedule, Prediction::Edm { sigma_data: 1.0 }, &*objective, theta, 0, 16);
        let step = 1e-5;
        let difference = (at(0.7 + step).0 - at(0.7 - step).0) / (2.0 * step);
        // The losses are quadratic in θ: a central difference errs by rounding alone, 1e-16 / 1e-5.
        assert_close(at(0.7).1, difference, 1e-8, format!("{objective:?}"));
    }
}

#[test]
fn the_implicit_objective_is_half_the_explicit_one_less_a_constant() {
    let schedule = AnySchedule::from(Edm { sigma_min: 0.1, sigma_max: 20.0 });
    let levels = LevelDistribution::Single { noise: 0.5 };
    let n = 40_000;
    let loss =
        |objective: &dyn Objective, theta| loss_and_slope(&schedule, Prediction::Score {}, objective, theta, 0, n).0;
    let (explicit, implicit) = (Explicit { levels }, Implicit { levels });
    // E σ² ‖∇ log p‖² / dim = σ² tr (Σ + σ² I)⁻¹ / dim.
    let constant: f64 = gaussian().variances().iter().map(|v| 0.25 / (v + 0.25)).sum::<f64>() / 2.0;
    for theta in [1.0, 0.6] {
        let (explicit, implicit) = (loss(&explicit, theta), loss(&implicit, theta));
        // Products of two normals over 40,000 rows: four standard errors are 0.02 at most.
        assert!((implicit - 0.5 * (explicit - constant)).abs() < 0.02, "{implicit} for {explicit}, {constant}");
    }
    assert!(loss(&explicit, 1.0) < 1e-20, "the exact score has no error");
}

#[test]
fn slices_average_to_the_whole() {
    let schedule = AnySchedule::from(Edm { sigma_min: 0.1, sigma_max: 20.0 });
    let levels = LevelDistribution::Single { noise: 0.5 };
    let loss = |objective: &dyn Objective| loss_and_slope(&schedule, Prediction::Score {}, objective, 0.8, 0, 50).0;
    let whole = loss(&Implicit { levels });
    for projection in [Projection::Rademacher, Projection::Gaussian, Projection::Sphere] {
        for variance_reduced in [true, false] {
            let slices = loss(&Sliced { levels, projection, projections: 400, variance_reduced });
            // 20,000 directions: the standard error of a mean of numbers of about 1 is 0.007.
            assert!((slices - whole).abs() < 0.03, "{projection:?}, {variance_reduced}: {slices} for {whole}");
        }
    }
}

#[test]
fn what_an_objective_needs_is_asked_for() {
    let edm = AnySchedule::from(Edm::default());
    let none = Condition::none();
    let keys = Keys::range(0, 0, 1);
    let model = Preconditioned::new(
        Scaled {
            theta: Tensor::from_data([1.0], (&Device::flex(), DType::F64)),
            schedule: edm.clone(),
            prediction: Prediction::X0 {},
        },
        Precondition::unscaled(Prediction::X0 {}, NoiseInput::Time { factor: 1.0 }),
        edm.clone(),
    )
    .unwrap();
    let x0 = Tensor::<2>::from_data([[0.1, 0.2]], (&Device::flex(), DType::F64));
    let error = Explicit::default().loss(&model.view(), &Examples::new(&x0, &none, &keys)).unwrap_err();
    assert!(error.to_string().contains("score of the data"), "{error}");
    let refuse = |objective: AnyObjective, part: &str| {
        let error = objective.check(&edm).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refuse(Implicit { levels: LevelDistribution::Single { noise: 1e9 } }.into(), "not among the schedule's");
    refuse(Sliced { projections: 0, ..Sliced::default() }.into(), "projections");
    refuse(Variational::default().into(), "discrete schedule");
    refuse(Hybrid { weight: 0.0, ..Hybrid::default() }.into(), "weight");
    refuse(Explicit { levels: LevelDistribution::DiscreteUniform {} }.into(), "discrete");
}

/// F = tanh(θ x W) V, of one trainable number.
struct Hidden(Tensor<1>);

impl Network for Hidden {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        let matrix =
            |phase: f64| rows::matrix((0..4).map(|k| (1.3 * f64::from(k) + phase).sin()).collect(), 2, &x.value);
        let (first, second) = (matrix(0.4) * self.0.clone().reshape([1, 1]), matrix(1.9));
        let hidden = x.linear(|x| x.matmul(first.clone()));
        let hidden = hidden.map(|x| x.tanh(), |x| -x.tanh().square().sub_scalar(1.0));
        Ok(hidden.linear(|x| x.matmul(second.clone())))
    }
}

fn of_hidden(theta: Tensor<1>) -> Preconditioned<Potential<Hidden>> {
    let schedule = AnySchedule::from(Vp::default());
    Preconditioned::new(Potential { network: Hidden(theta) }, Precondition::edm(0.7), schedule).unwrap()
}

fn number(value: f64) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![value], [1]), (&Device::flex(), DType::F64))
}

#[test]
fn the_loss_of_an_energy_has_its_second_derivatives() {
    let denoising = Denoising { weighting: Weighting::Edm { sigma_data: 0.7 }, ..Denoising::default() };
    let (given, keys) = (Condition::none(), Keys::range(2, 0, 32));
    let x0 = gaussian().draw_clean(&keys);
    let x0 = Tensor::<2>::from_data(TensorData::new(x0, [32, 2]), (&Device::flex(), DType::F64));
    let loss = |theta: f64, learning: &Tensor<1>| {
        let learning = Potential { network: Hidden(learning.clone()) };
        let examples = Examples::new(&x0, &given, &keys);
        denoising.potential_loss(&of_hidden(number(theta)), &learning, &examples).unwrap()
    };
    let theta = 0.8;
    let leaf = number(theta).autodiff().require_grad();
    let found = loss(theta, &leaf);
    let plain = denoising.loss(&of_hidden(number(theta)).view(), &Examples::new(&x0, &given, &keys)).unwrap();
    let slope = leaf.grad(&found.clone().backward()).unwrap().into_scalar::<f64>();
    assert_close(found.into_scalar(), plain.into_scalar::<f64>(), 1e-12, "the value is that of the objective");
    let at = |theta: f64| loss(theta, &number(theta)).into_scalar::<f64>();
    let h = 1e-4;
    let difference = (8.0 * (at(theta + h) - at(theta - h)) - at(theta + 2.0 * h) + at(theta - 2.0 * h)) / (12.0 * h);
    // Differences of fourth order: rounding over h is what is left.
    assert!(slope.abs() > 1e-3, "a slope of {slope} says nothing");
    assert_close(slope, difference, 1e-8, "the slope by the weight");
}

#[test]
fn the_score_of_an_energy_is_its_slope() {
    let (model, given) = (of_hidden(number(0.9)), Condition::none());
    let x = Tensor::<2>::from_data([[0.3, -1.2], [1.5, 0.4], [-0.2, 0.1]], (&Device::flex(), DType::F64));
    // A level of its own schedule, and one of another, which is brought there.
    for at in [Vp::default().kernel(0.4), Edm::default().kernel(0.6)] {
        let levels = Levels::Same(&at);
        let (_, slope) = gradient(x.clone(), |x| {
            let energy = model.energy(x, levels, &given)?;
            Ok((energy.clone(), energy.sum()))
        })
        .unwrap();
        let denoised = denoise(&model, x.clone(), levels, &given).unwrap();
        let score = denoiser::score(x.clone().into(), denoised.into(), levels).value;
        for (slope, score) in host(&slope).iter().zip(host(&score)) {
            assert_close(-slope, score, 1e-10, format!("{at:?}"));
        }
    }
}
