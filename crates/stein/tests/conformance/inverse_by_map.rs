//! Restoration and editing by the exact flow map of data whose coordinates in an orthonormal basis are independent draws of the
//! mixture on the line: the map is the quantile map of each.

use std::sync::Arc;

use stein::{
    AnySchedule, Condition, Dual, Edm, FlowMap, Grid, Kernel, Levels, Request, Spacing, Vp,
    exact::Exact,
    inverse::{
        Dense, Edit, Noise, Operator, Problem, check_for_map, edit_by_map,
        measurement::{Clip, Measurement, NoFiles},
        restore_by_map,
    },
    rows::host,
};

use crate::{assert_close, flow, line, tensor};

/// The cosine and sine of the angle between the coordinates and the numbers of a sample; published for colors is a basis of three.
const TURNED: (f64, f64) = (0.6, 0.8);
const STRAIGHT: (f64, f64) = (1.0, 0.0);

/// Coordinates of a sample, or the other way round with the sine turned over.
fn turn(x: &[f64], (c, s): (f64, f64)) -> Vec<f64> {
    x.chunks(2).flat_map(|x| [c * x[0] + s * x[1], c * x[1] - s * x[0]]).collect()
}

struct Independent {
    basis: (f64, f64),
    end: Option<Kernel>,
}

impl FlowMap for Independent {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, _: &Condition) -> stein::Result<Dual<2>> {
        let coordinates = turn(&host(&x.value), self.basis);
        let carry = |(i, x): (usize, &f64)| flow(*x, from.row(i / 2), to.row(i / 2));
        let carried: Vec<f64> = coordinates.iter().enumerate().map(carry).collect();
        Ok(tensor(&turn(&carried, (self.basis.0, -self.basis.1)), 2).into())
    }

    fn end(&self) -> Option<Kernel> {
        self.end
    }
}

fn levels(schedule: &AnySchedule, steps: usize) -> Vec<Kernel> {
    Grid { clean: false, ..Grid::karras(steps) }.kernels(&**schedule).unwrap()
}

/// The first coordinate of every row, twice as large.
fn first(basis: (f64, f64)) -> Arc<dyn Operator> {
    Arc::new(Dense::new(1, 2, &[2.0 * basis.0, 2.0 * basis.1]).unwrap())
}

fn end_of(schedule: &AnySchedule) -> Kernel {
    schedule.kernel(schedule.span().0)
}

#[test]
fn what_is_measured_is_kept_and_what_is_not_follows_its_law() {
    let rows = 3000;
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        let end = end_of(&schedule);
        for (basis, anywhere) in [(STRAIGHT, false), (TURNED, false), (TURNED, true)] {
            let map = Independent { basis, end: (!anywhere).then_some(end) };
            let y: Vec<f64> = (0..rows).map(|row| 2.0 * (row as f64 / 500.0 - 3.0)).collect();
            let problem = Problem::new(first(basis), Noise::default(), y.clone()).unwrap();
            check_for_map(&problem).unwrap();
            let request = Request { data_variance: line().variance(), ..Request::exact(rows, 2, 5) };
            let kernels = levels(&schedule, 4);
            let drawn = restore_by_map(&map, &*schedule, &kernels, &problem, &request, &mut |_| Ok(())).unwrap();
            assert_eq!(drawn.evaluations, 4);
            let coordinates = turn(&host(&drawn.x), basis);
            for (found, y) in coordinates.iter().step_by(2).zip(&y) {
                // The two rotations there and back.
                assert_close(*found, y / 2.0, 1e-14, "the measured coordinate");
            }
            // P(x < c) within four standard errors of a binomial: four levels from the noisiest one on have forgotten where it started.
            for cut in [-1.5, -0.5, 0.5, 1.5, 2.5] {
                let wanted = 1.0 - crate::tail(cut, &end, true);
                let found = coordinates.iter().skip(1).step_by(2).filter(|x| **x < cut).count() as f64 / rows as f64;
                let error = (wanted * (1.0 - wanted) / rows as f64).sqrt();
                assert!(
                    (found - wanted).abs() < 4.0 * error,
                    "{} anywhere {anywhere}: P(x < {cut}) = {found} for {wanted}",
                    schedule.kind()
                );
            }
        }
    }
}

#[test]
fn samples_with_noise_are_carried_from_its_level() {
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        let end = end_of(&schedule);
        let map = Independent { basis: STRAIGHT, end: Some(end) };
        let all: Arc<dyn Operator> = Arc::new(Dense::new(2, 2, &[0.0, 2.0, 2.0, 0.0]).unwrap());
        let problem = Problem::new(all, Noise::Gaussian { std: 1.0 }, vec![1.0, -3.0]).unwrap();
        let request = Request::exact(1, 2, 0);
        // At half of the noise of the measurement, since it is of twice the sample.
        let at = schedule.kernel(schedule.time_at(-2.0 * 0.5f64.ln()));
        let one = levels(&schedule, 1);
        let drawn = restore_by_map(&map, &*schedule, &one, &problem, &request, &mut |_| Ok(())).unwrap();
        assert_eq!(drawn.evaluations, 1);
        for (found, y) in host(&drawn.x).iter().zip([-1.5, 0.5]) {
            assert_close(*found, flow(at.alpha * y, &at, &end), 1e-10, schedule.kind());
        }
        // Of more levels those that are cleaner follow.
        let noise: Vec<f64> = vec![20.0, 1.0, 0.3, end.noise_to_signal()];
        let given = Grid { spacing: Spacing::Given { noise }, clean: false, ..Grid::default() };
        let kernels = given.kernels(&*schedule).unwrap();
        let mut seen = Vec::new();
        restore_by_map(&map, &*schedule, &kernels, &problem, &request, &mut |progress| {
            seen.push(progress.at.noise_to_signal());
            Ok(())
        })
        .unwrap();
        for (seen, wanted) in seen.iter().zip([0.5, 0.3, end.noise_to_signal()]) {
            assert_close(*seen, wanted, 1e-9, "a level");
        }
        let loud = |std: f64| {
            let all: Arc<dyn Operator> = Arc::new(Dense::new(2, 2, &[0.0, 2.0, 2.0, 0.0]).unwrap());
            let problem = Problem::new(all, Noise::Gaussian { std }, vec![1.0, -3.0]).unwrap();
            restore_by_map(&map, &*schedule, &one, &problem, &request, &mut |_| Ok(())).unwrap_err().to_string()
        };
        assert!(loud(1e3).contains("sigma/alpha = 500"), "{}", loud(1e3));
        assert!(loud(1e-3).contains("takes samples from"), "{}", loud(1e-3));
    }
}

#[test]
fn edits_start_at_a_level_between_and_keep_what_is_masked() {
    let schedule = AnySchedule::from(Edm::default());
    let end = end_of(&schedule);
    let map = Independent { basis: STRAIGHT, end: Some(end) };
    let noise = vec![5.38, 2.24, end.noise_to_signal()];
    let kernels =
        Grid { spacing: Spacing::Given { noise }, clean: false, ..Grid::default() }.kernels(&*schedule).unwrap();
    let rows = 2000;
    let request = Request::exact(rows, 2, 9);
    let before: Vec<f64> = vec![0.25; 2 * rows];
    let mask = Some(tensor(&[0.0, 1.0], 2));
    let what = Edit { rows: tensor(&before, 2), mask, strength: 1.0 };
    let edited = edit_by_map(&what, &map, &kernels, &request, &mut |_| Ok(())).unwrap();
    let after = host(&edited.x);
    assert!(edited.evaluations == 2 && after.iter().step_by(2).all(|x| *x == 0.25));
    // With the last level alone the result is the map of one noising of the picture.
    let what = Edit { rows: tensor(&before, 2), mask: None, strength: 0.5 };
    let one = edit_by_map(&what, &map, &kernels, &request, &mut |_| Ok(())).unwrap();
    assert_eq!(one.evaluations, 1);
    let at = kernels[1];
    let (mut below, cut) = (0, 0.5);
    for x in host(&one.x) {
        below += usize::from(x < cut);
    }
    // x_ε < c where 0.25 + σ z < the point that the map carries to c.
    let edge = flow(cut, &end, &at);
    let wanted = 0.5 * libm::erfc(-(edge - 0.25) / at.sigma / std::f64::consts::SQRT_2);
    let count = 2.0 * rows as f64;
    let error = (wanted * (1.0 - wanted) / count).sqrt();
    assert!((below as f64 / count - wanted).abs() < 4.0 * error, "{} of {count} for {wanted}", below);
}

#[test]
fn problems_that_are_none_of_a_flow_map_are_refused() {
    let refusal = |operator: Arc<dyn Operator>, std: f64, y: Vec<f64>| {
        let problem = Problem::new(operator, Noise::Gaussian { std }, y).unwrap();
        check_for_map(&problem).unwrap_err().to_string()
    };
    let part = refusal(first(TURNED), 0.1, vec![1.0]);
    assert!(part.contains("method consistency keeps what was measured as it is"), "{part}");
    let clipped = Clip::default().operator(&[2], &NoFiles).unwrap();
    let y = vec![0.5; clipped.outputs()];
    assert!(refusal(clipped, 0.0, y).contains("method consistency"));
    let schedule = AnySchedule::from(Edm::default());
    let map = Independent { basis: STRAIGHT, end: Some(end_of(&schedule)) };
    let problem = Problem::new(first(STRAIGHT), Noise::default(), vec![1.0]).unwrap();
    let kernels = levels(&schedule, 2);
    let more = restore_by_map(&map, &*schedule, &kernels, &problem, &Request::exact(2, 2, 0), &mut |_| Ok(()));
    assert!(more.unwrap_err().to_string().contains("1 measurements"));
}
