//! Flow maps: the exact one gives the data in any number of steps, and a network in its wrapper keeps the boundary.

use stein::{
    AnySchedule, Condition, Context, Dual, Edm, FlowMap, Grid, Kernel, Levels, MapForm, MapNetwork, MapSettings,
    Network, NoiseInput, Rectified, Request, Scalings, Schedule, Spacing, Vp, exact::Exact, rows::host, sample_map,
};

use crate::{assert_close, flow, line, tensor};

/// The quantile map of the mixture on the line: between any two levels, or down to one as consistency functions are.
struct Quantiles {
    end: Option<Kernel>,
}

impl FlowMap for Quantiles {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, _: &Condition) -> stein::Result<Dual<2>> {
        let rows = host(&x.value).into_iter().enumerate();
        let carried: Vec<f64> = rows.map(|(row, x)| flow(x, from.row(row), to.row(row))).collect();
        Ok(tensor(&carried, 1).into())
    }

    fn end(&self) -> Option<Kernel> {
        self.end
    }
}

fn grid(steps: usize) -> Grid {
    Grid { clean: false, ..Grid::karras(steps) }
}

fn draw(schedule: &AnySchedule, steps: usize, request: &Request, anywhere: bool) -> Vec<f64> {
    let map = Quantiles { end: (!anywhere).then(|| schedule.kernel(schedule.span().0)) };
    let kernels = grid(steps).kernels(&**schedule).unwrap();
    let sampled = sample_map(&map, &kernels, request, &mut |_| Ok(())).unwrap();
    assert_eq!(sampled.evaluations, steps);
    host(&sampled.x)
}

#[test]
fn the_exact_map_gives_the_data_in_one_step_and_in_five() {
    let rows = 4000;
    let request = Request { data_variance: line().variance(), ..Request::exact(rows, 1, 3) };
    // Ends with so much noise left, and on VP so little signal lost, that a step back to noise which forgets either is seen.
    for schedule in
        [AnySchedule::from(Edm { sigma_min: 0.5, ..Edm::default() }), Vp { t_min: 0.3, ..Vp::default() }.into()]
    {
        let end = schedule.kernel(schedule.span().0);
        for (steps, anywhere) in [(1, false), (2, false), (5, false), (1, true), (5, true)] {
            let x = draw(&schedule, steps, &request, anywhere);
            // P(x < c) within four standard errors of a binomial. The prior has the right variance but not the data's mean of 0.75,
            // which at σ/α = 80 moves quantiles by at most 0.4 · 0.75/80 = 0.004 of probability.
            for cut in [-1.5, -0.5, 0.5, 1.5, 2.5] {
                let wanted = 1.0 - crate::tail(cut, &end, true);
                let found = x.iter().filter(|x| **x < cut).count() as f64 / rows as f64;
                let error = (wanted * (1.0 - wanted) / rows as f64).sqrt();
                assert!(
                    (found - wanted).abs() < 4.0 * error + 0.004,
                    "{} in {steps}: P(x < {cut}) = {found} for {wanted}",
                    schedule.kind()
                );
            }
        }
    }
}

#[test]
fn samples_do_not_depend_on_the_batch() {
    let schedule = AnySchedule::from(Edm::default());
    let all = draw(&schedule, 3, &Request::exact(5, 1, 8), false);
    let tail = draw(&schedule, 3, &Request { first: 3, ..Request::exact(2, 1, 8) }, false);
    assert_eq!(all[3..], tail);
}

/// A network that is no constant in anything.
struct Wavy;

impl Network for Wavy {
    fn forward(&self, x: Dual<2>, context: &Context) -> stein::Result<Dual<2>> {
        let [rows, _] = x.dims();
        Ok(x.map(|x| x.sin(), |x| x.cos()) + context.noise.clone().reshape([rows, 1]))
    }
}

#[test]
fn the_boundary_condition_holds_whatever_the_network_says() {
    let settings = MapSettings {
        form: MapForm::EdmShifted { sigma_data: 0.5 },
        noise_input: NoiseInput::LogSigma { factor: 0.25, unit: 1.0 },
    };
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        let map = MapNetwork::new(Wavy, settings, schedule.clone()).unwrap();
        let x = [0.3, -1.2, 2.0];
        let end = map.end().unwrap();
        let carry = |x: &[f64], from: Kernel| {
            host(&map.carry(tensor(x, 1).into(), (&from).into(), (&end).into(), &Condition::none()).unwrap().value)
        };
        let carried = |at: Kernel| carry(&x, at);
        for (carried, x) in carried(end).iter().zip(x) {
            assert_close(*carried, x, 1e-12, schedule.kind());
        }
        // A sample of another schedule is the same sample with its signal scaled.
        let at = schedule.kernel(schedule.time_at(0.4));
        let other = Kernel { alpha: 1.0, sigma: at.noise_to_signal(), ..at };
        let scaled: Vec<f64> = x.iter().map(|x| x / at.alpha).collect();
        let there = carry(&scaled, other);
        for (a, b) in carried(at).iter().zip(there) {
            assert_close(*a, b, 1e-12, schedule.kind());
        }
    }
}

#[test]
fn every_form_is_the_identity_where_it_goes_nowhere() {
    let noise_input = NoiseInput::Angle { sigma_data: 0.5 };
    let anywhere = [
        (MapForm::TrigFlow { sigma_data: 0.5, anywhere: true }, AnySchedule::from(Edm::default())),
        (MapForm::TrigFlow { sigma_data: 0.5, anywhere: true }, Vp::default().into()),
        (MapForm::Trajectory { sigma_data: 0.5 }, Edm::default().into()),
        (MapForm::MeanVelocity {}, Rectified::default().into()),
    ];
    let x = [0.3, -1.2, 2.0];
    for (form, schedule) in anywhere {
        let map = MapNetwork::new(Wavy, MapSettings { form, noise_input }, schedule.clone()).unwrap();
        assert_eq!(map.end(), None);
        let (first, last) = schedule.span();
        for part in [0.1, 0.5, 0.9] {
            let at = schedule.kernel(first + part * (last - first));
            let carried = map.carry(tensor(&x, 1).into(), (&at).into(), (&at).into(), &Condition::none()).unwrap();
            for (carried, x) in host(&carried.value).iter().zip(x) {
                assert_close(*carried, x, 1e-12, format!("{form:?} at {part}"));
            }
            let back =
                map.carry(tensor(&x, 1).into(), (&schedule.kernel(first)).into(), (&at).into(), &Condition::none());
            assert!(back.unwrap_err().to_string().contains("to a cleaner level"));
        }
    }
    // Those to clean data, at so little noise that what is left of the network is as little.
    for form in [MapForm::Edm { sigma_data: 0.5 }, MapForm::TrigFlow { sigma_data: 0.5, anywhere: false }] {
        let map = MapNetwork::new(Wavy, MapSettings { form, noise_input }, Edm::default().into()).unwrap();
        assert!(map.end().unwrap().is_clean());
        let scalings = form.scalings(&Edm::default().kernel(1e-9), &Kernel::CLEAN);
        assert!((scalings.skip - 1.0).abs() < 1e-12 && scalings.output.abs() < 1e-8, "{form:?}");
    }
}

#[test]
fn a_map_to_clean_data_ends_there() {
    let schedule = AnySchedule::from(Edm::default());
    let map = Quantiles { end: Some(Kernel::CLEAN) };
    let rows = 4000;
    let request = Request { data_variance: line().variance(), ..Request::exact(rows, 1, 3) };
    let grid = Grid { end: Some(0.5), ..Grid::karras(2) };
    let drawn = sample_map(&map, &grid.kernels(&*schedule).unwrap(), &request, &mut |_| Ok(())).unwrap();
    let x = host(&drawn.x);
    for cut in [-1.0, 0.5, 2.0] {
        let wanted = crate::tail(cut, &Kernel::CLEAN, false);
        let found = x.iter().filter(|x| **x < cut).count() as f64 / rows as f64;
        // As above: four standard errors, and what a centered prior moves.
        let bound = 4.0 * (wanted * (1.0 - wanted) / rows as f64).sqrt() + 0.004;
        assert!((found - wanted).abs() < bound, "P(x < {cut}) = {found} for {wanted}");
    }
    let noisy = Grid { clean: false, ..Grid::karras(2) }.kernels(&*schedule).unwrap();
    let refused = sample_map(&map, &noisy, &request, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("clean = true"), "{refused}");
}

/// Song et al. 2023, appendix C, written out.
#[test]
fn scalings_are_the_papers() {
    let (sigma, end, data) = (1.7, 0.002, 0.5);
    let scalings = Scalings::at(sigma, end, data);
    assert_close(scalings.skip, 0.25 / (1.698 * 1.698 + 0.25), 1e-14, "c_skip");
    assert_close(scalings.output, 0.5 * 1.698 / (0.25f64 + 1.7 * 1.7).sqrt(), 1e-14, "c_out");
    assert_close(scalings.input, 1.0 / (0.25f64 + 1.7 * 1.7).sqrt(), 1e-14, "c_in");
    let edm = stein::Prediction::Edm { sigma_data: data };
    let level = Kernel { t: sigma, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 };
    let (skip, output) = edm.skip_and_out(&level);
    let denoiser = Scalings::at(sigma, 0.0, data);
    assert_close(denoiser.skip, skip, 1e-14, "EDM's c_skip");
    assert_close(denoiser.output, output, 1e-14, "EDM's c_out");
}

#[test]
fn levels_that_do_not_end_at_the_boundary_are_refused() {
    let schedule = AnySchedule::from(Edm::default());
    let map = Quantiles { end: Some(schedule.kernel(schedule.span().0)) };
    let refusal = |grid: Grid| {
        let kernels = grid.kernels(&*schedule).unwrap();
        sample_map(&map, &kernels, &Request::exact(1, 1, 0), &mut |_| Ok(())).unwrap_err().to_string()
    };
    assert!(refusal(Grid::karras(4)).contains("clean = false"));
    assert!(refusal(Grid { end: Some(0.5), ..grid(2) }).contains("0.002"));
    let given = Grid { spacing: Spacing::Given { noise: vec![80.0, 1.0] }, clean: false, ..Grid::default() };
    assert!(refusal(given).contains("list that last"));
    let settings = MapSettings {
        form: MapForm::EdmShifted { sigma_data: 0.5 },
        noise_input: NoiseInput::LogSigma { factor: 250.0, unit: 1.0 },
    };
    let map = MapNetwork::new(Wavy, settings, schedule.clone()).unwrap();
    let end = map.end().unwrap();
    let refused = |from: Kernel, to: Kernel| {
        let x = tensor(&[1.0], 1).into();
        map.carry(x, (&from).into(), (&to).into(), &Condition::none()).unwrap_err().to_string()
    };
    for at in [Kernel { sigma: 0.001, ..end }, Kernel { alpha: 0.0, ..end }] {
        assert!(refused(at, end).contains("is defined from"), "{}", refused(at, end));
    }
    let (from, to) = (schedule.kernel(3.0), schedule.kernel(1.0));
    assert!(refused(from, to).contains("to no other level"), "{}", refused(from, to));
}
