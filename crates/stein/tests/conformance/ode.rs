//! The integrator: orders, tolerances, directions, counts.

use stein::{
    Kind, Tensor,
    ode::{self, DORMAND_PRINCE, EULER, HEUN, MIDPOINT, RK4, Steps, Tableau, Times},
    rows::{self, host},
};

use crate::{assert_close, tensor};

/// dx/dt = −2 t x², which is not linear and depends on time: x(t) = 1/(1/x(s) + t² − s²).
fn field(x: &Tensor<2>, times: Times, rows: &[usize]) -> stein::Result<Tensor<2>> {
    assert_eq!(x.dims()[0], rows.len());
    let slope = x.clone().square().mul_scalar(-2.0);
    Ok(match times {
        Times::Same(t) => slope.mul_scalar(t),
        Times::Each(times) => {
            let times = rows::column(times, &slope);
            slope * times
        }
    })
}

fn exact(x: f64, from: f64, to: f64) -> f64 {
    1.0 / (1.0 / x + to * to - from * from)
}

const START: [f64; 4] = [0.3, 0.8, 1.0, 1.4];

fn error(method: &Tableau, from: f64, to: f64, steps: usize) -> f64 {
    let end = ode::integrate(&mut field, tensor(&START, 1), from, to, method, Steps::Fixed(steps)).unwrap();
    host(&end.x).iter().zip(&START).map(|(ours, x)| (ours - exact(*x, from, to)).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_method_has_its_order_in_both_directions() {
    for method in [EULER, MIDPOINT, HEUN, RK4, DORMAND_PRINCE] {
        for (from, to) in [(0.2, 1.5), (0.7, 0.1)] {
            // Fine enough to be asymptotic, and far above rounding.
            let steps = if method.order < 3 { 128 } else { 80 };
            let measured = (error(&method, from, to, steps) / error(&method, from, to, 2 * steps)).log2();
            assert!((measured - f64::from(method.order)).abs() < 0.15, "order {} shows {measured}", method.order);
        }
    }
}

#[test]
fn coefficients_satisfy_the_conditions_of_their_order() {
    for method in [EULER, MIDPOINT, HEUN, RK4, DORMAND_PRINCE] {
        // Rows of stages sum to their fractions, Σ w = 1, Σ w c^k = 1/(k + 1) up to the order, Σ error = 0.
        for (fraction, stage) in method.fractions.iter().zip(method.stages) {
            assert_close(stage.iter().sum(), *fraction, 1e-14, "row");
        }
        for k in 0..method.order as i32 {
            let sum = method.weights.iter().zip(method.fractions).map(|(w, c)| w * c.powi(k)).sum();
            assert_close(sum, 1.0 / f64::from(k + 1), 1e-14, "quadrature");
        }
        assert!(method.error.is_none_or(|error| error.iter().sum::<f64>().abs() < 1e-14));
    }
}

#[test]
fn adaptive_steps_meet_their_tolerance_and_come_back() {
    for tolerance in [1e-4, 1e-7, 1e-10] {
        let steps = Steps::Adaptive { rtol: tolerance, atol: tolerance, most: 10_000 };
        let run = |x: Tensor<2>, from, to| ode::integrate(&mut field, x, from, to, &DORMAND_PRINCE, steps).unwrap();
        let end = run(tensor(&START, 1), 0.1, 3.0);
        for (ours, x) in host(&end.x).iter().zip(&START) {
            // Local errors add up over the steps, of which there are up to a hundred, most far below the tolerance.
            assert_close(*ours, exact(*x, 0.1, 3.0), 10.0 * tolerance, format!("tolerance {tolerance}"));
        }
        // On the way back errors grow as the solutions part: by (x(0.1)/x(3))² < 200.
        for (ours, x) in host(&run(end.x, 3.0, 0.1).x).iter().zip(&START) {
            assert_close(*ours, *x, 3000.0 * tolerance, format!("back with {tolerance}"));
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    // Rows of many numbers too: an engine may sum a single row in another order.
    for (dim, dtype) in [(1, stein::DType::F64), (3001, stein::DType::F64), (3001, stein::DType::F32)] {
        let values: Vec<f64> = (0..4 * dim).map(|k| START[k / dim] * (1.0 + 0.3 * (k as f64).sin())).collect();
        for steps in [Steps::Fixed(7), Steps::Adaptive { rtol: 1e-6, atol: 1e-6, most: 1000 }] {
            let run = |values: &[f64]| {
                let x = tensor(values, dim).cast(dtype);
                host(&ode::integrate(&mut field, x, 0.1, 3.0, &DORMAND_PRINCE, steps).unwrap().x)
            };
            let all = run(&values);
            for (row, values) in values.chunks(dim).enumerate() {
                assert_eq!(run(values), all[row * dim..(row + 1) * dim], "row {row} of {dim} numbers, {dtype:?}");
            }
        }
    }
}

#[test]
fn evaluations_are_counted() {
    let count = |method: &Tableau, steps, to| {
        let mut calls = 0;
        let mut counting = |x: &Tensor<2>, times: Times, rows: &[usize]| {
            calls += 1;
            field(x, times, rows)
        };
        let end = ode::integrate(&mut counting, tensor(&START, 1), 0.1, to, method, steps).unwrap();
        assert_eq!(end.evaluations, calls);
        calls
    };
    for (method, each) in [(EULER, 1), (MIDPOINT, 2), (HEUN, 2), (RK4, 4), (DORMAND_PRINCE, 6)] {
        assert_eq!(count(&method, Steps::Fixed(5), 1.0), 5 * each);
    }
    // With a loose tolerance every step is accepted and five times as long as the one before: 1/100, 5/100, 25/100, the rest.
    let loose = Steps::Adaptive { rtol: 1e3, atol: 1e3, most: 100 };
    assert_eq!(count(&DORMAND_PRINCE, loose, 1.0), 6 * 4 + 1);
    assert_eq!(count(&DORMAND_PRINCE, loose, 0.1), 0);
}

#[test]
fn what_cannot_be_integrated_is_told_apart() {
    let steps = Steps::Adaptive { rtol: 1e-6, atol: 1e-6, most: 20 };
    let run = |field: &mut ode::Field, method: &Tableau, steps| {
        ode::integrate(field, tensor(&START, 1), 0.0, 1.0, method, steps).unwrap_err()
    };
    let broken = run(&mut |x, _, _| Ok(x.clone().sub_scalar(1.0).log()), &DORMAND_PRINCE, steps);
    assert_eq!(broken.kind(), Kind::NotFinite);
    assert!(broken.to_string().contains("sample 0"), "{broken}");
    let endless = run(&mut |x, _, _| Ok(x.clone().mul_scalar(1e6).sin().mul_scalar(1e6)), &DORMAND_PRINCE, steps);
    assert!(endless.to_string().contains("no end after 20"), "{endless}");
    assert!(run(&mut field, &RK4, steps).to_string().contains("embedded"));
    assert!(run(&mut field, &RK4, Steps::Fixed(0)).to_string().contains("at least one step"));
}
