//! A network as a classifier: on every schedule, its derivatives against differences, and the same answer for levels of one log-SNR.

use stein::{
    AnySchedule, Dual, InputScale, Kernel, Levels, NetworkClassifier, NoiseInput, NoisyInput, classify, gradient,
    log_probability,
    rows::{self, host},
};

use crate::{assert_close, derivatives::Smooth, tensor, times};

/// Smooth gives three numbers for rows of three: two logits and a feature.
fn classifier(schedule: &AnySchedule) -> NetworkClassifier<Smooth> {
    let scale = InputScale::UnitVariance { sigma_data: 0.7 };
    let number = NoiseInput::Time { factor: 1.0 / schedule.span().1 };
    let noise = NoisyInput { schedule: schedule.clone(), scale, number };
    noise.check().unwrap();
    NetworkClassifier { network: Smooth, features: 1, noise: Some(noise) }
}

const X: [f64; 6] = [0.3, -0.8, 0.5, 1.2, 0.1, -0.4];
const DIRECTION: [f64; 6] = [1.0, 0.5, -0.7, -0.2, 0.9, 0.4];

#[test]
fn log_probabilities_have_their_derivatives_on_every_schedule() {
    for schedule in AnySchedule::all() {
        let model = classifier(&schedule);
        for t in times(&*schedule, 5) {
            let at = schedule.kernel(t);
            let said = |x: Dual<2>| log_probability(&model, x, (&at).into(), &[0, 1]).unwrap();
            let moved = |by: f64| {
                let x: Vec<f64> = X.iter().zip(DIRECTION).map(|(x, v)| x + by * v).collect();
                host(&said(tensor(&x, 3).into()).value)
            };
            let step = 1e-5;
            let (up, down) = (moved(step), moved(-step));
            let (_, slope) = gradient(tensor(&X, 3), |x| {
                let said = said(x.into()).value;
                Ok((said.clone(), said.sum()))
            })
            .unwrap();
            let along = host(&(slope * tensor(&DIRECTION, 3)).sum_dim(1));
            let tangent = host(&said(Dual::new(tensor(&X, 3), tensor(&DIRECTION, 3))).tangent.unwrap());
            for row in 0..2 {
                // Rounding over the step, 1e-16/1e-5.
                assert_close(along[row], (up[row] - down[row]) / (2.0 * step), 1e-8, schedule.kind());
                assert_close(tangent[row], along[row], 1e-12, schedule.kind());
            }
        }
    }
}

#[test]
fn probabilities_sum_to_one_and_rows_are_their_own() {
    let schedule = AnySchedule::named("vp").unwrap();
    let model = classifier(&schedule);
    let [first, second] = [0.2, 0.7].map(|t| schedule.kernel(t));
    let each = [first, second];
    let said =
        |class: [u32; 2], at: Levels| host(&log_probability(&model, tensor(&X, 3).into(), at, &class).unwrap().value);
    let (one, other) = (said([0, 0], (&each[..]).into()), said([1, 1], (&each[..]).into()));
    for row in 0..2 {
        assert_close(one[row].exp() + other[row].exp(), 1.0, 1e-14, "the sum");
        assert_close(said([0, 0], (&each[row]).into())[row], one[row], 1e-14, "a row by itself");
    }
    let few = log_probability(&model, tensor(&X, 3).into(), (&first).into(), &[0]).unwrap_err().to_string();
    assert!(few.contains("1 classes were given for 2 rows"), "{few}");
    assert!(log_probability(&model, tensor(&X, 3).into(), (&first).into(), &[0, 2]).is_err());
}

#[test]
fn a_level_of_another_schedule_is_that_of_its_log_snr_and_no_noise_is_the_cleanest() {
    let (own, other) = (AnySchedule::named("vp").unwrap(), AnySchedule::named("edm").unwrap());
    let model = classifier(&own);
    let logits = |x: &[f64], at: &Kernel| host(&classify(&model, tensor(x, 3).into(), at.into()).unwrap().logits.value);
    let at = own.kernel(0.4);
    let there = other.kernel(other.time_at(at.log_snr()));
    let x: Vec<f64> = X.iter().map(|x| x / at.alpha).collect();
    for (a, b) in logits(&X, &at).into_iter().zip(logits(&x, &there)) {
        assert_close(a, b, 1e-10, "the same log-SNR");
    }
    for schedule in AnySchedule::all() {
        let model = classifier(&schedule);
        let found = classify(&model, tensor(&X, 3).into(), (&Kernel::CLEAN).into()).unwrap();
        assert!(host(&found.logits.value).iter().all(|logit| logit.is_finite()), "{}", schedule.kind());
        assert_eq!((found.logits.dims(), found.features.dims()), ([2, 2], [2, 1]));
    }
}

#[test]
fn a_classifier_of_clean_rows_refuses_noise_and_a_network_without_logits_is_none() {
    let clean = NetworkClassifier { network: Smooth, features: 1, noise: None };
    let x = || Dual::from(rows::matrix(X.to_vec(), 3, &rows::exact()));
    assert!(classify(&clean, x(), (&Kernel::CLEAN).into()).is_ok());
    let noisy = classify(&clean, x(), (&AnySchedule::named("vp").unwrap().kernel(0.1)).into()).unwrap_err();
    assert!(noisy.to_string().contains("without noise"), "{noisy}");
    let none = NetworkClassifier { network: Smooth, features: 3, noise: None };
    assert!(classify(&none, x(), (&Kernel::CLEAN).into()).unwrap_err().to_string().contains("gives 3 numbers"));
}
