//! Derivatives of every denoiser under every wrapper: the Jacobian-vector product against differences, the vector-Jacobian
//! product against it, and errors where there are none.

use std::sync::Arc;

use stein::{
    AnySchedule, AnyWrapper, Classifier, Condition, Context, DType, Denoiser, Dual, Edm, Error, Estimate, Kernel, Kind,
    Levels, Network, NoiseInput, Potential, Precondition, Preconditioned, Prediction, Result, Schedule, Tensor, Vp,
    denoiser, estimate,
    exact::{Empirical, Gaussian},
    gradient,
    guidance::{
        Autoguidance, ClassifierFree, ClassifierGuidance, Compose, DynamicThreshold, Interval, Negative, Scale,
        ScaleByLevel, Surroundings, Term, wrap,
    },
    jvp,
    rows::{self, host},
    vjp,
};

use crate::{assert_close, line, plane, tensor};

/// A network with one hidden layer, smooth in everything, whose weights depend on the class.
pub struct Smooth;

impl Network for Smooth {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let [count, dim] = x.dims();
        let like = x.value.clone();
        let weights = |rows: usize, columns: usize, phase: f64| {
            let values = (0..rows * columns).map(|k| (1.7 * k as f64 + phase).sin()).collect();
            rows::matrix(values, columns, &like)
        };
        let (first, second) = (weights(dim, 8, 0.3), weights(8, dim, 1.1));
        let class = context.given.class_rows(count, 2)?;
        let shift: Vec<f64> = class.iter().map(|class| class.map_or(0.0, |class| 1.0 + f64::from(class))).collect();
        let shift = rows::column(&shift, &like);
        let noise = context.noise.clone().reshape([count, 1]).map(|c| c.sin(), |c| c.cos());
        let hidden = x.linear(|x| x.matmul(first.clone())) + noise.linear(|noise| noise.expand([count, 8]));
        let hidden = hidden.shift(|x| x + shift.mul_scalar(0.4));
        let hidden = hidden.map(|x| x.tanh(), |x| -x.tanh().square().sub_scalar(1.0));
        Ok(hidden.linear(|x| x.matmul(second.clone())))
    }
}

/// What the wrappers ask for: a range that some estimates leave, a model that can do without its class, a worse model.
struct World(Arc<dyn Denoiser>);

impl World {
    fn new() -> Self {
        Self(Arc::new(Gaussian::new(vec![0.1, 0.2], &[vec![2.0, 0.3], vec![0.3, 1.5]]).unwrap()))
    }
}

/// A denoiser that is not told the class.
struct Classless(Arc<dyn Denoiser>);

impl Denoiser for Classless {
    fn estimate(&self, x: Dual<2>, at: Levels, _: &Condition) -> Result<Estimate> {
        estimate(&self.0, x, at, &Condition::none())
    }
}

impl Surroundings for World {
    fn range(&self) -> Option<(f64, f64)> {
        Some((-0.6, 0.5))
    }

    fn knows_no_class(&self) -> bool {
        true
    }

    fn denoiser(&self, _: &str) -> Result<Arc<dyn Denoiser>> {
        Ok(Arc::new(Classless(Arc::clone(&self.0))))
    }

    fn classifier(&self, _: &str) -> Result<Arc<dyn Classifier>> {
        Ok(Arc::new(plane()))
    }
}

/// Every wrapper with settings that make it act, and stacks of them.
fn wrappers() -> Vec<Vec<AnyWrapper>> {
    let acting: Vec<AnyWrapper> = AnyWrapper::all()
        .into_iter()
        .map(|wrapper| match wrapper {
            AnyWrapper::ClassifierFree(_) => ClassifierFree { scale: Scale::Same(3.0) }.into(),
            AnyWrapper::Interval(_) => Interval { low: 0.5, high: 2.0 }.into(),
            AnyWrapper::ClassifierGuidance(_) => {
                ClassifierGuidance { model: "classifier".to_owned(), scale: Scale::Same(1.5), class: None }.into()
            }
            AnyWrapper::Negative(_) => Negative { class: Some(0.into()), ..Negative::default() }.into(),
            AnyWrapper::Compose(_) => {
                let term = |class: u32, scale| Term { class: class.into(), scale };
                // A scale that differs between the levels.
                let rising = ScaleByLevel::Linear { clean: 0.2, noisy: 1.1, low: 0.5, high: 2.0 };
                let (and, not) = (vec![term(1, rising.into())], vec![term(0, 0.5.into())]);
                Compose { scale: 1.2.into(), and, not }.into()
            }
            AnyWrapper::Autoguidance(_) => Autoguidance { model: "worse".to_owned(), scale: Scale::Same(2.0) }.into(),
            other => other,
        })
        .collect();
    let partly = vec![DynamicThreshold { percentile: 0.4 }.into()];
    let mut all: Vec<Vec<AnyWrapper>> = acting.iter().cloned().map(|wrapper| vec![wrapper]).collect();
    let reversed = acting.iter().rev().cloned().collect();
    // In any order: an interval after guidance, a clamp in the middle.
    all.extend([Vec::new(), partly, acting, reversed]);
    all
}

/// Every denoiser, with conditions of four rows.
fn denoisers() -> Vec<(String, Arc<dyn Denoiser>, Condition)> {
    let none = Condition::none;
    let mixed = Condition { class: Some(vec![Some(0), None, Some(1), None]), ..none() };
    let gaussian = Gaussian::new(vec![0.3, -0.8], &[vec![1.0, 0.6], vec![0.6, 0.8]]).unwrap();
    let points = Empirical::new(vec![0.0, 0.0, 1.0, -0.5, -0.7, 1.2], 2).unwrap();
    let mut all: Vec<(String, Arc<dyn Denoiser>, Condition)> = vec![
        ("gaussian".to_owned(), Arc::new(gaussian), none()),
        ("mixture".to_owned(), Arc::new(plane()), none()),
        ("mixture with classes".to_owned(), Arc::new(plane()), Condition::classes([0, 1, 1, 0])),
        ("mixture with some classes".to_owned(), Arc::new(plane()), mixed.clone()),
        ("empirical".to_owned(), Arc::new(points), none()),
    ];
    let schedules = [AnySchedule::from(Vp::default()), AnySchedule::named("rectified").unwrap()];
    for (schedule, prediction) in schedules.iter().flat_map(|s| Prediction::all().map(|p| (s.clone(), p))) {
        let settings = Precondition {
            noise_input: NoiseInput::Time { factor: 1.0 },
            ..Precondition { prediction, ..Precondition::edm(0.5) }
        };
        if settings.check(&schedule).is_ok() {
            let name = format!("{prediction:?} on {}", schedule.kind());
            let model = Preconditioned::new(Smooth, settings, schedule).unwrap();
            all.push((name, Arc::new(model), mixed.clone()));
        }
    }
    let energy = Potential { network: Smooth };
    let energy = Preconditioned::new(energy, Precondition::edm(0.5), Vp::default().into()).unwrap();
    all.push(("an energy".to_owned(), Arc::new(energy), mixed));
    all
}

/// Whether a list steers by the gradient of a classifier, and so has no gradient itself.
fn by_gradient(list: &[AnyWrapper]) -> bool {
    list.iter().any(|wrapper| matches!(wrapper, AnyWrapper::ClassifierGuidance(_)))
}

/// Whether a list asks for classes.
fn by_class(list: &[AnyWrapper]) -> bool {
    use AnyWrapper::{CfgPp, ClassifierFree, Compose, Negative};
    by_gradient(list)
        || list.iter().any(|wrapper| matches!(wrapper, ClassifierFree(_) | Negative(_) | Compose(_) | CfgPp(_)))
}

/// Every denoiser under every list of wrappers that it can stand under, with whether that can be differentiated back.
fn wrapped() -> Vec<(String, Arc<dyn Denoiser>, Condition, bool)> {
    let mut all = Vec::new();
    for (name, bare, given) in denoisers() {
        for list in wrappers() {
            if by_class(&list) && given.class.is_none() {
                continue;
            }
            let what = list.iter().map(|wrapper| wrapper.kind().to_owned()).collect::<Vec<_>>().join(", ");
            let denoiser = wrap(Arc::clone(&bare), &list, &World::new()).unwrap();
            all.push((format!("{name} under [{what}]"), denoiser, given.clone(), !by_gradient(&list)));
        }
    }
    all
}

/// Levels on both sides of the interval above, and one for each row.
fn levels() -> [Kernel; 4] {
    [0.8, 0.3, 1.5, 3.0].map(|sigma| Edm::default().kernel(sigma))
}

const X: [f64; 8] = [0.4, -0.2, 1.0, 0.7, -1.3, 0.5, 0.2, -2.1];
const W: [f64; 8] = [0.3, 1.0, -0.7, 0.2, 0.5, 0.5, -1.1, 0.4];
const V: [f64; 8] = [1.0, -0.4, 0.6, 0.9, -0.2, 0.8, 0.3, -0.5];

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The derivative at 0 by central differences of fourth order, of a function with vector values.
fn slope(f: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
    let h = 5e-4;
    let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|k| f(k * h));
    (0..a.len()).map(|i| (a[i] - 8.0 * b[i] + 8.0 * c[i] - d[i]) / (12.0 * h)).collect()
}

#[test]
fn every_denoiser_under_every_wrapper_is_differentiable_both_ways() {
    let each = levels();
    for (name, denoiser, given, has_gradient) in wrapped() {
        for at in [Levels::Same(&each[0]), Levels::Same(&each[3]), Levels::Each(&each)] {
            let what = format!("{name} at {at:?}");
            let (mean, product) = jvp(&denoiser, tensor(&X, 2), tensor(&W, 2), at, &given).unwrap();
            let moved = |h: f64| {
                let x: Vec<f64> = X.iter().zip(&W).map(|(x, w)| x + h * w).collect();
                host(&stein::denoise(&denoiser, tensor(&x, 2), at, &given).unwrap())
            };
            // The fifth derivative times h⁴/30 and rounding over h are 1e-9 or less.
            for (ours, difference) in host(&product).iter().zip(slope(moved)) {
                assert_close(*ours, difference, 1e-6, &what);
            }
            let single = |values: &[f64]| tensor(values, 2).cast(DType::F32);
            let (_, product32) = jvp(&denoiser, single(&X), single(&W), at, &given).unwrap();
            // In single precision: rounding of 1e-7, grown by coefficients such as 1/α.
            let rounded = |ours: &Tensor<2>, exact: &Tensor<2>| {
                assert_eq!(ours.dtype(), DType::F32, "{what}");
                host(ours).iter().zip(host(exact)).for_each(|(a, b)| assert_close(*a, b, 1e-4, &what));
            };
            rounded(&product32, &product);
            let (again, back) = match vjp(&denoiser, tensor(&X, 2), tensor(&V, 2), at, &given) {
                // Never a gradient that leaves out that of the classifier: where there is one, it stands the test below.
                Err(error) if !has_gradient => {
                    assert_eq!(error.kind(), Kind::Unsupported, "{what}");
                    continue;
                }
                found => found.unwrap(),
            };
            // The engine's softmax has an order of its own on the tape.
            host(&mean).iter().zip(host(&again)).for_each(|(a, b)| assert_close(*a, b, 1e-14, &what));
            let (forward, backward) = (dot(&V, &host(&product)), dot(&host(&back), &W));
            assert_close(forward, backward, 1e-10, &what);
            let (_, back32) = vjp(&denoiser, single(&X), single(&V), at, &given).unwrap();
            rounded(&back32, &back);
        }
    }
}

#[test]
fn rows_do_not_mix_under_any_wrapper() {
    let each = levels();
    for (name, denoiser, given, _) in wrapped() {
        let all = host(&stein::denoise(&denoiser, tensor(&X, 2), Levels::Each(&each), &given).unwrap());
        for (row, at) in each.iter().enumerate() {
            let alone = given.select(&[row]);
            // Guidance that needs a class is not asked about rows that have none by themselves.
            if alone.class.as_ref().is_some_and(|class| class[0].is_none()) {
                continue;
            }
            let x = tensor(&X[2 * row..2 * row + 2], 2);
            let ours = host(&stein::denoise(&denoiser, x, at.into(), &alone).unwrap());
            ours.iter()
                .zip(&all[2 * row..])
                .for_each(|(a, b)| assert_close(*a, *b, 1e-13, format!("{name}, row {row}")));
        }
    }
}

#[test]
fn the_gradient_of_a_product_is_exact() {
    let (model, each) = (plane(), levels());
    let at = Levels::Each(&each);
    let product = |x: Tensor<2>| -> Result<Tensor<2>> {
        let mean = estimate(&model, Dual::new(x, tensor(&W, 2)), at, &Condition::none())?.mean;
        Ok(mean.tangent.unwrap())
    };
    let (_, ours) = gradient(tensor(&X, 2), |x| {
        let product = product(x)?;
        Ok((product.clone(), (product * tensor(&V, 2)).sum()))
    })
    .unwrap();
    let ours = host(&ours);
    for i in 0..X.len() {
        let moved = |h: f64| {
            let mut x = X;
            x[i] += h;
            vec![dot(&V, &host(&product(tensor(&x, 2)).unwrap()))]
        };
        assert_close(ours[i], slope(moved)[0], 1e-6, format!("coordinate {i}"));
    }
}

/// Has a value on the tape and no tangent.
struct WithoutTangent;

impl Denoiser for WithoutTangent {
    fn estimate(&self, x: Dual<2>, _: Levels, _: &Condition) -> Result<Estimate> {
        Ok(Dual::from(x.value.tanh()).into())
    }
}

/// Has a tangent and leaves the tape.
struct OffTape;

impl Denoiser for OffTape {
    fn estimate(&self, x: Dual<2>, _: Levels, _: &Condition) -> Result<Estimate> {
        Ok(x.linear(|x| rows::matrix(host(&x), x.dims()[1], &rows::exact())).into())
    }
}

/// The same two as networks.
struct Lossy(bool);

impl Network for Lossy {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        Ok(if self.0 { Dual::from(x.value.tanh()) } else { x.linear(|x| tensor(&host(&x), 2)) })
    }
}

/// Both products, as results.
fn products(denoiser: &dyn Denoiser, at: Levels, given: &Condition) -> [std::result::Result<(), Error>; 2] {
    [
        jvp(denoiser, tensor(&X, 2), tensor(&W, 2), at, given).map(|_| ()),
        vjp(denoiser, tensor(&X, 2), tensor(&V, 2), at, given).map(|_| ()),
    ]
}

#[test]
fn a_lost_derivative_is_an_error_wherever_it_is_hidden() {
    let each = levels();
    let given = Condition { class: Some(vec![Some(0), None, Some(1), None]), ..Condition::none() };
    let network = |drops: bool| -> Arc<dyn Denoiser> {
        Arc::new(Preconditioned::new(Lossy(drops), Precondition::edm(0.5), Edm::default().into()).unwrap())
    };
    // Which of the two products is lost.
    let lossy: [(Arc<dyn Denoiser>, usize); 4] =
        [(Arc::new(WithoutTangent), 0), (Arc::new(OffTape), 1), (network(true), 0), (network(false), 1)];
    for (bare, lost) in lossy {
        for list in wrappers() {
            let denoiser = wrap(Arc::clone(&bare), &list, &World::new()).unwrap();
            for at in [Levels::Same(&each[0]), Levels::Each(&each)] {
                let found = products(&denoiser, at, &given);
                assert_eq!(found[lost].as_ref().unwrap_err().kind(), Kind::Unsupported, "{list:?} at {at:?}");
                // Lists that steer by a gradient never have one.
                let kept = lost == 1 || !by_gradient(&list);
                assert_eq!(found[1 - lost].is_ok(), kept, "{list:?} at {at:?}: {:?}", found[1 - lost]);
            }
        }
        // A worse model that has none, beside one that has.
        let auto = [Autoguidance { model: "worse".to_owned(), scale: Scale::Same(2.0) }.into()];
        let sound: Arc<dyn Denoiser> = Arc::new(plane());
        let denoiser = wrap(sound, &auto, &World(bare)).unwrap();
        let found = products(&denoiser, (&each[0]).into(), &Condition::none());
        assert_eq!(found[lost].as_ref().unwrap_err().kind(), Kind::Unsupported);
    }
    // A number that depends on parameters and not on x.
    let free = gradient(tensor(&X, 2), |x| Ok((x, tensor(&X, 2).autodiff().require_grad().sum())));
    assert_eq!(free.unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn the_divergence_of_a_mixtures_flow_is_its_trace() {
    let model = plane();
    let x = [0.4, -0.2, 1.0, 0.7];
    for schedule in AnySchedule::all() {
        let at = schedule.kernel(schedule.time_at(-2.0 * 0.7f64.ln()));
        let ours = denoiser::divergence(&model, tensor(&x, 2), &at, &Condition::none()).unwrap();
        let velocity = |x: &[f64]| {
            let x = tensor(x, 2);
            let mean = stein::denoise(&model, x.clone(), (&at).into(), &Condition::none()).unwrap();
            host(&denoiser::velocity(x.into(), mean.into(), (&at).into()).value)
        };
        for (row, ours) in ours.iter().enumerate() {
            let trace: f64 = (0..2)
                .map(|i| {
                    slope(|h| {
                        let mut moved = x;
                        moved[2 * row + i] += h;
                        vec![velocity(&moved)[2 * row + i]]
                    })[0]
                })
                .sum();
            assert_close(*ours, trace, 1e-6, schedule.kind());
        }
    }
    // On the line it is the derivative of the velocity: the continuity equation, −d ln p/dt along the flow.
    let (schedule, h) = (Vp::default(), 1e-5);
    let (from, at, to) = (schedule.kernel(0.4 + h), schedule.kernel(0.4), schedule.kernel(0.4 - h));
    let (above, below) = (crate::flow(0.3, &at, &from), crate::flow(0.3, &at, &to));
    let log = |x: f64, at: &Kernel| stein::exact::Exact::log_density(&line(), &[x], at)[0];
    let change = (log(above, &from) - log(below, &to)) / (2.0 * h);
    let ours = denoiser::divergence(&line(), tensor(&[0.3], 1), &at, &Condition::none()).unwrap()[0];
    assert_close(ours, -change, 1e-6, "continuity");
}
