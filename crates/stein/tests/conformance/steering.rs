//! Guidance by gradients, by several conditions and by rules for a step, on mixtures whose guided estimates are known.

use std::sync::Arc;

use stein::{
    Ancestral, AnySampler, AnySchedule, AnyWrapper, Classifier, Condition, Ddim, Denoiser, Dual, Edm, GradientMoves,
    Grid, Kernel, Kind, Levels, Request, Result, Sampler, Schedule, Tensor, Variance, Vp, denoise,
    exact::{Gaussian, GaussianMixture},
    guidance::{
        CfgPp, ClassName, ClassifierFree, ClassifierGuidance, Compose, GaussianTarget, Negative, Output, Regressor,
        Rescale, Scale, ScaleByLevel, Steered, SteeredByEstimate, Surroundings, Term, wrap,
    },
    jvp,
    noise::Source,
    rows::{self, host},
    sample_from, vjp,
};

use crate::{assert_close, plane, tensor};

/// A model without classes, or with, beside the exact classifier of the mixture.
struct World {
    conditional: bool,
}

impl Surroundings for World {
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn knows_no_class(&self) -> bool {
        true
    }

    fn is_conditional(&self) -> bool {
        self.conditional
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        Err(stein::Error::new(format!("there is no denoiser {model}")))
    }

    fn classifier(&self, model: &str) -> Result<Arc<dyn Classifier>> {
        assert_eq!(model, "exact");
        Ok(Arc::new(plane()))
    }
}

const TOLD: World = World { conditional: true };

/// The components of [`plane`] by themselves.
fn component(class: u32) -> Gaussian {
    let parts =
        [(vec![-1.0, 0.5], [vec![1.0, 0.6], vec![0.6, 0.8]]), (vec![1.0, -1.0], [vec![0.3, -0.1], vec![-0.1, 0.2]])];
    let (mean, covariance) = &parts[class as usize];
    Gaussian::new(mean.clone(), covariance).unwrap()
}

const X: [f64; 6] = [0.4, -0.2, 1.0, 0.7, -1.3, 0.5];
const W: [f64; 6] = [0.3, 1.0, -0.7, 0.2, 0.5, 0.5];

/// D of each row of X for the class of the row, or of the whole mixture.
fn truth(class: &[Option<u32>], at: Levels) -> Vec<f64> {
    let row = |(i, class): (usize, &Option<u32>)| {
        let x = &X[2 * i..2 * i + 2];
        match class {
            Some(class) => crate::denoise(&component(*class), x, 2, at.row(i)),
            None => crate::denoise(&plane(), x, 2, at.row(i)),
        }
    };
    class.iter().enumerate().flat_map(row).collect()
}

fn ask(denoiser: &dyn Denoiser, at: Levels, given: &Condition) -> Vec<f64> {
    host(&denoise(denoiser, tensor(&X, 2), at, given).unwrap())
}

fn by_classifier(scale: impl Into<Scale>, around: &World) -> Arc<dyn Denoiser> {
    let guide = ClassifierGuidance { model: "exact".to_owned(), scale: scale.into(), class: None };
    wrap(Arc::new(plane()), &[guide.into()], around).unwrap()
}

fn classes(class: [Option<u32>; 3]) -> Condition {
    Condition { class: Some(class.to_vec()), ..Condition::none() }
}

fn between(from: &[f64], to: &[f64], scale: impl Fn(usize) -> f64) -> Vec<f64> {
    from.iter().zip(to).enumerate().map(|(i, (from, to))| from + scale(i) * (to - from)).collect()
}

pub(crate) fn all_close(ours: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), wanted.len(), "{what}");
    ours.iter().zip(wanted).for_each(|(a, b)| assert_close(*a, *b, tolerance, what));
}

/// Bayes' rule: the mixture steered by its exact classifier is the component of the class.
#[test]
fn an_exact_classifier_of_scale_1_makes_the_mixture_its_component() {
    let class = [Some(0), None, Some(1)];
    for schedule in AnySchedule::all() {
        // Not below: σ²/α times a gradient of rounding size would have to cancel what the mixture and the component share.
        let levels = [0.3, 1.0, 4.0].map(|noise: f64| schedule.kernel(schedule.time_at(-2.0 * noise.ln())));
        for at in [Levels::Same(&levels[0]), Levels::Same(&levels[2]), Levels::Each(&levels)] {
            let steered = ask(&by_classifier(1.0, &World { conditional: false }), at, &classes(class));
            all_close(&steered, &truth(&class, at), 1e-10, schedule.kind());
            // Any scale is so much of the way, and none of it without a classifier.
            for scale in [0.0, 2.5, -1.0] {
                let steered = ask(&by_classifier(scale, &World { conditional: false }), at, &classes(class));
                let wanted = between(&truth(&[None; 3], at), &truth(&class, at), |_| scale);
                all_close(&steered, &wanted, 1e-10, schedule.kind());
            }
        }
    }
}

#[test]
fn a_model_with_classes_keeps_its_own_and_one_class_may_be_for_all() {
    let at = Edm::default().kernel(0.8);
    let (whole, told) = (truth(&[None; 3], (&at).into()), truth(&[Some(1); 3], (&at).into()));
    // The class of the row twice: once told, once by the classifier.
    let steered = ask(&by_classifier(0.7, &TOLD), (&at).into(), &Condition::classes([1; 3]));
    let wanted: Vec<f64> = (0..6).map(|i| told[i] + 0.7 * (told[i] - whole[i])).collect();
    all_close(&steered, &wanted, 1e-11, "told and steered");
    let fixed = ClassifierGuidance { model: "exact".to_owned(), scale: 1.0.into(), class: Some(ClassName::from(1)) };
    let steered = wrap(Arc::new(plane()), &[fixed.into()], &World { conditional: false }).unwrap();
    all_close(&ask(&steered, (&at).into(), &Condition::none()), &told, 1e-11, "one class for all");
    let refused = denoise(&by_classifier(1.0, &TOLD), tensor(&X, 2), (&at).into(), &Condition::none()).unwrap_err();
    assert!(refused.to_string().contains("needs a class"), "{refused}");
    // Without signal there is nothing to steer by.
    let noise = Kernel { t: 1.0, alpha: 0.0, sigma: 1.0, d_alpha: -1.0, d_sigma: 0.0 };
    let steered = ask(&by_classifier(1.0, &World { conditional: false }), (&noise).into(), &Condition::classes([1; 3]));
    all_close(&steered, &truth(&[None; 3], (&noise).into()), 1e-14, "without signal");
}

/// A regressor of N(0, 1)'s x_0 in the first coordinate.
struct First;

impl Regressor for First {
    fn regress(&self, x: Dual<2>, at: Levels) -> Result<Dual<2>> {
        let shrink = at.factors(|at| at.alpha / (at.alpha.powi(2) + at.sigma.powi(2)));
        Ok(x.scale(&shrink).linear(|x| x.narrow(1, 0, 1)))
    }
}

#[test]
fn a_regressor_and_a_function_of_the_estimate_move_it_by_their_gradients() {
    let levels = [0.4, 1.0, 2.5].map(|sigma| Edm::default().kernel(sigma));
    let at = Levels::Each(&levels);
    let (target, std, scale) = (0.9, 0.6, 1.3);
    let by = GaussianTarget { regressor: First, target: vec![target], std };
    let steered = Steered { inner: Arc::new(plane()), scale: scale.into(), by };
    let bare = truth(&[None; 3], at);
    let ours = ask(&steered, at, &Condition::none());
    for (row, at) in levels.iter().enumerate() {
        let shrink = at.alpha / (at.alpha.powi(2) + at.sigma.powi(2));
        let slope = (target - shrink * X[2 * row]) * shrink / std.powi(2);
        let wanted = bare[2 * row] + scale * at.sigma.powi(2) / at.alpha * slope;
        assert_close(ours[2 * row], wanted, 1e-13, "regressor");
        assert_close(ours[2 * row + 1], bare[2 * row + 1], 1e-13, "what it does not look at");
    }

    // −|x_0 − y|²/(2 s²): its gradient by x_t is Jᵀ (y − D)/s², and the Jacobian of D is symmetric.
    let y = [0.3, -0.6];
    let by = move |clean: Dual<2>| {
        let count = clean.dims()[0];
        let off = clean.shift(|x| x - tensor(&y.repeat(count), 2));
        Ok((off.clone() * off).linear(|squares| squares.sum_dim(1).mul_scalar(-0.5 / std.powi(2))))
    };
    let inner: Arc<dyn Denoiser> = Arc::new(plane());
    let steered = SteeredByEstimate { inner: Arc::clone(&inner), scale: scale.into(), by };
    let pull: Vec<f64> = bare.iter().enumerate().map(|(i, mean)| (y[i % 2] - mean) / std.powi(2)).collect();
    let (_, back) = jvp(&inner, tensor(&X, 2), tensor(&pull, 2), at, &Condition::none()).unwrap();
    let back = host(&back);
    let wanted: Vec<f64> = (0..6).map(|i| bare[i] + scale * levels[i / 2].sigma.powi(2) * back[i]).collect();
    all_close(&ask(&steered, at, &Condition::none()), &wanted, 1e-12, "function of the estimate");

    // The tangent is that of the whole; a gradient through it is refused.
    let (_, product) = jvp(&steered, tensor(&X, 2), tensor(&W, 2), at, &Condition::none()).unwrap();
    let h = 1e-4;
    let moved = |h: f64| {
        let x: Vec<f64> = X.iter().zip(W).map(|(x, w)| x + h * w).collect();
        host(&denoise(&steered, tensor(&x, 2), at, &Condition::none()).unwrap())
    };
    let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|k| moved(k * h));
    // The fifth derivative times h⁴/30 and rounding over h are 1e-11 or less.
    let slope: Vec<f64> = (0..6).map(|i| (a[i] - 8.0 * b[i] + 8.0 * c[i] - d[i]) / (12.0 * h)).collect();
    all_close(&host(&product), &slope, 1e-9, "tangent");
    let refused = vjp(&steered, tensor(&X, 2), tensor(&W, 2), at, &Condition::none()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    // The tangent of a linear function is the same everywhere, and its gradient 0.
    let linear = SteeredByEstimate {
        inner: Arc::new(component(0)),
        scale: 1.0.into(),
        by: |clean: Dual<2>| Ok(clean.linear(|x| x.sum_dim(1))),
    };
    let (_, product) = jvp(&linear, tensor(&X, 2), tensor(&W, 2), at, &Condition::none()).unwrap();
    let (_, alone) = jvp(&component(0), tensor(&X, 2), tensor(&W, 2), at, &Condition::none()).unwrap();
    all_close(&host(&product), &host(&alone), 1e-14, "linear");
}

/// One step of a sampler from rows X, without noise.
fn step(denoiser: &dyn Denoiser, sampler: &dyn Sampler, kernels: &[Kernel], given: &Condition) -> Result<Vec<f64>> {
    let noise = Source::Given(vec![vec![0.0; 6]; 8]);
    let request = Request { noise, given: given.clone(), ..Request::exact(3, 2, 0) };
    sample_from(tensor(&X, 2), denoiser, &Vp::default(), kernels, sampler, &request, &mut |_| Ok(()))
        .map(|end| host(&end.x))
}

/// Dhariwal & Nichol 2021, algorithm 1, with the gradient known from Bayes' rule: α (D_y − D)/σ².
#[test]
fn the_gradient_moves_the_mean_of_an_ancestral_step_where_that_is_asked_for() {
    let schedule = Vp::default();
    let [high, from, to] = [0.8, 0.5, 0.35].map(|t| schedule.kernel(t));
    let given = Condition::classes([1; 3]);
    let (whole, told) = (truth(&[None; 3], (&from).into()), truth(&[Some(1); 3], (&from).into()));
    let scale = 1.7;
    let model = by_classifier(scale, &World { conditional: false });
    for variance in [Variance::Posterior, Variance::Forward] {
        for gradient in [GradientMoves::Score, GradientMoves::Mean] {
            let sampler = Ancestral { variance, gradient };
            let ours = step(&model, &sampler, &[from, to], &given).unwrap();
            let (ratio, forward) = from.transition_from(&to);
            let sigma = if variance == Variance::Forward { forward } else { from.posterior_variance(&to) };
            for i in 0..6 {
                let slope = scale * from.alpha * (told[i] - whole[i]) / from.sigma.powi(2);
                let mean = |denoised: f64| {
                    ratio * (to.sigma / from.sigma).powi(2) * X[i] + to.alpha * forward / from.sigma.powi(2) * denoised
                };
                let wanted = match gradient {
                    GradientMoves::Score => mean(whole[i] + from.sigma.powi(2) / from.alpha * slope),
                    GradientMoves::Mean => mean(whole[i]) + sigma * slope,
                };
                assert_close(ours[i], wanted, 1e-11, format!("{variance:?}, {gradient:?}"));
            }
        }
    }
    // In the step to the clean end the forward variance is the posterior's of the step before, and the posterior's is 0.
    let mean = |variance| Ancestral { variance, gradient: GradientMoves::Mean };
    let bare: Arc<dyn Denoiser> = Arc::new(plane());
    let first = step(&model, &mean(Variance::Forward), &[high, from], &given).unwrap();
    let ours = step(&model, &mean(Variance::Forward), &[high, from, Kernel::CLEAN], &given).unwrap();
    let at = |denoiser: &dyn Denoiser, given: &Condition| {
        host(&denoise(denoiser, tensor(&first, 2), (&from).into(), given).unwrap())
    };
    let (whole, told) = (at(&bare, &Condition::none()), at(&bare, &given));
    for i in 0..6 {
        let slope = scale * from.alpha * (told[i] - whole[i]) / from.sigma.powi(2);
        assert_close(ours[i], whole[i] + high.posterior_variance(&from) * slope, 1e-11, "clean end");
    }
    // Both rules are the same where steps are small.
    let near = schedule.kernel(0.4999);
    let [score, mean] = [GradientMoves::Score, GradientMoves::Mean].map(|gradient| {
        let sampler = Ancestral { variance: Variance::Forward, gradient };
        step(&model, &sampler, &[from, near], &given).unwrap()
    });
    let moved: Vec<f64> = mean
        .iter()
        .zip(step(&bare, &Ancestral::default(), &[from, near], &Condition::none()).unwrap())
        .map(|(mean, bare)| mean - bare)
        .collect();
    let largest = moved.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    // β/σ² of the step is 1e-3.
    score.iter().zip(&mean).for_each(|(a, b)| assert!((a - b).abs() < 5e-3 * largest, "{a} and {b} of {largest}"));
}

#[test]
fn cfg_pp_renoises_without_the_class_and_only_the_step_of_ddim_takes_it() {
    let schedule = Vp::default();
    let [from, to] = [0.6, 0.4].map(|t| schedule.kernel(t));
    let class = [Some(0), None, Some(1)];
    let (free, told) = (truth(&[None; 3], (&from).into()), truth(&class, (&from).into()));
    for scale in [0.0, 0.6, 1.0] {
        let model = wrap(Arc::new(plane()), &[CfgPp { scale }.into()], &TOLD).unwrap();
        let guided = between(&free, &told, |_| scale);
        all_close(&ask(&model, (&from).into(), &classes(class)), &guided, 1e-13, "estimate");
        let ours = step(&model, &Ddim::default(), &[from, to], &classes(class)).unwrap();
        for i in 0..6 {
            let eps = (X[i] - from.alpha * free[i]) / from.sigma;
            assert_close(ours[i], to.alpha * guided[i] + to.sigma * eps, 1e-13, format!("scale {scale}"));
        }
        // Levels that are left alone take both of one estimate.
        let outside = stein::guidance::Interval { low: 1e3, ..Default::default() };
        let list: [AnyWrapper; 2] = [CfgPp { scale }.into(), outside.into()];
        let left =
            step(&wrap(Arc::new(plane()), &list, &TOLD).unwrap(), &Ddim::default(), &[from, to], &classes(class));
        all_close(
            &left.unwrap(),
            &step(&plane(), &Ddim::default(), &[from, to], &classes(class)).unwrap(),
            1e-14,
            "outside",
        );
    }
    let model = wrap(Arc::new(plane()), &[CfgPp::default().into()], &TOLD).unwrap();
    for sampler in AnySampler::all() {
        let kernels = Grid::uniform(4).kernels(&schedule).unwrap();
        let request = Request { given: classes(class), ..Request::exact(3, 2, 0) };
        let drawn = stein::sample(&model, &schedule, &kernels[1..], &*sampler, &request, &mut |_| Ok(()));
        match sampler {
            // The latter's step is the former's.
            AnySampler::Ddim(_) | AnySampler::EulerAncestral(_) => assert!(drawn.is_ok()),
            other => {
                let refused = drawn.err().unwrap_or_else(|| panic!("{} ignores the noise", other.kind()));
                assert!(refused.kind() == Kind::Unsupported && refused.to_string().contains("ddim"), "{refused}");
            }
        }
    }
}

#[test]
fn negative_and_composed_conditions_are_their_formulas() {
    let levels = [0.4, 1.0, 2.5].map(|sigma| Edm::default().kernel(sigma));
    for at in [Levels::Same(&levels[1]), Levels::Each(&levels)] {
        let class = [Some(0), None, Some(1)];
        let (free, told) = (truth(&[None; 3], at), truth(&class, at));
        let (zero, one) = (truth(&[Some(0); 3], at), truth(&[Some(1); 3], at));
        for scale in [0.0, 1.0, 3.0] {
            let away = Negative { class: Some(1.into()), scale: scale.into(), ..Negative::default() };
            let ours = ask(&wrap(Arc::new(plane()), &[away.into()], &TOLD).unwrap(), at, &classes(class));
            all_close(&ours, &between(&one, &told, |_| scale), 1e-12, "negative");

            let term = |class: u32, scale: f64| Term { class: class.into(), scale: scale.into() };
            let all = Compose { scale: scale.into(), and: vec![term(0, 0.7)], not: vec![term(1, 0.4)] };
            let composed = wrap(Arc::new(plane()), &[all.into()], &TOLD).unwrap();
            let wanted = |told: &[f64]| -> Vec<f64> {
                let all = |i: usize| {
                    free[i] + scale * (told[i] - free[i]) + 0.7 * (zero[i] - free[i]) - 0.4 * (one[i] - free[i])
                };
                (0..6).map(all).collect()
            };
            all_close(&ask(&composed, at, &classes(class)), &wanted(&told), 1e-12, "composed");
            // Without a class of their own the rows are of the list alone.
            all_close(&ask(&composed, at, &Condition::none()), &wanted(&free), 1e-12, "the list alone");
        }
    }
}

fn deviation(of: &[f64]) -> f64 {
    let mean = of.iter().sum::<f64>() / of.len() as f64;
    (of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / of.len() as f64).sqrt()
}

#[test]
fn rescaled_guidance_has_the_spread_that_is_asked_for_row_by_row() {
    let schedule = Vp::default();
    let levels = [0.2, 0.5, 0.9].map(|t| schedule.kernel(t));
    let class = [Some(0), Some(1), Some(1)];
    let scale = 6.0;
    let free = truth(&[None; 3], (&levels[..]).into());
    let told = truth(&class, (&levels[..]).into());
    let guided = between(&free, &told, |_| scale);
    for of in [Output::Eps, Output::V, Output::X0] {
        for part in [0.0, 0.7, 1.0] {
            let list: [AnyWrapper; 2] = [ClassifierFree { scale: scale.into() }.into(), Rescale { part, of }.into()];
            let ours = ask(&wrap(Arc::new(plane()), &list, &TOLD).unwrap(), (&levels[..]).into(), &classes(class));
            for (row, at) in levels.iter().enumerate() {
                let x = &X[2 * row..2 * row + 2];
                // The output as its name has it, and back.
                let output = |mean: &[f64]| -> Vec<f64> {
                    let each = x.iter().zip(&mean[2 * row..]).map(|(x, mean)| {
                        let eps = (x - at.alpha * mean) / at.sigma;
                        match of {
                            Output::Eps => eps,
                            Output::V => at.alpha * eps - at.sigma * mean,
                            Output::X0 => *mean,
                        }
                    });
                    each.collect()
                };
                let (wanted, had) = (output(&told), output(&guided));
                let factor = part * deviation(&wanted) / deviation(&had) + 1.0 - part;
                let found = output(&ours);
                found
                    .iter()
                    .zip(&had)
                    .for_each(|(found, had)| assert_close(*found, factor * had, 1e-11, format!("{of:?}")));
            }
        }
    }
    // What is not guided keeps its spread.
    let alone = wrap(Arc::new(plane()), &[Rescale::default().into()], &TOLD).unwrap();
    assert_eq!(ask(&alone, (&levels[0]).into(), &classes(class)), ask(&plane(), (&levels[0]).into(), &classes(class)));
    let noise = Kernel { t: 1.0, alpha: 0.0, sigma: 1.0, d_alpha: -1.0, d_sigma: 0.0 };
    let refused = denoise(&alone, tensor(&X, 2), (&noise).into(), &classes(class)).unwrap_err();
    assert!(refused.to_string().contains("of = \"v\""), "{refused}");
}

#[test]
fn scales_vary_with_the_level_as_they_say() {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct File {
        wrap: Vec<AnyWrapper>,
    }
    let text = r#"wrap = [
        { kind = "cfg", scale = 2 },
        { kind = "cfg", scale = { kind = "interval", scale = 3.0, low = 0.5, high = 2.0 } },
        { kind = "cfg", scale = { kind = "linear", clean = 1.0, noisy = 5.0, low = 0.1, high = 10.0 } },
        { kind = "cfg", scale = { kind = "power", noisy = 4.0, power = 2.0 } },
        { kind = "classifier", model = "exact", class = 1 },
        { kind = "compose", and = [{ class = "1" }], not = [{ class = 0, scale = 0.5 }] },
    ]"#;
    let file: File = toml::from_str(text).unwrap();
    let again: File = toml::from_str(&toml::to_string(&file).unwrap()).unwrap();
    assert_eq!(again.wrap, file.wrap);
    let scale = |i: usize| match &file.wrap[i] {
        AnyWrapper::ClassifierFree(free) => free.scale,
        other => panic!("{other:?}"),
    };
    // A level of any schedule counts by its σ/α.
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        for (noise, wanted) in [
            (0.4, [2.0, 1.0, 1.0 + 4.0 * (4f64.ln() / 100f64.ln()), 1.0 + 3.0 * (0.16 / 1.16)]),
            (1.0, [2.0, 3.0, 3.0, 1.0 + 3.0 * 0.5]),
            (20.0, [2.0, 1.0, 5.0, 1.0 + 3.0 * (400.0 / 401.0)]),
        ] {
            let at = schedule.kernel(schedule.time_at(-2.0 * f64::ln(noise)));
            for (i, wanted) in wanted.into_iter().enumerate() {
                assert_close(scale(i).at(&at), wanted, 1e-9, format!("scale {i} at {noise}"));
            }
        }
    }
    // Each row takes the scale of its level.
    let levels = [0.4, 1.0, 2.5].map(|sigma| Edm::default().kernel(sigma));
    let class = [Some(0), Some(0), Some(1)];
    let guided = wrap(Arc::new(plane()), &file.wrap[1..2], &TOLD).unwrap();
    let ours = ask(&guided, (&levels[..]).into(), &classes(class));
    let (free, told) = (truth(&[None; 3], (&levels[..]).into()), truth(&class, (&levels[..]).into()));
    all_close(&ours, &between(&free, &told, |i| [1.0, 3.0, 1.0][i / 2]), 1e-12, "rows");

    let refuse = |wrapper: AnyWrapper| wrap(Arc::new(plane()), &[wrapper], &TOLD).err().unwrap().to_string();
    let varies = |scale: ScaleByLevel| AnyWrapper::from(ClassifierFree { scale: scale.into() });
    for (wrapper, sentence) in [
        (varies(ScaleByLevel::Interval { scale: 1.0, low: 2.0, high: 1.0, outside: 1.0 }), "below scale.high = 1"),
        (varies(ScaleByLevel::Linear { clean: 1.0, noisy: 2.0, low: 0.0, high: 1.0 }), "scale.low = 0 must be above 0"),
        (varies(ScaleByLevel::Power { clean: 1.0, noisy: f64::NAN, power: 1.0 }), "scale.noisy is NaN"),
        (varies(ScaleByLevel::Power { clean: 1.0, noisy: 2.0, power: 0.0 }), "scale.power is 0"),
        (ClassifierGuidance::default().into(), "give the classifier"),
        (Negative::default().into(), "give what is not wanted"),
        (
            Negative { class: Some(ClassName("cat".to_owned())), scale: 2.0.into(), ..Negative::default() }.into(),
            "no class called cat",
        ),
        (Negative { text: Some("a cat".to_owned()), ..Negative::default() }.into(), "reads no texts"),
        (CfgPp { scale: 1.5 }.into(), "at most 1"),
        (Rescale { part: 2.0, of: Output::Eps }.into(), "part is 2"),
        (
            Compose { not: vec![Term { class: 0.into(), scale: (-1.0).into() }], ..Compose::default() }.into(),
            "stands in `not`",
        ),
    ] as [(AnyWrapper, &str); 11]
    {
        assert!(refuse(wrapper).contains(sentence), "{sentence}");
    }
    let read = |text: &str| toml::from_str::<File>(text).err().unwrap().to_string();
    assert!(read("wrap = [{ kind = \"cfg\", scale = \"2\" }]").contains("a number, or a table"));
    assert!(read("wrap = [{ kind = \"cfg\", scale = { kind = \"lin\" } }]").contains("linear"));
}

/// The exact classifier itself: the shares of the components at a level.
#[test]
fn a_mixture_classifies_by_its_components_shares() {
    let (model, at) = (plane(), Vp::default().kernel(0.4));
    let said = stein::classify(&model, tensor(&X, 2).into(), (&at).into()).unwrap();
    let shares = host(&said.logits.softmax().value);
    let density = |class: u32, x: &[f64]| stein::exact::Exact::log_density(&component(class), x, &at)[0].exp();
    for (row, shares) in shares.chunks_exact(2).enumerate() {
        let x = &X[2 * row..2 * row + 2];
        let (zero, one) = (0.4 * density(0, x), 0.6 * density(1, x));
        assert_close(shares[0], zero / (zero + one), 1e-13, "share");
        assert_close(shares[0] + shares[1], 1.0, 1e-14, "sum");
    }
    let single: Tensor<2> = rows::matrix(vec![0.5, 0.5], 2, &tensor(&X, 2));
    let alone = GaussianMixture::isotropic(vec![1.0], vec![vec![0.0, 0.0]], vec![1.0]).unwrap();
    assert_eq!(host(&stein::classify(&alone, single.into(), (&at).into()).unwrap().logits.softmax().value), [1.0]);
}
