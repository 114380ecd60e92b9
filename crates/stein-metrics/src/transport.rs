//! Exact optimal transport between n and m points of equal weights, by successive shortest paths.
//!
//! Each of n sources has m/g units and each of m sinks needs n/g, g the greatest common divisor, so that all flows are whole numbers
//! and for n = m this is linear assignment. Potentials u, v keep the reduced costs c − u − v at or above 0, and at 0 where
//! something flows (Edmonds & Karp 1972, as in Jonker & Volgenant 1987): each step sends units along a shortest path from
//! a source that has some left to the nearest sink that needs some, found by Dijkstra's method on the dense matrix.
//! The result is optimal to rounding. Time grows with about the cube of the rows; a thousand a side take a fraction of a
//! second.

use stein_base::{Result, ensure};

/// The most pairs of a source and a sink, whose costs take 8 bytes each.
pub const LARGEST: usize = 25_000_000;

/// Units that flow from a source to the sink whose list this is in.
struct Flow {
    source: usize,
    units: usize,
}

/// The least mean cost of moving n points of weight 1/n to m of weight 1/m, given the costs of each source, `[n][m]`.
pub(crate) fn least_cost(costs: &[Vec<f64>]) -> f64 {
    let (n, m) = (costs.len(), costs[0].len());
    let common = greatest_common_divisor(n, m);
    let mut supply = vec![m / common; n];
    let mut demand = vec![n / common; m];
    let mut flows: Vec<Vec<Flow>> = (0..m).map(|_| Vec::new()).collect();
    let mut v: Vec<f64> = (0..m).map(|j| costs.iter().map(|costs| costs[j]).fold(f64::INFINITY, f64::min)).collect();
    let mut u = vec![0.0; n];
    for (source, costs) in costs.iter().enumerate() {
        let (mut nearest, mut least) = (0, f64::INFINITY);
        for (sink, (cost, v)) in costs.iter().zip(&v).enumerate() {
            if cost - v < least {
                (nearest, least) = (sink, cost - v);
            }
        }
        u[source] = least;
        let sent = supply[source].min(demand[nearest]);
        send(&mut flows[nearest], source, sent);
        supply[source] -= sent;
        demand[nearest] -= sent;
    }
    let mut search = Search::new(n, m);
    for (source, left) in supply.iter_mut().enumerate() {
        while *left > 0 {
            let end = search.shortest_path(source, costs, &mut u, &mut v, &flows, &demand);
            let units = search.narrowest(source, end, &flows).min(*left).min(demand[end]);
            search.send_along(source, end, &mut flows, units);
            *left -= units;
            demand[end] -= units;
        }
    }
    let units = (n / common * m) as f64;
    let cost = |(sink, flows): (usize, &Vec<Flow>)| -> f64 {
        flows.iter().map(|flow| flow.units as f64 * costs[flow.source][sink]).sum()
    };
    flows.iter().enumerate().map(cost).sum::<f64>() / units
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn send(flows: &mut Vec<Flow>, source: usize, units: usize) {
    match flows.iter_mut().find(|flow| flow.source == source) {
        Some(flow) => flow.units += units,
        None if units > 0 => flows.push(Flow { source, units }),
        None => {}
    }
}

/// A tree of shortest paths from one source.
struct Search {
    /// Of each sink the distance so far, and the source before it.
    distance: Vec<f64>,
    before_sink: Vec<usize>,
    /// Of each source in the tree the sink before it, and its distance.
    before_source: Vec<Option<usize>>,
    sources: Vec<(usize, f64)>,
    /// Sinks of known distance, and all others.
    known: Vec<usize>,
    open: Vec<usize>,
}

impl Search {
    fn new(n: usize, m: usize) -> Self {
        Self {
            distance: vec![0.0; m],
            before_sink: vec![0; m],
            before_source: vec![None; n],
            sources: Vec::new(),
            known: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The nearest sink that needs units. Afterwards the potentials make all reduced costs on the way to it 0.
    fn shortest_path(
        &mut self,
        root: usize,
        costs: &[Vec<f64>],
        u: &mut [f64],
        v: &mut [f64],
        flows: &[Vec<Flow>],
        demand: &[usize],
    ) -> usize {
        self.distance.fill(f64::INFINITY);
        self.before_source.fill(None);
        self.sources.clear();
        self.known.clear();
        self.open.clear();
        self.open.extend(0..v.len());
        let mut nearest = self.reach(root, 0.0, &costs[root], u[root], v);
        let end = loop {
            let sink = self.open.swap_remove(nearest);
            let distance = self.distance[sink];
            if demand[sink] > 0 {
                break sink;
            }
            self.known.push(sink);
            let mut grew = false;
            for flow in &flows[sink] {
                if flow.source != root && self.before_source[flow.source].is_none() {
                    self.before_source[flow.source] = Some(sink);
                    nearest = self.reach(flow.source, distance, &costs[flow.source], u[flow.source], v);
                    grew = true;
                }
            }
            if !grew {
                nearest = self.nearest_open();
            }
        };
        let length = self.distance[end];
        self.sources.iter().for_each(|&(source, distance)| u[source] += length - distance);
        self.known.iter().for_each(|&sink| v[sink] -= length - self.distance[sink]);
        end
    }

    /// Puts a source into the tree; the place among the open sinks of the nearest one.
    fn reach(&mut self, source: usize, distance: f64, costs: &[f64], u: f64, v: &[f64]) -> usize {
        self.sources.push((source, distance));
        let (mut nearest, mut least) = (0, f64::INFINITY);
        for (place, &sink) in self.open.iter().enumerate() {
            // Rounding must not make a path shorter than its beginning.
            let through = distance + (costs[sink] - u - v[sink]).max(0.0);
            if through < self.distance[sink] {
                self.distance[sink] = through;
                self.before_sink[sink] = source;
            }
            if self.distance[sink] < least {
                (nearest, least) = (place, self.distance[sink]);
            }
        }
        nearest
    }

    fn nearest_open(&self) -> usize {
        let distance = |place: &usize| self.distance[self.open[*place]];
        let nearest = (0..self.open.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.expect("as many units are needed as there are, so some sink is open")
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
    fn narrowest(&self, root: usize, end: usize, flows: &[Vec<Flow>]) -> usize {
        let taken_back = self.way_back(end).filter_map(|(source, _, before)| {
            debug_assert!(before.is_some() || source == root);
            flows[before?].iter().find(|flow| flow.source == source).map(|flow| flow.units)
        });
        taken_back.min().unwrap_or(usize::MAX)
    }

    fn send_along(&self, root: usize, end: usize, flows: &mut [Vec<Flow>], units: usize) {
        for (source, after, before) in self.way_back(end) {
            debug_assert!(before.is_some() || source == root);
            send(&mut flows[after], source, units);
            if let Some(before) = before {
                let flow = flows[before].iter_mut().find(|flow| flow.source == source);
                flow.expect("the way goes back along what flows").units -= units;
                flows[before].retain(|flow| flow.units > 0);
            }
        }
    }
}

/// Fails if two sets have more pairs than are worked on.
///
/// # Errors
/// Too many rows.
pub(crate) fn ensure_feasible(n: usize, m: usize) -> Result<()> {
    ensure!(
        n.saturating_mul(m) <= LARGEST,
        "exact transport between {n} and {m} rows needs {} costs and takes too long above {LARGEST}: give fewer rows, such as \
         5000 a side, or measure `sliced_wasserstein`",
        n as u128 * m as u128
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stein_base::{Keys, Purpose};

    fn costs(seed: u64, n: usize, m: usize) -> Vec<Vec<f64>> {
        Keys::range(seed, 0, n).uniforms(Purpose::Point, 0, m).chunks(m).map(<[f64]>::to_vec).collect()
    }

    /// The least over all permutations, for small sets: the definition of an assignment.
    #[test]
    fn assignments_are_the_best_of_all_permutations() {
        fn best(costs: &[Vec<f64>], row: usize, taken: u32) -> f64 {
            if row == costs.len() {
                return 0.0;
            }
            let free = (0..costs.len()).filter(|column| taken & 1 << column == 0);
            free.map(|j| costs[row][j] + best(costs, row + 1, taken | 1 << j)).fold(f64::INFINITY, f64::min)
        }
        for seed in 0..20 {
            let costs = costs(seed, 7, 7);
            let expected = best(&costs, 0, 0) / 7.0;
            assert!((least_cost(&costs) - expected).abs() < 1e-14, "seed {seed}");
        }
    }

    /// Points that stand k times on one side and l times on the other are an assignment of their copies.
    #[test]
    fn unequal_weights_are_an_assignment_of_copies() {
        for (seed, n, m) in [(1, 4, 6), (2, 3, 7), (3, 9, 6), (4, 1, 5), (5, 8, 1)] {
            let costs = costs(seed, n, m);
            let copied: Vec<Vec<f64>> = (0..n * m).map(|i| (0..n * m).map(|j| costs[i / m][j / n]).collect()).collect();
            let (value, expected) = (least_cost(&costs), least_cost(&copied));
            assert!((value - expected).abs() < 1e-13, "{n} and {m}: {value}, {expected}");
        }
    }
}
