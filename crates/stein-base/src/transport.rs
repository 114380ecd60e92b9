//! Exact optimal transport between n sources and m sinks of equal weights: least of Σ P_ij c_ij over plans P ≥ 0 whose rows sum to
//! 1/n and whose columns sum to 1/m. For n = m it is linear assignment: an extreme plan is a permutation over n.
//!
//! Each source has m/g units and each sink needs n/g, g the greatest common divisor, so that all flows are whole numbers.
//! Prices v of the sinks prove a plan optimal: every source's units go where c − v is least (complementary slackness). Two
//! methods find them, one after the other, and both only ever lower a price.
//!
//! - *Bids*, for n = m: each source without a sink takes the one where c − v is least from whoever has it, and lowers its price by as
//!   much as the second best is worse, and by ε (Bertsekas 1988). ε starts near the spread of the costs and is divided
//!   until it is next to nothing, which ends price wars between like sources early; a last round at ε = 0 is the augmenting row
//!   reduction of Jonker & Volgenant 1987, and what it assigns is optimal at its prices.
//! - *Shortest paths*, for whatever units are left: along a shortest path from their source to the nearest sink that needs some, by
//!   Dijkstra's method on the dense matrix (Edmonds & Karp 1972), afterwards with prices at which the path costs nothing.
//!
//! As prices only fall, c − v only grows: a source that once noted its best few sinks, and what the next one was worth, need not look at
//! the others before the second of the few is worth less than that. Most bids look at a few dozen sinks, and not at thousands.
//!
//! The result is optimal to rounding, and the same every time: nothing here is shared between threads. For n = m, time grows with a little
//! more than the square of the rows, and a thousand a side take some hundredths of a second; otherwise it grows with about the cube.
//! Thousands of copies of a few rows on both sides are the worst of equal numbers: equal bids settle nothing, and paths are long.

use std::collections::VecDeque;

use crate::{Result, ensure};

/// The most pairs of a source and a sink that callers should ask for: their costs take 8 bytes each.
pub const LARGEST: usize = 25_000_000;

/// What each of n sources would pay to each of m sinks, in row order.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    values: Vec<f64>,
    columns: usize,
}

impl Costs {
    /// Costs `[n, m]` of this many columns m.
    ///
    /// # Errors
    /// None at all, rows that are not whole, and a cost that is not a finite number.
    pub fn new(values: Vec<f64>, columns: usize) -> Result<Self> {
        ensure!(
            columns > 0 && !values.is_empty() && values.len().is_multiple_of(columns),
            "transport: {} costs are no rows of {columns}: give one for every pair of a source and a sink",
            values.len()
        );
        let odd = values.iter().position(|cost| !cost.is_finite());
        ensure!(
            Kind::NotFinite,
            odd.is_none(),
            "transport: the cost of source {} and sink {} is not a finite number: look for NaN, infinity and numbers too large to be \
             squared among the rows",
            odd.unwrap_or(0) / columns,
            odd.unwrap_or(0) % columns
        );
        Ok(Self { values, columns })
    }

    /// Number of sources, n.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Number of sinks, m.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The costs of a source.
    ///
    /// # Panics
    /// If there is no such source, which is the caller's broken invariant.
    pub fn row(&self, source: usize) -> &[f64] {
        &self.values[source * self.columns..][..self.columns]
    }

    /// All of them, in row order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// How much of every source goes to every sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[n, m]` in row order, at least 0, with sum 1.
    pub weights: Vec<f64>,
    /// Number of sinks, m.
    pub columns: usize,
}

impl Plan {
    /// What goes from a source to each sink.
    ///
    /// # Panics
    /// If there is no such source, which is the caller's broken invariant.
    pub fn row(&self, source: usize) -> &[f64] {
        &self.weights[source * self.columns..][..self.columns]
    }

    /// Σ P_ij c_ij.
    pub fn cost(&self, costs: &Costs) -> f64 {
        self.weights.iter().zip(costs.values()).map(|(weight, cost)| weight * cost).sum()
    }
}

/// The sink of every source that makes the sum of the costs least: a permutation.
///
/// # Errors
/// Another number of sinks than of sources.
pub fn assignment(costs: &Costs) -> Result<Vec<usize>> {
    let (n, m) = (costs.rows(), costs.columns());
    ensure!(n == m, "transport: {n} sources cannot be assigned to {m} sinks one by one: give as many");
    let mut sinks = vec![0; n];
    for (sink, flows) in solve(costs).iter().enumerate() {
        flows.iter().for_each(|flow| sinks[flow.source] = sink);
    }
    Ok(sinks)
}

/// A plan of least cost.
pub fn plan(costs: &Costs) -> Plan {
    let (flows, units) = (solve(costs), units(costs));
    let mut weights = vec![0.0; costs.values.len()];
    for (sink, flows) in flows.iter().enumerate() {
        flows.iter().for_each(|flow| weights[flow.source * costs.columns + sink] = flow.units as f64 / units);
    }
    Plan { weights, columns: costs.columns }
}

/// The least mean cost of moving n points of weight 1/n to m of weight 1/m.
pub fn least_cost(costs: &Costs) -> f64 {
    let cost = |(sink, flows): (usize, &Vec<Flow>)| -> f64 {
        flows.iter().map(|flow| flow.units as f64 * costs.row(flow.source)[sink]).sum()
    };
    solve(costs).iter().enumerate().map(cost).sum::<f64>() / units(costs)
}

/// Units that flow from a source to the sink whose list this is in.
struct Flow {
    source: usize,
    units: usize,
}

/// How many units flow in all.
fn units(costs: &Costs) -> f64 {
    let (n, m) = (costs.rows(), costs.columns());
    (n / greatest_common_divisor(n, m) * m) as f64
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The flows of least cost into each sink.
fn solve(costs: &Costs) -> Vec<Vec<Flow>> {
    let (n, m) = (costs.rows(), costs.columns());
    let common = greatest_common_divisor(n, m);
    let mut state = State {
        costs,
        prices: costs.values.chunks_exact(m).fold(vec![f64::INFINITY; m], |mut least, costs| {
            least.iter_mut().zip(costs).for_each(|(least, cost)| *least = least.min(*cost));
            least
        }),
        flows: (0..m).map(|_| Vec::new()).collect(),
        supply: vec![m / common; n],
        demand: vec![n / common; m],
    };
    // With one sink or source there is nothing to choose.
    if n == m && n > 1 {
        let owners = Auction::new(costs, &mut state.prices).hold();
        for (sink, source) in owners.into_iter().enumerate().filter_map(|(sink, owner)| Some((sink, owner?))) {
            state.send(source, sink, 1);
        }
    } else {
        for source in 0..n {
            let (sink, _) = least(costs.row(source), &state.prices);
            state.send(source, sink, state.supply[source].min(state.demand[sink]));
        }
    }
    let mut search = Search::new(n, m);
    for source in 0..n {
        while state.supply[source] > 0 {
            let end = search.shortest_path(source, &mut state);
            let units = search.narrowest(end, &state.flows).min(state.supply[source]).min(state.demand[end]);
            search.send_along(end, &mut state, units);
        }
    }
    state.flows
}

/// Where c − v is least, the first if several, and how much it is.
fn least(costs: &[f64], prices: &[f64]) -> (usize, f64) {
    let values = costs.iter().zip(prices).map(|(cost, price)| cost - price);
    values.enumerate().fold((0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
}

/// What flows so far, at which prices.
struct State<'a> {
    costs: &'a Costs,
    /// Of each sink, v. Units flow only where c − v is least for their source.
    prices: Vec<f64>,
    flows: Vec<Vec<Flow>>,
    /// Units each source has left.
    supply: Vec<usize>,
    /// Units each sink needs still.
    demand: Vec<usize>,
}

impl State<'_> {
    /// Units from a source that has them to a sink that needs them.
    fn send(&mut self, source: usize, sink: usize, units: usize) {
        self.supply[source] -= units;
        self.demand[sink] -= units;
        add(&mut self.flows[sink], source, units);
    }
}

fn add(flows: &mut Vec<Flow>, source: usize, units: usize) {
    match flows.iter_mut().find(|flow| flow.source == source) {
        Some(flow) => flow.units += units,
        None if units > 0 => flows.push(Flow { source, units }),
        None => {}
    }
}

/// How many sinks a source notes.
const NOTED: usize = 32;

/// ε at first and at last, as parts of the mean of c − v at the first prices, and by how much it is divided. They move the time a
/// little, and the result not at all.
const FIRST: f64 = 0.1;
const LAST: f64 = 1e-5;
const DIVISOR: f64 = 5.0;

/// Bids in the round at ε = 0, per source: a price war between equals is left to shortest paths.
const BIDS: usize = 20;

/// The best sinks a source saw when it last looked at all.
struct Note {
    sinks: Vec<u32>,
    /// At least as much is c − v at all others.
    bound: f64,
}

/// The best and the second best sink of a source: where, and c − v.
#[derive(Clone, Copy)]
struct Best {
    sink: usize,
    value: f64,
    second: usize,
    second_value: f64,
}

/// Sources that bid for sinks, one each.
struct Auction<'a> {
    costs: &'a Costs,
    prices: &'a mut [f64],
    notes: Vec<Note>,
    /// For looking at all sinks: c − v, and those that are small.
    values: Vec<f64>,
    small: Vec<(f64, u32)>,
}

impl<'a> Auction<'a> {
    fn new(costs: &'a Costs, prices: &'a mut [f64]) -> Self {
        let notes = (0..costs.rows()).map(|_| Note { sinks: Vec::new(), bound: f64::NEG_INFINITY }).collect();
        Self { costs, prices, notes, values: Vec::new(), small: Vec::new() }
    }

    /// The source that owns each sink at the end, at a place where c − v is least for it.
    fn hold(mut self) -> Vec<Option<usize>> {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / self.costs.rows() as f64;
        let spread = self.costs.values.chunks_exact(self.costs.columns).map(mean).sum::<f64>()
            / self.costs.rows() as f64
            - mean(self.prices);
        let mut epsilon = FIRST * spread;
        while epsilon > LAST * spread {
            self.round(epsilon, usize::MAX);
            epsilon /= DIVISOR;
        }
        self.round(0.0, BIDS * self.costs.rows())
    }

    /// All sources bid from the start, at these prices.
    fn round(&mut self, epsilon: f64, mut bids: usize) -> Vec<Option<usize>> {
        let mut owners = vec![None; self.prices.len()];
        let mut waiting: VecDeque<usize> = (0..self.costs.rows()).collect();
        while bids > 0
            && let Some(source) = waiting.pop_front()
        {
            bids -= 1;
            let best = self.best(source);
            let lowered = self.prices[best.sink] - (best.second_value - best.value) - epsilon;
            if lowered < self.prices[best.sink] {
                self.prices[best.sink] = lowered;
                match owners[best.sink].replace(source) {
                    // The last round stays with the chain of who took from whom, as it is short where prices are nearly right.
                    Some(before) if epsilon == 0.0 => waiting.push_front(before),
                    Some(before) => waiting.push_back(before),
                    None => {}
                }
            } else {
                // Both are as good, so no price falls: whoever has one of them would only take it back.
                let free = [best.sink, best.second].into_iter().find(|&sink| owners[sink].is_none());
                free.into_iter().for_each(|sink| owners[sink] = Some(source));
            }
        }
        owners
    }

    /// The two sinks at which c − v is least.
    fn best(&mut self, source: usize) -> Best {
        loop {
            let (costs, note) = (self.costs.row(source), &self.notes[source]);
            let nowhere = Best { sink: 0, value: f64::INFINITY, second: 0, second_value: f64::INFINITY };
            let best = note.sinks.iter().fold(nowhere, |best, &sink| {
                let sink = sink as usize;
                let value = costs[sink] - self.prices[sink];
                if value < best.value {
                    Best { sink, value, second: best.sink, second_value: best.value }
                } else if value < best.second_value {
                    Best { second: sink, second_value: value, ..best }
                } else {
                    best
                }
            });
            if best.second_value <= note.bound {
                return best;
            }
            self.look(source);
        }
    }

    /// Notes the best sinks of all at these prices.
    fn look(&mut self, source: usize) {
        let m = self.prices.len();
        let note = &mut self.notes[source];
        if m <= NOTED {
            *note = Note { sinks: (0..m as u32).collect(), bound: f64::INFINITY };
            return;
        }
        self.values.clear();
        self.values.extend(self.costs.row(source).iter().zip(&*self.prices).map(|(cost, price)| cost - price));
        // The least values of some parts, more than NOTED: more than NOTED values are no larger than the one at that place.
        let mut parts: Vec<f64> = self.values.chunks(m.div_ceil(4 * NOTED)).map(least_of).collect();
        let limit = *parts.select_nth_unstable_by(NOTED, f64::total_cmp).1;
        self.small.clear();
        self.small.extend(
            (0u32..).zip(&self.values).filter(|(_, value)| **value <= limit).map(|(sink, value)| (*value, sink)),
        );
        let by_value = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let (noted, next, _) = self.small.select_nth_unstable_by(NOTED, by_value);
        note.bound = next.0;
        note.sinks.clear();
        note.sinks.extend(noted.iter().map(|(_, sink)| sink));
    }
}

/// The least of some numbers, in lanes, which processors compare at once.
fn least_of(values: &[f64]) -> f64 {
    const LANES: usize = 8;
    let smaller = |a: f64, b: f64| if b < a { b } else { a };
    let mut lanes = [f64::INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        lanes.iter_mut().zip(values).for_each(|(least, value)| *least = smaller(*least, *value));
    }
    lanes.iter().chain(rest).copied().fold(f64::INFINITY, smaller)
}

/// A tree of shortest paths from one source.
struct Search {
    /// Of each sink the distance so far, infinite once it is known, and the source before it.
    distance: Vec<f64>,
    before_sink: Vec<usize>,
    /// The prices, and minus infinity for sinks of known distance, which nothing reaches again.
    prices: Vec<f64>,
    /// Of each source in the tree the sink before it.
    before_source: Vec<Option<usize>>,
    /// Sinks of known distance.
    known: Vec<(usize, f64)>,
}

impl Search {
    fn new(n: usize, m: usize) -> Self {
        Self {
            distance: vec![0.0; m],
            before_sink: vec![0; m],
            prices: vec![0.0; m],
            before_source: vec![None; n],
            known: Vec::new(),
        }
    }

    /// The nearest sink that needs units. Afterwards c − v is least, for every source on the way to it, at the sinks beside it.
    fn shortest_path(&mut self, root: usize, state: &mut State) -> usize {
        self.distance.fill(f64::INFINITY);
        self.prices.copy_from_slice(&state.prices);
        self.before_source.fill(None);
        self.known.clear();
        // Distances from a root may begin anywhere: only their differences count.
        self.reach(root, state.costs.row(root), 0.0, f64::NEG_INFINITY);
        let (end, length) = loop {
            let nearest = least_of(&self.distance);
            let mut open = self.distance.iter().zip(&state.demand);
            // Among equals, such as copies of a row, one that needs units ends the search.
            if let Some(end) = open.position(|(&distance, &needed)| distance == nearest && needed > 0) {
                break (end, nearest);
            }
            let sink = self.distance.iter().position(|&distance| distance == nearest);
            let sink = sink.expect("as many units are needed as there are, so some sink is open");
            self.known.push((sink, nearest));
            self.distance[sink] = f64::INFINITY;
            self.prices[sink] = f64::NEG_INFINITY;
            for flow in &state.flows[sink] {
                if flow.source != root && self.before_source[flow.source].is_none() {
                    self.before_source[flow.source] = Some(sink);
                    let costs = state.costs.row(flow.source);
                    // What flows costs c − v, the least, so a detour is longer by how much more it costs.
                    self.reach(flow.source, costs, nearest - (costs[sink] - state.prices[sink]), nearest);
                }
            }
        };
        self.known.iter().for_each(|&(sink, distance)| state.prices[sink] -= length - distance);
        end
    }

    /// Puts a source into the tree, from which a sink is `shift` + c − v away, and at least `so_far`, which rounding must not change.
    fn reach(&mut self, source: usize, costs: &[f64], shift: f64, so_far: f64) {
        let sinks = self.distance.iter_mut().zip(&mut self.before_sink).zip(costs.iter().zip(&self.prices));
        for ((distance, before), (cost, price)) in sinks {
            let through = cost - price + shift;
            let through = if through < so_far { so_far } else { through };
            let nearer = through < *distance;
            *distance = if nearer { through } else { *distance };
            *before = if nearer { source } else { *before };
        }
    }

    /// The sources and sinks on the way back from a sink: each source with the sink after it, and the one before it.
    fn way_back(&self, end: usize) -> impl Iterator<Item = (usize, usize, Option<usize>)> + '_ {
        let step = move |sink: usize| {
            let source = self.before_sink[sink];
            (source, sink, self.before_source[source])
        };
        std::iter::successors(Some(step(end)), move |&(_, _, before)| before.map(step))
    }

    /// The most units that can be taken back from the flows on the way.
    fn narrowest(&self, end: usize, flows: &[Vec<Flow>]) -> usize {
        let taken_back = self.way_back(end).filter_map(|(source, _, before)| {
            flows[before?].iter().find(|flow| flow.source == source).map(|flow| flow.units)
        });
        taken_back.min().unwrap_or(usize::MAX)
    }

    /// Units from the root of the way to its end, which needs them.
    fn send_along(&self, end: usize, state: &mut State, units: usize) {
        state.demand[end] -= units;
        for (source, after, before) in self.way_back(end) {
            add(&mut state.flows[after], source, units);
            let Some(before) = before else {
                state.supply[source] -= units;
                break;
            };
            let flow = state.flows[before].iter_mut().find(|flow| flow.source == source);
            flow.expect("the way goes back along what flows").units -= units;
            state.flows[before].retain(|flow| flow.units > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keys, Purpose};

    fn costs(seed: u64, n: usize, m: usize) -> Costs {
        Costs::new(Keys::range(seed, 0, n).uniforms(Purpose::Point, 0, m), m).unwrap()
    }

    /// The least over all permutations, for small sets: the definition of an assignment.
    fn best(costs: &Costs, row: usize, taken: u32) -> f64 {
        if row == costs.rows() {
            return 0.0;
        }
        let free = (0..costs.columns()).filter(|column| taken & 1 << column == 0);
        free.map(|j| costs.row(row)[j] + best(costs, row + 1, taken | 1 << j)).fold(f64::INFINITY, f64::min)
    }

    fn total(costs: &Costs, sinks: &[usize]) -> f64 {
        sinks.iter().enumerate().map(|(source, &sink)| costs.row(source)[sink]).sum()
    }

    #[test]
    fn assignments_are_the_best_of_all_permutations() {
        for (n, seed) in (1..=7).flat_map(|n| (0..20).map(move |seed| (n, seed))) {
            let costs = costs(seed, n, n);
            let expected = best(&costs, 0, 0);
            let sinks = assignment(&costs).unwrap();
            assert!((total(&costs, &sinks) - expected).abs() < 1e-14, "{n} rows, seed {seed}");
            assert!((least_cost(&costs) - expected / n as f64).abs() < 1e-14, "{n} rows, seed {seed}");
        }
    }

    /// Few values make many optimal assignments and bids at which no price falls.
    #[test]
    fn equal_costs_have_a_best_assignment_too() {
        for seed in 0..20 {
            let values = costs(seed, 7, 7).values().iter().map(|cost| (cost * 3.0).floor()).collect();
            let costs = Costs::new(values, 7).unwrap();
            assert_eq!(total(&costs, &assignment(&costs).unwrap()), best(&costs, 0, 0), "seed {seed}");
        }
        let same = Costs::new(vec![2.5; 100 * 100], 100).unwrap();
        let mut sinks = assignment(&same).unwrap();
        sinks.sort_unstable();
        assert_eq!(sinks, (0..100).collect::<Vec<_>>());
    }

    /// On a line, points are matched in their order (Villani 2003, theorem 2.18), here with more sinks than a source notes.
    #[test]
    fn points_on_a_line_are_matched_in_order() {
        for n in [33, 200, 700] {
            let sorted = |seed: u64| {
                let mut points = Keys::range(seed, 0, n).normal(Purpose::Point, 0, 1);
                points.sort_by(f64::total_cmp);
                points
            };
            let (one, other) = (sorted(1), sorted(2));
            let squared = one.iter().flat_map(|x| other.iter().map(move |y| (x - y).powi(2))).collect();
            let sinks = assignment(&Costs::new(squared, n).unwrap()).unwrap();
            assert_eq!(sinks, (0..n).collect::<Vec<_>>());
        }
    }

    /// An assignment is optimal if and only if no cycle of exchanges saves anything (Ahuja et al. 1993, theorem 9.1). Tried on what is
    /// hard, ten tight clusters against one cloud.
    #[test]
    fn no_exchange_improves_an_assignment_of_clusters() {
        let (n, dim) = (300, 3);
        let cloud = Keys::range(1, 0, n).normal(Purpose::Point, 0, dim);
        let mut clusters = Keys::range(2, 0, n).normal(Purpose::Point, 0, dim);
        let centers = Keys::range(3, 0, 10).normal(Purpose::Point, 0, dim);
        for (i, value) in clusters.iter_mut().enumerate() {
            *value = centers[i / dim % 10 * dim + i % dim] + 0.01 * *value;
        }
        let squared = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        let values =
            clusters.chunks(dim).flat_map(|x| cloud.chunks(dim).map(move |y| squared(x, y))).collect::<Vec<_>>();
        let costs = Costs::new(values, n).unwrap();
        let sinks = assignment(&costs).unwrap();
        // Bellman and Ford on the sources: an edge i → k is what it costs to give i the sink of k. Without a negative cycle the
        // distances settle within n rounds.
        let mut distance = vec![0.0f64; n];
        let settled = (0..n).any(|_| {
            let before = distance.clone();
            for (k, &sink) in sinks.iter().enumerate() {
                for i in 0..n {
                    let through = before[i] + costs.row(i)[sink] - costs.row(i)[sinks[i]];
                    distance[k] = distance[k].min(through);
                }
            }
            distance.iter().zip(&before).all(|(now, before)| before - now < 1e-12)
        });
        assert!(settled, "a cycle of exchanges saves something");
    }

    /// Points that stand k times on one side and l times on the other are an assignment of their copies.
    #[test]
    fn unequal_weights_are_an_assignment_of_copies() {
        for (seed, n, m) in [(1, 4, 6), (2, 3, 7), (3, 9, 6), (4, 1, 5), (5, 8, 1), (6, 12, 50)] {
            let costs = costs(seed, n, m);
            let copied = (0..n * m).flat_map(|i| (0..n * m).map(move |j| (i / m, j / n)));
            let copied = copied.map(|(source, sink)| costs.row(source)[sink]).collect();
            let copied = Costs::new(copied, n * m).unwrap();
            let (value, expected) = (least_cost(&costs), least_cost(&copied));
            assert!((value - expected).abs() < 1e-13, "{n} and {m}: {value}, {expected}");
            let plan = plan(&costs);
            assert!((plan.cost(&costs) - value).abs() < 1e-14);
            for i in 0..n {
                assert!((plan.row(i).iter().sum::<f64>() - 1.0 / n as f64).abs() < 1e-14);
            }
            for j in 0..m {
                let column = (0..n).map(|i| plan.row(i)[j]).sum::<f64>();
                assert!((column - 1.0 / m as f64).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn bad_costs_are_refused() {
        let sentence = |result: Result<Costs>| result.unwrap_err().to_string();
        assert!(sentence(Costs::new(vec![], 3)).contains("0 costs are no rows of 3"));
        assert!(sentence(Costs::new(vec![1.0; 4], 3)).contains("4 costs are no rows of 3"));
        let odd = sentence(Costs::new(vec![1.0, 2.0, 3.0, f64::NAN], 2));
        assert!(odd.contains("source 1 and sink 1 is not a finite number"), "{odd}");
        let uneven = assignment(&costs(1, 2, 3)).unwrap_err().to_string();
        assert!(uneven.contains("2 sources cannot be assigned to 3 sinks"), "{uneven}");
    }
}
