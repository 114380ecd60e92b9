//! Mean and variance of every value of a sample.
//!
//! One pass (Welford, Technometrics 4(3), 1962), in f64: for the n-th value, mean += (x − mean)/n and
//! square += (x − mean_before)(x − mean_after). Blocks of samples are joined as by Chan, Golub & LeVeque (1979), in order and of a
//! fixed size, so that the result does not depend on the number of threads.

use crate::Data;
use rayon::prelude::*;
use stein_base::Result;

/// Mean and variance of each of the `dim` values of a sample, in the units of [`Data::row`].
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// `[dim]`.
    pub mean: Vec<f64>,
    /// `[dim]`, divided by the count.
    pub variance: Vec<f64>,
    /// The number of samples that were counted; fewer than all where the data are streamed.
    pub counted: usize,
}

/// Samples of one block.
const BLOCK: usize = 256;
/// Most blocks that are held before they are joined.
const BLOCKS: usize = 16;
/// Values of blocks that are held, as far as that is more than one block.
const HELD: usize = 1 << 22;

impl Moments {
    /// Those of the samples at these places.
    pub(crate) fn over(data: &Data, places: &[usize]) -> Result<Self> {
        let mut sum = Sum::new(data.dim());
        let blocks = (HELD / data.dim()).clamp(1, BLOCKS);
        for group in places.chunks(BLOCK * blocks) {
            let blocks: Vec<Result<Sum>> = group.par_chunks(BLOCK).map(|block| Sum::over(data, block)).collect();
            for block in blocks {
                sum.join(&block?);
            }
        }
        let variance = sum.square.into_iter().map(|square| square / sum.count.max(1.0)).collect();
        Ok(Self { mean: sum.mean, variance, counted: places.len() })
    }
}

struct Sum {
    count: f64,
    mean: Vec<f64>,
    /// Sums of squared distances from the mean.
    square: Vec<f64>,
}

impl Sum {
    fn new(dim: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; dim], square: vec![0.0; dim] }
    }

    fn over(data: &Data, places: &[usize]) -> Result<Self> {
        let mut sum = Self::new(data.dim());
        let mut row = vec![0.0; data.dim()];
        for &i in places {
            data.row(i, &mut row)?;
            sum.count += 1.0;
            for ((mean, square), &x) in sum.mean.iter_mut().zip(&mut sum.square).zip(&row) {
                let before = f64::from(x) - *mean;
                *mean += before / sum.count;
                *square += before * (f64::from(x) - *mean);
            }
        }
        Ok(sum)
    }

    fn join(&mut self, other: &Self) {
        let count = self.count + other.count;
        let (share, weight) = (other.count / count, self.count * other.count / count);
        let own = self.mean.iter_mut().zip(&mut self.square);
        for ((mean, square), (&mean_there, &square_there)) in own.zip(other.mean.iter().zip(&other.square)) {
            let apart = mean_there - *mean;
            *mean += apart * share;
            *square += square_there + apart * apart * weight;
        }
        self.count = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rows, Shape};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[test]
    fn blocks_are_joined_to_the_moments_of_all() {
        // A column far from zero, where a sum of squares would lose all digits, a constant one, and a plain one.
        let n = 3 * BLOCK * BLOCKS + 7;
        let value = |i: usize| [1e6 + (i % 4) as f32 * 0.25, 7.0, (i * i % 1000) as f32];
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let data = Data::from_rows("t", names, (0..n).flat_map(value).collect(), None, Vec::new()).unwrap();
        let moments = data.moments().unwrap();
        assert_eq!(moments.counted, n);
        for c in 0..3 {
            let of = |i: usize| f64::from(value(i)[c]);
            let mean = (0..n).map(of).sum::<f64>() / n as f64;
            let variance = (0..n).map(|i| (of(i) - mean).powi(2)).sum::<f64>() / n as f64;
            // Rounding: f64 carries 1e-16, and 1e6 stands ten million standard deviations' worth of digits above 0.
            assert!((moments.mean[c] - mean).abs() <= 1e-12 * mean.abs(), "{moments:?} {mean}");
            assert!((moments.variance[c] - variance).abs() <= 1e-8 * variance, "{moments:?} {variance}");
        }
        assert_eq!(moments.variance[1], 0.0);
    }

    /// 10000 squares that are counted as they are read.
    #[derive(Debug, Default)]
    struct Squares(AtomicUsize);

    impl Rows for Squares {
        fn count(&self) -> usize {
            10_000
        }

        fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            out.fill((i as f32 / 1e4).powi(2));
            Ok(())
        }
    }

    #[test]
    fn of_a_long_stream_a_part_is_read_once() {
        let squares = Arc::new(Squares::default());
        let shape = Shape::Row { dim: 1 };
        let data = Data::from_stream("squares", shape, squares.clone(), None, Vec::new()).unwrap();
        let moments = data.moments().unwrap();
        assert_eq!((moments.counted, squares.0.load(Ordering::Relaxed)), (4096, 4096));
        // Of u² for u uniform in [0, 1]: 1/3 and 1/5 − 1/9. The 4096 places are 2.44 apart on the way, so that a sum over
        // them is off by about half a step of 1/4096.
        assert!((moments.mean[0] - 1.0 / 3.0).abs() < 3e-4, "{moments:?}");
        assert!((moments.variance[0] - 4.0 / 45.0).abs() < 3e-4, "{moments:?}");
    }
}
