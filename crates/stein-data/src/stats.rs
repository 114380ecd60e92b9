//! What a noise schedule needs to know of the data.

use crate::{Data, Moments, Ncsnv2, Shape, data::COUNTED, ncsnv2, source::first_ten};
use rayon::prelude::*;
use std::fmt;
use stein_base::{Result, ensure};

/// The last noise level and the steps per level that [`Stats`] assumes for NCSNv2.
const SIGMA_L: f64 = 0.01;
const STEPS_EACH: usize = 5;

/// Measures of a data set: images in [0, 1], rows in their own units. Standard deviations divide by the count.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// The name of the data.
    pub name: String,
    /// The shape of one sample.
    pub shape: Shape,
    /// The number of samples.
    pub count: usize,
    /// The number of samples in each class; empty where there are no labels.
    pub classes: Vec<(String, usize)>,
    /// [`Data::notes`].
    pub notes: Vec<String>,
    /// The number of gray levels of quantized images.
    pub levels: Option<u32>,
    /// The number of samples that mean and standard deviation were taken over; fewer than all of a stream.
    pub counted: usize,
    /// The mean over all values of these samples.
    pub mean: f64,
    /// The standard deviation over all values of these samples, σ_data.
    pub sigma_data: f64,
    /// Each column of a row, or each channel of a series; empty for images.
    pub columns: Vec<Column>,
    /// The largest distance between two samples.
    pub distance: Distance,
    /// NCSNv2's settings for σ₁ = the largest distance, σ_L = 0.01 and 5 steps per level; None where the distance is
    /// not above σ_L.
    pub ncsnv2: Option<Ncsnv2>,
}

/// One column of a table, or one channel of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// In its own unit.
    pub mean: f64,
    /// In its own unit.
    pub std: f64,
}

/// The largest Euclidean distance between two samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Distance {
    /// In the units of [`Stats`].
    pub value: f64,
    /// A pair of samples that are this far apart.
    pub pair: (usize, usize),
    /// Whether no pair can be farther apart; else `value` is a lower bound.
    pub exact: bool,
    /// How it was found, in words.
    pub method: String,
}

impl Stats {
    /// Measures `data`: all of them in memory, of a stream some thousand samples, evenly spaced, with what they say so.
    ///
    /// # Errors
    /// When a sample cannot be read, or the values are so large that their squares overflow.
    pub fn of(data: &Data) -> Result<Self> {
        let dim = data.dim();
        let moments = data.moments()?;
        let (mean, variance) = overall(&moments, 0, 1);
        ensure!(variance.is_finite(), "{} has values too large to be measured: rescale them", data.name);
        let names = match data.shape {
            Shape::Series { channels, .. } => (0..channels).map(|channel| format!("channel {channel}")).collect(),
            _ => data.columns.clone(),
        };
        let every = names.len();
        let column = |(c, name)| {
            let (mean, variance) = overall(&moments, c, every);
            Column { name, mean, std: variance.sqrt() }
        };
        let distance = match data.is_held() {
            true => largest_distance(data, &moments.mean, BUDGET),
            false => sampled_distance(data, ROOM)?,
        };
        Ok(Self {
            name: data.name.clone(),
            shape: data.shape,
            count: data.len(),
            classes: data.class_names.iter().cloned().zip(data.class_counts()).collect(),
            notes: data.notes.clone(),
            levels: data.levels(),
            counted: moments.counted,
            mean,
            sigma_data: variance.sqrt(),
            columns: names.into_iter().enumerate().map(column).collect(),
            ncsnv2: ncsnv2(dim, distance.value, SIGMA_L, STEPS_EACH).ok(),
            distance,
        })
    }

    /// For images: (mean, σ_data) on the range [−1, 1] that networks see, x = 2v − 1.
    pub fn network_range(&self) -> Option<(f64, f64)> {
        matches!(self.shape, Shape::Image { .. }).then_some((2.0 * self.mean - 1.0, 2.0 * self.sigma_data))
    }
}

/// Mean and variance over all values of the places `first`, `first + every`, ...: the spread inside the places and the
/// spread of their means.
fn overall(moments: &Moments, first: usize, every: usize) -> (f64, f64) {
    let means = || moments.mean.iter().skip(first).step_by(every);
    let count = means().len() as f64;
    let mean = means().sum::<f64>() / count;
    let both = moments.variance.iter().skip(first).step_by(every).zip(means());
    (mean, both.map(|(variance, m)| variance + (m - mean).powi(2)).sum::<f64>() / count)
}

/// Value differences that may be spent on the search for the largest distance, some twenty seconds on two cores.
const BUDGET: u128 = 200_000_000_000;
/// Samples compared pairwise first, and alone where the budget does not do for the rest.
const SUBSET: usize = 5000;
/// Bytes for the samples of a stream that are compared with each other.
const ROOM: usize = 256 << 20;

/// The largest distance among as many samples of a stream as have room in memory, evenly spaced.
fn sampled_distance(data: &Data, room: usize) -> Result<Distance> {
    let bytes = if data.levels().is_some_and(|levels| levels <= 256) { 1 } else { 4 };
    // No more than the moments read, so that where there is room for all of those no others need decoding.
    let places = data.spaced((room / bytes / data.dim()).clamp(2, COUNTED));
    let some = data.hold(&places)?;
    let Distance { value, pair: (i, j), exact, method } = largest_distance(&some, &some.moments()?.mean, BUDGET);
    let (pair, counted, n) = ((places[i], places[j]), places.len(), data.len());
    Ok(match exact && counted == n {
        true => Distance { value, pair, exact, method },
        false => {
            let method = format!("lower bound: among {counted} of the {n} samples, evenly spaced");
            Distance { value, pair, exact: false, method }
        }
    })
}

/// With r the distance from the mean, two samples are at most r_i + r_j apart. Walking from one farthest sample to the
/// next gives a first answer, the samples of largest r a better one, and then only the pairs that could still beat it
/// are left to be compared. The samples are in memory.
fn largest_distance(data: &Data, mean: &[f64], budget: u128) -> Distance {
    let n = data.len();
    let radius = |i: usize| {
        let mut row = vec![0.0; data.dim()];
        data.row(i, &mut row).expect(HELD);
        row.iter().zip(mean).map(|(&v, m)| (f64::from(v) - m).powi(2)).sum::<f64>().sqrt()
    };
    let mut order: Vec<(f64, usize)> = (0..n).into_par_iter().map(|i| (radius(i), i)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let subset = n.min(SUBSET);
    let best = among(data, &order[..subset], walk(data, order[0].1));
    let pairs: u128 = (0..n).map(|i| reach(&order, i, best.0).saturating_sub(i + 1) as u128).sum();
    let exact = n == subset || pairs * data.dim() as u128 <= budget;
    let (best, method) = if exact {
        (among(data, &order, best), "exact: every pair that could be farther apart was compared".to_string())
    } else {
        let how = format!("all pairs of the {subset} samples farthest from the mean, farthest-point walks over all");
        (farther(best, walk(data, best.1)), format!("lower bound: {how}"))
    };
    Distance { value: best.0, pair: (best.1.min(best.2), best.1.max(best.2)), exact, method }
}

const HELD: &str = "samples in memory can be read";

fn apart(data: &Data, i: usize, j: usize) -> f64 {
    data.distance(i, j).expect(HELD)
}

/// Where in `order` the partners of sample `i` end that may be farther from it than `found`; the factor covers
/// rounding.
fn reach(order: &[(f64, usize)], i: usize, found: f64) -> usize {
    order.partition_point(|&(r, _)| (r + order[i].0) * (1.0 + 1e-9) > found)
}

/// The farthest pair among `best` and those of `order` (falling r, sample) that may beat it.
fn among(data: &Data, order: &[(f64, usize)], best: (f64, usize, usize)) -> (f64, usize, usize) {
    // Blocks of samples share each pass over the others, which come from memory once instead of once for each.
    let compare = |block: usize| {
        let own = block * 16..order.len().min(block * 16 + 16);
        let ends: Vec<usize> = own.clone().map(|i| reach(order, i, best.0)).collect();
        let mut best = best;
        for j in own.start + 1..ends[0].max(own.start + 1) {
            for (i, &end) in own.clone().zip(&ends) {
                if i < j && j < end {
                    best = farther(best, (apart(data, order[i].1, order[j].1), order[i].1, order[j].1));
                }
            }
        }
        best
    };
    (0..order.len().div_ceil(16)).into_par_iter().map(compare).reduce(|| best, farther)
}

/// The farther pair; of equals the one with the lower numbers, so that threads do not decide.
fn farther(a: (f64, usize, usize), b: (f64, usize, usize)) -> (f64, usize, usize) {
    let low = |p: (f64, usize, usize)| (p.1.min(p.2), p.1.max(p.2));
    if b.0 > a.0 || (b.0 == a.0 && low(b) < low(a)) { b } else { a }
}

/// Goes from `start` to the sample farthest from it, and on, while the distance grows.
fn walk(data: &Data, start: usize) -> (f64, usize, usize) {
    let mut best = (0.0, start, start);
    let mut from = start;
    loop {
        let next = (0..data.len()).into_par_iter().map(|j| (apart(data, from, j), from, j)).reduce(|| best, farther);
        if next.0 <= best.0 {
            return best;
        }
        (best, from) = (next, next.2);
    }
}

/// An aligned table, a measure a line.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<26}{value}");
        line("data", self.name.clone())?;
        line("samples", self.count.to_string())?;
        line("shape", self.shape.to_string())?;
        if let Some(levels) = self.levels {
            line("gray levels", levels.to_string())?;
        }
        if !self.classes.is_empty() {
            let counts: Vec<String> = self.classes.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            line("classes", format!("{} ({})", counts.len(), first_ten(&counts)))?;
        }
        for note in &self.notes {
            line("note", note.clone())?;
        }
        let range = if self.levels.is_some() { " on [0, 1]" } else { "" };
        if self.counted < self.count {
            line("mean and sigma_data of", format!("{} samples, evenly spaced", self.counted))?;
        }
        line(&format!("mean{range}"), format!("{:.4}", self.mean))?;
        line(&format!("sigma_data{range}"), format!("{:.4}", self.sigma_data))?;
        if let Some((mean, sigma_data)) = self.network_range() {
            line("mean on [-1, 1]", format!("{mean:.4}"))?;
            line("sigma_data on [-1, 1]", format!("{sigma_data:.4}"))?;
        }
        const SHOWN: usize = 32;
        let label = |name: &str| match self.shape {
            Shape::Series { .. } => name.to_owned(),
            _ => format!("column {name}"),
        };
        for column in self.columns.iter().take(SHOWN) {
            line(&label(&column.name), format!("mean {:.4}, std {:.4}", column.mean, column.std))?;
        }
        if self.columns.len() > SHOWN {
            line("", format!("and {} more columns", self.columns.len() - SHOWN))?;
        }
        let (distance, (i, j)) = (&self.distance, self.distance.pair);
        line("largest distance", format!("{:.4} (samples {i} and {j})", distance.value))?;
        line("", distance.method.clone())?;
        match self.ncsnv2 {
            Some(set) => {
                line("NCSNv2 levels", format!("{} from {:.4} to {SIGMA_L}", set.levels, distance.value))?;
                line("NCSNv2 ratio", format!("{:.5}", set.ratio))?;
                line("NCSNv2 eps", format!("{:.3e} with {STEPS_EACH} steps per level", set.eps))?;
                line("NCSNv2 residual", format!("{:.4}", set.residual))
            }
            None => line("NCSNv2 levels", format!("none: the distance is not above {SIGMA_L}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataSet, Pattern, Points2d, Rows, Source, Split};
    use std::sync::Arc;

    fn brute(data: &Data) -> f64 {
        let pairs = (0..data.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        pairs.map(|(i, j)| apart(data, i, j)).fold(0.0, f64::max)
    }

    #[test]
    fn the_largest_distance_is_that_of_all_pairs() {
        let digits = Source::named("digits").unwrap().load(Split::Test, None).unwrap();
        let swiss = Points2d { shape: Pattern::SwissRoll, count: 2000, seed: 1 }.load(Split::Train, None).unwrap();
        for data in [digits, swiss] {
            let stats = Stats::of(&data).unwrap();
            assert!(stats.distance.exact);
            assert_eq!(stats.distance.value, brute(&data));
            let (i, j) = stats.distance.pair;
            assert_eq!(stats.distance.value, apart(&data, i, j));
            println!("{stats}");
        }
    }

    #[test]
    fn a_small_budget_gives_a_lower_bound_that_says_so() {
        let data = Points2d { shape: Pattern::Checkerboard, count: 20_000, seed: 0 }.load(Split::Train, None).unwrap();
        let [bound, exact] = [0, BUDGET].map(|budget| largest_distance(&data, &data.moments().unwrap().mean, budget));
        assert!(!bound.exact && bound.method.starts_with("lower bound") && exact.exact);
        assert!(bound.value <= exact.value && bound.value > 0.99 * exact.value, "{bound:?} {exact:?}");
    }

    #[test]
    fn distances_of_pixels_are_those_of_the_rows() {
        let data = Source::named("digits").unwrap().load(Split::Test, None).unwrap();
        let rows = data.all_rows().unwrap();
        let row = |i: usize| &rows[i * 64..(i + 1) * 64];
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let slow = row(3).iter().zip(row(8)).map(square).sum::<f64>().sqrt();
        assert!((apart(&data, 3, 8) - slow).abs() < 1e-6);
    }

    #[test]
    fn moments_of_a_small_table() {
        let names = vec!["a".to_string(), "b".to_string()];
        let data = Data::from_rows("t", names, vec![0.0, 10.0, 2.0, 14.0], None, Vec::new()).unwrap();
        let stats = Stats::of(&data).unwrap();
        let column = |name: &str, mean, std| Column { name: name.into(), mean, std };
        assert_eq!(stats.columns, [column("a", 1.0, 1.0), column("b", 12.0, 2.0)]);
        assert_eq!((stats.mean, stats.distance.value), (6.5, 20f64.sqrt()));
        assert!(
            (stats.sigma_data.powi(2) - (6.5f64.powi(2) + 3.5f64.powi(2) + 4.5f64.powi(2) + 7.5f64.powi(2)) / 4.0)
                .abs()
                < 1e-12
        );
        let one = Data::from_rows("one", vec!["a".into()], vec![1.0], None, Vec::new()).unwrap();
        assert_eq!(Stats::of(&one).unwrap().ncsnv2, None);
    }

    /// A stream of what is in memory, so that both can be compared.
    #[derive(Debug)]
    struct Stream(Data);

    impl Rows for Stream {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn levels(&self) -> Option<u32> {
            self.0.levels()
        }

        fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
            self.0.row(i, out)
        }
    }

    #[test]
    fn a_stream_is_measured_by_a_part_that_is_named() {
        let held = Source::named("digits").unwrap().load(Split::Test, None).unwrap();
        let exact = Stats::of(&held).unwrap();
        let rows = Arc::new(Stream(held.clone()));
        let stream = Data::from_stream("stream", held.shape, rows, None, Vec::new()).unwrap();
        // All 1797 have room: then a stream is measured like all else.
        let all = Stats::of(&stream).unwrap();
        assert_eq!((all.counted, all.mean, all.sigma_data), (1797, exact.mean, exact.sigma_data));
        assert_eq!(all.distance, exact.distance);
        // Room for 100 samples of 64 bytes.
        let some = sampled_distance(&stream, 100 * 64).unwrap();
        assert!(!some.exact && some.method.contains("100 of the 1797"), "{some:?}");
        // The largest of a part: no more than that of all, and in high dimension not much less.
        assert!(some.value <= exact.distance.value && some.value > 0.7 * exact.distance.value, "{some:?}");
        assert_eq!(some.value, apart(&held, some.pair.0, some.pair.1), "the pair is one of the whole set");
    }

    #[test]
    fn channels_of_a_series_are_measured() {
        let values = vec![0.0, 10.0, 2.0, 10.0, 4.0, 10.0, 6.0, 10.0];
        let data = Data::from_series("s", [2, 2], values, None, Vec::new()).unwrap();
        let stats = Stats::of(&data).unwrap();
        let column = |name: &str, mean, std| Column { name: name.into(), mean, std };
        // Of 0, 2, 4, 6 the variance is 5.
        assert_eq!(stats.columns, [column("channel 0", 3.0, 5f64.sqrt()), column("channel 1", 10.0, 0.0)]);
        assert_eq!((stats.shape.dims(), stats.distance.value), (vec![2, 2], 32f64.sqrt()));
        assert!(stats.to_string().contains("\nchannel 1"), "{stats}");
    }
}
