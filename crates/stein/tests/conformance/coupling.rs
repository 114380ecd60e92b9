//! Couplings against the published plans of torchcfm and POT (`tests/data/flow_matching`), against all permutations, and against the
//! entropic plan of two normal laws.

use std::{collections::BTreeMap, path::Path};

use rayon::ThreadPoolBuilder;
use serde::Deserialize;
use stein::{
    Coupling, Keys, Kind, Purpose, Result,
    coupling::{Classes, Costs, Plan, least_cost, pick, plan, sinkhorn, squared_distances},
};
use stein_base::transport::assignment;

use crate::{assert_close, stochastic::Stored, tensor};

const TRANSPORT: Coupling = Coupling::OptimalTransport { within_class: false };
const WITHIN_CLASS: Coupling = Coupling::OptimalTransport { within_class: true };

fn entropic(regularization: f64) -> Coupling {
    Coupling::Entropic { regularization, max_iterations: 10_000, within_class: false }
}

fn normal(seed: u64, rows: usize, dim: usize) -> Vec<f64> {
    Keys::range(seed, 0, rows).normal(Purpose::Point, 0, dim)
}

/// Ten narrow clusters.
fn clusters(seed: u64, rows: usize, dim: usize) -> Vec<f64> {
    let (mut values, centers) = (normal(seed, rows, dim), normal(seed + 1, 10, dim));
    for (i, row) in values.chunks_exact_mut(dim).enumerate() {
        row.iter_mut().zip(&centers[i % 10 * dim..]).for_each(|(value, center)| *value = center + 0.1 * *value);
    }
    values
}

fn pair(coupling: Coupling, data: &[f64], source: &[f64], dim: usize) -> Result<Vec<usize>> {
    coupling.pair(&tensor(data, dim), &tensor(source, dim), None, &Keys::range(0, 0, data.len() / dim))
}

fn total(costs: &Costs, paired: &[usize]) -> f64 {
    paired.iter().enumerate().map(|(row, &other)| costs.row(row)[other]).sum()
}

fn is_permutation(paired: &[usize]) -> bool {
    let mut sorted = paired.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..paired.len())
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    regularization: f64,
}

/// Costs, plans and pairs of the published code in double precision. Plans are converged, so that what is left are roundings of numbers
/// of order 10 (costs) and 0.1 (plans).
#[test]
fn plans_are_the_published_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flow_matching");
    let golden: Golden = serde_json::from_slice(&std::fs::read(folder.join("couplings.json")).unwrap()).unwrap();
    let stored = Stored(std::fs::read(folder.join("couplings.safetensors")).unwrap());
    assert_eq!(golden.cases.len(), 2);
    for case in golden.cases {
        let numbers = |field: &str| stored.numbers(&format!("{}.{field}", case.name));
        let all_close = |ours: &[f64], field: &str| {
            let theirs = numbers(field);
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert_close(*ours, theirs, 1e-12, format!("{} {field}", case.name));
            }
        };
        let (x0, x1) = (numbers("x0"), numbers("x1"));
        let costs = squared_distances(&x0, &x1, 2).unwrap();
        all_close(costs.values(), "cost");
        let exact = plan(&costs);
        all_close(&exact.weights, "plan_exact");
        all_close(&[exact.cost(&costs)], "total_cost_exact");
        all_close(&[least_cost(&costs)], "total_cost_exact");
        let entropic = sinkhorn(&costs, case.regularization, 1e-13, 100_000).unwrap();
        all_close(&entropic.weights, "plan_sinkhorn");
        all_close(&[entropic.cost(&costs)], "total_cost_sinkhorn");
        for (plan, name) in [(exact, "exact"), (entropic, "sinkhorn")] {
            let [sources, sinks] = ["i", "j"].map(|side| numbers(&format!("pairs_{name}_{side}")));
            for ((u, source), sink) in numbers("u").into_iter().zip(sources).zip(sinks) {
                let place = pick(&plan.weights, u);
                assert_eq!([place / plan.columns, place % plan.columns], [source as usize, sink as usize], "{name}");
            }
        }
        if costs.rows() == costs.columns() {
            let paired: Vec<f64> = pair(TRANSPORT, &x0, &x1, 2).unwrap().into_iter().map(|sink| sink as f64).collect();
            assert_eq!(paired, numbers("assignment"));
        }
    }
}

/// The definition: no permutation costs less.
#[test]
fn optimal_transport_is_the_best_of_all_permutations() {
    fn least(costs: &Costs, row: usize, taken: u32) -> f64 {
        if row == costs.rows() {
            return 0.0;
        }
        let free = (0..costs.rows()).filter(|column| taken & 1 << column == 0);
        free.map(|j| costs.row(row)[j] + least(costs, row + 1, taken | 1 << j)).fold(f64::INFINITY, f64::min)
    }
    for (rows, seed) in (2..=7).flat_map(|rows| (0..10).map(move |seed| (rows, seed))) {
        let (data, source) = (normal(seed, rows, 3), normal(100 + seed, rows, 3));
        let costs = squared_distances(&data, &source, 3).unwrap();
        let paired = pair(TRANSPORT, &data, &source, 3).unwrap();
        assert!(is_permutation(&paired));
        assert_close(total(&costs, &paired), least(&costs, 0, 0), 1e-14, format!("{rows} rows, seed {seed}"));
    }
}

/// A shift and a positive scale are the gradient of a convex function, and so the optimal map (Brenier 1991): whatever the order of the rows,
/// each finds its own image.
#[test]
fn rows_find_their_images_under_a_monotone_map() {
    for (rows, dim) in [(50, 1), (400, 5), (400, 40)] {
        let source = normal(1, rows, dim);
        // 7 has no common divisor with the numbers of rows, so that all are met.
        let image = |row: usize| source[7 * row % rows * dim..][..dim].iter().map(|value| 3.0 + 0.5 * value);
        let data: Vec<f64> = (0..rows).flat_map(image).collect();
        let expected: Vec<usize> = (0..rows).map(|row| 7 * row % rows).collect();
        assert_eq!(pair(TRANSPORT, &data, &source, dim).unwrap(), expected);
    }
}

#[test]
fn independent_rows_stay_where_they_are() {
    let (data, source) = (normal(1, 5, 2), normal(2, 5, 2));
    assert_eq!(pair(Coupling::default(), &data, &source, 2).unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(pair(Coupling::default(), &data[..2], &source[..2], 2).unwrap(), [0]);
}

#[test]
fn classes_are_paired_with_themselves_as_well_as_can_be() {
    let (rows, dim) = (90, 3);
    let (data, source) = (clusters(1, rows, dim), normal(3, rows, dim));
    // Two classes and rows without one, in other places on the other side.
    let classes = |step: usize| (0..rows).map(|i| [Some(4), None, Some(0)][i * step % 3]).collect::<Vec<_>>();
    let (own, others) = (classes(1), classes(2));
    let costs = squared_distances(&data, &source, dim).unwrap();
    let (keys, data, source) = (Keys::range(0, 0, rows), tensor(&data, dim), tensor(&source, dim));
    for (classes, others) in [(Classes { data: &own, source: &others }, &others), (Classes::of_data(&own), &own)] {
        let paired = WITHIN_CLASS.pair(&data, &source, Some(classes), &keys).unwrap();
        assert!(is_permutation(&paired));
        let mut least = 0.0;
        for class in [Some(4), None, Some(0)] {
            let places = |classes: &[Option<u32>]| (0..rows).filter(|&i| classes[i] == class).collect::<Vec<_>>();
            let (rows, columns) = (places(&own), places(others));
            assert!(rows.iter().all(|&row| columns.contains(&paired[row])), "{class:?}");
            let part = rows.iter().flat_map(|&row| columns.iter().map(move |&column| (row, column)));
            let part = Costs::new(part.map(|(row, column)| costs.row(row)[column]).collect(), columns.len()).unwrap();
            least += total(&part, &assignment(&part).unwrap());
        }
        assert_close(total(&costs, &paired), least, 1e-13, "the sum over classes");
        let entropic = Coupling::Entropic { regularization: 1.0, max_iterations: 10_000, within_class: true };
        let paired = entropic.pair(&data, &source, Some(classes), &keys).unwrap();
        assert!((0..rows).all(|row| own[row] == others[paired[row]]));
        assert!(!is_permutation(&paired), "draws with replacement repeat some of 90 rows");
    }
    let across = TRANSPORT.pair(&data, &source, Some(Classes::of_data(&own)), &keys).unwrap();
    assert!((0..rows).any(|row| own[row] != own[across[row]]), "without within_class, classes do not matter");
}

/// The largest |ln P_ij − ln P_il − ln P_kj + ln P_kl + (c_ij − c_il − c_kj + c_kl)/r|, which is 0 for exp((f_i + g_j − c_ij)/r), of
/// weights that have not underflowed, and what the marginals are off by in all.
fn off(plan: &Plan, costs: &Costs, r: f64) -> (f64, f64) {
    let (n, m) = (costs.rows(), costs.columns());
    let potential =
        |i: usize, j: usize| Some(plan.row(i)[j]).filter(|p| *p > 1e-280).map(|p| p.ln() + costs.row(i)[j] / r);
    let mut form = 0.0f64;
    for (i, j) in (1..n).flat_map(|i| (1..m).map(move |j| (i, j))) {
        if let (Some(a), Some(b), Some(c), Some(d)) =
            (potential(i, j), potential(i, j - 1), potential(i - 1, j), potential(i - 1, j - 1))
        {
            form = form.max((a - b - c + d).abs() / (1.0 + costs.row(i)[j] / r));
        }
    }
    let rows = (0..n).map(|i| (plan.row(i).iter().sum::<f64>() - 1.0 / n as f64).abs());
    let columns = (0..m).map(|j| ((0..n).map(|i| plan.row(i)[j]).sum::<f64>() - 1.0 / m as f64).abs());
    (form, rows.chain(columns).sum())
}

/// The form and the marginals are necessary and sufficient (Peyré & Cuturi 2019, proposition 4.3). At the smallest regularization
/// exp(−c/r) is 0 for every pair.
#[test]
fn entropic_plans_have_their_form_and_marginals() {
    for (n, m, dim, r, tolerance) in [
        (70, 70, 2, 0.3, 1e-9),
        (20, 33, 3, 1.0, 1e-9),
        (33, 20, 3, 0.05, 1e-9),
        (200, 130, 64, 10.0, 1e-9),
        (40, 40, 64, 0.05, 1e-4),
    ] {
        let costs = squared_distances(&normal(1, n, dim), &normal(2, m, dim), dim).unwrap();
        let plan = sinkhorn(&costs, r, tolerance, 100_000).unwrap();
        let (form, marginals) = off(&plan, &costs, r);
        assert!(form < 1e-13 && marginals < 1.001 * tolerance, "{n} and {m}, r = {r}: {form:e}, {marginals:e}");
        // 0 ≤ ⟨P, c⟩ − least ≤ r (H(P) − H(P*)), and entropies of plans lie between ln max(n, m) and ln n + ln m; making the columns right
        // moves at most the tolerance.
        let (cost, least) = (plan.cost(&costs), least_cost(&costs));
        let most = least + r * (n.min(m) as f64).ln();
        let moved = tolerance * costs.values().iter().copied().fold(0.0, f64::max);
        assert!(cost > least - moved && cost < most + moved, "{least} ≤ {cost} ≤ {most}");
    }
}

/// Of two normal laws on a line the entropic plan is normal with covariance c = √(s₀² s₁² + r²/16) − r/4 (Janati et al. 2020, theorem 1,
/// whose σ² is r/2). The mean product of n centered pairs scatters by √((s₀² s₁² + c²)/n) about it.
#[test]
fn entropic_pairs_of_normal_laws_have_the_covariance_known() {
    let (rows, s0, s1) = (1500, 0.8, 1.5);
    let scaled = |seed, shift: f64, s: f64| -> Vec<f64> {
        normal(seed, rows, 1).into_iter().map(|value| shift + s * value).collect()
    };
    let (data, source) = (scaled(1, 2.0, s0), scaled(2, -1.0, s1));
    for r in [0.5, 2.0, 8.0] {
        let paired = pair(entropic(r), &data, &source, 1).unwrap();
        let products = data.iter().zip(paired).map(|(x, other)| (x - 2.0) * (source[other] + 1.0));
        let found = products.sum::<f64>() / rows as f64;
        let variances: f64 = s0 * s0 * s1 * s1;
        let expected = (variances + r * r / 16.0).sqrt() - r / 4.0;
        let bound = 5.0 * ((variances + expected * expected) / rows as f64).sqrt();
        assert!((found - expected).abs() < bound, "r = {r}: {found} against {expected}, bound {bound}");
    }
}

/// Shares of many draws lie within five standard deviations of the weights, and places of weight 0 are never drawn.
#[test]
fn places_are_drawn_by_their_weights() {
    let weights = [0.0, 3.0, 1.0, 0.0, 4.0, 0.0];
    let draws = 40_000;
    let mut counts = BTreeMap::<usize, f64>::new();
    for u in Keys::range(3, 0, draws).uniform(Purpose::Own(1), 0) {
        *counts.entry(pick(&weights, u)).or_default() += 1.0;
    }
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    for (place, count) in counts {
        let share = weights[place] / 8.0;
        assert!((count / draws as f64 - share).abs() < 5.0 * (share * (1.0 - share) / draws as f64).sqrt());
    }
    assert_eq!([pick(&weights, 0.0), pick(&weights, 1.0f64.next_down())], [1, 4]);
}

/// A row draws by its own key: in another order of the batch it finds the same partner.
#[test]
fn draws_belong_to_rows() {
    let (rows, dim) = (60, 4);
    let (data, source) = (normal(1, rows, dim), normal(2, rows, dim));
    let keys = Keys::range(5, 1000, rows);
    let reversed: Vec<usize> = (0..rows).rev().collect();
    let turned: Vec<f64> = data.chunks_exact(dim).rev().flatten().copied().collect();
    let source = tensor(&source, dim);
    let paired = entropic(2.0).pair(&tensor(&data, dim), &source, None, &keys).unwrap();
    let mut other = entropic(2.0).pair(&tensor(&turned, dim), &source, None, &keys.select(&reversed)).unwrap();
    other.reverse();
    assert_eq!(paired, other);
    let unlike = entropic(2.0).pair(&tensor(&data, dim), &source, None, &Keys::range(6, 1000, rows)).unwrap();
    assert_ne!(paired, unlike, "another seed draws others");
}

#[test]
fn pairs_do_not_depend_on_the_number_of_threads() {
    let (rows, dim) = (300, 20);
    let (data, source) = (clusters(1, rows, dim), normal(3, rows, dim));
    let classes: Vec<_> = (0..rows as u32).map(|i| Some(i % 7)).collect();
    let costs = squared_distances(&data, &source, dim).unwrap();
    let all = || {
        let (data, source) = (tensor(&data, dim), tensor(&source, dim));
        let within = Coupling::Entropic { regularization: 0.5, max_iterations: 10_000, within_class: true };
        let pairs = [TRANSPORT, WITHIN_CLASS, entropic(0.5), within].map(|coupling| {
            coupling.pair(&data, &source, Some(Classes::of_data(&classes)), &Keys::range(0, 0, rows)).unwrap()
        });
        (pairs, sinkhorn(&costs, 0.1, 1e-6, 100_000).unwrap().weights)
    };
    let [one, many] = [1, 5].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all));
    assert!(one == many);
}

#[test]
fn settings_are_read_by_their_names() {
    let read = |text: &str| toml::from_str::<Coupling>(text).map_err(|error| error.to_string());
    assert_eq!(read("kind = 'independent'").unwrap(), Coupling::default());
    for kind in ["optimal_transport", "ot", "exact"] {
        assert_eq!(read(&format!("kind = '{kind}'")).unwrap(), TRANSPORT);
    }
    assert_eq!(read("kind = 'ot'\nwithin_class = true").unwrap(), WITHIN_CLASS);
    for kind in ["entropic", "sinkhorn"] {
        assert_eq!(read(&format!("kind = '{kind}'\nregularization = 0.5")).unwrap(), entropic(0.5));
    }
    assert!(read("kind = 'entropic'").unwrap_err().contains("regularization"));
    assert!(read("kind = 'ot'\nregularization = 1.0").unwrap_err().contains("regularization"));
    for coupling in [Coupling::default(), WITHIN_CLASS, entropic(0.5)] {
        assert_eq!(read(&toml::to_string(&coupling).unwrap()).unwrap(), coupling);
    }
}

#[test]
fn what_cannot_be_paired_is_told() {
    let told = |coupling: Coupling, rows: [usize; 2], dims: [usize; 2], classes: Option<Classes>, words: &str| {
        let [data, source] = [0, 1].map(|side| tensor(&normal(1, rows[side], dims[side]), dims[side]));
        let error = coupling.pair(&data, &source, classes, &Keys::range(0, 0, rows[0])).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let plain = |coupling, rows, dims, words| told(coupling, rows, dims, None, words);
    for coupling in [Coupling::default(), TRANSPORT, entropic(1.0)] {
        plain(coupling, [3, 4], [2, 2], "3 rows of 2 values cannot be paired with 4 rows of 2");
        plain(coupling, [3, 3], [2, 5], "3 rows of 2 values cannot be paired with 3 rows of 5");
    }
    for coupling in [TRANSPORT, WITHIN_CLASS, entropic(1.0)] {
        plain(coupling, [1, 1], [2, 2], "nothing to choose in a batch of 1");
    }
    plain(TRANSPORT, [5001, 5001], [1, 1], "train on batches of 5000 rows or fewer");
    plain(WITHIN_CLASS, [3, 3], [2, 2], "within_class needs classes");
    let (two, three) = ([Some(1), Some(2)], [Some(1), None, None]);
    let classes = |data, source| Some(Classes { data, source });
    told(WITHIN_CLASS, [3, 3], [2, 2], classes(&three, &two), "3 classes of the data and 2 of the source for 3 rows");
    let uneven = [Some(1), Some(1), None];
    told(
        WITHIN_CLASS,
        [3, 3],
        [2, 2],
        classes(&three, &uneven),
        "classes that do not pair: 2 rows of the data have no class",
    );
    let other = [Some(7), None, None];
    told(WITHIN_CLASS, [3, 3], [2, 2], classes(&three, &other), "1 rows of the data have class 1 and 0 of the source");
    for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        plain(entropic(odd), [3, 3], [2, 2], "coupling: regularization is");
    }
    let none = Coupling::Entropic { regularization: 1.0, max_iterations: 0, within_class: false };
    plain(none, [3, 3], [2, 2], "coupling: max_iterations is 0");
    assert!(none.check().is_err() && TRANSPORT.check().is_ok());
    let few = Coupling::Entropic { regularization: 0.01, max_iterations: 1, within_class: false };
    let (data, source) = (clusters(1, 50, 2), normal(3, 50, 2));
    let error = pair(few, &data, &source, 2).unwrap_err().to_string();
    assert!(error.contains("raise family.coupling.regularization or family.coupling.max_iterations"), "{error}");
    let keys = Keys::range(0, 0, 2);
    let error = TRANSPORT.pair(&tensor(&data, 2), &tensor(&source, 2), None, &keys).unwrap_err().to_string();
    assert!(error.contains("2 keys for 50 rows"), "{error}");
    let error = pair(TRANSPORT, &[1.0, f64::NAN], &[0.0, 1.0], 1).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFinite);
    assert!(error.to_string().contains("source 1 and sink 0 is not a finite number"), "{error}");
    let sentence = |result: Result<Costs>| result.unwrap_err().to_string();
    assert!(sentence(squared_distances(&[1.0; 3], &[1.0; 4], 2)).contains("3 and 4 values are no rows of 2"));
    assert!(sentence(squared_distances(&[], &[1.0; 4], 2)).contains("give whole rows"));
    let costs = squared_distances(&data, &source, 2).unwrap();
    for (r, tolerance, most) in [(0.0, 1e-3, 10), (1.0, 0.0, 10), (1.0, 1e-3, 0), (f64::NAN, 1e-3, 10)] {
        let error = sinkhorn(&costs, r, tolerance, most).unwrap_err().to_string();
        assert!(error.contains("must be above 0"), "{error}");
    }
}
