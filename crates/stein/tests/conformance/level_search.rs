//! The search for levels, on a flow map that is wrong by a known factor: the variance its samples have on any grid is known.

use stein::{
    Condition, Dual, Edm, FlowMap, Grid, Kernel, Levels, Request, Schedule, Spacing, level_search::greedy_levels, rows,
    sample_map,
};

/// The consistency function of N(0, 1), but for a factor that is 1 at σ = 0.8 alone.
struct Wrong;

fn factor(sigma: f64) -> f64 {
    (1.0 + 0.02 * (sigma / 0.8).ln().powi(2)) / sigma.hypot(1.0)
}

impl FlowMap for Wrong {
    fn carry(&self, x: Dual<2>, from: Levels, _: Levels, _: &Condition) -> stein::Result<Dual<2>> {
        Ok(x.scale(&from.factors(|at| factor(at.sigma))))
    }

    fn end(&self) -> Option<Kernel> {
        Some(Edm::default().kernel(END))
    }
}

const END: f64 = 0.002;

/// How far the variance of samples on a grid of these levels is from 1. With v that of x_ε, the next one is
/// factor² (v + σ² − ε²).
fn off(levels: &[f64]) -> f64 {
    let start = 1.0 + END.powi(2);
    (levels.iter().fold(start, |v, sigma| factor(*sigma).powi(2) * (v + sigma.powi(2) - END.powi(2))) - 1.0).abs()
}

fn candidates(steps: usize) -> Vec<f64> {
    let grid = Grid { clean: false, ..Grid::karras(steps) };
    let mut noise: Vec<f64> = grid.kernels(&Edm::default()).unwrap().iter().map(Kernel::noise_to_signal).collect();
    noise.pop();
    noise
}

/// The best level of all candidates after these, by trying every one.
fn best_after(levels: &[f64], candidates: &[f64]) -> f64 {
    let cleaner = candidates.iter().copied().filter(|level| level < levels.last().unwrap());
    let of = |level: f64| off(&[levels, &[level]].concat());
    cleaner.min_by(|a, b| of(*a).total_cmp(&of(*b))).unwrap()
}

#[test]
fn each_level_is_the_best_of_all() {
    for count in [40, 41, 42, 151] {
        let candidates = candidates(count);
        let mut tries = 0;
        let found = greedy_levels(&candidates, 2, &mut |levels| {
            tries += 1;
            Ok(off(levels))
        })
        .unwrap();
        assert_eq!(found, [80.0, best_after(&[80.0], &candidates)], "{count}");
        // Two in every round, of which each leaves two thirds, and the last three.
        assert!(tries as f64 <= 3.0 + 2.0 * (count as f64).ln() / 1.5f64.ln(), "{tries} of {count}");
        let more = greedy_levels(&candidates, 3, &mut |levels| Ok(off(levels))).unwrap();
        assert_eq!(more[..2], found[..]);
        assert!(off(&more) < off(&found));
    }
}

#[test]
fn the_levels_of_sampled_variances_are_nearly_as_good() {
    let schedule = Edm::default();
    let candidates = candidates(40);
    let found = greedy_levels(&candidates, 2, &mut |levels| {
        let noise = levels.iter().copied().chain([END]).collect();
        let grid = Grid { spacing: Spacing::Given { noise }, clean: false, ..Grid::default() };
        let drawn = sample_map(&Wrong, &grid.kernels(&schedule)?, &Request::exact(4000, 1, 2), &mut |_| Ok(()))?;
        let mean_square = rows::host(&drawn.x).iter().map(|x| x * x).sum::<f64>() / 4000.0;
        Ok((mean_square - 1.0).abs())
    })
    .unwrap();
    let best = best_after(&[80.0], &candidates);
    // The variance of 4000 draws near 1.2 is known to four times 1.2 √(2/4000) = 0.11; the two sets of noise are the same in every try,
    // so what differs between levels is known better by far.
    assert!(off(&found) - off(&[80.0, best]) < 0.02, "{found:?} for {best}");
}

#[test]
fn levels_without_a_choice_are_refused_or_all_taken() {
    let all = [80.0, 3.0, 0.1];
    let mut never = |_: &[f64]| unreachable!("one step has no level to choose");
    assert_eq!(greedy_levels(&all, 1, &mut never).unwrap(), [80.0]);
    assert_eq!(greedy_levels(&all, 3, &mut |levels| Ok(off(levels))).unwrap(), all);
    for steps in [0, 4] {
        let refused = greedy_levels(&all, steps, &mut |levels| Ok(off(levels))).unwrap_err().to_string();
        assert!(refused.contains("3 candidate levels"), "{refused}");
    }
}
