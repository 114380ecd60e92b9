//! The noise of intervals: stochastic samplers converge sample by sample as their steps are halved, which fresh noise would not
//! give, and what they converge to is the same.

use stein::{
    Ancestral, AnySampler, AnySchedule, Ddim, Dpm2Ancestral, DpmSolverPp2sAncestral, DpmSolverPpSde, Edm,
    EulerAncestral, EulerMaruyama, Grid, Kernel, Purpose, Request, ReverseDiffusion, SdeDpmSolverPp, Spacing, Vp,
    exact::{Exact, Gaussian},
    noise::Source,
    rows::host,
    sample,
};

const ROWS: usize = 400;

fn model() -> Gaussian {
    Gaussian::new(vec![0.7], &[vec![0.25]]).unwrap()
}

fn samplers() -> [AnySampler; 9] {
    [
        EulerMaruyama {}.into(),
        Ancestral::default().into(),
        ReverseDiffusion {}.into(),
        Ddim { eta: 1.0 }.into(),
        EulerAncestral::default().into(),
        Dpm2Ancestral::default().into(),
        DpmSolverPp2sAncestral::default().into(),
        SdeDpmSolverPp::default().into(),
        DpmSolverPpSde::default().into(),
    ]
}

/// Samples at the cleanest level of a grid of equal ratios of σ/α.
fn draw(schedule: &AnySchedule, sampler: &AnySampler, steps: usize, fresh: bool) -> Vec<f64> {
    let start = schedule.time_at(-2.0 * 20f64.ln());
    let end = schedule.time_at(-2.0 * 0.2f64.ln());
    let grid = Grid { spacing: Spacing::LogSnr {}, steps, start: Some(start), end: Some(end), clean: false };
    let kernels: Vec<Kernel> = grid.kernels(&**schedule).unwrap();
    let mut request = Request { data_variance: model().variance(), ..Request::exact(ROWS, 1, 5) };
    if fresh {
        // Two a step are enough for all.
        let draws = (1..=2 * steps as u64).map(|step| request.keys().normal(Purpose::Sampler, step, 1));
        request.noise = Source::Given(draws.collect());
    }
    host(&sample(&model(), &**schedule, &kernels, &**sampler, &request, &mut |_| Ok(())).unwrap().x)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
fn solutions_converge_strongly_on_the_path_of_a_sample() {
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        for sampler in samplers() {
            let what = format!("{} on {}", serde_json::to_string(&sampler).unwrap(), schedule.kind());
            let runs: Vec<Vec<f64>> =
                [64, 128, 256, 512].into_iter().map(|steps| draw(&schedule, &sampler, steps, false)).collect();
            let gaps: Vec<f64> = runs.windows(2).map(|pair| distance(&pair[0], &pair[1])).collect();
            // The noise of these equations does not depend on x, so the strong order is 1: halves, and at least by 1.6.
            assert!(gaps.windows(2).all(|pair| pair[0] > 1.6 * pair[1]), "{what}: {gaps:?}");
            // Fresh noise gives another sample however fine the steps.
            let far = distance(&draw(&schedule, &sampler, 256, true), &draw(&schedule, &sampler, 512, true));
            assert!(far > 10.0 * gaps[2], "{what}: {far} with fresh noise, {} on the path", gaps[2]);
        }
    }
}

#[test]
fn the_noise_of_the_path_has_the_moments_of_fresh_noise() {
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        let end = schedule.kernel(schedule.time_at(-2.0 * 0.2f64.ln()));
        for sampler in samplers() {
            for fresh in [false, true] {
                let x = draw(&schedule, &sampler, 256, fresh);
                let mean = x.iter().sum::<f64>() / ROWS as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / ROWS as f64;
                let wanted = 0.25 * end.alpha.powi(2) + end.sigma.powi(2);
                // Five standard errors: √(variance/400) of the mean, √(2/400) of the variance; 2 % and 5 % for the steps.
                let what = format!("{} on {}, fresh {fresh}", sampler.kind(), schedule.kind());
                let bound = 5.0 * (wanted / ROWS as f64).sqrt() + 0.02;
                assert!((mean - 0.7 * end.alpha).abs() < bound, "{what}: mean {mean}");
                assert!(
                    (variance / wanted - 1.0).abs() < 5.0 * (2.0 / ROWS as f64).sqrt() + 0.05,
                    "{what}: {variance}"
                );
            }
        }
    }
}
