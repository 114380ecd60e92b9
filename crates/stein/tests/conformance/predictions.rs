//! Every prediction on every schedule.

use stein::{AnySchedule, Edm, Precondition, Prediction, Schedule, Vp};

use crate::{assert_close, times};

#[test]
fn every_prediction_gives_x0_back_on_every_schedule() {
    let (x0, eps) = (0.7, -1.3);
    for schedule in AnySchedule::all() {
        for prediction in Prediction::all() {
            for t in times(&*schedule, 41) {
                let at = schedule.kernel(t);
                let needs_signal =
                    matches!(prediction, Prediction::Eps {} | Prediction::Score {} | Prediction::SigmaScore {});
                if at.alpha == 0.0 && needs_signal {
                    continue;
                }
                let (a, b) = prediction.target(&at);
                let (skip, out) = prediction.skip_and_out(&at);
                let back = skip * (at.alpha * x0 + at.sigma * eps) + out * (a * x0 + b * eps);
                // x̂_0 from eps divides by α: rounding grows with σ/α, and α near 1e-3 or less only occurs at the far end.
                let tolerance = 1e-12 * (1.0 + if needs_signal { at.noise_to_signal() } else { 1.0 });
                assert_close(back, x0, tolerance, format!("{prediction:?} on {} at {t}", schedule.kind()));
            }
        }
    }
}

#[test]
fn edm_coefficients_are_the_papers() {
    for sigma in [0.002, 0.5, 80.0f64] {
        let (skip, out) = Prediction::Edm { sigma_data: 0.5 }.skip_and_out(&Edm::default().kernel(sigma));
        let total = sigma * sigma + 0.25;
        assert_close(skip, 0.25 / total, 1e-14, "c_skip");
        assert_close(out, sigma * 0.5 / total.sqrt(), 1e-14, "c_out");
    }
}

#[test]
fn v_is_edm_with_unit_data_on_vp_up_to_sign() {
    for t in [0.01, 0.4, 1.0] {
        let at = Vp::default().kernel(t);
        let (v, edm) = (Prediction::V {}.target(&at), Prediction::Edm { sigma_data: 1.0 }.target(&at));
        assert_close(v.0, -edm.0, 1e-12, "on x0");
        assert_close(v.1, -edm.1, 1e-12, "on eps");
    }
}

#[test]
fn the_velocity_is_the_flow() {
    // d/dt (α x_0 + σ ε) by differences.
    for schedule in AnySchedule::all() {
        let (first, last) = schedule.span();
        let t = 0.6 * first + 0.4 * last;
        let h = 1e-6 * (last - first);
        let x = |t: f64| {
            let at = schedule.kernel(t);
            0.7 * at.alpha - 1.3 * at.sigma
        };
        let (a, b) = Prediction::Velocity {}.target(&schedule.kernel(t));
        assert_close(a * 0.7 - b * 1.3, (x(t + h) - x(t - h)) / (2.0 * h), 1e-6, schedule.kind());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let rectified = AnySchedule::named("rectified").unwrap();
    let eps = Precondition { prediction: Prediction::Eps {}, ..Precondition::edm(0.5) };
    assert!(eps.check(&rectified).unwrap_err().to_string().contains("alpha = 0"));
    let level = Precondition {
        noise_input: stein::NoiseInput::Level { noisiest_first: false, factor: 1.0 },
        ..Precondition::edm(0.5)
    };
    assert!(level.check(&AnySchedule::named("vp").unwrap()).unwrap_err().to_string().contains("discrete"));
    assert!(level.check(&AnySchedule::named("discrete").unwrap()).is_ok());
}
