//! Wrappers against their formulas, on exact models whose guided estimates are known.

use std::sync::Arc;

use stein::{
    AnyWrapper, Condition, Denoiser, Dual, Edm, Kernel, Levels, Result, Schedule, denoise,
    exact::{Exact, Gaussian, GaussianMixture},
    guidance::{Alone, Autoguidance, Clamp, ClassifierFree, DynamicThreshold, Interval, Scale, Surroundings, wrap},
    rows::host,
};

use crate::{assert_close, plane, tensor};

/// Surroundings with everything.
struct World;

impl Surroundings for World {
    fn range(&self) -> Option<(f64, f64)> {
        Some((-1.0, 3.0))
    }

    fn knows_no_class(&self) -> bool {
        true
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        assert_eq!(model, "worse");
        Ok(Arc::new(wide()))
    }
}

fn wide() -> Gaussian {
    Gaussian::new(vec![0.1, 0.2], &[vec![2.0, 0.3], vec![0.3, 1.5]]).unwrap()
}

/// Surroundings of a table whose columns have ranges of their own.
struct Columns;

impl Surroundings for Columns {
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn bounds(&self) -> Option<Vec<(f64, f64)>> {
        Some(vec![(0.1, 0.15), (-3.0, 0.2)])
    }

    fn knows_no_class(&self) -> bool {
        false
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        Alone.denoiser(model)
    }
}

#[test]
fn columns_are_clamped_each_to_its_own_range() {
    let at = Edm::default().kernel(1.5);
    let bare = host(&denoise(&plane(), tensor(&X, 2), (&at).into(), &Condition::none()).unwrap());
    for (list, bounds) in [
        (Clamp::default(), [(0.1, 0.15), (-3.0, 0.2)]),
        (Clamp { low: None, high: Some(0.12) }, [(0.1, 0.12), (-3.0, 0.12)]),
    ] {
        let clamped = wrap(Arc::new(plane()), &[list.into()], &Columns).unwrap();
        let x = Dual::new(tensor(&X, 2), tensor(&[1.0; 6], 2));
        let free = stein::estimate(&plane(), x.clone(), (&at).into(), &Condition::none()).unwrap().mean;
        let kept = stein::estimate(&clamped, x, (&at).into(), &Condition::none()).unwrap().mean;
        let slopes = [free.tangent.unwrap(), kept.tangent.unwrap()].map(|tangent| host(&tangent));
        for (i, value) in host(&kept.value).into_iter().enumerate() {
            let (low, high) = bounds[i % 2];
            assert_eq!(value, bare[i].clamp(low, high));
            let slope = if (low..=high).contains(&bare[i]) { slopes[0][i] } else { 0.0 };
            assert_eq!(slopes[1][i], slope);
        }
    }
}

/// The components of [`plane`] by themselves.
fn component(class: usize) -> Gaussian {
    let parts =
        [(vec![-1.0, 0.5], [vec![1.0, 0.6], vec![0.6, 0.8]]), (vec![1.0, -1.0], [vec![0.3, -0.1], vec![-0.1, 0.2]])];
    let (mean, covariance) = &parts[class];
    Gaussian::new(mean.clone(), covariance).unwrap()
}

fn wrapped(list: &[AnyWrapper]) -> Arc<dyn Denoiser> {
    wrap(Arc::new(plane()), list, &World).unwrap()
}

const X: [f64; 6] = [0.4, -0.2, 1.0, 0.7, -1.3, 0.5];

fn row(denoiser: &dyn Denoiser, row: usize, at: &Kernel) -> Vec<f64> {
    host(&denoise(denoiser, tensor(&X[2 * row..2 * row + 2], 2), at.into(), &Condition::none()).unwrap())
}

#[test]
fn classifier_free_guidance_is_its_formula() {
    let given = Condition { class: Some(vec![Some(0), None, Some(1)]), ..Condition::none() };
    let levels = [0.4, 1.0, 2.5].map(|sigma| Edm::default().kernel(sigma));
    for at in [Levels::Same(&levels[1]), Levels::Each(&levels)] {
        for scale in [0.0, 1.0, 2.0, 7.5] {
            let guided = wrapped(&[ClassifierFree { scale: scale.into() }.into()]);
            let ours = host(&denoise(&guided, tensor(&X, 2), at, &given).unwrap());
            for (i, class) in [Some(0), None, Some(1)].into_iter().enumerate() {
                let free = row(&plane(), i, at.row(i));
                let told = class.map_or_else(|| free.clone(), |class| row(&component(class), i, at.row(i)));
                for j in 0..2 {
                    let wanted = free[j] + scale * (told[j] - free[j]);
                    assert_close(ours[2 * i + j], wanted, 1e-12, format!("scale {scale}, row {i}"));
                }
            }
        }
        // With scale 1 it is the model as it is.
        let guided =
            denoise(&wrapped(&[ClassifierFree { scale: Scale::Same(1.0) }.into()]), tensor(&X, 2), at, &given).unwrap();
        let bare = denoise(&plane(), tensor(&X, 2), at, &given).unwrap();
        host(&guided).iter().zip(host(&bare)).for_each(|(a, b)| assert_close(*a, b, 1e-14, "scale 1"));
    }
}

#[test]
fn an_interval_leaves_the_outside_alone() {
    let given = Condition::classes([0, 1, 0]);
    let guidance: AnyWrapper = ClassifierFree { scale: Scale::Same(3.0) }.into();
    let always = wrapped(std::slice::from_ref(&guidance));
    let within = wrapped(&[guidance, Interval { low: 0.5, high: 2.0 }.into()]);
    let ask = |denoiser: &dyn Denoiser, at: Levels| host(&denoise(denoiser, tensor(&X, 2), at, &given).unwrap());
    // Below, inside, above; the ends belong to it.
    let levels = [0.4, 1.0, 2.5].map(|sigma| Edm::default().kernel(sigma));
    let (guided, bare) = (ask(&always, Levels::Each(&levels)), ask(&plane(), Levels::Each(&levels)));
    let mixed = ask(&within, Levels::Each(&levels));
    for (row, inside) in [false, true, false].into_iter().enumerate() {
        let wanted = if inside { &guided } else { &bare };
        assert_ne!(guided[2 * row..2 * row + 2], bare[2 * row..2 * row + 2]);
        for j in 2 * row..2 * row + 2 {
            assert_close(mixed[j], wanted[j], 1e-14, format!("row {row}"));
        }
    }
    for (sigma, inside) in [(0.4, false), (0.5, true), (2.0, true), (2.5, false)] {
        let at = Edm::default().kernel(sigma);
        let wanted = if inside { ask(&always, (&at).into()) } else { ask(&plane(), (&at).into()) };
        assert_eq!(ask(&within, (&at).into()), wanted, "σ = {sigma}");
    }
}

/// Always says the same, in every row.
struct Says(Vec<f64>);

impl Denoiser for Says {
    fn estimate(&self, x: stein::Dual<2>, _: Levels, _: &Condition) -> Result<stein::Estimate> {
        let rows = x.dims()[0];
        Ok(stein::Dual::from(tensor(&self.0.repeat(rows), self.0.len())).into())
    }
}

fn say(values: &[f64], wrapper: AnyWrapper, around: &dyn Surroundings) -> Vec<f64> {
    let denoiser = wrap(Arc::new(Says(values.to_vec())), &[wrapper], around).unwrap();
    let at = Edm::default().kernel(1.0);
    host(&denoise(&denoiser, tensor(values, values.len()), (&at).into(), &Condition::none()).unwrap())
}

#[test]
fn clamps_and_thresholds_are_those_worked_out_by_hand() {
    // The range is −1 to 3.
    assert_eq!(say(&[-4.0, -1.0, 0.5, 3.5], Clamp::default().into(), &World), [-1.0, -1.0, 0.5, 3.0]);
    let own = Clamp { low: Some(-0.5), high: None };
    assert_eq!(say(&[-4.0, 2.0, 3.5], own.into(), &World), [-0.5, 2.0, 3.0]);
    assert_eq!(say(&[-4.0, 0.5], Clamp { low: Some(0.0), high: Some(0.1) }.into(), &Alone), [0.0, 0.1]);

    // In units of half the range around 1: −2, 0, 0.5, 3 have sizes 0, 0.5, 2, 3. At 0.75 the percentile lies a quarter of the way
    // from the third to the fourth: 2.25.
    let x = [-3.0, 1.0, 2.0, 7.0];
    let ours = say(&x, DynamicThreshold { percentile: 0.75 }.into(), &World);
    let wanted = [1.0 - 2.0 * 2.0 / 2.25, 1.0, 1.0 + 2.0 * 0.5 / 2.25, 3.0];
    ours.iter().zip(wanted).for_each(|(a, b)| assert_close(*a, b, 1e-14, "threshold"));
    // A percentile inside the range clamps at the range; what is inside stays.
    let ours = say(&x, DynamicThreshold { percentile: 0.2 }.into(), &World);
    ours.iter().zip([-1.0, 1.0, 2.0, 3.0]).for_each(|(a, b)| assert_close(*a, b, 1e-14, "inside"));
    let ours = say(&[-3.0, 1.0, 2.0, 7.0], DynamicThreshold { percentile: 1.0 }.into(), &World);
    let wanted = [1.0 - 4.0 / 3.0, 1.0, 1.0 + 1.0 / 3.0, 3.0];
    ours.iter().zip(wanted).for_each(|(a, b)| assert_close(*a, b, 1e-14, "the largest"));
    assert_eq!(say(&[5.0], DynamicThreshold::default().into(), &World), [3.0]);
}

#[test]
fn autoguidance_is_its_formula() {
    let at = Edm::default().kernel(0.7);
    let ours = row(&wrapped(&[Autoguidance { model: "worse".to_owned(), scale: Scale::Same(2.5) }.into()]), 0, &at);
    let (good, bad) = (row(&plane(), 0, &at), row(&wide(), 0, &at));
    for j in 0..2 {
        assert_close(ours[j], bad[j] + 2.5 * (good[j] - bad[j]), 1e-13, "autoguidance");
    }
}

#[test]
fn lists_are_read_and_folded_in_order() {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct File {
        wrap: Vec<AnyWrapper>,
    }
    let text = r#"wrap = [
        { kind = "classifier_free", scale = 3 },
        { kind = "interval", low = 0.5, high = 2 },
        { kind = "clamp" },
    ]"#;
    let file: File = toml::from_str(text).unwrap();
    let kinds: Vec<&str> = file.wrap.iter().map(AnyWrapper::kind).collect();
    assert_eq!(kinds, ["classifier_free", "interval", "clamp"]);
    let again: File = toml::from_str(&toml::to_string(&file).unwrap()).unwrap();
    assert_eq!(again.wrap, file.wrap);
    // The clamp acts outside of the interval too, where it stands after it.
    let (low, high) = (Some(0.0), Some(0.1));
    let inside: [AnyWrapper; 2] = [Clamp { low, high }.into(), Interval { low: 0.5, high: 2.0 }.into()];
    let mut outside = inside.clone();
    outside.reverse();
    let at = Edm::default().kernel(3.0);
    assert_eq!(row(&wrapped(&inside), 0, &at), row(&plane(), 0, &at));
    assert!(row(&wrapped(&outside), 0, &at).iter().all(|x| (0.0..=0.1).contains(x)));
    assert!(
        toml::from_str::<File>("wrap = [{ kind = \"clam\" }]")
            .err()
            .unwrap()
            .to_string()
            .contains("nearest first: clamp")
    );
}

#[test]
fn what_surroundings_lack_is_said() {
    let refuse = |wrapper: AnyWrapper| {
        let bare: Arc<dyn Denoiser> = Arc::new(plane());
        wrap(bare, &[wrapper], &Alone).err().unwrap().to_string()
    };
    for (wrapper, sentence) in [
        (Clamp::default().into(), "wrapper clamp: these data have no range"),
        (Clamp { low: Some(1.0), high: Some(0.0) }.into(), "low = 1 must be below high = 0"),
        (ClassifierFree::default().into(), "not trained to do without its class"),
        (ClassifierFree { scale: Scale::Same(f64::NAN) }.into(), "scale is NaN"),
        (Interval { low: 2.0, high: 1.0 }.into(), "below high = 1"),
        (DynamicThreshold::default().into(), "no range to threshold"),
        (DynamicThreshold { percentile: 0.0 }.into(), "above 0 and at most 1"),
        (Autoguidance::default().into(), "give the worse model"),
        (Autoguidance { model: "x".to_owned(), scale: Scale::Same(2.0) }.into(), "no model x"),
    ] as [(AnyWrapper, &str); 9]
    {
        assert!(refuse(wrapper).contains(sentence), "{sentence}");
    }
    let guided = wrapped(&[ClassifierFree { scale: Scale::Same(2.0) }.into()]);
    let at = Edm::default().kernel(1.0);
    let refused = denoise(&guided, tensor(&X, 2), (&at).into(), &Condition::none()).unwrap_err();
    assert!(refused.to_string().contains("needs a class"), "{refused}");
}

#[test]
fn far_tails_and_tiny_noise_stay_finite() {
    let model = GaussianMixture::ncsn();
    for sigma in [1e-6, 1e-3, 1.0, 1e4] {
        let at = Kernel { t: sigma, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 };
        for reach in [1.0, 1e3, 1e6] {
            let x = [reach, -0.5 * reach, 5.0, 5.0];
            let ours = crate::denoise(&model, &x, 2, &at);
            assert!(ours.iter().all(|x| x.is_finite()), "σ = {sigma}, x = {reach}: {ours:?}");
        }
    }
    // All logits are −10^11; the nearer component has it all.
    let at = Edm::default().kernel(1.0);
    let ours = crate::denoise(&model, &[1e6, 1e6], 2, &at);
    ours.iter().for_each(|x| assert_close(*x, 0.5 * (1e6 + 5.0), 1e-14, "far"));
    // A component without weight is not there; one without variance is a point.
    let model = GaussianMixture::isotropic(vec![0.0, 1.0], vec![vec![0.0], vec![3.0]], vec![1.0, 0.0]).unwrap();
    assert_eq!(crate::denoise(&model, &[-50.0, 3.0], 1, &at), [3.0, 3.0]);
    let points = stein::exact::Empirical::new(vec![0.0, 1.0, 4.0], 1).unwrap();
    let at = Kernel { sigma: 1e-7, ..at };
    assert_eq!(crate::denoise(&points, &[0.9, 2.6, 1e3], 1, &at), [1.0, 4.0, 4.0]);
    assert!(points.log_density(&[1e9], &at)[0].is_finite());
}
